"""The commands of the Redis protocol on values, on parts of values, and on numbers.

A command that reads one value is `Get` with a function of its reply. A command that writes is one of the registry, so
that logs can contain it.

Out of scope: bits (`bits`), and expiry without a value (`expiry`).
"""

from collections.abc import Callable
from typing import Any, Final

from cairnkv.commands import (
    Append,
    ClearIfEquals,
    Get,
    GetMany,
    GetWith,
    Incr,
    IncrFloat,
    Reply,
    Set,
    SetMany,
    SetManyIfAbsent,
    SetRange,
    SetWith,
    Swap,
    failures,
)
from cairnkv.limits import INTEGER_MIN, STRING_MAX, TTL_MAX
from cairnkv.protocol.resp import Error
from cairnkv.session.resp.command_spec import (
    SYNTAX,
    TOO_LONG,
    Arguments,
    Call,
    Refusal,
    Value,
    integer,
    on_keys,
    wrong_time,
)
from cairnkv.session.resp.commands.replies import number, of_value, ok, ok_or_null, value_or_null, values

# -- options -----------------------------------------------------------------------------------------------

_TIMES: Final = {b"EX": ("ttl", 1_000), b"PX": ("ttl", 1), b"EXAT": ("at", 1_000), b"PXAT": ("at", 1)}
"""The options of expiry: the field of the command, and the unit in milliseconds."""

_WITH_ARGUMENT: Final = frozenset({*_TIMES, b"IFEQ"})
_LIFETIMES: Final = frozenset({*_TIMES, b"KEEPTTL", b"PERSIST"})
_CONDITIONS: Final = frozenset({b"NX", b"XX", b"IFEQ"})

_OF_SET: Final = frozenset({*_TIMES, b"KEEPTTL", *_CONDITIONS, b"GET"})
_OF_GETEX: Final = frozenset({*_TIMES, b"PERSIST"})


def _options(arguments: Arguments, allowed: frozenset[bytes]) -> dict[bytes, bytes]:
    """Return the options that follow, each with its argument. As in Redis, the last of equal options counts."""
    given: dict[bytes, bytes] = {}
    while len(arguments):
        keyword = arguments.keyword()
        group = next((group for group in (_LIFETIMES, _CONDITIONS) if keyword in group), frozenset())
        if keyword not in allowed or any(other in group for other in given if other != keyword):
            raise Refusal(SYNTAX)
        given[keyword] = arguments.take() if keyword in _WITH_ARGUMENT else b""
    return given


def _lifetime(options: dict[bytes, bytes], name: str) -> dict[str, Any]:
    """Return the field for the expiry among the options of a command, at most one."""
    return {
        field: _time(options[keyword], unit, name) for keyword, (field, unit) in _TIMES.items() if keyword in options
    }


def _time(text: bytes, unit: int, name: str) -> int:
    """Return a number of units in milliseconds."""
    milliseconds = integer(text) * unit
    if not 1 <= milliseconds <= TTL_MAX:
        raise Refusal(wrong_time(name))
    return milliseconds


def refused_if_exists(key: bytes, refusal: Refusal, *, missing: Value) -> Call:
    """Return a call that fails if the key exists. Redis looks up the key before it checks the other arguments."""
    return Call(Get(key), of_value(lambda _: Error(str(refusal)), missing))


# -- one value ---------------------------------------------------------------------------------------------


@on_keys("GET key", "readonly fast", group="string", since="1.0.0")
def get(arguments: Arguments) -> Call:
    """Return the value of a key."""
    return Call(Get(arguments.key()), value_or_null)


