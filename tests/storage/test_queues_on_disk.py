"""Queues of a durable store: restarts, failed commits, the format, checks, backups, limits of memory and disk."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cairnkv.commands import (
    OK,
    Ack,
    Command,
    Failure,
    Get,
    Items,
    Look,
    Nack,
    Purge,
    Put,
    PutMany,
    QueueSet,
    Reply,
    Set,
    Step,
    Take,
    failures,
)
from cairnkv.engine.queue_records import BODY_INSIDE_MAX, COUNTERS, body_key, message_key, queue_key
from cairnkv.limits import QUEUE_DB
from cairnkv.storage import backup
from cairnkv.storage.check import check_directory
from cairnkv.storage.record_format import FORMAT_KEY, PART_BYTES, part_key, record_key, record_value
from cairnkv.storage.repair import repair
from cairnkv.storage.rocksdb import open_rocksdb
from cairnkv.testing import ManualClock
from tests.storage.test_disk import OnDisk
from tests.storage.test_disk_space import Sized
from tests.support.queue_model import QueueModel, same
from tests.support.queue_strategies import ANY, QUEUES, SETTINGS, STEPS, USUAL, about_messages

pytestmark = pytest.mark.usefixtures("path_in_use")


class QueuesOnDiskMachine(RuleBasedStateMachine):
    """A durable store with restarts and failed commits, and the model."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.clock = ManualClock()
        self.disk = self._opened()
        self.model = QueueModel()

    def _opened(self) -> OnDisk:
        return OnDisk(self.directory / "data", clock=self.clock, sync="none", memory_limit=1_000_000)

    def _tell(self, command: Command) -> None:
        reply = self.disk.reply(self.disk.store.execute(command))
        expected = self.model.apply(command, self.disk.store.database.now)
        assert same(reply, expected), f"{command}: {reply!r} instead of {expected!r}"

    @initialize(changes=st.lists(SETTINGS, max_size=2))
    def set_up(self, changes: list[Command]) -> None:
        for command in changes:
            self._tell(command)

    @rule(commands=st.lists(USUAL | USUAL | ANY, min_size=1, max_size=5), step=STEPS)
    def say(self, commands: list[Command], step: int) -> None:
        self.clock.advance(step / 1_000)
        for command in commands:
            self._tell(command)

    @precondition(lambda self: self.model.messages)
    @rule(data=st.data())
    def say_about_messages(self, data: st.DataObject) -> None:
        self._tell(data.draw(about_messages(self.model)))

    @rule()
    def restart(self) -> None:
        self.disk.store.close()
        self.disk = self._opened()

    @rule(commands=st.lists(USUAL, min_size=1, max_size=4))
    def fail(self, commands: list[Command]) -> None:
        """Commits that fail: nothing of them is there."""
        self.disk.engine.fail = "before"
        outcomes = [self.disk.store.execute(command) for command in commands]
        for outcome in outcomes:
            self.disk.reply(outcome)
        self.disk.recover()
        self.disk.engine.fail = None
        self.model.now = self.disk.store.database.now

    @rule()
    def keep_house(self) -> None:
        while self.disk.store.housekeep():
            pass
        for _ in QUEUES:
            self.disk.store.housekeep()
        self.model.now = self.disk.store.database.now
        for name in self.model.queues:
            if self.model.of(name, None):
                self.model.apply(Purge(name, b"expired", 0), self.model.now)

    @invariant()
    def the_index_follows_from_the_records(self) -> None:
        self.disk.store.queues.check()

    def teardown(self) -> None:
        self.disk.store.close()
        found = check_directory(self.directory / "data")
        assert found.problems == []
        shutil.rmtree(self.directory)


QueuesOnDiskMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)


def test_durable_queues_equal_the_model() -> None:
    run_state_machine_as_test(QueuesOnDiskMachine)


# -- the format --------------------------------------------------------------------------------------------------------


def stored_format(directory: Path) -> bytes | None:
    rocksdb = open_rocksdb(directory)
    try:
        return rocksdb.read([FORMAT_KEY])[0]
    finally:
        rocksdb.close()


def test_format_stays_1_without_queues(tmp_path: Path) -> None:
    with OnDisk(tmp_path / "data") as disk:
        disk.reply(disk.store.execute(Set(b"k", b"v")))
        disk.reply(disk.store.execute(Take(b"q", 1)))
    assert stored_format(tmp_path / "data") == b"1"


def test_first_record_of_a_queue_raises_the_format(tmp_path: Path) -> None:
    with OnDisk(tmp_path / "data") as disk:
        disk.reply(disk.store.execute_all([Step(0, Set(b"k", b"v")), Step(0, Put(b"q", b"one"))]))
        assert disk.engine.read([FORMAT_KEY]) == [b"2"]
        disk.reply(disk.store.execute(Put(b"q", b"two")))
    with OnDisk(tmp_path / "data") as disk:
        assert disk.reply(disk.store.execute(Get(b"k"))) == b"v"
        disk.reply(disk.store.execute(Put(b"q", b"three")))
        assert disk.store.queues.index.messages == 3
    assert stored_format(tmp_path / "data") == b"2"


