"""The words on values: strings, whole and in parts.

A word that reads one value is GET and something made of its reply; a word that changes one is a command of the
vocabulary, so that the log has it.

Not for numbers (`numbers`) and bits (`bits`), nor for when keys expire (`expiry`), unless it is said with a value.
"""

from collections.abc import Callable
from typing import Any, Final

from cairnkv.commands import (
    Append,
    ClearIfEquals,
    Get,
    GetMany,
    GetWith,
    Reply,
    Set,
    SetMany,
    SetManyIfAbsent,
    SetRange,
    SetWith,
    Swap,
)
from cairnkv.limits import STRING_MAX, TTL_MAX
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
"""Options that say when a key expires: what the vocabulary calls it, and their unit in milliseconds."""

_WITH_ARGUMENT: Final = frozenset({*_TIMES, b"IFEQ"})
_LIFETIMES: Final = frozenset({*_TIMES, b"KEEPTTL", b"PERSIST"})
_CONDITIONS: Final = frozenset({b"NX", b"XX", b"IFEQ"})

_OF_SET: Final = frozenset({*_TIMES, b"KEEPTTL", *_CONDITIONS, b"GET"})
_OF_GETEX: Final = frozenset({*_TIMES, b"PERSIST"})


def _options(arguments: Arguments, allowed: frozenset[bytes]) -> dict[bytes, bytes]:
    """The options that follow, each with its argument. As in Redis one may stand there twice; the last one counts."""
    given: dict[bytes, bytes] = {}
    while len(arguments):
        word = arguments.keyword()
        group = next((group for group in (_LIFETIMES, _CONDITIONS) if word in group), frozenset())
        if word not in allowed or any(other in group for other in given if other != word):
            raise Refusal(SYNTAX)
        given[word] = arguments.take() if word in _WITH_ARGUMENT else b""
    return given


def _lifetime(options: dict[bytes, bytes], name: str) -> dict[str, Any]:
    """The time among the options of a command, as an option of the vocabulary's commands."""
    return {
        field: _time(options[word], unit, name) for word, (field, unit) in _TIMES.items() if word in options
    }  # there is one at most


def _time(text: bytes, unit: int, name: str) -> int:
    """Milliseconds of a time that is a number of units, for a command."""
    milliseconds = integer(text) * unit
    if not 1 <= milliseconds <= TTL_MAX:
        raise Refusal(wrong_time(name))
    return milliseconds


def behind_the_key(key: bytes, refusal: Refusal, *, missing: Value) -> Call:
    """A refusal that Redis says only if the key is there, since it looks for the key first."""
    return Call(Get(key), of_value(lambda _: Error(str(refusal)), missing))


# -- one value ---------------------------------------------------------------------------------------------


@on_keys("GET key", "readonly fast", group="string", since="1.0.0", summary="The value of a key.")
def get(arguments: Arguments) -> Call:
    return Call(Get(arguments.key()), value_or_null)


@on_keys(
    "SET key value [NX | XX | IFEQ comparison-value] [GET] "
    "[EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL]",
    "write denyoom",
    group="string",
    since="1.0.0",
    summary="Store a value under a key, if conditions hold, for good or for some time.",
)
def set_(arguments: Arguments) -> Call:
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


@on_keys(
    "SETNX key value",
    "write denyoom fast",
    group="string",
    since="1.0.0",
    summary="Store a value if the key is not there; 1 if so.",
)
def setnx(arguments: Arguments) -> Call:
    return Call(SetWith(arguments.key(), arguments.take(), if_absent=True), number)


@on_keys(
    "SETEX key seconds value",
    "write denyoom",
    group="string",
    since="2.0.0",
    summary="Store a value for so many seconds.",
)
def setex(arguments: Arguments) -> Call:
    return _set_for(arguments, 1_000)


@on_keys(
    "PSETEX key milliseconds value",
    "write denyoom",
    group="string",
    since="2.6.0",
    summary="Store a value for so many milliseconds.",
)
def psetex(arguments: Arguments) -> Call:
    return _set_for(arguments, 1)


def _set_for(arguments: Arguments, unit: int) -> Call:
    key, ttl = arguments.key(), _time(arguments.take(), unit, arguments.name)
    return Call(SetWith(key, arguments.take(), ttl=ttl), ok)


@on_keys(
    "GETSET key value",
    "write denyoom fast",
    group="string",
    since="1.0.0",
    summary="Store a value; the one that was there before.",
)
def getset(arguments: Arguments) -> Call:
    return Call(Swap(arguments.key(), arguments.take()), value_or_null)


