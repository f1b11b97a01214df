"""Logins: the users as which clients are logged in, and their rights. Sans-IO: the server gives clock and timers.

Invariants:
- A secret that people choose is checked only after the delay of its address and user, and not at all if the client
  leaves before. So a guess costs that time. A token cannot be guessed: a right one is never delayed.
- A client that has left keeps no memory, and names and secrets are short.
- Slow checks run elsewhere (`Passwords`). No other command of the client executes meanwhile.
- A client follows its user: changed rights apply to its next command, and it must log in again when the user is removed
  or disabled. A changed secret has no effect on clients that are logged in.
- No event and no line of the log has a secret.

Out of scope: users and rights (`users`, `rights`), hashing (`cairnkv.server.password_hashing`), and the protocols.
"""

import functools
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol, TypeAlias

from cairnkv.commands import OK, Failure, Reply, failures
from cairnkv.escapes import quoted
from cairnkv.limits import (
    DEFAULT_USER,
    LOGIN_FAILURES_MAX,
    LOGIN_WAITING_MAX,
    UNAUTHENTICATED_FRAME_MAX,
    USER_NAME_MAX,
)
from cairnkv.session.access.attempts import AccessLog, FailedLogins
from cairnkv.session.access.rights import Rights
from cairnkv.session.access.users import User, Users
from cairnkv.store import PendingExecution, PendingReply

logger: Final = logging.getLogger("cairnkv.logins")

WRONG: Final = Failure(failures.WRONGPASS, "invalid username-password pair or user is disabled.")
"""The failure of every wrong login. It does not show whether the name or the secret is wrong. The text is Redis'."""

TOO_MANY: Final = Failure(failures.BUSY, "too many passwords wait for their check; log in again in a moment")


@functools.cache
def no_rights() -> Rights:
    """Return the rights of a client that must log in. Called when all commands are declared."""
    return Rights()


TOKEN_PREFIX: Final = b"ck_"
TOKEN_LENGTH: Final = 46
"""The form of the tokens that `cairn user add` makes: 256 random bits."""

LINE_EVERY: Final = 60_000
"""Milliseconds between two lines of the log about failed logins, and between two events of one address and user."""

EVENTS_FREE: Final = 10
"""Failed logins of an address and a user that are events of their own in the audit log; later ones are counted."""


DENIALS_KEPT: Final = 10_000
"""Maximum number of refusals whose equals are not events."""

NO_USER: Final = b""
"""Not the name of a user."""

NAME_SHOWN: Final = 256
"""Maximum bytes of a user's name in the log and in an event: a client may give any name."""


class Passwords(Protocol):
    """Checks secrets that have slow hashes."""

    def verify(self, hashes: Sequence[str], password: bytes, done: Callable[[bool], None]) -> bool:
        """Call `done` with whether a password has one of some hashes, now or later. Returns False if too many wait."""

    def forget(self) -> None:
        """Remove all successes, because users have changed."""


class NoPasswords:
    """Without a server: no secret has a slow hash."""

    def verify(self, hashes: Sequence[str], password: bytes, done: Callable[[bool], None]) -> bool:
        """Call `done`: no password is right."""
        done(False)
        return True

    def forget(self) -> None:
        """Do nothing: there are no successes."""


After: TypeAlias = Callable[[float, Callable[[], None]], Callable[[], None]]
"""See `Logins`."""


def nothing() -> None:
    """Do nothing."""


def at_once(_: float, callback: Callable[[], None]) -> Callable[[], None]:
    """Call a function without its delay: without a server there is no timer."""
    callback()
    return nothing


def no_audit(_event: str, _fields: Mapping[str, object]) -> None:
    """Write no event: there is no audit log."""


class Client(Protocol):
    """The interface of a client: its addresses. network: the address for limits."""

    network: str
    address: str
    local_address: str