def test_a_failed_commit_does_not_raise_the_format(tmp_path: Path) -> None:
    with OnDisk(tmp_path / "data") as disk:
        disk.engine.fail = "before"
        assert isinstance(disk.reply(disk.store.execute(Put(b"q", b"one"))), Failure)
        disk.recover()
        assert disk.engine.read([FORMAT_KEY]) == [b"1"]
        disk.reply(disk.store.execute(Put(b"q", b"two")))
        assert disk.engine.read([FORMAT_KEY]) == [b"2"]


# -- check, repair, backup ---------------------------------------------------------------------------------------------


BODIES = b"one", bytes(BODY_INSIDE_MAX + 1), bytes(PART_BYTES + 1)
"""One in the record of its message, one in a record of its own, and one in parts."""


def with_messages(directory: Path) -> None:
    with OnDisk(directory) as disk:
        disk.reply(disk.store.execute(Set(b"k", b"v")))
        disk.reply(disk.store.execute(PutMany(b"q", 0, 0, BODIES)))
        disk.reply(disk.store.execute(QueueSet(b"r", per_group=1)))


def written(directory: Path, key: bytes, value: bytes) -> None:
    rocksdb = open_rocksdb(directory)
    batch = rocksdb.batch()
    batch.put(record_key(QUEUE_DB, key), record_value(value, None))
    rocksdb.write(batch)
    rocksdb.close()


def test_check_counts_records_of_queues(tmp_path: Path) -> None:
    with_messages(tmp_path / "data")
    found = check_directory(tmp_path / "data")
    assert (found.problems, found.entries, found.queues, found.in_parts) == ([], 1, 9, 1)


@pytest.mark.parametrize("key", [b"m" + bytes(8), b"q", b"qname", b"sname", b"c", b"x", b"bshort", b"t\4name", b"u\0x"])
def test_check_finds_invalid_records_of_queues(tmp_path: Path, key: bytes) -> None:
    with_messages(tmp_path / "data")
    written(tmp_path / "data", key, b"invalid")
    assert "of the queues" in check_directory(tmp_path / "data").problems[0]


@pytest.mark.parametrize(
    ("key", "left"),
    [(body_key(3), 2), (message_key(3), 2), (body_key(4), 2), (message_key(4), 2), (queue_key(b"q"), 3), (COUNTERS, 3)],
    ids=str,
)
def test_repair_makes_incomplete_queues_consistent(tmp_path: Path, key: bytes, left: int) -> None:
    with_messages(tmp_path / "data")
    rocksdb = open_rocksdb(tmp_path / "data")
    batch = rocksdb.batch()
    batch.delete(record_key(QUEUE_DB, key))
    rocksdb.write(batch)
    rocksdb.close()
    assert any("of the queues" in problem for problem in check_directory(tmp_path / "data").problems)
    repaired = repair(tmp_path / "data", tmp_path / "new")
    assert repaired.found.problems == []
    assert repaired.left_out
    with OnDisk(tmp_path / "new") as disk:
        disk.store.queues.check()
        put = disk.reply(disk.store.execute(Put(b"q", b"new")))
        assert isinstance(put, Items)
        assert int(put.values[0] or b"") > 5
        taken = disk.reply(disk.store.execute(Take(b"q", 5)))
        assert isinstance(taken, Items)
        assert len(taken.values) == 7 * (left + 1)
        assert [int(lease or b"") for lease in taken.values[1::7]] == list(range(1, left + 2))


def test_a_message_with_an_incomplete_body_is_not_repaired(tmp_path: Path) -> None:
    with_messages(tmp_path / "data")
    rocksdb = open_rocksdb(tmp_path / "data")
    batch = rocksdb.batch()
    batch.delete(part_key(1, 1))
    rocksdb.write(batch)
    rocksdb.close()
    repaired = repair(tmp_path / "data", tmp_path / "new")
    assert repaired.found.problems == []
    with OnDisk(tmp_path / "new") as disk:
        disk.store.queues.check()
        assert disk.store.queues.index.messages == 2


def test_repair_keeps_queues(tmp_path: Path) -> None:
    with_messages(tmp_path / "data")
    repaired = repair(tmp_path / "data", tmp_path / "new")
    assert (repaired.left_out, repaired.found.problems, repaired.found.queues) == ([], [], 9)
    assert stored_format(tmp_path / "new") == b"2"
    with OnDisk(tmp_path / "new") as disk:
        taken = disk.reply(disk.store.execute(Take(b"q", 5)))
        assert isinstance(taken, Items)
        assert taken.values[6::7] == BODIES


