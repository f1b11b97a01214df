"""AUTH over both protocols: replies in order, one after another, and the end after too many failures."""

import logging
from collections.abc import Callable

import pytest

from cairnkv.commands import Auth, Get, Ping, Set, Whoami, failures
from cairnkv.limits import LOGIN_FAILURES_MAX, UNAUTHENTICATED_FRAME_MAX
from cairnkv.protocol.native import ResponseDecoder, Width, write_command
from cairnkv.session import Session, State
from cairnkv.session.access.users import User, Users, default_user
from cairnkv.session.context import ServerContext
from cairnkv.session.resp.conversation import RespConversation
from cairnkv.store import LocalStore
from tests.support.clock import HandClock
from tests.support.resp import ReplyDecoder, request

Timers = list[tuple[float, Callable[[], None]]]


@pytest.fixture
def timers() -> Timers:
    return []


@pytest.fixture
def context(timers: Timers) -> ServerContext[RespConversation]:
    app = User(b"app").changed(("on", ">s3cret", "+@all", "~*", "&*"))

    def after(seconds: float, callback: Callable[[], None]) -> Callable[[], None]:
        timer = seconds, callback
        timers.append(timer)
        return lambda: timers.remove(timer) if timer in timers else None

    store = LocalStore(clock=HandClock())
    return ServerContext(store, users=Users((default_user(b"sesame"), app)), after=after)


class Client:
    """One end of a session."""

    def __init__(self, context: ServerContext[RespConversation]) -> None:
        self.woken = 0
        self.session = Session(context.store, wake=self._wake, context=context)
        self._native, self._redis = ResponseDecoder(), ReplyDecoder()

    def _wake(self) -> None:
        self.woken += 1

    def send(self, data: bytes) -> None:
        self.session.receive(data)

    def output(self) -> bytes:
        self.session.advance()
        sent = b"".join(self.session.output())
        while self.session.runnable:
            self.session.advance()
            sent += b"".join(self.session.output())
        return sent

    def payloads(self) -> list[bytes]:
        """Return the payloads of all native replies that may leave."""
        self._native.feed(self.output())
        found = []
        while (response := self._native.next()) is not None:
            found.append(response.payload)
        return found

    def texts(self) -> list[str]:
        """Return all replies of the Redis protocol that may leave, as texts."""
        return [str(getattr(reply, "text", reply)) for reply in self._redis.feed(self.output())]


@pytest.fixture
def client(context: ServerContext[RespConversation]) -> Client:
    return Client(context)


WRONG = b"WRONGPASS invalid username-password pair or user is disabled."


def test_commands_behind_auth_in_one_write_are_executed(client: Client) -> None:
    frames = [Auth(b"app", b"s3cret"), Ping(b""), Whoami(), Set(b"k", bytes(2_000)), Get(b"k")]
    client.send(b"".join(map(write_command, frames)))
    assert client.payloads() == [b"OK", b"PONG", b"app", b"OK", bytes(2_000)]


def test_long_frame_behind_a_failed_auth_is_refused(client: Client) -> None:
    frames = [Auth(b"app", b"wrong"), Ping(b""), Set(b"k", bytes(UNAUTHENTICATED_FRAME_MAX))]
    client.send(b"".join(map(write_command, frames)))
    wrong, refused, too_big = client.payloads()
    assert wrong == WRONG
    assert refused.startswith(b"NOAUTH ")
    assert too_big.startswith(b"TOOBIG ")
    assert client.session.state is State.DONE


@pytest.mark.parametrize("width", [2, 4])
def test_auth_may_be_the_first_frame_of_either_width(client: Client, width: Width) -> None:
    for byte in write_command(Auth(b"app", b"s3cret"), width=width) + write_command(Whoami(), width=width):
        client.send(bytes((byte,)))
        client.session.advance()
    assert client.payloads() == [b"OK", b"app"]


