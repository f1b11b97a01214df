"""A disk that fails and recovers: unknown outcomes are resolved, and shown to no client before."""

import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from cairnkv.commands import (
    MISSING,
    OK,
    ClearAll,
    Command,
    Count,
    Failure,
    Get,
    Ping,
    Reply,
    Set,
    SetMany,
    SetManyIfAbsent,
    SetWith,
    Step,
    failures,
)
from cairnkv.commands.failures import Code
from cairnkv.storage import writer
from cairnkv.storage.disk import DiskStorage
from cairnkv.storage.record_format import PART, PART_BYTES
from cairnkv.storage.rocksdb import open_rocksdb
from cairnkv.storage.space import Space
from cairnkv.store import LocalStore, PendingReply
from cairnkv.testing import ManualClock
from tests.storage.test_disk import PATIENCE, Faulty, OnDisk
from tests.storage.test_disk_machine import DATABASES, WRITES
from tests.support.raw import eventually
from tests.support.watching import watch

pytestmark = pytest.mark.usefixtures("path_in_use")


def code_of(reply: Reply | PendingReply) -> Code:
    assert isinstance(reply, Failure), reply
    return reply.code


@pytest.fixture(autouse=True)
def _opened_anew_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "REOPEN_FIRST_SECONDS", 0.002)


def fail(disk: OnDisk, when: str, *commands: Command) -> None:
    """Have these fail in one commit, and the directory not be opened anew."""
    disk.unopenable = "not yet"
    disk.engine.gate.clear()
    disk.engine.at_gate.clear()
    held = [disk.store.execute_all([Step(0, command) for command in commands])]
    disk.engine.fail = when
    disk.engine.gate.set()
    for outcome in held:
        assert code_of(disk.reply(outcome)) is failures.UNKNOWN


@pytest.mark.parametrize("when", ["before", "after"])
def test_unknown_write_is_not_shown_before_it_is_resolved(tmp_path: Path, when: str) -> None:
    with OnDisk(tmp_path / "data") as disk:
        disk.reply(disk.store.execute(SetMany(0, ((b"a", b"old"), (b"other", b"1")))))
        fail(disk, when, Set(b"a", b"new"))
        watched = watch(disk.store, b"a")
        assert code_of(disk.store.execute(Get(b"a"))) is failures.RECOVERING
        unless_there = SetManyIfAbsent(((b"a", b"x"),))
        assert code_of(disk.store.execute(unless_there)) is failures.RECOVERING, "its reply would show it"
        assert code_of(disk.store.execute(Count())) is failures.RECOVERING
        assert code_of(disk.store.execute_all([Step(0, Get(b"other")), Step(0, Get(b"a"))])) is failures.RECOVERING
        assert code_of(disk.store.execute_all([Step(0, Get(b"other"))], [watched])) is failures.RECOVERING
        assert disk.store.execute(Get(b"other")) == b"1"
        assert disk.store.execute(Get(b"a"), 1) is MISSING
        assert disk.store.execute(Ping(b"")) == b"PONG"
        assert disk.state == "recovering"
        disk.unopenable = None
        disk.recover()
        now = disk.store.execute(Get(b"a"))
        assert now == (b"old" if when == "before" else b"new")
        assert disk.store.database.is_unchanged(watched[1]) == (when == "before")
        assert disk.reply(disk.store.execute(Set(b"b", b"1"))) == OK
        assert disk.state == "ok"
    with OnDisk(tmp_path / "data") as disk:
        assert disk.store.execute(Get(b"a")) == now
        assert disk.store.execute(Get(b"b")) == b"1"


@pytest.mark.parametrize("when", ["before", "after"])
def test_database_with_an_unknown_clear_is_unknown_as_a_whole(tmp_path: Path, when: str) -> None:
    with OnDisk(tmp_path / "data") as disk:
        disk.reply(disk.store.execute(SetMany(0, ((b"a", b"1"), (b"b", b"2")))))
        fail(disk, when, ClearAll(), Set(b"c", b"3"))
        assert {code_of(disk.store.execute(Get(key))) for key in (b"a", b"b", b"z")} == {failures.RECOVERING}
        assert disk.store.execute(Get(b"a"), 1) is MISSING
        disk.unopenable = None
        disk.recover()
        assert disk.store.execute(Count()) == (2 if when == "before" else 1)
        assert disk.store.execute(Get(b"c")) == (MISSING if when == "before" else b"3")
        disk.store.database.check()
    with OnDisk(tmp_path / "data") as disk:
        assert disk.store.execute(Count()) == (2 if when == "before" else 1)


