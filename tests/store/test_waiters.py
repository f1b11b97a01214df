"""TAKE commands that wait for messages, on stores whose clock and commits a test controls."""

from collections.abc import Sequence

import pytest

from cairnkv.commands import (
    OK,
    Ack,
    Command,
    Extend,
    Failure,
    Items,
    Nack,
    Purge,
    Put,
    PutMany,
    QueueSet,
    QueueStats,
    Reply,
    Requeue,
    Set,
    Step,
    Take,
    TakeAny,
    Together,
    failures,
)
from cairnkv.limits import QUEUE_DB, WAITERS_MAX
from cairnkv.storage import Effect
from cairnkv.store import LocalStore, Waiter
from tests.support.clock import HandClock
from tests.support.late_storage import LateStorage

NOTHING = Items(())


class WaitingStore(LocalStore):
    """A store with a clock that a test sets, and a list of the timers that it has requested."""

    def __init__(self, storage: LateStorage | None = None) -> None:
        self.manual_clock = HandClock()
        self.timers: list[float] = []
        self._passed = 0
        super().__init__(storage=storage, clock=self.manual_clock)
        self.elapsed = lambda: self._passed
        self.waiters.set_timer = self.timers.append

    def take(self, command: Command) -> Waiter:
        """Begin a TAKE."""
        waiter = Waiter(command)
        self.begin_take(waiter)
        return waiter

    def let_time_pass(self, milliseconds: int) -> None:
        """Set the clock, and let the newest timer come."""
        self.manual_clock.advance(milliseconds)
        self._passed += max(0, milliseconds)
        self.waiters.timer_came()
        self.serve_waiters()

    def serve_all(self) -> None:
        """Let timers come until none is due at once."""
        while self.timers and self.timers.pop() == 0:
            self.let_time_pass(0)


class LateWaitingStore(WaitingStore):
    """The same, with a storage that commits when the test says so."""

    def __init__(self) -> None:
        self.storage = LateStorage()
        super().__init__(self.storage)


@pytest.fixture
def store() -> WaitingStore:
    """A store in memory."""
    return WaitingStore()


@pytest.fixture
def late() -> LateWaitingStore:
    """A store whose commits the test makes."""
    return LateWaitingStore()


def take(*, queue: bytes = b"q", count: int = 1, wait: int = 1_000) -> Take:
    return Take(queue, count, wait=wait)


def bodies(reply: Reply | None) -> list[bytes]:
    assert isinstance(reply, Items), reply
    return [value or b"" for value in reply.values[6::7]]


def leases(reply: Reply | None) -> list[tuple[int, int]]:
    assert isinstance(reply, Items), reply
    return [
        (int(number or 0), int(lease or 0)) for number, lease in zip(reply.values[::7], reply.values[1::7], strict=True)
    ]


def counts(store: LocalStore, queue: bytes = b"q") -> list[int]:
    """The ready, delayed, leased and dead messages."""
    reply = store.execute(QueueStats(queue))
    assert isinstance(reply, Items)
    return [int(value or 0) for value in reply.values[1:9:2]]


# -- the events that end a wait -----------------------------------------------------------------------------------


def test_take_with_wait_returns_a_ready_message_at_once(store: WaitingStore) -> None:
    store.execute(Put(b"q", b"there"))
    assert bodies(store.take(take()).reply) == [b"there"]


def test_take_waits_for_a_put(store: WaitingStore) -> None:
    waiter = store.take(take())
    assert waiter.reply is None
    store.execute(Put(b"other", b"not this one"))
    assert waiter.reply is None
    store.execute(Put(b"q", b"new"))
    assert bodies(waiter.reply) == [b"new"]
    assert counts(store) == [0, 0, 1, 0]


def lease_one(store: WaitingStore, *, group: bytes | None = None) -> tuple[int, int]:
    """Put a message, and take it."""
    store.execute(Put(b"q", b"again", group=group))
    return leases(store.take(take()).reply)[0]


def test_take_waits_for_a_nack(store: WaitingStore) -> None:
    number, lease = lease_one(store)
    waiter = store.take(take())
    store.execute(Nack(number, lease, delay=0))
    assert bodies(waiter.reply) == [b"again"]


def test_take_waits_for_a_requeue(store: WaitingStore) -> None:
    number, lease = lease_one(store)
    store.execute(Nack(number, lease, dead=True))
    waiter = store.take(take())
    store.execute(Requeue(b"q", b"dead", 10))
    assert bodies(waiter.reply) == [b"again"]


