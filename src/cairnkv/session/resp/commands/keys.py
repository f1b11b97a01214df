"""The commands of the Redis protocol on keys: existence, deletion, renaming.

Out of scope: the set of keys (`scan`), and expiry (`expiry`).
"""

from typing import Final

from cairnkv.commands import MISSING, ClearAll, ClearMany, Copy, Exists, Get, Rename, Reply, Step
from cairnkv.limits import DATABASES
from cairnkv.protocol.resp import OK, Error, Simple
from cairnkv.session.resp.command_spec import (
    NO_SUCH_KEY,
    SYNTAX,
    Arguments,
    Call,
    Calls,
    Refusal,
    container,
    is_integer,
    on_keys,
)
from cairnkv.session.resp.commands.help import help_of
from cairnkv.session.resp.commands.replies import number, of_value, ok

# -- existence ------------------------------------------------------------------------------------------------


@on_keys("EXISTS key [key ...]", "readonly fast", group="generic", since="1.0.0")
def exists(arguments: Arguments) -> Call:
    """Return the number of these keys that exist. A key that is named twice counts twice."""
    return Call(Exists(arguments.keys()), number, touch=False)


@on_keys("TOUCH key [key ...]", "readonly fast", group="generic", since="3.2.1")
def touch(arguments: Arguments) -> Call:
    """Mark keys as used, so that they are evicted later. Returns the number of keys that exist."""
    return Call(Exists(arguments.keys()), number, touch=True)


@on_keys("TYPE key", "readonly fast", group="generic", since="1.0.0")
def type_(arguments: Arguments) -> Call:
    """Return the type of a value: string, or none for a missing key."""
    return Call(Exists((arguments.key(),)), lambda there: Simple("string" if there else "none"), touch=False)


# -- deletion -----------------------------------------------------------------------------------------------


@on_keys("DEL key [key ...]", "write", group="generic", since="1.0.0")
def del_(arguments: Arguments) -> Call:
    """Delete keys. Returns the number of keys that existed."""
    return Call(ClearMany(arguments.keys()), number)


@on_keys("UNLINK key [key ...]", "write fast", group="generic", since="4.0.0")
def unlink(arguments: Arguments) -> Call:
    """Delete keys. The same as DEL. Returns the number of keys that existed."""
    return Call(ClearMany(arguments.keys()), number)


@on_keys("FLUSHDB [ASYNC | SYNC]", "write", group="server", since="1.0.0")
def flushdb(arguments: Arguments) -> Call:
    """Delete all keys of the selected database. The server frees their memory gradually."""
    _end_behind_mode(arguments)
    return Call(ClearAll(), ok)


@on_keys("FLUSHALL [ASYNC | SYNC]", "write", group="server", since="1.0.0")
def flushall(arguments: Arguments) -> Calls:
    """Delete all keys of all databases at once. The server frees their memory gradually."""
    _end_behind_mode(arguments)
    return Calls(tuple(Step(db, ClearAll()) for db in range(DATABASES)), ok)


def _end_behind_mode(arguments: Arguments) -> None:
    """Take ASYNC or SYNC, if present. Both are the same here, because no client waits."""
    if len(arguments) and arguments.keyword() not in (b"ASYNC", b"SYNC"):
        raise Refusal(SYNTAX)
    arguments.end()


# -- renaming -----------------------------------------------------------------------------------------------


@on_keys("RENAME key newkey", "write", group="generic", since="1.0.0")
def rename(arguments: Arguments) -> Call:
    """Rename a key."""
    return Call(Rename(arguments.key(), arguments.key()), lambda reply: _no_such_key(reply) or OK)


@on_keys("RENAMENX key newkey", "write fast", group="generic", since="1.0.0")
def renamenx(arguments: Arguments) -> Call:
    """Rename a key if the new name does not exist. Returns 1 if it was renamed, else 0."""
    return Call(Rename(arguments.key(), arguments.key(), if_absent=True), lambda reply: _no_such_key(reply) or reply)


def _no_such_key(reply: Reply) -> Error | None:
    return Error(NO_SUCH_KEY) if reply is MISSING else None


@on_keys("COPY source destination [DB destination-db] [REPLACE]", "write denyoom", group="generic", since="6.2.0")
def copy(arguments: Arguments) -> Call:
    """Copy a key to another key, or to another database. Returns 1 if it was copied, else 0."""
    source, target = arguments.key(), arguments.key()
    db, replace = arguments.db, False
    while len(arguments):
        match arguments.keyword():
            case b"DB":
                db = arguments.db_number()
            case b"REPLACE":
                replace = True
            case _:
                raise Refusal(SYNTAX)
    if (db, target) == (arguments.db, source):
        raise Refusal("ERR source and destination objects are the same")
    return Call(Copy(source, target, None if db == arguments.db else db, replace), number)


# -- inspection ----------------------------------------------------------------------------------------------

container("OBJECT", group="generic", since="2.2.3", summary="Inspect the representation of values.")

EMBEDDED_MAX: Final = 44
"""Maximum length of a string that Redis stores inside its object."""


@on_keys("OBJECT ENCODING key", "readonly", group="generic", since="2.2.3")
def object_encoding(arguments: Arguments) -> Call:
    """Return the name of the encoding that Redis would use for a value."""
    return Call(Get(arguments.key()), of_value(_encoding, None), touch=False)


def _encoding(value: bytes) -> bytes:
    if is_integer(value):
        return b"int"
    return b"embstr" if len(value) <= EMBEDDED_MAX else b"raw"


help_of("OBJECT", since="6.2.0")
