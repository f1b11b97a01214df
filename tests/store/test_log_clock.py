"""Log time after an operator corrects a wrong clock: it never goes back and never stops, and TTLs count elapsed time.
In memory, on disk over a restart, and in a cluster."""

import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cairnkv
from cairnkv.commands import (
    MISSING,
    Command,
    Count,
    Deadline,
    Expire,
    ExpireWith,
    Get,
    GetWith,
    Set,
    SetMany,
    SetWith,
    Ttl,
)
from cairnkv.engine import Shared
from cairnkv.storage.disk import DiskStorage
from cairnkv.store import LocalStore
from cairnkv.store import clock as clocks
from cairnkv.store.clock import JUMP_MS, LogClock
from cairnkv.testing import ManualClock, running_server
from tests.support.clock import HandClock
from tests.support.resp import request
from tests.support.simulated import Cluster

pytestmark = pytest.mark.usefixtures("path_in_use")

HOUR = 3_600_000
BEGIN = 1_800_000_000_000


class Place:
    """A store, its clock, and a restart."""

    def __init__(self, new_store: Callable[[HandClock], LocalStore]) -> None:
        self.clock = HandClock(BEGIN)
        self._new_store = new_store
        self.store = new_store(self.clock)

    def restart(self) -> None:
        """Restart with the stored data."""
        self.store.close()
        self.store = self._new_store(self.clock)

    def __call__(self, command: Command) -> object:
        reply = self.store.execute(command)
        return getattr(reply, "outcome", reply)

    def was_wrong(self, by: int = HOUR) -> None:
        """The clock is ahead for a moment and is put right."""
        self(SetWith(b"seen", b"v", ttl=10 * HOUR))
        self.clock.advance(by)
        self(Get(b"seen"))
        self.clock.advance(-by)