@on_keys(
    "SET key value [NX | XX | IFEQ comparison-value] [GET] "
    "[EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL]",
    "write denyoom",
    group="string",
    since="1.0.0",
)
def set_(arguments: Arguments) -> Call:
    """Store a value under a key, optionally under conditions and with an expiry."""
    key, value = arguments.key(), arguments.take()
    options = _options(arguments, _OF_SET)
    if not options:
        return Call(Set(key, value), ok)
    how = {
        "keep_ttl": b"KEEPTTL" in options,
        "if_absent": b"NX" in options,
        "if_present": b"XX" in options,
        "if_equals": options.get(b"IFEQ"),
        **_lifetime(options, arguments.name),
    }
    if b"GET" in options:
        return Call(Swap(key, value, **how), value_or_null)
    return Call(SetWith(key, value, **how), ok_or_null)


@on_keys("SETNX key value", "write denyoom fast", group="string", since="1.0.0")
def setnx(arguments: Arguments) -> Call:
    """Store a value if the key does not exist. Returns 1 if it was stored, else 0."""
    return Call(SetWith(arguments.key(), arguments.take(), if_absent=True), number)


@on_keys("SETEX key seconds value", "write denyoom", group="string", since="2.0.0")
def setex(arguments: Arguments) -> Call:
    """Store a value that expires after a number of seconds."""
    return _set_for(arguments, 1_000)


@on_keys("PSETEX key milliseconds value", "write denyoom", group="string", since="2.6.0")
def psetex(arguments: Arguments) -> Call:
    """Store a value that expires after a number of milliseconds."""
    return _set_for(arguments, 1)


def _set_for(arguments: Arguments, unit: int) -> Call:
    key, ttl = arguments.key(), _time(arguments.take(), unit, arguments.name)
    return Call(SetWith(key, arguments.take(), ttl=ttl), ok)


@on_keys("GETSET key value", "write denyoom fast", group="string", since="1.0.0")
def getset(arguments: Arguments) -> Call:
    """Store a value. Returns the previous value."""
    return Call(Swap(arguments.key(), arguments.take()), value_or_null)


@on_keys("GETDEL key", "write fast", group="string", since="6.2.0")
def getdel(arguments: Arguments) -> Call:
    """Delete a key. Returns its value."""
    return Call(GetWith(arguments.key(), clear=True), value_or_null)


@on_keys(
    "GETEX key [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | PERSIST]",
    "write fast",
    group="string",
    since="6.2.0",
)
def getex(arguments: Arguments) -> Call:
    """Return the value of a key, and set or remove its expiry."""
    key = arguments.key()
    options = _options(arguments, _OF_GETEX)
    if not options:
        return Call(Get(key), value_or_null)
    try:
        lifetime = _lifetime(options, arguments.name)
    except Refusal as refusal:
        return refused_if_exists(key, refusal, missing=None)
    return Call(GetWith(key, persist=b"PERSIST" in options, **lifetime), value_or_null)


@on_keys("DELIFEQ key value", "write fast", group="string", since="9.0.0")
def delifeq(arguments: Arguments) -> Call:
    """Delete a key if it has this value. Returns 1 if it was deleted, else 0. As in Valkey."""
    return Call(ClearIfEquals(arguments.key(), arguments.take()), number)


# -- several values ----------------------------------------------------------------------------------------


@on_keys("MGET key [key ...]", "readonly fast", group="string", since="1.0.0")
def mget(arguments: Arguments) -> Call:
    """Return the values of several keys."""
    return Call(GetMany(arguments.keys()), values)


@on_keys("MSET key value [key value ...]", "write denyoom", group="string", since="1.0.1")
def mset(arguments: Arguments) -> Call:
    """Store several values."""
    return Call(SetMany(0, arguments.pairs()), ok)


@on_keys("MSETNX key value [key value ...]", "write denyoom", group="string", since="1.0.1")
def msetnx(arguments: Arguments) -> Call:
    """Store several values if none of the keys exists. Returns 1 if they were stored, else 0."""
    return Call(SetManyIfAbsent(arguments.pairs()), number)


# -- parts of a value --------------------------------------------------------------------------------------


@on_keys("APPEND key value", "write denyoom fast", group="string", since="2.0.0")
def append(arguments: Arguments) -> Call:
    """Append a string to a value. Returns the new length."""
    return Call(Append(arguments.key(), arguments.take()), number)