def test_ttl_of_an_unknown_write_counts_once_it_is_resolved(tmp_path: Path) -> None:
    clock = ManualClock()
    with OnDisk(tmp_path / "data", clock=clock) as disk:
        fail(disk, "after", SetWith(b"a", b"1", ttl=5_000), SetWith(b"b", b"1", ttl=60_000))
        clock.advance(10)
        disk.unopenable = None
        disk.recover()
        assert disk.reply(disk.store.execute(Get(b"a"))) is MISSING
        assert disk.reply(disk.store.execute(Get(b"b"))) == b"1"
        clock.advance(60)
        assert disk.reply(disk.store.execute(Get(b"b"))) is MISSING


@pytest.mark.parametrize("when", ["before", "after"])
def test_long_values_of_a_failed_write_are_whole_or_leave_nothing(tmp_path: Path, when: str) -> None:
    long, longer = bytes(PART_BYTES + 1), bytes(2 * PART_BYTES + 1)
    with OnDisk(tmp_path / "data") as disk:
        disk.reply(disk.store.execute(Set(b"a", long)))
        disk.engine.fail = when  # which is at the first part: the entry itself is not there in either case
        disk.unopenable = "not yet"
        assert code_of(disk.reply(disk.store.execute(Set(b"a", longer)))) is failures.UNKNOWN
        disk.unopenable = None
        disk.recover()
        assert disk.store.execute(Get(b"a")) == long
        disk.reply(disk.store.execute(Set(b"b", longer)))
        disk.reply(disk.store.execute(Set(b"a", b"short")))
    engine = open_rocksdb(tmp_path / "data")
    assert len([key for key, _ in engine.items() if key[0] == PART]) == 3
    engine.close()
    with OnDisk(tmp_path / "data") as disk:
        assert disk.store.database.get(b"a") == b"short"
        assert disk.store.database.get(b"b") == longer


def test_failed_fsync_is_not_repeated(tmp_path: Path) -> None:
    with OnDisk(tmp_path / "data") as disk:
        failing = disk.engine
        failing.fail_sync = True
        assert code_of(disk.reply(disk.store.execute(Set(b"a", b"1")))) is failures.UNKNOWN
        disk.recover()
        assert disk.engine is not failing
        assert disk.store.execute(Get(b"a")) == b"1", "it was written, and the directory was opened with it"


def test_store_recovers_from_repeated_disk_failures(tmp_path: Path) -> None:
    with OnDisk(tmp_path / "data") as disk:
        for number in range(3):
            disk.engine.fail = "before"
            assert code_of(disk.reply(disk.store.execute(Set(b"a", b"x")))) is failures.UNKNOWN
            disk.recover()
            assert disk.reply(disk.store.execute(Set(b"b", b"%d" % number))) == OK
        assert dict(disk.store.info())["disk_failures"] == 3


def test_store_that_waits_for_its_disk_can_be_closed(tmp_path: Path) -> None:
    with OnDisk(tmp_path / "data") as disk:
        disk.reply(disk.store.execute(Set(b"a", b"1")))
        fail(disk, "before", Set(b"a", b"2"))
        begin = time.monotonic()
    assert time.monotonic() - begin < PATIENCE / 4
    with OnDisk(tmp_path / "data") as disk:
        assert disk.store.execute(Get(b"a")) == b"1"


