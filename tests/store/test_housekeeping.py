"""What the store does in the background: slices are bounded, they end, and they show nowhere. And what it
makes of a clock that goes back."""

import itertools

import pytest

from cairnkv.commands import MISSING, ClearAll, Count, Expire, Get, Set, SetMany, SetWith, Ttl
from cairnkv.store import LocalStore
from cairnkv.store.housekeeping import EXPIRED_PER_SLICE
from tests.support.clock import HandClock
from tests.support.late_storage import LateStorage


def store_with(count: int, *, ttl: int, every: int = 0) -> tuple[LocalStore, HandClock]:
    """A store with so many keys that expire after `ttl` milliseconds, each `every` later than the one before."""
    clock = HandClock()
    store = LocalStore(clock=clock)
    for number in range(count):
        store.execute(SetWith(b"key:%d" % number, b"v", ttl=ttl + number * every))
    return store, clock


def info(store: LocalStore, name: str) -> int:
    value = dict(store.info())[name]
    assert isinstance(value, int)
    return value


def test_slice_removes_a_bounded_number_of_expired_keys() -> None:
    store, clock = store_with(5 * EXPIRED_PER_SLICE, ttl=1_000)
    clock.advance(10_000)
    assert store.execute(Count()) == 0, "they are invisible before they are removed"
    removed = 0
    while store.housekeep():
        assert 0 <= info(store, "expired_keys") - removed <= EXPIRED_PER_SLICE
        removed = info(store, "expired_keys")
    assert info(store, "expired_keys") == 5 * EXPIRED_PER_SLICE
    assert info(store, "used_bytes") == 0
    store.database.check()


def test_slice_reports_remaining_work() -> None:
    """For any distribution of expiry times: here one key a second."""
    store, clock = store_with(100, ttl=1_000, every=1_000)
    clock.advance(1_000_000)
    rounds = 0
    while store.housekeep():
        rounds += 1
        assert rounds < 1_000
    assert info(store, "used_bytes") == 0
    assert info(store, "expired_keys") == 100


def test_housekeeping_removes_no_visible_key() -> None:
    store, clock = store_with(50, ttl=1_000, every=100)
    store.execute(Set(b"stays", b"v"))
    for _ in range(80):
        clock.advance(100)
        before = store.execute(Count())
        while store.housekeep():
            pass
        assert store.execute(Count()) == before
    assert store.execute(Get(b"stays")) == b"v"


def test_housekeeping_is_not_recorded() -> None:
    storage, clock = LateStorage(), HandClock()
    store = LocalStore(storage=storage, clock=clock)
    store.execute(SetWith(b"k", b"v", ttl=10))
    storage.commit()
    clock.advance(10_000)
    store.housekeep()
    assert info(store, "expired_keys") == 1
    assert storage.pending == []


def test_slice_frees_a_bounded_part_of_a_cleared_table() -> None:
    store = LocalStore(clock=HandClock())
    for begin in range(0, 60_000, 10_000):
        store.execute(SetMany(0, tuple((b"%d" % n, b"") for n in range(begin, begin + 10_000))))
    store.execute(ClearAll())
    garbage = [info(store, "garbage_bytes")]
    while store.housekeep():
        garbage.append(info(store, "garbage_bytes"))
    assert garbage == sorted(garbage, reverse=True)
    assert garbage[-1] == 0
    assert max(before - after for before, after in itertools.pairwise(garbage)) < garbage[0] / 2


def test_slice_is_bounded_if_a_cleared_table_expires_at_once() -> None:
    store = LocalStore(clock=HandClock())
    for begin in range(0, 60_000, 10_000):
        store.execute(SetMany(100_000, tuple((b"%d" % n, b"") for n in range(begin, begin + 10_000))))
    store.execute(ClearAll())
    slices = 0
    while store.housekeep():
        slices += 1
    assert slices >= 6
    assert info(store, "garbage_bytes") == 0


@pytest.mark.parametrize("back", [1, 1_000, 999_999])
def test_clock_that_goes_back_restores_no_expired_key(back: int) -> None:
    store, clock = store_with(1, ttl=1_000)
    clock.advance(1_000)
    assert store.execute(Get(b"key:0")) is MISSING
    clock.advance(-back)
    assert store.execute(Get(b"key:0")) is MISSING
    assert store.execute(Count()) == 0
    assert store.execute(SetWith(b"new", b"v", ttl=50)) == 1
    assert store.execute(Ttl(b"new")) == 50
    assert store.execute(Expire(b"new", 70)) == 1
    assert store.execute(Ttl(b"new")) == 70
    clock.advance(back + 70)
    assert store.execute(Get(b"new")) is MISSING


def test_clock_that_goes_back_does_not_change_log_time() -> None:
    storage, clock = LateStorage(), HandClock()
    store = LocalStore(storage=storage, clock=clock)
    for step in (0, 10, -500, 20, 1_000):
        clock.advance(step)
        store.execute(Set(b"k", b"v"))
    times = [entry.now for entry in storage.pending]
    assert times == sorted(times)


def test_log_time_advances_on_an_idle_store() -> None:
    store, clock = store_with(1, ttl=1_000)
    clock.advance(5_000)
    store.housekeep()
    assert info(store, "log_time_ms") == clock.now
