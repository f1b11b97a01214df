"""Random programs for the differential test: commands of Redis, right and wrong ones, on a few keys that meet.

What always holds, so that two servers that agree give equal replies: deadlines are further away than any run takes,
or past; no two relative deadlines are equal, since which of them is later would be a matter of milliseconds; a key
that was stored with a past deadline is looked at before anybody counts keys; no value grows large; no time is one
that Redis takes and we do not.

Not in a program, since the replies of two servers have to differ or stop: CLIENT ID, INFO and LIST, COMMAND without
GETKEYS, CONFIG GET, INFO, MEMORY USAGE, QUIT, SHUTDOWN, CLIENT REPLY OFF. The conversations have those.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from cairnkv.limits import TTL_MAX
from cairnkv.session.resp.command_spec import is_integer
from tests.support.raw_resp import Words

ASKED_FURTHER = (b"SCAN", b"RANDOMKEY")
"""Words whose reply leads to more questions before anything else happens."""

CONNECTIONS = 2
STEPS = 25
"""Commands in a program, at most."""

KEYS = (b"a", b"b", b"key:1", b"k\x00\xff")
DATABASES = (b"0", b"1", b"15")


@dataclass(frozen=True)
class Step:
    """One command on one of the connections."""

    connection: int
    words: Words


@dataclass(frozen=True)
class Program:
    """Steps, and how they are sent.

    protocols: RESP2 or RESP3, for each connection.
    bursts: whether steps in a row on one connection leave in one write.
    """

    protocols: tuple[int, ...]
    bursts: bool
    steps: tuple[Step, ...]

    def writes(self) -> Iterator[tuple[int, list[Words]]]:
        """A connection, and the commands that leave on it together."""
        for connection, steps in groupby(self.steps, key=lambda step: step.connection):
            together: list[Words] = []
            for step in steps:
                alone = not self.bursts or step.words[0].upper() in ASKED_FURTHER
                if alone and together:
                    yield connection, together
                    together = []
                if alone:
                    yield connection, [step.words]
                else:
                    together.append(step.words)
            if together:
                yield connection, together


def words(*parts: "bytes | SearchStrategy[bytes] | SearchStrategy[Words]") -> SearchStrategy[Words]:
    """A command from its words; a part that draws several words puts them all there."""
    drawn = [st.just((part,)) if isinstance(part, bytes) else part for part in parts]

    def flat(found: tuple[bytes | Words, ...]) -> Words:
        return tuple(word for part in found for word in ((part,) if isinstance(part, bytes) else part))

    return st.tuples(*drawn).map(flat)


def some(*values: bytes) -> SearchStrategy[bytes]:
    """One of these words."""
    return st.sampled_from(values)


def maybe(*parts: "bytes | SearchStrategy[bytes] | SearchStrategy[Words]") -> SearchStrategy[Words]:
    """These words, or none."""
    return st.one_of(st.just(()), words(*parts))


def several(part: "SearchStrategy[bytes] | SearchStrategy[Words]", least: int, most: int) -> SearchStrategy[Words]:
    """So many of these."""
    return st.lists(words(part), min_size=least, max_size=most).map(lambda found: sum(found, ()))


def options(*each: SearchStrategy[Words]) -> SearchStrategy[Words]:
    """Up to three of these options in any order, a bad combination now and then included."""
    return st.lists(st.one_of(*each), max_size=3).map(lambda found: sum(found, ()))


key = some(*KEYS)
integers = (b"0", b"1", b"-1", b"5", b"10", b"255", b"9223372036854775807", b"-9223372036854775808")
not_integers = (
    b"9223372036854775808", b"-9223372036854775809", b"99999999999999999999999", b"x", b"", b" 1", b"1 ", b"01",
    b"+1", b"-0", b"1.0", b"1e3", b"0x10", b"--1", b"1\x00",
)  # fmt: skip
floats = (
    b"0", b"1", b"-1", b"0.1", b"-0.1", b"3.0", b"1e10", b"1E5", b"5.0e3", b"-1e-5", b"12345678901234567",
    b"0.12345678901234567", b"123456789.123456789", b"1e17", b"1e18", b"99999999999999999", b".5", b"5.", b"+1.5",
    b"-0", b"3.141592653589793", b"1e-17", b"1e-18", b"0.30000000000000004", b"9223372036854775807",
)  # fmt: skip
not_floats = (
    b"nan", b"-nan", b"NaN", b"inf", b"+inf", b"-inf", b"infinity", b"1e400", b"-1e400", b"1e5000", b"x", b"", b" 1",
    b"1 ", b"1.5x", b"1e", b"e1", b"--1", b"1..5", b".", b"1_0", b"1\x00",
)  # fmt: skip
integer = st.one_of(
    some(*integers), some(*integers), st.integers(-20, 20).map(lambda n: b"%d" % n), some(*not_integers)
)
floating = st.one_of(some(*floats), some(*floats), some(*not_floats))
index = st.one_of(st.integers(-8, 8).map(lambda n: b"%d" % n), some(*integers), some(*not_integers))
value = st.one_of(
    some(*integers),
    some(*floats),
    some(*not_integers, *not_floats),
    some(b"abc", b"Hello World", b"\x00\xff\r\n", b"x" * 44, b"x" * 45, b"ohmytext", b"y" * 1000),
    st.binary(max_size=20),
)
database = st.one_of(
    some(*DATABASES), some(*DATABASES), some(b"-1", b"16", b"x", b"", b"2147483648", b"9223372036854775808")
)
pattern = some(
    b"*", b"a*", b"?", b"[ab]", b"[^a]", b"key:*", b"k\\*", b"key:[0-9]", b"", b"a", b"[a", b"**", b"k[^\x01]*",
)  # fmt: skip

# Relative deadlines; `_distinct` moves every one of them by its place in the program.
seconds = some(b"10000", b"20000", b"700000")
milliseconds = some(b"10000000", b"20000000", b"700000000")
no_time = some(
    b"0", b"-1", b"-9223372036854775808", b"9223372036854775807", b"9223372036854775", b"9223372036854775808", b"x",
    b"", b"1.5", b"18446744073709561",
)  # fmt: skip
at_seconds = some(b"4000000000", b"4000000001", b"5000000000")
at_milliseconds = some(b"4000000000000", b"4000000000001", b"5000000000000")
past = some(b"1", b"1000")
RELATIVE = {b"EX": 1000, b"PX": 1, b"SETEX": 1000, b"PSETEX": 1, b"EXPIRE": 1000, b"PEXPIRE": 1}
"""Words that a relative deadline may stand behind, directly or with a key between, and its unit in milliseconds."""

ABSOLUTE = {b"EXAT": 1000, b"PXAT": 1, b"EXPIREAT": 1000, b"PEXPIREAT": 1}
"""The same for deadlines that are a time of the clock."""

LAST_MS = 2**63 - 1
"""The last deadline that Redis knows."""

flag = words(some(b"NX", b"XX", b"GT", b"LT", b"nx", b"Gt", b"KEEPTTL", b"x"))
set_option = (
    words(some(b"NX", b"XX", b"GET", b"KEEPTTL", b"nx", b"get", b"PERSIST", b"EX", b"x")),
    words(b"EX", st.one_of(seconds, no_time)),
    words(b"PX", st.one_of(milliseconds, no_time)),
    words(b"EXAT", st.one_of(at_seconds, past, no_time)),
    words(b"PXAT", st.one_of(at_milliseconds, past, no_time)),
)
channel = some(b"channel", b"c", b"a", b"key:1", b"")
name = some(b"", b"me", b"a-name", b"two words", b"line\nbreak", b"\xff", b"~!@")
junk = some(
    b"x", b"-1", b"0", b"1.5", b"nan", b"9223372036854775807", b"9223372036854775808", b"*", b"EX", b"GET", b"NX",
    b"COUNT", b"a", b"-9223372036854775808",
)  # fmt: skip

COMMANDS: dict[bytes, SearchStrategy[Words]] = {
    b"GET": words(key),
    b"SET": words(key, value, options(*set_option)),
    b"GETSET": words(key, value),
    b"GETDEL": words(key),
    b"GETEX": words(key, options(*set_option)),
    b"SETNX": words(key, value),
    b"SETEX": words(key, st.one_of(seconds, no_time), value),
    b"PSETEX": words(key, st.one_of(milliseconds, no_time), value),
    b"MGET": several(key, 1, 4),
    b"MSET": several(words(key, value), 1, 3),
    b"MSETNX": several(words(key, value), 1, 2),
    b"APPEND": words(key, value),
    b"STRLEN": words(key),
    b"GETRANGE": words(key, index, index),
    b"SUBSTR": words(key, index, index),
    b"SETRANGE": words(key, st.one_of(some(b"0", b"1", b"5", b"60"), no_time), value),
    b"INCR": words(key),
    b"DECR": words(key),
    b"INCRBY": words(key, integer),
    b"DECRBY": words(key, integer),
    b"INCRBYFLOAT": words(key, floating),
    b"BITCOUNT": words(key, maybe(index, index, maybe(some(b"BYTE", b"BIT", b"bit", b"x")))),
    b"GETBIT": words(key, st.one_of(some(b"0", b"7", b"8", b"100", b"4294967295", b"4294967296"), no_time)),
    b"SETBIT": words(
        key,
        st.one_of(some(b"0", b"7", b"8", b"100", b"4294967296"), no_time),
        some(b"0", b"1", b"1", b"2", b"-1", b"x"),
    ),
    b"DEL": several(key, 1, 3),
    b"UNLINK": several(key, 1, 3),
    b"EXISTS": several(key, 1, 3),
    b"TOUCH": several(key, 1, 3),
    b"TYPE": words(key),
    b"RENAME": words(key, key),
    b"RENAMENX": words(key, key),
    b"COPY": words(key, key, options(words(b"REPLACE"), words(b"DB", database), words(some(b"replace", b"x", b"DB")))),
    b"KEYS": words(pattern),
    b"SCAN": words(
        st.one_of(
            st.just(b"0"), st.just(b"0"), st.just(b"0"), some(b"x", b"-1", b"1.5", b"", b" 0", b"99999999999999999999")
        ),
        options(
            words(b"MATCH", pattern),
            words(b"COUNT", some(b"1", b"10", b"1000", b"0", b"-1", b"x", b"")),
            words(b"TYPE", some(b"string", b"STRING", b"list", b"nosuch")),
            words(some(b"MATCH", b"count", b"x")),
        ),
    ),
    b"RANDOMKEY": words(),
    b"DBSIZE": words(),
    b"FLUSHDB": maybe(some(b"ASYNC", b"SYNC", b"async", b"x")),
    b"FLUSHALL": maybe(some(b"ASYNC", b"SYNC", b"sync", b"x")),
    b"EXPIRE": words(key, st.one_of(seconds, no_time), options(flag)),
    b"PEXPIRE": words(key, st.one_of(milliseconds, no_time), options(flag)),
    b"EXPIREAT": words(key, st.one_of(at_seconds, past, no_time), options(flag)),
    b"PEXPIREAT": words(key, st.one_of(at_milliseconds, past, no_time), options(flag)),
    b"TTL": words(key),
    b"PTTL": words(key),
    b"EXPIRETIME": words(key),
    b"PEXPIRETIME": words(key),
    b"PERSIST": words(key),
    b"OBJECT": words(some(b"ENCODING", b"encoding", b"nosuch"), key),
    b"MULTI": words(),
    b"EXEC": words(),
    b"DISCARD": words(),
    b"WATCH": several(key, 1, 2),
    b"UNWATCH": words(),
    b"SELECT": words(database),
    b"PUBLISH": words(channel, value),
    b"PUBSUB": st.one_of(
        words(b"CHANNELS", maybe(pattern)),
        words(b"NUMSUB", several(channel, 0, 2)),
        words(b"NUMPAT"),
        words(some(b"nosuch", b"numpat")),
    ),
    b"PING": maybe(value),
    b"ECHO": words(value),
    b"RESET": words(),
    b"HELLO": maybe(
        some(b"2", b"3", b"1", b"4", b"x", b""),
        options(words(b"SETNAME", name), words(b"AUTH", b"default", b"x"), words(some(b"x", b"SETNAME"))),
    ),
    b"AUTH": several(some(b"default", b"x", b""), 1, 2),
    b"CLIENT": st.one_of(
        words(b"GETNAME"),
        words(b"SETNAME", name),
        words(b"NO-EVICT", some(b"ON", b"off", b"x")),
        words(b"KILL", some(b"127.0.0.1:1", b"x", b"")),
        words(
            b"KILL", some(b"ID", b"TYPE", b"USER", b"ADDR", b"LADDR", b"SKIPME", b"x"), some(b"x", b"999999999", b"")
        ),
        words(b"REPLY", some(b"ON", b"x")),
        words(b"LIST", some(b"TYPE", b"ID", b"x"), some(b"x", b"999999999")),
        words(b"nosuch"),
    ),
    b"COMMAND": words(
        b"GETKEYS", some(b"GET", b"SET", b"MSET", b"COPY", b"nosuch", b"PING", b"RENAME", b"EXISTS"), several(key, 0, 4)
    ),
    b"CONFIG": words(some(b"GET", b"SET", b"nosuch", b"RESETSTAT"), several(some(b"nosuch", b"no-such-either"), 0, 2)),
    b"TIME": words(),
    b"WAIT": words(some(b"0", b"-1", b"x"), some(b"0", b"1", b"-1", b"x")),
    b"NOSUCH": several(value, 0, 3),
    b"get\r\n": several(value, 0, 2),
}
"""What a word of Redis may be followed by; the last two are no words of Redis."""

CHANNELS: dict[bytes, SearchStrategy[Words]] = {
    b"SUBSCRIBE": several(channel, 1, 3),
    b"UNSUBSCRIBE": several(channel, 0, 3),
    b"PSUBSCRIBE": several(pattern, 1, 2),
    b"PUNSUBSCRIBE": several(pattern, 0, 2),
    **{word: COMMANDS[word] for word in (b"PUBLISH", b"PUBSUB", b"PING", b"RESET", b"GET", b"ECHO")},
    b"publish": words(channel, value),
}
"""The same for programs about channels: these words may have many replies, or none."""

OFTEN = (b"GET", b"SET", b"INCR", b"DEL", b"MULTI", b"EXEC", b"WATCH", b"EXPIRE", b"TTL", b"INCRBYFLOAT", b"SCAN")


def _wrong(draw: Callable[[SearchStrategy[int]], int], given: Words, wrong: bytes) -> Words:
    """The command with one fault: a word too few or too many, or one that does not belong there."""
    at = draw(st.integers(1, max(1, len(given) - 1)))
    return (
        given[:-1] if len(given) > 1 else (*given, wrong),
        (*given, wrong),
        (*given[:at], wrong, *given[at + 1 :]),
    )[draw(st.integers(0, 2))]


@st.composite
def commands(draw: st.DrawFn, names: tuple[bytes, ...], words: dict[bytes, SearchStrategy[Words]] = COMMANDS) -> Words:
    """One command, one in eight with a fault, in any case of letters."""
    word = draw(st.sampled_from(names))
    given: Words = (word, *draw(words[word]))
    if draw(st.integers(0, 7)) == 0:
        given = _wrong(draw, given, draw(junk))
    return (draw(st.sampled_from((given[0], given[0], given[0].lower()))), *given[1:])


def _times(given: Words, units: dict[bytes, int]) -> Iterator[tuple[int, int]]:
    """Where in a command there are times, and their units."""
    for at in range(1, len(given)):
        for word in (given[at - 1], given[0] if at == 2 else b""):
            if word.upper() in units and given[at].isdigit():
                yield at, units[word.upper()]


def _distinct(given: Words, place: int) -> Words:
    """The command with its relative deadlines moved, so that no other in the program is equal to one of them."""
    moved = list(given)
    for at, _ in _times(given, RELATIVE):
        if 10_000 <= int(given[at]) < 2**62:
            unit = 1000 if int(given[at]) >= 10_000_000 else 1
            moved[at] = b"%d" % (int(given[at]) + 97 * unit * place)
    return tuple(moved)


def _only_redis_takes(given: Words) -> bool:
    """Whether there is a time that is too far away for us and not for Redis; one of the known differences."""
    now = 1000 * int(time.time())
    return any(
        TTL_MAX < int(given[at]) * unit <= LAST_MS - (now if units is RELATIVE else 0)
        for units in (RELATIVE, ABSOLUTE)
        for at, unit in _times(given, units)
    )


def _is_told_otherwise_since(given: Words) -> bool:
    """Whether a newer Redis, which we follow, may say something else than 7.0."""
    match given[0].upper(), given[1:]:
        case b"COMMAND", (first, _):
            return first.upper() == b"GETKEYS"
        case b"CONFIG", (first, *patterns):  # other options
            return first.upper() == b"GET" and any(mark in pattern for pattern in patterns for mark in b"*?[")
        case b"GETRANGE" | b"SUBSTR", (_, start, end) if is_integer(start) and is_integer(end):
            # An end before the first byte, and a start at or before it.
            return int(end) < -1 and (int(start) == 0 or int(start) <= int(end))
        case b"BITCOUNT", (_, *others):  # a missing key, and other arguments that are wrong
            numbers, unit = others[:2], others[2:]
            known = not others or (len(numbers) == 2 and all(map(is_integer, numbers)) and len(unit) <= 1)
            return not known or any(word.upper() not in (b"BYTE", b"BIT") for word in unit)
    return False


def agrees(given: Words) -> bool:
    """Whether redis-server and cairnkv have to give the same reply."""
    return not _only_redis_takes(given) and not _is_told_otherwise_since(given)


@st.composite
def programs(
    draw: st.DrawFn,
    names: tuple[bytes, ...] = tuple(COMMANDS),
    words: dict[bytes, SearchStrategy[Words]] = COMMANDS,
    steps_max: int = STEPS,
) -> Program:
    """A program of these words."""
    often = tuple(word for word in OFTEN if word in names)
    one = st.one_of(commands(names, words), commands(often, words)) if often else commands(names, words)
    connection = st.sampled_from((0, 0, 0, 1))
    drawn = draw(st.lists(st.tuples(connection, one), min_size=1, max_size=steps_max))
    steps = []
    for place, (where, given) in enumerate(drawn):
        moved = _distinct(given, place)
        if not agrees(moved):
            continue
        steps.append(Step(where, moved))
        if given[0].upper() in (b"SET", b"GETEX", b"PEXPIREAT", b"EXPIREAT") and len(given) > 2:
            steps.append(Step(where, (b"EXISTS", given[1])))  # so that no key is there whose time has passed
    protocols = tuple(draw(st.sampled_from((2, 3))) for _ in range(CONNECTIONS))
    return Program(protocols, draw(st.booleans()), tuple(steps))
