"""Clients as users of a server: rights, rotated secrets, and users that are disabled while they are connected."""

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cairnkv
from cairnkv.limits import CLIENT_TIMEOUT, CONNECT_TIMEOUT, LOGIN_DELAY_MAX
from cairnkv.testing import RunningServer, running_server


class Users:
    """A server with a file of users."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.server: RunningServer
        path.touch(0o600)

    def write(self, **users: str) -> None:
        """Replace all users but the administrator. users: words of rules by name; `>secret` is a secret."""
        lines = []
        for name, rules in {"boss": "on >all ~* &* +@all", **users}.items():
            words = (_hashed(word) if word.startswith(">") else word for word in rules.split())
            lines.append(f"user {name} {' '.join(words)}\n")
        self._path.write_text("".join(lines))

    def change(self, **users: str) -> None:
        """Replace all users but the administrator in the server."""
        self.write(**users)
        self.server.call(self.server.server.reload)

    def url(self, login: str) -> str:
        return self.server.url.replace("cairn://", f"cairn://{login}@")


def _hashed(word: str) -> str:
    return "#" + hashlib.sha256(word[1:].encode()).hexdigest()


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Users]:
    made = Users(tmp_path / "users.acl")
    made.write(app="on >one ~app:* +@read")
    with running_server(users=str(tmp_path / "users.acl")) as made.server:
        yield made


def test_user_reads_its_keys_and_nothing_else(users: Users) -> None:
    with cairnkv.connect(users.url("boss:all")) as boss:
        boss.set("app:k", "v")
        boss.set("k", "w")
    with cairnkv.connect(users.url("app:one"), attempts=1) as kv:
        assert kv.get("app:k") == "v"
        for denied in (lambda: kv.get("k"), lambda: kv.set("app:k", "x"), lambda: kv.clear_all(), kv.count):
            with pytest.raises(cairnkv.AccessDenied, match="NOPERM") as caught:
                denied()
            assert not isinstance(caught.value, cairnkv.LoginFailed)
        pipeline = kv.pipeline()
        pending = [pipeline.get("app:k"), pipeline.get("k"), pipeline.get("app:k")]
        with pytest.raises(cairnkv.AccessDenied):
            pipeline.execute()
        assert [pending[0].result(), pending[2].result()] == ["v", "v"]
        assert kv.get("app:k") == "v", "the connection is still good"


def test_asyncio_client_reads_its_keys_and_nothing_else(users: Users) -> None:
    async def ask() -> None:
        async with cairnkv.aio.connect(users.url("app:one"), attempts=1) as kv:
            assert await kv.get("app:k") is None
            for key in ("k", "app"):
                with pytest.raises(cairnkv.AccessDenied, match="NOPERM"):
                    await kv.get(key)
            assert await kv.get("app:k") is None

    asyncio.run(ask())


def test_rotated_secret_takes_over(users: Users) -> None:
    with cairnkv.connect(users.url("app:one")) as kv:
        assert kv.get("app:k") is None
        users.change(app="on >one >two ~app:* +@read")
        assert kv.get("app:k") is None
        for secret in ("one", "two"):
            with cairnkv.connect(users.url(f"app:{secret}")) as other:
                assert other.get("app:k") is None
        users.change(app="on >two ~app:* +@read")
    with cairnkv.connect(users.url("app:one")) as kv, pytest.raises(cairnkv.LoginFailed, match="WRONGPASS"):
        kv.get("app:k")


def test_disabled_user_is_refused_and_enabled_again(users: Users) -> None:
    with cairnkv.connect(users.url("app:one"), timeout=30) as kv:
        assert kv.get("app:k") is None
        users.change(app="off >one ~app:* +@read")
        for _ in range(2):
            with pytest.raises(cairnkv.AccessDenied):
                kv.get("app:k")
        users.change(app="on >one ~app:* +@read")
        assert kv.get("app:k") is None


def test_disabled_user_of_an_asyncio_client_is_refused_and_enabled_again(users: Users) -> None:
    async def ask() -> None:
        async with cairnkv.aio.connect(users.url("app:one"), timeout=30) as kv:
            assert await kv.get("app:k") is None
            await asyncio.to_thread(users.change, app="off >one ~app:* +@read")
            for _ in range(2):
                with pytest.raises(cairnkv.AccessDenied):
                    await kv.get("app:k")
            await asyncio.to_thread(users.change, app="on >one ~app:* +@read")
            assert await kv.get("app:k") is None

    asyncio.run(ask())


def test_longest_delay_of_a_login_ends_before_the_timeouts_of_clients() -> None:
    assert min(CLIENT_TIMEOUT, CONNECT_TIMEOUT) >= LOGIN_DELAY_MAX + 1


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run() -> Run:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "cairnkv", *words], capture_output=True, text=True, timeout=60)

    return run


def test_command_line_is_a_user(users: Users, run: Run) -> None:
    assert run("whoami", "--url", users.url("app:one")).stdout == "app\n"
    assert run("get", "app:k", "--url", users.url("app:one")).returncode == 1
    for words in (["get", "k"], ["set", "app:k", "v"]):
        denied = run(*words, "--url", users.url("app:one"))
        assert (denied.returncode, "NOPERM" in denied.stderr) == (2, True)
    assert "'auth'" in run("auth", "app", "one", "--url", users.url("app:one")).stderr, "there is no such command"
