"""Any commands, transactions and restarts: a store on disk holds what one in memory does that was told the same."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cairnkv.commands import ClearAll, Command, Step
from cairnkv.store import Store
from cairnkv.testing import ManualClock
from tests.log.test_disk import OnDisk
from tests.store.test_late_machine import APPLIED, KINDS
from tests.support.strategies import commands

SPACES = st.integers(0, 2)
WRITES = commands([command for command in APPLIED if command.word.writes], KINDS)


class DiskMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.clock = ManualClock()
        self.disk = self.opened()
        self.memory = Store(clock=self.clock)

    def opened(self) -> OnDisk:
        return OnDisk(self.directory / "data", clock=self.clock, sync="none")

    @rule(command=WRITES, space=SPACES)
    def write(self, command: Command, space: int) -> None:
        assert self.disk.reply(self.disk.store.execute(command, space)) == self.memory.execute(command, space)

    @rule(steps=st.lists(st.builds(Step, SPACES, WRITES | st.just(ClearAll())), max_size=5))
    def transact(self, steps: list[Step]) -> None:
        assert self.disk.reply(self.disk.store.execute_all(steps)) == self.memory.execute_all(steps)

    @rule(seconds=st.floats(0, 4))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

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
        self.disk = self.opened()
        for keyspace in self.disk.store.keyspaces:
            keyspace.check()

    @invariant()
    def they_hold_the_same(self) -> None:
        self.memory.housekeep()
        self.disk.store.housekeep()
        for one, other in zip(self.disk.store.keyspaces[:4], self.memory.keyspaces, strict=False):
            keys = set(one.slice(0, 1_000, b"")[1])
            assert keys == set(other.slice(0, 1_000, b"")[1])
            assert {key: one.entry(key) for key in keys} == {key: other.entry(key) for key in keys}

    def teardown(self) -> None:
        self.disk.store.close()
        shutil.rmtree(self.directory)


DiskMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestDiskAgainstMemory = DiskMachine.TestCase
