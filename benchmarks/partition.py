"""A simulation of placements: how keys would spread over many logs, on 3 to 1,000 nodes. The server has no part of
it yet.

`python benchmarks/partition.py [--nodes 3,10,...] [--write]` prints a table. With --write, the program writes
benchmarks/results/partition.json, from which the table of docs/cluster.md comes. The same seed gives the same figures
on any computer, in less than a minute.

The model: each key has a slot, and each slot is placed on a log. Each node is the home of one log. The three
replicas of a log are on its home and on the next two nodes of a ring of their numbers. A new node adds its log; a
leaving node removes its log. A placement is a list with the number of the log's node for each slot.

Out of scope: latency and throughput (`bench.py`), and the move of a slot (docs/cluster.md).
"""

import argparse
import functools
import hashlib
import json
import math
import random
import subprocess
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "partition.json"

SLOTS = 1 << 16
"""The number of slots: 65 for each of 1,000 nodes. With the 16,384 slots of Redis Cluster, it would be 16."""

REPLICAS = 3
"""The number of nodes of each log."""

NODES = (3, 10, 30, 100, 300, 1_000)
"""The numbers of nodes of the simulated clusters."""

KEYS = 1_000_000
SEED = 20_261_122
ZIPF = 0.99
"""The exponent of the load: the key of rank r has 1 / r**0.99 of the load of the first key, as in YCSB."""

SHORT = 8
"""The average number of nodes in a short list."""

SLACK = 1.05
"""The maximum load of a log with `bounded`, divided by its share."""

Placement = list[int]


@dataclass(frozen=True)
class Node:
    """A node. number: unique, and never used again. weight: its relative size."""

    number: int
    weight: float = 1.0


def slot_of(key: bytes, slots: int = SLOTS) -> int:
    """Return a key's slot: the last bits of its CRC-32. The first bits select its bucket in the table."""
    return zlib.crc32(key) % slots


# -- placements --------------------------------------------------------------------------------------------------------


def modulo(nodes: Sequence[Node], before: Placement | None, slots: int) -> Placement:
    """Place a slot by its number modulo the number of nodes, without weights."""
    return [nodes[slot % len(nodes)].number for slot in range(slots)]


def rendezvous(nodes: Sequence[Node], before: Placement | None, slots: int) -> Placement:
    """Place each slot on the node with the highest score. No table is needed."""
    contest = Contest(nodes, slots)
    return [contest.winner(slot) for slot in range(slots)]


def bounded(nodes: Sequence[Node], before: Placement | None, slots: int) -> Placement:
    """Like `rendezvous`, but a log gets at most 1.05 times its share. The rest goes to the next best node."""
    contest = Contest(nodes, slots)
    room = {node.number: math.ceil(share * SLACK) for node, share in zip(nodes, _shares(nodes, slots), strict=True)}
    placed = []
    for slot in range(slots):
        placed.append(contest.winner(slot))
        room[placed[-1]] -= 1
        if not room[placed[-1]]:
            del contest.weights[placed[-1]]
    return placed


def table(nodes: Sequence[Node], before: Placement | None, slots: int) -> Placement:
    """Change a stored table minimally: only the slots above a log's share move."""
    room = dict(zip((node.number for node in nodes), _whole(_shares(nodes, slots), slots), strict=True))
    stay = []
    for home in before or []:
        stay.append(room.get(home, 0) > 0)
        if stay[-1]:
            room[home] -= 1
    left = (number for number, count in room.items() for _ in range(count))
    if before is None:
        return list(left)
    return [home if stays else next(left) for home, stays in zip(before, stay, strict=True)]


PLACEMENTS: dict[str, Callable[[Sequence[Node], Placement | None, int], Placement]] = {
    "modulo": modulo,
    "rendezvous": rendezvous,
    "bounded": bounded,
    "table": table,
}