def test_take_waits_for_the_end_of_a_pause(store: WaitingStore) -> None:
    store.execute(QueueSet(b"q", paused=1))
    store.execute(Put(b"q", b"later"))
    waiter = store.take(take())
    store.execute(QueueSet(b"q", attempts=3))
    assert waiter.reply is None
    store.execute(QueueSet(b"q", paused=0))
    assert bodies(waiter.reply) == [b"later"]


def test_take_waits_for_the_end_of_a_delay(store: WaitingStore) -> None:
    store.execute(Put(b"q", b"later", delay=700))
    waiter = store.take(take())
    assert store.timers == [0.7]
    store.let_time_pass(699)
    assert waiter.reply is None
    assert store.timers[1:] == [0.001]
    store.let_time_pass(1)
    assert bodies(waiter.reply) == [b"later"]


def test_shorter_delay_replaces_the_timer(store: WaitingStore) -> None:
    store.execute(Put(b"q", b"second", delay=700))
    waiter = store.take(take())
    store.execute(Put(b"q", b"first", delay=300))
    assert store.timers == [0.7, 0.3]
    store.let_time_pass(300)
    assert bodies(waiter.reply) == [b"first"]


def test_take_waits_for_the_end_of_a_lease(store: WaitingStore) -> None:
    store.execute(Put(b"q", b"again", lease=500))
    store.execute(Take(b"q", 1))
    waiter = store.take(take())
    assert store.timers == [0.5]
    store.let_time_pass(500)
    assert bodies(waiter.reply) == [b"again"]


def test_take_waits_for_a_lease_that_becomes_shorter(store: WaitingStore) -> None:
    held = lease_one(store)
    waiter = store.take(take())
    store.execute(Extend(300, (held,)))
    store.let_time_pass(300)
    assert bodies(waiter.reply) == [b"again"]


def test_ack_in_a_limited_group_ends_a_wait(store: WaitingStore) -> None:
    store.execute(QueueSet(b"q", per_group=1))
    held = lease_one(store, group=b"g")
    store.execute(Put(b"q", b"next", group=b"g"))
    waiter = store.take(take())
    assert waiter.reply is None
    store.execute(Ack((held,)))
    assert bodies(waiter.reply) == [b"next"]


def test_take_any_waits_for_each_of_its_queues(store: WaitingStore) -> None:
    for name in (b"a", b"b"):
        waiter = store.take(TakeAny(1, 0, 1_000, (b"a", b"b", b"a")))
        store.execute(Put(name, b"body"))
        assert isinstance(waiter.reply, Items)
        assert (waiter.reply.values[0], waiter.reply.values[-1]) == (name, b"body")


def test_take_any_does_not_pass_an_older_waiter(store: WaitingStore) -> None:
    older = store.take(take(queue=b"r"))
    store.execute(Put(b"q", b"of q", delay=1))
    store.execute(Put(b"r", b"of r", delay=1))
    newer = store.take(TakeAny(1, 60_000, 1_000, (b"r", b"q")))
    store.let_time_pass(1)
    assert bodies(older.reply) == [b"of r"]
    assert isinstance(newer.reply, Items)
    assert newer.reply.values[0] == b"q"


def test_command_at_the_end_of_a_delay_serves_the_waiter_first(store: WaitingStore) -> None:
    """The timer may be late. The message must not go to a TAKE that came later."""
    store.execute(Put(b"q", b"later", delay=100))
    waiter = store.take(take())
    store.manual_clock.advance(100)
    assert store.execute(Take(b"q", 1)) == NOTHING
    assert bodies(waiter.reply) == [b"later"]


def test_messages_without_attempts_left_do_not_end_a_wait(store: WaitingStore) -> None:
    store.execute(QueueSet(b"q", attempts=1))
    store.execute(Put(b"q", b"bad", lease=100))
    store.execute(Take(b"q", 1))
    waiter = store.take(take())
    store.let_time_pass(100)
    store.serve_all()
    assert waiter.reply is None
    assert counts(store) == [0, 0, 0, 1]
    store.execute(Put(b"q", b"good"))
    store.serve_all()
    assert bodies(waiter.reply) == [b"good"]


# -- the end of a wait without a message ------------------------------------------------------------------------


