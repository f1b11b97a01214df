"""The growth of a command: the maximum memory that it adds. The store checks it before it executes the command.

Invariants: a command adds at most this much to the estimates of table and index. One exception: an expiry time that
moves to another second, so that clients can set a new TTL in a full store.

Out of scope: the reaction of the store to a full memory.
"""

from collections.abc import Sequence

from cairnkv.commands import (
    Command,
    Copy,
    Expire,
    ExpireWith,
    GetWith,
    Incr,
    IncrFloat,
    Put,
    PutMany,
    QueueSet,
    Rename,
    Scope,
    Set,
    SetMany,
    SetManyIfAbsent,
    SetRange,
    SetWith,
    Step,
    Together,
)
from cairnkv.engine import Database
from cairnkv.engine.expiry import TICK_BYTES
from cairnkv.engine.extended_float import text_of_sum
from cairnkv.engine.queue import QueueDatabase, queues_of
from cairnkv.engine.queue_index import LINE_INDEX_BYTES, MESSAGE_INDEX_BYTES, QUEUE_INDEX_BYTES
from cairnkv.engine.queue_records import (
    BODY_INSIDE_MAX,
    COUNTERS,
    COUNTERS_BYTES,
    MESSAGE_BYTES,
    NUMBER,
    QUEUE_BYTES,
    SETTINGS_BYTES,
    message_key,
    queue_key,
    settings_key,
    turn_key,
    unique_key,
)
from cairnkv.engine.table import ENTRY_BYTES, EXPIRY_BYTES, length_of, memory_of


def growth(database: Database, command: Command, per_key: int = 0) -> int:
    """Return the maximum number of bytes by which a command makes the entries grow, by estimate; 0 or less: no growth.

    A command without a case below gets a bound from its declaration: each of its keys keeps its value, gets all bytes
    that the arguments of the command contain, and gets an expiry.

    per_key: bytes that a new key takes besides its entry.
    """
    if not command.spec.grows:
        return 0
    match command:
        case Set(key, value):
            return _of_put(database, key, len(value), per_key, expires=False)
        case SetWith(key, value):  # and SWAP
            expires = command.ttl is not None or command.at is not None
            return _of_put(
                database, key, len(value), per_key, expires=expires or (command.keep_ttl and _expires(database, key))
            )
        case SetMany(ttl, pairs):
            return sum(
                _of_put(database, key, len(value), per_key, expires=ttl > 0) for key, value in dict(pairs).items()
            )
        case SetManyIfAbsent(pairs):
            return sum(_of_put(database, key, len(value), per_key, expires=False) for key, value in dict(pairs).items())
        case GetWith(ttl=None, at=None):
            return 0
        case Expire(key) | ExpireWith(key) | GetWith(key):
            return EXPIRY_BYTES + TICK_BYTES if database.has(key) and not _expires(database, key) else 0
        case SetRange(value=b""):
            return 0
        case Incr(key, n):
            old, given = database.get(key), len(b"%d" % n)
            # A sum has a digit more than the longer number, at most.
            return _of_change(database, key, given if old is None else max(given, len(old)) + 1, per_key)
        case IncrFloat(key, amount):
            old = database.get(key)
            try:
                return _of_change(database, key, len(text_of_sum(b"0" if old is None else old, amount)), per_key)
            except (ValueError, OverflowError):
                return 0
        case Rename(source, target):
            return len(target) - len(source) if database.has(source) else 0
        case Copy(source, target):
            entry = database.entry(source)
            elsewhere = database if command.db is None else database.shared.databases[command.db]
            if entry is None or (elsewhere.has(target) and not command.replace):
                return 0
            return _of_put(elsewhere, target, len(entry[0]), per_key, expires=entry[1] is not None)
        case Together(commands):
            return sum(max(0, growth(database, part, per_key)) for part in commands)
        case Put() | PutMany() | QueueSet():
            return _of_queue_command(queues_of(database.shared), command)
        case _ if command.spec.resizes:
            (key,) = command.named_keys()
            return _of_change(database, key, length_after(database, command), per_key)
    databases, brought = database.shared.databases, sum(map(len, command.arguments()))
    return sum(
        _of_put(databases[db], key, _length(databases[db], key) + brought, per_key, expires=True)
        for db, key in command.places(database.number)
    )


