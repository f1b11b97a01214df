"""Users from `cairn user` to clients of both protocols: the steps of docs/users.md with a running server."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cairnkv
from tests.cli.conftest import cairn_process
from tests.support.raw import ServerProcess, eventually
from tests.support.raw_resp import Peer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A users file that does not exist yet."""
    return tmp_path / "users.acl"


@pytest.fixture
def user(file: Path) -> Callable[..., str]:
    """Call `cairn user` with the file; return its output."""

    def call(*arguments: str) -> str:
        said = cairn_process("user", *arguments, CAIRNKV__USERS=str(file))
        assert (said.code, said.err) == (0, "")
        return said.out.decode().strip()

    return call


@pytest.fixture
def shop(user: Callable[..., str]) -> str:
    """The token of an application, beside an administrator and open keys."""
    user("add", "boss", "allkeys", "allchannels", "allcommands")
    user("add", "default", "nopass", "~public:*", "+@read")
    return user("add", "shop", "~shop:*", "+@read", "+@write")


@pytest.fixture
def server(shop: str, file: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess("--port", "0", "--users", str(file), log=tmp_path / "log") as running:
        yield running


def connected(server: ServerProcess, login: str = "") -> cairnkv.Client[str, str]:
    host, port = server.address
    return cairnkv.connect(f"cairn://{login}{host}:{port}")


def test_token_gives_the_rights_of_its_user(server: ServerProcess, shop: str) -> None:
    with connected(server, f"shop:{shop}@") as kv:
        kv.set("shop:1", "apple")
        assert kv.get("shop:1") == "apple"
        with pytest.raises(cairnkv.AccessDenied, match="No permissions to access a key"):
            kv.set("other", "x")
        with pytest.raises(cairnkv.AccessDenied, match="No permissions"):
            kv.clear_all()
    with Peer(server.address) as client:
        assert client.ask(b"AUTH", b"shop", shop.encode()) == b"+OK\r\n"
        assert client.ask(b"GET", b"shop:1") == b"$5\r\napple\r\n"
        assert client.ask(b"SET", b"other", b"x") == b"-NOPERM No permissions to access a key\r\n"


def test_client_without_login_has_the_rights_of_default(server: ServerProcess) -> None:
    with connected(server) as kv:
        assert kv.get("public:1") is None
        for attempt in (lambda: kv.get("shop:1"), lambda: kv.set("public:1", "x")):
            with pytest.raises(cairnkv.AccessDenied):
                attempt()


def reload(server: ServerProcess) -> None:
    """Send SIGHUP, and wait until the server has read the file."""
    before = server.log().count(" users, digest ")
    server.signal(signal.SIGHUP)
    eventually(lambda: server.log().count(" users, digest ") > before)


def test_rotation_without_interruption(server: ServerProcess, user: Callable[..., str], shop: str) -> None:
    def logs_in(token: str) -> bool:
        with Peer(server.address) as client:
            return client.ask(b"AUTH", b"shop", token.encode()) == b"+OK\r\n"

    new = user("rotate", "shop")
    reload(server)
    assert logs_in(new)
    assert logs_in(shop)
    user("rotate", "shop", "--finish")
    with connected(server, f"shop:{new}@") as kv:
        kv.set("shop:1", "apple")
        reload(server)
        assert kv.get("shop:1") == "apple"
    assert not logs_in(shop)
    assert logs_in(new)


def test_disabled_user_loses_its_open_connections(server: ServerProcess, user: Callable[..., str], shop: str) -> None:
    with connected(server, f"shop:{shop}@") as kv, Peer(server.address) as client:
        kv.set("shop:1", "apple")
        assert client.ask(b"AUTH", b"shop", shop.encode()) == b"+OK\r\n"
        user("disable", "shop")
        reload(server)
        assert client.ask(b"GET", b"shop:1") == b"-NOAUTH Authentication required.\r\n"
        with pytest.raises(cairnkv.LoginFailed):
            kv.get("shop:1")
        user("set", "shop", "on")
        reload(server)
        assert client.ask(b"AUTH", b"shop", shop.encode()) == b"+OK\r\n"
        assert kv.get("shop:1") == "apple"


def test_reduced_rights_reach_open_connections(server: ServerProcess, user: Callable[..., str], shop: str) -> None:
    with connected(server, f"shop:{shop}@") as kv:
        kv.set("shop:1", "apple")
        user("set", "shop", "-@write")
        reload(server)
        with pytest.raises(cairnkv.AccessDenied, match="has no permissions to run the 'set' command"):
            kv.set("shop:1", "pear")
        assert kv.get("shop:1") == "apple"
