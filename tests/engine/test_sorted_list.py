"""The sorted lists of both paths, compared with `sorted`."""

import importlib
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.engine import sorted_list
from tests.support.paths import native_only

NATIVE = "cairnkv.engine.sorted_list_native"


def pair_of(number: int) -> tuple[int, int]:
    return number // 7 - 2, number


def itself(number: int) -> int:
    return number


@pytest.fixture(
    params=[
        pytest.param(("cairnkv.engine.sorted_list", "SortedList", itself), id="pure numbers"),
        pytest.param(("cairnkv.engine.sorted_list", "SortedList", pair_of), id="pure pairs"),
        pytest.param((NATIVE, "SortedNumbers", itself), id="native numbers", marks=native_only),
        pytest.param((NATIVE, "SortedPairs", pair_of), id="native pairs", marks=native_only),
    ],
    scope="module",
)
def kind(request: pytest.FixtureRequest) -> tuple[Callable[[], Any], Callable[[int], Any]]:
    """A class, and a function that makes its items of numbers."""
    module, name, item_of = request.param
    return getattr(importlib.import_module(module), name), item_of


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_list, "CHUNK", 6)


def compare(ours: Any, plain: set[Any], probes: list[Any]) -> None:
    expected = sorted(plain)
    assert list(ours) == expected
    assert len(ours) == len(expected)
    assert bool(ours) == bool(expected)
    assert ours.first() == (expected[0] if expected else None)
    for probe in probes:
        assert ours.count_before(probe) == sum(it < probe for it in expected)
        assert list(ours.since(probe)) == [it for it in expected if it >= probe]
        assert (probe in ours) == (probe in plain)
    for place in (1, 2, 700, len(expected)):
        if 1 <= place <= len(expected):
            assert ours.from_end(place) == expected[-place]


@given(numbers=st.lists(st.integers(0, 60)), probes=st.lists(st.integers(-1, 61), min_size=1, max_size=3))
def test_a_sorted_list_is_sorted_after_any_changes(kind: Any, numbers: list[int], probes: list[int]) -> None:
    """An item that is in the list is removed, any other is added."""
    made, item_of = kind
    ours, plain = made(), set[Any]()
    for number in numbers:
        item = item_of(number)
        if item in plain:
            ours.remove(item)
            plain.remove(item)
        else:
            ours.add(item)
            plain.add(item)
        compare(ours, plain, [item_of(probe) for probe in probes])


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_a_long_list_is_sorted_after_any_changes(kind: Any, order: str) -> None:
    """Chunks fill, split, join and empty; items leave at the beginning while others come at the end."""
    made, item_of = kind
    chance = random.Random(7)
    numbers = list(range(5_000))
    if order == "random":
        chance.shuffle(numbers)
    elif order == "descending":
        numbers.reverse()
    ours, plain = made(), set[Any]()
    for at, number in enumerate(numbers):
        ours.add(item_of(number))
        plain.add(item_of(number))
        if at >= 3_000:
            ours.remove(item_of(numbers[at - 3_000]))
            plain.remove(item_of(numbers[at - 3_000]))
        if at % 1_000 == 999:
            compare(ours, plain, [item_of(number), item_of(0), item_of(5_000)])
    left = sorted(plain)
    chance.shuffle(left)
    for at, item in enumerate(left):
        ours.remove(item)
        plain.remove(item)
        if at % 500 == 499:
            compare(ours, plain, [item])
    compare(ours, set(), [item_of(1)])
    ours.add(item_of(1))
    compare(ours, {item_of(1)}, [item_of(1)])


def test_an_absent_item_cannot_be_removed(kind: Any) -> None:
    made, item_of = kind
    ours = made()
    for present in (False, True):
        for number in (1, 2, 3):
            with pytest.raises(KeyError):
                ours.remove(item_of(number if not present or number != 2 else 4))
        if not present:
            ours.add(item_of(2))
    with pytest.raises(IndexError):
        ours.from_end(2)


def test_chunks_stay_few_after_random_removals() -> None:
    ours: sorted_list.SortedList[int] = sorted_list.SortedList()
    for item in range(600):
        ours.add(item)
    gone = list(range(600))
    random.Random(1).shuffle(gone)
    for item in gone[:570]:
        ours.remove(item)
    assert len(ours._chunks) <= 15
