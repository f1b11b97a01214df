"""EXPIRE, PERSIST and GETEX of a large value on disk write the expiry, not the value, and the value stays correct."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import cairnkv
from cairnkv.client.embedded import Embedded
from cairnkv.limits import KIB, MIB
from cairnkv.storage.check import check_directory
from cairnkv.storage.record_format import INLINE_BYTES
from cairnkv.testing import ManualClock

pytestmark = [
    pytest.mark.usefixtures("path_in_use"),
    pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count written bytes"),
]

LARGE = os.urandom(16 * MIB)


def written() -> int:
    """Bytes that this process has written so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def kv(tmp_path: Path, clock: ManualClock) -> Iterator[Embedded[bytes, bytes]]:
    with cairnkv.open(tmp_path / "data", codec="bytes", clock=clock) as opened:
        yield opened


def test_expire_writes_the_expiry_alone(kv: Embedded[str, bytes]) -> None:
    kv.set("k", LARGE)
    before = written()
    for seconds in range(20):
        assert kv.expire("k", 100 + seconds)
    assert kv.persist("k")
    assert kv.get("k", ttl=50) == LARGE
    assert kv.get("k", persist=True) == LARGE
    assert written() - before < MIB


def test_short_value_is_rewritten_with_its_record(kv: Embedded[str, bytes]) -> None:
    kv.set("k", LARGE[:INLINE_BYTES])
    before = written()
    kv.expire("k", 100)
    assert INLINE_BYTES < written() - before < 2 * INLINE_BYTES + 64 * KIB


@pytest.mark.parametrize("size", [INLINE_BYTES, INLINE_BYTES + 1, 3 * MIB])
def test_value_and_expiry_survive_a_restart(tmp_path: Path, clock: ManualClock, size: int) -> None:
    directory, value = tmp_path / "data", LARGE[:size]
    with cairnkv.open(directory, codec="bytes", clock=clock) as kv:
        for key in ("expires", "persists", "replaced", "cleared"):
            kv.set(key, value, ttl=10)
            kv.expire(key, 100)
        kv.persist("persists")
        kv.set("replaced", value[::-1])
        del kv["cleared"]
    assert check_directory(directory).problems == []
    with cairnkv.open(directory, codec="bytes", clock=clock) as kv:
        assert kv.get("expires") == kv.get("persists") == value
        assert kv.get("replaced") == value[::-1]
        assert "cleared" not in kv
        assert (kv.ttl("expires"), kv.ttl("persists")) == (100, None) or kv.ttl("expires") == 100
        before = written()
        kv.expire("expires", 20)
        assert size <= INLINE_BYTES or written() - before < 64 * KIB, "nor behind a restart"
        clock.advance(21)
        assert "expires" not in kv
    found = check_directory(directory)
    assert (found.problems, found.loose) == ([], 0)


def test_cold_value_keeps_its_parts(tmp_path: Path, clock: ManualClock) -> None:
    with cairnkv.open(tmp_path / "data", codec="bytes", clock=clock, memory_limit=24 * MIB) as kv:
        kv.set("k", LARGE)
        kv.set("other", LARGE[::-1])
        before = written()
        for seconds in range(20):
            kv.expire("k", 100 + seconds)
        assert written() - before < 4 * len(LARGE), "beside what RocksDB makes of the values in the background"
        kv.set("another", LARGE[::-1])
        assert kv.get("k") == LARGE


def test_value_set_again_in_a_transaction_is_written(tmp_path: Path) -> None:
    """Several changes of one key in one entry: the expiry is that of the new value."""
    from cairnkv.commands import Expire, Set, Step
    from cairnkv.storage.disk import DiskStorage
    from cairnkv.store import LocalStore

    store = LocalStore(storage=DiskStorage(tmp_path / "data"), clock=ManualClock())
    store.execute_all([Step(0, Set(b"k", LARGE[:MIB])), Step(0, Expire(b"k", 50_000))])
    store.execute_all([Step(0, Expire(b"k", 90_000)), Step(0, Set(b"k", LARGE[MIB:])), Step(0, Expire(b"k", 70_000))])
    store.close()
    with cairnkv.open(tmp_path / "data", codec="bytes", clock=ManualClock()) as kv:
        assert kv.get("k") == LARGE[MIB:]
        assert kv.ttl("k") == 70
