"""The effect of each command on a database: one function per command, and `apply`, which calls it.

Invariants: an operation reads only its command and the database. It changes the database only through `put`, `delete`
and `clear_all`. It is executed completely or not at all.

Out of scope: parsing (`commands`), clients, and the time at which a reply may leave (the store).
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
from cairnkv.engine.database import Database
from cairnkv.engine.table import Stored, crc
from cairnkv.escapes import quoted
from cairnkv.limits import CLEAR_PREFIX_SLICE, INTEGER_MAX, INTEGER_MIN, PLACE_KEYS_MAX

_C = TypeVar("_C", bound=Command)
_OPERATIONS: Final[dict[type[Command], Callable[[Database, Any], Reply]]] = {}


def apply(database: Database, command: Command, now: int) -> Reply:
    """Execute a command at log time `now` in milliseconds. A time before the database's log time counts as that."""
    database.advance(now)
    if command.spec.grows and (refusal := _refusal(database, command)):
        return refusal
    return _OPERATIONS[type(command)](database, command)


def _refusal(database: Database, command: Command) -> Failure | None:
    """Return a failure if the place of a key to store has too many keys, or None."""
    if isinstance(command, Copy) and command.db is not None:
        database = database.shared.databases[command.db]
    keys = command.named_keys()
    if len(keys) > PLACE_KEYS_MAX and (forged := _sharing(keys)) is not None:
        return _collision(forged)
    if not database.is_crowded:
        return None
    return next((_collision(key) for key in keys if not database.has_room_for(key)), None)


def _sharing(keys: Sequence[bytes]) -> bytes | None:
    """Return a key whose CRC-32 more than `PLACE_KEYS_MAX` of the keys share, or None."""
    counts = Counter(map(crc, set(keys)))
    at, most = counts.most_common(1)[0]
    return next(key for key in keys if crc(key) == at) if most > PLACE_KEYS_MAX else None


def _collision(key: bytes) -> Failure:
    return Failure(
        failures.COLLISION, f"{PLACE_KEYS_MAX:,} keys share a place with {quoted(key[:64])}; use another key"
    )


def can_apply(command: type[Command]) -> bool:
    """Return whether there is an operation for a class of commands."""
    return command in _OPERATIONS


def operation(
    command: type[_C],
) -> Callable[[Callable[[Database, _C], Reply]], Callable[[Database, _C], Reply]]:
    """Register a function as the operation of a command."""

    def register(function: Callable[[Database, _C], Reply]) -> Callable[[Database, _C], Reply]:
        _OPERATIONS[command] = function
        return function

    return register


@operation(Get)
def _get(database: Database, command: Get) -> Reply:
    value = database.get(command.key)
    return MISSING if value is None else value


@operation(Set)
def _set(database: Database, command: Set) -> Reply:
    database.put(command.key, command.value, None)
    return OK


@operation(Clear)
def _clear(database: Database, command: Clear) -> Reply:
    database.delete(command.key)
    return OK


@operation(Ping)
def _ping(_database: Database, command: Ping) -> Reply:
    return command.text or b"PONG"


@operation(SetWith)
def _set_with(database: Database, command: SetWith) -> Reply:
    old = database.stored(command.key) if command.if_equals is None else database.entry(command.key)
    return int(_set_under_conditions(database, command, old))


@operation(Swap)
def _swap(database: Database, command: Swap) -> Reply:
    old = database.entry(command.key)
    _set_under_conditions(database, command, old)
    return MISSING if old is None else old[0]


def _set_under_conditions(database: Database, command: SetWith | Swap, old: tuple[Stored, int | None] | None) -> bool:
    """Store the value if the old entry meets the conditions. Returns whether it does."""
    if command.if_absent and old is not None:
        return False
    if command.if_present and old is None:
        return False
    if command.if_equals is not None and (old is None or old[0] != command.if_equals):
        return False
    expiry = None
    if command.ttl is not None:
        expiry = database.shared.after(command.ttl)
    elif command.at is not None:
        expiry = database.shared.at(command.at)
    elif command.keep_ttl and old is not None:
        expiry = old[1]
    _put_until(database, command.key, command.value, expiry)
    return True


def _put_until(database: Database, key: bytes, value: bytes, expiry: int | None) -> None:
    """Store a value, or delete the key if the expiry is in the past."""
    if expiry is not None and expiry <= database.now:
        database.delete(key)
    else:
        database.put(key, value, expiry)


@operation(GetWith)
def _get_with(database: Database, command: GetWith) -> Reply:
    entry = database.entry(command.key)
    if entry is None:
        return MISSING
    value, expiry = entry
    if command.clear:
        database.delete(command.key)
    elif command.ttl is not None:
        database.put(command.key, value, database.shared.after(command.ttl))
    elif command.at is not None:
        _put_until(database, command.key, value, database.shared.at(command.at))
    elif command.persist and expiry is not None:
        database.put(command.key, value, None)
    return value


@operation(ClearIfEquals)
def _clear_if_equals(database: Database, command: ClearIfEquals) -> Reply:
    if database.get(command.key) != command.value:
        return 0
    database.delete(command.key)
    return 1


@operation(Exists)
def _exists(database: Database, command: Exists) -> Reply:
    return sum(map(database.has, command.names))


@operation(GetMany)
def _get_many(database: Database, command: GetMany) -> Reply:
    return Items(tuple(map(database.get, command.names)))


@operation(SetMany)
def _set_many(database: Database, command: SetMany) -> Reply:
    expiry = None if command.ttl == NO_TTL else database.shared.after(command.ttl)
    for key, value in command.pairs:
        database.put(key, value, expiry)
    return OK


