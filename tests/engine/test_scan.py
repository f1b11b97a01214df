"""SCAN and CLEAR_PREFIX: slices are bounded, cursors survive any change, and what was there throughout is
returned."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import Clear, ClearAll, ClearPrefix, Command, Items, Scan, Set, SetMany, SetWith
from cairnkv.engine import Database, apply, crc
from cairnkv.limits import CLEAR_PREFIX_SLICE


def filled(keys: list[bytes], *, ttl: int = 0) -> Database:
    database = Database()
    for begin in range(0, len(keys), 1_000):
        apply(database, SetMany(ttl, tuple((key, b"v") for key in keys[begin : begin + 1_000])), 0)
    return database


def numbered(count: int, prefix: bytes = b"key:") -> list[bytes]:
    return [prefix + b"%d" % number for number in range(count)]


def one_slice(database: Database, command: Scan) -> tuple[int, list[bytes]]:
    reply = apply(database, command, 0)
    assert isinstance(reply, Items)
    cursor, *keys = map(bytes, reply.values)  # type: ignore[arg-type]
    assert int(cursor) == 0 or int(cursor) > command.cursor, "a slice goes on"
    return int(cursor), keys


def whole_scan(database: Database, count: int, prefix: bytes = b"") -> list[bytes]:
    cursor, found = one_slice(database, Scan(0, count, prefix))
    while cursor:
        cursor, keys = one_slice(database, Scan(cursor, count, prefix))
        found += keys
    return found


@pytest.mark.parametrize("size", [0, 1, 170, 171, 5_000])
@pytest.mark.parametrize("count", [1, 7, 1_000, 10_000])
def test_scan_of_an_unchanged_table_returns_each_key_once(size: int, count: int) -> None:
    keys = numbered(size)
    assert sorted(whole_scan(filled(keys), count)) == sorted(keys)


@pytest.mark.parametrize("count", [1, 10, 500])
def test_scan_by_prefix_returns_matching_keys(count: int) -> None:
    database = filled(numbered(600, b"a:") + numbered(600, b"b:") + [b"a", b"b"])
    assert sorted(whole_scan(database, count, b"a:")) == sorted(numbered(600, b"a:"))
    assert sorted(whole_scan(database, count, b"b")) == sorted([b"b", *numbered(600, b"b:")])
    assert whole_scan(database, count, b"c") == []


@pytest.mark.parametrize("count", [1, 10, 500, 10_000])
def test_slice_returns_no_more_than_its_count(count: int) -> None:
    """Keys of one CRC stay together; these keys have different CRCs."""
    keys = [key for _, key in {crc(key): key for key in numbered(3_000)}.items()]
    database = filled(keys)
    cursor, slices = 0, 0
    while cursor or not slices:
        cursor, found = one_slice(database, Scan(cursor, count, b""))
        assert len(found) <= count
        slices += 1
    assert slices >= len(keys) / count


def test_slice_over_an_emptied_table_is_bounded() -> None:
    """It ends after a number of empty buckets, rather than walk through all of them."""
    database = filled(numbered(20_000))
    for key in numbered(20_000):
        apply(database, Clear(key), 0)
    cursor, found = one_slice(database, Scan(0, 1, b""))
    assert found == []
    assert 0 < cursor < 2**53
    assert whole_scan(database, 10) == []


def test_slice_counts_visited_keys_not_matching_keys() -> None:
    database = filled([*numbered(2_000), b"needle"])
    cursor, found = one_slice(database, Scan(0, 10, b"needle"))
    assert cursor
    assert len(found) <= 1
    assert whole_scan(database, 10, b"needle") == [b"needle"]


changes = st.lists(
    st.one_of(
        st.builds(lambda n: [Set(b"new:%d" % n, b"v")], st.integers(0, 500)),
        st.builds(lambda n: [Clear(b"old:%d" % n)], st.integers(0, 500)),
        st.builds(lambda n: [SetWith(b"old:%d" % n, b"v", ttl=5)], st.integers(0, 500)),
        st.builds(
            lambda n, size: [SetMany(0, tuple((b"more:%d" % k, b"v") for k in range(n, n + size)))],
            st.integers(0, 5_000),
            st.integers(200, 2_000),
        ),
        st.builds(lambda n: [Clear(b"more:%d" % k) for k in range(n)], st.integers(100, 1_000)),
    ),
    max_size=3,
)


@given(
    stays=st.integers(1, 400),
    goes=st.integers(0, 500),
    count=st.integers(20, 400),
    between=st.lists(changes, min_size=1, max_size=10),
)
def test_scan_returns_keys_that_exist_throughout_despite_changes(
    stays: int, goes: int, count: int, between: list[list[list[Command]]]
) -> None:
    """Redis' guarantee, while the table grows, shrinks and splits its buckets under the scan."""
    staying = set(numbered(stays, b"stays:"))
    ever = staying | set(numbered(goes, b"old:"))
    database = filled(sorted(ever))
    cursor, found = one_slice(database, Scan(0, count, b""))
    for now, several in enumerate(itertools.chain(between, itertools.repeat([])), 1):
        if not cursor:
            break
        for command in itertools.chain.from_iterable(several):
            apply(database, command, now)
        ever |= set(found)
        cursor, keys = one_slice(database, Scan(cursor, count, b""))
        found += keys
    assert staying <= set(found)
    assert len([key for key in found if key in staying]) == len(staying), "and none of them twice"
    assert all(key.startswith((b"stays:", b"old:", b"new:", b"more:")) for key in found)
    database.check()


