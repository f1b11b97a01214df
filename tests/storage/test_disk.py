"""Durable storage: acknowledged writes survive every restart, and failed writes are never shown."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

import cairnkv
from cairnkv.commands import MISSING, Clear, ClearAll, Failure, Get, Reply, Set, SetMany, SetWith, failures
from cairnkv.errors import OptionError
from cairnkv.storage.disk import DiskStorage
from cairnkv.storage.record_format import FORMAT_KEY, PART, PART_BYTES, part_key
from cairnkv.storage.rocksdb import Batch, RocksDB, open_rocksdb
from cairnkv.storage.writer import COMMIT_BYTES, Sync
from cairnkv.store import LocalStore, PendingReply
from cairnkv.testing import ManualClock, running_server

pytestmark = pytest.mark.usefixtures("path_in_use")

PATIENCE = 20.0


class Faulty(RocksDB):
    """RocksDB behind a gate, which fails where a test says so: `before` a write, or `after` it."""

    def __init__(self, directory: Path) -> None:
        self._engine = open_rocksdb(directory)
        self.gate = threading.Event()
        self.gate.set()
        self.fail: str | None = None
        self.fail_sync = False
        self.writes = 0
        self.at_gate = threading.Event()
        self.read_gate = threading.Event()
        self.read_gate.set()
        self.fail_read = False
        self.read_keys: list[bytes] = []

    def batch(self) -> Batch:
        return self._engine.batch()

    @property
    def behind(self) -> bool:
        return self._engine.behind

    @property
    def records(self) -> int:
        return self._engine.records

    @property
    def table_bytes(self) -> int:
        return self._engine.table_bytes

    @property
    def gave_up(self) -> bool:
        return self._engine.gave_up

    def compact(self, begin: bytes, end: bytes, *, alone: bool) -> None:
        self._engine.compact(begin, end, alone=alone)

    def stop_compacting(self) -> None:
        self._engine.stop_compacting()

    def write(self, batch: Any) -> None:
        self.at_gate.set()
        assert self.gate.wait(PATIENCE)
        if self.fail == "before":
            raise OSError("the disk is gone")
        self._engine.write(batch)
        self.writes += 1
        if self.fail == "after":
            raise OSError("the disk does not answer")

    def sync(self) -> None:
        if self.fail_sync:
            raise OSError("fsync failed")
        self._engine.sync()

    def flush(self) -> None:
        self._engine.flush()

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.read_keys += keys
        records = self._engine.read(keys)
        assert self.read_gate.wait(PATIENCE)
        if self.fail_read:
            raise OSError("the disk cannot be read")
        return records

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        return self._engine.items()

    def close(self) -> None:
        self._engine.close()

    def abandon(self) -> None:
        self._engine.abandon()


class OnDisk:
    """A durable store in this thread, which gets the results of the writer when it polls."""

    def __init__(
        self,
        directory: Path,
        *,
        clock: ManualClock | None = None,
        sync: str = "always",
        memory_limit: int | None = None,
        gather: float = 0.0,
    ) -> None:
        self.unopenable: str | None = None
        self.on_opening: Callable[[], object] = lambda: None
        self.engine: Faulty

        def new_rocksdb(path: Path) -> Faulty:
            if self.unopenable is not None:
                raise OSError(self.unopenable)
            self.on_opening()
            self.engine = Faulty(path)
            return self.engine

        self.store = LocalStore(
            storage=DiskStorage(directory, sync=Sync.parse(sync), gather=gather, new_rocksdb=new_rocksdb),
            clock=clock or ManualClock(),
            memory_limit=memory_limit,
        )
        self._told = threading.Condition()
        self._functions: list[object] = []
        self.store.deliver_by(self._deliver)

    def _deliver(self, function: object) -> None:
        with self._told:
            self._functions.append(function)
            self._told.notify()

    def reply(self, outcome: Reply | PendingReply) -> Reply:
        """Return a reply once it may leave."""
        while isinstance(outcome, PendingReply) and outcome.reply is None:
            self.step()
        return outcome.reply if isinstance(outcome, PendingReply) and outcome.reply is not None else outcome  # type: ignore[return-value]

    def step(self) -> None:
        """Wait for the next thing that the log has to say, and have it said."""
        with self._told:
            assert self._told.wait_for(lambda: self._functions, PATIENCE)
            function = self._functions.pop(0)
        assert callable(function)
        function()

    @property
    def state(self) -> object:
        """Return the state of the disk from INFO."""
        return dict(self.store.info())["disk_state"]

    def recover(self) -> None:
        """Wait until writes are taken again."""
        while self.state == "recovering":
            self.step()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.gate.set()
        self.engine.read_gate.set()
        self.store.close()


def test_reply_waits_for_its_commit_and_writes_share_commits(tmp_path: Path) -> None:
    with OnDisk(tmp_path / "data") as disk:
        disk.engine.gate.clear()
        first = disk.store.execute(Set(b"a", b"1"))
        assert disk.engine.at_gate.wait(PATIENCE)
        rest = [disk.store.execute(Set(b"%d" % number, b"x")) for number in range(100)]
        shown = disk.store.execute(Get(b"a"))
        assert all(isinstance(held, PendingReply) and held.reply is None for held in (first, shown, *rest))
        disk.engine.gate.set()
        assert disk.reply(rest[-1]) is not None
        assert disk.reply(shown) == b"1"
        assert disk.engine.writes == 2


def test_effects_without_replies_are_written_after_a_size_or_a_time(tmp_path: Path) -> None:
    with OnDisk(tmp_path / "data", gather=0.2) as disk:
        held = [disk.store.execute(Set(b"%d" % number, b"x")) for number in range(10)]
        assert disk.reply(held[-1]) is not None
        assert disk.engine.writes == 1
    with OnDisk(tmp_path / "data", gather=3_600) as disk:
        disk.store.execute(Set(b"a", b"x"))
        assert disk.reply(disk.store.execute(Set(b"large", bytes(COMMIT_BYTES)))) is not None
        last = disk.store.execute(Set(b"b", b"x"))
    assert disk.reply(last) is not None, "to close it is not to wait"


@pytest.mark.parametrize("when", ["before", "after"])
def test_failed_write_is_never_shown_and_later_writes_are_refused(tmp_path: Path, when: str) -> None:
    with OnDisk(tmp_path / "data") as disk:
        disk.reply(disk.store.execute(Set(b"a", b"old")))
        disk.engine.fail = when
        disk.engine.gate.clear()
        write = disk.store.execute(Set(b"a", b"new"))
        cleared = disk.store.execute(ClearAll())
        read = disk.store.execute(Get(b"a"))
        disk.engine.gate.set()
        for outcome, code in ((write, failures.UNKNOWN), (cleared, failures.UNKNOWN), (read, failures.UNDONE)):
            reply = disk.reply(outcome)
            assert isinstance(reply, Failure)
            assert reply.code is code
        refused = disk.store.execute(Set(b"b", b"1"))
        assert isinstance(refused, Failure)
        assert refused.code is failures.RECOVERING
        assert disk.store.execute(Get(b"b")) != b"1"
        disk.recover()
        shown = disk.store.execute(Get(b"a"))
        possible = (b"old",) if when == "before" else (b"new", MISSING)  # the first commit had one entry or both
        assert shown in possible
    with OnDisk(tmp_path / "data") as disk:
        assert disk.store.execute(Get(b"a")) == shown
        assert isinstance(disk.store.execute(Set(b"b", b"1")), PendingReply)


def test_failed_fsync_is_detected(tmp_path: Path) -> None:
    with OnDisk(tmp_path / "data", sync="1ms") as disk:
        disk.engine.fail_sync = True
        disk.reply(disk.store.execute(Set(b"a", b"1")))
        for _ in range(1_000):
            outcome = disk.store.execute(Set(b"b", b"1"))
            reply = disk.reply(outcome)
            if isinstance(reply, Failure):
                break
            threading.Event().wait(0.005)
        assert isinstance(reply, Failure)
        assert reply.code in (failures.RECOVERING, failures.UNKNOWN)
        disk.recover()
        assert disk.store.execute(Get(b"a")) == b"1", "it was acknowledged"


def test_expired_key_does_not_return_if_the_clock_goes_back(tmp_path: Path) -> None:
    clock = ManualClock()
    with OnDisk(tmp_path / "data", clock=clock) as disk:
        disk.reply(disk.store.execute(SetWith(b"a", b"1", ttl=500)))
        clock.advance(60)
        read = disk.store.execute(Get(b"a"))
        assert isinstance(read, PendingReply), "it shows a time that the disk does not have yet"
        disk.reply(read)
        # As a crash leaves it: without the last word of `close`.
        image = tmp_path / "image"
        shutil.copytree(tmp_path / "data", image)
    clock.advance(-60)
    for directory in (image, tmp_path / "data"):
        with OnDisk(directory, clock=clock) as disk:
            assert disk.store.database.get(b"a") is None
            assert disk.store.database.count() == 0


def test_second_opener_is_refused(tmp_path: Path) -> None:
    with cairnkv.open(tmp_path / "data"), pytest.raises(OptionError, match="is already open"):
        cairnkv.open(tmp_path / "data")
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_other_directories_and_newer_formats_are_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(OptionError, match=r"letter\.txt"):
        cairnkv.open(tmp_path)
    engine = open_rocksdb(tmp_path / "data")
    batch = engine.batch()
    batch.put(FORMAT_KEY, b"3")
    engine.write(batch)
    engine.close()
    with pytest.raises(OptionError, match="has format 3"):
        cairnkv.open(tmp_path / "data")


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="evicted"):
        cairnkv.open(tmp_path / "data", memory_limit=1_000_000, when_full="evict")
    with pytest.raises(OptionError, match="always, none, or a time"):
        cairnkv.open(tmp_path / "data", sync="sometimes")
    with pytest.raises(OptionError, match="on disk"):
        cairnkv.open(sync="always")


@pytest.mark.parametrize("sync", ["always", "1s", "none"])
def test_server_keeps_its_store_across_restarts(tmp_path: Path, sync: str) -> None:
    for number in range(2):
        with (
            running_server(data=str(tmp_path / "data"), sync=sync) as server,
            cairnkv.connect(server.url, timeout=PATIENCE) as kv,
        ):
            assert kv.get("a") == (None if number == 0 else "1")
            kv["a"] = "1"
            told = kv.info()
            assert (told["mode"], told["sync"]) == ("durable", sync)


def test_storage_engine_is_rocksdb(tmp_path: Path) -> None:
    engine = open_rocksdb(tmp_path / "data")
    assert isinstance(engine, RocksDB)
    engine.close()


def test_long_values_are_stored_in_parts_and_leave_none_behind(tmp_path: Path) -> None:
    long = bytes(range(256)) * 4_097  # four parts and a bit
    clock = ManualClock()
    for number in range(4):
        with OnDisk(tmp_path / "data", clock=clock) as disk:
            if number == 0:
                disk.reply(disk.store.execute(Set(b"a", long)))
                disk.reply(disk.store.execute(SetWith(b"b", long[:-1], ttl=1_000), 3))
                disk.reply(disk.store.execute(SetMany(0, ((b"c", long), (b"d", long[:5_000]), (b"e", b"short")))))
            elif number == 1:
                assert disk.store.databases[0].entry(b"a") == (long, None)
                assert disk.store.databases[3].get(b"b") == long[:-1]
                assert disk.store.database.get(b"c") == long
                assert disk.store.database.get(b"d") == long[:5_000]
                disk.reply(disk.store.execute(Set(b"a", b"short")))
                disk.reply(disk.store.execute(ClearAll(), 3))
            elif number == 2:
                assert disk.store.databases[3].count() == 0
                disk.reply(disk.store.execute(Clear(b"c")))
                disk.reply(disk.store.execute(Clear(b"d")))
            else:
                assert disk.store.database.get(b"a") == disk.store.database.get(b"e") == b"short"
    engine = open_rocksdb(tmp_path / "data")
    assert not [key for key, _ in engine.items() if key[0] == PART]
    engine.close()


def test_parts_without_their_record_are_removed(tmp_path: Path) -> None:
    with OnDisk(tmp_path / "data") as disk:
        disk.reply(disk.store.execute(Set(b"a", bytes(PART_BYTES + 1))))
    engine = open_rocksdb(tmp_path / "data")
    batch = engine.batch()
    batch.put(part_key(7, 0), b"left over")
    engine.write(batch)
    engine.close()
    with OnDisk(tmp_path / "data") as disk:
        disk.reply(disk.store.execute(Set(b"b", bytes(PART_BYTES + 2))))
    with OnDisk(tmp_path / "data") as disk:
        assert disk.store.database.get(b"a") == bytes(PART_BYTES + 1)
        assert disk.store.database.get(b"b") == bytes(PART_BYTES + 2)
    engine = open_rocksdb(tmp_path / "data")
    assert len([key for key, _ in engine.items() if key[0] == PART]) == 4
    engine.close()


FORKING = """
import os, sys, cairnkv
kv = cairnkv.open(sys.argv[1])
kv["a"] = "1"
child = os.fork()
if child == 0:
    reads = [lambda: kv["a"], lambda: kv["a"], lambda: kv.get("a")]
    for attempt in (*reads, lambda: cairnkv.open(sys.argv[1] + " of the child")):
        try:
            attempt()
        except cairnkv.CairnError as error:
            print(error)
    kv.close()
    sys.exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
kv["b"] = "2"
print(sorted(kv.scan()))
"""


def test_forked_process_gets_an_error_and_ends_cleanly(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKING, str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert all("opened this store on disk before the fork" in line for line in told[:3])
    assert "forked" in told[3]
    assert told[4] == "['a', 'b']"
