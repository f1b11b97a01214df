"""Functions that turn replies of the store into values of the Redis protocol."""

from collections.abc import Callable

from cairnkv.commands import MISSING, Items, Reply
from cairnkv.protocol.resp import OK
from cairnkv.session.resp.command_spec import Value


def ok(_reply: Reply) -> Value:
    """Return OK."""
    return OK


def number(reply: Reply) -> Value:
    """Return a number as it is."""
    return reply


def value_or_null(reply: Reply) -> Value:
    """Return a string, or null for a missing key."""
    return None if reply is MISSING else reply


def ok_or_null(reply: Reply) -> Value:
    """Return OK, or null if a condition did not hold."""
    return OK if reply else None


def values(reply: Reply) -> Value:
    """Return strings, with null for each missing key."""
    assert isinstance(reply, Items)
    return list(reply.values)


def of_value(function: Callable[[bytes], Value], missing: Value) -> Callable[[Reply], Value]:
    """Return a function that shows `function(string)`, or `missing` for a missing key."""

    def show(reply: Reply) -> Value:
        if reply is MISSING:
            return missing
        assert isinstance(reply, bytes)
        return function(reply)

    return show
