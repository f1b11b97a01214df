"""A disk that is nearly full: growing writes are refused; reads and CLEAR continue; then writes resume."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import cairnkv
from cairnkv.client.keyvalue import KeyValue
from cairnkv.errors import OptionError
from cairnkv.server.settings import Settings
from cairnkv.storage import space
from cairnkv.storage.rocksdb import RocksDB, open_rocksdb
from cairnkv.storage.space import RESERVE_NAME, Space
from cairnkv.testing import running_server
from tests.server.test_redis import RedisClient

PATIENCE = 30.0
LIMIT = 16 * 1024 * 1024
VALUE = 64 * 1024
SMALL = 64 * 1024 * 1024


class Sized:
    """A scripted `os.statvfs`: 100 blocks of 1 MiB, of which a given number is free."""

    def __init__(self, free: int) -> None:
        self.f_frsize = 1024 * 1024
        self.f_blocks = 100
        self.f_bfree = self.f_bavail = free


def test_writes_stop_at_90_percent_and_resume_below_88(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Space(tmp_path, None)
    reserve = tmp_path / RESERVE_NAME
    for free, full in ((50, False), (11, False), (10, True), (11, True), (13, False)):
        # Of what is used, 3 are the reserve's, once it is there.
        monkeypatch.setattr(os, "statvfs", lambda _, free=free: Sized(free))
        room.measure()
        assert (room.full is not None) == full, free
        assert reserve.exists()
    assert reserve.stat().st_blocks * 512 >= 3 * 1024 * 1024, "it is really allocated"
    assert room.release()
    monkeypatch.setattr(os, "statvfs", lambda _: Sized(13))
    room.measure()
    assert room.full is not None, "the reserve counts, whether it is there or not"
    assert not reserve.exists()


def test_free_space_is_checked_after_written_bytes_or_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: Sized(50))
    room = Space(tmp_path, None)
    room.measure()
    assert not room.due
    room.wrote(1024 * 1024)
    assert not room.due
    room.wrote(10 * 1024 * 1024)
    assert room.due
    room.measure()
    room.wrote(1)
    assert not room.due
    later = time.monotonic() + 2
    monkeypatch.setattr(space.time, "monotonic", lambda: later)
    assert room.due


def at_last(call: Callable[[], object]) -> None:
    """Call it until it is not refused because the directory is being opened anew, as it may be where it is full."""
    by = time.monotonic() + PATIENCE
    while True:
        try:
            call()
            return
        except (cairnkv.Refused, cairnkv.OutcomeUnknown) as error:
            if error.code not in ("RECOVERING", "UNKNOWN") or time.monotonic() > by:
                raise
        time.sleep(0.02)


def fill(kv: KeyValue[bytes, bytes]) -> int:
    """Write until that is refused; how many were."""
    number = 0
    try:
        for number in range(10_000):
            at_last(partial(kv.set, b"%06d" % number, os.urandom(VALUE)))
    except cairnkv.Refused as error:
        refused = error
    assert refused.code == "DISKFULL"
    assert refused.retry
    return number


def wait_for_room(kv: KeyValue[bytes, bytes]) -> None:
    by = time.monotonic() + PATIENCE
    while True:
        try:
            kv.set(b"again", bytes(VALUE))
            return
        except (cairnkv.Refused, cairnkv.OutcomeUnknown):
            assert time.monotonic() < by, kv.info()
            time.sleep(0.05)


def fill_and_clear(kv: KeyValue[bytes, bytes], room: int) -> None:
    for _ in range(2):
        by = time.monotonic() + PATIENCE
        while fill(kv) <= room / VALUE / 4:  # the engine has not given back what was cleared yet
            assert time.monotonic() < by, kv.info()
            at_last(kv.clear_all)
            wait_for_room(kv)
        assert b"000000" in kv
        at_last(partial(kv.clear, b"000000"))
        at_last(kv.clear_all)
        wait_for_room(kv)


def test_full_store_resumes_after_deletes(tmp_path: Path) -> None:
    reserve = tmp_path / "data" / RESERVE_NAME
    with cairnkv.open(tmp_path / "data", codec="bytes", disk_limit=LIMIT) as kv:
        fill_and_clear(kv, LIMIT)
        assert reserve.exists()
    assert not reserve.exists(), "a store that is closed needs none"
    with cairnkv.open(tmp_path / "data", codec="bytes", disk_limit=LIMIT) as kv:
        assert kv.count() == 1
        assert kv[b"again"] == bytes(VALUE)


def test_full_server_reports_it_over_both_protocols(tmp_path: Path) -> None:
    with (
        running_server(data=str(tmp_path / "data"), disk_limit=LIMIT) as server,
        cairnkv.connect(server.url, codec="bytes", timeout=PATIENCE) as kv,
        RedisClient(server.address) as redis,
    ):
        by = time.monotonic() + PATIENCE
        fill(kv)
        while (said := redis("SET a 1").text) == "OK":  # the engine has just put its files in order, and made room
            assert time.monotonic() < by
            assert redis("DEL a") == 1
            fill(kv)
        assert said.startswith("MISCONF DISKFULL ")
        assert redis("GET a") is None
        assert "disk_state:full" in str(redis("INFO persistence"))
        assert redis("DEL 000000") == 1


def test_invalid_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="at least"):
        cairnkv.open(tmp_path / "data", disk_limit=1_000)
    with pytest.raises(OptionError, match="on disk"):
        cairnkv.open(disk_limit=LIMIT)
    with pytest.raises(OptionError, match="at least"):
        Settings(data="data", disk_limit=1_000)


def mount_small() -> None:
    """In a process with mounts of its own: put a small file system in the place of a directory."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "none", sys.argv[1]], check=True)