def _of_queue_command(database: QueueDatabase, command: Put | PutMany | QueueSet) -> int:
    """Return the growth by a command on a queue, as if the queue and the group of its messages were new."""
    name = command.queue
    grown = QUEUE_INDEX_BYTES
    records: list[tuple[bytes, int]] = [(COUNTERS, COUNTERS_BYTES), (queue_key(name), QUEUE_BYTES)]
    if isinstance(command, QueueSet):
        records.append((settings_key(name), SETTINGS_BYTES))
    else:
        bodies = (command.body,) if isinstance(command, Put) else command.bodies
        fixed = MESSAGE_BYTES + len(name)
        group = b""
        if isinstance(command, Put):
            group, unique = command.group or group, command.unique or b""
            fixed += len(group) + len(unique)
            records.append((unique_key(name, unique), NUMBER.size))
        records.append((turn_key(name, 0, group), NUMBER.size))
        grown += LINE_INDEX_BYTES + sum(map(len, bodies))
        entries = sum(1 + (len(body) > BODY_INSIDE_MAX) for body in bodies)
        grown += entries * (ENTRY_BYTES + len(message_key(0))) + len(bodies) * (MESSAGE_INDEX_BYTES + fixed)
    return grown + sum(ENTRY_BYTES + len(key) + size for key, size in records if not database.has(key))


def _of_put(database: Database, key: bytes, length: int, per_key: int, *, expires: bool) -> int:
    """Return the growth if an entry with a value of this length replaces the entry of a key."""
    old = database.stored(key)
    if old is None:
        return ENTRY_BYTES + per_key + len(key) + length + (EXPIRY_BYTES + TICK_BYTES) * expires
    more = length - memory_of(old[0]) + EXPIRY_BYTES * (expires - (old[1] is not None))
    return more + TICK_BYTES if expires and old[1] is None else more


def _of_change(database: Database, key: bytes, length: int, per_key: int) -> int:
    """Return the growth if the value of a key changes and its expiry does not."""
    return _of_put(database, key, length, per_key, expires=_expires(database, key))


def _expires(database: Database, key: bytes) -> bool:
    entry = database.stored(key)
    return entry is not None and entry[1] is not None


def length_after(database: Database, command: Command) -> int:
    """Return the new length of the value of which a command changes a part; 0 for other commands."""
    if not command.spec.resizes:
        return 0
    (key,) = command.named_keys()
    return command.length_after(_length(database, key))


def bytes_made_together(databases: Sequence[Database], steps: Sequence[Step], value_max: int | None = None) -> int:
    """Return the minimum bytes of values that the commands of a transaction make by changing a part of a value.

    value_max: maximum length of a value; a command that exceeds it makes nothing. None: no maximum.
    """
    lengths: dict[tuple[int, bytes], int] = {}  # of the values that the transaction changes
    cleared: set[int] = set()
    made = 0
    for db, command in steps:
        if command.spec.resizes:
            (place,) = command.places(db)
            before = lengths.get(place)
            if before is None:
                before = 0 if db in cleared else _length(databases[db], place[1])
            after = command.length_after(before)
            if value_max is None or after <= value_max:
                made += after
                lengths[place] = max(before, after)
        elif command.spec.writes and command.spec.scope is Scope.TABLE:
            cleared.add(db)
            lengths = {place: length for place, length in lengths.items() if place[0] != db}
        elif command.spec.writes:  # a minimum: a condition may keep the old value, and RENAME may bring a longer one
            for place in command.places(db):
                lengths[place] = len(command.value) if isinstance(command, Set) else 0
    return made


def bytes_made(database: Database, command: Command) -> int:
    """Return the bytes of values that a command makes or copies: values that it changes in part or stores again."""
    if not command.spec.grows:
        return 0
    match command:
        case Copy(source) | Rename(source):
            return _length(database, source)
    return length_after(database, command)


def _length(database: Database, key: bytes) -> int:
    entry = database.stored(key)
    return 0 if entry is None else length_of(entry[0])