class Contest:
    """The scores of nodes for slots. weights: with twice the weight a node wins twice as many slots."""

    def __init__(self, nodes: Sequence[Node], slots: int) -> None:
        self.weights = {node.number: node.weight for node in nodes}
        # A cluster and the same cluster with one more node need the same short lists.
        self._numbers = -(-(max(self.weights) + 1) // 16) * 16
        least, self._short_lists = _short_lists(self._numbers, slots)
        self._least = least * max(self.weights.values())

    def winner(self, slot: int) -> int:
        """Return the number of the node of a slot."""
        weights = self.weights
        ranked = [(weights[number] * score, number) for score, number in self._short_lists[slot] if number in weights]
        if ranked and max(ranked)[0] > self._least:
            return max(ranked)[1]
        scores = _scores(slot, self._numbers)  # a node outside the short list may be better
        return max((weight * _merit(scores[number]), number) for number, weight in weights.items())[1]


@functools.lru_cache(maxsize=1)
def _short_lists(numbers: int, slots: int) -> tuple[float, list[list[tuple[float, int]]]]:
    """Return, for each slot, the nodes with the best scores, and a score that all others are below.

    A search in a short list is a hundred times faster than one in the scores of 1,000 nodes.
    """
    lowest = max(0, int(2**64 * (1 - SHORT / numbers)))
    lists = [
        [(_merit(score), number) for number, score in enumerate(_scores(slot, numbers)) if score >= lowest]
        for slot in range(slots)
    ]
    return _merit(lowest) if lowest else 0.0, lists


def _scores(slot: int, numbers: int) -> Sequence[int]:
    """Return a slot's score of 64 bits for each node number. It does not depend on the other nodes."""
    return array("Q", hashlib.shake_128(slot.to_bytes(4, "big")).digest(8 * numbers))


def _merit(score: int) -> float:
    """Return a score in a form that a weight can multiply."""
    return -1 / math.log((score + 1) / (2**64 + 1))


def _shares(nodes: Sequence[Node], slots: int) -> list[float]:
    """Return the exact share of each node, in fractions of slots."""
    total = math.fsum(node.weight for node in nodes)
    return [slots * node.weight / total for node in nodes]


def _whole(shares: list[float], slots: int) -> list[int]:
    """Return the shares as integers with the same sum: the shares with the largest remainders are rounded up."""
    whole = [math.floor(share) for share in shares]
    for at in sorted(range(len(shares)), key=lambda at: whole[at] - shares[at])[: slots - sum(whole)]:
        whole[at] += 1
    return whole


# -- replicas ----------------------------------------------------------------------------------------------------------


def replicas(nodes: Sequence[Node]) -> dict[int, tuple[int, ...]]:
    """Return the nodes of each log, by the number of its home: the home and the next ones."""
    if len(nodes) < REPLICAS:
        raise ValueError(f"a log has replicas on {REPLICAS} nodes, and there are {len(nodes)}")
    ring = sorted(node.number for node in nodes)
    return {number: tuple(ring[(at + step) % len(ring)] for step in range(REPLICAS)) for at, number in enumerate(ring)}


# -- measurements -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """The load of slots. keys: of each slot. heat: the part of all commands for each slot, with uneven load."""

    keys: list[int]
    heat: list[float]


def key_names(count: int) -> Iterator[bytes]:
    """Return typical keys of programs: counters, hexadecimal ids, paths, dates, addresses."""
    dice = random.Random(SEED)
    for number in range(count):
        kind = number % 5
        if kind == 0:
            yield b"user:%d" % number
        elif kind == 1:
            yield b"session:%032x" % dice.getrandbits(128)
        elif kind == 2:
            yield b"cache:/products/%d/price?currency=EUR" % (number // 7)
        elif kind == 3:
            yield b"order:2026-%02d-%02d:%06d" % (number % 12 + 1, number % 28 + 1, number)
        else:
            yield b"rate:10.%d.%d.%d" % (number >> 16 & 255, number >> 8 & 255, number & 255)


def load(count: int, slots: int = SLOTS) -> Load:
    """Return keys with their load. The ranks are shuffled, so that no kind of key has more load than others."""
    ranks = list(range(1, count + 1))
    random.Random(SEED).shuffle(ranks)
    keys, heat, total = [0] * slots, [0.0] * slots, 0.0
    for name, rank in zip(key_names(count), ranks, strict=True):
        slot, warmth = slot_of(name, slots), rank**-ZIPF
        keys[slot] += 1
        heat[slot] += warmth
        total += warmth
    return Load(keys, [warmth / total for warmth in heat])


def per_node(placed: Placement, each: Sequence[float]) -> dict[int, float]:
    """Return the sum of a quantity of slots for each node."""
    found: dict[int, float] = dict.fromkeys(placed, 0)
    for number, amount in zip(placed, each, strict=True):
        found[number] += amount
    return found


def unevenness(found: dict[int, float], nodes: Sequence[Node]) -> float:
    """Return the load of the fullest node divided by its share."""
    total, weights = math.fsum(found.values()), math.fsum(node.weight for node in nodes)
    return max(found.get(node.number, 0) * weights / (total * node.weight) for node in nodes)


def moved(before: Placement, after: Placement) -> int:
    """Return the number of slots that move to another log."""
    return sum(one != other for one, other in zip(before, after, strict=True))


def copied(before: Placement, after: Placement, nodes: Sequence[Node], later: Sequence[Node]) -> int:
    """Return the number of copies of slots that a node without one needs."""
    had, has = replicas(nodes), replicas(later)
    new: dict[tuple[int, int], int] = {}
    count = 0
    for pair in zip(before, after, strict=True):
        if pair not in new:
            new[pair] = len(set(has[pair[1]]) - set(had[pair[0]]))
        count += new[pair]
    return count


def measured(name: str, count: int, slots: int, loaded: Load) -> dict[str, Any]:
    """Return the row of a placement and a number of nodes, with the cost when a node joins or leaves."""
    place = PLACEMENTS[name]
    nodes = [Node(number) for number in range(count)]
    joined, left = [*nodes, Node(count)], [node for node in nodes if node.number != count // 2]
    uneven = [Node(number, 2.0 if number % 3 == 0 else 1.0) for number in range(count)]
    placed = place(nodes, None, slots)
    after_join = place(joined, placed, slots)
    holders = replicas(nodes)
    copies = per_node([holder for home in placed for holder in holders[home]], [1] * (slots * REPLICAS))
    leaving = sum(home == count // 2 for home in placed)
    return {
        "placement": name,
        "nodes": count,
        "slots": _rounded(unevenness(per_node(placed, [1] * slots), nodes)),
        "weighted": _rounded(unevenness(per_node(place(uneven, None, slots), [1] * slots), uneven)),
        "keys": _rounded(unevenness(per_node(placed, loaded.keys), nodes)),
        "heat": _rounded(unevenness(per_node(placed, loaded.heat), nodes)),
        "copies": _rounded(unevenness(copies, nodes)),
        "join": _rounded(moved(placed, after_join) / (slots / (count + 1))),
        "join_copies": _rounded(copied(placed, after_join, nodes, joined) / (REPLICAS * slots / (count + 1))),
        "leave": _rounded(moved(placed, place(left, placed, slots)) / leaving) if len(left) >= REPLICAS else None,
    }


def _rounded(figure: float) -> float:
    return float(f"{figure:.3g}")


def simulated(counts: Sequence[int], keys: int = KEYS, slots: int = SLOTS) -> dict[str, Any]:
    """Return the rows of all placements and numbers of nodes, with the parameters."""
    loaded = load(keys, slots)
    return {
        "made": {"slots": slots, "keys": keys, "zipf": ZIPF, "seed": SEED, "hottest": _rounded(max(loaded.heat))},
        "rows": [measured(name, count, slots, loaded) for count in counts for name in PLACEMENTS],
    }


COLUMNS = {
    "nodes": "nodes",
    "placement": "placement",
    "slots": "slots",
    "weighted": "weighted",
    "keys": "keys",
    "heat": "load",
    "copies": "copies",
    "join": "join",
    "join_copies": "join, copies",
    "leave": "leave",
}
"""The printed columns and their headings."""


def main() -> int:
    """Print the table. With --write, also store it."""
    parser = argparse.ArgumentParser(description="simulate the partitioning of keys among many logs")
    parser.add_argument("--nodes", default=",".join(map(str, NODES)), help="numbers of nodes, separated by commas")
    parser.add_argument("--write", action="store_true", help="keep the results, and renew the documents")
    given = parser.parse_args()
    try:
        counts = [int(text) for text in given.nodes.split(",")]
    except ValueError:
        parser.error(f"--nodes is numbers with commas between, not {given.nodes!r}")
    if min(counts) < REPLICAS or max(counts) > SLOTS:
        parser.error(f"--nodes are from {REPLICAS}, which a log's replicas need, to {SLOTS:,}, one for each slot")
    if given.write and tuple(counts) != NODES:
        parser.error("--write keeps the whole table: leave --nodes out")
    found = simulated(counts)
    print("".join(f"{heading:>14}" for heading in COLUMNS.values()))
    for row in found["rows"]:
        print("".join(f"{'-' if row[name] is None else row[name]:>14}" for name in COLUMNS))
    if given.write:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        subprocess.run([sys.executable, str(HERE.parent / "docs" / "tables.py")], check=True, timeout=60)
    return 0


if __name__ == "__main__":
    sys.exit(main())
