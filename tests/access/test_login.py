"""Logins: secrets, delays, the users that clients follow, and events without secrets."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from cairnkv.commands import OK, Failure, Reply, failures
from cairnkv.limits import LOGIN_FAILURES_MAX, LOGIN_WAITING_MAX, MIB, UNAUTHENTICATED_FRAME_MAX, USER_NAME_MAX
from cairnkv.session.access.login import EVENTS_FREE, LINE_EVERY, TOO_MANY, WRONG, Login, Logins, is_token
from cairnkv.session.access.rights import Rights
from cairnkv.session.access.users import Secret, User, Users, default_user
from cairnkv.session.context import Peer
from cairnkv.store import PendingReply
from tests.support.clock import HandClock

TOKEN = b"ck_" + b"t" * 43
OTHER_TOKEN = b"ck_" + b"o" * 43
ARGON2 = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaGhhc2g"


class Timers:
    """The functions that wait for their time."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def __call__(self, seconds: float, callback: Callable[[], None]) -> Callable[[], None]:
        timer = seconds, callback
        self.waiting.append(timer)
        return lambda: self.waiting.remove(timer) if timer in self.waiting else None

    def come(self) -> list[float]:
        """Call all functions. Returns their delays."""
        waiting, self.waiting = self.waiting, []
        for _, callback in waiting:
            callback()
        return [seconds for seconds, _ in waiting]


class SlowPasswords:
    """Checks that the test answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[Sequence[str], bytes, Callable[[bool], None]]] = []
        self.is_full = False
        self.forgotten = 0

    def verify(self, hashes: Sequence[str], password: bytes, done: Callable[[bool], None]) -> bool:
        if not self.is_full:
            self.asked.append((hashes, password, done))
        return not self.is_full

    def answer(self, right: bool) -> None:
        """Answer the oldest check."""
        self.asked.pop(0)[2](right)

    def forget(self) -> None:
        self.forgotten += 1


def user(name: bytes, *rules: str) -> User:
    return User(name).changed(("on", "+@all", "~*", "&*", *rules))


class World:
    """A server's logins, and its clients."""

    def __init__(self, *users: User) -> None:
        self.clock = HandClock()
        self.timers = Timers()
        self.passwords = SlowPasswords()
        self.events: list[tuple[str, Mapping[str, object]]] = []
        self.users = Users(users)
        self.logins = Logins(
            self.users,
            self.clock,
            passwords=self.passwords,
            after=self.timers,
            audit=lambda event, fields: self.events.append((event, fields)),
        )

    def client(self, network: str = "1.2.3.4") -> Login:
        peer = Peer()
        peer.network, peer.address = network, f"{network}:5000"
        return Login(self.logins, peer)

    def names(self) -> list[str]:
        """The names of the events so far."""
        return [name for name, _ in self.events]


@pytest.fixture
def world() -> World:
    app = user(b"app", f"#{Secret.of_token(TOKEN).text[1:]}")
    return World(user(b"default", ">sesame"), app, user(b"anna", ARGON2), user(b"open", "nopass"))


def reply_of(outcome: Reply | PendingReply) -> Reply | None:
    """Return the reply, or None while it is pending."""
    return outcome.reply if isinstance(outcome, PendingReply) else outcome


def fail(login: Login, name: bytes, times: int = 1) -> None:
    """Fail to log in, whatever the delay is."""
    for _ in range(times):
        login.log_in(name, b"wrong")
        login.logins.after.come()  # type: ignore[attr-defined]


# -- secrets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "secret"),
    [(b"default", b"sesame"), (b"app", TOKEN), (b"open", b"anything"), (b"open", b"")],
)
def test_right_secret_logs_in_at_once(world: World, name: bytes, secret: bytes) -> None:
    client = world.client()
    assert not client.authenticated
    assert client.log_in(name, secret) is OK
    assert client.authenticated
    assert client.user == world.users.get(name)
    assert client.rights.unlimited
    assert world.names() == ["login"]
    assert world.logins.succeeded == 1


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        (b"default" * 1_000, b"sesame"),
        (b"default", b"Sesame"),
        (b"app", OTHER_TOKEN),
        (b"nobody", b"sesame"),
        (b"", b""),
        (b"\xff", b"\xff"),
        (b"app", b""),
    ],
)
def test_wrong_secret_does_not_log_in(world: World, name: bytes, secret: bytes) -> None:
    client = world.client()
    assert client.log_in(name, secret) == WRONG
    assert not client.authenticated
    assert client.rights == Rights()
    assert world.names() == ["login_failed"]
    assert world.logins.log.counts["auth"] == 1


