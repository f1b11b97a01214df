"""The database of queues: records as in any database, and an index that follows from them.

A message is ready, delayed, leased or dead. Its record and log time determine that, so the end of a lease or a delay is
no event and moves nothing: the messages of a group are in the order of the times from which on they are ready.

Invariants: the index is a function of the records alone; `_replace` and `load` are the only places that change it. So
undo, loading and snapshots need to know nothing about queues. No operation reads more messages than it changes or
returns, except by a constant. Clients cannot name this database: its values stay in memory, and nothing evicts them.

Out of scope: the effects of commands (`queue_operations`) and the format of records (`queue_records`).
"""

from bisect import insort
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from cairnkv.engine.database import Database, Journal, Shared
from cairnkv.engine.queue_records import (
    BODIES,
    COUNTERS,
    GROUPS,
    MESSAGES,
    NUMBER,
    QUEUES,
    SETTINGS,
    Counters,
    Message,
    QueueRecord,
    Settings,
    body_key,
    message_key,
    parsed_counters,
    parsed_group_key,
    parsed_message,
    parsed_queue,
    parsed_settings,
)
from cairnkv.engine.sorted_list import SortedList
from cairnkv.engine.table import Stored
from cairnkv.limits import QUEUE_DB

MESSAGE_INDEX_BYTES: Final = 400
"""Estimated bytes of memory of a message in the index. Measured with 200,000 messages: 240 bytes if they are ready, 380
if they are leased and expire."""

GROUP_INDEX_BYTES: Final = 1_200
"""Estimated bytes of memory of a group in the index. Measured with 100,000 groups of one message each."""

QUEUE_INDEX_BYTES: Final = 4_000
"""Estimated bytes of memory of a queue in the index."""

DEFAULTS: Final = Settings()


class Turn(NamedTuple):
    """The messages of a group with one priority, in the order of turns. at: the time from which on one is ready."""

    priority: int
    turn: int
    group: bytes
    at: int


class _Chunk(list[Turn]):
    """A chunk of turns. soonest: the least `at`; None: unknown."""

    __slots__ = ("soonest",)

    def __init__(self, turns: Any = ()) -> None:
        super().__init__(turns)
        self.soonest: int | None = None


class Turns:
    """Turns in their order. The first that is ready is found without reading those that are not, chunk by chunk."""

    CHUNK: Final = 128

    def __init__(self) -> None:
        self._chunks: list[_Chunk] = []

    def _chunk_of(self, turn: Turn) -> int:
        low, high = 0, len(self._chunks) - 1
        while low < high:
            middle = (low + high) // 2
            if self._chunks[middle][-1] < turn:
                low = middle + 1
            else:
                high = middle
        return low

    def add(self, turn: Turn) -> None:
        """Add a turn."""
        if not self._chunks:
            self._chunks.append(_Chunk((turn,)))
            return
        at = self._chunk_of(turn)
        chunk = self._chunks[at]
        insort(chunk, turn)
        chunk.soonest = None
        if len(chunk) > self.CHUNK:
            middle = self.CHUNK // 2
            self._chunks[at : at + 1] = [_Chunk(chunk[:middle]), _Chunk(chunk[middle:])]

    def remove(self, turn: Turn) -> None:
        """Remove a turn."""
        at = self._chunk_of(turn)
        chunk = self._chunks[at]
        chunk.remove(turn)
        chunk.soonest = None
        if not chunk:
            del self._chunks[at]

    def first(self, now: int) -> Turn | None:
        """Return the first turn that is ready."""
        for chunk in self._chunks:
            if chunk.soonest is None:
                chunk.soonest = min(turn.at for turn in chunk)
            if chunk.soonest <= now:
                return next(turn for turn in chunk if turn.at <= now)
        return None

    def __iter__(self) -> Iterator[Turn]:
        for chunk in self._chunks:
            yield from chunk


class Group:
    """The live messages of one group of a queue, or those without a group.

    lines: by priority, (due, id) of each message; (id, due) if the group is strictly ordered. turns: by priority.
    leases: (due, id) of the leased messages, if the queue limits their number to more than one.
    recorded: whether the group has a record.
    """

    __slots__ = ("leases", "lines", "recorded", "turn", "turns")

    def __init__(self) -> None:
        self.turn = 0
        self.recorded = False
        self.lines: dict[int, SortedList[tuple[int, int]]] = {}
        self.leases: SortedList[tuple[int, int]] = SortedList()
        self.turns: dict[int, Turn] = {}


