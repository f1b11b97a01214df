"""Many waiters and producers against a model, with commits that the test makes, delays or fails.

The model of queues has no waiters: it executes each TAKE when the store executes it. The rest follows from what the
replies show: each lease is new, the oldest waiter of a queue is served first, and no waiter is forgotten.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cairnkv.commands import Ack, Command, Failure, Items, Nack, Put, QueueSet, Reply, Take, TakeAny
from cairnkv.store import LocalStore, PendingReply, Waiter
from cairnkv.store.waiters import SERVED_TOGETHER
from tests.support.clock import HandClock
from tests.support.late_storage import LateStorage

QUEUES = (b"q", b"r")
WAITS = (1, 300, 1_000, 1_000)
STEPS = st.sampled_from([0, 1, 299, 300, 999])


class WaitersMachine(RuleBasedStateMachine):
    """A store, its waiters in their order, and all leases that it has given."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = LateStorage()
        self.clock = HandClock()
        self.store = LocalStore(storage=self.storage, clock=self.clock)
        self.store.elapsed = lambda: self.clock.now
        self.timer: int | None = None
        self.store.waiters.set_timer = self._set_timer
        self.waiting: list[Waiter] = []
        self.ends: dict[Waiter, int] = {}
        self.executed: list[Waiter] = []
        self.leases: dict[int, int] = {}
        """The message of each lease that was not undone."""
        self.newest = 0

    def _set_timer(self, seconds: float) -> None:
        self.timer = self.clock.now + round(seconds * 1_000)

    # -- what a client sees ---------------------------------------------------------------------------------------

    def _executed(self, waiter: Waiter) -> None:
        self.waiting.remove(waiter)
        self.executed.append(waiter)
        reply = waiter.outcome
        if isinstance(reply, Items) and reply.values:
            keys = self._keys_of(waiter.command, reply)
            for older in self.waiting[: sum(other.number < waiter.number for other in self.waiting)]:
                assert not keys & set(older.keys), "an older waiter of the queue was passed over"
        self._note_leases(waiter.command, reply)

    def _keys_of(self, command: Command, reply: Items) -> set[bytes]:
        if isinstance(command, TakeAny):
            return {b"q" + (name or b"") for name in reply.values[::8]}
        assert isinstance(command, Take)
        return {b"q" + command.queue}

    def _note_leases(self, command: Command, reply: Reply, after: int | None = None) -> None:
        if not isinstance(reply, Items):
            return
        newest = self.newest if after is None else after
        strings, size = (reply.values[1:], 8) if isinstance(command, TakeAny) else (reply.values, 7)
        for number, token in zip(strings[::size], strings[1::size], strict=True):
            lease = int(token or 0)
            assert lease > newest, "leases rise"
            assert lease not in self.leases, "each lease is new"
            newest = lease
            self.leases[lease] = int(number or 0)
        self.newest = max(self.newest, newest)

    # -- rules ----------------------------------------------------------------------------------------------------

    @rule(
        queue=st.sampled_from(QUEUES),
        count=st.integers(1, 3),
        wait=st.sampled_from(WAITS),
        whole=st.booleans(),
        lease=st.sampled_from([200, 60_000]),
    )
    def take(self, queue: bytes, count: int, wait: int, whole: bool, lease: int) -> None:
        """A TAKE, or a TAKE_ANY, that may wait."""
        command = TakeAny(count, lease, wait, (queue, *QUEUES)) if whole else Take(queue, count, lease, wait)
        waiter = Waiter(command)
        self.waiting.append(waiter)
        self.ends[waiter] = self.clock.now + wait
        waiter.on_executed = lambda: self._executed(waiter)
        self.store.begin_take(waiter)

    @rule(queue=st.sampled_from(QUEUES), lease=st.sampled_from([200, 60_000]))
    def take_at_once(self, queue: bytes, lease: int) -> None:
        """A TAKE that does not wait."""
        command, newest = Take(queue, 1, lease), self.newest
        outcome = self.store.execute(command)
        reply = outcome.outcome if isinstance(outcome, PendingReply) else outcome
        self._note_leases(command, reply, after=newest)  # waiters may have got later leases behind it
        if isinstance(reply, Items) and reply.values and len(self.waiting) < SERVED_TOGETHER:
            assert not any(b"q" + queue in waiter.keys for waiter in self.waiting), "waiters come first"

    @rule(queue=st.sampled_from(QUEUES), count=st.integers(1, 4))
    def put(self, queue: bytes, count: int) -> None:
        """Some messages."""
        for _ in range(count):
            self.store.execute(Put(queue, b"body"))

    @rule(queue=st.sampled_from(QUEUES), delay=st.sampled_from([1, 300, 700]))
    def put_later(self, queue: bytes, delay: int) -> None:
        """A message with a delay."""
        self.store.execute(Put(queue, b"body", delay=delay))

    @rule(queue=st.sampled_from(QUEUES))
    def put_in_vain(self, queue: bytes) -> None:
        """A message that storage refuses."""
        self.storage.surprise = "no room"
        assert isinstance(self.store.execute(Put(queue, b"body")), Failure)
        self.storage.surprise = None

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), gives_back=st.booleans())
    def finish(self, data: st.DataObject, gives_back: bool) -> None:
        """The ACK or the NACK of a lease, newest or not."""
        lease = data.draw(st.sampled_from(sorted(self.leases)))
        number = self.leases[lease]
        command = Nack(number, lease, delay=0) if gives_back else Ack(((number, lease),))
        self.store.execute(command)

    @rule(queue=st.sampled_from(QUEUES), paused=st.integers(0, 1))
    def pause(self, queue: bytes, paused: int) -> None:
        """A pause, or its end."""
        self.store.execute(QueueSet(queue, paused=paused))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), gives_back=st.booleans())
    def end(self, data: st.DataObject, gives_back: bool) -> None:
        """A client disconnects, or its server stops."""
        waiter = data.draw(st.sampled_from(self.waiting))
        self.store.end_take(waiter, gives_back=gives_back)
        assert waiter.outcome == Items(())

    @precondition(lambda self: self.executed)
    @rule()
    def disconnect(self) -> None:
        """A client disconnects before it has the reply."""
        waiter = self.executed[-1]
        self.store.end_take(waiter, gives_back=True)

    @rule(step=STEPS)
    def wait(self, step: int) -> None:
        """Time passes. Timers come in their order."""
        until = self.clock.now + step
        while self.timer is not None and self.timer <= until:
            self.clock.now = max(self.clock.now, self.timer)
            self.timer = None
            self.store.waiters.timer_came()
            self.store.serve_waiters()
        self.clock.now = until

    @rule(step=STEPS)
    def wait_with_late_timers(self, step: int) -> None:
        """Time passes, and timers are late."""
        self.clock.now += step

    @rule()
    def commit(self) -> None:
        """All entries are committed."""
        self.storage.commit()

    @rule()
    def fail(self) -> None:
        """All entries fail, and are undone."""
        pending = [waiter for waiter in self.executed if waiter.reply is None]
        self.storage.fail()
        assert all(isinstance(waiter.reply, Failure) for waiter in pending)
        self.newest = 0  # a lease of a TAKE that was undone is given again
        self.leases.clear()

    # -- what always holds ----------------------------------------------------------------------------------------

    @invariant()
    def no_waiter_is_forgotten(self) -> None:
        """A waiter waits while no queue of it has a ready message and its time has not come, unless a timer is due."""
        assert len(self.store.waiters) == len(self.waiting)
        if self.timer is not None and self.timer <= self.clock.now:
            return
        for waiter in self.waiting:
            assert self.ends[waiter] >= self.clock.now
            assert self.timer is not None
            assert self.timer <= self.ends[waiter]
            for key in waiter.keys:
                at = self.store.queues.ready_at(key)
                assert at is None or at > self.store.queues.now
                assert at is None or self.timer <= max(at, self.clock.now)

    @invariant()
    def each_message_has_one_lease(self) -> None:
        """The records agree with themselves."""
        self.store.queues.check()

    def teardown(self) -> None:
        """In the end, every waiter has an outcome."""
        for _ in range(4):
            self.wait(1_000)
        assert not self.waiting
        assert not self.store.waiters
        self.storage.commit()
        assert all(waiter.reply is not None for waiter in self.executed)


TestWaiters = WaitersMachine.TestCase
TestWaiters.settings = settings(max_examples=3 * settings().max_examples, stateful_step_count=40)


def test_refused_entry_forgets_no_due_message() -> None:
    """The refused PUT has served the only waiter of both queues, which waits again."""
    machine = WaitersMachine()
    machine.take(queue=b"q", count=1, wait=300, whole=True, lease=200)
    machine.put_later(queue=b"q", delay=1)
    machine.put_in_vain(queue=b"r")
    machine.no_waiter_is_forgotten()
    machine.wait(step=1)
    machine.no_waiter_is_forgotten()
    assert not machine.waiting
