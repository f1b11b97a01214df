"""The effect of each command on queues: one function per command.

Invariants: as in `operations`. A command that changes a message also writes the record of the message's queue, which
has the newest id and lease that it has given. A command that makes or deletes a queue writes the counters: replies
about them wait for these keys. A command that fails has changed nothing.

Out of scope: waiting for messages (the store), and the order of messages (`queue_index`).
"""

import heapq
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from cairnkv.commands import (
    MISSING,
    OK,
    Ack,
    Command,
    Extend,
    Failure,
    Items,
    Look,
    Nack,
    Peek,
    Purge,
    Put,
    PutMany,
    QueueDrop,
    Queues,
    QueueSet,
    QueueStats,
    Remove,
    Reply,
    Requeue,
    RequeueIds,
    Take,
    TakeAny,
    failures,
)
from cairnkv.commands.queue_vocabulary import ALL, DEAD, DELAYED, DROP, EXPIRED
from cairnkv.engine.database import Database
from cairnkv.engine.operations import operation
from cairnkv.engine.queue import QueueDatabase, queues_of
from cairnkv.engine.queue_index import Queue
from cairnkv.engine.queue_records import (
    BODY_INSIDE_MAX,
    COUNTERS,
    NUMBER,
    Message,
    QueueRecord,
    body_key,
    message_key,
    queue_key,
    settings_key,
    turn_key,
    unique_key,
)
from cairnkv.escapes import quoted
from cairnkv.limits import (
    DELAY_MAX,
    GROUP_PRIORITIES_MAX,
    INTEGER_MAX,
    LEASES_KEPT_MAX,
    PRIORITY_DEFAULT,
    QUEUES_MAX,
    STEPS_PER_TAKE,
    SWEPT_PER_COMMAND,
    TAKE_BYTES,
    TAKE_MAX,
)

_C = TypeVar("_C", bound=Command)


def _operation(command: type[_C], *, native: bool = False) -> Callable[[Callable[[QueueDatabase, _C], Reply]], object]:
    """Register a function as the operation of a command on the queues of a store.

    native: whether it has a twin in `queue_native`.
    """

    def register(function: Callable[[QueueDatabase, _C], Reply]) -> object:
        def execute(database: Database, command: _C) -> Reply:
            queues = queues_of(database.shared)
            if native and queues.native is not None and (reply := queues.native.execute(command)) is not None:
                return reply
            return function(queues, command)

        return operation(command)(execute)

    return register


_PLACES: Final = {name: place for place, name in enumerate(QueueRecord._fields)}
_TURN: Final = _PLACES["turn"]
_USED_AT: Final = _PLACES["used_at"]
_ID: Final = _PLACES["id"]
_LEASE: Final = _PLACES["lease"]


class _QueueChanges:
    """The changes of one queue by one command. id, lease: the newest ones that it has given."""

    __slots__ = ("_record", "id", "lease", "name", "queue", "turn")

    def __init__(self, name: bytes, queue: Queue, record: QueueRecord) -> None:
        self.name = name
        self.queue = queue
        self.turn, self.id, self.lease = record.turn, record.id, record.lease
        self._record = list(record)

    def count(self, total: str, more: int = 1) -> None:
        """Add to a total."""
        self._record[_PLACES[total]] += more

    def new_record(self, now: int) -> QueueRecord:
        """Return the record after the command."""
        record = self._record
        record[_TURN], record[_USED_AT], record[_ID], record[_LEASE] = self.turn, now, self.id, self.lease
        return QueueRecord(*record)


