"""Stores of every released format open with their content (`tests.storage.formats.make`)."""

import shutil
from pathlib import Path
from typing import Final

import pytest

from cairnkv.commands import Command, Items, Look, Put, QueueStats, Take
from cairnkv.storage.record_format import FORMAT
from cairnkv.testing import EPOCH_MS, ManualClock
from tests.storage.formats.make import HERE, LARGE
from tests.storage.test_disk import OnDisk

LATER: Final = EPOCH_MS + 1_000_000

CONTENT: Final = {
    "1": {
        (0, b"plain"): (b"newer", None),
        (0, b"k"): (b"the shortest key", None),
        (0, b"empty"): (b"", None),
        (0, b"binary \x00\xff"): (bytes(range(256)), None),
        (0, b"large"): (LARGE, None),
        (0, b"large that expires"): (LARGE, LATER),
        (0, b"expires"): (b"later", LATER),
        (1, b"plain"): (b"another keyspace", None),
        (2, b"after"): (b"it was cleared", None),
        (15, b"plain"): (b"the last keyspace of a Redis client", None),
    }
}
CONTENT["2"] = CONTENT["1"]
"""What stands in each, 20 ms after it was made."""

POSITIONS: Final = {"1": 17, "2": 24}
"""Of the newest entry: one for each write, and one as log time was noted."""


def test_directory_of_each_format_is_kept() -> None:
    kept = {path.name for path in HERE.iterdir() if path.name.isdecimal()}
    assert kept == CONTENT.keys() == {str(number) for number in range(1, FORMAT + 1)}


@pytest.mark.parametrize("number", CONTENT)
def test_store_of_another_version_opens(tmp_path: Path, number: str) -> None:
    shutil.copytree(HERE / number, tmp_path / "data")
    clock = ManualClock()
    clock.advance(0.02)
    for _ in range(2):
        with OnDisk(tmp_path / "data", clock=clock) as disk:
            assert dict(disk.store.info())["log_position"] == POSITIONS[number]
            disk.store.housekeep()
            found = {
                (database.number, key): database.entry(key)
                for database in disk.store.databases
                for key in database.slice(0, 1_000, b"")[1]
            }
            assert found == CONTENT[number]
            disk.store.queues.check()


def test_queues_of_another_version_open(tmp_path: Path) -> None:
    shutil.copytree(HERE / "2", tmp_path / "data")
    clock = ManualClock()
    clock.advance(0.02)
    with OnDisk(tmp_path / "data", clock=clock) as disk:

        def reply(command: Command) -> tuple[bytes | None, ...]:
            items = disk.reply(disk.store.execute(command))
            assert isinstance(items, Items)
            return items.values

        first = b"4", b"plain", b"delayed", b"5", b"%d" % (EPOCH_MS + 500_000), b"0", b"1", b"%d" % EPOCH_MS, b"0"
        assert reply(Look(4)) == (*first, b"", b"", b"a reason", b"first")
        assert reply(Put(b"with settings", b"other", unique=b"n")) == (b"7", b"0")
        stats = dict(zip(*[iter(reply(QueueStats(b"with settings")))] * 2, strict=True))
        counts = (b"ready", b"put", b"attempts", b"per_group", b"lease")
        assert [stats[name] for name in counts] == [b"2", b"2", b"3", b"2", b"60000"]
        taken = reply(Take(b"plain", 2))
        assert [taken[at] for at in (0, 1, 6, 7, 8, 13)] == [b"5", b"3", b"second", b"6", b"4", LARGE]
