"""What each command does to a keyspace: one small function for each, and `apply`, which finds it.

What always holds: an operation reads its command and the keyspace and nothing else, changes the keyspace
only through `put`, `drop` and `clear_all`, and either does all of what it is for or nothing.

Not for: parsing (the command's declaration), or anything about who asked and when the reply may leave.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from cairnkv.commands import (
    MISSING,
    OK,
    Append,
    ArgumentFault,
    Clear,
    ClearAll,
    ClearIfEquals,
    ClearMany,
    ClearPrefix,
    Command,
    Copy,
    Count,
    Deadline,
    Exists,
    Expire,
    ExpireWith,
    Failure,
    Get,
    GetMany,
    GetWith,
    Incr,
    IncrFloat,
    Items,
    Persist,
    Ping,
    Rename,
    Reply,
    Scan,
    Set,
    SetBit,
    SetMany,
    SetManyIfAbsent,
    SetRange,
    SetWith,
    Swap,
    Ttl,
    failures,
)
from cairnkv.commands.vocabulary import AMOUNT, NO_TTL
from cairnkv.engine import extended_float
from cairnkv.engine.database import Keyspace
from cairnkv.engine.table import Stored, position
from cairnkv.limits import CLEAR_PREFIX_SLICE, INTEGER_MAX, INTEGER_MIN, PLACE_KEYS_MAX

_C = TypeVar("_C", bound=Command)
_OPERATIONS: Final[dict[type[Command], Callable[[Keyspace, Any], Reply]]] = {}


def apply(keyspace: Keyspace, command: Command, now: int) -> Reply:
    """Carry a command out at log time `now` (milliseconds; a smaller one than before counts as before)."""
    keyspace.advance(now)
    if command.spec.grows and (refusal := _refusal(keyspace, command)):
        return refusal
    return _OPERATIONS[type(command)](keyspace, command)


def _refusal(keyspace: Keyspace, command: Command) -> Failure | None:
    """Return the failure of a command that stores a key whose place already has too many keys, or None."""
    if isinstance(command, Copy) and command.space is not None:
        keyspace = keyspace.shared.spaces[command.space]
    keys = command.named_keys()
    if len(keys) > PLACE_KEYS_MAX and (forged := _sharing(keys)) is not None:
        return _collision(forged)
    if not keyspace.is_crowded:
        return None
    return next((_collision(key) for key in keys if not keyspace.takes(key)), None)


def _sharing(keys: Sequence[bytes]) -> bytes | None:
    """Return a key whose position more than `PLACE_KEYS_MAX` of a command's keys share, or None."""
    counts = Counter(map(position, set(keys)))
    at, most = counts.most_common(1)[0]
    return next(key for key in keys if position(key) == at) if most > PLACE_KEYS_MAX else None


def _collision(key: bytes) -> Failure:
    return Failure(failures.COLLISION, f"{PLACE_KEYS_MAX:,} keys share a place with {key[:64]!r}; use another key")


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
    old = keyspace.stored(command.key) if command.if_equals is None else keyspace.entry(command.key)
    return int(_set_under_conditions(keyspace, command, old))


@_operation(Swap)
def _swap(keyspace: Keyspace, command: Swap) -> Reply:
    old = keyspace.entry(command.key)
    _set_under_conditions(keyspace, command, old)
    return MISSING if old is None else old[0]


def _set_under_conditions(keyspace: Keyspace, command: SetWith | Swap, old: tuple[Stored, int | None] | None) -> bool:
    """Store the value if the conditions hold of the old entry; whether they do."""
    if command.if_absent and old is not None:
        return False
    if command.if_present and old is None:
        return False
    if command.if_equals is not None and (old is None or old[0] != command.if_equals):
        return False
    deadline = None
    if command.ttl is not None:
        deadline = keyspace.shared.after(command.ttl)
    elif command.at is not None:
        deadline = keyspace.shared.at(command.at)
    elif command.keep_ttl and old is not None:
        deadline = old[1]
    _put_until(keyspace, command.key, command.value, deadline)
    return True


def _put_until(keyspace: Keyspace, key: bytes, value: bytes, deadline: int | None) -> None:
    """Store a value, or clear the key if the deadline is over: what nobody will see is not kept."""
    if deadline is not None and deadline <= keyspace.now:
        keyspace.drop(key)
    else:
        keyspace.put(key, value, deadline)


@_operation(GetWith)
def _get_with(keyspace: Keyspace, command: GetWith) -> Reply:
    entry = keyspace.entry(command.key)
    if entry is None:
        return MISSING
    value, deadline = entry
    if command.clear:
        keyspace.drop(command.key)
    elif command.ttl is not None:
        keyspace.put(command.key, value, keyspace.shared.after(command.ttl))
    elif command.at is not None:
        _put_until(keyspace, command.key, value, keyspace.shared.at(command.at))
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
    return sum(map(keyspace.has, command.names))


