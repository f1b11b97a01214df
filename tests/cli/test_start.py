"""The cost of `cairn get`: the modules that it imports, and the frames that it writes without the codec."""

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import cairnkv
from cairnkv.cli import fast_get
from cairnkv.commands import MISSING, Auth, Failure, Get, Reply, failures
from cairnkv.errors import LoginFailed
from cairnkv.protocol.native import CommandFlag, StatusByte, reply_parts, write_command
from cairnkv.testing import running_server
from tests.cli.conftest import Call, cairn_process

SLOW = ("asyncio", "rich", "prompt_toolkit", "uvloop", "ssl", "json", "tomllib", "concurrent.futures")
"""Modules that a `get` does not need."""

IMPORTED = """
import sys
from cairnkv.cli.main import main
code = main({arguments!r})
print(*sorted(sys.modules), file=sys.stderr)
sys.exit(code)
"""


def imported_by(*arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED.format(arguments=arguments)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode in (0, 1), done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [["get", "k"], ["get", "--raw", "k"], ["get", "nothing"]])
def test_get_imports_nothing_slow(kv: cairnkv.Client[bytes, bytes], arguments: list[str]) -> None:
    kv.set("k", b"v")
    imported = imported_by(*arguments)
    assert not imported & {*SLOW, "dataclasses", "cairnkv.commands", "cairnkv.errors"}
    assert not {name for name in imported if name.startswith(("cairnkv.client", "cairnkv.server"))}


@pytest.mark.parametrize("arguments", [["set", "k", "v"], ["count"], ["scan"], ["incr", "n"]])
def test_simple_commands_import_nothing_of_other_commands(url: str, arguments: list[str]) -> None:
    assert not imported_by(*arguments) & {"asyncio", "rich", "prompt_toolkit", "uvloop", "ssl"}


@pytest.mark.parametrize("key", [b"k", bytes(range(256)), b"x" * 65_535])
def test_built_in_frame_equals_that_of_the_codec(key: bytes) -> None:
    assert fast_get.request(key) == write_command(Get(key))
    assert fast_get.request(key, local=True) == write_command(Get(key), flags=CommandFlag.LOCAL_READ)


@pytest.mark.parametrize("login", [b"app:s3cret", b"a:b:c", b"a:\xff", b"a:" + b"x" * 997])
def test_built_in_login_equals_that_of_the_codec(login: bytes) -> None:
    user, _, secret = login.partition(b":")
    assert fast_get.login_request(login) == write_command(Auth(user, secret))


@pytest.mark.parametrize("login", [b"", b"app", b":s3cret", b"app:", b"a:" + b"x" * 1_000])
def test_unusual_login_is_left_to_the_client(login: bytes) -> None:
    with pytest.raises(fast_get.NeedsClient):
        fast_get.login_request(login)


def test_login_uses_the_fast_path(tmp_path: Path) -> None:
    with running_server(password="s3cret/@") as server:
        path = tmp_path / "credentials"
        path.touch(0o600)
        path.write_text("default:s3cret/@\n")
        with cairnkv.connect(server.url.replace("//", "//default:s3cret%2F%40@")) as kv:
            kv.set("k", "v")
        assert fast_get.get(server.url, b"k", credentials=str(path)) == b"v"
        for credentials in (None, str(tmp_path / "missing")):
            with pytest.raises(fast_get.NeedsClient):
                fast_get.get(server.url, b"k", credentials=credentials)
        path.chmod(0o640)
        with pytest.raises(fast_get.NeedsClient):
            fast_get.get(server.url, b"k", credentials=str(path))


def test_refused_login_is_an_error_of_the_fast_path() -> None:
    with running_server(password="s3cret") as server:
        host = server.url.removeprefix("cairn://")
        assert fast_get.get(f"cairn://default:s3cret@{host}", b"k") is None
        with pytest.raises(LoginFailed, match=r"^WRONGPASS login as 'default' at 127.0.0.1:[0-9]+: ") as caught:
            fast_get.get(f"cairn://default:wrong-one@{host}", b"k")
        assert "wrong-one" not in str(caught.value)