class Logins:
    """The logins of a server.

    after: calls a function after some seconds, and returns a function that prevents that. audit: writes an event and
    its fields to the audit log.
    """

    def __init__(
        self,
        users: Users,
        clock: Callable[[], int],
        *,
        passwords: Passwords | None = None,
        after: After = at_once,
        audit: Callable[[str, Mapping[str, object]], None] = no_audit,
    ) -> None:
        """clock: returns the time in milliseconds since 1970."""
        self.users: Final = users
        self.passwords: Final = NoPasswords() if passwords is None else passwords
        self.after = after
        self.audit = audit
        self.failed: Final = FailedLogins(clock)
        self.log: Final = AccessLog(clock)
        self.waiting: Final[Counter[tuple[str, bytes]]] = Counter()
        """The number of passwords of each address and user that wait for their delay."""
        self.succeeded = 0
        """The number of successful logins."""
        self._line_at: int | None = None
        self._unwritten = 0  # failed logins since then
        self._events: dict[tuple[str, bytes], tuple[int, int]] = {}  # time of the last event, and failures since then
        self._denied: dict[tuple[bytes, str, bytes], int] = {}  # time of the last event, the oldest first
        users.on_change.append(self.passwords.forget)

    def is_event(self, user: bytes, reason: str, command: bytes) -> bool:
        """Return whether a refused command is an event, because the last equal event is a minute old."""
        now = self.log.clock()
        at = self._denied.get((user, reason, command))
        if at is not None and abs(now - at) < LINE_EVERY:
            return False
        self._denied.pop((user, reason, command), None)
        self._denied[user, reason, command] = now
        if len(self._denied) > DENIALS_KEPT:
            del self._denied[next(iter(self._denied))]
        return True

    def note_failure(self, network: str, user: bytes, number: int, fields: Mapping[str, object]) -> None:
        """Write about a failed login: an event, and at most one line a minute. number: of failures in a row.

        All names of an address that no user has count together, so that no client fills the audit log.
        """
        name = user
        if self.users.get(name) is None:
            user, number = NO_USER, self.failed.add(network, NO_USER)
        now = self.log.clock()
        self._unwritten += 1
        if self._line_at is None or abs(now - self._line_at) >= LINE_EVERY:
            shown = quoted(name[:NAME_SHOWN])
            logger.warning("failed logins: %d, the newest from %s as user %s", self._unwritten, network, shown)
            self._line_at, self._unwritten = now, 0
        at, since = self._events.pop((network, user), (now, 0))
        since += 1
        if number <= EVENTS_FREE or abs(now - at) >= LINE_EVERY:
            self.audit("login_failed", {**fields, "failures": since})
            at, since = now, 0
        if number >= EVENTS_FREE:
            self._events[network, user] = at, since
            if len(self._events) > len(self.failed):
                del self._events[next(iter(self._events))]


