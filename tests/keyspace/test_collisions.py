"""Keys made to harm: of one CRC-32, or sharing its leading bits. They cost what a plain dict would, they do
not make the directory large, and everything else goes on as before."""

import itertools

import pytest

from cairnkv.commands import Clear, ClearAll, Count, Exists, Items, Scan, SetMany
from cairnkv.keyspace import Keyspace, apply, position
from cairnkv.keyspace.table import HOPELESS_KEYS, Table
from tests.support.crc import keys_at, keys_sharing


def put(keyspace: Keyspace, keys: list[bytes]) -> None:
    apply(keyspace, SetMany(0, tuple((key, b"v") for key in keys)), 0)


def slices(keyspace: Keyspace, count: int) -> list[list[bytes]]:
    found, cursor = [], 0
    while cursor or not found:
        reply = apply(keyspace, Scan(cursor, count, b""), 0)
        assert isinstance(reply, Items)
        before, cursor = cursor, int(reply.values[0] or b"")
        assert cursor == 0 or cursor > before, "a slice goes on"
        found.append([bytes(key or b"") for key in reply.values[1:]])
    return found


def harmful(kind: str, count: int) -> list[bytes]:
    source = {
        "one position": lambda: keys_at(0x8000_0001),
        "the last position": lambda: keys_at(0xFFFF_FFFF),
        "position 0": lambda: keys_at(0),
        "20 leading bits": lambda: keys_sharing(20, 0xABCDE),
        "16 leading bits": lambda: keys_sharing(16, 0xFFFF),
    }[kind]
    return list(itertools.islice(source(), count))


KINDS = ["one position", "the last position", "position 0", "20 leading bits", "16 leading bits"]


def test_the_keys_are_forged_as_they_should_be() -> None:
    same = harmful("one position", 1_000)
    assert len(set(same)) == 1_000
    assert {position(key) for key in same} == {0x8000_0001}
    crowd = harmful("20 leading bits", 1_000)
    assert len(set(crowd)) == 1_000
    assert {position(key) >> 12 for key in crowd} == {0xABCDE}


@pytest.mark.parametrize("kind", KINDS)
def test_everything_goes_on_as_before(kind: str) -> None:
    crowd = harmful(kind, 3_000)
    others = [b"other:%d" % number for number in range(2_000)]
    keyspace = Keyspace()
    put(keyspace, crowd[:1_500])
    put(keyspace, others)
    put(keyspace, crowd[1_500:])
    keyspace.check()
    assert apply(keyspace, Count(), 0) == 5_000
    assert apply(keyspace, Exists(tuple(crowd + others)), 0) == 5_000
    assert sorted(itertools.chain.from_iterable(slices(keyspace, 100))) == sorted(crowd + others)
    for key in crowd:
        apply(keyspace, Clear(key), 0)
    keyspace.check()
    assert sorted(itertools.chain.from_iterable(slices(keyspace, 100))) == sorted(others)


@pytest.mark.parametrize("kind", KINDS)
def test_slices_stay_bounded(kind: str) -> None:
    keyspace = Keyspace()
    put(keyspace, harmful(kind, 3_000))
    assert max(map(len, slices(keyspace, 50))) <= 50


@pytest.mark.parametrize("kind", KINDS)
def test_the_directory_does_not_grow_for_them(kind: str) -> None:
    """A scan of one slice walks at most one empty bucket per key it may look at, so the number of slices over
    a table shows how many buckets it has."""
    keyspace = Keyspace()
    crowd = harmful(kind, 4_000)
    put(keyspace, crowd)
    for key in crowd:
        apply(keyspace, Clear(key), 0)
    assert len(slices(keyspace, 1)) <= 4_000 / 8


@pytest.mark.parametrize("kind", ["one position", "20 leading bits"])
def test_other_keys_get_away_from_them(kind: str) -> None:
    """A crowd that came first does not hold the others that fall into its bucket for ever: the bucket would be
    a large dict, and each slice of a scan would sort it."""
    table = Table()
    for key in harmful(kind, HOPELESS_KEYS + 1):
        table.put(key, b"", None)
    others = [b"other:%d" % number for number in range(300_000)]
    for key in others:
        table.put(key, b"", None)
    largest = max(len(table.bucket(key).values) for key in (*others, *harmful(kind, 1)))
    assert largest <= 2 * HOPELESS_KEYS
    assert table.keys == len(others) + HOPELESS_KEYS + 1


@pytest.mark.parametrize("kind", KINDS)
def test_they_can_be_cleared_and_freed(kind: str) -> None:
    keyspace = Keyspace()
    put(keyspace, harmful(kind, 3_000))
    apply(keyspace, ClearAll(), 0)
    rounds = 0
    while keyspace.free_slice():
        rounds += 1
        assert rounds < 100
    assert keyspace.garbage_bytes == 0
    put(keyspace, harmful(kind, 300))
    keyspace.check()
