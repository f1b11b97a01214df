"""The declarations of all commands: numbers, arguments, flags and replies.

Parser, server, clients, command line and documents use these declarations. docs/contributing.md shows how to add one.

Invariants: numbers 0 to 3 have the frames of the article. Numbers 4 to 15 stay free, because a server that does not
know the command could not find the end of its frame. From `COUNTED_FROM` on, a frame counts its arguments. A number
keeps its meaning forever, because logs contain it.
"""

from typing import Final

from cairnkv.commands.grammar import (
    Access,
    Answer,
    Command,
    KeyKind,
    Kind,
    NumberKind,
    Scope,
    argument,
    command_spec,
    option,
    rest,
    switch,
)
from cairnkv.limits import BACKUPS_KEPT_MAX, DATABASES, INTEGER_MAX, INTEGER_MIN, SCAN_COUNT_MAX, STRING_MAX, TTL_MAX

COUNTED_FROM: Final = 16
"""The first number whose frame counts its arguments."""

KEY: Final = KeyKind("key")
SOURCE: Final = KeyKind("source")
TARGET: Final = KeyKind("target")
VALUE: Final = Kind("value")
PREFIX: Final = Kind("prefix")
TEXT: Final = Kind("text")
NAME: Final = Kind("name")
USER: Final = Kind("user")
SECRET: Final = Kind("secret")
DECIMAL: Final = Kind("decimal")
"""A number with a fraction, as text. The operation checks it."""
MILLISECONDS: Final = NumberKind("milliseconds", 1, TTL_MAX)
NO_TTL: Final = 0
MILLISECONDS_OR_NONE: Final = NumberKind("milliseconds-or-0", NO_TTL, TTL_MAX)
AMOUNT: Final = NumberKind("n", INTEGER_MIN, INTEGER_MAX)
CURSOR: Final = NumberKind("cursor", 0, 2**53 - 1)
COUNT: Final = NumberKind("count", 1, SCAN_COUNT_MAX)
UNIX_MILLISECONDS: Final = NumberKind("unix-milliseconds", 1, TTL_MAX)
TIME: Final = NumberKind("milliseconds", -TTL_MAX, TTL_MAX)
OFFSET: Final = NumberKind("offset", 0, STRING_MAX - 1)
BIT_OFFSET: Final = NumberKind("offset", 0, STRING_MAX * 8 - 1)
BIT: Final = NumberKind("bit", 0, 1)
DB: Final = NumberKind("database", 0, DATABASES - 1)
KEPT: Final = NumberKind("backups", 1, BACKUPS_KEPT_MAX)


@command_spec(0, writes=False, answer=Answer.BYTES, redis=("get",))
class Get(Command):
    """Return the value of a key.

    If the key does not exist, the reply is `MISSING`.
    """

    key: bytes = argument(KEY)


@command_spec(1, reads=False, answer=Answer.OK, redis=("set",))
class Set(Command):
    """Store a value under a key, without expiry. It replaces any value and expiry of the key."""

    key: bytes = argument(KEY)
    value: bytes = argument(VALUE)


@command_spec(2, reads=False, grows=False, answer=Answer.OK, redis=("del",))
class Clear(Command):
    """Delete a key. No effect if the key does not exist."""

    key: bytes = argument(KEY)


@command_spec(3, scope=Scope.NOTHING, writes=False, answer=Answer.BYTES, redis=("ping",))
class Ping(Command):
    """Return the text, or PONG if the text is empty."""

    text: bytes = argument(TEXT)


_CONDITIONS: Final = (("if_absent", "if_present", "if_equals"), ("ttl", "at", "keep_ttl"))


