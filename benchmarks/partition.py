"""How a keyspace would spread over many logs: a simulation of placements, from 3 to 1,000 machines. Nothing of it is
in the server yet.

`python benchmarks/partition.py [--nodes 3,10,...] [--write]` prints a table; with --write it goes to
benchmarks/results/partition.json and the table of docs/cluster.md is made from that. The same seed gives the same
figures on any machine, in less than a minute.

The model: a key has a slot, slots are placed on logs. Each machine is home to one log; a log's three replicas are on
its home and on the next two machines around the ring of their numbers. A machine that comes brings its log along, and
the log of one that leaves goes with it. A placement says which log has a slot, as a list with the number of the log's
machine for each slot.

Not for latency or throughput (`bench.py`), and not for what happens while a slot moves (docs/cluster.md).
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
"""Slots of a keyspace: 65 for each of 1,000 machines. Of the 16,384 that Redis Cluster has it would be 16."""

REPLICAS = 3
"""Machines that have a log."""

NODES = (3, 10, 30, 100, 300, 1_000)
"""Machines of each simulated cluster."""

KEYS = 1_000_000
SEED = 20_261_122
ZIPF = 0.99
"""How uneven the load on keys is: the key of rank r gets 1 / r**0.99 of what the first gets, as YCSB has it."""

SHORT = 8
"""How many machines are in a short list, on average."""

SLACK = 1.05
"""What `bounded` lets a log have, in times its share."""

Placement = list[int]


@dataclass(frozen=True)
class Node:
    """A machine. number: its own for ever, never used again. weight: its size beside the others'."""

    number: int
    weight: float = 1.0


def slot_of(key: bytes, slots: int = SLOTS) -> int:
    """A key's slot: the last bits of its CRC-32, whose first bits are its bucket in the table."""
    return zlib.crc32(key) % slots


# -- placements --------------------------------------------------------------------------------------------------------


def modulo(nodes: Sequence[Node], before: Placement | None, slots: int) -> Placement:
    """The slot's number modulo how many machines there are: what one would do first. It knows no weights."""
    return [nodes[slot % len(nodes)].number for slot in range(slots)]


def rendezvous(nodes: Sequence[Node], before: Placement | None, slots: int) -> Placement:
    """Each slot is where its score is highest. Nobody has to remember anything."""
    contest = Contest(nodes, slots)
    return [contest.winner(slot) for slot in range(slots)]


