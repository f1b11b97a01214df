"""Keys made to harm: of one CRC-32, or sharing its leading bits. They cost what a plain dict would, they do
not make the directory large, and everything else goes on as before."""

import gc
import itertools
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import (
    OK,
    Append,
    Clear,
    ClearAll,
    ClearPrefix,
    Command,
    Copy,
    Count,
    Exists,
    Failure,
    Incr,
    Items,
    Scan,
    Set,
    SetMany,
    failures,
)
from cairnkv.engine import Database, apply, crc
from cairnkv.engine.database import FREE_BUCKETS
from cairnkv.engine.key_order import KeyOrder
from cairnkv.engine.table import BUCKET_KEYS, CROWDED_KEYS, Table, place
from cairnkv.limits import CLEAR_PREFIX_SLICE
from tests.support.crc import keys_at, keys_sharing


def put(database: Database, keys: list[bytes]) -> None:
    for begin in range(0, len(keys), 1_000):  # one command may not name too many keys that share a position
        pairs = tuple((key, b"v") for key in keys[begin : begin + 1_000])
        assert apply(database, SetMany(0, pairs), 0) == OK


def slices(database: Database, count: int) -> list[list[bytes]]:
    found: list[list[bytes]] = []
    cursor = 0
    while cursor or not found:
        reply = apply(database, Scan(cursor, count, b""), 0)
        assert isinstance(reply, Items)
        before, cursor = cursor, int(reply.values[0] or b"")
        assert cursor == 0 or cursor > before, "a slice goes on"
        found.append([bytes(key or b"") for key in reply.values[1:]])
    return found


def harmful(kind: str, count: int) -> list[bytes]:
    source: Callable[[], Iterator[bytes]] = {
        "one position": lambda: keys_at(0x8000_0001),
        "the last position": lambda: keys_at(0xFFFF_FFFF),
        "position 0": lambda: keys_at(0),
        "20 leading bits": lambda: keys_sharing(20, 0xABCDE),
        "16 leading bits": lambda: keys_sharing(16, 0xFFFF),
    }[kind]
    return list(itertools.islice(source(), count))


KINDS = ["one position", "the last position", "position 0", "20 leading bits", "16 leading bits"]


def test_forged_keys_collide() -> None:
    same = harmful("one position", 1_000)
    assert len(set(same)) == 1_000
    assert {crc(key) for key in same} == {0x8000_0001}
    crowd = harmful("20 leading bits", 1_000)
    assert len(set(crowd)) == 1_000
    assert {crc(key) >> 12 for key in crowd} == {0xABCDE}


@pytest.mark.parametrize("kind", KINDS)
def test_all_operations_work_with_colliding_keys(kind: str) -> None:
    crowd = harmful(kind, 3_000)
    others = [b"other:%d" % number for number in range(2_000)]
    database = Database()
    put(database, crowd[:1_500])
    put(database, others)
    put(database, crowd[1_500:])
    database.check()
    assert apply(database, Count(), 0) == 5_000
    assert apply(database, Exists(tuple(crowd + others)), 0) == 5_000
    assert sorted(itertools.chain.from_iterable(slices(database, 100))) == sorted(crowd + others)
    for key in crowd:
        apply(database, Clear(key), 0)
    database.check()
    assert sorted(itertools.chain.from_iterable(slices(database, 100))) == sorted(others)


@pytest.mark.parametrize("kind", KINDS)
def test_slices_of_colliding_keys_are_bounded(kind: str) -> None:
    database = Database()
    put(database, harmful(kind, 3_000))
    assert max(map(len, slices(database, 50))) <= 50


@pytest.mark.parametrize("kind", KINDS)
def test_directory_does_not_grow_for_colliding_keys(kind: str) -> None:
    """A scan of one slice walks at most one empty bucket per key it may look at, so the number of slices over
    a table shows how many buckets it has."""
    database = Database()
    crowd = harmful(kind, 4_000)
    put(database, crowd)
    for key in crowd:
        apply(database, Clear(key), 0)
    assert len(slices(database, 1)) <= 4_000 / 8


@pytest.mark.parametrize("kind", ["one position", "20 leading bits"])
def test_other_keys_leave_the_bucket_of_colliding_keys(kind: str) -> None:
    """A crowd that came first does not hold the others that fall into its bucket for ever: the bucket would be
    a large dict, and each slice of a scan would sort it."""
    table = Table()
    for key in harmful(kind, CROWDED_KEYS + 1):
        table.put(key, b"", None)
    others = [b"other:%d" % number for number in range(300_000)]
    for key in others:
        table.put(key, b"", None)
    largest = max(len(table.bucket(key).values) for key in (*others, *harmful(kind, 1)))
    assert largest <= 2 * CROWDED_KEYS
    assert table.keys == len(others) + CROWDED_KEYS + 1


