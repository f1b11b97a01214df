"""The words on values: strings, numbers in decimal text, bits.

A word that reads one value is GET and something made of its reply; a word that changes one is a command of the
vocabulary, so that the log has it.
"""

from cairnkv.commands import MISSING, Get, Reply, Set
from cairnkv.session.redis.grammar import Arguments, Call, Value, on_keys
from cairnkv.wire.redis import OK


def value_or_null(reply: Reply) -> Value:
    """A string, or null where there is none."""
    return None if reply is MISSING else reply


def ok(_reply: Reply) -> Value:
    """Done."""
    return OK


@on_keys("GET key", "readonly fast", group="string", since="1.0.0", summary="The value of a key.")
def get(arguments: Arguments) -> Call:
    return Call(Get(arguments.key()), value_or_null)


@on_keys("SET key value", "write denyoom", group="string", since="1.0.0", summary="Store a value under a key.")
def set_(arguments: Arguments) -> Call:
    return Call(Set(arguments.key(), arguments.take()), ok)