def bounded(nodes: Sequence[Node], before: Placement | None, slots: int) -> Placement:
    """Likewise, but no log gets more than 1.05 times its share: what does not fit goes to the next best."""
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
    """A table that is kept, and changed as little as evenness allows: only what is over a log's share moves."""
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
    """Who wins which slot. weights: of those that take part; with twice the weight one wins twice as often."""

    def __init__(self, nodes: Sequence[Node], slots: int) -> None:
        self.weights = {node.number: node.weight for node in nodes}
        # A cluster and the same one with a machine more are to have the same short lists.
        self._numbers = -(-(max(self.weights) + 1) // 16) * 16
        least, self._short_lists = _short_lists(self._numbers, slots)
        self._least = least * max(self.weights.values())

    def winner(self, slot: int) -> int:
        """The number of the machine that has the slot."""
        weights = self.weights
        ranked = [(weights[number] * score, number) for score, number in self._short_lists[slot] if number in weights]
        if ranked and max(ranked)[0] > self._least:
            return max(ranked)[1]
        scores = _scores(slot, self._numbers)  # somebody who is not in the short list may be better
        return max((weight * _merit(scores[number]), number) for number, weight in weights.items())[1]


@functools.lru_cache(maxsize=1)
def _short_lists(numbers: int, slots: int) -> tuple[float, list[list[tuple[float, int]]]]:
    """For each slot the few machines, of so many numbers, whose scores are best; and a score that all others are below.

    A short list is looked through a hundred times faster than all the scores of 1,000 machines.
    """
    lowest = max(0, int(2**64 * (1 - SHORT / numbers)))
    lists = [
        [(_merit(score), number) for number, score in enumerate(_scores(slot, numbers)) if score >= lowest]
        for slot in range(slots)
    ]
    return _merit(lowest) if lowest else 0.0, lists


def _scores(slot: int, numbers: int) -> Sequence[int]:
    """A slot's score of 64 bits for every machine, by its number. It does not depend on who else is there."""
    return array("Q", hashlib.shake_128(slot.to_bytes(4, "big")).digest(8 * numbers))


def _merit(score: int) -> float:
    """A score as what can be multiplied by a weight."""
    return -1 / math.log((score + 1) / (2**64 + 1))


def _shares(nodes: Sequence[Node], slots: int) -> list[float]:
    """What each machine would have if slots could be cut."""
    total = math.fsum(node.weight for node in nodes)
    return [slots * node.weight / total for node in nodes]


def _whole(shares: list[float], slots: int) -> list[int]:
    """Shares as whole numbers with the right sum: those that lose most by rounding down get one more."""
    whole = [math.floor(share) for share in shares]
    for at in sorted(range(len(shares)), key=lambda at: whole[at] - shares[at])[: slots - sum(whole)]:
        whole[at] += 1
    return whole


# -- replicas ----------------------------------------------------------------------------------------------------------


def replicas(nodes: Sequence[Node]) -> dict[int, tuple[int, ...]]:
    """For each log, by its home's number, the machines that have it: its home and those that come next."""
    if len(nodes) < REPLICAS:
        raise ValueError(f"a log has replicas on {REPLICAS} machines, and there are {len(nodes)}")
    ring = sorted(node.number for node in nodes)
    return {number: tuple(ring[(at + step) % len(ring)] for step in range(REPLICAS)) for at, number in enumerate(ring)}


# -- what is measured --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """What slots have. keys: of each slot; heat: the part of all commands that each slot gets, if load is uneven."""

    keys: list[int]
    heat: list[float]


def key_names(count: int) -> Iterator[bytes]:
    """Names as programs make them: counters, ids in hex, paths, dates, addresses."""
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
    """So many keys, and commands on them: their ranks by heat are shuffled, so that no kind of name is hot as such."""
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
    """What the machines have of something that each slot has."""
    found: dict[int, float] = dict.fromkeys(placed, 0)
    for number, amount in zip(placed, each, strict=True):
        found[number] += amount
    return found


def unevenness(found: dict[int, float], nodes: Sequence[Node]) -> float:
    """What the fullest machine has, in times its share."""
    total, weights = math.fsum(found.values()), math.fsum(node.weight for node in nodes)
    return max(found.get(node.number, 0) * weights / (total * node.weight) for node in nodes)


def moved(before: Placement, after: Placement) -> int:
    """Slots that get another log."""
    return sum(one != other for one, other in zip(before, after, strict=True))


def copied(before: Placement, after: Placement, nodes: Sequence[Node], later: Sequence[Node]) -> int:
    """Copies of slots that have to be made on a machine that had none."""
    had, has = replicas(nodes), replicas(later)
    new: dict[tuple[int, int], int] = {}
    count = 0
    for pair in zip(before, after, strict=True):
        if pair not in new:
            new[pair] = len(set(has[pair[1]]) - set(had[pair[0]]))
        count += new[pair]
    return count


def measured(name: str, count: int, slots: int, loaded: Load) -> dict[str, Any]:
    """One row: a placement on so many machines; what it costs when one comes, and when the one in the middle goes."""
    place = PLACEMENTS[name]
    nodes = [Node(number) for number in range(count)]
    joined, gone = [*nodes, Node(count)], [node for node in nodes if node.number != count // 2]
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
        "leave": _rounded(moved(placed, place(gone, placed, slots)) / leaving) if len(gone) >= REPLICAS else None,
    }


def _rounded(figure: float) -> float:
    return float(f"{figure:.3g}")


def simulated(counts: Sequence[int], keys: int = KEYS, slots: int = SLOTS) -> dict[str, Any]:
    """Every placement on every number of machines, and what it was made with."""
    loaded = load(keys, slots)
    return {
        "made": {"slots": slots, "keys": keys, "zipf": ZIPF, "seed": SEED, "hottest": _rounded(max(loaded.heat))},
        "rows": [measured(name, count, slots, loaded) for count in counts for name in PLACEMENTS],
    }


COLUMNS = {
    "nodes": "machines",
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
"""What is printed of a row, and its heading."""


def main() -> int:
    """Print the table; write it down if asked to."""
    parser = argparse.ArgumentParser(description="how a keyspace spreads over many logs, simulated")
    parser.add_argument("--nodes", default=",".join(map(str, NODES)), help="machines, with commas between")
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
