"""The words on keys: whether they are there, when they expire, which there are."""

from cairnkv.commands import ClearMany, Reply
from cairnkv.session.redis.grammar import Arguments, Call, Value, on_keys


def number(reply: Reply) -> Value:
    """A number, as it is."""
    return reply


@on_keys("DEL key [key ...]", "write", group="generic", since="1.0.0", summary="Take keys out; how many were there.")
def del_(arguments: Arguments) -> Call:
    return Call(ClearMany(arguments.keys()), number)
