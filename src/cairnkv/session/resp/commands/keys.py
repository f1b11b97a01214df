"""The words on keys, whatever their values: whether they are there, what they are called, how they go.

Not for which there are (`scan`), nor for when they expire (`expiry`).
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

# -- whether they are there ----------------------------------------------------------------------------------


@on_keys(
    "EXISTS key [key ...]",
    "readonly fast",
    group="generic",
    since="1.0.0",
    summary="How many of these keys are there; one that is named twice counts twice.",
)
def exists(arguments: Arguments) -> Call:
    return Call(Exists(arguments.keys()), number, touch=False)


@on_keys(
    "TOUCH key [key ...]",
    "readonly fast",
    group="generic",
    since="3.2.1",
    summary="Use keys, so that others are evicted before them; how many are there.",
)
def touch(arguments: Arguments) -> Call:
    return Call(Exists(arguments.keys()), number, touch=True)


@on_keys(
    "TYPE key", "readonly fast", group="generic", since="1.0.0", summary="Of what type a value is: string, or none."
)
def type_(arguments: Arguments) -> Call:
    return Call(Exists((arguments.key(),)), lambda there: Simple("string" if there else "none"), touch=False)


# -- taking them out -----------------------------------------------------------------------------------------


@on_keys("DEL key [key ...]", "write", group="generic", since="1.0.0", summary="Take keys out; how many were there.")
def del_(arguments: Arguments) -> Call:
    return Call(ClearMany(arguments.keys()), number)


@on_keys(
    "UNLINK key [key ...]",
    "write fast",
    group="generic",
    since="4.0.0",
    summary="The same as DEL, which keeps nobody waiting either.",
)
def unlink(arguments: Arguments) -> Call:
    return Call(ClearMany(arguments.keys()), number)


@on_keys(
    "FLUSHDB [ASYNC | SYNC]",
    "write",
    group="server",
    since="1.0.0",
    summary="Take out all keys of the keyspace that is selected; their memory is freed by and by either way.",
)
def flushdb(arguments: Arguments) -> Call:
    _end_behind_mode(arguments)
    return Call(ClearAll(), ok)


@on_keys(
    "FLUSHALL [ASYNC | SYNC]",
    "write",
    group="server",
    since="1.0.0",
    summary="Take out all keys of all keyspaces at once; their memory is freed by and by either way.",
)
def flushall(arguments: Arguments) -> Calls:
    _end_behind_mode(arguments)
    return Calls(tuple(Step(db, ClearAll()) for db in range(DATABASES)), ok)


def _end_behind_mode(arguments: Arguments) -> None:
    """Take one word, if there is any, that says who is to wait; nobody ever has to."""
    if len(arguments) and arguments.keyword() not in (b"ASYNC", b"SYNC"):
        raise Refusal(SYNTAX)
    arguments.end()


# -- what they are called ------------------------------------------------------------------------------------


@on_keys("RENAME key newkey", "write", group="generic", since="1.0.0", summary="Let a key have another name.")
def rename(arguments: Arguments) -> Call:
    return Call(Rename(arguments.key(), arguments.key()), lambda reply: _no_such_key(reply) or OK)


@on_keys(
    "RENAMENX key newkey",
    "write fast",
    group="generic",
    since="1.0.0",
    summary="Let a key have another name if nothing has that; 1 if so.",
)
def renamenx(arguments: Arguments) -> Call:
    return Call(Rename(arguments.key(), arguments.key(), if_absent=True), lambda reply: _no_such_key(reply) or reply)


def _no_such_key(reply: Reply) -> Error | None:
    return Error(NO_SUCH_KEY) if reply is MISSING else None


@on_keys(
    "COPY source destination [DB destination-db] [REPLACE]",
    "write denyoom",
    group="generic",
    since="6.2.0",
    summary="Store a value under another key as well, or in another keyspace; 1 if so.",
)
def copy(arguments: Arguments) -> Call:
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


# -- how they are kept ---------------------------------------------------------------------------------------

container("OBJECT", group="generic", since="2.2.3", summary="How values are kept.")

EMBEDDED_MAX: Final = 44
"""Bytes of a string that Redis keeps together with what it knows of it."""


@on_keys(
    "OBJECT ENCODING key",
    "readonly",
    group="generic",
    since="2.2.3",
    summary="What Redis would call the way it keeps such a value.",
)
def object_encoding(arguments: Arguments) -> Call:
    return Call(Get(arguments.key()), of_value(_encoding, None), touch=False)


def _encoding(value: bytes) -> bytes:
    if is_integer(value):
        return b"int"
    return b"embstr" if len(value) <= EMBEDDED_MAX else b"raw"


help_of("OBJECT", since="6.2.0")
