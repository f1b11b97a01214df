"""Commands on queues: the native functions and the pure ones change records, index and journal equally."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cairnkv.commands import Ack, Command, Failure, Items, Put, PutMany, QueueSet, Reply, Take, TakeAny
from cairnkv.engine import Journal, QueueDatabase, apply, undo
from cairnkv.engine.database import Before
from cairnkv.engine.queue_records import BODY_INSIDE_MAX
from cairnkv.engine.table import BUCKET_KEYS
from cairnkv.limits import TAKE_BYTES, TAKE_MAX
from tests.support.paths import native_only, on_path
from tests.support.queue_model import QueueModel
from tests.support.queue_strategies import ANY, SETTINGS, START, STEPS, USUAL, about_messages

pytestmark = native_only


class Twins:
    """Two databases of queues: one executes commands on the pure path, the other on the native path."""

    def __init__(self) -> None:
        with on_path("pure"):
            self.pure = QueueDatabase()
        with on_path("native"):
            self.native = QueueDatabase()
        assert self.pure.native is None
        assert self.native.native is not None
        self.executed: Counter[str] = Counter()
        """The numbers of commands that the native path has executed."""

    def say(self, command: Command, now: int, *, with_journal: bool = True) -> tuple[Reply, list[Journal]]:
        """Execute a command on both; return its reply, and the changes of each database."""
        journals: list[Journal] = [[], []]
        replies = []
        for database, journal in zip((self.pure, self.native), journals, strict=True):
            database.shared.journal = journal if with_journal else None
            before = database.shared.versions[:]
            if database is self.native and database.native is not None:
                database.advance(now)
                reply = database.native.execute(command)
                if reply is not None:
                    self.executed[command.spec.name] += 1
                else:
                    assert not journal, f"{command} was left to the pure path after a change"
                    assert database.shared.versions == before
                    reply = apply(database, command, now)
            else:
                reply = apply(database, command, now)
            replies.append(reply)
            database.shared.journal = None
        assert replies[0] == replies[1], f"{command}: pure {replies[0]!r}, native {replies[1]!r}"
        assert list(map(described, journals[0])) == list(map(described, journals[1])), command
        return replies[0], journals

    def compare(self) -> None:
        """Assert that both databases are equal."""
        assert sorted(self.pure._table) == sorted(self.native._table)
        assert self.pure.index.content() == self.native.index.content()
        for name in ("now", "used_bytes", "index_bytes", "tidy", "changed"):
            assert getattr(self.pure, name) == getattr(self.native, name), name
        assert self.pure.count() == self.native.count()
        assert self.pure.shared.versions == self.native.shared.versions
        assert self.pure.shared.expiring == self.native.shared.expiring
        self.native.check()


def described(change: object) -> tuple[bytes, object]:
    assert isinstance(change, Before)
    return change.key, change.entry


class QueueTwinsMachine(RuleBasedStateMachine):
    """Both paths, and the model, which knows the messages."""

    def __init__(self) -> None:
        super().__init__()
        self.twins = Twins()
        self.model = QueueModel()
        self.clock = START

    def _tell(self, command: Command, *, with_journal: bool = True) -> list[Journal]:
        self.model.apply(command, self.clock)
        return self.twins.say(command, self.clock, with_journal=with_journal)[1]

    @initialize(changes=st.lists(SETTINGS, max_size=1), lead=st.sampled_from([0, 0, 0, 1_001]))
    def set_up(self, changes: list[Command], lead: int) -> None:
        for database in (self.twins.pure, self.twins.native):
            database.shared.lead = lead
            database.watched = {b"qr": None}
        self.model.lead = lead
        for command in changes:
            self._tell(command)

    @rule(commands=st.lists(USUAL, min_size=1, max_size=6), step=STEPS, with_journal=st.booleans())
    def say(self, commands: list[Command], step: int, *, with_journal: bool) -> None:
        self.clock += step
        for command in commands:
            self._tell(command, with_journal=with_journal)

    @rule(count=st.integers(1, 5), lease=st.sampled_from([0, 40]))
    def take_any(self, count: int, lease: int) -> None:
        self._tell(TakeAny(count, lease, 0, (b"none", b"r", b"q")))

    @rule(bodies=st.lists(st.sampled_from([b"", b"body", bytes(BODY_INSIDE_MAX + 1)]), min_size=1, max_size=4))
    def put_many(self, bodies: list[bytes]) -> None:
        self._tell(PutMany(b"q", 0, 1_000, tuple(bodies)))

    @rule(command=ANY | SETTINGS)
    def say_anything(self, command: Command) -> None:
        self._tell(command)

    @precondition(lambda self: self.model.messages)
    @rule(data=st.data(), step=STEPS)
    def say_about_messages(self, data: st.DataObject, step: int) -> None:
        self.clock += step
        self._tell(data.draw(about_messages(self.model)))

    @rule(data=st.data(), count=st.integers(1, 5))
    def change_and_undo(self, data: st.DataObject, count: int) -> None:
        kept = self.model.copy()
        journals = [
            self._tell(data.draw(about_messages(self.model) | USUAL if self.model.messages else USUAL))
            for _ in range(count)
        ]
        for pure, native in reversed(journals):
            undo(pure)
            undo(native)
        self.model = kept

    @invariant()
    def both_are_equal(self) -> None:
        self.twins.compare()


TestQueueTwinsMachine = QueueTwinsMachine.TestCase
TestQueueTwinsMachine.settings = settings(max_examples=3 * settings().max_examples, stateful_step_count=40)


def leases_in(reply: Reply) -> tuple[tuple[int, int], ...]:
    assert isinstance(reply, Items)
    numbers = [int(value or b"") for at, value in enumerate(reply.values) if at % 7 < 2]
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def test_common_commands_are_executed_natively() -> None:
    twins = Twins()
    twins.say(QueueSet(b"q", attempts=3), START)
    for number in range(4 * BUCKET_KEYS):  # buckets split
        twins.say(Put(b"q", b"body %d" % number), START + number)
    twins.compare()
    now = START + 10_000
    for count in (1, 1, 5, 64, 2 * BUCKET_KEYS):
        reply, _ = twins.say(Take(b"q", count), now)
        leases = leases_in(reply)
        assert len(leases) == count
        now += 1
        twins.say(Ack(leases), now, with_journal=False)
        twins.compare()
    assert twins.executed == {"PUT": 4 * BUCKET_KEYS, "TAKE": 5, "ACK": 5}


def test_queue_can_be_emptied_and_filled_natively() -> None:
    twins = Twins()
    twins.say(Put(b"q", b""), START)
    twins.say(Take(b"q", 1), START)
    for number in range(5):
        twins.say(Ack(((2 + number, 1 + number),)), START + number)
        twins.compare()
        twins.say(Take(b"q", 3), START + number)
        twins.say(Put(b"q", bytes(1_000)), START + number)
        twins.say(Take(b"q", 3), START + number)
        twins.compare()
    assert twins.executed == {"PUT": 5, "TAKE": 11, "ACK": 5}


def test_groups_and_priorities_take_turns_natively() -> None:
    twins = Twins()
    twins.say(Put(b"q", b""), START)
    taken: list[tuple[int, int]] = []
    for number in range(400):
        twins.say(Put(b"q", b"", group=b"%d" % (number % 200), priority=number % 2 * 1_000), START + number)
    for number in range(250):
        reply, _ = twins.say(Take(b"q", 1), START + 400 + number)
        taken += leases_in(reply)
    twins.compare()
    for at in range(0, 250, 10):
        twins.say(Ack(tuple(taken[at : at + 10])), START + 1_000)
    twins.compare()
    assert (twins.executed["TAKE"], twins.executed["ACK"]) == (250, 25)


def test_long_lists_are_equal() -> None:
    """Chunks of the index split and join."""
    twins = Twins()
    twins.say(Put(b"q", b""), START)
    for number in range(3):
        twins.say(PutMany(b"q", 0, 1_000, (b"",) * TAKE_MAX), START + number)
    taken: list[tuple[int, int]] = []
    for number in range(3):
        reply, _ = twins.say(Take(b"q", TAKE_MAX, lease=1_000 - 300 * number), START + 10 + number)
        taken += leases_in(reply)
    twins.compare()
    for at in (0, 2_000, 1_000):
        twins.say(Ack(tuple(taken[at + 1 : at + TAKE_MAX : 2])), START + 100)
        twins.say(Ack(tuple(taken[at : at + TAKE_MAX : 2])), START + 100)
        twins.compare()
    assert twins.executed == {"PUT_MANY": 3, "TAKE": 3, "ACK": 6}


def test_bodies_that_are_too_long_together_end_a_reply_natively() -> None:
    twins = Twins()
    twins.say(Put(b"q", b""), START)
    for _ in range(3):
        twins.say(Put(b"q", bytes(TAKE_BYTES // 2)), START)
    reply, _ = twins.say(Take(b"q", 10), START)
    assert len(leases_in(reply)) == 3
    twins.compare()
    assert twins.executed["TAKE"] == 1


def test_limits_are_left_to_the_pure_path() -> None:
    twins = Twins()
    twins.say(QueueSet(b"q", max_messages=2, attempts=1), START)
    for _ in range(2):
        twins.say(Put(b"q", b""), START)
    reply, _ = twins.say(Put(b"q", b""), START)
    assert isinstance(reply, Failure)
    twins.say(Take(b"q", 2, lease=5), START)
    twins.say(Take(b"q", 1), START + 5)  # both messages become dead
    twins.compare()
    assert twins.executed == {"PUT": 2, "TAKE": 1}