class _Changes:
    """The changes of one command. `write` writes the records of queues, which change last."""

    def __init__(self, database: QueueDatabase) -> None:
        self.database = database
        self.now = database.now
        self.queues: dict[bytes, _QueueChanges] = {}
        self._counters = database.index.counters

    def of(self, name: bytes) -> _QueueChanges | None:
        """Return the changes of a queue, or None if there is no such queue."""
        changes = self.queues.get(name)
        if changes is None:
            queue = self.database.index.queues.get(name)
            if queue is None or queue.record is None:
                return None
            changes = self.queues[name] = _QueueChanges(name, queue, queue.record)
        return changes

    def of_message(self, message: Message) -> _QueueChanges:
        """Return the changes of the queue of a message."""
        changes = self.of(message.queue)
        assert changes is not None, "a message is in a queue"
        return changes

    def new_ids(self, of_queue: _QueueChanges, count: int) -> int:
        """Return the first of several new ids."""
        first = self._counters.id + 1
        self._counters = self._counters._replace(id=first - 1 + count)
        of_queue.id = self._counters.id
        return first

    def new_lease(self, of_queue: _QueueChanges) -> int:
        """Return the number of a new lease."""
        self._counters = self._counters._replace(lease=self._counters.lease + 1)
        of_queue.lease = self._counters.lease
        return of_queue.lease

    def make_queue(self, name: bytes) -> _QueueChanges | Failure:
        """Make a queue. If there are too many, an empty queue without settings gives way."""
        database = self.database
        idle = None
        if len(database.index.numbers) >= QUEUES_MAX:
            idle = database.index.longest_idle()
            if idle is None:
                return Failure(failures.QUEUEFULL, f"the store has {QUEUES_MAX:,} queues, and none is unused")
        number = self._counters.id + 1
        self._counters = self._counters._replace(id=number)
        self.write_counters()
        if idle is not None:
            database.delete(queue_key(idle))
        record = QueueRecord(number, id=number, lease=self._counters.lease)
        database.put(queue_key(name), record.packed(), None)
        changes = self.queues[name] = _QueueChanges(name, database.index.queues[name], record)
        return changes

    def write_counters(self) -> None:
        """Write the counters, before a queue is deleted, because its record may be the only one that has them."""
        self.database.put(COUNTERS, self._counters.packed(), None)

    def write(self) -> None:
        """Write the records of the queues."""
        for name, changes in self.queues.items():
            self.database.put(queue_key(name), changes.new_record(self.now).packed(), None)

    # -- messages -----------------------------------------------------------------------------------------------

    def put(self, number: int, message: Message) -> None:
        """Write the record of a message that changes."""
        if message.new and message.put_at != self.now:
            message = message._replace(new=False)
        self.database.put_message(number, message)

    def delete(self, number: int, message: Message, total: str) -> None:
        """Delete a message, and count it in a total of its queue."""
        changes = self.of_message(message)
        self.database.delete(message_key(number))
        if message.body is None:
            self.database.delete(body_key(number))
        if not message.dead:
            self._leave(number, message)
        changes.count(total)

    def die(self, number: int, message: Message) -> None:
        """Make a live message dead."""
        changes = self.of_message(message)
        age = changes.queue.rules.dead_age
        expires = self.database.shared.after(age) if age else 0
        self.put(number, message._replace(dead=True, due=self.now, lease=0, expires=expires))
        self._leave(number, message)
        changes.count("died")
        self.limit_dead(changes, 1)

    def limit_dead(self, changes: _QueueChanges, most: int) -> None:
        """Delete the oldest dead messages that exceed the limit of their queue, up to a number."""
        queue = changes.queue
        limit = queue.rules.dead_max
        while limit and most and len(queue.dead) > limit:
            number = queue.dead.first()
            assert number is not None
            message = self.database.message(number)
            assert message is not None
            self.delete(number, message, "dropped" if message.state(self.now) else "expired")
            most -= 1

    def revive(self, number: int, message: Message) -> None:
        """Make a delayed or dead message ready."""
        changes = self.of_message(message)
        if message.dead:
            message = message._replace(dead=False, expires=0, unique=b"", until_taken=False, unique_until=0)
            if _refused_priority(changes.queue, message.group, message.priority):  # the settings may have changed
                message = message._replace(priority=PRIORITY_DEFAULT)
            self.join(message)
        self.put(number, message._replace(due=self.now, lease=0, attempts=0))
        changes.count("requeued")

    def join(self, message: Message) -> None:
        """Give a message its place in the order, if it is the first of its group and priority.

        It comes after all that wait, so that no group gets more than its share by being empty now and then.
        """
        changes = self.of_message(message)
        queue = changes.queue
        line = queue.line(message.group, message.priority)
        if line is None and changes.turn and message.priority in queue.lines:
            key = turn_key(message.queue, message.priority, message.group)
            self.database.put(key, NUMBER.pack(changes.turn), None)

    def advance_turn(self, message: Message) -> None:
        """Give the group of a leased message the newest turn among those with the same priority."""
        changes = self.of_message(message)
        if changes.queue.lines[message.priority] > 1:
            changes.turn += 1
            key = turn_key(message.queue, message.priority, message.group)
            self.database.put(key, NUMBER.pack(changes.turn), None)

    def quit(self, message: Message) -> None:
        """Delete the turn of a group and priority if a message that has left was the last."""
        line = self.of_message(message).queue.line(message.group, message.priority)
        if line is not None and not line.messages:
            self.database.delete(turn_key(message.queue, message.priority, message.group))

    def _leave(self, number: int, message: Message) -> None:
        """Free the turn and the unique name of a message that has become dead or was deleted."""
        self.quit(message)
        if message.unique:
            self.free_name(number, message)

    def free_name(self, number: int, message: Message) -> None:
        """Free the unique name of a message, now or at its time."""
        key = unique_key(message.queue, message.unique)
        entry = self.database.entry(key)
        if entry is None or entry[0] != NUMBER.pack(number):
            return
        if message.unique_until > self.now:
            self.database.put(key, entry[0], message.unique_until)
        else:
            self.database.delete(key)

    def sweep(self, changes: _QueueChanges, most: int = SWEPT_PER_COMMAND) -> None:
        """Delete expired messages of a queue, and dead ones over its limit, up to a number."""
        queue = changes.queue
        for expiring in (queue.expiring, queue.dead_expiring):
            while most and (first := expiring.first()) is not None and first[0] <= self.now:
                message = self.database.message(first[1])
                assert message is not None
                self.delete(first[1], message, "expired")
                most -= 1
        self.limit_dead(changes, most)


