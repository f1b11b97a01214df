"""RocksDB's write-ahead log: a torn end after a power failure is truncated; other damage is an error."""

import random
import shutil
from pathlib import Path
from typing import Final

import pytest

from cairnkv.commands import Set
from cairnkv.errors import OptionError
from cairnkv.storage import wal
from tests.storage.test_disk import OnDisk
from tests.support.serving import store_in

WRITES: Final = 40
LENGTHS: Final = (10, 10, 700, 3_000, 50_000)
"""Of values, in turn: within a sector, over some of them, and over blocks."""


def starts(log: bytes) -> list[int]:
    """Where records begin, or their parts."""
    found, at = [], 0
    while at + wal.HEADER.size <= len(log):
        if (room := wal.BLOCK - at % wal.BLOCK) < wal.HEADER.size:
            at += room
            continue
        found.append(at)
        at += wal.HEADER.size + wal.HEADER.unpack_from(log, at)[1]
    return found


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a commit of its own for each write, all in the log; as a crash leaves it."""
    directory = tmp_path_factory.mktemp("crashed")
    with OnDisk(directory / "data") as disk:
        for number in range(WRITES):
            disk.reply(disk.store.execute(Set(b"%d" % number, b"v" * LENGTHS[number % len(LENGTHS)])))
        shutil.copytree(directory / "data", directory / "copy")
    return directory / "copy"


class Copy:
    """A copy of the store with a write-ahead log that tests change."""

    def __init__(self, crashed: Path, scratch: Path) -> None:
        self.directory = scratch / "data"
        shutil.copytree(crashed, self.directory)
        (self.log,) = [path for path in self.directory.glob("*.log") if path.stat().st_size]
        self.whole = self.log.read_bytes()

    def write(self, data: bytes | bytearray) -> None:
        self.log.write_bytes(data)

    def count(self) -> int:
        """How many of the writes are there, of which none is without those before it."""
        with store_in(self.directory) as store:
            count = store.database.count()
            assert all(store.database.get(b"%d" % number) is not None for number in range(count))
            return count


@pytest.fixture
def copy(crashed: Path, tmp_path: Path) -> Copy:
    return Copy(crashed, tmp_path)


def test_complete_log_is_unchanged(copy: Copy) -> None:
    assert wal.repair(copy.log) == wal.repair(copy.log, thorough=True) == 0
    assert copy.log.read_bytes() == copy.whole
    assert copy.count() == WRITES


@pytest.mark.parametrize("missing", [1, 5, 17, 30, 60])
def test_truncated_record_is_dropped(copy: Copy, missing: int) -> None:
    copy.write(copy.whole[:-missing])
    assert copy.count() == WRITES - 1


def test_missing_sectors_are_dropped_with_their_whole_write(copy: Copy) -> None:
    last = [start for start in starts(copy.whole) if copy.whole[start + 6] in (wal.WHOLE, wal.FIRST)][-1]
    begin = -(-(last + 1) // wal.SECTOR) * wal.SECTOR
    sectors = [last, *range(begin, len(copy.whole), wal.SECTOR)]
    for sector in random.Random(0).sample(sectors, 10) + sectors[:2]:
        data = bytearray(copy.whole)
        end = min((sector // wal.SECTOR + 1) * wal.SECTOR, len(data))
        data[sector:end] = bytes(end - sector)
        copy.write(data)
        wal.repair(copy.log, thorough=True)
        assert copy.log.read_bytes() == copy.whole[:last]
    assert copy.count() == WRITES - 1


@pytest.mark.parametrize("behind", [1, 2, 10, WRITES - 1, WRITES])
def test_lost_sectors_of_synced_writes_are_damage(copy: Copy, behind: int) -> None:
    firsts = [start for start in starts(copy.whole) if copy.whole[start + 6] in (wal.WHOLE, wal.FIRST)]
    data = bytearray(copy.whole)
    at = firsts[-1 - behind]
    end = (at // wal.SECTOR + 1) * wal.SECTOR
    data[at:end] = bytes(end - at)
    copy.write(data)
    with pytest.raises(OptionError, match="which had been fsynced"):
        copy.count()
    assert copy.log.read_bytes() == data, "nothing was changed"


def test_wrong_lengths_are_damage(copy: Copy) -> None:
    dice = random.Random(0)
    for start in [*dice.sample(starts(copy.whole), 8), *starts(copy.whole)[-3:]]:
        for byte in (4, 5):
            data = bytearray(copy.whole)
            data[start + byte] ^= 1 << dice.randrange(8)
            copy.write(data)
            with pytest.raises(OptionError, match="is damaged"):
                copy.count()


@pytest.mark.parametrize("length", [600, 3_000, 70_000])
def test_flipped_bits_in_a_last_commit_of_zeros_are_damage(tmp_path: Path, length: int) -> None:
    dice = random.Random(length)
    with OnDisk(tmp_path / "data") as disk:
        disk.reply(disk.store.execute(Set(b"first", b"x")))
        disk.reply(disk.store.execute(Set(b"zeros", bytes(length) + b"end")))
        shutil.copytree(tmp_path / "data", tmp_path / "crashed")
    copy = Copy(tmp_path / "crashed", tmp_path / "copy")
    last = [start for start in starts(copy.whole) if copy.whole[start + 6] in (wal.WHOLE, wal.FIRST)][-1]
    for place in [*range(last, last + wal.HEADER.size), *(dice.randrange(last, len(copy.whole)) for _ in range(25))]:
        data = bytearray(copy.whole)
        data[place] ^= 1 << dice.randrange(8)
        copy.write(data)
        with pytest.raises(wal.Damaged):
            wal.repair(copy.log, thorough=True)
        assert copy.log.read_bytes() == data
    copy.write(data)
    with pytest.raises(OptionError, match="nothing was changed"):
        copy.count()


def test_only_the_newest_log_may_have_a_torn_end(copy: Copy) -> None:
    copy.write(copy.whole[:-10])
    with pytest.raises(wal.Damaged, match="newer"):
        wal.repair(copy.log, newest=False)


def test_empty_log_is_complete(tmp_path: Path) -> None:
    (tmp_path / "1.log").touch()
    assert wal.repair(tmp_path / "1.log", thorough=True) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["1.log"]
