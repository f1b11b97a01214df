"""Logins over sockets: delays, passwords in their thread, and the audit log of a server."""

import contextlib
import json
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cairnkv.commands import Auth, ClearAll, Ping, Whoami
from cairnkv.errors import OptionError
from cairnkv.limits import LOGIN_FAILURES_MAX
from cairnkv.protocol.resp import OK
from cairnkv.server import connection, password_hashing
from cairnkv.server.password_hashing import hash_password
from cairnkv.session.access import attempts
from cairnkv.session.access.users import Secret
from cairnkv.testing import RunningServer
from tests.server.conftest import Start
from tests.server.test_redis import RedisClient
from tests.support.raw import OK as RAW_OK
from tests.support.raw import PONG, RawClient, all_of, eventually, failed_with

TOKEN = b"ck_" + b"t" * 43
PASSWORD = b"canary correct horse"


@pytest.fixture(scope="module")
def hashed() -> str:
    return hash_password(PASSWORD)


@pytest.fixture
def users(tmp_path: Path, hashed: str) -> str:
    path = tmp_path / "users"
    secrets = {"app": Secret.of_token(TOKEN).text, "anna": hashed}
    path.write_text("".join(f"user {name} on {text} ~* &* +@all\n" for name, text in secrets.items()))
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make delays short."""
    monkeypatch.setattr(attempts, "LOGIN_DELAY", 0.001)


def info(server: RunningServer) -> dict[str, str]:
    return {name: str(value) for name, value in server.call(server.server.store.info)}


@contextlib.contextmanager
def owner(server: RunningServer) -> Iterator[RedisClient]:
    with RedisClient(server.address) as client:
        client.send(b"AUTH", b"app", TOKEN)
        assert client.hear() == OK
        yield client


def test_password_logs_in_over_both_protocols(start_on_both: Start, users: str) -> None:
    server = start_on_both(users=users)
    with RawClient(server.address) as native, RedisClient(server.address) as redis:
        assert failed_with(native.ask(Auth(b"anna", b"wrong")), "WRONGPASS")
        assert native.ask(Auth(b"anna", PASSWORD)) == RAW_OK
        assert native.ask(Whoami()).payload == b"anna"
        redis.send(b"HELLO", b"3", b"AUTH", b"anna", PASSWORD)
        assert redis.hear()[b"proto"] == 3
        assert redis("ACL WHOAMI") == b"anna"
    assert (info(server)["logins"], info(server)["logins_failed"]) == ("2", "1")


def test_server_with_hashed_passwords_needs_the_package(
    start: Start, users: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OptionError("a password (argon2id) needs the package argon2")

    monkeypatch.setattr("cairnkv.server.users.require_argon2", fail)
    with pytest.raises(OptionError, match="needs the package argon2"):
        start(users=users)


def test_failures_are_delayed_counted_and_end_the_connection(start_on_both: Start, users: str, quick: None) -> None:
    """Also in one write; the owner's token is not delayed."""
    server = start_on_both(users=users)
    with RawClient(server.address) as guesser, owner(server) as client:
        guesser.send_commands([Auth(b"app", b"guess %d" % number) for number in range(100)])
        replies = guesser.rest()
        assert len(replies) == LOGIN_FAILURES_MAX
        assert all(failed_with(reply, "WRONGPASS") for reply in replies)
        assert info(server)["logins_failed"] == str(LOGIN_FAILURES_MAX)
        (entry,) = client("ACL LOG")
        assert entry[entry.index(b"count") + 1] == LOGIN_FAILURES_MAX