# -- PUT -----------------------------------------------------------------------------------------------------------


@_operation(Put, native=True)
def _put(database: QueueDatabase, command: Put) -> Reply:
    shared, now = database.shared, database.now
    if command.unique is None and (command.unique_for is not None or command.until_taken):
        return Failure(failures.BADARGS, "UNIQUEFOR and UNTILTAKEN need UNIQUE")
    due = now
    if command.delay:
        due = shared.after(command.delay)
    elif command.at is not None:
        due = max(now, shared.at(command.at))
        if due - now > DELAY_MAX:
            return Failure(failures.BADARGS, f"AT is more than {DELAY_MAX:,} milliseconds from now")
    known = database.index.queues.get(command.queue)
    if known is not None and command.group is not None and command.priority is not None:
        refusal = _refused_priority(known, command.group, command.priority)
        if refusal is not None:
            return refusal
    if command.unique is not None and (taken := _holder(database, command.queue, command.unique)) is not None:
        return Items((b"%d" % taken, b"0"))
    message = Message(
        queue=command.queue,
        group=command.group or b"",
        unique=command.unique or b"",
        priority=PRIORITY_DEFAULT if command.priority is None else command.priority,
        due=due,
        lease=0,
        attempts=0,
        put_at=now,
        expires=0 if command.expires is None else shared.after(command.expires),
        lease_ms=command.lease or 0,
        size=0,
        unique_until=0 if command.unique_for is None else shared.after(command.unique_for),
        until_taken=command.until_taken,
        new=True,
    )
    first = _put_all(database, message, (command.body,))
    return first if isinstance(first, Failure) else Items((b"%d" % first, b"1"))