@pytest.mark.parametrize("key", [b"", b"x" * 65_536])
def test_invalid_key_is_left_to_the_client(key: bytes) -> None:
    with pytest.raises(fast_get.NeedsClient):
        fast_get.request(key)


@pytest.mark.parametrize("status_byte", StatusByte)
@pytest.mark.parametrize("value", [b"", b"v", bytes(range(256)) * 4096])
def test_values_are_read_as_the_codec_writes_them(status_byte: StatusByte, value: bytes) -> None:
    assert fast_get.get(answering(b"".join(reply_parts(value, status_byte))), b"k") == value


@pytest.mark.parametrize("status_byte", StatusByte)
def test_missing_key_is_none(status_byte: StatusByte) -> None:
    assert fast_get.get(answering(b"".join(reply_parts(MISSING, status_byte))), b"k") is None


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\x00\x30\x00\x00",
        b"\x00\x30\x00\x00\x00\x05hell",
        b"\x00\x30\xff\xff\xff\xff",
        b"\x00\x07\x00\x00\x00\x00",
        b"\x00\x31\x00\x00\x00\x0dKey not found",
        b"\x08\x30\x00\x00\x00\x01v",
        *(b"".join(reply_parts(Failure(code, ""), StatusByte.ASCII)) for code in failures.CODES.values()),
    ],
)
def test_any_other_reply_is_left_to_the_client(reply: bytes) -> None:
    with pytest.raises(fast_get.NeedsClient):
        fast_get.get(answering(reply), b"k")


@pytest.mark.parametrize(
    "url",
    [
        "cairn://a,b",
        "cairn://",
        "cairn://127.0.0.1:99999999",
        "cairn://127.0.0.1:x",
        "cairn://127.0.0.1/?timeout=1",
        "cairn://user@127.0.0.1",
        "cairn://user:a%20b@127.0.0.1",
        "cairn://user:é@127.0.0.1",
        "cairn://user:a@b@127.0.0.1",
        "cairn+unix:///run/a@b",
        "cairn+unix://relative",
        "cairn+unix:///nowhere/at/all",
        "cairns://127.0.0.1",
        "127.0.0.1:6555",
        "cairn://höst",
        "",
    ],
)
def test_any_other_address_is_left_to_the_client(url: str) -> None:
    with pytest.raises(fast_get.NeedsClient):
        fast_get.get(url, b"k")


def test_unix_socket_uses_the_fast_path(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("u") / "s"
    with running_server(unix=str(path), no_tcp=True) as running:
        with cairnkv.connect(running.url) as kv:
            kv.set("k", "v")
        assert fast_get.get(running.url, b"k") == b"v"


def test_client_repeats_the_request_to_a_slow_server(monkeypatch: pytest.MonkeyPatch, cairn_here: Call) -> None:
    monkeypatch.setattr(fast_get, "TIMEOUT", 0.05)
    value: Reply = b"late"
    said = cairn_here("get", "k", "--url", answering(b"", b"".join(reply_parts(value, StatusByte.ASCII))))
    assert (said.code, said.out) == (0, b"late\n")


def test_fast_path_and_client_print_the_same(kv: cairnkv.Client[bytes, bytes]) -> None:
    kv.set("k", b"\x00\xff\n")
    for arguments in (["get", "k"], ["get", "nothing"], ["get", "--raw", "k"], ["get", "--json", "k"]):
        assert cairn_process(*arguments) == cairn_process(*arguments, "--timeout", "5s")


_open: list[socket.socket] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _open:
        _open.pop().close()


def answering(*replies: bytes) -> str:
    """The URL of something that answers each connection with the next of these bytes and ends it; with none of
    them it says nothing and stays."""
    listener = socket.create_server(("127.0.0.1", 0))
    _open.append(listener)

    def serve() -> None:
        with contextlib.suppress(OSError):  # whoever asked has gone, or the test is over
            for reply in replies:
                connection, _ = listener.accept()
                _open.append(connection)
                connection.recv(65_536 + 7)
                if reply or len(replies) == 1:
                    connection.sendall(reply)
                    connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=serve, daemon=True).start()
    host, port = listener.getsockname()
    return f"cairn://{host}:{port}"
