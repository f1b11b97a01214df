"""The clients of `examples/`, written from docs/protocol.md, against a real server."""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cairnkv
from cairnkv.testing import RunningServer, running_server

EXAMPLES = Path(__file__).parents[2] / "examples"

PROGRAMS = {
    "node": (["node", str(EXAMPLES / "client.mjs")], "apt-get install nodejs"),
    "bash": (["bash", str(EXAMPLES / "client.sh")], "apt-get install bash coreutils"),
}

Ran = subprocess.CompletedProcess[bytes]
Run = Callable[..., Ran]


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with running_server() as running:
        yield running


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> list[str]:
    command, install = PROGRAMS[request.param]
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]}: {install}")
    return command


def run_at(url: str, program: list[str], *words: str) -> Ran:
    return subprocess.run(
        [*program, *words],
        env={**os.environ, "CAIRNKV_URL": url},
        capture_output=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def run(server: RunningServer, program: list[str]) -> Run:
    return lambda *words: run_at(server.url, program, *words)


def printed(ran: Ran) -> str:
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == b""
    return ran.stdout.decode()


def test_example_client_stores_and_reads_values(run: Run) -> None:
    assert printed(run("ping")) == "PONG\n"
    assert printed(run("set", "greeting", "hello")) == "OK\n"
    assert printed(run("get", "greeting")) == "hello\n"
    assert printed(run("incr", "hits")) == "1\n"
    assert printed(run("incr", "hits", "-6")) == "-5\n"
    assert printed(run("clear", "greeting")) == "OK\n"
    assert run("get", "greeting").returncode == 1


def test_example_client_logs_in(program: list[str]) -> None:
    with running_server(password="open-sesame") as server:
        host = server.url.removeprefix("cairn://")
        assert printed(run_at(f"cairn://default:open-sesame@{host}", program, "ping")) == "PONG\n"
        for login, code in (("", b"NOAUTH"), ("default:barley@", b"WRONGPASS")):
            ran = run_at(f"cairn://{login}{host}", program, "ping")
            assert ran.returncode == 2
            assert code in ran.stderr
            assert b"barley" not in ran.stderr


@pytest.mark.parametrize("value", ["", "é 日本語 😀", "a\nb\n", "-n", "%s \\x41", "x" * 100_000])
def test_example_client_takes_any_text(run: Run, server: RunningServer, value: str) -> None:
    assert printed(run("set", "k", value)) == "OK\n"
    with cairnkv.connect(server.url) as kv:
        assert kv["k"] == value
    assert printed(run("get", "k")) == f"{value}\n"


def test_example_client_prints_any_bytes(run: Run, server: RunningServer) -> None:
    value = bytes(range(256)) * 1_000
    with cairnkv.connect(server.url, codec="bytes") as kv:
        kv["k"] = value
    assert run("get", "k").stdout == value + b"\n"


def test_example_client_scans_all_keys_with_a_prefix(run: Run, server: RunningServer) -> None:
    with cairnkv.connect(server.url) as kv:
        kv.update({f"user:{n}": "x" for n in range(1_200)})
        kv["other"] = "x"
    assert sorted(printed(run("keys", "user:")).split()) == sorted(f"user:{n}" for n in range(1_200))
    assert printed(run("keys", "nobody")) == ""


def test_example_client_calls_any_command(run: Run) -> None:
    assert printed(run("call", "16", "lock", "me", "TTL", "30000", "IFABSENT")) == "1\n"
    assert printed(run("call", "16", "lock", "you", "IFABSENT")) == "0\n"
    assert run("call", "25", "nobody").returncode == 1


def test_example_client_prints_the_error_of_the_server(run: Run) -> None:
    printed(run("set", "text", "x"))
    refused = run("incr", "text")
    assert refused.returncode == 2
    assert b"NOTINT" in refused.stderr
    unknown = run("call", "999", "x")
    assert unknown.returncode == 2
    assert b"NOCOMMAND" in unknown.stderr


def test_example_client_refuses_an_empty_key(run: Run) -> None:
    refused = run("get", "")
    assert refused.returncode == 2
    assert b"a key has 1 to 65,535 bytes" in refused.stderr


def test_example_client_reports_an_unknown_outcome_if_the_server_ends(program: list[str]) -> None:
    def serve() -> None:
        with listener.accept()[0] as connected, connected.makefile("rb") as received:
            # Read to the end of the frame: client.sh sends it in pieces.
            if received.read(3)[2] == 3:  # a PING: client.mjs opens with one
                received.read(4)
                connected.sendall(bytes.fromhex("00 30 00 00 00 04") + b"PONG")
                received.read(3)
            key, value = received.read(4 + 1), received.read(4 + 1)
            assert key.endswith(b"k")
            assert value.endswith(b"v")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        ran = run_at(f"cairn://127.0.0.1:{listener.getsockname()[1]}", program, "set", "k", "v")
    assert ran.returncode == 2
    assert b"the connection" in ran.stderr


def test_example_client_reports_a_failed_connection(program: list[str], unused_tcp_port: int) -> None:
    ran = run_at(f"cairn://127.0.0.1:{unused_tcp_port}", program, "ping")
    assert ran.returncode == 2
    assert ran.stderr


def test_node_client_pipelines_and_tells_errors_apart(server: RunningServer) -> None:
    if shutil.which("node") is None:
        pytest.skip("there is no node: apt-get install nodejs")
    script = """
    const { connect, CairnError } = await import(process.argv[1]);
    const kv = await connect("127.0.0.1", Number(process.argv[2]));
    await Promise.all(Array.from({ length: 500 }, (_, n) => kv.set(`k${n}`, `v${n}`)));
    const got = await Promise.all(Array.from({ length: 500 }, (_, n) => kv.get(`k${n}`)));
    if (!got.every((value, n) => String(value) === `v${n}`)) throw new Error("a reply of another command");
    const error = await kv.incr("k7").catch((error) => error);
    if (!(error instanceof CairnError) || error.code !== "NOTINT" || error.executed !== false) throw error;
    if ((await kv.incr("big", 2n ** 62n)) !== 2n ** 62n) throw new Error("a number lost its last digits");
    kv.close();
    """
    ran = subprocess.run(
        [
            "node",
            "--input-type=module",
            "--eval",
            script,
            (EXAMPLES / "client.mjs").as_uri(),
            server.url.rpartition(":")[2],
        ],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
