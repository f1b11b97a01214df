"""The database of queues: records as in any database, and an index that follows from them.

A message is ready, delayed, leased or dead. Its record and log time determine that, so the end of a lease or a delay is
no event and moves nothing: the messages of a group are in the order of the times from which on they are ready.

Invariants: the index is a function of the records alone; `_replace` and `load` are the only places that change it. So
undo, loading and snapshots need to know nothing about queues. No operation reads more messages than it changes or
returns, except by a constant. Clients cannot name this database: its values stay in memory, and nothing evicts them.

Out of scope: the effects of commands (`queue_operations`) and the format of records (`queue_records`).
"""

from bisect import insort
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from cairnkv.engine.database import Database, Journal, Shared
from cairnkv.engine.queue_records import (
    BODIES,
    COUNTERS,
    MESSAGES,
    NUMBER,
    QUEUES,
    SETTINGS,
    TURNS,
    Counters,
    Message,
    QueueRecord,
    Settings,
    body_key,
    message_key,
    parsed_counters,
    parsed_message,
    parsed_queue,
    parsed_settings,
    parsed_turn_key,
)
from cairnkv.engine.sorted_list import SortedList
from cairnkv.engine.table import Stored
from cairnkv.limits import QUEUE_DB

MESSAGE_INDEX_BYTES: Final = 180
"""Estimated bytes of memory of a message in the index. Measured with 100,000 messages of 100 bytes, besides the
estimate for their records: 90 bytes if they expire, 170 if they are leased, too."""

LINE_INDEX_BYTES: Final = 1_100
"""Estimated bytes of memory of a line in the index. Measured with 100,000 groups of one message each: 1,080."""

QUEUE_INDEX_BYTES: Final = 2_300
"""Estimated bytes of memory of a queue in the index. Measured with 10,000 queues with settings: 2,230."""

PARSED_MAX: Final = 1_024
"""Maximum records of messages that are kept parsed: about half a megabyte. A message is often put, taken and acked
within a short time, and each of these commands needs it several times."""

DEFAULTS: Final = Settings()


class Turn(NamedTuple):
    """The place of a line in the order of a queue. at: the time from which on it has a ready message."""

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
        self._length = 0

    def __len__(self) -> int:
        return self._length

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
        self._length += 1
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
        self._length -= 1
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

    def soonest(self) -> int | None:
        """Return the time from which on a turn is ready, or None if there is no turn."""
        for chunk in self._chunks:
            if chunk.soonest is None:
                chunk.soonest = min(turn.at for turn in chunk)
        return min((chunk.soonest for chunk in self._chunks if chunk.soonest is not None), default=None)

    def __iter__(self) -> Iterator[Turn]:
        for chunk in self._chunks:
            yield from chunk


class Line:
    """The live messages of a group with one priority.

    messages: (due, id); (id, due) if the group is strictly ordered. turn: the line with the least turn comes first, of
    those with its priority. recorded: whether the turn has a record. place: its place among the turns of the queue.
    """

    __slots__ = ("messages", "place", "recorded", "turn")

    def __init__(self) -> None:
        self.messages: SortedList[tuple[int, int]] = SortedList()
        self.turn = 0
        self.recorded = False
        self.place: Turn | None = None


class Group:
    """The live messages of one group of a queue, or those without a group.

    lines: by priority. leases: (due, id) of the leased messages, if the queue limits their number to more than one.
    """

    __slots__ = ("leases", "lines")

    def __init__(self) -> None:
        self.lines: dict[int, Line] = {}
        self.leases: SortedList[tuple[int, int]] = SortedList()