def test_disabled_user_cannot_log_in(world: World) -> None:
    world.users.set(user(b"app", f"#{Secret.of_token(TOKEN).text[1:]}", "off"))
    assert world.client().log_in(b"app", TOKEN) == WRONG


def test_user_for_certificates_cannot_log_in_with_a_secret(world: World) -> None:
    """Redis 14638: there, a user for certificates only, without a password, could log in by AUTH."""
    world.users.set(user(b"machine", "certonly"))
    for secret in (b"", b"x", TOKEN):
        assert world.client().log_in(b"machine", secret) == WRONG
    assert world.client().log_in_as(b"machine")


def test_all_secrets_of_a_user_are_valid_during_a_rotation(world: World) -> None:
    digests = [f"#{Secret.of_token(token).text[1:]}" for token in (TOKEN, OTHER_TOKEN)]
    world.users.set(user(b"app", *digests))
    assert world.client().log_in(b"app", TOKEN) is OK
    assert world.client().log_in(b"app", OTHER_TOKEN) is OK
    world.users.set(user(b"app", digests[1]))
    assert world.client().log_in(b"app", TOKEN) == WRONG


def test_failed_login_keeps_the_user(world: World) -> None:
    client = world.client()
    client.log_in(b"app", TOKEN)
    client.log_in(b"default", b"wrong")
    assert client.user == world.users.get(b"app")


def test_password_is_checked_elsewhere(world: World) -> None:
    client = world.client()
    outcome = client.log_in(b"anna", b"password")
    assert isinstance(outcome, PendingReply)
    assert outcome.blocks
    assert not outcome.executed
    assert not client.authenticated
    assert world.passwords.asked[0][:2] == ([ARGON2], b"password")
    world.passwords.answer(True)
    assert outcome.executed
    assert outcome.reply is OK
    assert client.user == world.users.get(b"anna")
    wrong = client.log_in(b"anna", b"passwort")
    world.passwords.answer(False)
    assert reply_of(wrong) == WRONG


def test_no_slow_check_for_a_token_or_an_unknown_user(world: World) -> None:
    assert world.client().log_in(b"anna", TOKEN) == WRONG
    assert world.client().log_in(b"nobody", b"password") == WRONG
    assert not world.passwords.asked


def test_too_many_slow_checks_are_a_failure_that_passes(world: World) -> None:
    world.passwords.is_full = True
    client = world.client()
    assert client.log_in(b"anna", b"password") == TOO_MANY
    assert TOO_MANY.code is failures.BUSY
    assert TOO_MANY.code.passing
    assert not client.failures
    assert not world.events


def test_user_that_changes_during_a_check_is_checked_again(world: World) -> None:
    client = world.client()
    outcome = client.log_in(b"anna", b"password")
    other = ARGON2.replace("aGFza", "bGFza")
    world.users.set(user(b"anna", other))
    world.passwords.answer(True)
    assert reply_of(outcome) is None
    assert world.passwords.asked[0][0] == [other]
    world.users.set(user(b"anna", other, "off"))
    world.passwords.answer(True)
    assert reply_of(outcome) == WRONG
    assert not client.authenticated


def test_changes_of_users_remove_proven_passwords(world: World) -> None:
    world.users.set(user(b"new", "nopass"))
    world.users.remove((b"new",))
    assert world.passwords.forgotten == 2


# -- delays --------------------------------------------------------------------------------------------------------


def test_fourth_failure_waits_and_each_further_one_twice_as_long(world: World) -> None:
    delays = []
    for _ in range(7):
        client = world.client()  # each on a connection of its own
        outcome = client.log_in(b"default", b"wrong")
        if reply_of(outcome) is None:
            delays += world.timers.come()
        assert reply_of(outcome) == WRONG
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8])


def test_guess_is_checked_after_its_delay(world: World) -> None:
    """So that a client that does not wait for the failure learns nothing from a success that comes at once."""
    fail(world.client(), b"default", 3)
    for _ in range(3):
        fail(world.client(), b"anna")
        world.passwords.answer(False)
    right = world.client().log_in(b"default", b"sesame")
    slow = world.client().log_in(b"anna", b"password")
    assert (reply_of(right), reply_of(slow)) == (None, None)
    assert not world.passwords.asked
    world.timers.come()
    assert reply_of(right) is OK
    assert len(world.passwords.asked) == 1


@pytest.mark.parametrize(("name", "secret"), [(b"default", b"sesame"), (b"app", OTHER_TOKEN)])
def test_client_that_has_left_waits_no_longer(world: World, name: bytes, secret: bytes) -> None:
    fail(world.client(), name, 5)
    client = world.client()
    outcome = client.log_in(name, secret)
    assert len(world.timers.waiting) == 1
    client.end()
    assert not world.timers.waiting
    assert reply_of(outcome) is None
    client.end()


