"""Scripts on a durable store: cold values, a disk that fails, and reports of the disk while the store is held."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import (
    MISSING,
    OK,
    Append,
    ClearAll,
    Command,
    Failure,
    Get,
    Incr,
    Items,
    Reply,
    Set,
    Step,
    failures,
)
from cairnkv.session.context import ServerContext
from cairnkv.store import RUN_ANEW, PendingRead, PendingReply, Script, WhenFull, value_cache
from cairnkv.store.script import HELD
from cairnkv.store.value_cache import RESERVED_MS
from cairnkv.testing import ManualClock
from tests.storage.test_value_cache import LIMIT, Chatting, Cooled, Listening
from tests.store.test_late_machine import APPLIED, KEYS, KINDS, ONLY_SLICE
from tests.store.test_scripts import Pausing, Program, Stop, listed
from tests.store.test_scripts_machine import LINES, Line, Lines
from tests.support.model import Model, same
from tests.support.strategies import commands


class Scripted(Cooled):
    """A store that can evict all of its values from memory, and runs scripts until they have ended."""

    def __init__(self, directory: Path) -> None:
        self.clock = ManualClock()
        super().__init__(directory, clock=self.clock)

    def script(self, script: Script) -> Reply:
        while (reply := self.reply(self.store.execute_script(script))) is RUN_ANEW:
            pass
        return reply

    def values(self, **values: bytes) -> None:
        """Set values that are cold afterwards."""
        for key, value in values.items():
            self.do(Set(key.encode(), value))
        self.cool_all()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Scripted]:
    with Scripted(tmp_path / "data") as opened:
        yield opened
        for database in opened.store.databases:
            database.check()


def joined(*keys: bytes) -> Program:
    """Return a script that counts its runs in a key, and sets `joined` to the values of keys, one after another."""

    def body(call: Callable[[Command], Reply]) -> Reply:
        call(Incr(b"runs", 1))
        for key in keys:
            value = call(Get(key))
            assert isinstance(value, bytes)
            call(Append(b"joined", value))
        return OK

    return Program(body)


# -- cold values -------------------------------------------------------------------------------------------------------


def test_script_that_needs_a_cold_value_is_undone_and_runs_anew(disk: Scripted) -> None:
    disk.values(a=b"1", b=b"2")
    script = joined(b"a", b"b")
    assert disk.script(script) is OK
    assert script.runs == 3
    assert (disk.do(Get(b"runs")), disk.do(Get(b"joined"))) == (b"1", b"12")


def test_values_of_named_keys_are_read_together(disk: Scripted) -> None:
    disk.values(a=b"1", b=b"2", c=b"3")
    script = joined(b"a", b"b", b"c")
    script.places = [(0, b"c"), (0, b"b"), (0, b"absent"), (3, b"a")]
    assert disk.script(script) is OK
    assert script.runs == 2
    assert disk.do(Get(b"joined")) == b"123"


def test_values_stay_in_memory_until_the_script_runs_anew(disk: Scripted) -> None:
    disk.values(a=b"a" * (LIMIT // 3), b=b"b" * (LIMIT // 3))
    script = joined(b"a", b"b")
    for runs in (1, 2):
        assert disk.reply(disk.store.execute_script(script)) is RUN_ANEW
        assert script.runs == runs
        for number in range(200):
            disk.do(Set(b"%d" % number, bytes(1_000)))
    assert disk.script(script) is OK
    assert script.runs == 3
    for number in range(200):
        disk.do(Set(b"%d" % number, bytes(1_000)))
    assert not disk.store.database.in_memory(b"a")
    assert not disk.store.database.in_memory(b"b")


def test_values_for_a_script_that_does_not_run_anew_leave_memory(disk: Scripted) -> None:
    disk.values(a=b"a" * (LIMIT // 3))
    assert disk.reply(disk.store.execute_script(joined(b"a"))) is RUN_ANEW
    for late in (False, True):
        disk.store.housekeep()
        for number in range(200):
            disk.do(Set(b"%d" % number, bytes(1_000)))
        assert disk.store.database.in_memory(b"a") is not late
        disk.clock.advance(RESERVED_MS + 1)


def test_values_for_many_scripts_are_bounded(disk: Scripted) -> None:
    disk.values(a=b"a" * (LIMIT // 3), b=b"b" * (LIMIT // 3), c=b"c" * (LIMIT // 3))
    scripts = [joined(b"a"), joined(b"b"), joined(b"c")]
    for script in scripts:
        assert disk.reply(disk.store.execute_script(script)) is RUN_ANEW
    disk.do(Set(b"more", bytes(1_000)))
    assert disk.store.memory.used_bytes <= LIMIT
    for script in scripts:
        assert disk.script(script) is OK
    assert disk.do(Get(b"runs")) == b"3"


def test_values_that_do_not_fit_in_memory_together_are_refused(disk: Scripted) -> None:
    disk.values(a=b"a" * (LIMIT // 2), b=b"b" * (LIMIT // 2), c=b"c" * (LIMIT // 2))
    reply = disk.script(joined(b"a", b"b", b"c"))
    assert isinstance(reply, Failure)
    assert reply.code is failures.BIGREPLY
    assert disk.do(Get(b"runs")) != b"1"


def test_number_of_runs_for_cold_values_is_bounded(disk: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_cache, "SCRIPT_READS_MAX", 2)
    disk.values(a=b"1", b=b"2", c=b"3")
    assert disk.script(joined(b"a", b"b")) is OK
    disk.cool_all()
    reply = disk.script(joined(b"a", b"b", b"c"))
    assert isinstance(reply, Failure)
    assert reply.code is failures.UNDONE
    assert "KEYS" in reply.text


def test_unreadable_value_fails_the_script(disk: Scripted) -> None:
    disk.values(a=b"1")
    disk.engine.fail_read = True
    reply = disk.script(joined(b"a"))
    assert isinstance(reply, Failure)
    assert reply.code is failures.UNREADABLE
    disk.engine.fail_read = False
    assert disk.script(joined(b"a")) is OK
    assert disk.do(Get(b"runs")) == b"1"


@pytest.mark.parametrize("as_script", [False, True])
def test_values_that_an_entry_has_changed_stay_in_memory_till_its_end(
    disk: Scripted, monkeypatch: pytest.MonkeyPatch, as_script: bool
) -> None:
    """Only memory has them. A deleted table is garbage, so that its memory is freed between the writes. Uncommitted
    values of other keys may exceed the limit.
    """
    monkeypatch.setattr("cairnkv.engine.database.FREE_BUCKETS", 0)
    disk.do(Set(b"garbage", b"v"), db=1)
    disk.do(Set(b"a", b"old" * 1_000))
    disk.do(Set(b"b", b"old" * 1_000))
    disk.do(ClearAll(), db=1)
    disk.engine.gate.clear()
    for number in range(7):
        disk.store.execute(Set(b"uncommitted %d" % number, bytes(10_000)))
    assert disk.store.memory.garbage_bytes
    assert disk.store.database.in_memory(b"a")
    commands = [Set(b"a", b"new" * 10_000), Set(b"b", b"new" * 10_000), Set(b"c", b"new" * 10_000), Get(b"a")]
    if as_script:
        outcome = disk.store.execute_script(listed(*commands))
    else:
        outcome = disk.store.execute_all([Step(0, command) for command in commands])
    disk.engine.gate.set()
    reply = disk.reply(outcome)
    assert (reply if as_script else reply.values[-1]) == b"new" * 10_000  # type: ignore[union-attr]
    disk.cool_all()
    assert disk.do(Get(b"a")) == disk.do(Get(b"b")) == b"new" * 10_000


@given(
    before=st.lists(commands([command for command in APPLIED if command.spec.writes], KINDS), max_size=6),
    rounds=st.lists(st.lists(st.tuples(LINES, st.booleans()), min_size=1, max_size=3), min_size=1, max_size=3),
)
def test_scripts_on_cold_values_equal_the_model(
    before: list[Command], rounds: list[list[tuple[list[Line], bool]]]
) -> None:
    """Several scripts wait at once. Each takes effect at the moment at which its last run ends."""
    with TemporaryDirectory() as directory, Scripted(Path(directory)) as disk:
        model, now = Model(), disk.clock()
        for command in before:
            assert same(command, disk.do(command), model.apply(command, now, seen=ONLY_SLICE))
        for scripts in rounds:
            disk.store.limit_memory(1, WhenFull.REFUSE)
            disk.store.housekeep()
            disk.store.limit_memory(LIMIT, WhenFull.REFUSE)
            waiting = [(Lines(lines, raises=raises), raises) for lines, raises in scripts]
            replies: list[PendingReply] = []
            while waiting:
                script, raises = waiting.pop(0)
                reads = isinstance(script.state, PendingRead) and not script.state.executed
                if reads:
                    disk.step()
                    waiting.append((script, raises))
                    continue
                try:
                    outcome = disk.store.execute_script(script)
                except Stop:
                    assert raises
                    continue
                if outcome is RUN_ANEW or (isinstance(outcome, PendingReply) and not outcome.executed):
                    waiting.append((script, raises))
                    continue
                assert not raises
                for command, reply in script.executed:
                    assert same(command, reply, model.apply(command, now, seen=ONLY_SLICE))
                replies += [outcome] if isinstance(outcome, PendingReply) else []
            assert [disk.reply(reply) for reply in replies] == [OK] * len(replies)
            for key in KEYS:
                value = model.entries.get(key, (MISSING, None))[0]
                assert disk.do(Get(key)) == value
            disk.store.database.check()


# -- in the Redis protocol ---------------------------------------------------------------------------------------------

BOTH = "return{redis.call('GET',KEYS[1]),redis.call('GET',KEYS[2])}"


def test_scripts_with_cold_values_keep_their_order_among_commands(disk: Scripted) -> None:
    pytest.importorskip("lupa")
    disk.values(a=b"1", b=b"2", c=b"3", d=b"4")
    said = Chatting(disk).say(
        "PING",
        f"EVAL redis.call('APPEND',KEYS[1],'x'){BOTH} 2 a b",
        "GET a",
        f"EVAL_RO {BOTH} 2 c d",
        "SET c later",
        f"EVAL {BOTH} 2 c none",
    )
    assert said == ["PONG", [b"1x", b"2"], b"1x", [b"3", b"4"], "OK", [b"later", None]]
    assert len(disk.engine.read_keys) == 4, "each value is read once, those of one script together"


def test_script_in_a_transaction_needs_a_cold_value(disk: Scripted) -> None:
    pytest.importorskip("lupa")
    disk.values(a=b"1", b=b"2")
    said = Chatting(disk).say("WATCH a", "MULTI", "INCR count", f"EVAL {BOTH} 2 a b", "INCR a", "EXEC", "GET count")
    assert said == ["OK", "OK", "QUEUED", "QUEUED", "QUEUED", [1, [b"1", b"2"], 2], b"1"]


def test_script_that_runs_anew_publishes_its_messages_once(disk: Scripted) -> None:
    pytest.importorskip("lupa")
    disk.values(a=b"1", b=b"2")
    context: ServerContext[Any] = ServerContext(disk.store)
    talking, listening = Listening(disk, context), Listening(disk, context)
    listening.say("SUBSCRIBE news")
    said = talking.say(
        "EVAL redis.call('PUBLISH','news','text')redis.call('APPEND','a','x')return(redis.call('GET','b')) 0"
    )
    assert said == [b"2"]
    assert b"".join(listening.session.output()).count(b"text") == 1
    assert disk.do(Get(b"a")) == b"1x"


# -- while the store is held -------------------------------------------------------------------------------------------


def test_reports_of_the_disk_wait_until_the_store_is_released(disk: Scripted) -> None:
    disk.values(cold=b"v")
    disk.engine.gate.clear()
    write, read = disk.store.execute(Set(b"a", b"1")), disk.store.execute(Get(b"cold"))
    disk.engine.gate.set()

    def meanwhile() -> None:
        assert not disk.store.read_ahead(Step(0, Get(b"cold")))
        disk.step()
        disk.step()
        assert isinstance(write, PendingReply)
        assert isinstance(read, PendingReply)
        assert (write.reply, read.reply) == (None, None)

    outcome = disk.store.execute_script(Pausing(disk.store, meanwhile, Append(b"a", b"2"), Append(b"a", b"3")))
    assert disk.store.execute(Get(b"a")) == HELD
    disk.store.release()
    assert isinstance(write, PendingReply)
    assert isinstance(read, PendingReply)
    assert (write.reply, read.reply) == (OK, b"v")
    assert disk.reply(outcome) == 3
    assert disk.do(Get(b"a")) == b"123"


def test_memory_limit_can_be_lowered_while_the_store_is_held(disk: Scripted) -> None:
    disk.do(Set(b"a", b"old"))
    script = Pausing(disk.store, lambda: disk.store.limit_memory(1, WhenFull.REFUSE), Set(b"a", b"new"), Get(b"a"))
    outcome = disk.store.execute_script(script)
    disk.store.release()
    assert disk.reply(outcome) == b"new"
    disk.store.housekeep()
    assert not disk.store.database.in_memory(b"a")
    assert disk.do(Get(b"a")) == b"new"


def test_script_that_pauses_and_then_needs_a_cold_value_is_undone(disk: Scripted) -> None:
    disk.values(a=b"1", b=b"2")
    seen: list[object] = []

    def meanwhile() -> None:
        seen.append(disk.store.execute(Get(b"written")))

    commands = [Set(b"written", b"1"), Set(b"written", b"2"), Append(b"a", b"!")]
    outcome = disk.store.execute_script(Pausing(disk.store, meanwhile, *commands))
    assert disk.store.execute(Get(b"written")) == HELD
    disk.store.release()
    assert seen == [HELD]
    assert disk.do(Get(b"written")) is MISSING
    assert disk.reply(outcome) is RUN_ANEW
    assert disk.script(listed(*commands)) == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_disk_that_fails_while_the_store_is_held_undoes_the_script(disk: Scripted, when: str) -> None:
    disk.do(Set(b"a", b"0"))
    disk.engine.fail = when
    disk.engine.gate.clear()
    write = disk.store.execute(Append(b"a", b"1"))

    def meanwhile() -> None:
        disk.engine.gate.set()
        disk.step()
        assert isinstance(write, PendingReply)
        assert write.reply is None

    refused = disk.store.execute_script(Pausing(disk.store, meanwhile, Append(b"a", b"2"), Append(b"b", b"3")))
    assert isinstance(refused, Failure)
    assert refused.code is failures.RECOVERING
    disk.store.release()
    failed = disk.reply(write)
    assert isinstance(failed, Failure)
    assert failed.code is failures.UNKNOWN
    unresolved = disk.script(listed(Get(b"c"), Get(b"a")))
    assert isinstance(unresolved, Failure)
    assert unresolved.code is failures.RECOVERING
    disk.recover()
    expected = b"0" if when == "before" else b"01"
    assert disk.do(Get(b"a")) == expected
    assert disk.script(listed(Append(b"a", b"4"))) == len(expected) + 1
    assert disk.do(Get(b"b")) is MISSING


def test_script_is_whole_after_a_restart(disk: Scripted, tmp_path: Path) -> None:
    disk.script(listed(Set(b"a", b"1"), Set(b"b", b"2"), Append(b"a", b"3")))
    disk.store.close()
    with Scripted(tmp_path / "data") as again:
        assert [again.do(Get(key)) for key in (b"a", b"b")] == [b"13", b"2"]
        assert isinstance(again.store.reports.reply(), Items)