def test_wait_ends_at_its_time_with_an_empty_reply(store: WaitingStore) -> None:
    waiter = store.take(take(wait=1_000))
    assert store.timers == [1.0]
    store.let_time_pass(999)
    assert waiter.reply is None
    store.let_time_pass(1)
    assert waiter.reply == NOTHING
    store.execute(Put(b"q", b"body"))
    assert counts(store) == [1, 0, 0, 0]


def test_wait_counts_elapsed_time_when_the_clock_goes_back(store: WaitingStore) -> None:
    waiter = store.take(take(wait=1_000))
    store.let_time_pass(-3_600_000)
    store.let_time_pass(999)
    assert waiter.reply is None
    store.let_time_pass(1)
    assert waiter.reply == NOTHING


def test_message_that_is_ready_at_the_end_of_the_wait_is_taken(store: WaitingStore) -> None:
    store.execute(Put(b"q", b"just in time", delay=1_000))
    waiter = store.take(take(wait=1_000))
    store.let_time_pass(1_000)
    assert bodies(waiter.reply) == [b"just in time"]


def test_ended_wait_gets_nothing(store: WaitingStore) -> None:
    waiter = store.take(take())
    store.end_take(waiter, gives_back=True)
    assert waiter.reply == NOTHING
    store.execute(Put(b"q", b"body"))
    assert counts(store) == [1, 0, 0, 0]


def test_housekeeping_serves_waiters_whose_timer_is_late(store: WaitingStore) -> None:
    store.execute(Put(b"q", b"later", delay=300))
    first, second = store.take(take()), store.take(take(queue=b"empty", wait=400))
    store.manual_clock.advance(400)
    store.elapsed = lambda: 400
    store.housekeep()
    assert bodies(first.reply) == [b"later"]
    assert second.reply == NOTHING


# -- order and limits ---------------------------------------------------------------------------------------------


def test_messages_go_to_the_waiters_in_their_order(store: WaitingStore) -> None:
    waiters = [store.take(take(count=count)) for count in (1, 2, 1)]
    store.execute(PutMany(b"q", 0, 1_000, (b"1", b"2", b"3", b"4", b"5")))
    assert [bodies(waiter.reply) for waiter in waiters] == [[b"1"], [b"2", b"3"], [b"4"]]
    assert counts(store) == [1, 0, 4, 0]


def test_take_with_wait_does_not_overtake_waiters(store: WaitingStore) -> None:
    """A slice may leave messages for waiters that the next slice serves."""
    waiters = [store.take(take()) for _ in range(100)]
    store.execute(PutMany(b"q", 0, 1_000, tuple(b"%d" % at for at in range(101))))
    assert waiters[-1].reply is None
    late = store.take(take())
    store.serve_all()
    assert [bodies(waiter.reply) for waiter in (*waiters, late)] == [[b"%d" % at] for at in range(101)]


def test_a_thousand_waiters_and_a_burst_take_bounded_slices(store: WaitingStore) -> None:
    served: list[Waiter] = []
    waiters = [store.take(take()) for _ in range(1_000)]
    for waiter in waiters:
        waiter.on_ready = lambda waiter=waiter: served.append(waiter)  # type: ignore[misc]
    store.execute(PutMany(b"q", 0, 1_000, tuple(b"%d" % at for at in range(1_000))))
    slices = 1
    while len(served) < 1_000:
        before = len(served)
        assert store.timers[-1] == 0
        store.let_time_pass(0)
        slices += 1
        assert 0 < len(served) - before < 50
    assert served == waiters
    assert slices > 20
    assert [bodies(waiter.reply) for waiter in waiters] == [[b"%d" % at] for at in range(1_000)]


def test_many_waits_that_end_together_take_bounded_slices(store: WaitingStore) -> None:
    waiters = [store.take(take(wait=100)) for _ in range(1_200)]
    store.let_time_pass(100)
    assert 0 < sum(waiter.reply is None for waiter in waiters) < 1_200
    store.serve_all()
    assert all(waiter.reply == NOTHING for waiter in waiters)


