"""Queues through a store: late and failing commits, refused entries, transactions."""

import dataclasses

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cairnkv.commands import (
    MISSING,
    OK,
    Ack,
    ClearAll,
    Command,
    Count,
    Extend,
    Failure,
    Items,
    Look,
    Nack,
    Peek,
    Purge,
    Put,
    PutMany,
    Queues,
    QueueSet,
    QueueStats,
    Replies,
    Reply,
    Set,
    Step,
    Take,
    Together,
    failures,
)
from cairnkv.limits import DATABASES
from cairnkv.store import LocalStore, PendingReply, WhenFull
from tests.support.clock import HandClock
from tests.support.late_storage import LateStorage
from tests.support.queue_model import QueueModel, same
from tests.support.queue_strategies import ANY, QUEUES, SETTINGS, START, STEPS, USUAL, about_messages


@dataclasses.dataclass
class Waiting:
    """A pending reply, and the one that it will be."""

    command: Command
    held: PendingReply
    expected: Reply
    after: int
    """The newest entry that it may show: its own, or the newest when it was made."""


def together(model: QueueModel, parts: list[Command], now: int) -> Reply:
    """Return the reply of the model to commands that are executed together."""
    replies: list[Reply] = []
    for part in parts:
        reply = model.apply(part, now)
        if isinstance(reply, Failure):
            return reply
        stale = reply == 0 if isinstance(part, Nack) else isinstance(reply, Items) and b"0" in reply.values
        if isinstance(part, Ack | Nack | Extend) and stale:
            return Failure(failures.STALE, "")
        replies.append(reply)
    return Replies(tuple(replies))


class LateQueueMachine(RuleBasedStateMachine):
    """A store with a storage that commits when the machine says."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = LateStorage(keeps_effects=True)
        self.clock = HandClock()
        self.store = LocalStore(storage=self.storage, clock=self.clock)
        self.model = QueueModel()
        self.safe = QueueModel()
        self.pending: list[tuple[int, QueueModel]] = []
        self.waiting: list[Waiting] = []

    @initialize(changes=st.lists(SETTINGS, max_size=2))
    def set_up(self, changes: list[Command]) -> None:
        for command in changes:
            self._say(command)

    @rule(command=USUAL | USUAL | ANY, step=STEPS)
    def say(self, command: Command, step: int) -> None:
        self.clock.advance(step)
        self._say(command)

    @precondition(lambda self: self.model.messages)
    @rule(data=st.data())
    def say_about_messages(self, data: st.DataObject) -> None:
        self._say(data.draw(about_messages(self.model)))

    @rule(data=st.data(), count=st.integers(1, 4))
    def say_together(self, data: st.DataObject, count: int) -> None:
        usual = USUAL | SETTINGS
        parts = [data.draw(about_messages(self.model) | usual if self.model.messages else usual) for _ in range(count)]
        before, logged = self.model.copy(), len(self.storage.pending)
        outcome = self.store.execute(Together(tuple(parts)))
        newest = self.storage.pending[-1].sequence if self.storage.pending else 0
        expected = together(self.model, parts, self.clock.now)
        if isinstance(expected, Failure):
            self.model = before
            self.model.now = self.clock.now
            assert not any(entry.steps for entry in self.storage.pending[logged:])
        elif any(entry.steps for entry in self.storage.pending[logged:]):
            self.pending.append((newest, self.model.copy()))
        if isinstance(outcome, PendingReply):
            self.waiting.append(Waiting(Together(tuple(parts)), outcome, expected, newest))
        else:
            assert same(outcome, expected), f"{parts}: {outcome!r} instead of {expected!r}"

    def _say(self, command: Command) -> None:
        logged = len(self.storage.pending)
        outcome = self.store.execute(command)
        newest = self.storage.pending[-1].sequence if self.storage.pending else 0
        expected = self.model.apply(command, self.clock.now)
        if any(entry.steps for entry in self.storage.pending[logged:]):
            assert command.spec.writes
            self.pending.append((newest, self.model.copy()))
        if isinstance(outcome, PendingReply):
            self.waiting.append(Waiting(command, outcome, expected, newest))
        else:
            assert same(outcome, expected), f"{command}: {outcome!r} instead of {expected!r}"

    @rule(command=USUAL)
    def say_while_storage_refuses(self, command: Command) -> None:
        self.storage.refusal = "full"
        before = self.model.copy()
        outcome = self.store.execute(command)
        self.storage.refusal = None
        if isinstance(outcome, Failure) and outcome.code is failures.UNDONE:
            self.model.now = self.clock.now
            return
        expected = self.model.apply(command, self.clock.now)
        assert self.model.messages == before.messages
        reply = outcome.outcome if isinstance(outcome, PendingReply) else outcome
        assert same(reply, expected)

    @rule(count=st.integers(1, 4))
    def commit(self, count: int) -> None:
        self.storage.commit(count)
        committed = self.storage.committed[-1].sequence if self.storage.committed else 0
        for sequence, model in self.pending:
            if sequence <= committed:
                self.safe = model
        self.pending = [(sequence, model) for sequence, model in self.pending if sequence > committed]

    @rule(unknown=st.booleans())
    def fail(self, unknown: bool) -> None:
        self.storage.fail("broken", unknown=unknown)
        for one in self.waiting:
            if one.held.reply is not None and not isinstance(one.held.reply, Failure):
                assert same(one.held.reply, one.expected)
        self.waiting.clear()
        self.pending.clear()
        self.model = self.safe.copy()
        self.model.now = self.clock.now

    @rule()
    def keep_house(self) -> None:
        """Housekeeping removes the expired messages of a queue, as a command."""
        self.model.now = max(self.model.now, self.clock.now)
        while self.store.housekeep():
            pass
        for _ in QUEUES:
            self.store.housekeep()
        removed = False
        for name in self.model.queues:
            if self.model.of(name, None):
                self.model.apply(Purge(name, b"expired", 0), self.clock.now)
                removed = True
        if removed:
            self.pending.append((self.storage.pending[-1].sequence, self.model.copy()))

    @invariant()
    def replies_are_those_of_the_model(self) -> None:
        committed = self.storage.committed[-1].sequence if self.storage.committed else 0
        left = []
        for one in self.waiting:
            if one.after <= committed:
                assert one.held.reply is not None, f"{one.command} waits for no commit"
            if one.held.reply is None:
                left.append(one)
            else:
                assert same(one.held.reply, one.expected), (
                    f"{one.command}: {one.held.reply!r} instead of {one.expected!r}"
                )
        self.waiting = left

    @invariant()
    def queues_are_those_of_the_model(self) -> None:
        self.store.queues.check()
        for name in QUEUES:
            if name in self.model.queues:
                queue = self.store.queues.index.queues[name]
                states = (b"ready", b"delayed", b"leased", b"dead")
                now = self.store.database.now
                self.model.now = max(self.model.now, now)
                assert queue.counts(now) == tuple(len(self.model.of(name, state)) for state in states)
            else:
                assert name not in self.store.queues.index.queues


TestLateQueueMachine = LateQueueMachine.TestCase
TestLateQueueMachine.settings = settings(max_examples=3 * settings().max_examples, stateful_step_count=40)


# -- promise 2: which replies wait -------------------------------------------------------------------------------------


class Late:
    """A store with a storage that commits when a test says."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.storage = LateStorage(keeps_effects=True)
        self.store = LocalStore(storage=self.storage, clock=self.clock)

    def say(self, command: Command) -> Reply:
        """Execute a command, and commit it."""
        outcome = self.store.execute(command)
        self.storage.commit()
        reply = outcome.reply if isinstance(outcome, PendingReply) else outcome
        assert reply is not None
        return reply

    def waits(self, command: Command) -> bool:
        """Execute a command that changes nothing. Whether its reply waits."""
        pending = len(self.storage.pending)
        outcome = self.store.execute(command)
        assert len(self.storage.pending) == pending
        return isinstance(outcome, PendingReply)


