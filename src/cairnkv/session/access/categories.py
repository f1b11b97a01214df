"""The categories of commands, as in Redis' access control lists, and the commands that need no right.

A name is that of a command of the Redis protocol in lower case, with a bar before a subcommand: `get`, `client|kill`.
Native commands need the rights of such commands (`CommandSpec.redis`).

Invariants: a command has the categories that it has in Redis, except INFO, which is not dangerous here. `queue` is the
only category that Redis does not have. The rules accept all categories of Redis, some of which have no command here.

Out of scope: the rules of users (`rights`).
"""

import functools
from collections.abc import Mapping
from typing import Final

from cairnkv.session.resp.command_spec import RespCommandSpec, every_spec

CATEGORIES: Final = (
    *("keyspace", "read", "write", "set", "sortedset", "list", "hash", "string", "bitmap", "hyperloglog", "geo"),
    *("stream", "pubsub", "admin", "fast", "slow", "blocking", "dangerous", "connection", "transaction", "scripting"),
    "queue",
)
"""The names of all categories, in Redis' order."""

_CATEGORY_OF_GROUP: Final = {
    "generic": "keyspace",
    "string": "string",
    "bitmap": "bitmap",
    "connection": "connection",
    "transactions": "transaction",
    "scripting": "scripting",
    "queue": "queue",
}
_CATEGORIES_OF_FLAG: Final = {
    "write": ("write",),
    "readonly": ("read",),
    "admin": ("admin", "dangerous"),
    "pubsub": ("pubsub",),
    "blocking": ("blocking",),
}
_CATEGORIES_OF_COMMAND: Final = {
    "dbsize": ("keyspace",),
    "flushall": ("keyspace", "dangerous"),
    "flushdb": ("keyspace", "dangerous"),
    "keys": ("dangerous",),
    "lastsave": ("admin", "dangerous"),
    "command": ("connection",),
    "readonly": ("connection",),
    "readwrite": ("connection",),
}
"""The categories that follow neither from the group nor from the flags. A subcommand has those of its command."""

_FOR_EVERYONE: Final = frozenset({"auth", "hello", "quit", "reset", "ping", "info", "command", "acl|whoami"})


def categories(spec: RespCommandSpec) -> list[str]:
    """Return the categories of a command."""
    found = [name for flag, names in _CATEGORIES_OF_FLAG.items() if flag in spec.flags for name in names]
    if spec.group == "scripting":
        found = []  # a script may execute commands of any category
    if spec.group in _CATEGORY_OF_GROUP:
        found.append(_CATEGORY_OF_GROUP[spec.group])
    found += _CATEGORIES_OF_COMMAND.get(spec.name.partition("|")[0], ())
    found.append("fast" if "fast" in spec.flags else "slow")
    return list(dict.fromkeys(found))


@functools.cache
def names() -> frozenset[str]:
    """Return the names of all commands and subcommands."""
    return frozenset(spec.name for spec in every_spec())


@functools.cache
def names_by_category() -> Mapping[str, frozenset[str]]:
    """Return the names of the commands of each category."""
    specs = list(every_spec())
    return {category: frozenset(spec.name for spec in specs if category in categories(spec)) for category in CATEGORIES}


@functools.cache
def names_for_everyone() -> frozenset[str]:
    """Return the names of the commands that any authenticated client may execute, whatever its rights are."""
    return frozenset(name for name in names() if name in _FOR_EVERYONE or name.partition("|")[0] in _FOR_EVERYONE)


@functools.cache
def names_below(name: str) -> frozenset[str]:
    """Return the name of a command and the names of its subcommands; none for an unknown name."""
    return frozenset(other for other in names() if other == name or other.startswith(f"{name}|"))