def test_many_connections_make_few_guesses(world: World) -> None:
    fail(world.client(), b"default", 5)
    clients = [world.client() for _ in range(LOGIN_WAITING_MAX)]
    outcomes = [client.log_in(b"default", b"wrong") for client in clients]
    assert set(map(reply_of, outcomes)) == {None}
    late = world.client()
    assert late.log_in(b"default", b"sesame") == TOO_MANY
    assert reply_of(late.log_in(b"default", OTHER_TOKEN)) is None
    assert reply_of(world.client("5.6.7.8").log_in(b"default", b"sesame")) is OK
    assert world.client().log_in(b"app", TOKEN) is OK
    clients[0].end()
    clients[0].end()
    assert reply_of(world.client().log_in(b"default", b"sesame")) is None
    assert world.client().log_in(b"default", b"sesame") == TOO_MANY
    world.timers.come()
    assert not world.logins.waiting


def test_right_token_is_never_delayed(world: World) -> None:
    fail(world.client(), b"app", 8)
    outcome = world.client().log_in(b"app", OTHER_TOKEN)
    assert reply_of(outcome) is None
    assert world.client().log_in(b"app", TOKEN) is OK
    assert world.timers.come() == [3.2]
    assert reply_of(outcome) == WRONG


def test_other_addresses_and_users_are_not_delayed(world: World) -> None:
    fail(world.client(), b"default", 8)
    assert world.client("5.6.7.8").log_in(b"default", b"sesame") is OK
    assert world.client().log_in(b"open", b"x") is OK


def test_success_ends_the_delay(world: World) -> None:
    fail(world.client(), b"default", 5)
    outcome = world.client().log_in(b"default", b"sesame")
    world.timers.come()
    assert reply_of(outcome) is OK
    assert world.client().log_in(b"default", b"wrong") == WRONG


def test_connection_is_exhausted_after_ten_failures(world: World) -> None:
    client = world.client()
    fail(client, b"default", LOGIN_FAILURES_MAX - 1)
    assert not client.exhausted
    client.log_in(b"app", TOKEN)
    fail(client, b"default")
    assert client.exhausted
    assert LOGIN_FAILURES_MAX == 10


@pytest.mark.parametrize(
    ("secret", "is_one"), [(TOKEN, True), (TOKEN[:-1], False), (TOKEN + b"x", False), (b"xx_" + b"t" * 43, False)]
)
def test_form_of_tokens(secret: bytes, is_one: bool) -> None:
    assert is_token(secret) is is_one


# -- changes of users ----------------------------------------------------------------------------------------------


def test_client_follows_the_rights_of_its_user(world: World) -> None:
    client, told = world.client(), list[str]()
    client.log_in(b"app", TOKEN)
    client.on_change = lambda: told.append("change")
    app = world.users.get(b"app")
    assert app is not None
    world.users.set(app.changed(("resetkeys", "~app:*")))
    assert client.rights.may_read(b"app:1")
    assert not client.rights.may_read(b"other")
    assert told == ["change"]
    world.users.set(user(b"unrelated"))
    assert client.rights.may_read(b"app:1")
    assert told == ["change"]


@pytest.mark.parametrize("how", ["removed", "disabled"])
def test_client_of_a_removed_or_disabled_user_must_log_in(world: World, how: str) -> None:
    client = world.client()
    client.log_in(b"app", TOKEN)
    if how == "removed":
        world.users.remove((b"app",))
    else:
        world.users.set(user(b"app", "off"))
    assert not client.authenticated
    assert client.user is None
    assert client.rights == Rights()


def test_client_that_lost_its_user_does_not_become_the_default_user(world: World) -> None:
    world.users.set(default_user())
    client = world.client()
    client.log_in(b"app", TOKEN)
    world.users.set(user(b"app", "off"))
    assert client.user is None
    world.users.set(user(b"unrelated"))
    assert client.user is None
    client.reset()
    assert client.user == default_user()
    world.users.set(user(b"app", f">{TOKEN.decode()}"))
    client.log_in(b"app", TOKEN)
    assert client.user == world.users.get(b"app")


def test_client_stays_when_the_secret_of_its_user_changes(world: World) -> None:
    client = world.client()
    client.log_in(b"default", b"sesame")
    world.users.set(default_user(b"new"))
    assert client.authenticated


def test_client_without_a_login_is_the_default_user(world: World) -> None:
    world.users.set(default_user())
    client = world.client()
    assert client.user == default_user()
    world.users.set(default_user(b"sesame"))
    assert client.authenticated, "it was logged in before"
    client.reset()
    assert not client.authenticated
    world.users.set(default_user())
    assert client.authenticated