class Queue:
    """The index of one queue.

    record, settings: None: there is none. live, dead: ids. delayed, leased: (due, id), also if that time is past.
    expiring: (time, id) of live messages that expire; the time is not before their delay or lease ends. dead_expiring:
    the same of dead messages. lines: number of lines with messages, by priority. size: bytes of all bodies.
    """

    __slots__ = (
        "dead",
        "dead_expiring",
        "delayed",
        "expiring",
        "groups",
        "leased",
        "lines",
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
        self.lines: dict[int, int] = {}
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
        first = self.groups[turn.group].lines[turn.priority].messages.first()
        assert first is not None
        return first[0 if self.is_ordered(turn.group) else 1]

    def line(self, group: bytes, priority: int) -> Line | None:
        """Return the line of a group with a priority, or None."""
        of_group = self.groups.get(group)
        return None if of_group is None else of_group.lines.get(priority)

    def is_ordered(self, group: bytes) -> bool:
        """Return whether the messages of a group are taken strictly in the order of their ids."""
        return bool(group) and self.rules.per_group == 1

    def limits_leases(self, group: bytes) -> bool:
        """Return whether a group may have a limited number of leases, but more than one."""
        return bool(group) and self.rules.per_group > 1

    def set_settings(self, settings: Settings | None, messages: "QueueDatabase") -> None:
        """Replace the settings. Another limit of leases changes the order of messages."""
        before = self.rules.per_group
        self.settings = settings
        if self.rules.per_group != before and self.live:
            self.turns, self.lines = Turns(), {}
            for group in self.groups.values():
                group.leases = SortedList()
                for line in group.lines.values():
                    line.messages, line.place = SortedList(), None
            for number in self.live:
                message = messages.message(number)
                assert message is not None
                self._join(number, message)
                self._set_places(message.group, message.priority)

    def set_turn(self, name: bytes, priority: int, turn: int, *, recorded: bool) -> None:
        """Set the turn of a line."""
        line = self._made_line(name, priority)
        line.turn, line.recorded = turn, recorded
        self._set_places(name, priority)
        self._discard_empty(name, priority)

    def replace(self, number: int, old: Message | None, new: Message | None) -> None:
        """Replace a message in the index."""
        if old is not None and new is not None and not old.dead and not new.dead:
            self._move(number, old, new)
            return
        if old is not None:
            self._remove(number, old)
        if new is not None:
            self._add(number, new)
        if new is not None and not new.dead:
            self._set_places(new.group, new.priority)
        if old is not None and not old.dead:
            self._set_places(old.group, old.priority)
            self._discard_empty(old.group, old.priority)

    def _move(self, number: int, old: Message, new: Message) -> None:
        """Replace a live message that stays live."""
        self.size += new.size - old.size
        self._remove_times(number, old)
        self._add_times(number, new)
        self._quit(number, old)
        self._join(number, new)
        self._set_places(new.group, new.priority)
        if (old.group, old.priority) != (new.group, new.priority):
            self._set_places(old.group, old.priority)
            self._discard_empty(old.group, old.priority)

    def _add(self, number: int, message: Message) -> None:
        self.size += message.size
        if message.dead:
            self.dead.add(number)
            if message.expires:
                self.dead_expiring.add((message.expires, number))
            return
        self.live.add(number)
        self._add_times(number, message)
        self._join(number, message)

    def _remove(self, number: int, message: Message) -> None:
        self.size -= message.size
        if message.dead:
            self.dead.remove(number)
            if message.expires:
                self.dead_expiring.remove((message.expires, number))
            return
        self.live.remove(number)
        self._remove_times(number, message)
        self._quit(number, message)

    def _add_times(self, number: int, message: Message) -> None:
        """Add the times of a live message to the counts."""
        if message.lease:
            self.leased.add((message.due, number))
        elif message.due > message.put_at:
            self.delayed.add((message.due, number))
        if message.expires:
            self.expiring.add((max(message.expires, message.due), number))

    def _remove_times(self, number: int, message: Message) -> None:
        """Remove the times of a live message from the counts."""
        if message.lease:
            self.leased.remove((message.due, number))
        elif message.due > message.put_at:
            self.delayed.remove((message.due, number))
        if message.expires:
            self.expiring.remove((max(message.expires, message.due), number))

    def _quit(self, number: int, message: Message) -> None:
        """Remove a live message from its line."""
        group = self.groups[message.group]
        line = group.lines[message.priority].messages
        line.remove((number, message.due) if self.is_ordered(message.group) else (message.due, number))
        if not line:
            self.lines[message.priority] -= 1
            if not self.lines[message.priority]:
                del self.lines[message.priority]
        if message.lease and self.limits_leases(message.group):
            group.leases.remove((message.due, number))

    def _join(self, number: int, message: Message) -> None:
        """Add a live message to its line."""
        line = self._made_line(message.group, message.priority).messages
        if not line:
            self.lines[message.priority] = self.lines.get(message.priority, 0) + 1
        line.add((number, message.due) if self.is_ordered(message.group) else (message.due, number))
        if message.lease and self.limits_leases(message.group):
            self.groups[message.group].leases.add((message.due, number))

    def _made_line(self, name: bytes, priority: int) -> Line:
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group()
        line = group.lines.get(priority)
        if line is None:
            line = group.lines[priority] = Line()
        return line

    def _discard_empty(self, name: bytes, priority: int) -> None:
        """Remove a line without messages and record, and its group if that has no other."""
        line = self.line(name, priority)
        if line is not None and not line.messages and not line.recorded:
            group = self.groups[name]
            del group.lines[priority]
            if not group.lines:
                del self.groups[name]

    def _set_places(self, name: bytes, priority: int) -> None:
        """Set the place of a line, and of the other lines of its group if the number of leases may block them."""
        group = self.groups.get(name)
        if group is None:
            return
        if not self.limits_leases(name):
            if priority in group.lines:
                self._set_place(name, priority, group.lines[priority], 0)
            return
        limit = self.rules.per_group
        blocked = group.leases.from_end(limit)[0] if len(group.leases) >= limit else 0
        for each, line in group.lines.items():
            self._set_place(name, each, line, blocked)

    def _set_place(self, name: bytes, priority: int, line: Line, blocked: int) -> None:
        """Set the place of a line. blocked: the time until which its group has too many leases."""
        first, before = line.messages.first(), line.place
        place = None
        if first is not None:
            at = max(first[1 if self.is_ordered(name) else 0], blocked)
            if before is not None and before.at == at and before.turn == line.turn:
                return
            place = Turn(priority, line.turn, name, at)
        if before is not None:
            self.turns.remove(before)
        if place is not None:
            self.turns.add(place)
        line.place = place

    def content(self) -> object:
        """Return all of it in comparable form, for checks."""
        groups = {
            name: (
                {priority: (list(line.messages), line.turn, line.recorded) for priority, line in group.lines.items()},
                list(group.leases),
            )
            for name, group in self.groups.items()
        }
        ids = list(self.live), list(self.dead)
        times = list(self.delayed), list(self.leased), list(self.expiring), list(self.dead_expiring)
        return self.record, self.settings, ids, times, groups, self.lines, list(self.turns), self.size


class QueueIndex:
    """The index of all queues.

    numbers: (number, name) of each queue. idle: (time of the last change, name) of each queue without messages and
    settings. messages: their number in all queues. expiring: of those that expire. lines: of lines with messages.
    """

    def __init__(self) -> None:
        self.queues: dict[bytes, Queue] = {}
        self.numbers: SortedList[tuple[int, bytes]] = SortedList()
        self.idle: SortedList[tuple[int, bytes]] = SortedList()
        self.messages = 0
        self.expiring = 0
        self.lines = 0

    def replace(self, key: bytes, old: bytes | None, new: bytes | None, messages: "QueueDatabase") -> None:
        """Replace a record in the index."""
        kind = key[:1]
        if kind == MESSAGES:
            self._replace_message(int.from_bytes(key[1:]), old, new, messages)
        elif kind == QUEUES:
            self._replace_queue(key[1:], new)
        elif kind == TURNS:
            self._replace_turn(key, new)
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

    def _replace_message(self, number: int, old: bytes | None, new: bytes | None, messages: "QueueDatabase") -> None:
        before = None if old is None else messages.parsed(old)
        after = None if new is None else messages.parsed(new)
        self.messages += (after is not None) - (before is not None)
        for part, sign in ((before, -1), (after, 1)):
            if part is not None and part.expires:
                self.expiring += sign
        message = after or before
        assert message is not None
        queue = self._queue(message.queue)
        self._forget_idle(message.queue, queue)
        lines = len(queue.turns)
        queue.replace(number, before, after)
        self.lines += len(queue.turns) - lines
        self._tidy(message.queue, queue)

    def _replace_queue(self, name: bytes, new: bytes | None) -> None:
        queue = self._queue(name)
        self._forget_idle(name, queue)
        before, queue.record = queue.record, None if new is None else parsed_queue(new)
        if before is not None and (queue.record is None or queue.record.number != before.number):
            self.numbers.remove((before.number, name))
        if queue.record is not None and (before is None or queue.record.number != before.number):
            self.numbers.add((queue.record.number, name))
        self._tidy(name, queue)

    def _replace_turn(self, key: bytes, new: bytes | None) -> None:
        name, priority, group = parsed_turn_key(key)
        queue = self._queue(name)
        self._forget_idle(name, queue)
        turn = 0 if new is None else NUMBER.unpack(new)[0]
        queue.set_turn(group, priority, turn, recorded=new is not None)
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
            MESSAGE_INDEX_BYTES * self.messages + LINE_INDEX_BYTES * self.lines + QUEUE_INDEX_BYTES * len(self.numbers)
        )

    def content(self) -> object:
        """Return all of it in comparable form, for checks."""
        queues = {name: queue.content() for name, queue in self.queues.items()}
        return queues, list(self.numbers), list(self.idle), self.messages, self.expiring, self.lines