@operation(ClearMany)
def _clear_many(database: Database, command: ClearMany) -> Reply:
    return sum(map(database.delete, command.names))


@operation(Incr)
def _incr(database: Database, command: Incr) -> Reply:
    entry = database.entry(command.key)
    value, expiry = (b"0", None) if entry is None else entry
    try:
        total = AMOUNT.read(value) + command.n
    except ArgumentFault:
        return Failure(failures.NOTINT, "the value is not a decimal integer of 64 signed bits")
    if not INTEGER_MIN <= total <= INTEGER_MAX:
        return Failure(failures.OVERFLOW, "the sum does not fit 64 signed bits")
    database.put(command.key, b"%d" % total, expiry)
    return total


@operation(Ttl)
def _ttl(database: Database, command: Ttl) -> Reply:
    entry = database.stored(command.key)
    if entry is None:
        return MISSING
    return -1 if entry[1] is None else database.shared.left(entry[1])


@operation(Expire)
def _expire(database: Database, command: Expire) -> Reply:
    entry = database.entry(command.key)
    if entry is None:
        return 0
    database.put(command.key, entry[0], database.shared.after(command.ttl))
    return 1


@operation(Persist)
def _persist(database: Database, command: Persist) -> Reply:
    entry = database.entry(command.key)
    if entry is None or entry[1] is None:
        return 0
    database.put(command.key, entry[0], None)
    return 1


@operation(Scan)
def _scan(database: Database, command: Scan) -> Reply:
    cursor, keys = database.slice(command.cursor, command.count, command.prefix)
    return Items((b"%d" % cursor, *keys))


@operation(Count)
def _count(database: Database, _command: Count) -> Reply:
    return database.count()


@operation(ClearAll)
def _clear_all(database: Database, _command: ClearAll) -> Reply:
    database.clear_all()
    return OK


@operation(ClearPrefix)
def _clear_prefix(database: Database, command: ClearPrefix) -> Reply:
    cursor, keys = database.slice(command.cursor, CLEAR_PREFIX_SLICE, command.prefix)
    for key in keys:
        database.delete(key)
    return Items((b"%d" % cursor, b"%d" % len(keys)))


@operation(ExpireWith)
def _expire_with(database: Database, command: ExpireWith) -> Reply:
    entry = database.entry(command.key)
    if entry is None:
        return 0
    value, old = entry
    expiry = (database.shared.at if command.at else database.shared.after)(command.time)
    refused = (
        (command.if_none and old is not None)
        or (command.if_some and old is None)
        or (command.if_later and (old is None or expiry <= old))
        or (command.if_sooner and old is not None and expiry >= old)
    )
    if refused:
        return 0
    _put_until(database, command.key, value, expiry)
    return 1


@operation(Deadline)
def _deadline(database: Database, command: Deadline) -> Reply:
    entry = database.stored(command.key)
    if entry is None:
        return MISSING
    return -1 if entry[1] is None else database.shared.unix(entry[1])


@operation(Append)
def _append(database: Database, command: Append) -> Reply:
    value, expiry = database.entry(command.key) or (b"", None)
    value += command.value
    database.put(command.key, value, expiry)
    return len(value)


@operation(SetRange)
def _set_range(database: Database, command: SetRange) -> Reply:
    value, expiry = database.entry(command.key) or (b"", None)
    if not command.value:
        return len(value)
    end = command.offset + len(command.value)
    value = value[: command.offset].ljust(command.offset, b"\0") + command.value + value[end:]
    database.put(command.key, value, expiry)
    return len(value)


@operation(SetBit)
def _set_bit(database: Database, command: SetBit) -> Reply:
    value, expiry = database.entry(command.key) or (b"", None)
    at, mask = command.offset // 8, 0x80 >> command.offset % 8
    changed = bytearray(value.ljust(at + 1, b"\0"))
    before = changed[at] & mask
    changed[at] = changed[at] | mask if command.bit else changed[at] & ~mask
    database.put(command.key, bytes(changed), expiry)
    return int(before > 0)


@operation(IncrFloat)
def _incr_float(database: Database, command: IncrFloat) -> Reply:
    value, expiry = database.entry(command.key) or (b"0", None)
    try:
        total = extended_float.text_of_sum(value, command.amount)
    except ValueError:
        return Failure(failures.NOTFLOAT, "the value, or what is added, is not a decimal number")
    except OverflowError:
        return Failure(failures.OVERFLOW, "the sum is not a number")
    database.put(command.key, total, expiry)
    return total


@operation(Rename)
def _rename(database: Database, command: Rename) -> Reply:
    entry = database.entry(command.source)
    if entry is None:
        return MISSING
    if command.if_absent and database.has(command.target):
        return 0
    if command.source != command.target:
        database.delete(command.source)
        database.put(command.target, *entry)
    return 1


@operation(Copy)
def _copy(database: Database, command: Copy) -> Reply:
    elsewhere = database if command.db is None else database.shared.databases[command.db]
    entry = database.entry(command.source)
    if entry is None or (elsewhere.has(command.target) and not command.replace):
        return 0
    elsewhere.put(command.target, *entry)
    return 1


@operation(SetManyIfAbsent)
def _set_many_if_absent(database: Database, command: SetManyIfAbsent) -> Reply:
    if any(database.has(key) for key, _ in command.pairs):
        return 0
    for key, value in command.pairs:
        database.put(key, value, None)
    return 1