def test_small_file_system_is_filled_and_cleared(tmp_path: Path) -> None:
    in_small_file_system(tmp_path, "fill_a_small_file_system")


def test_another_program_fills_the_disk_and_frees_it(tmp_path: Path) -> None:
    in_small_file_system(tmp_path, "outlast_another_program")


def in_small_file_system(directory: Path, function: str) -> None:
    """Call a function of this module in a process in which the directory is a small file system."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("NOT TESTED: a small file system needs root, or what root may do: mounts of its own")
    code = f"from {__name__} import *; mount_small(); {function}(Path(sys.argv[1]))"
    command = ["unshare", "-m", sys.executable, "-c", code, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def fill_a_small_file_system(directory: Path) -> None:
    with cairnkv.open(directory / "data", codec="bytes") as kv:
        fill_and_clear(kv, SMALL)


def outlast_another_program(directory: Path) -> None:
    with cairnkv.open(directory / "data", codec="bytes") as kv:
        for number in range(100):
            kv.set(b"%d" % number, b"old")
        acknowledged = dict.fromkeys((b"%d" % number for number in range(100)), b"old")
        unknown: dict[bytes, bytes] = {}
        codes: set[str | None] = set()
        with (directory / "other").open("wb", buffering=0) as other:
            try:
                while True:
                    other.write(bytes(100_000))
            except OSError:
                pass
            by = time.monotonic() + PATIENCE
            number = 0
            while kv.info()["disk_state"] != "full" or number < 300:
                assert time.monotonic() < by, kv.info()
                number += 1
                key, value = b"%d" % (number % 100), b"%d" % number * 3_000
                try:
                    kv.set(key, value)
                    acknowledged[key] = value
                except cairnkv.OutcomeUnknown:
                    unknown[key] = value
                except cairnkv.Refused as refused:
                    codes.add(refused.code)
        assert codes <= {"DISKFULL", "RECOVERING", "UNDONE"}
        with pytest.raises(cairnkv.Refused, match="DISKFULL"):
            kv.set(b"more", bytes(VALUE))
        kv.clear(b"0")
        (directory / "other").unlink()
        wait_for_room(kv)
        shown = {key: kv.get(key) for key in acknowledged}
    for key, there in shown.items():
        assert there == (None if key == b"0" else acknowledged[key]) or there == unknown.get(key)
    with cairnkv.open(directory / "data", codec="bytes") as kv:
        assert {key: kv.get(key) for key in acknowledged} == shown


@pytest.mark.parametrize("keys", [1, 2_000])
@pytest.mark.parametrize("sync", ["always", "none"])
def test_close_during_compaction_logs_no_error(
    keys: int, sync: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for after in ({}, {"b": "2"}):
        with cairnkv.open(tmp_path / "data", sync=sync) as kv:
            kv.set_many({f"key:{n}": "x" for n in range(keys)})
            kv.clear_all()
            kv.set_many(after)
        with cairnkv.open(tmp_path / "data") as kv:
            assert dict(kv) == after
    assert [record.getMessage() for record in caplog.records if record.name == "cairnkv.disk"] == []


def test_server_stopped_during_compaction_logs_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running_server(data=str(tmp_path / "data")) as server, cairnkv.connect(server.url) as kv:
        kv["a"] = "1"
        kv.clear_all()
        kv["b"] = "2"
    assert [record.getMessage() for record in caplog.records if record.name == "cairnkv.disk"] == []
    with cairnkv.open(tmp_path / "data") as kv:
        assert dict(kv) == {"b": "2"}


def test_failed_flush_at_close_is_still_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = open_rocksdb(tmp_path / "data")
    assert isinstance(engine, RocksDB)
    engine._database.cancel_all_background(True)  # without the flush of `stop_compacting`
    engine.close()
    assert "RocksDB did not close cleanly: Shutdown in progress" in caplog.text
