"""Scripts among single commands, partial commits, refusals, failures and pauses, compared with two plain models."""

from collections.abc import Callable
from typing import TypeAlias

from hypothesis import strategies as st
from hypothesis.stateful import rule

from cairnkv.commands import OK, Command, Failure, Get, Reply, Set, Step, failures
from cairnkv.store import Execute, PendingReply, Script
from cairnkv.store.script import HELD
from tests.store.test_late_machine import APPLIED, KEYS, KINDS, ONLY_SLICE, LateStoreMachine, Pending, Waiting
from tests.store.test_scripts import Stop
from tests.support.model import Model, same
from tests.support.strategies import commands

Line: TypeAlias = tuple[Command, tuple[bytes, bytes] | None]
"""A command of a script, and its condition: a key and its value, or None."""

LINES = st.lists(
    st.tuples(
        commands(APPLIED, KINDS),
        st.none() | st.tuples(st.sampled_from(KEYS), st.sampled_from([b"", b"1", b"2", b"x"])),
    ),
    max_size=6,
)


class Lines(Script):
    """A script of lines. before: called with the number of each line, before its execution."""

    def __init__(self, lines: list[Line], *, raises: bool, before: Callable[[int], object] = lambda _: None) -> None:
        self._lines = lines
        self._before = before
        self._raises = raises
        self.executed: list[tuple[Command, Reply]] = []
        """The commands that the newest run has executed, with their replies."""

    def run(self, execute: Execute) -> Reply:
        self.executed = []
        for number, (command, condition) in enumerate(self._lines):
            self._before(number)
            if condition is not None:
                read = Get(condition[0])
                self.executed.append((read, execute(Step(0, read))))
                if self.executed[-1][1] != condition[1]:
                    continue
            self.executed.append((command, execute(Step(0, command))))
        if self._raises:
            raise Stop
        return OK


class ScriptMachine(LateStoreMachine):
    """The same with scripts, of which some pause the store."""

    def __init__(self) -> None:
        super().__init__()
        self.store.deliver_by(lambda call: call())

    @rule(
        lines=LINES,
        ends=st.sampled_from(["well", "well", "with an exception", "refused by storage"]),
        step=st.integers(0, 300) | st.just(2_500),
        pause=st.none() | st.integers(0, 5),
        meanwhile=st.lists(st.sampled_from(["commit", "fail", "ask", "time"]), max_size=3),
    )
    def run_script(self, lines: list[Line], ends: str, step: int, pause: int | None, meanwhile: list[str]) -> None:
        self.clock.advance(step)
        self.storage.refusal = "full" if ends == "refused by storage" else None
        paused = False

        def before(number: int) -> None:
            nonlocal paused
            if number == pause:
                paused = True
                self.store.hold()
                for event in meanwhile:
                    self._meanwhile(event)

        script = Lines(lines, before=before, raises=ends == "with an exception")
        now, logged, begin = self.clock.now, len(self.storage.pending), self.model.copy()
        begin.advance(now)
        outcome: Reply | PendingReply | None = None
        try:
            outcome = self.store.execute_script(script)
        except Stop:
            assert ends == "with an exception"
        self.storage.refusal = None
        after, named, touched = begin.copy(), set[bytes](), set[bytes]()
        for command, reply in script.executed:
            state = dict(after.entries)
            expected = after.apply(command, now, seen=ONLY_SLICE)
            assert same(command, reply, expected), (command, reply, expected)
            touched |= {key for key in KEYS if state.get(key) != after.entries.get(key)}
            named |= set(KEYS) if "TABLE" in command.spec.scope.name else set(command.named_keys())
        self._judge(script, outcome, begin, after, named, touched, len(self.storage.pending) > logged, now)
        if paused:
            self.store.release()

    def _judge(
        self,
        script: Lines,
        outcome: Reply | PendingReply | None,
        begin: Model,
        after: Model,
        named: set[bytes],
        touched: set[bytes],
        appended: bool,
        now: int,
    ) -> None:
        """Compare the outcome of a script with the models, before anything else happens."""
        reply = Set(b"any", b"")  # whose reply is the script's
        must = max((self._shown(one, [p.touched for p in self.pending]) for one, _ in script.executed), default=0)
        may = max((self._shown(one, [p.named for p in self.pending]) for one, _ in script.executed), default=0)
        if outcome is None:
            assert not appended
            self.model.advance(now)
        elif isinstance(outcome, Failure):
            assert outcome.code is failures.UNDONE
            assert not appended
            self.model.advance(now)
        elif appended:
            assert isinstance(outcome, PendingReply)
            sequence = self.storage.pending[-1].sequence
            self.model = after
            self.pending.append(Pending(sequence, touched, named | touched, self.model.copy()))
            self.waiting.append(Waiting(reply, outcome, OK, sequence, sequence, writes=True))
        else:
            assert after.entries == begin.entries, "a change that is no entry"
            self.model.advance(now)
            if isinstance(outcome, PendingReply):
                assert may
                self.waiting.append(Waiting(reply, outcome, OK, must, may, writes=False))
            else:
                assert outcome is OK
                assert not must

    def _meanwhile(self, event: str) -> None:
        match event:
            case "commit":
                self.storage.deliver(lambda: self.commit_some(2))
            case "fail":
                self.storage.deliver(lambda: self.fail(True))
            case "ask":
                assert self.store.execute(Get(b"a")) == HELD
                assert not self.store.housekeep()
            case _:
                self.clock.advance(500)


TestScriptMachine = ScriptMachine.TestCase