class Queue:
    """The index of one queue.

    record, settings: None: there is none. live, dead: ids. delayed, leased: (due, id), also if that time is past.
    expiring: (time, id) of live messages that expire; the time is not before their delay or lease ends. dead_expiring:
    the same of dead messages. size: bytes of all bodies.
    """

    __slots__ = (
        "dead",
        "dead_expiring",
        "delayed",
        "expiring",
        "groups",
        "leased",
        "live",
        "record",
        "settings",
        "size",
        "turns",
    )

    def __init__(self) -> None:
        self.record: QueueRecord | None = None
        self.settings: Settings | None = None
        self.live: SortedList[int] = SortedList()
        self.dead: SortedList[int] = SortedList()
        self.delayed: SortedList[tuple[int, int]] = SortedList()
        self.leased: SortedList[tuple[int, int]] = SortedList()
        self.expiring: SortedList[tuple[int, int]] = SortedList()
        self.dead_expiring: SortedList[tuple[int, int]] = SortedList()
        self.groups: dict[bytes, Group] = {}
        self.turns = Turns()
        self.size = 0

    @property
    def rules(self) -> Settings:
        """The settings, or the defaults."""
        return self.settings or DEFAULTS

    @property
    def is_empty(self) -> bool:
        """Whether the queue has no messages, expired ones included."""
        return not self.live and not self.dead

    def counts(self, now: int) -> tuple[int, int, int, int]:
        """Return the exact numbers of ready, delayed, leased and dead messages."""
        after = (now + 1, 0)
        delayed = len(self.delayed) - self.delayed.count_before(after)
        leased = len(self.leased) - self.leased.count_before(after)
        ready = len(self.live) - delayed - leased - self.expiring.count_before(after)
        return ready, delayed, leased, len(self.dead) - self.dead_expiring.count_before(after)

    def expired(self, now: int) -> int:
        """Return the number of expired messages that are not removed yet."""
        after = (now + 1, 0)
        return self.expiring.count_before(after) + self.dead_expiring.count_before(after)

    def head(self, turn: Turn) -> int:
        """Return the id of the first message of a turn."""
        first = self.groups[turn.group].lines[turn.priority].first()
        assert first is not None
        return first[0 if self._is_ordered(turn.group) else 1]

    def _is_ordered(self, group: bytes) -> bool:
        return bool(group) and self.rules.per_group == 1

    def set_settings(self, settings: Settings | None, messages: "QueueDatabase") -> None:
        """Replace the settings. Another limit of leases changes the order of messages."""
        before = self.rules.per_group
        self.settings = settings
        if self.rules.per_group != before and self.live:
            self.turns = Turns()
            for group in self.groups.values():
                group.lines, group.turns, group.leases = {}, {}, SortedList()
            for number in self.live:
                message = messages.message(number)
                assert message is not None
                self._join(number, message)
                self._set_turn(message.group, message.priority)

    def group(self, name: bytes) -> Group:
        """Return a group. Makes it if there is none."""
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group()
            if not name and self.record is not None:
                group.turn = self.record.own_turn
        return group

    def set_group_turn(self, name: bytes, turn: int, *, recorded: bool) -> None:
        """Set the turn of a group."""
        group = self.group(name)
        group.turn, group.recorded = turn, recorded
        for priority in list(group.turns):
            self._set_turn(name, priority)
        self._discard_empty(name)

    def _discard_empty(self, name: bytes) -> None:
        """Remove a group without messages and record."""
        group = self.groups.get(name)
        if group is not None and not group.lines and not group.recorded:
            del self.groups[name]

    def replace(self, number: int, old: Message | None, new: Message | None) -> None:
        """Replace a message in the index."""
        if old is not None:
            self._remove(number, old)
        if new is not None:
            self._add(number, new)
        for message in (old, new):
            if message is not None and not message.dead:
                self._set_turn(message.group, message.priority)
        if old is not None:
            self._discard_empty(old.group)

    def _add(self, number: int, message: Message) -> None:
        self.size += message.size
        if message.dead:
            self.dead.add(number)
            if message.expires:
                self.dead_expiring.add((message.expires, number))
            return
        self.live.add(number)
        if message.lease:
            self.leased.add((message.due, number))
        elif message.due > message.put_at:
            self.delayed.add((message.due, number))
        if message.expires:
            self.expiring.add((max(message.expires, message.due), number))
        self._join(number, message)

    def _remove(self, number: int, message: Message) -> None:
        self.size -= message.size
        if message.dead:
            self.dead.remove(number)
            if message.expires:
                self.dead_expiring.remove((message.expires, number))
            return
        self.live.remove(number)
        if message.lease:
            self.leased.remove((message.due, number))
        elif message.due > message.put_at:
            self.delayed.remove((message.due, number))
        if message.expires:
            self.expiring.remove((max(message.expires, message.due), number))
        group = self.groups[message.group]
        line = group.lines[message.priority]
        line.remove((number, message.due) if self._is_ordered(message.group) else (message.due, number))
        if not line:
            del group.lines[message.priority]
        if message.lease and self._limits_leases(message.group):
            group.leases.remove((message.due, number))

    def _join(self, number: int, message: Message) -> None:
        """Add a live message to its group."""
        group = self.group(message.group)
        line = group.lines.get(message.priority)
        if line is None:
            line = group.lines[message.priority] = SortedList()
        line.add((number, message.due) if self._is_ordered(message.group) else (message.due, number))
        if message.lease and self._limits_leases(message.group):
            group.leases.add((message.due, number))

    def _limits_leases(self, group: bytes) -> bool:
        return bool(group) and self.rules.per_group > 1

    def _set_turn(self, name: bytes, priority: int) -> None:
        """Set the turns of a group's messages with a priority, or with any if the number of leases may block them."""
        group = self.groups[name]
        limit = self.rules.per_group
        blocked = 0
        priorities: Any = (priority,)
        if name and limit > 1:
            priorities = {*group.lines, *group.turns}
            if len(group.leases) >= limit:
                blocked = group.leases.from_end(limit)[0]
        for each in priorities:
            line, old = group.lines.get(each), group.turns.get(each)
            new = None
            if line is not None:
                first = line.first()
                assert first is not None
                due = first[1 if self._is_ordered(name) else 0]
                new = Turn(each, group.turn, name, max(due, blocked))
            if new == old:
                continue
            if old is not None:
                self.turns.remove(old)
                del group.turns[each]
            if new is not None:
                self.turns.add(new)
                group.turns[each] = new

    def content(self) -> object:
        """Return all of it in comparable form, for checks."""
        groups = {
            name: (group.turn, {priority: list(line) for priority, line in group.lines.items()}, list(group.leases))
            for name, group in self.groups.items()
        }
        ids = list(self.live), list(self.dead)
        times = list(self.delayed), list(self.leased), list(self.expiring), list(self.dead_expiring)
        return self.record, self.settings, ids, times, groups, list(self.turns), self.size