@pytest.fixture
def late() -> Late:
    """With a message that is leased by lease 1, of the queue `q`, and a message of the queue `other`."""
    late = Late()
    late.say(Put(b"q", b"one"))
    late.say(Put(b"other", b"two"))
    late.say(Take(b"q", 1))
    return late


ABOUT_THE_MESSAGE = [Ack(((2, 9),)), Look(2), Nack(2, 9)]
ABOUT_THE_QUEUE = [Take(b"q", 1), Peek(b"q", b"leased", 0, 9), QueueStats(b"q")]
CHANGES = [
    Ack(((2, 1),)),
    Nack(2, 1, delay=5_000),
    Nack(2, 1, dead=True),
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("read", [*ABOUT_THE_MESSAGE, *ABOUT_THE_QUEUE], ids=str)
def test_replies_wait_for_changes_of_what_they_show(late: Late, change: Command, read: Command) -> None:
    late.store.execute(change)
    assert late.waits(read)
    late.storage.commit()
    assert not late.waits(read)


@pytest.mark.parametrize("read", [Take(b"none", 1), QueueStats(b"q"), Look(2), Ack(((2, 9),))], ids=str)
def test_replies_about_a_queue_do_not_wait_for_another(late: Late, read: Command) -> None:
    late.store.execute(Put(b"other", b"three"))
    assert not late.waits(read)


def test_names_of_queues_wait_for_a_new_queue(late: Late) -> None:
    late.store.execute(Put(b"new", b"three"))
    assert late.waits(Queues(0, 10))


def test_a_duplicate_waits_for_the_message_with_its_name(late: Late) -> None:
    late.store.execute(Put(b"q", b"three", unique=b"n"))
    assert late.waits(Put(b"q", b"four", unique=b"n"))


def test_new_ids_and_leases_wait_for_their_commit_in_any_case(late: Late) -> None:
    """With durability `memory`, a crash could give the same lease to two workers."""
    for command in (Put(b"q", b"three"), Take(b"q", 1)):
        pending = late.store.execute(command)
        assert isinstance(pending, PendingReply)
        assert pending.reply_before_commit() is pending
        late.storage.commit()
        assert isinstance(pending.reply_before_commit(), Items)


def test_changes_of_one_command_are_one_entry(late: Late) -> None:
    late.store.execute(PutMany(b"new", 0, 0, (b"a", bytes(1_000))))
    (entry,) = late.storage.pending
    assert {key[:1] for db, key, _, _ in entry.effects if db == DATABASES + 1 and key} == {b"c", b"q", b"m", b"b"}


def test_commands_of_a_transaction_are_one_entry(late: Late) -> None:
    steps = [Step(0, Set(b"k", b"v")), Step(0, Ack(((2, 1),))), Step(0, Put(b"next", b"three"))]
    pending = late.store.execute_all(steps)
    assert isinstance(pending, PendingReply)
    assert len(late.storage.pending) == 1
    late.storage.fail()
    assert isinstance(pending.reply, Failure)
    assert late.say(Look(2)) is not MISSING
    late.store.execute_all(steps)
    late.storage.commit()
    assert late.say(Look(2)) is MISSING


def test_queues_are_no_keys(late: Late) -> None:
    assert late.say(Count()) == 0
    assert late.say(ClearAll()) is OK
    assert late.say(Look(2)) is not MISSING


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when_full", WhenFull)
def test_a_full_store_refuses_put_and_executes_the_rest(when_full: WhenFull) -> None:
    store = LocalStore(clock=HandClock(), memory_limit=30_000, when_full=when_full)
    count = 0
    while not isinstance(reply := store.execute(Put(b"q", bytes(100), group=b"g")), Failure):
        count += 1
    assert reply.code is failures.FULL
    assert 20 < count < 100
    taken = store.execute(Take(b"q", 2))
    assert isinstance(taken, Items)
    first, lease, second, other = (int(taken.values[at] or b"") for at in (0, 1, 7, 8))
    assert store.execute(Nack(first, lease, reason=b"why")) == 1
    assert store.execute(Ack(((second, other),))) == Items((b"1",))
    assert not isinstance(store.execute(Put(b"q", bytes(100), group=b"g")), Failure)


def test_messages_are_never_evicted() -> None:
    store = LocalStore(clock=HandClock(), memory_limit=40_000, when_full=WhenFull.EVICT)
    for number in range(20):
        store.execute(Put(b"q", b"%d" % number))
    for number in range(500):
        store.execute(Set(b"%d" % number, bytes(100)))
    assert store.memory.evicted > 0
    store.queues.check()
    assert store.queues.index.messages == 20


def test_memory_of_queues_counts_until_it_is_free() -> None:
    store = LocalStore(clock=HandClock())
    store.execute(QueueSet(b"q"))
    before = store.memory.used_bytes
    store.execute(PutMany(b"q", 0, 0, (bytes(1_000),) * 10))
    assert store.memory.used_bytes > before + 10_000
    taken = store.execute(Take(b"q", 10))
    assert isinstance(taken, Items)
    leases = tuple((int(taken.values[at] or b""), int(taken.values[at + 1] or b"")) for at in range(0, 70, 7))
    store.execute(Ack(leases))
    assert store.memory.used_bytes == before


def test_housekeeping_removes_expired_messages_of_idle_queues() -> None:
    clock = HandClock()
    store = LocalStore(clock=clock)
    assert store.needs_no_housekeeping
    for number in range(3):
        store.execute(PutMany(b"%d" % number, 0, 0, (b"",) * 10))
        for _ in range(1_200):
            store.execute(Put(b"%d" % number, b"", expires=1_000, unique=None))
    assert not store.needs_no_housekeeping
    assert not store.housekeep()
    clock.advance(1_000)
    while store.housekeep():
        pass
    for _ in range(2):
        store.housekeep()
    assert store.queues.index.messages == 30
    assert store.needs_no_housekeeping
    stats = store.execute(QueueStats(b"1"))
    assert isinstance(stats, Items)
    assert stats.values[stats.values.index(b"expired") + 1] == b"1200"
    store.queues.check()


def test_an_interrupted_command_on_a_queue_is_undone() -> None:
    store = LocalStore(clock=HandClock())
    store.execute(Put(b"q", b"one"))
    before = sorted(store.queues._table)
    store.begin_call()
    store.execute(Take(b"q", 1))
    copy = store.undone()
    assert sorted(copy.queues._table) == before
    copy.queues.check()
    assert isinstance(copy.execute(Take(b"q", 1)), Items)
    store.end_call()
    assert sorted(store.queues._table) != before


def test_replies_of_a_transaction_are_those_of_its_commands() -> None:
    store = LocalStore(clock=HandClock())
    replies = store.execute_all([Step(3, Put(b"q", b"one")), Step(0, Take(b"q", 1)), Step(0, Ack(((2, 1),)))])
    start = b"%d" % START
    taken = Items((b"2", b"1", b"1", b"60000", start, b"", b"one"))
    assert replies == Replies((Items((b"2", b"1")), taken, Items((b"1",))))
