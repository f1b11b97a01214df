"""Any interleaving of commands, partial commits, refusals and failures, compared with two plain models."""

import dataclasses

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cairnkv.commands import ClearAll, ClearPrefix, Command, Failure, Items, Reply, Scope, failures
from cairnkv.commands.vocabulary import (
    AMOUNT,
    BIT_OFFSET,
    COUNT,
    CURSOR,
    DB,
    DECIMAL,
    KEY,
    MILLISECONDS,
    MILLISECONDS_OR_NONE,
    OFFSET,
    PREFIX,
    TIME,
    UNIX_MILLISECONDS,
    VALUE,
)
from cairnkv.engine import can_apply
from cairnkv.store import LocalStore, PendingReply
from tests.support.clock import HandClock
from tests.support.late_storage import LateStorage
from tests.support.model import MODELLED, Model, same
from tests.support.strategies import Kinds, commands

KEYS = [b"a", b"b", b"c", b"ab"]
TIMES = st.integers(1, 3_000)
KINDS = Kinds(
    {
        KEY: st.sampled_from(KEYS),
        VALUE: st.sampled_from([b"", b"1", b"2", b"x"]),
        PREFIX: st.sampled_from([b"", b"a", b"z"]),
        MILLISECONDS: TIMES,
        MILLISECONDS_OR_NONE: st.just(0) | TIMES,
        AMOUNT: st.integers(-2, 2),
        CURSOR: st.just(0),
        COUNT: st.just(1_000),
        TIME: st.integers(-100, 3_000),
        UNIX_MILLISECONDS: st.integers(HandClock().now - 1_000, HandClock().now + 5_000),
        OFFSET: st.integers(0, 3),
        BIT_OFFSET: st.integers(0, 20),
        DB: st.just(0),
        DECIMAL: st.sampled_from([b"0.5", b"-1", b"x"]),
    }
)
APPLIED = [command for command in MODELLED if can_apply(command)]
ONLY_SLICE = Items((b"0",))
"""Where slices end here: at the end of a table with so few keys."""


@dataclasses.dataclass
class Waiting:
    """A pending reply, and its possible results."""

    command: Command
    held: PendingReply
    reply: Reply
    must: int
    may: int
    writes: bool


@dataclasses.dataclass
class Pending:
    """A write that is not committed."""

    sequence: int
    touched: set[bytes]
    """Keys whose entries it changed."""
    named: set[bytes]
    after: Model
    """The model behind it."""