class QueueIndex:
    """The index of all queues.

    numbers: (number, name) of each queue. idle: (time of the last change, name) of each queue without messages and
    settings. messages, groups: their number in all queues.
    """

    def __init__(self) -> None:
        self.queues: dict[bytes, Queue] = {}
        self.numbers: SortedList[tuple[int, bytes]] = SortedList()
        self.idle: SortedList[tuple[int, bytes]] = SortedList()
        self.messages = 0
        self.groups = 0

    def replace(self, key: bytes, old: bytes | None, new: bytes | None, messages: "QueueDatabase") -> None:
        """Replace a record in the index."""
        kind = key[:1]
        if kind == MESSAGES:
            self._replace_message(int.from_bytes(key[1:]), old, new)
        elif kind == QUEUES:
            self._replace_queue(key[1:], new)
        elif kind == GROUPS:
            self._replace_group(*parsed_group_key(key), old, new)
        elif kind == SETTINGS:
            queue = self._queue(key[1:])
            self._forget_idle(key[1:], queue)
            queue.set_settings(None if new is None else parsed_settings(new), messages)
            self._tidy(key[1:], queue)

    def _queue(self, name: bytes) -> Queue:
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue()
        return queue

    def _replace_message(self, number: int, old: bytes | None, new: bytes | None) -> None:
        before = None if old is None else parsed_message(old)
        after = None if new is None else parsed_message(new)
        self.messages += (after is not None) - (before is not None)
        message = after or before
        assert message is not None
        queue = self._queue(message.queue)
        self._forget_idle(message.queue, queue)
        queue.replace(number, before, after)
        self._tidy(message.queue, queue)

    def _replace_queue(self, name: bytes, new: bytes | None) -> None:
        queue = self._queue(name)
        self._forget_idle(name, queue)
        before, queue.record = queue.record, None if new is None else parsed_queue(new)
        if before is not None and (queue.record is None or queue.record.number != before.number):
            self.numbers.remove((before.number, name))
        if queue.record is not None:
            if before is None or queue.record.number != before.number:
                self.numbers.add((queue.record.number, name))
            if b"" in queue.groups:
                queue.set_group_turn(b"", queue.record.own_turn, recorded=False)
        self._tidy(name, queue)

    def _replace_group(self, name: bytes, group: bytes, old: bytes | None, new: bytes | None) -> None:
        self.groups += (new is not None) - (old is not None)
        queue = self._queue(name)
        self._forget_idle(name, queue)
        turn = 0 if new is None else NUMBER.unpack(new)[0]
        queue.set_group_turn(group, turn, recorded=new is not None)
        self._tidy(name, queue)

    def _forget_idle(self, name: bytes, queue: Queue) -> None:
        if queue.record is not None and queue.settings is None and queue.is_empty:
            self.idle.remove((queue.record.used_at, name))

    def _tidy(self, name: bytes, queue: Queue) -> None:
        """Note that a queue is idle, or forget it if it has no record at all."""
        if queue.record is not None:
            if queue.settings is None and queue.is_empty:
                self.idle.add((queue.record.used_at, name))
        elif queue.settings is None and queue.is_empty and not queue.groups:
            del self.queues[name]

    @property
    def used_bytes(self) -> int:
        """The estimated memory of the index."""
        return (
            MESSAGE_INDEX_BYTES * self.messages
            + GROUP_INDEX_BYTES * self.groups
            + QUEUE_INDEX_BYTES * len(self.numbers)
        )

    def content(self) -> object:
        """Return all of it in comparable form, for checks."""
        queues = {name: queue.content() for name, queue in self.queues.items()}
        return queues, list(self.numbers), list(self.idle), self.messages, self.groups


