"""The table of test cases of commands. A row tests a command on both protocols, in the clients and on the command line.

A new command needs rows in `CASES`, and no other test.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from cairnkv.commands import (
    MISSING,
    OK,
    Append,
    Clear,
    ClearIfEquals,
    Command,
    Exists,
    Get,
    GetWith,
    Incr,
    Items,
    Rename,
    Reply,
    Scan,
    Set,
    Swap,
)
from cairnkv.protocol.resp import Simple


@dataclasses.dataclass(frozen=True)
class Case:
    """One execution of a command, by each interface that has it.

    before, after: all keys and values.
    native: a command, and its reply. resp: a line of the Redis protocol, and its reply. client: a call of a store, and
    its result. cli: arguments of `cairn`, its output and its exit code.
    """

    name: str
    before: Mapping[str, str]
    after: Mapping[str, str]
    native: tuple[Command, Reply]
    resp: tuple[str, Any] | None = None
    client: tuple[Callable[[Any], Any], Any] | None = None
    cli: tuple[str, str, int] | None = None


CASES = [
    Case(
        "get returns the value",
        {"k": "v"},
        {"k": "v"},
        native=(Get(b"k"), b"v"),
        resp=("GET k", b"v"),
        client=(lambda kv: kv.get("k"), "v"),
        cli=("get k", "v\n", 0),
    ),
    Case(
        "get of a missing key",
        {},
        {},
        native=(Get(b"k"), MISSING),
        resp=("GET k", None),
        client=(lambda kv: kv.get("k"), None),
        cli=("get k", "", 1),
    ),
    Case(
        "set replaces the value",
        {"k": "old"},
        {"k": "new"},
        native=(Set(b"k", b"new"), OK),
        resp=("SET k new", Simple("OK")),
        client=(lambda kv: kv.set("k", "new"), True),
        cli=("set k new", "OK\n", 0),
    ),
    Case(
        "swap returns the previous value",
        {"k": "old"},
        {"k": "new"},
        native=(Swap(b"k", b"new"), b"old"),
        resp=("GETSET k new", b"old"),
        client=(lambda kv: kv.swap("k", "new"), "old"),
        cli=("swap k new", "old\n", 0),
    ),
    Case(
        "clear deletes the key",
        {"k": "v", "l": "w"},
        {"l": "w"},
        native=(Clear(b"k"), OK),
        resp=("DEL k", 1),
        client=(lambda kv: kv.clear("k"), None),
        cli=("clear k", "OK\n", 0),
    ),
    Case(
        "clear_if_equals deletes an equal value",
        {"k": "v"},
        {},
        native=(ClearIfEquals(b"k", b"v"), 1),
        resp=("DELIFEQ k v", 1),
        client=(lambda kv: kv.clear_if_equals("k", "v"), True),
        cli=("clear k --if-equals v", "OK\n", 0),
    ),
    Case(
        "clear_if_equals keeps another value",
        {"k": "v"},
        {"k": "v"},
        native=(ClearIfEquals(b"k", b"w"), 0),
        resp=("DELIFEQ k w", 0),
        client=(lambda kv: kv.clear_if_equals("k", "w"), False),
        cli=("clear k --if-equals w", "", 1),
    ),
    Case(
        "exists counts a repeated key twice",
        {"k": "v"},
        {"k": "v"},
        native=(Exists((b"k", b"l", b"k")), 2),
        resp=("EXISTS k l k", 2),
    ),
    Case(
        "get_with clear returns the value and deletes the key",
        {"k": "v"},
        {},
        native=(GetWith(b"k", clear=True), b"v"),
        resp=("GETDEL k", b"v"),
        client=(lambda kv: kv.get("k", clear=True), "v"),
        cli=("get k --clear", "v\n", 0),
    ),
    Case(
        "incr adds to a number",
        {"k": "7"},
        {"k": "12"},
        native=(Incr(b"k", 5), 12),
        resp=("INCRBY k 5", 12),
        client=(lambda kv: kv.incr("k", 5), 12),
        cli=("incr k 5", "12\n", 0),
    ),
    Case(
        "append returns the length",
        {"k": "ab"},
        {"k": "abcd"},
        native=(Append(b"k", b"cd"), 4),
        resp=("APPEND k cd", 4),
        cli=("append k cd", "4\n", 0),
    ),
    Case(
        "rename replaces the target",
        {"k": "v", "l": "w"},
        {"l": "v"},
        native=(Rename(b"k", b"l"), 1),
        resp=("RENAME k l", Simple("OK")),
        cli=("rename k l", "1\n", 0),
    ),
    Case(
        "scan returns the cursor and the keys",
        {"k": "v"},
        {"k": "v"},
        native=(Scan(0, 10, b""), Items((b"0", b"k"))),
        resp=("SCAN 0", [b"0", [b"k"]]),
        client=(lambda kv: kv.count(), 1),
        cli=("scan", "k\n", 0),
    ),
]