@command_spec(16, answer=Answer.NUMBER, exclusive=_CONDITIONS, redis=("set",))
class SetWith(Command):
    """Store a value under conditions. Returns 1 if it was stored, else 0.

    ttl: milliseconds until the key expires. Without it the key does not expire.
    keep_ttl: keep the expiry of the key.
    if_absent, if_present, if_equals: store only if the key does not exist, exists, has this value.
    at: expiry time in milliseconds since 1970, instead of a ttl. A time in the past is allowed.
    """

    key: bytes = argument(KEY)
    value: bytes = argument(VALUE)
    ttl: int | None = option("TTL", MILLISECONDS, default=None)
    keep_ttl: bool = switch("KEEPTTL", default=False)
    if_absent: bool = switch("IFABSENT", default=False)
    if_present: bool = switch("IFPRESENT", default=False)
    if_equals: bytes | None = option("IFEQUALS", VALUE, default=None)
    at: int | None = option("AT", UNIX_MILLISECONDS, default=None)

    def places_read(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return () if self.if_equals is None else ((db, self.key),)

    def accesses(self) -> tuple[tuple[bytes, Access], ...]:
        return ((self.key, Access.WRITE if self.if_equals is None else Access.READ | Access.WRITE),)


@command_spec(17, answer=Answer.BYTES, exclusive=_CONDITIONS, redis=("set",))
class Swap(SetWith):
    """Store a value under the conditions of SET_WITH. Returns the previous value, whether or not it was replaced.

    If the key did not exist, the reply is `MISSING`.
    """

    def places_read(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return ((db, self.key),)

    def accesses(self) -> tuple[tuple[bytes, Access], ...]:
        return ((self.key, Access.READ | Access.WRITE),)


@command_spec(18, answer=Answer.BYTES, exclusive=(("clear", "ttl", "persist", "at"),), redis=("getdel", "getex"))
class GetWith(Command):
    """Return the value of a key, and delete the key, change its expiry or remove its expiry.

    at: expiry time in milliseconds since 1970, instead of a ttl. A time in the past is allowed.
    If the key does not exist, the reply is `MISSING` and nothing changes.
    """

    key: bytes = argument(KEY)
    clear: bool = switch("CLEAR", default=False)
    ttl: int | None = option("TTL", MILLISECONDS, default=None)
    persist: bool = switch("PERSIST", default=False)
    at: int | None = option("AT", UNIX_MILLISECONDS, default=None)

    def redis_names(self) -> tuple[str, ...]:
        return ("getdel",) if self.clear else ("getex",)


@command_spec(19, grows=False, answer=Answer.NUMBER, redis=("delifeq",))
class ClearIfEquals(Command):
    """Delete a key if it has this value. Returns 1 if it was deleted, else 0."""

    key: bytes = argument(KEY)
    value: bytes = argument(VALUE)


@command_spec(20, reads=False, writes=False, answer=Answer.NUMBER, redis=("exists",))
class Exists(Command):
    """Return the number of these keys that exist. A key that is named twice counts twice."""

    names: tuple[bytes, ...] = rest(KEY)


@command_spec(21, writes=False, answer=Answer.ITEMS, redis=("mget",))
class GetMany(Command):
    """Return the values of several keys in their order, all of the same moment."""

    names: tuple[bytes, ...] = rest(KEY)


@command_spec(22, reads=False, answer=Answer.OK, redis=("mset",))
class SetMany(Command):
    """Store several values: all or none. With milliseconds 0 they do not expire."""

    ttl: int = argument(MILLISECONDS_OR_NONE)
    pairs: tuple[tuple[bytes, bytes], ...] = rest(KEY, VALUE)


@command_spec(23, reads=False, grows=False, answer=Answer.NUMBER, redis=("del",))
class ClearMany(Command):
    """Delete several keys. Returns the number of keys that existed."""

    names: tuple[bytes, ...] = rest(KEY)


@command_spec(24, answer=Answer.NUMBER, redis=("incrby",))
class Incr(Command):
    """Add n to a decimal integer. A missing key counts as 0. Returns the sum.

    The expiry does not change.
    """

    key: bytes = argument(KEY)
    n: int = argument(AMOUNT)


@command_spec(25, reads=False, writes=False, answer=Answer.NUMBER, redis=("pttl",), access=Access.READ)
class Ttl(Command):
    """Return the milliseconds until a key expires, or -1 if it has no expiry.

    If the key does not exist, the reply is `MISSING`.
    """

    key: bytes = argument(KEY)


@command_spec(26, answer=Answer.NUMBER, redis=("pexpire",), access=Access.WRITE)
class Expire(Command):
    """Set the time to live of a key. Returns 1, or 0 if the key does not exist."""

    key: bytes = argument(KEY)
    ttl: int = argument(MILLISECONDS)


@command_spec(27, grows=False, answer=Answer.NUMBER, redis=("persist",), access=Access.WRITE)
class Persist(Command):
    """Remove the expiry of a key. Returns 1, or 0 if it had none or does not exist."""

    key: bytes = argument(KEY)


@command_spec(28, writes=False, answer=Answer.ITEMS, redis=("scan",))
class Scan(Command):
    """Return one slice of the keys with a prefix: the next cursor, then the keys.

    The first cursor is 0. A next cursor of 0 is the end. A key that exists from the first slice to the last is returned
    at least once; other keys may be. `count` is the number of keys that a slice examines, so a slice may return fewer
    keys, or none, before the end.
    """

    cursor: int = argument(CURSOR)
    count: int = argument(COUNT)
    prefix: bytes = argument(PREFIX)

    def accesses(self) -> tuple[tuple[bytes, Access], ...]:
        return ((self.prefix, Access.READ),)


@command_spec(29, writes=False, answer=Answer.NUMBER, redis=("dbsize",))
class Count(Command):
    """Return the exact number of keys, without expired keys."""


@command_spec(30, grows=False, answer=Answer.OK, redis=("flushdb",), access=Access.WRITE)
class ClearAll(Command):
    """Delete all keys at once."""


@command_spec(31, grows=False, answer=Answer.ITEMS, redis=("scan", "unlink"), access=Access.WRITE)
class ClearPrefix(Command):
    """Delete one slice of the keys with a prefix. Returns the next cursor, then the number of deleted keys.

    The cursors are those of SCAN. Each slice is atomic; the whole is not.
    """

    prefix: bytes = argument(PREFIX)
    cursor: int = argument(CURSOR)

    def accesses(self) -> tuple[tuple[bytes, Access], ...]:
        return ((self.prefix, Access.WRITE),)


@command_spec(32, scope=Scope.NOTHING, writes=False, answer=Answer.ITEMS, by_store=True, redis=("info",))
class Info(Command):
    """Return information about the store: names and values, alternating.

    The values are those in memory, whether or not they are committed.
    """


@command_spec(
    33,
    answer=Answer.NUMBER,
    exclusive=(("if_none", "if_some"), ("if_none", "if_later"), ("if_none", "if_sooner"), ("if_later", "if_sooner")),
    redis=("pexpire", "pexpireat"),
    access=Access.WRITE,
)
class ExpireWith(Command):
    """Set the expiry of a key under conditions. Returns 1, or 0 if they do not hold or the key does not exist.

    time: milliseconds from now, or since 1970 with `at`. A time in the past deletes the key.
    if_none, if_some: only if the key has no expiry, or has one.
    if_later, if_sooner: only if the key would expire later, or sooner. No expiry counts as the latest.
    """

    key: bytes = argument(KEY)
    time: int = argument(TIME)
    at: bool = switch("AT", default=False)
    if_none: bool = switch("IFNONE", default=False)
    if_some: bool = switch("IFSOME", default=False)
    if_later: bool = switch("IFLATER", default=False)
    if_sooner: bool = switch("IFSOONER", default=False)

    def redis_names(self) -> tuple[str, ...]:
        return ("pexpireat",) if self.at else ("pexpire",)


@command_spec(34, reads=False, writes=False, answer=Answer.NUMBER, redis=("pexpiretime",), access=Access.READ)
class Deadline(Command):
    """Return the expiry time of a key in milliseconds since 1970, or -1 if it has no expiry.

    If the key does not exist, the reply is `MISSING`.
    """

    key: bytes = argument(KEY)


@command_spec(35, answer=Answer.NUMBER, redis=("append",), access=Access.WRITE)
class Append(Command):
    """Append a string to the value of a key. A missing key counts as an empty value. Returns the new length.

    The expiry does not change.
    """

    key: bytes = argument(KEY)
    value: bytes = argument(VALUE)

    def length_after(self, length: int) -> int:
        return length + len(self.value)


@command_spec(36, answer=Answer.NUMBER, redis=("setrange",), access=Access.WRITE)
class SetRange(Command):
    """Overwrite the value of a key from an offset on. Returns the new length.

    Zero bytes fill the space between the end of the value and the offset. An empty string changes nothing. The expiry
    does not change.
    """

    key: bytes = argument(KEY)
    offset: int = argument(OFFSET)
    value: bytes = argument(VALUE)

    def length_after(self, length: int) -> int:
        return max(length, self.offset + len(self.value)) if self.value else 0


@command_spec(37, answer=Answer.NUMBER, redis=("setbit",))
class SetBit(Command):
    """Set one bit of the value of a key. Bit 0 is the highest bit of the first byte. Returns the previous bit.

    Zero bytes extend the value if it is too short. The expiry does not change.
    """

    key: bytes = argument(KEY)
    offset: int = argument(BIT_OFFSET)
    bit: int = argument(BIT)

    def length_after(self, length: int) -> int:
        return max(length, self.offset // 8 + 1)


@command_spec(38, answer=Answer.BYTES, redis=("incrbyfloat",))
class IncrFloat(Command):
    """Add to a decimal number. A missing key counts as 0. Returns the sum.

    The sum has 64 bits of mantissa, as on Redis for x86-64, on every computer. The expiry does not change.
    """

    key: bytes = argument(KEY)
    amount: bytes = argument(DECIMAL)


@command_spec(39, answer=Answer.NUMBER, redis=("rename", "renamenx"))
class Rename(Command):
    """Rename a key. The target gets its value and expiry, and loses its own.

    Returns 1, or 0 if the target exists and if_absent is given.
    If the source does not exist, the reply is `MISSING`.
    """

    source: bytes = argument(SOURCE)
    target: bytes = argument(TARGET)
    if_absent: bool = switch("IFABSENT", default=False)

    def places_read(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return ((db, self.source),)

    def redis_names(self) -> tuple[str, ...]:
        return ("renamenx",) if self.if_absent else ("rename",)

    def accesses(self) -> tuple[tuple[bytes, Access], ...]:
        return (self.source, Access.READ | Access.WRITE), (self.target, Access.WRITE)


@command_spec(40, answer=Answer.NUMBER, redis=("copy",))
class Copy(Command):
    """Copy the value and the expiry of a key to another key. Returns 1.

    Returns 0 if the source does not exist, or if the target exists and replace is not given.
    db: the database of the target. Without it the database of the source.
    """

    source: bytes = argument(SOURCE)
    target: bytes = argument(TARGET)
    db: int | None = option("SPACE", DB, default=None)
    replace: bool = switch("REPLACE", default=False)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return (db, self.source), (db if self.db is None else self.db, self.target)

    def places_read(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return ((db, self.source),)

    def accesses(self) -> tuple[tuple[bytes, Access], ...]:
        return (self.source, Access.READ), (self.target, Access.WRITE)


@command_spec(41, reads=False, answer=Answer.NUMBER, redis=("msetnx",))
class SetManyIfAbsent(Command):
    """Store several values if none of the keys exists. Returns 1, or 0 if some key exists."""

    pairs: tuple[tuple[bytes, bytes], ...] = rest(KEY, VALUE)


@command_spec(42, writes=False, answer=Answer.BYTES, by_store=True, redis=("randomkey",))
class RandomKey(Command):
    """Return a random key.

    If there are no keys, the reply is `MISSING`.
    """


@command_spec(43, scope=Scope.NOTHING, writes=False, answer=Answer.NUMBER, by_store=True, redis=("bgsave",))
class Backup(Command):
    """Begin a backup of a durable store. Returns the number of the backup. INFO shows its progress.

    name: a name below the server's backup directory. The backup holds all commands that executed before this one.
    keep: the number of newest backups of this name to keep, including this one. Without it all are kept.
    """

    name: bytes = argument(NAME)
    keep: int | None = option("KEEP", KEPT, default=None)


@command_spec(44, scope=Scope.NOTHING, writes=False, answer=Answer.OK, by_store=True, redis=("auth",))
class Auth(Command):
    """Log in as a user, with a password or a token of this user. The failure `WRONGPASS` does not show which is wrong.

    The login applies to this connection until it ends. A client may send it with its first commands, in one write.
    """

    user: bytes = argument(USER)
    secret: bytes = argument(SECRET)

    def __repr__(self) -> str:
        return f"Auth(user={self.user!r}, secret=...)"


@command_spec(45, scope=Scope.NOTHING, writes=False, answer=Answer.BYTES, by_store=True, redis=("acl|whoami",))
class Whoami(Command):
    """Return the name of the user as which the client is logged in."""