@on_keys("GETDEL key", "write fast", group="string", since="6.2.0", summary="Take a key out; the value it had.")
def getdel(arguments: Arguments) -> Call:
    return Call(GetWith(arguments.key(), clear=True), value_or_null)


@on_keys(
    "GETEX key [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | PERSIST]",
    "write fast",
    group="string",
    since="6.2.0",
    summary="The value of a key, which then expires at another time, or not at all.",
)
def getex(arguments: Arguments) -> Call:
    key = arguments.key()
    options = _options(arguments, _OF_GETEX)
    if not options:
        return Call(Get(key), value_or_null)
    try:
        lifetime = _lifetime(options, arguments.name)
    except Refusal as refusal:
        return behind_the_key(key, refusal, missing=None)
    return Call(GetWith(key, persist=b"PERSIST" in options, **lifetime), value_or_null)


@on_keys(
    "DELIFEQ key value",
    "write fast",
    group="string",
    since="9.0.0",
    summary="Take a key out if it has this value; 1 if so. As in Valkey.",
)
def delifeq(arguments: Arguments) -> Call:
    return Call(ClearIfEquals(arguments.key(), arguments.take()), number)


# -- several values ----------------------------------------------------------------------------------------


@on_keys(
    "MGET key [key ...]", "readonly fast", group="string", since="1.0.0", summary="The values of several keys at once."
)
def mget(arguments: Arguments) -> Call:
    return Call(GetMany(arguments.keys()), values)


@on_keys(
    "MSET key value [key value ...]",
    "write denyoom",
    group="string",
    since="1.0.1",
    summary="Store several values at once.",
)
def mset(arguments: Arguments) -> Call:
    return Call(SetMany(0, arguments.pairs()), ok)


@on_keys(
    "MSETNX key value [key value ...]",
    "write denyoom",
    group="string",
    since="1.0.1",
    summary="Store several values at once if none of the keys is there; 1 if so.",
)
def msetnx(arguments: Arguments) -> Call:
    return Call(SetManyIfAbsent(arguments.pairs()), number)


# -- parts of a value --------------------------------------------------------------------------------------


@on_keys(
    "APPEND key value",
    "write denyoom fast",
    group="string",
    since="2.0.0",
    summary="Put a string behind a value; how long it is then.",
)
def append(arguments: Arguments) -> Call:
    return Call(Append(arguments.key(), arguments.take()), number)


@on_keys("STRLEN key", "readonly fast", group="string", since="2.2.0", summary="How many bytes a value has.")
def strlen(arguments: Arguments) -> Call:
    return Call(Get(arguments.key()), _length)


_length: Final[Callable[[Reply], Value]] = of_value(len, 0)


@on_keys("GETRANGE key start end", "readonly", group="string", since="2.4.0", summary="A part of a value.")
def getrange(arguments: Arguments) -> Call:
    key, start, end = arguments.key(), arguments.integer(), arguments.integer()

    def part(value: bytes) -> bytes:
        places = places_of(start, end, len(value))
        return value[places.start : places.stop]

    return Call(Get(key), of_value(part, b""))


@on_keys("SUBSTR key start end", "readonly", group="string", since="1.0.0", summary="GETRANGE by its first name.")
def substr(arguments: Arguments) -> Call:
    return getrange(arguments)


def places_of(start: int, end: int, count: int) -> range:
    """Those of so many places that lie from a start to an end, both included; below zero they count from the end.

    >>> places_of(1, 2, 5), places_of(-3, -1, 5), places_of(3, 1, 5), places_of(-2, -3, 5)
    (range(1, 3), range(2, 5), range(0, 0), range(0, 0))
    """
    if start < 0 and end < 0 and start > end:  # before both are taken for 0, where they lie before the first place
        return range(0)
    first, last = (max(0, place + count if place < 0 else place) for place in (start, end))
    places = range(first, min(last, count - 1) + 1)
    return places or range(0)


@on_keys(
    "SETRANGE key offset value",
    "write denyoom",
    group="string",
    since="2.2.0",
    summary="Write a string over a value from an offset on; how long it is then.",
)
def setrange(arguments: Arguments) -> Call:
    key, offset, value = arguments.key(), arguments.integer(), arguments.take()
    if offset < 0:
        raise Refusal("ERR offset is out of range")
    if not value:
        return Call(Get(key), _length)
    if offset + len(value) > STRING_MAX:
        raise Refusal(TOO_LONG)
    return Call(SetRange(key, offset, value), number)