def test_store_is_read_only_after_a_lost_confirmed_write(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with OnDisk(tmp_path / "data") as disk:
        disk.reply(disk.store.execute(Set(b"a", b"1")))
        shutil.copytree(tmp_path / "data", image)
        disk.reply(disk.store.execute(Set(b"a", b"2")))

        def lose() -> None:
            shutil.rmtree(tmp_path / "data")
            shutil.copytree(image, tmp_path / "data")

        disk.on_opening = lose
        disk.engine.fail = "before"
        assert code_of(disk.reply(disk.store.execute(Set(b"a", b"3")))) is failures.UNKNOWN
        while disk.store.execute(Get(b"a")) != b"2":
            disk.step()
        assert disk.state == "broken"
        assert code_of(disk.store.execute(Set(b"b", b"1"))) is failures.READONLY


def test_log_time_is_written_only_if_a_reply_shows_it(tmp_path: Path) -> None:
    clock = ManualClock()
    with OnDisk(tmp_path / "data", clock=clock) as disk:
        disk.reply(disk.store.execute(SetWith(b"a", b"1", ttl=60_000)))
        position = dict(disk.store.info())["log_position"]
        for _ in range(30):
            clock.advance(1)
            disk.store.housekeep()
        assert dict(disk.store.info())["log_position"] == position
        assert isinstance(disk.store.execute(Get(b"a")), PendingReply), "now somebody is told of the time"


class FaultyMachine(RuleBasedStateMachine):
    """Writes of any kind on a disk that fails at times: memory equals the disk after each failure."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.clock = ManualClock()
        self.disk = self.opened()
        self.failing = False

    def opened(self) -> OnDisk:
        return OnDisk(self.directory / "data", clock=self.clock, sync="none")

    @rule(command=WRITES, db=DATABASES)
    def write(self, command: Command, db: int) -> None:
        self.disk.reply(self.disk.store.execute(command, db))

    @precondition(lambda self: not self.failing)
    @rule(when=st.sampled_from(["before", "after"]), seconds=st.integers(0, 3))
    def be_about_to_fail(self, when: str, seconds: int) -> None:
        self.clock.advance(seconds)
        self.disk.engine.fail = when
        self.failing = True

    @precondition(lambda self: self.failing)
    @rule(steps=st.lists(st.builds(Step, DATABASES, WRITES | st.just(ClearAll())), min_size=1, max_size=5))
    def fail(self, steps: list[Step]) -> None:
        self.disk.reply(self.disk.store.execute_all(steps))
        self.disk.recover()
        self.failing = self.disk.engine.fail is not None  # nothing was changed, so nothing was written

    @precondition(lambda self: not self.failing)
    @rule()
    def start_again(self) -> None:
        held = [dict(self.entries(db)) for db in range(3)]
        self.disk.__exit__()
        self.disk = self.opened()
        assert [dict(self.entries(db)) for db in range(3)] == held

    def entries(self, db: int) -> "list[tuple[bytes, tuple[bytes, int | None] | None]]":
        database = self.disk.store.databases[db]
        database.advance(self.clock())
        return [(key, database.entry(key)) for key in database.slice(0, 1_000, b"")[1]]

    @invariant()
    def it_is_whole(self) -> None:
        for database in self.disk.store.databases[:3]:
            database.check()

    def teardown(self) -> None:
        self.disk.engine.fail = None
        self.disk.__exit__()
        shutil.rmtree(self.directory)


FaultyMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)


def test_memory_equals_a_disk_that_fails() -> None:
    run_state_machine_as_test(FaultyMachine)


def test_second_failure_before_the_first_is_reported_stays_unresolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OnDisk(tmp_path / "data") as disk:
        disk.reply(disk.store.execute(Set(b"a", b"old")))
        fail(disk, "before", Set(b"a", b"new"))
        looks = 0
        look = Space.measure

        def fails_again(db: Space) -> None:
            nonlocal looks
            looks += 1
            if looks == 2:  # the first one is within the recovery, this one behind it
                disk.unopenable = "not again"
                raise OSError("it failed anew")
            look(db)

        monkeypatch.setattr(Space, "measure", fails_again)
        disk.unopenable = None
        eventually(lambda: dict(disk.store.info())["disk_failures"] == 2)
        while disk._functions:  # all that there is to say, the settling of the first failure included
            disk.step()
        assert disk.state == "recovering"
        assert code_of(disk.store.execute(Set(b"b", b"1"))) is failures.RECOVERING
        disk.unopenable = None
        disk.recover()
        assert disk.reply(disk.store.execute(Set(b"b", b"2"))) == OK
        assert disk.store.execute(Get(b"a")) == b"old"


def test_store_closed_before_its_start_keeps_log_time(tmp_path: Path) -> None:
    clock = ManualClock()
    with OnDisk(tmp_path / "data", clock=clock) as disk:
        disk.reply(disk.store.execute(SetWith(b"a", b"1", ttl=500)))
        clock.advance(1)
        disk.reply(disk.store.execute(Get(b"a")))
    store = LocalStore(storage=DiskStorage(tmp_path / "data"), clock=clock, loads_later=True)
    store.load()
    store.close()
    clock.advance(-1)
    with OnDisk(tmp_path / "data", clock=clock) as disk:
        assert disk.store.database.count() == 0


def test_writer_syncs_before_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "UNCHECKED_BYTES", 0)
    with OnDisk(tmp_path / "data", sync="1h") as disk:
        synced = threading.Event()
        is_behind = threading.Event()
        monkeypatch.setattr(Faulty, "sync", lambda engine: synced.set())
        monkeypatch.setattr(Faulty, "behind", property(lambda engine: is_behind.is_set()))
        assert disk.reply(disk.store.execute(Set(b"a", b"1"))) == OK
        assert not synced.is_set()
        is_behind.set()
        waiting = disk.store.execute(Set(b"a", b"2"))
        assert synced.wait(PATIENCE)
        is_behind.clear()
        assert disk.reply(waiting) == OK


def test_second_failure_leaves_no_state_of_the_first(tmp_path: Path) -> None:
    """A store without expiry times has none afterwards, so no log time is recorded or awaited."""
    with OnDisk(tmp_path / "data") as disk:
        for when in ("before", "after"):
            fail(disk, when, Set(b"a", b"1"))
            disk.unopenable = None
            disk.recover()
        position = dict(disk.store.info())["log_position"]
        assert disk.store.execute(Get(b"b")) is MISSING
        assert dict(disk.store.info())["log_position"] == position