def test_cursor_survives_growth() -> None:
    database = filled(numbered(100))
    cursor, before = one_slice(database, Scan(0, 50, b""))
    for begin in range(0, 40_000, 1_000):
        apply(database, SetMany(0, tuple((b"more:%d" % n, b"") for n in range(begin, begin + 1_000))), 0)
    after = []
    while cursor:
        cursor, keys = one_slice(database, Scan(cursor, 1_000, b"key:"))
        after += keys
    assert sorted(before + after) == sorted(numbered(100))


def test_cursor_is_valid_in_another_table_of_the_same_keys() -> None:
    """As after a restart or a failover: the other table was filled in another order, and once had more keys."""
    keys = numbered(3_000)
    one = filled(keys)
    other = filled(numbered(30_000, b"gone:") + keys[::-1])
    for key in numbered(30_000, b"gone:"):
        apply(other, Clear(key), 0)
    cursor, found = one_slice(one, Scan(0, 1_000, b""))
    rest = []
    while cursor:
        cursor, more = one_slice(other, Scan(cursor, 1_000, b""))
        rest += more
    assert sorted(found + rest) == sorted(keys)


def test_scan_ends_after_clear_all() -> None:
    database = filled(numbered(5_000))
    cursor, _ = one_slice(database, Scan(0, 100, b""))
    apply(database, ClearAll(), 0)
    assert one_slice(database, Scan(cursor, 100, b"")) == (0, [])


class TestClearPrefix:
    def _slice(self, database: Database, prefix: bytes, cursor: int) -> tuple[int, int]:
        reply = apply(database, ClearPrefix(prefix, cursor), 0)
        assert isinstance(reply, Items)
        following, cleared = map(int, reply.values)  # type: ignore[arg-type]
        return following, cleared

    def test_deletes_bounded_slices_until_all_keys_are_deleted(self) -> None:
        database = filled(numbered(5_000, b"gone:") + numbered(500, b"stays:"))
        cursor, cleared = self._slice(database, b"gone:", 0)
        cleared_by_slice = [cleared]
        while cursor:
            before = database.count()
            cursor, cleared = self._slice(database, b"gone:", cursor)
            assert database.count() == before - cleared
            cleared_by_slice.append(cleared)
        assert max(cleared_by_slice) <= CLEAR_PREFIX_SLICE
        assert sum(cleared_by_slice) == 5_000
        assert sorted(whole_scan(database, 1_000)) == sorted(numbered(500, b"stays:"))
        database.check()

    def test_without_matching_keys_deletes_nothing(self) -> None:
        database = filled(numbered(10))
        assert self._slice(database, b"other", 0) == (0, 0)
        assert database.count() == 10
