"""The index of queues: what follows from their records, for the order of messages, counts and limits.

A message is ready, delayed, leased or dead. Its record and log time determine that, so the end of a lease or a delay is
no event and moves nothing: the messages of a group are in the order of the times from which on they are ready.

Invariants: the index is a function of the records alone. Its functions read no message but those that change.

Out of scope: the records, and undo (`queue`); the effects of commands (`queue_operations`).
"""

from bisect import insort
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, Protocol

from cairnkv.engine.queue_records import (
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
    parsed_counters,
    parsed_queue,
    parsed_settings,
    parsed_turn_key,
    queue_key,
)
from cairnkv.engine.sorted_list import SortedList

MESSAGE_INDEX_BYTES: Final = 180
"""Estimated bytes of memory of a message in the index. Measured with 100,000 messages of 100 bytes, besides the
estimate for their records: 90 bytes if they expire, 170 if they are leased, too."""

LINE_INDEX_BYTES: Final = 1_100
"""Estimated bytes of memory of a line in the index. Measured with 100,000 groups of one message each: 1,080."""

QUEUE_INDEX_BYTES: Final = 2_300
"""Estimated bytes of memory of a queue in the index. Measured with 10,000 queues with settings: 2,230."""

TURN_CHUNK: Final = 128
"""Maximum turns of a chunk."""

DEFAULTS: Final = Settings()


class Messages(Protocol):
    """The messages of all queues."""

    def message(self, number: int) -> Message | None:
        """Return a message, expired or not, or None."""

    def parsed(self, record: bytes) -> Message:
        """Return the message of a record."""


class Turn(NamedTuple):
    """The place of a line in the order of a queue. at: the time from which on it has a ready message."""

    priority: int
    turn: int
    group: bytes
    at: int


class TurnChunk(list[Turn]):
    """A chunk of turns. soonest: the least `at`; None: unknown."""

    __slots__ = ("soonest",)

    def __init__(self, turns: Any = ()) -> None:
        super().__init__(turns)
        self.soonest: int | None = None


class Turns:
    """Turns in their order. The first that is ready is found without reading those that are not, chunk by chunk."""

    __slots__ = ("_chunks", "_length")

    def __init__(self) -> None:
        self._chunks: list[TurnChunk] = []
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
            self._chunks.append(TurnChunk((turn,)))
            return
        at = self._chunk_of(turn)
        chunk = self._chunks[at]
        insort(chunk, turn)
        chunk.soonest = None
        if len(chunk) > TURN_CHUNK:
            self._split(at)

    def _split(self, at: int) -> None:
        """Split a chunk that has too many turns."""
        chunk, middle = self._chunks[at], TURN_CHUNK // 2
        self._chunks[at : at + 1] = [TurnChunk(chunk[:middle]), TurnChunk(chunk[middle:])]

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


class Lists(NamedTuple):
    """The classes of sorted lists: those of the pure path, or of the native path."""

    numbers: Callable[[], SortedList[int]]
    pairs: Callable[[], SortedList[tuple[int, int]]]


PURE_LISTS: Final = Lists(SortedList, SortedList)


class Line:
    """The live messages of a group with one priority.

    messages: (due, id); (id, due) if the group is strictly ordered. turn: the line with the least turn comes first, of
    those with its priority. recorded: whether the turn has a record. place: its place among the turns of the queue.
    """

    __slots__ = ("messages", "place", "recorded", "turn")

    def __init__(self, lists: Lists) -> None:
        self.messages = lists.pairs()
        self.turn = 0
        self.recorded = False
        self.place: Turn | None = None


class Group:
    """The live messages of one group of a queue, or those without a group.

    lines: by priority. leases: (due, id) of the leased messages, if the queue limits their number to more than one.
    """

    __slots__ = ("leases", "lines")

    def __init__(self, lists: Lists) -> None:
        self.lines: dict[int, Line] = {}
        self.leases = lists.pairs()