def test_reset_keeps_the_user_of_a_certificate(world: World) -> None:
    client = world.client()
    assert client.log_in_as(b"app")
    client.log_in(b"default", b"sesame")
    client.reset()
    assert client.user == world.users.get(b"app")
    world.users.remove((b"app",))
    client.reset()
    assert not client.authenticated
    assert not client.log_in_as(b"app")


# -- events --------------------------------------------------------------------------------------------------------


def test_events_have_no_secret(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = world.client()
    client.protocol, client.name = "redis", b"web"
    client.log_in(b"app", b"canary-secret")
    client.log_in(b"app", TOKEN)
    client.deny("key", b"canary-key")
    client.deny("command", b"flushall", "multi")
    client.note("command", command="config|set")
    everything = repr(world.events) + caplog.text + "".join(entry.client for entry in world.logins.log)
    assert "canary" not in everything
    assert TOKEN.decode() not in everything
    failed, entered, denied, forbidden, command = (fields for _, fields in world.events)
    where = {"user": b"app", "address": "1.2.3.4:5000", "protocol": "redis", "client": b"web"}
    assert failed == {**where, "method": "secret", "failures": 1}
    assert entered == {**where, "method": "secret"}
    assert denied == {**where, "reason": "key"}
    assert forbidden == {**where, "reason": "command", "command": b"flushall"}
    assert command == {**where, "command": "config|set"}
    newest, *_ = world.logins.log
    assert (newest.reason, newest.object, newest.context) == ("command", b"flushall", "multi")
    assert newest.client == "addr=1.2.3.4:5000 laddr=?:0 name=web user=app"


def test_one_line_a_minute_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    fail(world.client(), b"default", 50)
    world.clock.advance(LINE_EVERY)
    fail(world.client("5.6.7.8"), b"one more\n")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "failed logins: 1, the newest from 1.2.3.4 as user 'default'",
        "failed logins: 50, the newest from 5.6.7.8 as user 'one more\\n'",
    ]


def test_many_failures_are_few_events_that_count_all(world: World) -> None:
    fail(world.client(), b"default", 100)
    assert len(world.events) == EVENTS_FREE
    world.clock.advance(LINE_EVERY)
    fail(world.client(), b"default", 5)
    assert len(world.events) == EVENTS_FREE + 1
    counts = [fields["failures"] for _, fields in world.events]
    assert counts == [1] * EVENTS_FREE + [91]


def test_equal_denials_are_one_event(world: World) -> None:
    client = world.client()
    client.log_in(b"app", TOKEN)
    for _ in range(100):
        client.deny("command", b"flushall")
    assert world.names() == ["login", "denied"]
    assert world.logins.log.counts["command"] == 100
    world.clock.advance(LINE_EVERY)
    client.deny("command", b"flushall")
    assert world.names() == ["login", "denied", "denied"]


def test_denials_of_many_keys_are_one_event(world: World) -> None:
    """An event has no key, so the events of many keys would only fill the disk."""
    client = world.client()
    client.log_in(b"app", TOKEN)
    for number in range(100):
        client.deny("key", b"%d" % number)
        client.deny("channel", b"%d" % number)
    assert world.names() == ["login", "denied", "denied"]
    assert world.logins.log.counts["key"] == 100


def test_text_of_failures(world: World) -> None:
    outcome: Any = world.client().log_in(b"default", b"x")
    assert isinstance(outcome, Failure)
    assert outcome.message == "WRONGPASS invalid username-password pair or user is disabled."


def test_names_and_secrets_that_no_user_has_are_cut_off(world: World) -> None:
    """An authenticated client may send frames of many MiB, and the server keeps the names of 10,000 failed logins."""
    client = world.client()
    longest = b"n" * USER_NAME_MAX
    world.users.set(user(longest, ARGON2))
    assert client.log_in(longest + b"x", b"password") == WRONG
    client.log_in(b"n" * MIB, b"password")
    assert client.logins.failed.count("1.2.3.4", longest + b"n") == 1
    client.log_in(longest, b"p" * MIB)
    assert len(world.passwords.asked[0][1]) == UNAUTHENTICATED_FRAME_MAX


def test_names_without_a_user_fill_no_audit_log(world: World) -> None:
    for number in range(200):
        fail(world.client(), b"random %d" % number)
    fields = [fields for name, fields in world.events if name == "login_failed"]
    assert len(fields) == EVENTS_FREE
    assert fields[-1]["user"] == b"random 9"
    fail(world.client(), b"default")
    assert world.events[-1][1]["user"] == b"default", "a user has its own events"
    world.clock.now += LINE_EVERY
    fail(world.client(), b"random")
    assert world.events[-1][1] == {**world.events[-1][1], "user": b"random", "failures": 191}