def test_waiters_are_limited(store: WaitingStore) -> None:
    names = tuple(b"%d" % at for at in range(1_000))
    waiters = [store.take(TakeAny(1, 0, 1_000, names)) for _ in range(WAITERS_MAX // 1_000 - 1)]
    waiters += [store.take(take()) for _ in range(1_000)]
    refused = store.take(take())
    assert isinstance(refused.reply, Failure)
    assert refused.reply.code is failures.CROWDED
    store.end_take(waiters[-1], gives_back=True)
    assert store.take(take()).reply is None


@pytest.mark.parametrize("command", [take(), TakeAny(1, 0, 1_000, (b"q",))])
def test_waiting_is_refused_among_several_commands(store: WaitingStore, command: Command) -> None:
    reply = store.execute_all((Step(0, Set(b"k", b"v")), Step(0, command)))
    assert isinstance(reply, Failure)
    assert reply.code is failures.BADARGS
    assert store.database.get(b"k") is None
    assert not store.waiters


def test_together_refuses_to_wait(store: WaitingStore) -> None:
    reply = store.execute(Together((Put(b"q", b"body"), take())))
    assert isinstance(reply, Failure)
    assert reply.code is failures.BADARGS
    assert "TAKE" in reply.message
    assert not store.waiters


def test_several_commands_serve_waiters(store: WaitingStore) -> None:
    waiter = store.take(take())
    store.execute_all((Step(0, Put(b"q", b"body")), Step(0, Set(b"k", b"v"))))
    assert bodies(waiter.reply) == [b"body"]


# -- commits --------------------------------------------------------------------------------------------------------


def test_put_and_the_take_of_a_waiter_are_one_entry(late: LateWaitingStore) -> None:
    waiter = late.take(take())
    put = late.execute(Put(b"q", b"body"))
    (entry,) = late.storage.pending
    assert [step.command.spec.name for step in entry.steps] == ["PUT", "TAKE"]
    assert waiter.executed
    assert waiter.reply is None
    late.storage.commit()
    assert bodies(waiter.reply) == [b"body"]
    assert getattr(put, "reply", None) == Items((b"2", b"1"))


def test_put_of_a_message_that_is_not_ready_is_an_entry_alone(late: LateWaitingStore) -> None:
    late.take(take())
    late.execute(Put(b"q", b"body", delay=50))
    (entry,) = late.storage.pending
    assert [step.command.spec.name for step in entry.steps] == ["PUT"]


def test_empty_reply_waits_for_the_commit_of_what_it_shows(late: LateWaitingStore) -> None:
    late.execute(Put(b"q", b"body"))
    late.storage.commit()
    late.take(Take(b"q", 1, wait=10))
    waiter = late.take(take(wait=10))
    late.let_time_pass(10)
    assert waiter.executed
    assert waiter.reply is None
    late.storage.commit()
    assert waiter.reply == NOTHING


@pytest.mark.parametrize("unknown", [False, True])
def test_take_of_a_waiter_fails_with_its_commit(late: LateWaitingStore, unknown: bool) -> None:
    waiter = late.take(take())
    late.execute(Put(b"q", b"body"))
    late.storage.fail(unknown=unknown)
    assert isinstance(waiter.reply, Failure)
    assert waiter.reply.code is (failures.UNKNOWN if unknown else failures.UNDONE)
    assert not late.waiters


def test_undone_take_makes_its_message_ready_for_a_waiter(late: LateWaitingStore) -> None:
    late.execute(Put(b"q", b"body"))
    late.storage.commit()
    late.execute(Take(b"q", 1))
    waiter = late.take(take())
    late.timers.clear()
    late.storage.fail()
    assert late.timers == [0]
    late.let_time_pass(0)
    late.storage.commit()
    assert bodies(waiter.reply) == [b"body"]


@pytest.mark.parametrize("whole", [False, True])
def test_undone_pause_lets_no_take_pass_a_waiter(late: LateWaitingStore, whole: bool) -> None:
    late.execute(Put(b"q", b"body"))
    late.storage.commit()
    late.execute(QueueSet(b"q", paused=1))
    waiter = late.take(take())
    late.storage.fail()
    late.execute_all([Step(0, Take(b"q", 1))]) if whole else late.execute(Take(b"q", 1))
    late.storage.commit()
    assert bodies(waiter.reply) == [b"body"]


def test_refused_put_leaves_waiters_in_their_order(late: LateWaitingStore) -> None:
    first, second = late.take(take()), late.take(take())
    late.storage.surprise = "no room"
    assert isinstance(late.execute(Put(b"q", b"body")), Failure)
    assert first.reply is second.reply is None
    late.storage.surprise = None
    late.serve_all()
    late.execute(Put(b"q", b"1"))
    late.execute(Put(b"q", b"2"))
    late.storage.commit()
    assert (bodies(first.reply), bodies(second.reply)) == ([b"1"], [b"2"])


def test_take_that_storage_refuses_fails(late: LateWaitingStore) -> None:
    late.execute(Put(b"q", b"later", delay=100))
    late.storage.commit()
    waiter = late.take(take())
    late.storage.surprise = "no room"
    late.let_time_pass(100)
    late.serve_all()
    assert isinstance(waiter.reply, Failure)
    assert waiter.reply.message.endswith("no room")
    late.storage.surprise = None
    assert counts(late) == [1, 0, 0, 0]


def test_waiters_of_unresolved_writes_go_on_waiting() -> None:
    """Until the outcome of a failed write is known, no TAKE executes; then the message may be ready."""
    store = LateWaitingStore()
    waiter = store.take(take())
    put = Put(b"q", b"body")
    probe = LateWaitingStore()
    probe.execute(put)
    effects: Sequence[Effect] = [
        (QUEUE_DB, key, value, expiry)
        for key, value, expiry in ((k, *probe.queues.entry(k)) for k in keys_of(probe))  # type: ignore[misc]
    ]
    store.failed("the disk is gone", unknown=True, unresolved=effects)
    refused = store.take(take())
    assert isinstance(refused.reply, Failure)
    assert refused.reply.code is failures.RECOVERING
    assert waiter.reply is None
    store.timers.clear()
    store.resolved(effects)
    assert store.timers == [0]
    store.let_time_pass(0)
    store.storage.commit()
    assert bodies(waiter.reply) == [b"body"]


def keys_of(store: LateWaitingStore) -> list[bytes]:
    """The keys of the records that the pending entries have made."""
    return [key for key in store.gate.pending_keys[QUEUE_DB] if store.queues.entry(key) is not None]


# -- clients that disconnect ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("committed", [False, True])
def test_lease_of_a_client_that_has_left_is_given_back_uncounted(late: LateWaitingStore, committed: bool) -> None:
    late.execute(QueueSet(b"q", attempts=1))
    waiter = late.take(take(count=5))
    late.execute(PutMany(b"q", 0, 1_000, (b"1", b"2")))
    if committed:
        late.storage.commit()
    late.end_take(waiter, gives_back=True)
    assert waiter.reply == NOTHING
    late.storage.commit()
    assert waiter.reply == NOTHING
    assert counts(late) == [2, 0, 0, 0]
    again = late.take(take(count=5))
    late.storage.commit()
    assert bodies(again.reply) == [b"1", b"2"]


def test_lease_of_a_take_any_is_given_back(store: WaitingStore) -> None:
    waiter = store.take(TakeAny(3, 0, 1_000, (b"q", b"r")))
    store.execute(PutMany(b"q", 0, 1_000, (b"1", b"2")))
    assert counts(store) == [0, 0, 2, 0]
    store.end_take(waiter, gives_back=True)
    assert counts(store) == [2, 0, 0, 0]


def test_message_of_a_client_that_has_left_goes_to_the_next_waiter(late: LateWaitingStore) -> None:
    first, second = late.take(take()), late.take(take())
    late.execute(Put(b"q", b"body"))
    late.end_take(first, gives_back=True)
    late.storage.commit()
    assert bodies(second.reply) == [b"body"]


def test_end_of_a_wait_keeps_a_message_that_is_there(late: LateWaitingStore) -> None:
    """A server that stops still sends replies that wait for their commit."""
    waiter = late.take(take())
    late.execute(Put(b"q", b"body"))
    late.end_take(waiter, gives_back=False)
    late.storage.commit()
    assert bodies(waiter.reply) == [b"body"]


def test_failed_take_gives_nothing_back(late: LateWaitingStore) -> None:
    waiter = late.take(take())
    late.execute(Put(b"q", b"body"))
    late.storage.fail()
    late.end_take(waiter, gives_back=True)
    assert isinstance(waiter.reply, Failure)
    assert not late.storage.pending


def test_purge_ends_no_wait(store: WaitingStore) -> None:
    store.execute(Put(b"q", b"later", delay=50))
    waiter = store.take(take())
    store.execute(Purge(b"q", b"all", 0))
    store.let_time_pass(100)
    assert waiter.reply is None
    assert store.execute(Set(b"k", b"v")) == OK