class QueueDatabase(Database):
    """The database of queues of a store."""

    def __init__(self, shared: Shared | None = None) -> None:
        super().__init__(shared, QUEUE_DB)
        self._index: QueueIndex | None = QueueIndex()
        self.watched: Mapping[bytes, object] = {}
        """Keys of the records of queues whose changes `changed` collects."""
        self.changed: dict[bytes, None] = {}
        """Those keys that have changed, in the order of their first changes. The store removes them."""
        self._parsed: dict[bytes, Message] = {}  # the newest records of messages

    @property
    def index(self) -> QueueIndex:
        """The index of all records."""
        if self._index is None:
            self._index = self._new_index()
        return self._index

    def _new_index(self) -> QueueIndex:
        self._parsed.clear()
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
        if key in self.watched:
            self.changed[key] = None

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
    def tidy(self) -> bool:
        """Whether no record and no message expires, so that housekeeping has nothing to do."""
        return super().tidy and not self.index.expiring

    def next_expired(self, after: int, count: int) -> tuple[int, bytes | None]:
        """Search the next queues, in the order of their numbers, for one with expired messages that take memory.

        after: a number. count: of queues to examine. Returns the number from which to go on (0: there are no more), and
        the name of the queue.
        """
        for examined, (number, name) in enumerate(self.index.numbers.since((after + 1, b"")), 1):
            if self.index.queues[name].expired(self.now):
                return number - 1, name
            if examined == count:
                return number, None
        return 0, None

    @property
    def index_bytes(self) -> int:
        """The estimated memory of the indexes."""
        return super().index_bytes + self.index.used_bytes

    def ready_at(self, key: bytes) -> int | None:
        """Return the log time from which on TAKE may find messages of a queue, by the key of the queue's record.

        None: not before the queue changes.
        """
        queue = self.index.queues.get(key[1:])
        return None if queue is None or queue.rules.paused else queue.turns.soonest()

    # -- records ------------------------------------------------------------------------------------------------

    def message(self, number: int) -> Message | None:
        """Return a message, expired or not, or None."""
        record = self.get(message_key(number))
        return None if record is None else self.parsed(record)

    def put_message(self, number: int, message: Message) -> None:
        """Set the record of a message."""
        record = message.packed()
        self._note_parsed(record, message)
        self.put(message_key(number), record, None)

    def parsed(self, record: bytes) -> Message:
        """Return the message of a record. Parses it only if it is not among the newest ones."""
        message = self._parsed.get(record)
        if message is None:
            message = parsed_message(record)
            self._note_parsed(record, message)
        return message

    def _note_parsed(self, record: bytes, message: Message) -> None:
        if len(self._parsed) >= PARSED_MAX:
            self._parsed.clear()
        self._parsed[record] = message

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
                assert all(line.messages for line in of_group.lines.values()), f"a turn of {group!r} has no messages"


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