def test_backup_has_the_format_of_its_store(tmp_path: Path) -> None:
    with OnDisk(tmp_path / "data") as disk:
        formats = []
        for command in (Set(b"k", b"v"), Put(b"q", b"one")):
            disk.reply(disk.store.execute(command))
            assert disk.store.back_up is not None
            result = disk.store.back_up(tmp_path / "backups")
            formats.append(backup.read(result.path).format)
        assert formats == [1, 2]
    backup.restore(backup.read(result.path), tmp_path / "restored")
    with OnDisk(tmp_path / "restored") as disk:
        taken = disk.reply(disk.store.execute(Take(b"q", 1)))
        assert isinstance(taken, Items)
        assert taken.values[6] == b"one"


# -- limits ------------------------------------------------------------------------------------------------------------


def test_messages_stay_in_memory_below_a_memory_limit(tmp_path: Path) -> None:
    with OnDisk(tmp_path / "data") as disk:
        disk.reply(disk.store.execute(PutMany(b"q", 0, 0, (bytes(1_000),) * 50)))
        disk.reply(disk.store.execute(Put(b"q", bytes(2 * PART_BYTES))))
    with OnDisk(tmp_path / "data", memory_limit=50_000) as disk:
        assert disk.store.queues.cold_keys == 0
        assert disk.store.memory.cache is not None
        refused = disk.reply(disk.store.execute(Put(b"q", bytes(1_000))))
        assert isinstance(refused, Failure)
        assert refused.code is failures.FULL
        taken = disk.reply(disk.store.execute(Take(b"q", 1_000)))
        assert isinstance(taken, Items)
        assert len(taken.values) == 7 * 51
        leases = tuple((int(taken.values[at] or b""), int(taken.values[at + 1] or b"")) for at in range(0, 7 * 51, 7))
        assert disk.reply(disk.store.execute(Ack(leases))) == Items((b"1",) * 51)
        assert disk.reply(disk.store.execute(Set(b"k", b"v"))) is OK
        disk.store.queues.check()


def test_a_full_disk_refuses_put_and_executes_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OnDisk(tmp_path / "data") as disk:
        disk.reply(disk.store.execute(PutMany(b"q", 0, 0, (b"one", b"two"))))
    monkeypatch.setattr(os, "statvfs", lambda _: Sized(5))
    clock = ManualClock()
    with OnDisk(tmp_path / "data", clock=clock) as disk:

        def reply(command: Command) -> Reply:
            return disk.reply(disk.store.execute(command))

        assert reply(QueueSet(b"q")) is OK  # once this is committed, the writer has measured the space
        assert disk.state == "full"
        for command in (Put(b"q", b"three"), Put(b"new", b""), PutMany(b"q", 0, 0, (b"",))):
            refused = reply(command)
            assert isinstance(refused, Failure)
            assert refused.code is failures.DISKFULL
        clock.advance(1)
        assert isinstance(reply(Take(b"q", 2)), Items)
        assert reply(Nack(2, 1, delay=0)) == 1
        assert reply(Ack(((3, 2),))) == Items((b"1",))
        assert reply(Look(2)) != reply(Look(3))
        disk.store.queues.check()


def test_a_take_whose_failed_write_is_on_the_disk_counts(tmp_path: Path) -> None:
    with OnDisk(tmp_path / "data") as disk:
        disk.reply(disk.store.execute(Put(b"q", b"one")))
        disk.engine.fail = "after"
        failed = disk.reply(disk.store.execute(Take(b"q", 1)))
        assert isinstance(failed, Failure)
        disk.recover()
        disk.store.queues.check()
        assert disk.store.queues.index.queues[b"q"].counts(disk.store.database.now) == (0, 0, 1, 0)
        assert disk.reply(disk.store.execute(Ack(((2, 1),)))) == Items((b"1",))


def test_commands_on_a_message_wait_until_its_write_is_known(tmp_path: Path) -> None:
    """A failed write whose outcome is unknown: other messages can be read meanwhile."""
    with OnDisk(tmp_path / "data") as disk:
        disk.reply(disk.store.execute(PutMany(b"q", 0, 0, (b"one", b"two"))))
        disk.reply(disk.store.execute(PutMany(b"r", 0, 0, (b"other",))))
        disk.unopenable = "away"
        disk.engine.fail = "before"
        failed = disk.reply(disk.store.execute(Take(b"q", 1)))
        assert isinstance(failed, Failure)
        assert failed.code is failures.UNKNOWN
        refused = disk.store.execute(Look(2))
        assert isinstance(refused, Failure)
        assert refused.code is failures.RECOVERING
        assert isinstance(disk.store.execute(Look(3)), Items)
        assert isinstance(disk.store.execute(Look(5)), Items)
        disk.unopenable = None
        disk.recover()
        taken = disk.reply(disk.store.execute(Take(b"q", 1)))
        assert isinstance(taken, Items)
        assert taken.values[:3] == (b"2", b"1", b"1")
