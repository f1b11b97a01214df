"""Check and repair: all damage is detected, and every other record is readable afterwards."""

import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import cairnkv
from cairnkv.errors import OptionError
from cairnkv.storage.check import Findings, check_directory
from cairnkv.storage.record_format import END_KEY, FORMAT_KEY, STATE_KEY, part_key, record_key
from cairnkv.storage.repair import repair
from cairnkv.storage.rocksdb import open_rocksdb

KEYS = 4_000
LARGE = random.Random(1).randbytes(700_000)


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("store") / "data"
    dice = random.Random(2)
    with cairnkv.open(directory, codec="bytes", sync="none") as kv:
        kv.set_many({f"key {number:05}": dice.randbytes(300) for number in range(KEYS)})
        kv.set("large", LARGE)
    with cairnkv.open(directory, codec="bytes", sync="none") as kv:  # a second table
        kv.set_many({f"key {number:05}": dice.randbytes(300) for number in range(0, KEYS, 100)})
    return directory


@pytest.fixture
def data(_made: Path, tmp_path: Path) -> Path:
    """A store, closed in good order."""
    shutil.copytree(_made, tmp_path / "data")
    return tmp_path / "data"


def tables(directory: Path) -> list[Path]:
    """The largest last."""
    return sorted(directory.glob("*.sst"), key=lambda table: table.stat().st_size)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.unlink()
    path.write_bytes(content)


def test_undamaged_store_passes(data: Path) -> None:
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in data.iterdir()}
    found = check_directory(data)
    assert (found.problems, found.entries, found.keys, found.in_parts) == ([], KEYS + 1, {0: KEYS + 1}, 1)
    assert (found.sequence, found.expired, found.loose) == (3, 0, 0)
    after = {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in data.iterdir()}
    assert after == before, "nothing is written to"


def test_progress_counts_every_record(data: Path) -> None:
    told: list[int] = []
    check_directory(data, told.append)
    assert sum(told) >= KEYS


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_one_damaged_block_costs_its_records_only(data: Path, tmp_path: Path, share: float) -> None:
    table = tables(data)[-1]
    flip(table, int(table.stat().st_size * share))
    found = check_directory(data)
    assert any(f"{table.name} offset" in problem for problem in found.problems), found.problems
    with pytest.raises(OptionError, match=r"cairn check .*cairn restore.*cairn repair"):
        cairnkv.open(data)
    kept = {path.name: path.read_bytes() for path in data.iterdir()}
    repaired = repair(data, tmp_path / "repaired")
    assert {path.name: path.read_bytes() for path in data.iterdir()} == kept
    assert repaired.left_out
    assert repaired.found.problems == []
    with cairnkv.open(tmp_path / "repaired", codec="bytes") as kv:
        left = kv.count()
        assert KEYS - 50 < left <= KEYS + 1
        assert kv.get("large", LARGE) == LARGE, "whole or not at all"
        assert ("large" in kv) == (left > KEYS - 50 and not any("large" in line for line in repaired.left_out))
        kv["more"] = b"1"


