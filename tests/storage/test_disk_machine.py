"""Any commands, transactions and restarts: a durable store equals an in-memory store with the same commands."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from cairnkv.commands import ClearAll, Command, Failure, Get, Step
from cairnkv.store import LocalStore, PendingRead, WhenFull
from cairnkv.store.local import TIME_AHEAD_MS
from cairnkv.testing import ManualClock
from tests.storage.test_disk import OnDisk
from tests.store.test_late_machine import APPLIED, KINDS
from tests.support.model import same
from tests.support.strategies import commands

pytestmark = pytest.mark.usefixtures("path_in_use")

DATABASES = st.integers(0, 2)
WRITES = commands([command for command in APPLIED if command.spec.writes], KINDS)


LIMIT = 1_000_000


class DiskMachine(RuleBasedStateMachine):
    memory_limit: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.clock = ManualClock()
        self.set_back = 0
        self.disk = self.opened()
        self.memory = LocalStore(clock=self.clock)

    def opened(self) -> OnDisk:
        return OnDisk(self.directory / "data", clock=self.clock, sync="none", memory_limit=self.memory_limit)

    @rule(command=WRITES, db=DATABASES)
    def write(self, command: Command, db: int) -> None:
        assert self.disk.reply(self.disk.store.execute(command, db)) == self.memory.execute(command, db)

    @rule(steps=st.lists(st.builds(Step, DATABASES, WRITES | st.just(ClearAll())), max_size=5))
    def transact(self, steps: list[Step]) -> None:
        assert self.disk.reply(self.disk.store.execute_all(steps)) == self.memory.execute_all(steps)

    @rule(pairs=st.integers(0, 2_000))
    def wait(self, pairs: int) -> None:
        """Advance the clock by pairs of milliseconds: at half speed, a restart loses half a millisecond of others."""
        self.clock.advance(2 * pairs / 1_000)

    @rule()
    def housekeep(self) -> None:
        self.disk.store.housekeep()

    @rule(back=st.booleans())
    def restart(self, back: bool) -> None:
        self.memory.housekeep()  # the same log time on both sides
        self.disk.store.housekeep()
        self.disk.store.close()
        if back:
            self.clock.advance(-1)
            self.set_back += 1
        self.disk = self.opened()
        for database in self.disk.store.databases:
            database.check()

    @invariant()
    def they_hold_the_same(self) -> None:
        self.memory.housekeep()
        self.disk.store.housekeep()
        for one, other in zip(self.disk.store.databases[:4], self.memory.databases, strict=False):
            keys = set(one.slice(0, 1_000, b"")[1])
            assert keys == set(other.slice(0, 1_000, b"")[1])
            self.bring_in(one.number, keys)
            assert {key: one.entry(key) for key in keys} == {key: other.entry(key) for key in keys}

    def bring_in(self, db: int, keys: set[bytes]) -> None:
        """Have the values of these in memory."""

    def teardown(self) -> None:
        self.disk.store.close()
        shutil.rmtree(self.directory)


DiskMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def test_durable_store_equals_an_in_memory_store() -> None:
    run_state_machine_as_test(DiskMachine)


class CachedMachine(DiskMachine):
    """Also with evicted values, values that are read ahead, and commits that fail."""

    memory_limit = LIMIT

    @rule()
    def cool(self) -> None:
        self.disk.store.limit_memory(1, WhenFull.REFUSE)
        self.disk.store.housekeep()
        self.disk.store.limit_memory(LIMIT, WhenFull.REFUSE)

    @rule(command=commands(APPLIED, KINDS), db=DATABASES)
    def read_ahead(self, command: Command, db: int) -> None:
        self.disk.store.read_ahead(Step(db, command))

    @rule(command=commands(APPLIED, KINDS), db=DATABASES)
    def read(self, command: Command, db: int) -> None:
        reply = self.disk.reply(self.disk.store.execute(command, db))
        assert same(command, reply, self.disk.reply(self.memory.execute(command, db)))

    @rule(said=st.lists(st.tuples(commands(APPLIED, KINDS), DATABASES), max_size=6))
    def say_at_once(self, said: list[tuple[Command, int]]) -> None:
        """A client says several, none before the one before it was carried out; commits take their time."""
        outcomes = []
        for command, db in said:
            outcome = self.disk.store.execute(command, db)
            while isinstance(outcome, PendingRead) and not outcome.executed:
                self.disk.step()
            outcomes.append((command, outcome, self.memory.execute(command, db)))
        for command, outcome, expected in outcomes:
            assert same(command, self.disk.reply(outcome), self.disk.reply(expected))

    @rule(said=st.lists(st.tuples(WRITES | st.just(ClearAll()), DATABASES), max_size=6), cool=st.booleans())
    def say_what_fails(self, said: list[tuple[Command, int]], cool: bool) -> None:
        """Nothing of it is there afterwards, once the store was opened anew."""
        self.disk.engine.fail = "before"
        outcomes = [self.disk.store.execute(command, db) for command, db in said]
        for outcome in outcomes:
            self.disk.reply(outcome)
        if cool:
            self.cool()
        for database in self.disk.store.databases:
            database.check()
        self.disk.store.close()
        self.disk = self.opened()
        # After a crash keys may expire early by twice the time noted ahead. A clock that was set back delays log time,
        # which a crash forgets while no key has an expiry: twice that time later both stores follow the clock again.
        self.clock.advance(2 * TIME_AHEAD_MS / 1_000 + 2 * self.set_back)
        self.set_back = 0

    def bring_in(self, db: int, keys: set[bytes]) -> None:
        for key in keys:
            reply = self.disk.reply(self.disk.store.execute(Get(key), db))
            assert not isinstance(reply, Failure)


CachedMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_store_with_cold_values_equals_an_in_memory_store() -> None:
    run_state_machine_as_test(CachedMachine)
