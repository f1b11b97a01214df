"""Waiters: TAKE commands that wait for messages, in the order in which they came.

Storage and the log know nothing of waiters. When a queue has a ready message, the store executes TAKE for its oldest
waiter, and tells the waiter the reply.

    begin_take → waits → (PUT, NACK, the end of a delay ...) → executed → committed → reply
                   └── its time ends, its client disconnects, the server stops: end_take

Invariants:
- Waiters have no effect on a reply, except that of the TAKE itself.
- If a queue with waiters may have a ready message, its key is in `QueueDatabase.changed`, or `due` is not later than
  the time at which the message is ready.
- Each waiter has an end, at most `WAIT_MAX` after its begin.

Out of scope: the commit that a reply waits for (`LocalStore`), and timers (the server, or the embedded store).
"""

from collections.abc import Callable, Iterable
from typing import Final

from cairnkv.commands import Command, Failure, Items, Nack, Reply, Step, TakeAny, failures
from cairnkv.commands.queue_vocabulary import TAKE_STRINGS
from cairnkv.engine import QueueDatabase
from cairnkv.engine.sorted_list import SortedList
from cairnkv.limits import WAITERS_MAX
from cairnkv.store.pending import PendingExecution, size_of

NO_MESSAGES: Final = Items(())
"""The reply to a TAKE that has found no message."""

NEVER: Final = 1 << 62
"""A log time that never comes."""

SERVED_TOGETHER: Final = 16
"""Maximum TAKE commands that the store executes for waiters behind one command: about a millisecond. A timer does the
rest."""

TAKEN_TOGETHER: Final = 100
"""Messages after which the store executes no further TAKE for waiters behind the same command."""

ENDED_TOGETHER: Final = 500
"""Maximum waiters whose time has come that one slice ends."""


class Waiter(PendingExecution):
    """A TAKE that may wait, and its pending reply.

    keys: those of the records of its queues. number: its place among all waiters. end: the elapsed time at which it
    ends without a message.
    """

    __slots__ = ("command", "end", "keys", "number")

    def __init__(self, command: Command) -> None:
        super().__init__()
        self.command = command
        self.keys = tuple(dict.fromkeys(key for _, key in command.places(0)))
        self.number = 0
        self.end = 0

    @property
    def size(self) -> int:
        """Estimated bytes that the reply keeps in memory."""
        return size_of(self.outcome) if self.executed else 0

    @property
    def leases(self) -> list[Step]:
        """Return the commands that give its leases back, uncounted."""
        return returns_of(self.command, self.outcome if self.reply is None else self.reply)

    def withdraw(self) -> None:
        """Replace the reply: its leases are given back."""
        if self._inner is not None:
            self._inner.on_ready = lambda: None
            self._inner = None
        self._outcome = self.reply = NO_MESSAGES
        self.on_ready()


def returns_of(command: Command, reply: Reply) -> list[Step]:
    """Return the commands that return the messages in the reply to a TAKE, uncounted."""
    if not isinstance(reply, Items):
        return []
    strings, size = reply.values, TAKE_STRINGS
    if isinstance(command, TakeAny):
        strings, size = strings[1:], size + 1  # the name of the queue precedes them
    pairs = zip(strings[::size], strings[1::size], strict=True)
    return [Step(0, Nack(int(number or 0), int(lease or 0), uncounted=True)) for number, lease in pairs]