class QueueDatabase(Database):
    """The database of queues of a store."""

    def __init__(self, shared: Shared | None = None) -> None:
        super().__init__(shared, QUEUE_DB)
        self._index: QueueIndex | None = QueueIndex()

    @property
    def index(self) -> QueueIndex:
        """The index of all records."""
        if self._index is None:
            self._index = self._new_index()
        return self._index

    def _new_index(self) -> QueueIndex:
        index = QueueIndex()
        for key, value, _ in self._table:
            assert isinstance(value, bytes)
            index.replace(key, None, value, self)
        return index

    def _replace(
        self, key: bytes, old: tuple[Stored, int | None] | None, new: tuple[Stored, int | None] | None
    ) -> None:
        self.shared.expiring = True  # replies depend on log time
        index, self._index = self.index, None  # if this fails halfway, the next use makes a new index
        super()._replace(key, old, new)
        index.replace(key, None if old is None else _record(old), None if new is None else _record(new), self)
        self._index = index

    def load(self, key: bytes, value: Stored, expiry: int | None) -> None:
        """Add an entry that storage has kept; see `Database.load`."""
        super().load(key, value, expiry)
        assert isinstance(value, bytes), "the records of queues are always in memory"
        self.index.replace(key, None, value, self)
        self.shared.expiring = True

    def take_over(self, loaded: Database) -> None:
        """Move all entries of another database of queues to this empty one; see `Database.take_over`."""
        assert isinstance(loaded, QueueDatabase)
        super().take_over(loaded)
        self._index = loaded.index
        self.shared.expiring = self.shared.expiring or bool(self._table.keys)

    def copy_undone(self, interrupted: Database, journal: Journal) -> None:
        """Copy the entries of another database without the changes of a journal; see `Database.copy_undone`."""
        super().copy_undone(interrupted, journal)
        self._index = None

    @property
    def index_bytes(self) -> int:
        """The estimated memory of the indexes."""
        return super().index_bytes + self.index.used_bytes

    # -- records ------------------------------------------------------------------------------------------------

    def message(self, number: int) -> Message | None:
        """Return a message, expired or not, or None."""
        record = self.get(message_key(number))
        return None if record is None else parsed_message(record)

    def body(self, number: int) -> bytes:
        """Return the body of a message."""
        body = self.get(body_key(number))
        assert body is not None
        return body

    def counters(self) -> Counters:
        """Return the counters of the store."""
        return parsed_counters(self.get(COUNTERS))

    # -- checking -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError unless the index follows from the records, and the records belong to each other."""
        super().check()
        assert self.index.content() == self._new_index().content()
        keys = {key for key, _, _ in self._table}
        bodies = {key[1:] for key in keys if key[:1] == BODIES}
        assert bodies == {key[1:] for key in keys if key[:1] == MESSAGES}
        for name, queue in self.index.queues.items():
            assert queue.record is not None, f"queue {name!r} has no record"
            for number in (*queue.live, *queue.dead):
                message = self.message(number)
                assert message is not None
                assert message.queue == name
                assert len(self.body(number)) == message.size
            for group, of_group in queue.groups.items():
                assert of_group.lines, f"group {group!r} has no messages"


def _record(entry: tuple[Stored, int | None]) -> bytes:
    value = entry[0]
    assert isinstance(value, bytes), "the records of queues are always in memory"
    return value


def queues_of(shared: Shared) -> QueueDatabase:
    """Return the database of queues of a store. Makes it if there is none."""
    database = shared.databases.get(QUEUE_DB)
    if database is None:
        return QueueDatabase(shared)
    assert isinstance(database, QueueDatabase)
    return database