@pytest.mark.parametrize("kind", KINDS)
def test_colliding_keys_are_deleted_and_freed(kind: str) -> None:
    database = Database()
    put(database, harmful(kind, 3_000))
    apply(database, ClearAll(), 0)
    rounds = 0
    while database.free_slice():
        rounds += 1
        assert rounds < 100
    assert database.garbage_bytes == 0
    put(database, harmful(kind, 300))
    database.check()


def memory_for(work: Callable[[], object]) -> int:
    """Return the peak memory of a call in bytes. It shows whether the call copies a whole bucket."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["one position", "the last position", "16 leading bits"])
def test_cost_of_a_slice_depends_on_its_keys_not_on_the_bucket(kind: str) -> None:
    database = Database()
    put(database, harmful(kind, 30_000))
    middle = 0
    while not middle:
        reply = apply(database, Scan(middle, 10_000, b""), 0)
        assert isinstance(reply, Items)
        middle = int(reply.values[0] or b"")
    for cursor in (0, middle):
        assert memory_for(lambda cursor=cursor: apply(database, Scan(cursor, 1, b""), 0)) < 20_000  # type: ignore[misc]


def test_clear_prefix_slice_is_bounded_for_keys_of_one_crc() -> None:
    database = Database()
    put(database, harmful("one position", 5_000))
    reply = apply(database, ClearPrefix(b"forged:", 0), 0)
    assert isinstance(reply, Items)
    cleared = int(reply.values[1] or b"")
    assert cleared == 5_000 - database.count()
    assert CLEAR_PREFIX_SLICE - 10 < cleared < CLEAR_PREFIX_SLICE + 10
    database.check()


def test_cursors_of_keys_of_one_crc_are_below_2_to_the_53() -> None:
    database = Database()
    put(database, harmful("the last position", 2_000))
    assert max(map(place, harmful("the last position", 2_000))) < 2**53
    cursor = 0
    cursors: list[int] = []
    while cursor or not cursors:
        reply = apply(database, Scan(cursor, 1, b""), 0)
        assert isinstance(reply, Items)
        cursor = int(reply.values[0] or b"")
        cursors.append(cursor)
    assert max(cursors) < 2**53
    assert len(cursors) >= 1_990, "few keys share a place by chance"


def test_cursor_of_colliding_keys_is_the_same_in_other_tables() -> None:
    """One table's bucket keeps an order and loses most of its keys; the other table's bucket never kept an order."""
    crowd = harmful("one position", 3_000)
    many, few = Database(), Database()
    put(many, crowd)
    put(few, crowd[:1_000])
    found = slices(many, 100)
    reply = apply(few, Scan(0, 300, b""), 0)
    assert isinstance(reply, Items)
    cursor, *first = (bytes(value or b"") for value in reply.values)
    for key in crowd[1_000:]:
        apply(many, Clear(key), 0)
    reply = apply(many, Scan(int(cursor), 10_000, b""), 0)
    assert isinstance(reply, Items)
    rest = [bytes(value or b"") for value in reply.values[1:]]
    assert sorted(first + rest) == sorted(crowd[:1_000])
    assert sorted(itertools.chain.from_iterable(found)) == sorted(crowd)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=200), st.integers(1, 9), st.integers(0, 12))
def test_key_order_equals_a_sorted_list(changes: list[tuple[bool, int]], room: int, cursor: int) -> None:
    def place_of(key: bytes) -> int:
        return int(key) // 3

    present: set[bytes] = set()
    order = KeyOrder((), place_of)
    for adds, number in changes:
        key = b"%d" % number
        if adds and key not in present:
            present.add(key)
            order.add(key)
        elif not adds and key in present:
            present.remove(key)
            order.remove(key)
    placed = sorted((place_of(key), key) for key in present)
    assert list(order) == [key for _, key in placed]
    left = [(at, key) for at, key in placed if at >= cursor]
    keys, following = order.slice(cursor, room, 99)
    last = left[min(room, len(left)) - 1][0] if left else -1
    assert keys == [key for at, key in left if at <= last]
    assert following == (99 if len(keys) == len(left) else last + 1)
    assert order.count_before(cursor) == len(placed) - len(left)
    assert order.count_at(cursor) == sum(at == cursor for at, _ in placed)
    rest = order.cut(cursor)
    assert (list(order), list(rest)) == ([key for at, key in placed if at < cursor], [key for _, key in left])


class TestKeysOfOnePlace:
    """Keys that share all bits of a cursor. Forging them takes too long, so the test removes the tie-breaker."""

    LIMIT = 2_000

    @pytest.fixture(autouse=True)
    def _without_ties(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("cairnkv.engine.table._tie", lambda _: 7)
        monkeypatch.setattr("cairnkv.engine.table.PLACE_KEYS_MAX", self.LIMIT)

    def test_are_returned_together_and_none_is_missed(self) -> None:
        crowd, others = harmful("one position", self.LIMIT), [b"other:%d" % number for number in range(2_000)]
        database = Database()
        put(database, crowd + others)
        for count in (1, 50, 3_000):
            assert sorted(itertools.chain.from_iterable(slices(database, count))) == sorted(crowd + others)

    def test_are_not_split_even_if_few(self) -> None:
        crowd = harmful("one position", 100)
        database = Database()
        put(database, crowd)
        assert [len(found) for found in slices(database, 30) if found] == [100]

    @pytest.mark.parametrize("command", [Set, Append, lambda key, _: Incr(key, 1), lambda key, _: Copy(b"other", key)])
    def test_beyond_the_limit_are_refused(self, command: Callable[[bytes, bytes], Command]) -> None:
        crowd = harmful("one position", self.LIMIT + 1)
        database = Database()
        put(database, [b"other", *crowd[:-1]])
        reply = apply(database, command(crowd[-1], b"v"), 0)
        assert isinstance(reply, Failure)
        assert reply.code is failures.COLLISION
        assert apply(database, Exists((crowd[-1],)), 0) == 0
        assert apply(database, Set(crowd[0], b"new"), 0) == OK, "those that are there may change"
        apply(database, Clear(crowd[0]), 0)
        assert apply(database, Set(crowd[-1], b"v"), 0) == OK
        database.check()

    def test_several_at_once_are_stored_all_or_none(self) -> None:
        crowd = harmful("one position", self.LIMIT + 1)
        database = Database()
        put(database, crowd[:-1])
        reply = apply(database, SetMany(0, ((b"other", b"v"), (crowd[-1], b"v"))), 0)
        assert isinstance(reply, Failure)
        assert apply(database, Exists((b"other", crowd[-1])), 0) == 0

    @pytest.mark.parametrize("new", [True, False])
    def test_expired_keys_do_not_count(self, new: bool) -> None:
        """Nodes of a cluster remove expired keys at different times, and all must give the same reply."""
        crowd = harmful("one position", self.LIMIT + 1)
        replies = []
        for removes in (True, False):
            database = Database()
            put(database, crowd[: self.LIMIT - 10])
            rest = crowd[self.LIMIT - 10 : self.LIMIT]
            apply(database, SetMany(1_000, tuple((key, b"v") for key in rest)), 0)
            later = 1_000 if new else 10_000
            database.advance(later)
            if removes:
                for key in rest:
                    database.free_expired(key)
            written = [crowd[-1], *rest] if new else rest
            replies.append([apply(database, Set(key, b"v"), later) for key in written])
            database.check()
        assert replies[0] == replies[1]
        assert [reply == OK for reply in replies[0]] == [True] * 10 + [False] * new


def test_command_stores_no_more_keys_than_may_share_a_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairnkv.engine.operations.PLACE_KEYS_MAX", 100)
    forged = harmful("one position", 101)
    database = Database()
    reply = apply(database, SetMany(0, tuple((key, b"v") for key in forged)), 0)
    assert isinstance(reply, Failure)
    assert reply.code is failures.COLLISION
    assert apply(database, Count(), 0) == 0
    assert apply(database, SetMany(0, tuple((key, b"v") for key in forged[1:] + [b"other"] * 9)), 0) == OK


def test_colliding_keys_are_freed_in_bounded_steps() -> None:
    database = Database()
    crowd = harmful("one position", 60_000)
    for begin in range(0, len(crowd), 10_000):
        apply(database, SetMany(1_000, tuple((key, b"v") for key in crowd[begin : begin + 10_000])), 0)
    apply(database, ClearAll(), 0)
    rounds = 0
    while database.free_slice():
        rounds += 1
    assert 60_000 / (FREE_BUCKETS * BUCKET_KEYS) < rounds < 100