def test_many_checks_of_passwords_leave_others_alone(
    start_on_both: Start, users: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bounded number waits, in one thread. Others log in with tokens meanwhile."""
    monkeypatch.setattr(password_hashing, "PASSWORDS_WAITING_MAX", 6)
    monkeypatch.setattr(connection, "LOGIN_TIMEOUT", 600.0)
    server = start_on_both(users=users)
    checkers = server.call(lambda: server.server._passwords)
    with all_of(RawClient(server.address) for _ in range(18)) as guessers:
        for number, guesser in enumerate(guessers):
            guesser.send_commands([Auth(b"anna", b"guess %d" % number)])
        with owner(server) as client:
            assert client("PING").text == "PONG"
        assert server.call(lambda: checkers.waiting) <= 6
        assert sum(thread.name == "cairnkv passwords" for thread in threading.enumerate()) <= 2
        replies = [guesser.reply() for guesser in guessers]
    assert {reply.payload.split()[0] for reply in replies} <= {b"WRONGPASS", b"BUSY"}
    assert sum(failed_with(reply, "WRONGPASS") for reply in replies) >= 6


def test_client_that_disconnects_during_a_check_affects_no_other(start_on_both: Start, users: str, quick: None) -> None:
    server = start_on_both(users=users)
    for _ in range(3):
        with RawClient(server.address) as guesser:
            guesser.send_commands([Auth(b"anna", PASSWORD), Ping(b"")])
    with RawClient(server.address) as client:
        assert client.ask(Auth(b"anna", PASSWORD)) == RAW_OK
        assert client.ask(Ping(b"")) == PONG


def events_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_audit_log_has_logins_changes_and_administrative_commands(
    start: Start, users: str, tmp_path: Path, quick: None
) -> None:
    path = tmp_path / "audit.jsonl"
    server = start(users=users, audit_log=str(path))
    with owner(server) as redis, RawClient(server.address) as native:
        native.ask(Auth(b"anna", b"canary guess"))
        native.ask(Auth(b"anna", PASSWORD))
        native.ask(ClearAll())
        assert redis("SET canary-key canary-value") == OK
        assert redis("FLUSHALL") == OK
        assert redis("CONFIG SET maxclients 100") == OK
        assert redis("ACL SETUSER guest on >canary-secret ~guest:* +@read") == OK
        with RedisClient(server.address) as guest:
            assert guest("AUTH guest canary-secret") == OK
            for _ in range(3):
                assert guest("GET canary-key").code == "NOPERM"
            assert guest("SET guest:1 canary-value").code == "NOPERM"
    eventually(lambda: {"users_changed", "login"} <= {event["event"] for event in events_in(path)})
    server.call(server.server.request_stop)
    eventually(lambda: events_in(path)[-1]["event"] == "stopped")
    told = events_in(path)
    assert [event["event"] for event in told] == [
        *("started", "login", "login_failed", "login", "command", "command", "command", "config_changed"),
        *("command", "users_changed", "login", "denied", "denied", "stopped"),
    ]
    assert [event["command"] for event in told if event["event"] == "command"] == [
        *("CLEAR_ALL", "flushall", "config|set", "acl|setuser")
    ]
    named = [event["user"] for event in told if "user" in event]
    assert named == ["app", "anna", "anna", "anna", *["app"] * 3, *["guest"] * 3]
    assert [event["protocol"] for event in told if "login" in event["event"]] == ["redis", "native", "native", "redis"]
    assert [(event["reason"], event.get("command")) for event in told if event["event"] == "denied"] == [
        *(("key", None), ("command", "set"))
    ]
    assert told[7]["options"] == ["max_connections"]
    assert "canary" not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_server_without_a_writable_audit_log_does_not_start(start: Start, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="audit-log"):
        start(audit_log=str(tmp_path / "absent" / "audit.jsonl"))


def test_password_is_hidden(start: Start) -> None:
    """The hidden text cannot become the password by mistake."""
    server = start(password="canary")
    with RedisClient(server.address) as client:
        assert client("AUTH canary") == OK
        assert client("CONFIG GET requirepass") == [b"requirepass", b"(hidden)"]
        assert b"canary" not in b"".join(client("CONFIG GET *"))
        assert client("CONFIG SET requirepass (hidden)").code == "ERR"
        assert client("CONFIG SET requirepass other") == OK
    with RedisClient(server.address) as client:
        assert client("AUTH canary").code == "WRONGPASS"
        assert client("AUTH other") == OK
