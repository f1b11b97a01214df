"""The queues of the engine, compared with a list that is scanned in full."""

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cairnkv.commands import Command, Failure, QueueStats
from cairnkv.engine import Journal, QueueDatabase, Shared, apply, discard, undo
from tests.support.queue_model import QueueModel, same
from tests.support.queue_strategies import ANY, QUEUES, SETTINGS, START, STEPS, USUAL, about_messages


class QueueMachine(RuleBasedStateMachine):
    """One database of queues, and the model."""

    def __init__(self) -> None:
        super().__init__()
        self.database = QueueDatabase()
        self.model = QueueModel()
        self.clock = START

    def _tell(self, command: Command) -> None:
        reply, expected = apply(self.database, command, self.clock), self.model.apply(command, self.clock)
        assert same(reply, expected), f"{command}: {reply!r} instead of {expected!r}"

    @initialize(changes=st.lists(SETTINGS, max_size=2))
    def set_up(self, changes: list[Command]) -> None:
        for command in changes:
            self._tell(command)

    @rule(command=USUAL, step=STEPS)
    def say(self, command: Command, step: int) -> None:
        self.clock += step
        self._tell(command)

    @rule(commands=st.lists(USUAL, min_size=2, max_size=6))
    def say_much(self, commands: list[Command]) -> None:
        for command in commands:
            self._tell(command)

    @rule(command=ANY | SETTINGS)
    def say_anything(self, command: Command) -> None:
        self._tell(command)

    @precondition(lambda self: self.model.messages)
    @rule(data=st.data(), step=STEPS)
    def say_about_messages(self, data: st.DataObject, step: int) -> None:
        self.clock += step
        self._tell(data.draw(about_messages(self.model)))

    @rule(step=STEPS)
    def wait(self, step: int) -> None:
        self.clock += step

    @rule(data=st.data(), count=st.integers(1, 5))
    def change_and_undo(self, data: st.DataObject, count: int) -> None:
        """Several commands, undone newest first. Time goes on."""
        kept = self.model.copy()
        journals: list[Journal] = []
        for _ in range(count):
            command = data.draw(about_messages(self.model) | USUAL if self.model.messages else USUAL)
            journal: Journal = []
            self.database.shared.journal = journal
            self._tell(command)
            self.database.shared.journal = None
            journals.append(journal)
        for journal in reversed(journals):
            undo(journal)
        self.model = kept

    @rule(command=USUAL)
    def fail_changes_nothing(self, command: Command) -> None:
        journal: Journal = []
        self.database.shared.journal = journal
        reply, expected = apply(self.database, command, self.clock), self.model.apply(command, self.clock)
        self.database.shared.journal = None
        discard(journal)
        assert same(reply, expected)
        if isinstance(reply, Failure):
            assert not journal, f"{command} failed and has changed {journal}"

    @rule(chance=st.randoms(use_true_random=False))
    def rebuild_from_records(self, chance: object) -> None:
        """Load the records in any order, as another node does from a snapshot."""
        entries = list(self.database._table)
        chance.shuffle(entries)  # type: ignore[attr-defined]
        loaded = QueueDatabase()
        loaded.advance(self.database.now)
        for key, value, expiry in entries:
            if expiry is None or expiry > loaded.now:
                loaded.load(key, value, expiry)
        self.database = QueueDatabase(Shared())
        self.database.take_over(loaded)
        self.database.advance(loaded.now)

    @rule()
    def keep_house(self) -> None:
        for key in self.database.expired(100):
            self.database.free_expired(key)

    @invariant()
    def the_index_follows_from_the_records(self) -> None:
        self.database.check()

    @invariant()
    def counts_are_exact(self) -> None:
        for name in QUEUES:
            command = QueueStats(name)
            reply, expected = apply(self.database, command, self.clock), self.model.apply(command, self.clock)
            note(f"{name!r} has {len(self.model.of(name, b'ready'))} ready messages")
            assert same(reply, expected), f"{reply!r} instead of {expected!r}"


QueueMachine.TestCase.settings = settings(max_examples=3 * settings().max_examples, stateful_step_count=40)


@pytest.mark.usefixtures("path_in_use")
def test_queues_equal_the_model() -> None:
    run_state_machine_as_test(QueueMachine)
