"""The users of a server: their secrets, states and rights, and the table of all users.

A user is one line, as in Redis' ACL file: `user app on #<SHA-256> ~app:* resetchannels -@all +@read`.

Invariants: users never change; a change of the table replaces users. All changes of one call happen, or none. A change
cannot leave the table without an administrator if there was one. No text shows a secret, except the SHA-256 or the
argon2id text of it.

Out of scope: the login of a client (`login`), argon2id itself, and files.
"""

import dataclasses
import hashlib
import hmac
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

from cairnkv.limits import DEFAULT_USER, SECRETS_MAX, USER_NAME_MAX, USERS_MAX
from cairnkv.session.access.rights import SYNTAX_ERROR, Rights, RightsDraft, RuleError, has_spaces

NO_SUCH_SECRET: Final = "The password you are trying to remove from the user does not exist"
NOT_A_DIGEST: Final = (
    "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"
)
NOT_ARGON2: Final = (
    "an argon2id text is $argon2id$v=19$m=...,t=...,p=...$SALT$HASH, with at most 256 MiB, 16 passes and 16 lanes, here"
)
TOO_MANY_SECRETS: Final = f"a user has at most {SECRETS_MAX} passwords here"
BAD_NAME: Final = "Usernames can't contain spaces or null characters"

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_ARGON2: Final = re.compile(
    r"\$argon2id\$v=19\$m=(?P<memory>[0-9]{1,6}),t=(?P<time>[0-9]{1,2}),p=(?P<lanes>[0-9]{1,2})"
    r"\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,86}"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Secret:
    """A token or a password, hashed. text: `#` and a SHA-256 in hexadecimal, or the encoded form of argon2id."""

    text: str = dataclasses.field(repr=False)

    @classmethod
    def of_token(cls, token: bytes) -> "Secret":
        """Return the secret that keeps the SHA-256 of a token, which must be too long to guess."""
        return cls(f"#{hashlib.sha256(token).hexdigest()}")

    @property
    def is_digest(self) -> bool:
        """Whether this is a SHA-256; otherwise an argon2id text."""
        return self.text.startswith("#")

    def matches(self, token: bytes) -> bool:
        """Return whether this is the SHA-256 of a token. The time does not depend on the token's characters."""
        return hmac.compare_digest(Secret.of_token(token).text, self.text)


@dataclasses.dataclass(frozen=True, slots=True)
class User:
    """A user. Without arguments: disabled, without secrets and rights.

    nopass: any secret is accepted. certonly: only a client certificate logs the user in. A user has secrets, or one of
    these, or none of the three.
    """

    name: bytes
    enabled: bool = False
    nopass: bool = False
    certonly: bool = False
    secrets: tuple[Secret, ...] = ()
    rights: Rights = dataclasses.field(default_factory=Rights)

    @property
    def is_administrator(self) -> bool:
        """Whether the user can log in and may execute all commands."""
        can_log_in = self.enabled and (self.nopass or self.certonly or bool(self.secrets))
        return can_log_in and self.rights.has_all_commands

    @property
    def flags(self) -> tuple[str, ...]:
        """The words of the user's state, as in ACL GETUSER."""
        words = (("nopass", self.nopass), ("certonly", self.certonly))
        return ("on" if self.enabled else "off", *(word for word, holds in words if holds))

    @property
    def rules(self) -> str:
        """The rules that make this user from a new one."""
        return " ".join((*self.flags, *(secret.text for secret in self.secrets), self.rights.rules))

    @property
    def line(self) -> str:
        """The line of the user in the users file, and in ACL LIST."""
        return f"user {shown_name(self.name)} {self.rules}"

    def changed(self, rules: Iterable[str]) -> "User":
        """Return this user after some rules. Raises `RuleError`."""
        user, draft = self, RightsDraft(self.rights)
        for rule in rules:
            if rule.lower() == "reset":
                user, draft = User(self.name), RightsDraft(Rights())
            elif (changed := user._after(rule)) is not None:
                user = changed
            else:
                draft.apply(rule)
        return dataclasses.replace(user, rights=draft.rights())

    def _after(self, rule: str) -> "User | None":
        """Return this user after a rule about logins; None for another rule."""
        match rule.lower():
            case "on":
                return dataclasses.replace(self, enabled=True)
            case "off":
                return dataclasses.replace(self, enabled=False)
            case "nopass":
                return dataclasses.replace(self, nopass=True, certonly=False, secrets=())
            case "resetpass":
                return dataclasses.replace(self, nopass=False, secrets=())
            case "certonly":
                return dataclasses.replace(self, nopass=False, certonly=True, secrets=())
            case "sanitize-payload" | "skip-sanitize-payload" | "clearselectors":
                return self  # words of Redis about things that do not exist here
        match rule[:1]:
            case ">":
                return self._with_secret(rule, Secret.of_token(_secret_bytes(rule)))
            case "#":
                return self._with_secret(rule, _digest(rule, rule))
            case "$":
                return self._with_secret(rule, _argon2(rule))
            case "<":
                return self._without_secret(rule, Secret.of_token(_secret_bytes(rule)))
            case "!":
                given = Secret(rule[1:])
                return self._without_secret(rule, given if rule[1:2] == "$" else _digest(rule, f"#{given.text}"))
        return None

    def _with_secret(self, rule: str, secret: Secret) -> "User":
        secrets = self.secrets if secret in self.secrets else (*self.secrets, secret)
        if len(secrets) > SECRETS_MAX:
            raise RuleError(rule, TOO_MANY_SECRETS)
        return dataclasses.replace(self, nopass=False, certonly=False, secrets=secrets)

    def _without_secret(self, rule: str, secret: Secret) -> "User":
        if secret not in self.secrets:
            raise RuleError(rule, NO_SUCH_SECRET)
        return dataclasses.replace(self, secrets=tuple(kept for kept in self.secrets if kept != secret))


def _secret_bytes(rule: str) -> bytes:
    if len(rule) == 1:
        raise RuleError(rule, SYNTAX_ERROR)
    return rule[1:].encode("utf-8", "surrogateescape")


def _digest(rule: str, text: str) -> Secret:
    if not _DIGEST.fullmatch(text[1:]):
        raise RuleError(rule, NOT_A_DIGEST)
    return Secret(text)


def _argon2(rule: str) -> Secret:
    match = _ARGON2.fullmatch(rule)
    if match is None:
        raise RuleError(rule, NOT_ARGON2)
    memory, passes, lanes = (int(match[name]) for name in ("memory", "time", "lanes"))
    if not (8 * lanes <= memory <= 2**18 and 1 <= passes <= 16 and 1 <= lanes <= 16):
        raise RuleError(rule, NOT_ARGON2)
    return Secret(rule)


def encoded(password: str | None) -> bytes | None:
    """Return the bytes of a password, or None if there is none or it is empty."""
    return password.encode("utf-8", "surrogateescape") if password else None


def shown_name(name: bytes) -> str:
    """Return the name of a user as text."""
    return name.decode("utf-8", "surrogateescape")


def check_name(name: bytes) -> None:
    """Raise `ValueError` for a text that cannot be the name of a user."""
    if has_spaces(shown_name(name)):
        raise ValueError(BAD_NAME)
    if not 1 <= len(name) <= USER_NAME_MAX:
        raise ValueError(f"a user's name has 1 to {USER_NAME_MAX} bytes here, this one {len(name):,}")


def default_user(password: bytes | None = None) -> User:
    """Return the user `default` with all rights. password: None: any secret is accepted."""
    secrets = () if password is None else (Secret.of_token(password),)
    rights = Rights().changed(("allkeys", "allchannels", "allcommands"))
    return User(DEFAULT_USER, enabled=True, nopass=password is None, secrets=secrets, rights=rights)


class UsersRefused(Exception):
    """A change of the table is refused. The text names the reason."""


LAST_ADMINISTRATOR: Final = (
    "the last administrator cannot be removed, disabled or reduced: no other user can log in and has +@all"
)


class Users:
    """The users of a server.

    version: grows with each change. on_change: called after each change.
    """

    def __init__(
        self, users: Iterable[User] = (), *, check: Callable[[Collection[User]], None] = lambda users: None
    ) -> None:
        """check: raises `UsersRefused` if the table cannot become these users."""
        self._check = check
        self._by_name = _by_name(users)
        self._digest: str | None = None
        self.version = 0
        self.on_change: Final[list[Callable[[], None]]] = []

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[User]:
        """Return the users in the order of their names."""
        return iter([self._by_name[name] for name in sorted(self._by_name)])

    def get(self, name: bytes) -> User | None:
        """Return the user with a name, or None."""
        return self._by_name.get(name)

    @property
    def required(self) -> bool:
        """Whether a new client must authenticate before other commands."""
        default = self._by_name.get(DEFAULT_USER)
        return default is None or not default.enabled or not default.nopass

    @property
    def digest(self) -> str:
        """The SHA-256 of all lines in hexadecimal. Nodes of a cluster with the same users have the same digest."""
        if self._digest is None:
            lines = "\n".join(user.line for user in self)
            self._digest = hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
        return self._digest

    def set(self, user: User) -> None:
        """Add a user, or replace the user with the same name. Raises `UsersRefused`."""
        self._change({**self._by_name, user.name: user})

    def remove(self, names: Iterable[bytes]) -> int:
        """Remove users. Return the number of those that existed. Raises `UsersRefused`."""
        unwanted = set(names)
        left = {name: user for name, user in self._by_name.items() if name not in unwanted}
        removed = len(self._by_name) - len(left)
        if removed:
            self._change(left)
        return removed

    def replace(self, users: Iterable[User]) -> None:
        """Replace all users. Raises `UsersRefused`."""
        self._change(_by_name(users))

    def _change(self, users: dict[bytes, User]) -> None:
        check_change(self._by_name.values(), users.values())
        self._check(users.values())
        if users == self._by_name:
            return
        self._by_name, self._digest = users, None
        self.version += 1
        for callback in self.on_change:
            callback()


def _by_name(users: Iterable[User]) -> dict[bytes, User]:
    return {user.name: user for user in users}


def check_change(before: Iterable[User], after: Iterable[User]) -> None:
    """Raise `UsersRefused` if users cannot follow other users."""
    users = list(after)
    if len(users) > USERS_MAX:
        raise UsersRefused(f"a server has at most {USERS_MAX:,} users")
    if not any(user.is_administrator for user in users) and any(user.is_administrator for user in before):
        raise UsersRefused(LAST_ADMINISTRATOR)