class Waiters:
    """The waiters of one store."""

    def __init__(self) -> None:
        self.lines: Final[dict[bytes, SortedList[int]]] = {}
        """By the key of a queue: the numbers of its waiters, the oldest first."""
        self.due = NEVER
        """The earliest log time at which a queue with waiters may have a ready message, without another change."""
        self._waiters: dict[int, Waiter] = {}
        self._ends: SortedList[tuple[int, int]] = SortedList()  # (end, number)
        self._dues: SortedList[tuple[int, bytes]] = SortedList()  # (log time, key of a queue)
        self._due_of: dict[bytes, int] = {}
        self._newest = 0
        self._places = 0  # queues that all waiters name
        self.set_timer: Callable[[float], None] = lambda _: None
        """Requests a call of `Store.serve_waiters` in so many seconds, instead of an earlier request."""
        self._timer_at: int | None = None  # elapsed time

    def clear(self) -> None:
        """Forget all waiters, in a forked process: their threads are not in it."""
        for waiter in self.all():
            self.remove(waiter)
        self.timer_came()

    def __len__(self) -> int:
        return len(self._waiters)

    def add(self, waiter: Waiter, now: int) -> Failure | None:
        """Add a waiter behind all others. now: elapsed time. Returns a failure if there are too many."""
        if self._places + len(waiter.keys) > WAITERS_MAX:
            return Failure(
                failures.CROWDED,
                f"waiting TAKE commands name {self._places:,} queues; the limit is {WAITERS_MAX:,}; leave WAIT out",
            )
        self._newest += 1
        waiter.number, waiter.end = self._newest, now + waiter.command.waiting_time()
        self.put_back((waiter,))
        return None

    def put_back(self, waiters: Iterable[Waiter]) -> None:
        """Add waiters at their former places."""
        for waiter in waiters:
            self._waiters[waiter.number] = waiter
            self._ends.add((waiter.end, waiter.number))
            self._places += len(waiter.keys)
            for key in waiter.keys:
                if key not in self.lines:
                    self.lines[key] = SortedList()
                self.lines[key].add(waiter.number)

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter, if it is there."""
        if self._waiters.pop(waiter.number, None) is None:
            return
        self._ends.remove((waiter.end, waiter.number))
        self._places -= len(waiter.keys)
        for key in waiter.keys:
            line = self.lines[key]
            line.remove(waiter.number)
            if not line:
                del self.lines[key]
                self.set_due(key, NEVER)

    def all(self) -> list[Waiter]:
        """Return all waiters."""
        return list(self._waiters.values())

    def set_due(self, key: bytes, due: int) -> None:
        """Set the log time at which a queue with waiters may have a ready message without another change."""
        before = self._due_of.pop(key, NEVER)
        if before != NEVER:
            self._dues.remove((before, key))
        if due != NEVER:
            self._due_of[key] = due
            self._dues.add((due, key))
        first = self._dues.first()
        self.due = NEVER if first is None else first[0]

    def may_get_messages(self, queues: QueueDatabase) -> bool:
        """Return whether `serve` may find messages at the current log time."""
        return bool(self._waiters) and (bool(queues.changed) or self.due <= queues.now)

    def note_due(self, queues: QueueDatabase, log_time: int) -> None:
        """Count those queues as changed of which a message may be ready at a log time."""
        while self.due <= log_time:
            first = self._dues.first()
            assert first is not None
            queues.changed[first[1]] = None
            self.set_due(first[1], NEVER)

    def serve(self, queues: QueueDatabase, apply: Callable[[Step], Reply]) -> list[tuple[Waiter, Reply]]:
        """Execute TAKE for the oldest waiters of changed queues with ready messages, up to a number.

        Returns those that got messages, with their replies. They wait no longer. `changed` keeps the queues of which
        more waiters may get messages.
        """
        served: list[tuple[Waiter, Reply]] = []
        taken = 0
        try:
            while queues.changed and len(served) < SERVED_TOGETHER and taken < TAKEN_TOGETHER:
                key = next(iter(queues.changed))
                line = self.lines.get(key)
                at = None if line is None else queues.ready_at(key)
                if line is None or at is None or at > queues.now:
                    del queues.changed[key]
                    if line is not None:
                        self.set_due(key, NEVER if at is None else at)
                    continue
                waiter = self.oldest(key, queues)
                assert waiter is not None
                self.remove(waiter)
                served.append((waiter, NO_MESSAGES))
                reply = apply(Step(0, waiter.command))
                if reply == NO_MESSAGES:  # it has found messages without attempts left, and there may be many
                    self.put_back((waiter,))
                    served.pop()
                    break
                served[-1] = waiter, reply
                taken += len(reply.values) // TAKE_STRINGS if isinstance(reply, Items) else 0
        except BaseException:
            self.put_back(waiter for waiter, _ in served)
            raise
        return served

    def oldest(self, key: bytes, queues: QueueDatabase) -> Waiter | None:
        """Return the waiter to serve first for a queue: no older one waits for a ready queue of its own."""
        line = self.lines.get(key)
        number = None if line is None else line.first()
        if number is None:
            return None
        waiter = self._waiters[number]
        while len(waiter.keys) > 1:  # TAKE_ANY may take from a queue for which an older waiter waits
            ready = [key for key in waiter.keys if (at := queues.ready_at(key)) is not None and at <= queues.now]
            firsts = (first for key in ready if (first := self.lines[key].first()) is not None)
            oldest = min(firsts, default=waiter.number)
            if oldest == waiter.number:
                break
            waiter = self._waiters[oldest]
        return waiter

    @property
    def first_end(self) -> int:
        """The elapsed time at which the first wait ends."""
        first = self._ends.first()
        return NEVER if first is None else first[0]

    def ended(self, now: int) -> list[Waiter]:
        """Remove and return waiters whose time has come, up to a number. now: elapsed time."""
        ended: list[Waiter] = []
        while len(ended) < ENDED_TOGETHER and (first := self._ends.first()) is not None and first[0] <= now:
            waiter = self._waiters[first[1]]
            self.remove(waiter)
            ended.append(waiter)
        return ended

    def request_timer(self, queues: QueueDatabase, now: int, log_time: int, *, blocked: bool) -> None:
        """Request a timer for the next time at which `serve_waiters` has work, unless there is an earlier one.

        now: elapsed time. log_time: at that time. blocked: whether waiters get no messages now.
        """
        at = self.first_end
        if not blocked:
            at = now if queues.changed else min(at, now + self.due - log_time)
        at = max(now, at)
        if self._timer_at is None or at < self._timer_at:
            self._timer_at = at
            self.set_timer((at - now) / 1000)

    def timer_came(self) -> None:
        """The requested timer has come."""
        self._timer_at = None
