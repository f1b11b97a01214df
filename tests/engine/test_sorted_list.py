"""The sorted list, compared with `sorted`."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.engine import sorted_list
from cairnkv.engine.sorted_list import SortedList


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_list, "CHUNK", 6)


@given(items=st.lists(st.integers(0, 60)), probes=st.lists(st.integers(-1, 61), min_size=1, max_size=3))
def test_a_sorted_list_is_sorted_after_any_changes(items: list[int], probes: list[int]) -> None:
    """An item that is in the list is removed, any other is added."""
    ours: SortedList[int] = SortedList()
    plain: set[int] = set()
    for item in items:
        if item in plain:
            ours.remove(item)
            plain.remove(item)
        else:
            ours.add(item)
            plain.add(item)
        expected = sorted(plain)
        assert list(ours) == expected
        assert len(ours) == len(expected)
        assert ours.first() == (expected[0] if expected else None)
        for probe in probes:
            assert ours.count_before(probe) == sum(it < probe for it in expected)
            assert list(ours.since(probe)) == [it for it in expected if it >= probe]
            assert (probe in ours) == (probe in plain)
        for place in range(1, len(expected) + 1):
            assert ours.from_end(place) == expected[-place]


def test_removal_of_an_absent_item_is_an_error() -> None:
    ours: SortedList[int] = SortedList()
    with pytest.raises(KeyError):
        ours.remove(1)
    ours.add(1)
    with pytest.raises(KeyError):
        ours.remove(0)
    with pytest.raises(KeyError):
        ours.remove(2)
    with pytest.raises(IndexError):
        ours.from_end(2)


def test_chunks_stay_few_after_random_removals() -> None:
    ours: SortedList[int] = SortedList()
    for item in range(600):
        ours.add(item)
    gone = list(range(600))
    random.Random(1).shuffle(gone)
    for item in gone[:570]:
        ours.remove(item)
    assert len(ours._chunks) <= 15