@on_keys("STRLEN key", "readonly fast", group="string", since="2.2.0")
def strlen(arguments: Arguments) -> Call:
    """Return the length of a value in bytes."""
    return Call(Get(arguments.key()), _length)


_length: Final[Callable[[Reply], Value]] = of_value(len, 0)


@on_keys("GETRANGE key start end", "readonly", group="string", since="2.4.0")
def getrange(arguments: Arguments) -> Call:
    """Return a part of a value."""
    key, start, end = arguments.key(), arguments.integer(), arguments.integer()

    def part(value: bytes) -> bytes:
        if end < -len(value):  # Redis 8 returns nothing; earlier releases return the first byte
            return b""
        places = places_of(start, end, len(value))
        return value[places.start : places.stop]

    return Call(Get(key), of_value(part, b""))


@on_keys("SUBSTR key start end", "readonly", group="string", since="1.0.0")
def substr(arguments: Arguments) -> Call:
    """Return a part of a value. The former name of GETRANGE."""
    return getrange(arguments)


def places_of(start: int, end: int, count: int) -> range:
    """Return the indexes from a start to an end, both included, of `count` items. Negative numbers count from the end.

    >>> places_of(1, 2, 5), places_of(-3, -1, 5), places_of(3, 1, 5), places_of(-2, -3, 5)
    (range(1, 3), range(2, 5), range(0, 0), range(0, 0))
    """
    if start < 0 and end < 0 and start > end:  # even if both lie before the first item, and would become 0
        return range(0)
    first, last = (max(0, place + count if place < 0 else place) for place in (start, end))
    places = range(first, min(last, count - 1) + 1)
    return places or range(0)


@on_keys("SETRANGE key offset value", "write denyoom", group="string", since="2.2.0")
def setrange(arguments: Arguments) -> Call:
    """Overwrite a value from an offset on. Returns the new length."""
    key, offset, value = arguments.key(), arguments.integer(), arguments.take()
    if offset < 0:
        raise Refusal("ERR offset is out of range")
    if not value:
        return Call(Get(key), _length)
    if offset + len(value) > STRING_MAX:
        raise Refusal(TOO_LONG)
    return Call(SetRange(key, offset, value), number)


# -- numbers: values in decimal text -------------------------------------------------------------------------


@on_keys("INCR key", "write denyoom fast", group="string", since="1.0.0")
def incr(arguments: Arguments) -> Call:
    """Add 1 to an integer. Returns the sum."""
    return Call(Incr(arguments.key(), 1), number)


@on_keys("DECR key", "write denyoom fast", group="string", since="1.0.0")
def decr(arguments: Arguments) -> Call:
    """Subtract 1 from an integer. Returns the difference."""
    return Call(Incr(arguments.key(), -1), number)


@on_keys("INCRBY key increment", "write denyoom fast", group="string", since="1.0.0")
def incrby(arguments: Arguments) -> Call:
    """Add to an integer. Returns the sum."""
    return Call(Incr(arguments.key(), arguments.integer()), number)


@on_keys("DECRBY key decrement", "write denyoom fast", group="string", since="1.0.0")
def decrby(arguments: Arguments) -> Call:
    """Subtract from an integer. Returns the difference."""
    key, amount = arguments.key(), arguments.integer()
    if amount == INTEGER_MIN:  # its negation exceeds 64 bits
        raise Refusal("ERR decrement would overflow")
    return Call(Incr(key, -amount), number)


_NO_FLOAT: Final = {failures.OVERFLOW: "ERR increment would produce NaN or Infinity"}


@on_keys("INCRBYFLOAT key increment", "write denyoom fast", group="string", since="2.6.0")
def incrbyfloat(arguments: Arguments) -> Call:
    """Add to a decimal number. Returns the sum."""
    return Call(IncrFloat(arguments.key(), arguments.take()), value_or_null, _NO_FLOAT)
