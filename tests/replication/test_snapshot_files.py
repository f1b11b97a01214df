"""Files of a node's store: made while it is in use, installed elsewhere, and refused where they do not belong."""

import random
import shutil
import threading
from pathlib import Path

import pytest

import cairnkv
from cairnkv.commands import MISSING
from cairnkv.errors import OptionError
from cairnkv.replication.snapshot_files import install, node_record, staged
from cairnkv.storage import backup
from cairnkv.storage.check import check_directory
from cairnkv.storage.record_format import NODE_DB, record_key
from cairnkv.storage.repair import repair
from cairnkv.storage.rocksdb import open_rocksdb
from tests.cli.conftest import Call, cairn_here
from tests.replication.snapshot_tables import POSITION, Table

LARGE = random.Random(5).randbytes(700_000)
"""A value that stands in parts."""

__all__ = ["cairn_here"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return the table of a stopped node."""
    with Table(tmp_path / "data") as table:
        table.write(7, {b"key %d" % number: b"v" * 100 for number in range(500)}, proposers=LARGE)
        table.write(8, {b"large": LARGE})
    return tmp_path / "data"


def test_installed_files_contain_all_entries_up_to_their_index(data: Path, tmp_path: Path) -> None:
    with Table(data) as table:
        stop = threading.Event()

        def go_on() -> None:
            position = 8
            while not stop.wait(0.001):
                position += 1
                table.write(position, {b"last": b"%d" % position})

        writing = threading.Thread(target=go_on)
        writing.start()
        try:
            with staged(table.storage) as files:
                position = node_record(files, POSITION)
                before = {path.name: path.stat().st_mtime_ns for path in files.iterdir()}
                shutil.copytree(files, tmp_path / "fetched")
                assert {path.name: path.stat().st_mtime_ns for path in files.iterdir()} == before
        finally:
            stop.set()
            writing.join()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "fetched"], "nothing is left"
    install(tmp_path / "fetched", tmp_path / "new")
    assert not (tmp_path / "fetched").exists()
    assert position is not None
    assert node_record(tmp_path / "new", POSITION) == position
    with Table(tmp_path / "new") as again:
        assert again.read(POSITION, NODE_DB) == position
        assert again.read(b"last") == (position if int(position) > 8 else MISSING)
        assert again.read(b"large") == LARGE


def test_records_of_a_node_are_read_without_opening_its_store(data: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in data.iterdir()}
    assert node_record(data, POSITION) == b"8"
    assert node_record(data, b"proposers") == LARGE, "also a value in parts"
    assert node_record(data, b"nothing") is None
    assert {path.name: path.stat().st_mtime_ns for path in data.iterdir()} == before


def test_earlier_and_failed_attempts_leave_no_files(data: Path, tmp_path: Path) -> None:
    left = tmp_path / ".data.snapshot"
    left.mkdir()
    (left / "left").touch()
    with Table(data) as table, staged(table.storage) as files:
        assert not (left / "left").exists()
        assert files.is_relative_to(left)
    assert not left.exists()
    with pytest.raises(Exception, match="closed"), staged(table.storage):
        pass
    assert not left.exists()


def test_damaged_files_are_not_installed(data: Path, tmp_path: Path) -> None:
    with Table(data) as table, staged(table.storage) as files:
        shutil.copytree(files, tmp_path / "fetched")
    sst = max((tmp_path / "fetched").glob("*.sst"), key=lambda file: file.stat().st_size)
    content = bytearray(sst.read_bytes())
    content[len(content) // 2] ^= 1
    sst.write_bytes(content)
    with pytest.raises(OptionError, match=r"is damaged: .* SHA-256"):
        install(tmp_path / "fetched", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_files_are_installed_into_an_empty_directory_only(data: Path, tmp_path: Path) -> None:
    with Table(data) as table, staged(table.storage) as files:
        shutil.copytree(files, tmp_path / "fetched")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "thing").touch()
    with pytest.raises(OptionError, match="not empty"):
        install(tmp_path / "fetched", tmp_path / "new")
    (tmp_path / "new" / "thing").unlink()
    install(tmp_path / "fetched", tmp_path / "new")
    assert check_directory(tmp_path / "new").problems == []


# -- those who find one elsewhere ----------------------------------------------------------------------------------


def test_durable_server_refuses_the_directory_of_a_node(data: Path) -> None:
    with pytest.raises(OptionError, match=r"is the store of a cluster node: serve it with --cluster") as refused:
        cairnkv.open(data)
    assert "damaged" not in str(refused.value)
    assert node_record(data, POSITION) == b"8", "and has changed nothing"


def test_check_and_verify_accept_the_directory_of_a_node(data: Path, tmp_path: Path, cairn_here: Call) -> None:
    checked = cairn_here("check", str(data))
    assert (checked.code, checked.out.decode()) == (
        0,
        "501 entries, 2 with values in parts; sequence 2; state of a cluster's node, 2 records about the node\n"
        "no damage found\n",
    )
    made = backup.make_of_closed(data, tmp_path / "kept")
    verified = cairn_here("verify", str(made.path), "--json")
    assert verified.code == 0
    assert b'"node_records":2' in verified.out.replace(b" ", b"")


def test_repair_turns_a_node_directory_into_a_durable_store(data: Path, tmp_path: Path) -> None:
    repaired = repair(data, tmp_path / "new")
    assert (repaired.found.entries, repaired.found.node, repaired.found.loose) == (501, 0, 0)
    (left_out,) = repaired.left_out
    assert left_out.startswith("2 records of a cluster node: ")
    with cairnkv.open(tmp_path / "new", codec="bytes") as kv:
        assert kv["large"] == LARGE


def test_damage_in_records_of_a_node_is_reported(data: Path) -> None:
    engine = open_rocksdb(data)
    batch = engine.batch()
    batch.put(record_key(NODE_DB, b"row"), b"\x09")
    engine.write(batch)
    engine.close()
    assert check_directory(data).problems == ["'row' of the cluster node: an invalid record of an entry"]
