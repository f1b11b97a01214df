"""The placements that are simulated: even, moving little, weighted; and the results that are written down."""

import json
import subprocess
import sys
import zlib
from collections import Counter
from importlib import util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SLOTS = 2_048


@pytest.fixture(scope="module")
def partition() -> Any:
    """The program."""
    spec = util.spec_from_file_location("partition", ROOT / "benchmarks" / "partition.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["partition"] = util.module_from_spec(spec)  # where its dataclasses look for themselves
    spec.loader.exec_module(module)
    return module


def nodes(partition: Any, *numbers: int) -> list[Any]:
    return [partition.Node(number) for number in numbers]


@pytest.mark.parametrize("name", ["modulo", "rendezvous", "bounded", "table"])
def test_each_slot_has_an_existing_machine(partition: Any, name: str) -> None:
    place = partition.PLACEMENTS[name]
    there = nodes(partition, 2, 3, 5, 8, 13)
    placed = place(there, None, SLOTS)
    assert len(placed) == SLOTS
    assert set(placed) == {2, 3, 5, 8, 13}
    assert placed == place(there, None, SLOTS)
    assert set(place(there[1:], placed, SLOTS)) == {3, 5, 8, 13}


def test_slot_of_a_key_comes_from_its_crc(partition: Any) -> None:
    assert partition.slot_of(b"greeting") == zlib.crc32(b"greeting") & 0xFFFF


def test_rendezvous_moves_keys_only_of_added_and_removed_machines(partition: Any) -> None:
    before = partition.rendezvous(nodes(partition, *range(9)), None, SLOTS)
    joined = partition.rendezvous(nodes(partition, *range(10)), before, SLOTS)
    assert {after for one, after in zip(before, joined, strict=True) if one != after} == {9}
    gone = partition.rendezvous(nodes(partition, *range(8)), before, SLOTS)
    assert {one for one, after in zip(before, gone, strict=True) if one != after} == {8}


def test_short_candidate_lists_give_the_same_placement(partition: Any) -> None:
    """The machine with the highest score wins in both."""
    there = [partition.Node(number, 3.0 if number % 5 == 0 else 1.0) for number in range(120)]
    placed = partition.rendezvous(there, None, SLOTS)
    for slot in range(0, SLOTS, 7):
        scores = partition._scores(slot, 128)
        winner = max(there, key=lambda node: node.weight * partition._merit(scores[node.number]))
        assert placed[slot] == winner.number


def test_bounded_placement_keeps_its_bound(partition: Any) -> None:
    placed = partition.bounded(nodes(partition, *range(100)), None, SLOTS)
    assert max(Counter(placed).values()) == -(-SLOTS * partition.SLACK // 100)
    loose = partition.rendezvous(nodes(partition, *range(100)), None, SLOTS)
    assert max(Counter(loose).values()) > max(Counter(placed).values())


def test_table_placement_is_even_and_moves_the_least(partition: Any) -> None:
    before = partition.table(nodes(partition, *range(9)), None, SLOTS)
    joined = partition.table(nodes(partition, *range(10)), before, SLOTS)
    for placed in (before, joined):
        counts = Counter(placed).values()
        assert max(counts) - min(counts) <= 1
    assert partition.moved(before, joined) == Counter(joined)[9]
    gone = partition.table(nodes(partition, 0, 1, 2, 3, 5, 6, 7, 8), before, SLOTS)
    assert partition.moved(before, gone) == Counter(before)[4]
    assert partition.table(nodes(partition, *range(9)), before, SLOTS) == before


@pytest.mark.parametrize("name", ["rendezvous", "bounded", "table"])
def test_larger_machines_get_more_slots(partition: Any, name: str) -> None:
    there = [partition.Node(0), partition.Node(1), partition.Node(2, 2.0)]
    counts = Counter(partition.PLACEMENTS[name](there, None, SLOTS))
    assert counts[2] == pytest.approx(SLOTS / 2, rel=0.06)
    assert counts[0] == pytest.approx(SLOTS / 4, rel=0.12)


def test_replicas_are_on_different_machines_with_equally_many_logs(partition: Any) -> None:
    for count in (3, 4, 10):
        there = nodes(partition, *range(0, 2 * count, 2))
        found = partition.replicas(there)
        assert all(len(set(holders)) == 3 and holders[0] == home for home, holders in found.items())
        assert set(Counter(holder for holders in found.values() for holder in holders).values()) == {3}
    with pytest.raises(ValueError, match="there are 2"):
        partition.replicas(nodes(partition, 0, 1))


def test_copied_bytes_are_counted(partition: Any) -> None:
    three, four = nodes(partition, 0, 1, 2), nodes(partition, 0, 1, 2, 3)
    assert partition.copied([0, 1, 2], [0, 1, 2], three, three) == 0
    assert partition.copied([0, 1, 2], [1, 1, 2], three, three) == 0  # all three machines have all three logs
    assert partition.copied([0, 1, 2], [0, 1, 2], three, four) == 2  # the new one is behind 1 and behind 2
    assert partition.copied([0, 1, 2], [3, 1, 2], three, four) == 3


def test_written_results_are_the_computed_results(partition: Any) -> None:
    written = json.loads(partition.RESULTS.read_text())
    assert {(row["nodes"], row["placement"]) for row in written["rows"]} == {
        (count, name) for count in partition.NODES for name in partition.PLACEMENTS
    }
    few = (3, 10)
    found = partition.simulated(few)
    assert found["made"] == written["made"]
    assert found["rows"] == [row for row in written["rows"] if row["nodes"] in few]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--nodes", "two"], "numbers with commas"),
        (["--nodes", "2"], "from 3"),
        (["--nodes", "3", "--write"], "leave --nodes out"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], says: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "partition.py", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert says in done.stderr