class Queue:
    """The index of one queue.

    packed, record, settings: None: there is none. key: of the record. live, dead: ids. delayed, leased: (due, id), also
    if that time is past. expiring: (time, id) of live messages that expire; the time is not before their delay or lease
    ends. dead_expiring: the same of dead messages. lines: number of lines with messages, by priority. size: bytes of
    all bodies.
    """

    __slots__ = (
        "_record",
        "dead",
        "dead_expiring",
        "delayed",
        "expiring",
        "groups",
        "key",
        "leased",
        "lines",
        "lists",
        "live",
        "packed",
        "settings",
        "size",
        "turns",
    )

    def __init__(self, name: bytes = b"", lists: Lists = PURE_LISTS) -> None:
        self.lists = lists
        self.key = queue_key(name)
        self.packed: bytes | None = None
        self._record: QueueRecord | None = None  # None: `record` parses it
        self.settings: Settings | None = None
        self.live, self.dead = lists.numbers(), lists.numbers()
        self.delayed, self.leased = lists.pairs(), lists.pairs()
        self.expiring, self.dead_expiring = lists.pairs(), lists.pairs()
        self.groups: dict[bytes, Group] = {}
        self.lines: dict[int, int] = {}
        self.turns = Turns()
        self.size = 0

    @property
    def record(self) -> QueueRecord | None:
        """The record, parsed."""
        if self._record is None and self.packed is not None:
            self._record = parsed_queue(self.packed)
        return self._record

    def set_record(self, packed: bytes | None) -> None:
        """Replace the record. Raises `ValueError` if it is invalid."""
        self._record = None if packed is None else parsed_queue(packed)
        self.packed = packed

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

    def oldest_ready(self, now: int) -> int:
        """Return the milliseconds for which TAKE could have returned a message, at most; 0 if it returns none."""
        soonest = self.turns.soonest()
        return 0 if soonest is None else max(0, now - soonest)

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

    def set_settings(self, settings: Settings | None, messages: Messages) -> None:
        """Replace the settings. Another limit of leases changes the order of messages."""
        before = self.rules.per_group
        self.settings = settings
        if self.rules.per_group != before and self.live:
            self.turns, self.lines = Turns(), {}
            for group in self.groups.values():
                group.leases = self.lists.pairs()
                for line in group.lines.values():
                    line.messages, line.place = self.lists.pairs(), None
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
            group = self.groups[name] = Group(self.lists)
        line = group.lines.get(priority)
        if line is None:
            line = group.lines[priority] = Line(self.lists)
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

    numbers: (number, name) of each queue. idle: (time of the last change, number) of each queue without messages and
    settings. messages: their number in all queues. expiring: of those that expire. lines: of lines with messages.
    kept: the record of the counters.
    """

    __slots__ = (
        "_lists",
        "_newest_id",
        "_newest_lease",
        "expiring",
        "idle",
        "kept",
        "lines",
        "messages",
        "numbers",
        "queues",
    )

    def __init__(self, lists: Lists = PURE_LISTS) -> None:
        self._lists = lists
        self.queues: dict[bytes, Queue] = {}
        self.numbers: SortedList[tuple[int, bytes]] = SortedList()
        self.idle = lists.pairs()
        self.messages = 0
        self.expiring = 0
        self.lines = 0
        self.kept = Counters()
        self._newest_id = self._newest_lease = 0  # of `counters`; -1: it computes both

    def longest_idle(self) -> bytes | None:
        """Return the name of the idle queue whose last change is the oldest, or None."""
        first = self.idle.first()
        return None if first is None else next(self.numbers.since((first[1], b"")))[1]

    @property
    def counters(self) -> Counters:
        """The counters of the store."""
        if self._newest_id < 0:
            records = [queue.record for queue in self.queues.values() if queue.record is not None]
            self._newest_id = max([self.kept.id, *(record.id for record in records)])
            self._newest_lease = max([self.kept.lease, *(record.lease for record in records)])
        return Counters(self._newest_id, self._newest_lease)

    def _note_newest(self, before: Counters, after: Counters) -> None:
        """Note that counters of one record have changed. Those of another record may be greater."""
        if self._newest_id < 0:
            return
        if (before.id > max(after.id, self.kept.id) and before.id == self._newest_id) or (
            before.lease > max(after.lease, self.kept.lease) and before.lease == self._newest_lease
        ):
            self._newest_id = -1  # an undo
            return
        self._newest_id = max(self._newest_id, after.id)
        self._newest_lease = max(self._newest_lease, after.lease)

    def replace(self, key: bytes, old: bytes | None, new: bytes | None, messages: Messages) -> None:
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
            self._forget_idle(queue)
            queue.set_settings(None if new is None else parsed_settings(new), messages)
            self._tidy(key[1:], queue)
        elif kind == COUNTERS:
            before, self.kept = self.kept, parsed_counters(new)
            self._note_newest(before, self.kept)

    def _queue(self, name: bytes) -> Queue:
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue(name, self._lists)
        return queue

    def _replace_message(self, number: int, old: bytes | None, new: bytes | None, messages: Messages) -> None:
        before = None if old is None else messages.parsed(old)
        after = None if new is None else messages.parsed(new)
        self.messages += (after is not None) - (before is not None)
        for part, sign in ((before, -1), (after, 1)):
            if part is not None and part.expires:
                self.expiring += sign
        message = after or before
        assert message is not None
        queue = self._queue(message.queue)
        self._forget_idle(queue)
        lines = len(queue.turns)
        queue.replace(number, before, after)
        self.lines += len(queue.turns) - lines
        self._tidy(message.queue, queue)

    def _replace_queue(self, name: bytes, new: bytes | None) -> None:
        queue = self._queue(name)
        self._forget_idle(queue)
        before = queue.record
        queue.set_record(new)
        if before is not None and (queue.record is None or queue.record.number != before.number):
            self.numbers.remove((before.number, name))
        if queue.record is not None and (before is None or queue.record.number != before.number):
            self.numbers.add((queue.record.number, name))
        self._note_newest(_counters(before), _counters(queue.record))
        self._tidy(name, queue)

    def _replace_turn(self, key: bytes, new: bytes | None) -> None:
        name, priority, group = parsed_turn_key(key)
        queue = self._queue(name)
        self._forget_idle(queue)
        turn = 0 if new is None else NUMBER.unpack(new)[0]
        queue.set_turn(group, priority, turn, recorded=new is not None)
        self._tidy(name, queue)

    def _forget_idle(self, queue: Queue) -> None:
        if queue.record is not None and queue.settings is None and queue.is_empty:
            self.idle.remove((queue.record.used_at, queue.record.number))

    def _tidy(self, name: bytes, queue: Queue) -> None:
        """Note that a queue is idle, or forget it if it has no record at all."""
        if queue.record is not None:
            if queue.settings is None and queue.is_empty:
                self.idle.add((queue.record.used_at, queue.record.number))
        elif queue.settings is None and queue.is_empty and not queue.groups:
            del self.queues[name]

    def counts(self, now: int) -> tuple[int, int, int, int]:
        """Return the exact numbers of ready, delayed, leased and dead messages of all queues."""
        ready = delayed = leased = dead = 0
        for queue in self.queues.values():
            if queue.delayed or queue.leased or queue.expiring or queue.dead_expiring:
                some = queue.counts(now)
                ready, delayed, leased, dead = ready + some[0], delayed + some[1], leased + some[2], dead + some[3]
            else:
                ready += len(queue.live)
                dead += len(queue.dead)
        return ready, delayed, leased, dead

    @property
    def used_bytes(self) -> int:
        """The estimated memory of the index."""
        return (
            MESSAGE_INDEX_BYTES * self.messages + LINE_INDEX_BYTES * self.lines + QUEUE_INDEX_BYTES * len(self.numbers)
        )

    def content(self) -> object:
        """Return all of it in comparable form, for checks."""
        queues = {name: queue.content() for name, queue in self.queues.items()}
        numbers = self.messages, self.expiring, self.lines
        return queues, list(self.numbers), list(self.idle), numbers, self.kept, self.counters


def _counters(record: QueueRecord | None) -> Counters:
    return Counters() if record is None else Counters(record.id, record.lease)