@_operation(GetMany)
def _get_many(keyspace: Keyspace, command: GetMany) -> Reply:
    return Items(tuple(map(keyspace.get, command.names)))


@_operation(SetMany)
def _set_many(keyspace: Keyspace, command: SetMany) -> Reply:
    deadline = None if command.ttl == NO_TTL else keyspace.shared.after(command.ttl)
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
    entry = keyspace.stored(command.key)
    if entry is None:
        return MISSING
    return -1 if entry[1] is None else keyspace.shared.left(entry[1])


@_operation(Expire)
def _expire(keyspace: Keyspace, command: Expire) -> Reply:
    entry = keyspace.entry(command.key)
    if entry is None:
        return 0
    keyspace.put(command.key, entry[0], keyspace.shared.after(command.ttl))
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


@_operation(ExpireWith)
def _expire_with(keyspace: Keyspace, command: ExpireWith) -> Reply:
    entry = keyspace.entry(command.key)
    if entry is None:
        return 0
    value, old = entry
    deadline = (keyspace.shared.at if command.at else keyspace.shared.after)(command.time)
    refused = (
        (command.if_none and old is not None)
        or (command.if_some and old is None)
        or (command.if_later and (old is None or deadline <= old))
        or (command.if_sooner and old is not None and deadline >= old)
    )
    if refused:
        return 0
    _put_until(keyspace, command.key, value, deadline)
    return 1


@_operation(Deadline)
def _deadline(keyspace: Keyspace, command: Deadline) -> Reply:
    entry = keyspace.stored(command.key)
    if entry is None:
        return MISSING
    return -1 if entry[1] is None else keyspace.shared.unix(entry[1])


@_operation(Append)
def _append(keyspace: Keyspace, command: Append) -> Reply:
    value, deadline = keyspace.entry(command.key) or (b"", None)
    value += command.value
    keyspace.put(command.key, value, deadline)
    return len(value)


@_operation(SetRange)
def _set_range(keyspace: Keyspace, command: SetRange) -> Reply:
    value, deadline = keyspace.entry(command.key) or (b"", None)
    if not command.value:
        return len(value)
    end = command.offset + len(command.value)
    value = value[: command.offset].ljust(command.offset, b"\0") + command.value + value[end:]
    keyspace.put(command.key, value, deadline)
    return len(value)


@_operation(SetBit)
def _set_bit(keyspace: Keyspace, command: SetBit) -> Reply:
    value, deadline = keyspace.entry(command.key) or (b"", None)
    at, mask = command.offset // 8, 0x80 >> command.offset % 8
    changed = bytearray(value.ljust(at + 1, b"\0"))
    before = changed[at] & mask
    changed[at] = changed[at] | mask if command.bit else changed[at] & ~mask
    keyspace.put(command.key, bytes(changed), deadline)
    return int(before > 0)


@_operation(IncrFloat)
def _incr_float(keyspace: Keyspace, command: IncrFloat) -> Reply:
    value, deadline = keyspace.entry(command.key) or (b"0", None)
    try:
        total = extended_float.text_of_sum(value, command.amount)
    except ValueError:
        return Failure(failures.NOTFLOAT, "the value, or what is added, is not a decimal number")
    except OverflowError:
        return Failure(failures.OVERFLOW, "the sum is not a number")
    keyspace.put(command.key, total, deadline)
    return total


@_operation(Rename)
def _rename(keyspace: Keyspace, command: Rename) -> Reply:
    entry = keyspace.entry(command.source)
    if entry is None:
        return MISSING
    if command.if_absent and keyspace.has(command.target):
        return 0
    if command.source != command.target:
        keyspace.drop(command.source)
        keyspace.put(command.target, *entry)
    return 1


@_operation(Copy)
def _copy(keyspace: Keyspace, command: Copy) -> Reply:
    elsewhere = keyspace if command.space is None else keyspace.shared.spaces[command.space]
    entry = keyspace.entry(command.source)
    if entry is None or (elsewhere.has(command.target) and not command.replace):
        return 0
    elsewhere.put(command.target, *entry)
    return 1


@_operation(SetManyIfAbsent)
def _set_many_if_absent(keyspace: Keyspace, command: SetManyIfAbsent) -> Reply:
    if any(keyspace.has(key) for key, _ in command.pairs):
        return 0
    for key, value in command.pairs:
        keyspace.put(key, value, None)
    return 1
