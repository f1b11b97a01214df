"""What each command does to a keyspace: one small function for each, and `apply`, which finds it.

What always holds: an operation reads its command and the keyspace and nothing else, changes the keyspace
only through `put`, `drop` and `clear_all`, and either does all of what it is for or nothing.

Not for: parsing (the command's declaration), or anything about who asked and when the reply may leave.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from cairnkv.commands import (
    MISSING,
    OK,
    ArgumentFault,
    Clear,
    ClearAll,
    ClearIfEquals,
    ClearMany,
    ClearPrefix,
    Command,
    Count,
    Exists,
    Expire,
    Failure,
    Get,
    GetMany,
    GetWith,
    Incr,
    Items,
    Persist,
    Ping,
    Reply,
    Scan,
    Set,
    SetMany,
    SetWith,
    Swap,
    Ttl,
    failures,
)
from cairnkv.commands.vocabulary import AMOUNT, NO_TTL
from cairnkv.keyspace.keyspace import Keyspace
from cairnkv.limits import CLEAR_PREFIX_SLICE, INTEGER_MAX, INTEGER_MIN

_C = TypeVar("_C", bound=Command)
_OPERATIONS: Final[dict[type[Command], Callable[[Keyspace, Any], Reply]]] = {}


def apply(keyspace: Keyspace, command: Command, now: int) -> Reply:
    """Carry a command out at log time `now` (milliseconds; a smaller one than before counts as before)."""
    keyspace.advance(now)
    return _OPERATIONS[type(command)](keyspace, command)


def can_apply(command: type[Command]) -> bool:
    """Whether a keyspace knows what to do with commands of this class."""
    return command in _OPERATIONS


def _operation(
    command: type[_C],
) -> Callable[[Callable[[Keyspace, _C], Reply]], Callable[[Keyspace, _C], Reply]]:
    def register(function: Callable[[Keyspace, _C], Reply]) -> Callable[[Keyspace, _C], Reply]:
        _OPERATIONS[command] = function
        return function

    return register


@_operation(Get)
def _get(keyspace: Keyspace, command: Get) -> Reply:
    value = keyspace.get(command.key)
    return MISSING if value is None else value


@_operation(Set)
def _set(keyspace: Keyspace, command: Set) -> Reply:
    keyspace.put(command.key, command.value, None)
    return OK


@_operation(Clear)
def _clear(keyspace: Keyspace, command: Clear) -> Reply:
    keyspace.drop(command.key)
    return OK


@_operation(Ping)
def _ping(_keyspace: Keyspace, command: Ping) -> Reply:
    return command.text or b"PONG"


@_operation(SetWith)
def _set_with(keyspace: Keyspace, command: SetWith) -> Reply:
    return int(_set_under_conditions(keyspace, command, keyspace.entry(command.key)))


@_operation(Swap)
def _swap(keyspace: Keyspace, command: Swap) -> Reply:
    old = keyspace.entry(command.key)
    _set_under_conditions(keyspace, command, old)
    return MISSING if old is None else old[0]


def _set_under_conditions(keyspace: Keyspace, command: SetWith | Swap, old: tuple[bytes, int | None] | None) -> bool:
    """Store the value if the conditions hold of the old entry; whether they do."""
    if command.if_absent and old is not None:
        return False
    if command.if_present and old is None:
        return False
    if command.if_equals is not None and (old is None or old[0] != command.if_equals):
        return False
    deadline = None
    if command.ttl is not None:
        deadline = keyspace.now + command.ttl
    elif command.keep_ttl and old is not None:
        deadline = old[1]
    keyspace.put(command.key, command.value, deadline)
    return True


@_operation(GetWith)
def _get_with(keyspace: Keyspace, command: GetWith) -> Reply:
    entry = keyspace.entry(command.key)
    if entry is None:
        return MISSING
    value, deadline = entry
    if command.clear:
        keyspace.drop(command.key)
    elif command.ttl is not None:
        keyspace.put(command.key, value, keyspace.now + command.ttl)
    elif command.persist and deadline is not None:
        keyspace.put(command.key, value, None)
    return value


@_operation(ClearIfEquals)
def _clear_if_equals(keyspace: Keyspace, command: ClearIfEquals) -> Reply:
    if keyspace.get(command.key) != command.value:
        return 0
    keyspace.drop(command.key)
    return 1


@_operation(Exists)
def _exists(keyspace: Keyspace, command: Exists) -> Reply:
    return sum(keyspace.get(key) is not None for key in command.names)


@_operation(GetMany)
def _get_many(keyspace: Keyspace, command: GetMany) -> Reply:
    return Items(tuple(map(keyspace.get, command.names)))


@_operation(SetMany)
def _set_many(keyspace: Keyspace, command: SetMany) -> Reply:
    deadline = None if command.ttl == NO_TTL else keyspace.now + command.ttl
    for key, value in command.pairs:
        keyspace.put(key, value, deadline)
    return OK


@_operation(ClearMany)
def _clear_many(keyspace: Keyspace, command: ClearMany) -> Reply:
    return sum(map(keyspace.drop, command.names))


@_operation(Incr)
def _incr(keyspace: Keyspace, command: Incr) -> Reply:
    entry = keyspace.entry(command.key)
    value, deadline = (b"0", None) if entry is None else entry
    try:
        total = AMOUNT.read(value) + command.n
    except ArgumentFault:
        return Failure(failures.NOTINT, "the value is not a decimal integer of 64 signed bits")
    if not INTEGER_MIN <= total <= INTEGER_MAX:
        return Failure(failures.OVERFLOW, "the sum does not fit 64 signed bits")
    keyspace.put(command.key, b"%d" % total, deadline)
    return total


@_operation(Ttl)
def _ttl(keyspace: Keyspace, command: Ttl) -> Reply:
    entry = keyspace.entry(command.key)
    if entry is None:
        return MISSING
    return -1 if entry[1] is None else entry[1] - keyspace.now


@_operation(Expire)
def _expire(keyspace: Keyspace, command: Expire) -> Reply:
    entry = keyspace.entry(command.key)
    if entry is None:
        return 0
    keyspace.put(command.key, entry[0], keyspace.now + command.ttl)
    return 1


@_operation(Persist)
def _persist(keyspace: Keyspace, command: Persist) -> Reply:
    entry = keyspace.entry(command.key)
    if entry is None or entry[1] is None:
        return 0
    keyspace.put(command.key, entry[0], None)
    return 1


@_operation(Scan)
def _scan(keyspace: Keyspace, command: Scan) -> Reply:
    cursor, keys = keyspace.slice(command.cursor, command.count, command.prefix)
    return Items((b"%d" % cursor, *keys))


@_operation(Count)
def _count(keyspace: Keyspace, _command: Count) -> Reply:
    return keyspace.count()


@_operation(ClearAll)
def _clear_all(keyspace: Keyspace, _command: ClearAll) -> Reply:
    keyspace.clear_all()
    return OK


@_operation(ClearPrefix)
def _clear_prefix(keyspace: Keyspace, command: ClearPrefix) -> Reply:
    cursor, keys = keyspace.slice(command.cursor, CLEAR_PREFIX_SLICE, command.prefix)
    for key in keys:
        keyspace.drop(key)
    return Items((b"%d" % cursor, b"%d" % len(keys)))
