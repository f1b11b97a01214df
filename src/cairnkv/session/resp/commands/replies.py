"""What the words on keys make of the store's replies: one function for each kind of answer."""

from collections.abc import Callable

from cairnkv.commands import MISSING, Items, Reply
from cairnkv.protocol.resp import OK
from cairnkv.session.resp.command_spec import Value


def ok(_reply: Reply) -> Value:
    """Done."""
    return OK


def number(reply: Reply) -> Value:
    """A number, as it is."""
    return reply


def value_or_null(reply: Reply) -> Value:
    """A string, or null where there is none."""
    return None if reply is MISSING else reply


def ok_or_null(reply: Reply) -> Value:
    """Done, or not, because a condition did not hold."""
    return OK if reply else None


def values(reply: Reply) -> Value:
    """Several strings, or nulls."""
    assert isinstance(reply, Items)
    return list(reply.values)


def of_value(function: Callable[[bytes], Value], missing: Value) -> Callable[[Reply], Value]:
    """Something that is made of a string, or `missing` where there is none."""

    def show(reply: Reply) -> Value:
        if reply is MISSING:
            return missing
        assert isinstance(reply, bytes)
        return function(reply)

    return show