@_operation(PutMany, native=True)
def _put_many(database: QueueDatabase, command: PutMany) -> Reply:
    now = database.now
    due = database.shared.after(command.delay) if command.delay else now
    message = Message(command.queue, b"", b"", command.priority, due, 0, 0, now, 0, 0, 0, new=True)
    first = _put_all(database, message, command.bodies)
    return first if isinstance(first, Failure) else Items((b"%d" % first, b"%d" % len(command.bodies)))


def _holder(database: QueueDatabase, queue: bytes, name: bytes) -> int | None:
    """Return the id of the message that has a unique name, or has had it if the name is still taken; or None."""
    entry = database.entry(unique_key(queue, name))
    if entry is None:
        return None
    number: int = NUMBER.unpack(entry[0])[0]
    if entry[1] is not None:
        return number
    message = database.message(number)
    if message is None:  # a damaged store was repaired
        return None
    return number if message.state(database.now) is not None or message.unique_until > database.now else None


def _refused_priority(queue: Queue, group: bytes, priority: int) -> Failure | None:
    """Return a failure if a message of a group cannot have a priority."""
    if queue.is_ordered(group):
        return Failure(failures.BADARGS, "the messages of a group with PERGROUP 1 have no priority")
    if queue.limits_leases(group) and queue.line(group, priority) is None:
        of_group = queue.groups.get(group)
        if of_group is not None and len(of_group.lines) >= GROUP_PRIORITIES_MAX:
            text = f"a group with PERGROUP has messages of at most {GROUP_PRIORITIES_MAX} priorities at once"
            return Failure(failures.BADARGS, text)
    return None


def _put_all(database: QueueDatabase, message: Message, bodies: Sequence[bytes]) -> int | Failure:
    """Put a message with each of these bodies. Returns the id of the first."""
    changes = _Changes(database)
    name = message.queue
    of_queue = changes.of(name)
    drops = _room(database, Queue() if of_queue is None else of_queue.queue, len(bodies), sum(map(len, bodies)))
    if isinstance(drops, Failure):
        return drops
    if of_queue is None:
        made = changes.make_queue(name)
        if isinstance(made, Failure):
            return made
        of_queue = made
    for number, dropped in drops:
        changes.delete(number, dropped, "dropped")
    changes.sweep(of_queue)
    age = of_queue.queue.rules.max_age
    if age:
        oldest = database.shared.after(age)
        message = message._replace(expires=min(message.expires or oldest, oldest))
    changes.join(message)
    first = changes.new_ids(of_queue, len(bodies))
    for number, body in enumerate(bodies, first):
        inside = len(body) <= BODY_INSIDE_MAX
        if not inside:
            database.put(body_key(number), body, None)
        database.put_message(number, message._replace(size=len(body), body=body if inside else None))
    if message.unique:
        database.put(unique_key(name, message.unique), NUMBER.pack(first), None)
    of_queue.count("put", len(bodies))
    changes.write()
    return first


def _room(database: QueueDatabase, queue: Queue, count: int, size: int) -> list[tuple[int, Message]] | Failure:
    """Return the messages that give way to new ones, or a failure if there is no room in the queue."""
    rules = queue.rules
    expired = queue.expiring.count_before((database.now + 1, 0))
    messages = len(queue.live) - expired + count - rules.max_messages if rules.max_messages else 0
    octets = queue.size + size - rules.max_bytes if rules.max_bytes else 0
    if octets > 0:
        octets -= _expired_bytes(database, queue)
    if messages <= 0 and octets <= 0:
        return []
    drops: list[tuple[int, Message]] = []
    if rules.drops:
        for number in itertools.islice(queue.live, STEPS_PER_TAKE):
            message = database.message(number)
            assert message is not None
            if message.lease and message.due > database.now:
                continue
            drops.append((number, message))
            if message.state(database.now) is not None:  # expired messages do not count
                messages -= 1
                octets -= message.size
            if messages <= 0 and octets <= 0:
                return drops
    limit = f"{rules.max_messages:,} messages" if messages > 0 else f"{rules.max_bytes:,} bytes"
    return Failure(
        failures.QUEUEFULL,
        f"the queue has {len(queue.live) - expired:,} messages and {queue.size:,} bytes of bodies; {count:,} more with "
        f"{size:,} bytes exceed its limit of {limit}",
    )


