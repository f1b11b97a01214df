"""The memory limit: refused or evicting writes; reads and CLEAR always work."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import (
    COMMANDS,
    MISSING,
    OK,
    Clear,
    ClearAll,
    ClearIfEquals,
    ClearMany,
    ClearPrefix,
    Command,
    Count,
    Exists,
    Failure,
    Get,
    GetMany,
    GetWith,
    Incr,
    Items,
    Persist,
    Ping,
    Scan,
    Set,
    SetMany,
    SetWith,
    Ttl,
    failures,
)
from cairnkv.commands.vocabulary import (
    AMOUNT,
    BIT_OFFSET,
    DB,
    DECIMAL,
    KEY,
    MILLISECONDS,
    MILLISECONDS_OR_NONE,
    OFFSET,
    TIME,
    UNIX_MILLISECONDS,
    VALUE,
)
from cairnkv.engine.expiry import TICK_BYTES
from cairnkv.engine.table import USE_BYTES
from cairnkv.store import LocalStore, PendingReply, WhenFull
from tests.support.clock import HandClock
from tests.support.late_storage import LateStorage
from tests.support.strategies import Kinds, commands


def bytes_of(*said: Command) -> int:
    """Return the memory of a store after these commands."""
    store = LocalStore(clock=HandClock())
    for command in said:
        store.execute(command)
    return store.memory.used_bytes


def full(reply: object) -> bool:
    return isinstance(reply, Failure) and reply.code is failures.FULL


def numbered(count: int) -> list[Command]:
    """Writes of so many keys, all of one size."""
    return [Set(b"key:%06d" % number, b"v" * 100) for number in range(count)]


EACH = bytes_of(*numbered(1))
IN_USE = EACH + USE_BYTES


class TestRefusing:
    @pytest.mark.parametrize(
        "write",
        [
            Set(b"k", b"v" * 50),
            SetWith(b"k", b"v" * 50, if_absent=True),
            SetMany(0, ((b"k", b"v" * 50), (b"l", b"w"))),
            Incr(b"k", 12_345),
        ],
        ids=lambda write: write.spec.name,
    )
    def test_write_that_just_fits_is_accepted_and_one_byte_more_refused(self, write: Command) -> None:
        before = numbered(3)
        room = bytes_of(*before, write)
        slack = len(b"IFABSENT") if isinstance(write, SetWith) else 1 if isinstance(write, SetMany) else 0
        for limit, refused in ((room + slack, False), (room - 1, True)):
            store = LocalStore(clock=HandClock(), memory_limit=limit)
            for command in before:
                assert store.execute(command) is OK
            assert full(store.execute(write)) == refused
            assert store.database.used_bytes == bytes_of(*before, *([] if refused else [write]))

    def test_replacing_value_needs_memory_for_the_difference(self) -> None:
        store = LocalStore(clock=HandClock(), memory_limit=bytes_of(Set(b"k", b"v" * 100)))
        assert store.execute(Set(b"k", b"v" * 100)) is OK
        assert store.execute(Set(b"k", b"w" * 100)) is OK
        assert store.execute(Set(b"k", b"w" * 50)) is OK
        assert store.execute(Set(b"k", b"x" * 100)) is OK
        assert full(store.execute(Set(b"k", b"x" * 101)))
        assert store.execute(Get(b"k")) == b"x" * 100

    def test_several_values_are_stored_all_or_none(self) -> None:
        store = LocalStore(clock=HandClock(), memory_limit=2 * EACH)
        pairs = tuple((b"key:%06d" % number, b"v" * 100) for number in range(3))
        assert full(store.execute(SetMany(0, pairs)))
        assert store.execute(Count()) == 0

    def test_reads_and_clear_continue(self) -> None:
        store = LocalStore(clock=HandClock(), memory_limit=EACH)
        assert store.execute(numbered(1)[0]) is OK
        key = b"key:%06d" % 0
        assert full(store.execute(Set(b"another", b"v")))
        some: tuple[Command, ...] = (
            Get(key),
            GetMany((key,)),
            Exists((key,)),
            Ttl(key),
            Count(),
            Scan(0, 9, b""),
            Ping(b""),
        )
        for command in some:
            assert not isinstance(store.execute(command), Failure)
        some = (Persist(key), ClearIfEquals(key, b"other"), ClearPrefix(b"no", 0), GetWith(key, persist=True))
        for command in some:
            assert not isinstance(store.execute(command), Failure)
        some = (ClearMany((key,)), Clear(key), ClearAll())
        for command in some:
            assert not isinstance(store.execute(command), Failure)
        assert store.execute(numbered(1)[0]) is OK, "and what was cleared makes room"

    def test_expired_keys_free_memory(self) -> None:
        clock = HandClock()
        several = [SetWith(b"key:%d" % number, b"v" * 100, ttl=1_000 + 2_000 * number) for number in range(20)]
        store = LocalStore(clock=clock, memory_limit=bytes_of(*several) + 20)
        for command in several:
            assert store.execute(command) == 1
        assert full(store.execute(Set(b"another", b"v" * 1_000)))
        clock.advance(100_000)
        assert store.execute(Set(b"another", b"v" * 1_000)) is OK

    def test_cleared_table_frees_memory(self) -> None:
        """It is freed in slices; writes that need memory free some, and do not exceed the limit for long."""
        store = LocalStore(clock=HandClock(), memory_limit=1_000 * EACH)
        for _ in range(3):
            for command in numbered(1_000):
                assert store.execute(command) is OK
            assert full(store.execute(Set(b"another", b"")))
            assert store.execute(ClearAll()) is OK
            assert store.database.used_bytes == 0
            assert store.database.garbage_bytes > 0
        for command in numbered(1_000):
            assert store.execute(command) is OK
            assert store.database.used_bytes + store.database.garbage_bytes <= 1_000 * EACH
        assert store.database.garbage_bytes == 0

    def test_refused_write_never_reaches_storage(self) -> None:
        storage = LateStorage()
        store = LocalStore(storage=storage, clock=HandClock(), memory_limit=EACH)
        store.execute(numbered(1)[0])
        assert full(store.execute(Set(b"another", b"v")))
        assert [entry.command for entry in storage.pending] == numbered(1)

    def test_without_a_limit_nothing_is_refused(self) -> None:
        store = LocalStore(clock=HandClock())
        for command in numbered(1_000):
            assert store.execute(command) is OK


GROWING = commands(
    [command for command in COMMANDS if command.spec.grows or command in (Clear, GetWith, ClearAll)],
    Kinds(
        {
            KEY: st.sampled_from([b"a", b"b", b"c", b"d" * 40]),
            VALUE: st.sampled_from([b"", b"7", b"-9", b"1e300", b"v" * 60, b"v" * 200]),
            MILLISECONDS: st.integers(1, 2_000),
            MILLISECONDS_OR_NONE: st.integers(0, 2_000),
            AMOUNT: st.integers(-12, 12),
            TIME: st.integers(-100, 2_000),
            UNIX_MILLISECONDS: st.integers(HandClock().now - 100, HandClock().now + 5_000),
            OFFSET: st.integers(0, 300),
            BIT_OFFSET: st.integers(0, 3_000),
            DB: st.integers(0, 1),
            DECIMAL: st.sampled_from([b"0.5", b"-1", b"1e500", b"-1e300", b"x"]),
        }
    ),
)


@given(
    said=st.lists(st.tuples(GROWING, st.integers(0, 500)), max_size=40),
    limit=st.integers(0, 1_500),
    when_full=st.sampled_from(WhenFull),
)
def test_writes_never_exceed_the_limit(said: list[tuple[Command, int]], limit: int, when_full: WhenFull) -> None:
    clock = HandClock()
    store = LocalStore(clock=clock, memory_limit=limit, when_full=when_full)
    for command, step in said:
        clock.advance(step)
        before = store.memory.used_bytes
        store.execute(command)
        if command.spec.grows:
            assert store.memory.used_bytes <= max(limit, before) + TICK_BYTES  # of a deadline that moves
        for database in store.databases:
            database.check()


class TestEvicting:
    def _store(self, room: int, storage: LateStorage | None = None) -> LocalStore:
        return LocalStore(storage=storage, clock=HandClock(), memory_limit=room, when_full=WhenFull.EVICT)

    def _there(self, store: LocalStore, count: int) -> list[bool]:
        reply = store.execute(GetMany(tuple(b"key:%06d" % number for number in range(count))))
        assert isinstance(reply, Items)
        return [value is not None for value in reply.values]

    def test_every_write_is_accepted_and_the_limit_is_kept(self) -> None:
        store = self._store(100 * IN_USE)
        for command in numbered(1_000):
            assert store.execute(command) is OK
            assert store.memory.used_bytes <= 100 * IN_USE
        assert store.execute(Count()) == 100
        assert store.execute(Get(b"key:000999")) == b"v" * 100
        store.database.check()

    def test_nothing_is_evicted_before_the_limit(self) -> None:
        store = self._store(100 * IN_USE)
        for command in numbered(100):
            store.execute(command)
        assert store.execute(Count()) == 100
        assert dict(store.info())["evicted_keys"] == 0
        store.execute(Set(b"key:000100", b"v" * 100))
        assert store.execute(Count()) == 100
        assert dict(store.info())["evicted_keys"] == 1

    def test_victims_are_among_the_least_recently_used(self) -> None:
        """Of 2,000 keys the older half is used again; then 500 go: nearly all, of the other half's older part."""
        store = self._store(2_000 * IN_USE)
        for command in numbered(2_000):
            store.execute(command)
        for number in range(1_000):
            assert store.execute(Get(b"key:%06d" % number)) == b"v" * 100
        for command in numbered(2_500)[2_000:]:
            assert store.execute(command) is OK
        there = self._there(store, 2_500)
        assert all(there[:1_000]), "what was used last stays"
        assert all(there[2_000:]), "and so does what came last"
        assert there[1_000:1_500].count(False) > there[1_500:2_000].count(False)
        assert there[1_000:2_000].count(False) == 500

    @pytest.mark.parametrize(
        "use", [Get, lambda key: Exists((key,)), lambda key: GetMany((key,)), Ttl], ids=["GET", "EXISTS", "MANY", "TTL"]
    )
    def test_every_use_counts(self, use: type[Get]) -> None:
        store = self._store(10 * IN_USE)
        for command in numbered(10):
            store.execute(command)
        for command in numbered(40)[10:]:
            store.execute(use(b"key:000000"))
            store.execute(command)
        assert store.execute(Get(b"key:000000")) == b"v" * 100

    def test_own_keys_of_a_command_are_never_evicted_for_it(self) -> None:
        """Even if they are the least recently used."""
        store = self._store(10 * IN_USE)
        for command in numbered(10):
            store.execute(command)
        assert store.execute(Incr(b"key:000000", 1)) != 1
        assert store.execute(Set(b"key:000000", b"v" * 101)) is OK
        assert store.execute(Get(b"key:000000")) == b"v" * 101
        assert store.execute(Count()) == 9
        own = tuple((b"key:%06d" % number, b"w" * 150) for number in range(1, 6))
        assert store.execute(SetMany(0, own)) is OK
        for key, value in own:
            assert store.execute(Get(key)) == value

    def test_condition_is_checked_before_the_eviction(self) -> None:
        store = self._store(5 * IN_USE)
        for command in numbered(5):
            store.execute(command)
        assert store.execute(SetWith(b"key:000000", b"v" * 120, if_present=True)) == 1
        assert store.execute(Get(b"key:000000")) == b"v" * 120

    def test_value_that_can_never_fit_is_refused_without_eviction(self) -> None:
        store = self._store(5 * IN_USE)
        for command in numbered(5):
            store.execute(command)
        assert full(store.execute(Set(b"huge", b"v" * 6 * IN_USE)))
        assert store.execute(Count()) == 5

    def test_value_as_large_as_the_limit_evicts_all_others(self) -> None:
        room = 5 * IN_USE
        store = self._store(room)
        for command in numbered(5):
            store.execute(command)
        huge = Set(b"huge", b"v" * (room - USE_BYTES - bytes_of(Set(b"huge", b""))))
        assert store.execute(huge) is OK
        assert store.execute(Count()) == 1

    def test_eviction_is_recorded_as_a_delete_before_its_write(self) -> None:
        storage = LateStorage()
        store = self._store(2 * IN_USE, storage)
        first, second, third = numbered(3)
        for command in (first, second, third):
            store.execute(command)
        commands_logged = [entry.command for entry in storage.pending]
        assert commands_logged[:2] == [first, second]
        assert isinstance(commands_logged[2], Clear)
        assert commands_logged[3] == third

    def test_uncommitted_eviction_is_undone(self) -> None:
        storage = LateStorage()
        store = self._store(2 * IN_USE, storage)
        for command in numbered(2):
            store.execute(command)
        storage.commit()
        held = store.execute(Set(b"key:000002", b"v" * 100))
        assert isinstance(held, PendingReply)
        storage.fail()
        assert self._there(store, 3) == [True, True, False]
        assert store.memory.used_bytes == 2 * IN_USE
        store.database.check()

    def test_key_of_an_undone_eviction_can_be_evicted_again(self) -> None:
        storage = LateStorage()
        store = self._store(3 * IN_USE, storage)
        for command in numbered(3):
            store.execute(command)
        storage.commit()
        for _ in range(5):
            assert isinstance(store.execute(Set(b"large", b"v" * 400)), PendingReply)
            storage.fail()
        assert isinstance(store.execute(Set(b"large", b"v" * 400)), PendingReply)
        storage.commit()
        assert store.execute(Get(b"large")) == b"v" * 400
        assert store.memory.used_bytes <= 3 * IN_USE

    def test_keys_of_an_undone_clear_all_can_be_evicted(self) -> None:
        """Their last use is not known."""
        storage = LateStorage()
        store = self._store(100 * IN_USE, storage)
        for command in numbered(100):
            store.execute(command)
        storage.commit()
        store.execute(ClearAll())
        storage.fail()
        for number in range(100):
            assert isinstance(store.execute(Set(b"new:%06d" % number, b"v" * 100)), PendingReply)
            storage.commit()
        assert store.execute(Count()) == 100
        assert dict(store.info())["evicted_keys"] == 100
        assert store.execute(Scan(0, 1_000, b"key:")) == Items((b"0",)), "and goes before what has been used since"

    def test_keys_from_before_the_limit_are_evicted_first(self) -> None:
        store = LocalStore(clock=HandClock())
        for command in numbered(300):
            store.execute(command)
        store.execute(Set(b"key:000000", b"v" * 100), 7)
        store.limit_memory(300 * IN_USE, WhenFull.EVICT)
        for number in range(50):
            assert store.execute(Get(b"key:%06d" % number)) == b"v" * 100
        for number in range(251):
            assert store.execute(Set(b"new:%06d" % number, b"v" * 100)) is OK
        assert store.memory.used_bytes <= 300 * IN_USE
        there = self._there(store, 300)
        assert there[:50].count(False) <= 1, "one of the used ones, when nothing else was left"
        assert not any(there[50:])
        assert store.execute(Count(), 7) == 0

    def test_refusing_storage_evicts_no_key(self) -> None:
        storage = LateStorage()
        store = self._store(3 * IN_USE, storage)
        for command in numbered(3):
            store.execute(command)
        storage.commit()
        storage.refusal = "90 % full"
        reply = store.execute(Set(b"another", b"v" * 100))
        assert isinstance(reply, Failure)
        assert not reply.code.executed
        assert self._there(store, 3) == [True] * 3
        assert dict(store.info())["evicted_keys"] == 0

    @pytest.mark.parametrize(
        "emptied",
        [
            pytest.param([ClearAll()], id="CLEAR_ALL"),
            pytest.param([ClearPrefix(b"key:", 0), ClearPrefix(b"key:", 2**31)] * 4, id="CLEAR_PREFIX"),
            pytest.param([Clear(b"key:%06d" % number) for number in range(3_000)], id="CLEAR"),
        ],
    )
    def test_deleted_keys_are_not_counted_as_victims(self, emptied: list[Command]) -> None:
        """Otherwise a write would be refused for want of useful victims."""
        store = self._store(3_000 * IN_USE)
        for command in numbered(3_000):
            store.execute(command)
        for command in emptied:
            store.execute(command)
        assert store.execute(Count()) == 0
        while store.housekeep():
            pass
        fresh = [Set(b"new:%06d" % number, b"v" * 100) for number in range(3_100)]
        for command in fresh:
            assert store.execute(command) is OK
        assert store.execute(Count()) == 3_000
        assert dict(store.info())["evicted_keys"] == 100

    def test_expired_keys_are_evicted_first(self) -> None:
        clock = HandClock()
        store = LocalStore(clock=clock, memory_limit=20 * IN_USE, when_full=WhenFull.EVICT)
        for command in numbered(5):
            store.execute(command)
        for number in range(5):
            store.execute(SetWith(b"short:%d" % number, b"v" * 100, ttl=100))
        clock.advance(10_000)
        for number in range(10):
            assert store.execute(Set(b"more:%04d" % number, b"v" * 100)) is OK
        assert all(self._there(store, 5))
        assert dict(store.info())["evicted_keys"] == 0

    def test_evicted_key_is_missing(self) -> None:
        store = self._store(IN_USE)
        store.execute(Set(b"key:000000", b"v" * 100))
        store.execute(Set(b"key:000001", b"v" * 100))
        assert store.execute(Get(b"key:000000")) is MISSING
