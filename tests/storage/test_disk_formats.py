"""Stores of every released format open with their content (`tests.storage.formats.make`)."""

import shutil
from pathlib import Path
from typing import Final

import pytest

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
"""What stands in each, 20 ms after it was made."""

POSITIONS: Final = {"1": 17}
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
