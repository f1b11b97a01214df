"""The sync client and stores on disk in programs in which gevent or eventlet has replaced sockets and threads."""

import importlib.util
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from cairnkv.testing import running_server
from tests.support.scripted import scripted

from .test_sync import answer_everything

PATIENCE = 60.0

BEGIN = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all(); spawn, sleep = gevent.spawn, gevent.sleep\n",
    "eventlet": "import eventlet; eventlet.monkey_patch(); spawn, sleep = eventlet.spawn, eventlet.sleep\n",
}

WAITS = """
import socket, sys, cairnkv
slow = socket.socket(); slow.bind(("127.0.0.1", 0)); slow.listen(5)
hole = socket.socket(); hole.bind(("127.0.0.1", 0)); hole.listen(5)
def serve():
    connected, _ = slow.accept()
    while connected.recv(100):
        sleep(0.5)
        connected.sendall(b"\\x00\\x30\\0\\0\\0\\1x")
ticks = []
def tick():
    while True:
        ticks.append(1)
        sleep(0.01)
def ask(kv, into):
    try:
        into.append(kv.get("k"))
    except cairnkv.TimedOut:
        into.append("timed out")
spawn(serve); spawn(tick)
kv = cairnkv.connect("cairn://127.0.0.1:%d/?timeout=20" % slow.getsockname()[1])
said = []
for _ in range(2):  # they share the connection
    spawn(ask, kv, said)
while len(said) < 2:
    sleep(0.01)
assert said == ["x", "x"] and len(ticks) > 5, (said, len(ticks))
late = []
ask(cairnkv.connect("cairn://127.0.0.1:%d/?timeout=0.5" % hole.getsockname()[1]), late)
assert late == ["timed out"], late
print("well")
"""

TURNS = """
import sys, cairnkv
kv = cairnkv.connect(sys.argv[1])
kv.set("k", "v")
done, calls = [], []
def greedy():
    while len(done) < 3:
        calls.append(kv.get("k"))
def modest():
    for _ in range(50):
        kv.get("k")
    done.append(1)
spawn(greedy)
for _ in range(3):
    spawn(modest)
while len(done) < 3:
    sleep(0.01)
assert len(calls) < 50 * 50, len(calls)
print("well")
"""

TLS = """
import sys, cairnkv
kv = cairnkv.connect(sys.argv[1], timeout=30)
done = []
def ask(name):
    for n in range(20):
        assert kv.get(f"{name}{n}") == f"{name}{n}"
    done.append(name)
for name in "abc":
    spawn(ask, name)
while len(done) < 3:
    sleep(0.1)  # long enough for a look at the quiet connection
assert kv.get("k") == "k"
print("well")
"""

ON_DISK = """
import sys, cairnkv
try:
    with cairnkv.open(sys.argv[1]) as kv:
        for n in range(20):
            kv[f"k{n}"] = "v"
        print(kv.count())
except cairnkv.OptionError as error:
    print(error)
"""


def run(library: str, program: str, *arguments: str) -> str:
    if importlib.util.find_spec(library) is None:  # an import of eventlet makes each later fork warn
        pytest.skip(f"{library} is not installed; pip install {library}")
    command = [sys.executable, "-W", "ignore", "-c", BEGIN[library] + program, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.parametrize("library", BEGIN)
@pytest.mark.filterwarnings("ignore")
def test_other_green_threads_run_while_a_call_waits(library: str) -> None:
    assert run(library, WAITS).endswith("well")


@pytest.mark.parametrize("library", BEGIN)
@pytest.mark.filterwarnings("ignore")
def test_green_threads_take_turns_and_none_waits_for_long(library: str) -> None:
    with running_server() as server:
        assert run(library, TURNS, server.url) == "well"


@pytest.mark.parametrize("library", BEGIN)
@pytest.mark.filterwarnings("ignore")
def test_green_threads_share_a_connection_with_tls(library: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with scripted(answer_everything, tls=context) as server:
        assert run(library, TLS, f"cairns://localhost:{server.port}/?ca={tmp_path / 'ca.pem'}") == "well"
        assert len(server.conversations) == 1


@pytest.mark.filterwarnings("ignore")
def test_store_on_disk_takes_writes_under_gevent(tmp_path: Path) -> None:
    assert run("gevent", ON_DISK, str(tmp_path / "data")) == "20"


@pytest.mark.filterwarnings("ignore")
def test_store_on_disk_refuses_eventlet_with_a_clear_error(tmp_path: Path) -> None:
    assert "eventlet" in run("eventlet", ON_DISK, str(tmp_path / "data"))
    assert not (tmp_path / "data").exists()
