"""The embedded store: a mapping, safe with threads and forks, bounded in memory, and able to wait for commits."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cairnkv
from cairnkv import aio
from cairnkv.client.codec import Text
from cairnkv.client.embedded import Embedded
from cairnkv.store import LocalStore
from cairnkv.testing import ManualClock
from tests.support.late_storage import LateStorage


def test_store_is_a_mapping() -> None:
    with cairnkv.open() as kv:
        kv["b"] = "2"
        kv["a"] = "1"
        assert kv["a"] == "1"
        assert "a" in kv
        assert "c" not in kv
        assert 1 not in kv
        assert len(kv) == 2
        assert sorted(kv) == ["a", "b"]
        del kv["a"]
        assert list(kv) == ["b"]
        for missing in (lambda: kv["a"], lambda: kv.__delitem__("a")):
            with pytest.raises(KeyError, match="a"):
                missing()
        kv.clear("b")
        assert bool(kv) is True


def test_threads_share_a_store() -> None:
    with cairnkv.open() as kv:

        def count() -> None:
            for _ in range(2_000):
                kv.incr("hits")

        threads = [threading.Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert kv["hits"] == "16000"


FORK = """
import os, threading, time
import cairnkv
kv = cairnkv.open()
kv["k"] = "parent"
going = True
def work():
    while going:
        kv.incr("n")
thread = threading.Thread(target=work)
thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        kv["k"] = "child"
        os._exit(0 if kv["k"] == "child" else 1)
    assert os.waitpid(child, 0)[1] == 0
going = False
thread.join()
assert kv["k"] == "parent"
print("well")
"""


def test_forked_process_has_a_copy_without_stale_locks() -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.stdout, ran.stderr) == ("well\n", "")


def test_closed_store_raises() -> None:
    kv = cairnkv.open()
    kv.close()
    kv.close()
    with pytest.raises(cairnkv.CallerError, match="closed"):
        kv.get("k")


READS: list[Callable[[Any], object]] = [
    lambda kv: kv.get("k"),
    lambda kv: kv["k"],
    lambda kv: "k" in kv,
    lambda kv: kv.exists("k"),
    lambda kv: kv.get_many(["k"]),
]


def _in_another_thread(function: Callable[[], None]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("another_thread", [False, True])
def test_closed_store_refuses_reads_after_earlier_reads(
    read: Callable[[Any], object], place: str, another_thread: bool, tmp_path: Path
) -> None:
    path = tmp_path / "data" if place == "disk" else None
    kv = cairnkv.open(path)
    kv["k"] = "1"
    read(kv)
    read(kv)
    if another_thread:
        _in_another_thread(kv.close)
    else:
        kv.close()
    with cairnkv.open(path) as later:
        later["k"] = "2"
        for _ in range(2):
            with pytest.raises(cairnkv.CallerError, match="this store is closed"):
                read(kv)
        assert later["k"] == "2"


def test_store_closed_during_reads_refuses_later_reads(tmp_path: Path) -> None:
    kv = cairnkv.open(tmp_path / "data")
    kv["k"] = "1"
    reading = threading.Barrier(4)
    ends: list[object] = []

    def read() -> None:
        try:
            assert kv["k"] == "1"
            reading.wait(60)
            while True:
                assert kv["k"] == "1"
        except Exception as error:
            ends.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    reading.wait(60)
    kv.close()
    with pytest.raises(cairnkv.CallerError, match="this store is closed"):
        kv.get("k")
    for thread in threads:
        thread.join(60)
    assert len(ends) == 3
    for end in ends:  # a read that began before `close` may run behind it
        assert isinstance(end, cairnkv.CallerError | cairnkv.Refused)
        assert "this store" in str(end)
        assert "closed" in str(end)


FORK_ON_DISK = """
import os, sys
import cairnkv
kv = cairnkv.open(sys.argv[1])
kv["k"] = "parent"
assert kv.get("k") == kv["k"] == "parent"
for closed in (False, True):
    if closed:
        kv.close()
    child = os.fork()
    if child == 0:
        refused = 0
        for read in (lambda: kv.get("k"), lambda: kv["k"], lambda: "k" in kv, lambda: kv.exists("k")):
            try:
                read()
            except cairnkv.CallerError:
                refused += 1
        os._exit(0 if refused == 4 else 1)
    assert os.waitpid(child, 0)[1] == 0
print("well")
"""


def test_forked_child_refuses_reads_of_store_on_disk(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK_ON_DISK, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("well\n", "")


def test_memory_limit_refuses_or_evicts() -> None:
    with cairnkv.open(memory_limit=100_000) as kv:

        def fill() -> None:
            for n in range(1_000):
                kv[f"{n}"] = "x" * 200

        with pytest.raises(cairnkv.Refused, match="FULL"):
            fill()
        there = len(kv)
        assert 0 < there < 1_000
        kv.clear("0")
        kv["0"] = "again"
    with cairnkv.open(memory_limit=100_000, when_full="evict") as cache:
        for n in range(1_000):
            cache[f"{n}"] = "x" * 200
            cache.get("0")
        assert len(cache) <= there + 1
        assert "0" in cache
        assert "999" in cache
        assert "1" not in cache


def test_expired_keys_are_removed_during_calls() -> None:
    clock = ManualClock()
    with cairnkv.open(clock=clock) as kv:
        kv.set_many({f"{n}": "x" for n in range(500)}, ttl=1)
        clock.advance(5)
        for _ in range(300):
            kv.get("nobody")
        assert kv.info()["expired_keys"] == 500
        assert kv.info()["used_bytes"] == 0


def wait_for(storage: LateStorage, entries: int) -> None:
    """Wait until so many entries are pending."""
    while len(storage.pending) < entries:
        time.sleep(0.001)


def in_turn(kv: Any, function: Callable[[], object]) -> None:
    """Call a function while the thread of a store does nothing."""
    kv._shared.call(function)


def test_write_returns_after_its_commit() -> None:
    storage = LateStorage()
    store = LocalStore(storage=storage)
    kv = Embedded(store, Text(), Text())
    done = threading.Event()

    def write() -> None:
        kv["k"] = "v"
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not storage.pending:
        pass
    assert not done.wait(0.05)
    in_turn(kv, storage.commit)
    assert done.wait(10)
    thread.join(10)
    assert kv["k"] == "v"


async def test_awaited_write_returns_after_its_commit() -> None:
    import asyncio

    storage = LateStorage()
    kv = aio.Embedded(LocalStore(storage=storage), Text(), Text())
    write = asyncio.ensure_future(kv.set("k", "v"))
    read = asyncio.ensure_future(kv.get("k"))
    await asyncio.sleep(0.02)
    assert not write.done()
    assert not read.done()
    in_turn(kv, storage.commit)
    assert (await write, await read) == (True, "v")
    failing = asyncio.ensure_future(kv.set("k", "w"))
    await asyncio.to_thread(wait_for, storage, 1)
    in_turn(kv, lambda: storage.fail("the disk is gone", unknown=True))
    with pytest.raises(cairnkv.OutcomeUnknown):
        await failing
    assert await kv.get("k") == "v"


def test_closed_loop_does_not_block_other_waiting_calls() -> None:
    storage = LateStorage()
    kv: aio.Embedded[str, str] = aio.Embedded(LocalStore(storage=storage), Text(), Text())

    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(kv.set("a", "1"), 0.01)

    async def patient() -> bool:
        setting = asyncio.ensure_future(kv.set("b", "2"))
        await asyncio.to_thread(wait_for, storage, 2)
        in_turn(kv, storage.commit)
        return await setting

    asyncio.run(impatient())
    assert asyncio.run(patient()) is True
