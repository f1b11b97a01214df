"""The commands of the Redis protocol on expiry.

Times are in seconds or milliseconds, from now or since 1970. The registry's commands use milliseconds. Replies in
seconds are rounded to the nearest second, as in Redis.
"""

from collections.abc import Callable, Sequence
from typing import Final

from cairnkv.commands import MISSING, Deadline, ExpireWith, Persist, Reply, Ttl
from cairnkv.limits import INTEGER_MIN, TTL_MAX
from cairnkv.session.resp.command_spec import Arguments, Call, Refusal, Value, integer, on_keys, repeated, wrong_time
from cairnkv.session.resp.commands.replies import number

SECOND: Final = 1_000

NO_KEY: Final = -2
"""The time to live of a missing key. That of a key without expiry is -1."""

_CONDITIONS: Final = {b"NX": "if_none", b"XX": "if_some", b"GT": "if_later", b"LT": "if_sooner"}


# -- setting -----------------------------------------------------------------------------------------------


@on_keys("EXPIRE key seconds [NX | XX | GT | LT]", "write fast", group="generic", since="1.0.0")
def expire(arguments: Arguments) -> Call:
    """Set the time to live of a key in seconds. Returns 1 if it was set, else 0."""
    return _expire(arguments, SECOND, at=False)


@on_keys("PEXPIRE key milliseconds [NX | XX | GT | LT]", "write fast", group="generic", since="2.6.0")
def pexpire(arguments: Arguments) -> Call:
    """Set the time to live of a key in milliseconds. Returns 1 if it was set, else 0."""
    return _expire(arguments, 1, at=False)


@on_keys("EXPIREAT key unix-time-seconds [NX | XX | GT | LT]", "write fast", group="generic", since="1.2.0")
def expireat(arguments: Arguments) -> Call:
    """Set the expiry of a key in seconds since 1970. Returns 1 if it was set, else 0."""
    return _expire(arguments, SECOND, at=True)


@on_keys("PEXPIREAT key unix-time-milliseconds [NX | XX | GT | LT]", "write fast", group="generic", since="2.6.0")
def pexpireat(arguments: Arguments) -> Call:
    """Set the expiry of a key in milliseconds since 1970. Returns 1 if it was set, else 0."""
    return _expire(arguments, 1, at=True)


def _expire(arguments: Arguments, unit: int, *, at: bool) -> Call:
    key, text = arguments.key(), arguments.take()
    conditions = _conditions(arguments.rest())
    time = integer(text) * unit
    if not _ago(INTEGER_MIN, unit) <= time <= TTL_MAX:
        raise Refusal(wrong_time(arguments.name))
    # Times in the past are equal: each deletes the key. `TTL_MAX` bounds them on both sides.
    return Call(ExpireWith(key, max(time, -TTL_MAX), at=at, **conditions), number)


def _ago(least: int, unit: int) -> int:
    """Return the least time that is a whole number of units."""
    return -(-least // unit) * unit


def _conditions(texts: Sequence[bytes]) -> dict[str, bool]:
    given = set()
    for text in texts:
        name = _CONDITIONS.get(text.upper())
        if name is None:
            raise Refusal(f"ERR Unsupported option {repeated(text)}")
        given.add(name)
    if "if_none" in given and len(given) > 1:
        raise Refusal("ERR NX and XX, GT or LT options at the same time are not compatible")
    if {"if_later", "if_sooner"} <= given:
        raise Refusal("ERR GT and LT options at the same time are not compatible")
    return dict.fromkeys(given, True)


@on_keys("PERSIST key", "write fast", group="generic", since="2.2.0")
def persist(arguments: Arguments) -> Call:
    """Remove the expiry of a key. Returns 1 if it had one, else 0."""
    return Call(Persist(arguments.key()), number)


# -- reading -----------------------------------------------------------------------------------------------


def _told(unit: int) -> Callable[[Reply], Value]:
    """Return a function that shows a time in units, rounded to the nearest."""

    def show(reply: Reply) -> Value:
        if reply is MISSING:
            return NO_KEY
        assert isinstance(reply, int)
        return reply if reply < 0 else (reply + unit // 2) // unit

    return show


@on_keys("TTL key", "readonly fast", group="generic", since="1.0.0")
def ttl(arguments: Arguments) -> Call:
    """Return the time to live of a key in seconds; -1: no expiry; -2: no key."""
    return Call(Ttl(arguments.key()), _told(SECOND), touch=False)


@on_keys("PTTL key", "readonly fast", group="generic", since="2.6.0")
def pttl(arguments: Arguments) -> Call:
    """Return the time to live of a key in milliseconds; -1: no expiry; -2: no key."""
    return Call(Ttl(arguments.key()), _told(1), touch=False)


@on_keys("EXPIRETIME key", "readonly fast", group="generic", since="7.0.0")
def expiretime(arguments: Arguments) -> Call:
    """Return the expiry of a key in seconds since 1970; -1: no expiry; -2: no key."""
    return Call(Deadline(arguments.key()), _told(SECOND), touch=False)


@on_keys("PEXPIRETIME key", "readonly fast", group="generic", since="7.0.0")
def pexpiretime(arguments: Arguments) -> Call:
    """Return the expiry of a key in milliseconds since 1970; -1: no expiry; -2: no key."""
    return Call(Deadline(arguments.key()), _told(1), touch=False)