def _expired_bytes(database: QueueDatabase, queue: Queue) -> int:
    """Return the bytes of the bodies of expired messages that are not removed yet; of `STEPS_PER_TAKE` at most."""
    size = 0
    expiring = itertools.chain(
        itertools.takewhile(lambda entry: entry[0] <= database.now, queue.expiring),
        itertools.takewhile(lambda entry: entry[0] <= database.now, queue.dead_expiring),
    )
    for _, number in itertools.islice(expiring, STEPS_PER_TAKE):
        message = database.message(number)
        assert message is not None
        size += message.size
    return size


# -- TAKE ----------------------------------------------------------------------------------------------------------


@_operation(Take, native=True)
def _take(database: QueueDatabase, command: Take) -> Reply:
    changes = _Changes(database)
    taken = _take_some(changes, command.queue, command.count, command.lease)
    changes.write()
    return Items(tuple(string for strings in taken for string in strings))


@_operation(TakeAny, native=True)
def _take_any(database: QueueDatabase, command: TakeAny) -> Reply:
    changes = _Changes(database)
    strings: list[bytes] = []
    for name in command.names:
        for of_message in _take_some(changes, name, command.count, command.lease or None):
            strings += (name, *of_message)
        if strings:
            break
    changes.write()
    return Items(tuple(strings))


def _take_some(changes: _Changes, name: bytes, count: int, lease_ms: int | None) -> list[tuple[bytes, ...]]:
    """Lease messages of a queue. Returns the strings of each."""
    taken: list[tuple[bytes, ...]] = []
    database, now = changes.database, changes.now
    known = database.index.queues.get(name)
    if known is None or known.rules.paused or (known.turns.first(now) is None and not known.expired(now)):
        return taken
    of_queue = changes.of(name)
    assert of_queue is not None
    changes.sweep(of_queue)
    queue, rules = of_queue.queue, of_queue.queue.rules
    size = 0
    for _ in range(STEPS_PER_TAKE + count):
        if len(taken) == count or (turn := queue.turns.first(now)) is None:
            break
        number = queue.head(turn)
        message = database.message(number)
        assert message is not None
        if message.state(now) is None:
            changes.delete(number, message, "expired")
            continue
        if message.attempts >= rules.attempts:
            changes.die(number, message)
            continue
        if taken and size + message.size > TAKE_BYTES:
            break
        size += message.size
        milliseconds = lease_ms or message.lease_ms or rules.lease
        lease = changes.new_lease(of_queue)
        leased = message._replace(due=database.shared.after(milliseconds), lease=lease, attempts=message.attempts + 1)
        if message.until_taken:
            changes.free_name(number, message)
            leased = leased._replace(until_taken=False, unique=b"")
        changes.put(number, leased)
        changes.advance_turn(message)
        taken.append(
            (
                b"%d" % number,
                b"%d" % lease,
                b"%d" % leased.attempts,
                b"%d" % milliseconds,
                b"%d" % message.put_at,
                message.group,
                database.body(number, message),
            )
        )
    of_queue.count("taken", len(taken))
    return taken


# -- leases --------------------------------------------------------------------------------------------------------


def _owned(database: QueueDatabase, number: int, lease: int) -> Message | None:
    """Return a message if this is its newest lease, even if it has ended."""
    message = database.message(number)
    if message is None or message.lease != lease or message.state(database.now) is None:
        return None
    return message


@_operation(Ack, native=True)
def _ack(database: QueueDatabase, command: Ack) -> Reply:
    changes = _Changes(database)
    replies: list[bytes] = []
    for number, lease in command.leases:
        message = _owned(database, number, lease)
        if message is not None:
            changes.delete(number, message, "acked")
        replies.append(b"0" if message is None else b"1")
    changes.write()
    return Items(tuple(replies))