def test_several_damaged_blocks_cost_their_records_only(data: Path, tmp_path: Path) -> None:
    table = tables(data)[-1]
    for share in (0.15, 0.2, 0.3):
        flip(table, int(table.stat().st_size * share))
    repaired = repair(data, tmp_path / "repaired")
    assert sum("records between" in line for line in repaired.left_out) == 3
    assert repaired.found.entries > KEYS - 150


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: next(data.glob("MANIFEST*")).unlink(),
        lambda data: (data / "CURRENT").unlink(),
        lambda data: flip(next(data.glob("MANIFEST*")), 20),
        lambda data: tables(data)[0].unlink(),
        lambda data: flip(tables(data)[0], tables(data)[0].stat().st_size - 3),
    ],
    ids=["no MANIFEST", "no CURRENT", "MANIFEST flipped", "a table is gone", "a table's footer"],
)
def test_store_that_rocksdb_cannot_open_is_reported_and_repaired(
    data: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(data)
    found = check_directory(data)
    assert any("RocksDB cannot open the store" in problem for problem in found.problems)
    assert "/cairnkv-view-" not in found.problems[0]
    repaired = repair(data, tmp_path / "repaired")
    assert repaired.left_out
    assert repaired.found.problems == []
    with cairnkv.open(tmp_path / "repaired", codec="bytes") as kv:
        assert kv.count() == KEYS + 1
        assert kv["large"] == LARGE


def test_damaged_write_ahead_log_is_reported_and_repaired(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with cairnkv.open(tmp_path / "data") as kv:
        for number in range(300):
            kv[f"key {number:03}"] = "v" * 200
        shutil.copytree(tmp_path / "data", image)  # as a crash leaves it: all in the log
    assert check_directory(image).problems == []
    (log,) = [path for path in image.glob("*.log") if path.stat().st_size]
    whole = log.read_bytes()
    log.write_bytes(whole[:-20])  # torn, as a crash may leave it
    assert (check_directory(image).problems, check_directory(image).entries) == ([], 299)
    log.write_bytes(whole)
    flip(log, len(whole) // 2)
    assert check_directory(image).problems
    repaired = repair(image, tmp_path / "repaired")
    assert repaired.found.problems == []
    assert 100 < repaired.found.entries < 300
    log.write_bytes(whole)
    flip(log, len(whole) - 250)
    assert check_directory(image).problems


def _operate(directory: Path, *operations: tuple[bytes, bytes | None]) -> None:
    engine = open_rocksdb(directory)
    batch = engine.batch()
    for key, value in operations:
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)
    engine.write(batch)
    engine.sync()
    engine.close()


@pytest.mark.parametrize(
    ("operation", "problem", "left"),
    [
        ((END_KEY, None), "record of the end", KEYS + 1),
        ((part_key(1, 1), None), "has no part 1", KEYS),
        ((part_key(1, 2), None), "524,288 of 700,000 bytes", KEYS),
        ((part_key(1, 2), b"short"), "524,293 of 700,000 bytes", KEYS),
        ((record_key(0, b"bad"), b"\x09what"), "an invalid record of an entry", KEYS + 1),
        ((record_key(0, b"bad"), b""), "an invalid record of an entry", KEYS + 1),
        ((b"\x05", b"else"), "unknown key", KEYS + 1),
        ((STATE_KEY, b"short"), "unknown key", KEYS + 1),
        ((b"\x01\x00", b"\0empty key"), "unknown key", KEYS + 1),
        ((b"\x01\xff\x00", b"\0keyspace 255"), "unknown key", KEYS + 1),
    ],
)
def test_malformed_records_are_reported_and_omitted(
    data: Path, tmp_path: Path, operation: tuple[bytes, bytes | None], problem: str, left: int
) -> None:
    _operate(data, operation)
    found = check_directory(data)
    assert found.problem_count == 1
    assert problem in found.problems[0]
    repaired = repair(data, tmp_path / "repaired")
    assert repaired.found.problems == []
    assert repaired.found.entries == left
    with cairnkv.open(tmp_path / "repaired", codec="bytes") as kv:
        assert kv.count() == left


def test_parts_left_by_a_crash_are_no_damage(data: Path) -> None:
    _operate(data, (part_key(77, 0), b"left"))
    found = check_directory(data)
    assert (found.problems, found.loose) == ([], 1)


def test_expired_keys_stay_expired_if_log_time_is_lost(tmp_path: Path) -> None:
    with cairnkv.open(tmp_path / "data") as kv:
        kv.set("gone", "1", ttl=0.01)
        kv.set("stays", "1")
    _operate(tmp_path / "data", (STATE_KEY, None))
    assert check_directory(tmp_path / "data").problems == ["the record of the sequence number and log time is missing"]
    repaired = repair(tmp_path / "data", tmp_path / "repaired")
    assert any("log time" in line for line in repaired.left_out)
    with cairnkv.open(tmp_path / "repaired") as kv:
        assert list(kv.scan()) == ["stays"]


def test_another_format_is_refused(data: Path, tmp_path: Path) -> None:
    _operate(data, (FORMAT_KEY, b"3"))
    assert "its format is b'3'" in check_directory(data).problems[0]
    with pytest.raises(OptionError, match="format"):
        repair(data, tmp_path / "repaired")
    assert not (tmp_path / "repaired").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_repair_without_readable_records_makes_no_store(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "000001.sst").write_bytes(struct.pack(">Q", 1) * 100)
    with pytest.raises(OptionError, match="cannot read anything of it"):
        repair(tmp_path / "data", tmp_path / "repaired")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_all_problems_are_counted_if_not_all_are_named() -> None:
    found = Findings()
    for number in range(1_000):
        found.wrong(str(number))
    assert (len(found.problems), found.problem_count) == (100, 1_000)
