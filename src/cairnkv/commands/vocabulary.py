"""The vocabulary: every command there is, with its number, its arguments, what it touches and answers.

Parser, server, clients, command line and docs/protocol.md draw from here. To add a command: declare it
here, say what it does in `cairnkv.engine.operations`, and test it in the conformance suite.

Numbers 0 to 3 are the article's, with the article's frames; 4 to 15 stay unassigned, since their frames
could not be delimited by a server that does not know them; from 16 on the frame counts its arguments.
"""

from typing import Final

from cairnkv.commands.grammar import (
    Answer,
    Command,
    CommandSpec,
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
"""The first command number whose frame counts its arguments."""

KEY: Final = KeyKind("key")
SOURCE: Final = KeyKind("source")
TARGET: Final = KeyKind("target")
VALUE: Final = Kind("value")
PREFIX: Final = Kind("prefix")
TEXT: Final = Kind("text")
NAME: Final = Kind("name")
DECIMAL: Final = Kind("decimal")
"""A number with a fraction, as text; whether it is one shows when it is added."""
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


@command_spec(0, scope=Scope.KEYS, reads=True, answer=Answer.BYTES)
class Get(Command):
    """The value of a key.

    A key that is not there is answered with `MISSING`.
    """

    key: bytes = argument(KEY)


@command_spec(1, scope=Scope.KEYS, writes=True, grows=True, answer=Answer.OK)
class Set(Command):
    """Store a value under a key, whatever was there; it does not expire."""

    key: bytes = argument(KEY)
    value: bytes = argument(VALUE)


@command_spec(2, scope=Scope.KEYS, writes=True, answer=Answer.OK)
class Clear(Command):
    """Take a key and its value out of the store; of no effect when it is not there."""

    key: bytes = argument(KEY)


@command_spec(3, scope=Scope.NOTHING, answer=Answer.BYTES)
class Ping(Command):
    """Answer the text, or PONG when it is empty."""

    text: bytes = argument(TEXT)


_CONDITIONS: Final = (("if_absent", "if_present", "if_equals"), ("ttl", "at", "keep_ttl"))


@command_spec(16, scope=Scope.KEYS, reads=True, writes=True, grows=True, answer=Answer.NUMBER, exclusive=_CONDITIONS)
class SetWith(Command):
    """Store a value under conditions; answers 1 when it was stored and 0 when it was not.

    ttl: milliseconds until the key expires; without it the key does not expire.
    keep_ttl: keep the time to live that the key has.
    if_absent, if_present, if_equals: store only if the key is not there, is there, has this value.
    at: when the key expires, in milliseconds since 1970, instead of a ttl; a time in the past is allowed.
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
        """The key, where its value is compared."""
        return () if self.if_equals is None else ((db, self.key),)


@command_spec(17, scope=Scope.KEYS, reads=True, writes=True, grows=True, answer=Answer.BYTES, exclusive=_CONDITIONS)
class Swap(SetWith):
    """As SET_WITH, but answers the value that was there before, whether or not the new one was stored.

    A key that was not there is answered with `MISSING`.
    """

    def places_read(self, db: int) -> tuple[tuple[int, bytes], ...]:
        """The key."""
        return ((db, self.key),)


@command_spec(
    18,
    scope=Scope.KEYS,
    reads=True,
    writes=True,
    grows=True,
    answer=Answer.BYTES,
    exclusive=(("clear", "ttl", "persist", "at"),),
)
class GetWith(Command):
    """The value of a key, which is also cleared, given a new time to live, or made to stay.

    at: when it expires, in milliseconds since 1970, instead of a ttl; a time in the past is allowed.
    A key that is not there is answered with `MISSING`, and stays so.
    """

    key: bytes = argument(KEY)
    clear: bool = switch("CLEAR", default=False)
    ttl: int | None = option("TTL", MILLISECONDS, default=None)
    persist: bool = switch("PERSIST", default=False)
    at: int | None = option("AT", UNIX_MILLISECONDS, default=None)


@command_spec(19, scope=Scope.KEYS, reads=True, writes=True, answer=Answer.NUMBER)
class ClearIfEquals(Command):
    """Clear a key if it has this value; answers 1 when it was cleared and 0 when it was not."""

    key: bytes = argument(KEY)
    value: bytes = argument(VALUE)


@command_spec(20, scope=Scope.KEYS, answer=Answer.NUMBER)
class Exists(Command):
    """How many of these keys are there; a key that is named twice counts twice."""

    names: tuple[bytes, ...] = rest(KEY)


@command_spec(21, scope=Scope.KEYS, reads=True, answer=Answer.ITEMS)
class GetMany(Command):
    """The values of several keys, in their order, of one moment."""

    names: tuple[bytes, ...] = rest(KEY)


@command_spec(22, scope=Scope.KEYS, writes=True, grows=True, answer=Answer.OK)
class SetMany(Command):
    """Store several values at once, all or none; with milliseconds 0 they do not expire."""

    ttl: int = argument(MILLISECONDS_OR_NONE)
    pairs: tuple[tuple[bytes, bytes], ...] = rest(KEY, VALUE)


@command_spec(23, scope=Scope.KEYS, writes=True, answer=Answer.NUMBER)
class ClearMany(Command):
    """Clear several keys at once; answers how many were there."""

    names: tuple[bytes, ...] = rest(KEY)


@command_spec(24, scope=Scope.KEYS, reads=True, writes=True, grows=True, answer=Answer.NUMBER)
class Incr(Command):
    """Add n to a number, kept as decimal text; a key that is not there counts as 0. Answers the sum.

    The time to live stays as it is.
    """

    key: bytes = argument(KEY)
    n: int = argument(AMOUNT)


@command_spec(25, scope=Scope.KEYS, answer=Answer.NUMBER)
class Ttl(Command):
    """The milliseconds until a key expires, or -1 when it does not.

    A key that is not there is answered with `MISSING`.
    """

    key: bytes = argument(KEY)


@command_spec(26, scope=Scope.KEYS, reads=True, writes=True, grows=True, answer=Answer.NUMBER)
class Expire(Command):
    """Give a key a new time to live; answers 1, or 0 when the key is not there."""

    key: bytes = argument(KEY)
    ttl: int = argument(MILLISECONDS)


@command_spec(27, scope=Scope.KEYS, reads=True, writes=True, answer=Answer.NUMBER)
class Persist(Command):
    """Take a key's time to live away; answers 1, or 0 when it had none or is not there."""

    key: bytes = argument(KEY)


@command_spec(28, scope=Scope.TABLE, answer=Answer.ITEMS)
class Scan(Command):
    """One slice of the keys that begin with a prefix: the next cursor, then the keys.

    The first cursor is 0; a next cursor of 0 means the end. A key that was there from the first slice to
    the last is returned, at least once; others may be. `count` is how many keys a slice looks at, so it may
    return fewer, or none, before the end.
    """

    cursor: int = argument(CURSOR)
    count: int = argument(COUNT)
    prefix: bytes = argument(PREFIX)


@command_spec(29, scope=Scope.TABLE, answer=Answer.NUMBER)
class Count(Command):
    """How many keys there are, exactly; what has expired is not counted."""


@command_spec(30, scope=Scope.TABLE, writes=True, answer=Answer.OK)
class ClearAll(Command):
    """Clear every key at once."""


@command_spec(31, scope=Scope.TABLE, writes=True, answer=Answer.ITEMS)
class ClearPrefix(Command):
    """Clear one slice of the keys that begin with a prefix: the next cursor, then how many were cleared.

    Cursors are those of SCAN. Each slice is atomic, the whole is not.
    """

    prefix: bytes = argument(PREFIX)
    cursor: int = argument(CURSOR)


@command_spec(32, scope=Scope.NOTHING, answer=Answer.ITEMS, by_store=True)
class Info(Command):
    """What the store says of itself: names and values, alternating.

    It is told as it is in memory, whether or not the log has it yet.
    """


@command_spec(
    33,
    scope=Scope.KEYS,
    reads=True,
    writes=True,
    grows=True,
    answer=Answer.NUMBER,
    exclusive=(("if_none", "if_some"), ("if_none", "if_later"), ("if_none", "if_sooner"), ("if_later", "if_sooner")),
)
class ExpireWith(Command):
    """Give a key a new time to live under conditions; answers 1, or 0 when they do not hold or it is not there.

    time: milliseconds, from now or, with `at`, since 1970; a key whose time is over is cleared.
    if_none, if_some: only if it has no time to live, or has one.
    if_later, if_sooner: only if it would expire later or sooner than now, where no time to live is the latest.
    """

    key: bytes = argument(KEY)
    time: int = argument(TIME)
    at: bool = switch("AT", default=False)
    if_none: bool = switch("IFNONE", default=False)
    if_some: bool = switch("IFSOME", default=False)
    if_later: bool = switch("IFLATER", default=False)
    if_sooner: bool = switch("IFSOONER", default=False)


@command_spec(34, scope=Scope.KEYS, answer=Answer.NUMBER)
class Deadline(Command):
    """When a key expires, in milliseconds since 1970, or -1 when it does not.

    A key that is not there is answered with `MISSING`.
    """

    key: bytes = argument(KEY)


@command_spec(35, scope=Scope.KEYS, reads=True, writes=True, grows=True, answer=Answer.NUMBER)
class Append(Command):
    """Put a string behind the value of a key, an empty one when it is not there; answers how long it is then.

    The time to live stays as it is.
    """

    key: bytes = argument(KEY)
    value: bytes = argument(VALUE)


@command_spec(36, scope=Scope.KEYS, reads=True, writes=True, grows=True, answer=Answer.NUMBER)
class SetRange(Command):
    """Write a string over the value of a key from an offset on; answers how long it is then.

    Between its end and the offset come zero bytes. An empty string changes nothing. The time to live stays.
    """

    key: bytes = argument(KEY)
    offset: int = argument(OFFSET)
    value: bytes = argument(VALUE)


@command_spec(37, scope=Scope.KEYS, reads=True, writes=True, grows=True, answer=Answer.NUMBER)
class SetBit(Command):
    """Set one bit of the value of a key, 0 being the highest of the first byte; answers what it was.

    What is missing up to it comes as zero bytes. The time to live stays as it is.
    """

    key: bytes = argument(KEY)
    offset: int = argument(BIT_OFFSET)
    bit: int = argument(BIT)


@command_spec(38, scope=Scope.KEYS, reads=True, writes=True, grows=True, answer=Answer.BYTES)
class IncrFloat(Command):
    """Add to a number with a fraction, kept as decimal text; a key that is not there counts as 0. Answers the sum.

    It is reckoned with 64 bits of mantissa, as Redis does on a PC, on every machine. The time to live stays.
    """

    key: bytes = argument(KEY)
    amount: bytes = argument(DECIMAL)


@command_spec(39, scope=Scope.KEYS, reads=True, writes=True, grows=True, answer=Answer.NUMBER)
class Rename(Command):
    """Let a key have another name, with its value and its time to live, in the place of what had that name.

    Answers 1, or 0 when something has that name and must not (if_absent).
    A source that is not there is answered with `MISSING`.
    """

    source: bytes = argument(SOURCE)
    target: bytes = argument(TARGET)
    if_absent: bool = switch("IFABSENT", default=False)

    def places_read(self, db: int) -> tuple[tuple[int, bytes], ...]:
        """The key that gets another name."""
        return ((db, self.source),)


@command_spec(40, scope=Scope.KEYS, reads=True, writes=True, grows=True, answer=Answer.NUMBER)
class Copy(Command):
    """Store the value of a key, with its time to live, under another one as well; answers 1.

    Answers 0 when the source is not there, or the target is and must not be replaced.
    db: the keyspace of the target; without it that of the source.
    """

    source: bytes = argument(SOURCE)
    target: bytes = argument(TARGET)
    db: int | None = option("SPACE", DB, default=None)
    replace: bool = switch("REPLACE", default=False)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        """The two keys, each with its keyspace."""
        return (db, self.source), (db if self.db is None else self.db, self.target)

    def places_read(self, db: int) -> tuple[tuple[int, bytes], ...]:
        """The key that is copied."""
        return ((db, self.source),)


@command_spec(41, scope=Scope.KEYS, writes=True, grows=True, answer=Answer.NUMBER)
class SetManyIfAbsent(Command):
    """Store several values at once if none of the keys is there; answers 1, or 0 when some key is."""

    pairs: tuple[tuple[bytes, bytes], ...] = rest(KEY, VALUE)


@command_spec(42, scope=Scope.TABLE, answer=Answer.BYTES, by_store=True)
class RandomKey(Command):
    """One of the keys, any of them.

    When there is none, the answer is `MISSING`.
    """


@command_spec(43, scope=Scope.NOTHING, answer=Answer.NUMBER, by_store=True)
class Backup(Command):
    """Begin a backup of a store on disk, and answer its number; INFO tells how far it is.

    It is made beside others of this name, in the directory that the server's owner has given it for backups, and has
    everything that was executed before this command.
    keep: once it is there, so many of the newest of that name are kept, this one included; without it all.
    """

    name: bytes = argument(NAME)
    keep: int | None = option("KEEP", KEPT, default=None)


COMMANDS: Final[tuple[type[Command], ...]] = (
    Get,
    Set,
    Clear,
    Ping,
    SetWith,
    Swap,
    GetWith,
    ClearIfEquals,
    Exists,
    GetMany,
    SetMany,
    ClearMany,
    Incr,
    Ttl,
    Expire,
    Persist,
    Scan,
    Count,
    ClearAll,
    ClearPrefix,
    Info,
    ExpireWith,
    Deadline,
    Append,
    SetRange,
    SetBit,
    IncrFloat,
    Rename,
    Copy,
    SetManyIfAbsent,
    RandomKey,
    Backup,
)
BY_NUMBER: Final[dict[int, CommandSpec]] = {command.spec.number: command.spec for command in COMMANDS}
BY_NAME: Final[dict[str, CommandSpec]] = {command.spec.name: command.spec for command in COMMANDS}