@_operation(Nack)
def _nack(database: QueueDatabase, command: Nack) -> Reply:
    number = command.message
    message = before = _owned(database, number, command.lease)
    if message is None or before is None:
        return 0
    changes = _Changes(database)
    of_queue = changes.of_message(message)
    rules = of_queue.queue.rules
    if command.priority is not None:
        refusal = _refused_priority(of_queue.queue, message.group, command.priority)
        if refusal is not None:
            return refusal
        message = message._replace(priority=command.priority)
    if command.reason is not None:
        message = message._replace(reason=command.reason)
    of_queue.count("nacked")
    if command.dead or (message.attempts >= rules.attempts and not command.uncounted):
        changes.die(number, message)
    else:
        delay = command.delay
        if command.uncounted:
            message = message._replace(attempts=message.attempts - 1)
        elif delay is None:
            delay = backoff(number, message.attempts, rules.backoff, rules.factor, rules.backoff_max)
        due = database.shared.after(delay) if delay else database.now
        changes.join(message)
        changes.put(number, message._replace(due=due, lease=0))
    changes.quit(before)
    changes.write()
    return 1


def backoff(number: int, attempts: int, first: int, factor: int, most: int) -> int:
    """Return the milliseconds before the next attempt: from half of the backoff to all of it.

    The CRC-32 of the id and the attempt determines the place in between, equally on all nodes, so that messages that
    failed together do not return together.

    >>> [backoff(7, attempts, 1_000, 2, 60_000) for attempts in (1, 2, 3, 30)]
    [795, 1582, 2853, 58882]
    """
    full = min(first, most)
    for _ in range(attempts - 1):
        if full == 0 or full >= most or factor == 1:
            break
        full = min(full * factor, most)
    jitter = zlib.crc32(b"%d %d" % (number, attempts)) % (full // 2 + 1)
    return full - jitter


@_operation(Extend)
def _extend(database: QueueDatabase, command: Extend) -> Reply:
    changes = _Changes(database)
    due = database.shared.after(command.lease)
    replies: list[bytes] = []
    for number, lease in command.leases:
        message = _owned(database, number, lease)
        if message is None or message.due <= database.now:
            replies.append(b"0")
            continue
        changes.of_message(message)
        changes.put(number, message._replace(due=due))
        replies.append(b"1")
    changes.write()
    return Items(tuple(replies))


def keep_leases(database: QueueDatabase, begin: int, end: int) -> list[tuple[int, int]]:
    """Move the ends of the leases that end after `begin`, because log time goes from `begin` to `end` in no time.

    Returns the (id, number of the lease) of each. There may be a million leases: those beyond `LEASES_KEPT_MAX` end.
    """
    changes = _Changes(database)
    kept = database.leases(begin, LEASES_KEPT_MAX)
    for number, _ in kept:
        message = database.message(number)
        assert message is not None
        changes.of_message(message)
        changes.put(number, message._replace(due=message.due + end - begin))
    changes.write()
    return kept


# -- looking -------------------------------------------------------------------------------------------------------


def _no_queue(name: bytes) -> Failure:
    return Failure(failures.NOQUEUE, f"there is no queue {quoted(name)}")


def _described(database: QueueDatabase, number: int, message: Message, state: bytes) -> tuple[bytes, ...]:
    unix = database.shared.unix
    times = (unix(time) if time > database.now else time for time in (message.due, message.expires))
    due, expires = (b"%d" % time for time in times)
    return (
        b"%d" % number,
        message.queue,
        state,
        b"%d" % message.priority,
        due,
        b"%d" % message.lease,
        b"%d" % message.attempts,
        b"%d" % message.put_at,
        expires,
        message.group,
        message.unique,
        message.reason,
        database.body(number, message),
    )


def _slice(
    database: QueueDatabase, queue: Queue, state: bytes, cursor: int, count: int
) -> Iterator[tuple[int, Message, bytes | None]]:
    """Yield messages in the order of their ids after a cursor, `count` at most, with their states."""
    ids: Iterable[int]
    first = min(cursor, INTEGER_MAX - 1) + 1  # the lists of the native path have no greater numbers
    if state == ALL:
        ids = heapq.merge(queue.live.since(first), queue.dead.since(first))
    else:
        ids = (queue.dead if state == DEAD else queue.live).since(first)
    for number in itertools.islice(ids, count):
        message = database.message(number)
        assert message is not None
        yield number, message, message.state(database.now)


@_operation(Peek)
def _peek(database: QueueDatabase, command: Peek) -> Reply:
    queue = database.index.queues.get(command.queue)
    if queue is None:
        return _no_queue(command.queue)
    strings: list[bytes] = []
    examined = size = last = 0
    for number, message, state in _slice(database, queue, command.state, command.cursor, command.count):
        if state == command.state:
            if strings and size + message.size > TAKE_BYTES:
                return Items((b"%d" % last, *strings))
            size += message.size
            strings += _described(database, number, message, state)
        examined, last = examined + 1, number
    return Items((b"%d" % (last if examined == command.count else 0), *strings))


@_operation(Look)
def _look(database: QueueDatabase, command: Look) -> Reply:
    message = database.message(command.message)
    state = None if message is None else message.state(database.now)
    if message is None or state is None:
        return MISSING
    return Items(_described(database, command.message, message, state))


# -- maintenance ---------------------------------------------------------------------------------------------------


@_operation(Requeue)
def _requeue(database: QueueDatabase, command: Requeue) -> Reply:
    changes = _Changes(database)
    of_queue = changes.of(command.queue)
    if of_queue is None:
        return _no_queue(command.queue)
    changes.sweep(of_queue)
    queue = of_queue.queue
    found: list[int]
    if command.state == DEAD:
        found = list(itertools.islice(queue.dead, command.count))
    else:
        after = queue.delayed.since((database.now + 1, 0))
        found = [number for _, number in itertools.islice(after, command.count)]
    count = _revive(changes, found)
    changes.write()
    return count


@_operation(RequeueIds)
def _requeue_ids(database: QueueDatabase, command: RequeueIds) -> Reply:
    changes = _Changes(database)
    count = _revive(changes, command.messages)
    changes.write()
    return count


def _revive(changes: _Changes, numbers: Iterable[int]) -> int:
    """Make those of these messages ready that are delayed or dead. Returns their number."""
    count = 0
    for number in numbers:
        message = changes.database.message(number)
        if message is not None and message.state(changes.now) in (DEAD, DELAYED):
            changes.revive(number, message)
            count += 1
    return count


@_operation(Remove)
def _remove(database: QueueDatabase, command: Remove) -> Reply:
    changes = _Changes(database)
    count = 0
    for number in command.messages:
        message = database.message(number)
        if message is not None and message.state(database.now) is not None:
            changes.delete(number, message, "removed")
            count += 1
    changes.write()
    return count


@_operation(Purge)
def _purge(database: QueueDatabase, command: Purge) -> Reply:
    changes = _Changes(database)
    of_queue = changes.of(command.queue)
    if of_queue is None:
        return _no_queue(command.queue)
    if command.state == EXPIRED:
        before = of_queue.queue.expired(database.now)
        changes.sweep(of_queue, TAKE_MAX)
        changes.write()
        return Items((b"0", b"%d" % (before - of_queue.queue.expired(database.now))))
    found = list(_slice(database, of_queue.queue, command.state, command.cursor, TAKE_MAX))
    removed = 0
    for number, message, state in found:
        if state is None:
            changes.delete(number, message, "expired")
        elif command.state in (ALL, state):
            changes.delete(number, message, "removed")
            removed += 1
    changes.write()
    return Items((b"%d" % (found[-1][0] if len(found) == TAKE_MAX else 0), b"%d" % removed))


# -- queues --------------------------------------------------------------------------------------------------------


@_operation(QueueSet)
def _queue_set(database: QueueDatabase, command: QueueSet) -> Reply:
    changes = _Changes(database)
    of_queue = changes.of(command.queue)
    if of_queue is None:
        made = changes.make_queue(command.queue)
        if isinstance(made, Failure):
            return made
        of_queue = made
    given = {
        name: value
        for name, value in (
            ("lease", command.lease),
            ("attempts", command.attempts),
            ("backoff", command.backoff),
            ("factor", command.factor),
            ("backoff_max", command.backoff_max),
            ("per_group", command.per_group),
            ("max_messages", command.max_messages),
            ("max_bytes", command.max_bytes),
            ("max_age", command.max_age),
            ("dead_max", command.dead_max),
            ("dead_age", command.dead_age),
            ("drops", None if command.when_full is None else int(command.when_full == DROP)),
            ("paused", command.paused),
        )
        if value is not None
    }
    queue = of_queue.queue
    settings = queue.rules._replace(**given)
    if settings.per_group != queue.rules.per_group and queue.live:
        return Failure(failures.QUEUEBUSY, "PERGROUP changes only while the queue has no messages")
    database.put(settings_key(command.queue), settings.packed(), None)
    changes.sweep(of_queue)
    changes.write()
    return OK


@_operation(QueueDrop)
def _queue_drop(database: QueueDatabase, command: QueueDrop) -> Reply:
    changes = _Changes(database)
    of_queue = changes.of(command.queue)
    if of_queue is None:
        return _no_queue(command.queue)
    if any(of_queue.queue.counts(database.now)):
        return Failure(failures.QUEUEBUSY, "QUEUE_DROP needs an empty queue; PURGE it first")
    if len(of_queue.queue.live) + len(of_queue.queue.dead) > TAKE_MAX:
        return Failure(failures.QUEUEBUSY, "the queue still has many expired messages; PURGE it first")
    changes.sweep(of_queue, TAKE_MAX)
    changes.write_counters()
    database.delete(settings_key(command.queue))
    database.delete(queue_key(command.queue))
    return OK


@_operation(QueueStats)
def _queue_stats(database: QueueDatabase, command: QueueStats) -> Reply:
    queue = database.index.queues.get(command.queue)
    if queue is None or queue.record is None:
        return _no_queue(command.queue)
    now, record, rules = database.now, queue.record, queue.rules
    ready, delayed, leased, dead = queue.counts(now)
    expired = record.expired + queue.expired(now)
    pairs: tuple[tuple[str, int | str], ...] = (
        ("ready", ready),
        ("delayed", delayed),
        ("leased", leased),
        ("dead", dead),
        ("bytes", queue.size),
        ("groups", len(queue.groups) - (b"" in queue.groups)),
        ("oldest_ready_ms", queue.oldest_ready(now)),
        ("put", record.put),
        ("taken", record.taken),
        ("acked", record.acked),
        ("nacked", record.nacked),
        ("expired", expired),
        ("died", record.died),
        ("removed", record.removed),
        ("requeued", record.requeued),
        ("dropped", record.dropped),
        ("lease", rules.lease),
        ("attempts", rules.attempts),
        ("backoff", rules.backoff),
        ("factor", rules.factor),
        ("backoff_max", rules.backoff_max),
        ("per_group", rules.per_group),
        ("max_messages", rules.max_messages),
        ("max_bytes", rules.max_bytes),
        ("max_age", rules.max_age),
        ("dead_max", rules.dead_max),
        ("dead_age", rules.dead_age),
        ("when_full", "drop" if rules.drops else "refuse"),
        ("paused", rules.paused),
    )
    return Items(tuple(str(part).encode() for pair in pairs for part in pair))


@_operation(Queues)
def _queues(database: QueueDatabase, command: Queues) -> Reply:
    numbers = database.index.numbers.since((command.cursor + 1, b""))
    found = list(itertools.islice(numbers, command.count))
    following = found[-1][0] if len(found) == command.count else 0
    return Items((b"%d" % following, *(name for _, name in found)))
