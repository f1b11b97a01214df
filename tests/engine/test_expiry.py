"""Expiry: from its expiry time on, a key is invisible to every command, removed or not, and never comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import (
    MISSING,
    OK,
    Clear,
    ClearIfEquals,
    ClearMany,
    ClearPrefix,
    Command,
    Count,
    Exists,
    Expire,
    Get,
    GetMany,
    GetWith,
    Incr,
    Items,
    Persist,
    Reply,
    Scan,
    Set,
    SetMany,
    SetWith,
    Swap,
    Ttl,
)
from cairnkv.engine import Database, apply, undo
from cairnkv.engine.database import Journal
from cairnkv.limits import TTL_MAX

BEGIN = 1_000_000
TTL = 10_000
DEADLINE = BEGIN + TTL

SIGHTS: list[tuple[Command, Reply, Reply]] = [
    (Get(b"k"), b"5", MISSING),
    (Exists((b"k", b"k")), 2, 0),
    (GetMany((b"k", b"other")), Items((b"5", None)), Items((None, None))),
    (GetWith(b"k"), b"5", MISSING),
    (GetWith(b"k", clear=True), b"5", MISSING),
    (GetWith(b"k", ttl=1), b"5", MISSING),
    (GetWith(b"k", persist=True), b"5", MISSING),
    (SetWith(b"k", b"new", if_present=True), 1, 0),
    (SetWith(b"k", b"new", if_absent=True), 0, 1),
    (SetWith(b"k", b"new", if_equals=b"5"), 1, 0),
    (Swap(b"k", b"new"), b"5", MISSING),
    (ClearIfEquals(b"k", b"5"), 1, 0),
    (ClearMany((b"k",)), 1, 0),
    (Incr(b"k", 2), 7, 2),
    (Ttl(b"k"), 1, MISSING),
    (Expire(b"k", 100), 1, 0),
    (Persist(b"k"), 1, 0),
    (Count(), 1, 0),
    (Scan(0, 10, b""), Items((b"0", b"k")), Items((b"0",))),
    (ClearPrefix(b"", 0), Items((b"0", b"1")), Items((b"0", b"0"))),
]
"""A command, what it answers one millisecond before the deadline, and at it."""


def with_a_key_that_expires() -> Database:
    database = Database()
    apply(database, SetWith(b"k", b"5", ttl=TTL), BEGIN)
    return database


@pytest.mark.parametrize(("command", "before", "after"), SIGHTS, ids=lambda it: repr(it) if it in SIGHTS else None)
@pytest.mark.parametrize("removed", [False, True], ids=["still in memory", "removed"])
def test_key_exists_until_its_expiry_time_and_not_at_it(
    command: Command, before: Reply, after: Reply, removed: bool
) -> None:
    assert apply(with_a_key_that_expires(), command, DEADLINE - 1) == before
    for at in (DEADLINE, DEADLINE + 1, DEADLINE + 10**9):
        database = with_a_key_that_expires()
        if removed:
            database.advance(at)
            database.delete(b"k")
        assert apply(database, command, at) == after
        database.check()


@pytest.mark.parametrize("way", [Set(b"k", b"v"), SetWith(b"k", b"v"), SetMany(0, ((b"k", b"v"),)), Persist(b"k")])
def test_set_and_persist_remove_the_expiry_time(way: Command) -> None:
    database = with_a_key_that_expires()
    apply(database, way, DEADLINE - 1)
    assert apply(database, Ttl(b"k"), DEADLINE + 10**9) == -1
    database.check()


def test_keep_ttl_keeps_the_expiry_time_or_its_absence() -> None:
    database = with_a_key_that_expires()
    assert apply(database, SetWith(b"k", b"new", keep_ttl=True), BEGIN + 1) == 1
    assert apply(database, Ttl(b"k"), BEGIN + 1) == TTL - 1
    assert apply(database, SetWith(b"k", b"newer", keep_ttl=True), DEADLINE) == 1
    assert apply(database, Ttl(b"k"), DEADLINE) == -1


def test_incr_keeps_the_expiry_time() -> None:
    database = with_a_key_that_expires()
    apply(database, Incr(b"k", 1), BEGIN + 1)
    assert apply(database, Ttl(b"k"), BEGIN + 1) == TTL - 1


def test_longest_ttl_is_accepted() -> None:
    database = Database()
    now = 2_000_000_000_000
    apply(database, SetWith(b"k", b"v", ttl=TTL_MAX), now)
    assert apply(database, Ttl(b"k"), now) == TTL_MAX
    assert apply(database, Get(b"k"), now + TTL_MAX - 1) == b"v"
    assert apply(database, Get(b"k"), now + TTL_MAX) is MISSING


def test_clock_that_goes_back_restores_no_expired_key() -> None:
    database = with_a_key_that_expires()
    assert apply(database, Get(b"k"), DEADLINE) is MISSING
    assert apply(database, Get(b"k"), BEGIN) is MISSING
    assert apply(database, Count(), BEGIN) == 0
    assert apply(database, SetWith(b"other", b"v", ttl=10), BEGIN) == 1
    assert apply(database, Ttl(b"other"), BEGIN) == 10


def test_undo_does_not_turn_time_back() -> None:
    database = with_a_key_that_expires()
    journal: Journal = []
    database.shared.journal = journal
    assert apply(database, Set(b"k", b"v"), BEGIN + 1) is OK
    database.shared.journal = None
    database.advance(DEADLINE)
    undo(journal)
    assert apply(database, Get(b"k"), DEADLINE) is MISSING
    assert apply(database, Count(), DEADLINE) == 0
    database.check()


@given(
    ttls=st.lists(st.integers(1, 20_000), min_size=1, max_size=60),
    times=st.lists(st.integers(0, 25_000), min_size=1, max_size=8).map(sorted),
    limit=st.integers(1, 20),
)
def test_count_is_exact_and_removal_finds_all_expired_keys(ttls: list[int], times: list[int], limit: int) -> None:
    database = Database()
    for number, ttl in enumerate(ttls):
        apply(database, SetWith(b"%d" % number, b"v", ttl=ttl), BEGIN)
    for time in times:
        there = sum(ttl > time for ttl in ttls)
        assert apply(database, Count(), BEGIN + time) == there
        while expired := database.expired(limit):
            assert len(expired) <= limit
            for key in expired:
                assert ttls[int(key)] <= time, "only what is over is removed"
                database.delete(key)
        assert database.count() == there
        over_for_long = [ttl for ttl in ttls if ttl <= time - 2_000]
        assert len(content_in_memory(database)) <= len(ttls) - len(over_for_long)
        database.check()


def content_in_memory(database: Database) -> set[bytes]:
    """The keys that take memory, the expired ones included: those that a drop makes smaller."""
    return {key for number in range(60) if takes_memory(database, key := b"%d" % number)}


def takes_memory(database: Database, key: bytes) -> bool:
    journal: Journal = []
    database.shared.journal = journal
    before = database.used_bytes
    database.delete(key)
    smaller = database.used_bytes < before
    database.shared.journal = None
    undo(journal)
    return smaller


def test_delete_of_an_expired_key_has_no_effect() -> None:
    database = with_a_key_that_expires()
    assert apply(database, Clear(b"k"), DEADLINE) is OK
    assert database.count() == 0
    database.check()