def test_delayed_failure_holds_up_its_client(client: Client, timers: Timers) -> None:
    for _ in range(3):
        client.send(write_command(Auth(b"app", b"wrong")))
        assert client.payloads() == [WRONG]
    frames = [Auth(b"app", b"wrong"), Ping(b""), Auth(b"app", b"s3cret")]
    client.send(b"".join(map(write_command, frames)))
    assert client.payloads() == []
    assert client.session.blocked
    assert not client.session.waits_for_messages
    ((seconds, callback),) = timers
    assert seconds == pytest.approx(0.1)
    timers.clear()
    woken = client.woken
    callback()
    assert client.woken > woken
    wrong, refused = client.payloads()
    assert (wrong, refused.split()[0]) == (WRONG, b"NOAUTH")
    timers.pop()[1]()
    assert client.payloads() == [b"OK"]


def test_delayed_login_of_the_redis_protocol_replies_in_order(client: Client, timers: Timers) -> None:
    for _ in range(3):
        client.send(request(b"AUTH", b"wrong"))
        assert client.texts() == [WRONG.decode()]
    hello = request(b"HELLO", b"3", b"AUTH", b"default", b"sesame", b"SETNAME", b"me")
    client.send(hello + request(b"CLIENT", b"GETNAME") + request(b"ACL", b"WHOAMI"))
    assert client.texts() == []
    assert len(timers) == 1
    timers.pop()[1]()
    greeting, name, user = client.texts()
    assert "b'proto': 3" in greeting
    assert (name, user) == ("b'me'", "b'default'")


@pytest.mark.parametrize("protocol", ["native", "redis"])
def test_session_ends_after_ten_failures(client: Client, timers: Timers, protocol: str) -> None:
    """Behind the reply to the last one; the commands behind it are not executed."""
    one = write_command(Auth(b"app", b"wrong")) if protocol == "native" else request(b"AUTH", b"app", b"wrong")
    client.send(one * 20)
    replies = 0
    for _ in range(LOGIN_FAILURES_MAX):
        replies += client.output().count(b"WRONGPASS")
        while timers:
            timers.pop()[1]()
    replies += client.output().count(b"WRONGPASS")
    assert replies == LOGIN_FAILURES_MAX
    assert client.session.state is State.DONE
    assert not timers


def test_success_between_failures_does_not_reset_their_number(client: Client, timers: Timers) -> None:
    for number in range(LOGIN_FAILURES_MAX):
        assert client.session.state is State.OPEN, number
        client.send(write_command(Auth(b"app", b"s3cret")) + write_command(Auth(b"app", b"wrong")))
        client.output()
    assert client.session.state is State.DONE


def test_auth_is_refused_within_a_transaction(client: Client) -> None:
    client.send(request(b"AUTH", b"sesame") + request(b"MULTI") + request(b"AUTH", b"sesame") + request(b"EXEC"))
    assert client.texts() == [
        "OK",
        "OK",
        "ERR Command not allowed inside a transaction",
        "EXECABORT Transaction discarded because of previous errors.",
    ]


def test_client_that_leaves_during_a_delay_is_gone(client: Client, timers: Timers) -> None:
    client.send(write_command(Auth(b"app", b"wrong")) * 4)
    client.output()
    assert len(timers) == 1
    client.session.disconnected()
    assert not timers, "the client keeps no memory"
    assert client.output() == b""


@pytest.mark.parametrize("command", [Auth(b"app", b"s3cret"), Whoami()])
def test_store_without_a_session_does_not_have_logins(command: Auth | Whoami) -> None:
    reply = LocalStore().execute(command)
    assert getattr(reply, "code", None) is failures.NOCOMMAND


def test_secret_is_not_in_the_repr_of_auth() -> None:
    assert "s3cret" not in repr(Auth(b"app", b"s3cret"))


def test_log_has_no_control_characters_of_clients(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    client.send(b"*1\r\n\x1b\r\n")
    assert client.output().startswith(b"-ERR Protocol error: expected '$', got '\x1b'")
    assert [record.getMessage() for record in caplog.records] == [
        "?:0: refused: ERR Protocol error: expected '$', got '\\x1b'"
    ]
