"""The commands of the Redis protocol on numbers, which are values in decimal text."""

from typing import Final

from cairnkv.commands import Incr, IncrFloat, failures
from cairnkv.limits import INTEGER_MIN
from cairnkv.session.resp.command_spec import Arguments, Call, Refusal, on_keys
from cairnkv.session.resp.commands.replies import number, value_or_null


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