@pytest.fixture(params=["memory", "disk"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    def new_store(clock: HandClock) -> LocalStore:
        return LocalStore(clock=clock, storage=DiskStorage(tmp_path / "data") if request.param == "disk" else None)

    found = Place(new_store)
    yield found
    found.store.close()


GIVE_A_TTL: dict[str, Callable[[Place, int], object]] = {
    "SET": lambda place, ttl: place(SetWith(b"k", b"v", ttl=ttl)),
    "MSET": lambda place, ttl: place(SetMany(ttl, ((b"k", b"v"),))),
    "EXPIRE": lambda place, ttl: (place(Set(b"k", b"v")), place(Expire(b"k", ttl))),
    "GETEX": lambda place, ttl: (place(Set(b"k", b"v")), place(GetWith(b"k", ttl=ttl))),
    "SET at": lambda place, ttl: place(SetWith(b"k", b"v", at=place.clock.now + ttl)),
    "EXPIREAT": lambda place, ttl: (place(Set(b"k", b"v")), place(ExpireWith(b"k", place.clock.now + ttl, at=True))),
}


@pytest.mark.parametrize("how", GIVE_A_TTL)
@pytest.mark.parametrize("ttl", [1_000, HOUR, 5 * HOUR])
def test_key_lives_for_its_ttl(place: Place, how: str, ttl: int) -> None:
    place.was_wrong()
    GIVE_A_TTL[how](place, ttl)
    assert place(Ttl(b"k")) == ttl
    assert place(Deadline(b"k")) == place.clock.now + ttl
    place.clock.advance(ttl // 2)
    assert place(Ttl(b"k")) == ttl // 2
    place.clock.advance(ttl // 2 - 2)
    assert place(Get(b"k")) == b"v"
    place.clock.advance(3)
    assert place(Get(b"k")) is MISSING


def test_restart_keeps_log_time_ahead_of_the_clock(tmp_path: Path) -> None:
    place = Place(lambda clock: LocalStore(clock=clock, storage=DiskStorage(tmp_path / "data")))
    place.was_wrong()
    place(SetWith(b"before", b"v", ttl=10_000))
    place.restart()
    place(SetWith(b"k", b"v", ttl=1_000))
    assert place(Ttl(b"before")) == 10_000
    place.clock.advance(1_001)
    assert place(Get(b"k")) is MISSING
    place.restart()
    place.clock.advance(9_000)
    assert place(Get(b"before")) is MISSING
    place.store.close()


def test_key_expired_by_the_wrong_clock_does_not_return(place: Place) -> None:
    place(SetWith(b"k", b"v", ttl=HOUR // 2))
    place.was_wrong()
    for step in (0, 1_000, HOUR, 2 * HOUR):
        place.clock.advance(step)
        assert place(Get(b"k")) is MISSING


def test_log_time_meets_the_clock_after_twice_as_long_as_it_was_ahead(place: Place) -> None:
    place.was_wrong()
    place(Get(b"k"))
    for _ in range(4):
        place.clock.advance(HOUR // 2 - 10)
        place(Get(b"k"))
        assert place.store.log_clock.shared.lead > 0
    place.clock.advance(41)
    place(Get(b"k"))
    assert place.store.log_clock.shared.lead == 0
    assert place.store.database.now == place.clock.now


@given(st.lists(st.integers(-10_000, 10_000) | st.just(0), max_size=30), st.integers(5, 20_000))
def test_log_time_never_goes_back_or_stops(steps: list[int], ttl: int) -> None:
    """After any steps of the clock a key is set, and the clock is correct from then on."""
    clock = HandClock(BEGIN)
    store = LocalStore(clock=clock)
    times = [store.database.now]
    for step in steps:
        clock.advance(step)
        store.execute(Get(b"k"))
        times.append(store.database.now)
    assert times == sorted(times)
    store.execute(SetWith(b"k", b"v", ttl=ttl))
    clock.advance(ttl - 2)
    assert store.execute(Get(b"k")) == b"v"
    clock.advance(4)
    assert store.execute(Get(b"k")) is MISSING


def test_server_expires_keys_set_on_the_native_path() -> None:
    clock = ManualClock()
    with running_server(clock=clock) as running:
        assert running.address is not None
        with socket.create_connection(running.address, timeout=20) as connection, connection.makefile("rb") as replies:

            def say(words: str, *expected: bytes) -> None:
                connection.sendall(request(*words.encode().split()))
                assert [replies.readline() for _ in expected] == [line + b"\r\n" for line in expected]

            say("SET seen v EX 90000", b"+OK")
            for ahead in (3_600.0, -3_600.0):
                clock.advance(ahead)
                say("GET seen", b"$1", b"v")
            say("SET lock me EX 5", b"+OK")
            clock.advance(4.9)
            say("GET lock", b"$2", b"me")
            clock.advance(0.2)
            say("GET lock", b"$-1")


def test_embedded_store_expires_keys_read_by_direct_calls() -> None:
    clock = HandClock(BEGIN)
    with cairnkv.open(clock=clock) as kv:
        kv.set("a", "1", ttl=60)
        clock.advance(HOUR // 100)
        kv.get("a")
        clock.advance(-HOUR // 100)
        kv.set("k", "v", ttl=2)
        for _ in range(10):
            assert kv.get("k") == "v"
            clock.advance(199)
        clock.advance(11)
        assert kv.get("k") is None


class TestInACluster:
    @pytest.fixture
    def cluster(self) -> Cluster:
        clock = HandClock(BEGIN)
        cluster = Cluster(3, clock=clock)
        cluster.settle()
        return cluster

    def _said(self, cluster: Cluster, number: int, command: Command) -> object:
        held = cluster.nodes[number].running.execute(command)
        cluster.settle()
        return getattr(held, "reply", held)

    def test_nodes_agree_and_keys_live_for_their_ttl(self, cluster: Cluster) -> None:
        clock = cluster.clock
        assert isinstance(clock, HandClock)
        self._said(cluster, 0, Set(b"seen", b"v"))
        clock.advance(HOUR)
        self._said(cluster, 1, Set(b"seen", b"v"))
        clock.advance(-HOUR)
        self._said(cluster, 2, SetWith(b"k", b"v", ttl=10_000))
        assert self._said(cluster, 1, Ttl(b"k")) == 10_000
        for number in range(3):
            clock.advance(3_333)
            assert self._said(cluster, number, Get(b"k")) == b"v"
        clock.advance(5)
        assert self._said(cluster, 0, Get(b"k")) is MISSING
        assert len({node.running.databases[0].now for node in cluster.nodes}) == 1
        assert len({node.running.digest for node in cluster.nodes}) == 1

    def test_nodes_agree_under_continuous_load(self, cluster: Cluster) -> None:
        """Entries follow each other closely, and the time in flight counts too."""
        clock = cluster.clock
        assert isinstance(clock, HandClock)
        self._said(cluster, 0, Set(b"seen", b"v"))
        clock.advance(HOUR)
        self._said(cluster, 1, Set(b"seen", b"v"))
        clock.advance(-HOUR)
        self._said(cluster, 2, SetWith(b"k", b"v", ttl=1_000))
        for number in range(99):
            clock.advance(10)
            assert self._said(cluster, number % 3, Get(b"k")) == b"v"
        clock.advance(15)
        assert self._said(cluster, 0, Get(b"k")) is MISSING


class TestSystemClock:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> "TestSystemClock.System":
        system = self.System()
        monkeypatch.setattr(clocks, "wall_clock", lambda: system.wall)
        monkeypatch.setattr(time, "monotonic_ns", lambda: system.elapsed * 1_000_000)
        system.log_clock = LogClock(clocks.wall_clock, Shared())
        return system

    class System:
        """The time of the system's clock."""

        wall = BEGIN
        elapsed = 5_000
        log_clock: LogClock

        def go_on(self, milliseconds: int, *, jump: int = 0) -> int:
            """Let time pass and set the clock; log time then."""
            self.elapsed += milliseconds
            self.wall += milliseconds + jump
            return self.log_clock()

    def test_a_forward_jump_of_hours_is_a_warning(
        self, clock: "TestSystemClock.System", caplog: pytest.LogCaptureFixture
    ) -> None:
        clock.log_clock()
        clock.go_on(10 * HOUR)
        clock.go_on(1_000, jump=JUMP_MS - 1)
        assert not caplog.records
        clock.go_on(1_000, jump=2 * HOUR)
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "forward by 2 h 0 min 0 s" in record.message

    def test_elapsed_time_is_independent_of_the_clock(
        self, clock: "TestSystemClock.System", caplog: pytest.LogCaptureFixture
    ) -> None:
        before = clock.log_clock()
        assert clock.go_on(2_000, jump=-HOUR) == before + 1_000, "half of what has elapsed, idle or not"
        assert "0 h 59 min 58 s ahead" in caplog.records[-1].message
        assert clock.go_on(2_000, jump=HOUR // 2) == before + 2_000, "and not of how far the clock was set"
        assert clock.go_on(2_000, jump=-HOUR) == before + 3_000
        assert len(caplog.records) == 1


def test_clock_jump_expires_keys_in_bounded_slices() -> None:
    clock = HandClock(BEGIN)
    store = LocalStore(clock=clock)
    for first in range(0, 3_000, 1_000):
        store.execute(SetMany(10_000 + first, tuple((b"%d" % n, b"v") for n in range(first, first + 1_000))))
    clock.advance(10 * HOUR)
    assert store.execute(Count()) == 0
    slices = 0
    while store.housekeep():
        slices += 1
    assert slices >= 3_000 / 200
    assert store.memory.used_bytes == 0