class LateStoreMachine(RuleBasedStateMachine):
    """A store with a storage that commits when the machine says."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = LateStorage()
        self.clock = HandClock()
        self.store = LocalStore(storage=self.storage, clock=self.clock)
        self.safe = Model()
        self.model = Model()
        self.pending: list[Pending] = []
        self.waiting: list[Waiting] = []
        self.last_committed = 0

    # -- what happens -----------------------------------------------------------------------------------------

    @rule(command=commands(APPLIED, KINDS), step=st.integers(0, 300) | st.just(2_500))
    def say(self, command: Command, step: int) -> None:
        self.clock.advance(step)
        logged = len(self.storage.pending)
        outcome = self.store.execute(command)
        appended = len(self.storage.pending) > logged
        before = self.model.copy()
        before.advance(self.clock.now)
        expected = self.model.apply(command, self.clock.now, seen=ONLY_SLICE)
        if self.model.entries != before.entries:
            assert appended, f"{command} changed something and was not logged"
        if appended:
            sequence = self.storage.pending[-1].sequence
            assert isinstance(outcome, PendingReply)
            self._remember(command, sequence, before)
            self.waiting.append(Waiting(command, outcome, expected, sequence, sequence, writes=True))
            return
        self._answered(command, outcome, expected)

    @rule(command=commands([command for command in APPLIED if command.spec.writes], KINDS))
    def say_while_the_log_refuses(self, command: Command) -> None:
        self.storage.refusal = "full"
        self.model.advance(self.clock.now)
        logged = len(self.storage.pending)
        outcome = self.store.execute(command)
        assert len(self.storage.pending) == logged
        if isinstance(outcome, Failure) and outcome.code is failures.UNDONE:
            pass  # not executed: the invariant sees that nothing changed
        else:
            before = dict(self.model.entries)
            expected = self.model.apply(command, self.clock.now, seen=ONLY_SLICE)
            assert self.model.entries == before, "only what changes nothing needs no log"
            self._answered(command, outcome, expected)
        self.storage.refusal = None

    @rule(count=st.integers(1, 4))
    def commit_some(self, count: int) -> None:
        self._commit(count)

    @rule()
    def commit_all(self) -> None:
        self._commit(len(self.pending))

    @rule(unknown=st.booleans())
    def fail(self, unknown: bool) -> None:
        self.storage.fail("gone", unknown=unknown)
        for one in self.waiting:
            if one.must <= self.last_committed and not isinstance(one.held.reply, Failure):
                assert same(one.command, one.held.reply, one.reply)  # type: ignore[arg-type]
            else:
                code = failures.UNKNOWN if unknown and one.writes else failures.UNDONE
                assert one.held.reply == Failure(code, "gone")
        self.waiting.clear()
        self.pending.clear()
        self.model = self.safe.copy()
        self.model.advance(self.store.database.now)

    @rule()
    def keep_house(self) -> None:
        self.store.housekeep()
        self.model.advance(self.clock.now)

    # -- what has to hold -------------------------------------------------------------------------------------

    @invariant()
    def replies_leave_when_they_are_safe_and_not_before(self) -> None:
        still = []
        for one in self.waiting:
            if one.must > self.last_committed:
                assert one.held.reply is None, f"{one.command} was answered, and its commit is not there"
            if one.may <= self.last_committed:
                assert one.held.reply is not None, f"{one.command} still waits, and everything it shows is safe"
            if one.held.reply is None:
                still.append(one)
            else:
                assert same(one.command, one.held.reply, one.reply)
        self.waiting = still

    @invariant()
    def the_keyspace_holds_what_was_said_and_not_undone(self) -> None:
        database = self.store.database
        self.model.advance(database.now)
        assert {key: database.entry(key) for key in KEYS} == {key: self.model.entries.get(key) for key in KEYS}
        assert database.count() == len(self.model.entries)
        database.check()

    # -- how it is known ----------------------------------------------------------------------------------------

    def _answered(self, command: Command, outcome: Reply | PendingReply, expected: Reply) -> None:
        """A command that was not logged was answered, or waits for what it shows."""
        must = self._shown(command, [pending.touched for pending in self.pending])
        may = self._shown(command, [pending.named for pending in self.pending])
        if isinstance(outcome, PendingReply):
            assert may, f"{command} waits for nothing that it could show"
            self.waiting.append(Waiting(command, outcome, expected, must, may, writes=False))
        else:
            assert same(command, outcome, expected)
            assert not must, f"{command} answered {outcome!r}, of which something is not committed"

    def _remember(self, command: Command, sequence: int, before: Model) -> None:
        touched = {key for key in KEYS if before.entries.get(key) != self.model.entries.get(key)}
        named = set(KEYS) if isinstance(command, ClearAll | ClearPrefix) else set(command.named_keys())
        self.pending.append(Pending(sequence, touched, named | touched, self.model.copy()))

    def _shown(self, command: Command, sets: list[set[bytes]]) -> int:
        """The newest pending sequence of those whose keys, given one by one, the command's reply shows."""
        if command.spec.scope is Scope.NOTHING:
            return 0
        keys = set(KEYS) if command.spec.scope is Scope.TABLE else set(command.named_keys())
        sequences = [pending.sequence for pending, names in zip(self.pending, sets, strict=True) if names & keys]
        return max(sequences, default=0)

    def _commit(self, count: int) -> None:
        for pending in self.pending[:count]:
            self.last_committed = pending.sequence
            self.safe = pending.after
        del self.pending[:count]
        self.storage.commit(count)


TestLateStoreMachine = LateStoreMachine.TestCase
TestLateStoreMachine.settings = settings(max_examples=3 * settings().max_examples)