class Login:
    """The login of one client.

    user: None if the client must log in. rights: those of the user. failures: the number of failed logins.
    protocol, name: of the client, for events.
    """

    def __init__(self, logins: Logins, peer: Client) -> None:
        self.logins: Final = logins
        self._users: Final = logins.users
        self._peer = peer
        self._certified: bytes | None = None  # the user that a client certificate proves
        self._prevent: Callable[[], None] = nothing  # what a timer does
        self._waits_as: tuple[str, bytes] | None = None  # the address and the user of a delayed password
        self.failures = 0
        self.protocol = "native"
        self.name = b""
        self.on_change: Callable[[], None] = lambda: None
        """Called after a change of the user or its rights."""
        self.reset()

    def reset(self) -> None:
        """Begin as a client that has sent no secret."""
        self._has_lost_user = False
        self._version = self._users.version
        user = None if self._certified is None else self._enabled(self._certified)
        if user is None and not self._users.required:
            user = self._users.get(DEFAULT_USER)
        self._set(user)

    def _enabled(self, name: bytes) -> User | None:
        user = self._users.get(name)
        return None if user is None or not user.enabled else user

    def _set(self, user: User | None) -> None:
        self._user = user
        self._rights = no_rights() if user is None else user.rights
        self.on_change()

    @property
    def user(self) -> User | None:
        """The user of the client; None: it must log in."""
        if self._version != self._users.version:
            self._follow()
        return self._user

    @property
    def rights(self) -> Rights:
        """The rights of the client."""
        if self._version != self._users.version:
            self._follow()
        return self._rights

    @property
    def authenticated(self) -> bool:
        """Whether the client may execute commands, as far as its rights allow them."""
        return self.user is not None

    @property
    def exhausted(self) -> bool:
        """Whether the client has failed so often that its connection must end."""
        return self.failures >= LOGIN_FAILURES_MAX

    def _follow(self) -> None:
        """Apply a change of the users."""
        self._version = self._users.version
        before = self._user
        now = None if before is None else self._enabled(before.name)
        if before is not None and now is None:
            # The client would not notice that it is another user from now on, so it must log in again.
            self._has_lost_user = before.name != DEFAULT_USER
        if now is None and not self._has_lost_user and not self._users.required:
            now = self._users.get(DEFAULT_USER)
        if now != before:
            self._set(now)

    # -- logging in ----------------------------------------------------------------------------------------------

    def log_in(self, name: bytes, secret: bytes) -> Reply | PendingReply:
        """Log in as a user. Returns `OK`, a failure, or a pending reply if the check takes time.

        A client that fails keeps its user.
        """
        name, secret = name[: USER_NAME_MAX + 1], secret[:UNAUTHENTICATED_FRAME_MAX]  # no user has a longer one
        waiting = PendingExecution()
        delay = self.logins.failed.delay(self._peer.network, name)
        if not delay:
            self._check(name, secret, waiting.complete)
        elif is_token(secret):
            self._check(name, secret, partial(self._complete_late, waiting, delay))
        elif self.logins.waiting[self._peer.network, name] >= LOGIN_WAITING_MAX:
            return TOO_MANY
        else:
            self._waits_as = self._peer.network, name
            self.logins.waiting[self._waits_as] += 1
            self._after(delay, lambda: self._check(name, secret, waiting.complete))
        return waiting if waiting.reply is None else waiting.reply

    def end(self) -> None:
        """The client has left: do not check its secret after a delay."""
        self._prevent()
        self._wait_no_longer()

    def log_in_as(self, name: bytes) -> bool:
        """Log in as a user that a client certificate proves. Returns whether the user exists and is enabled."""
        user = self._enabled(name)
        if user is None:
            self._fail(name, "certificate")
            return False
        self._certified = name
        self._enter(user, "certificate")
        return True

    def _after(self, delay: float, continued: Callable[[], None]) -> None:
        def come() -> None:
            self._prevent = nothing  # it has the secret
            self._wait_no_longer()
            continued()

        self._prevent = self.logins.after(delay, come)

    def _wait_no_longer(self) -> None:
        if self._waits_as is not None:
            self.logins.waiting[self._waits_as] -= 1
            if not self.logins.waiting[self._waits_as]:
                del self.logins.waiting[self._waits_as]
            self._waits_as = None

    def _complete_late(self, waiting: PendingExecution, delay: float, outcome: Reply) -> None:
        if isinstance(outcome, Failure):
            self._after(delay, lambda: waiting.complete(outcome))
        else:
            waiting.complete(outcome)

    def _check(self, name: bytes, secret: bytes, done: Callable[[Reply], None]) -> None:
        """Check a secret, and call `done` with the reply, now or later."""
        user = self._enabled(name)
        if user is None or user.certonly:
            done(self._fail(name, "secret"))
        elif user.nopass or any(known.matches(secret) for known in user.secrets if known.is_digest):
            done(self._enter(user, "secret"))
        elif is_token(secret) or not (hashes := [known.text for known in user.secrets if not known.is_digest]):
            done(self._fail(name, "secret"))
        elif not self.logins.passwords.verify(hashes, secret, partial(self._checked, user, secret, done)):
            done(TOO_MANY)

    def _checked(self, user: User, secret: bytes, done: Callable[[Reply], None], right: bool) -> None:
        if self._users.get(user.name) != user:  # changed meanwhile
            self._check(user.name, secret, done)
        else:
            done(self._enter(user, "secret") if right else self._fail(user.name, "secret"))

    def _enter(self, user: User, method: str) -> Reply:
        self._has_lost_user = False
        self._version = self._users.version
        self._set(user)
        self.logins.succeeded += 1
        self.logins.failed.forget(self._peer.network, user.name)
        self.logins.audit("login", {**self._fields(user.name), "method": method})
        return OK

    def _fail(self, name: bytes, method: str) -> Failure:
        self.failures += 1
        network = self._peer.network
        number = self.logins.failed.add(network, name)
        self.logins.log.add("auth", "toplevel", b"AUTH", name, self.description)
        self.logins.note_failure(network, name, number, {**self._fields(name), "method": method})
        return WRONG

    # -- events --------------------------------------------------------------------------------------------------

    @property
    def description(self) -> str:
        """The client in the format of CLIENT INFO, for ACL LOG."""
        name = self.name.decode("utf-8", "backslashreplace")
        user = "" if self._user is None else self._user.name.decode("utf-8", "backslashreplace")
        return f"addr={self._peer.address} laddr={self._peer.local_address} name={name} user={user}"

    def deny(self, reason: str, object: bytes, context: str = "toplevel") -> None:
        """Record that the rights of the client did not allow a command.

        reason: the missing right: `command`, `key` or `channel`. object: that command, key or channel. The refusals of
        a command to a user within a minute are one event, and so are those of all keys, and of all channels.
        """
        user = b"" if self._user is None else self._user.name
        self.logins.log.add(reason, context, object, user, self.description)
        shown = {"command": object} if reason == "command" else {}
        if self.logins.is_event(user, reason, shown.get("command", b"")):
            self.logins.audit("denied", {**self._fields(user), "reason": reason, **shown})

    def note(self, event: str, **fields: object) -> None:
        """Write an event of this client to the audit log."""
        self.logins.audit(event, {**self._fields(b"" if self._user is None else self._user.name), **fields})

    def _fields(self, user: bytes) -> dict[str, object]:
        name = {"client": self.name} if self.name else {}
        return {"user": user[:NAME_SHOWN], "address": self._peer.address, "protocol": self.protocol, **name}


def is_token(secret: bytes) -> bool:
    """Return whether a secret has the form of a token, which is random."""
    return len(secret) == TOKEN_LENGTH and secret.startswith(TOKEN_PREFIX)
