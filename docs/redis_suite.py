"""Tables of the recorded results of the test suite of Redis or Valkey against cairnkv.

`make test-redis-suite SUITE_FLAGS=--record` records the results; `docs/redis.md` shows them.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parent / "redis-suite.json"
"""The results that docs/redis.md shows."""


def markdown(found: dict[str, Any]) -> str:
    """Format the results as tables."""
    units, baseline = found["units"], found.get("baseline", [])
    head = ["unit", "passed", "failed", "not applicable"]
    head += ["redis-server: passed", "failed", "not run with cairnkv"] if baseline else []
    rows: list[list[Any]] = [head, ["---"] * len(head)]
    nothing: dict[str, Any] = {}
    for unit, their in zip_longest(units, baseline, fillvalue=nothing):
        numbers = [unit["passed"], len(unit["failed"]), sum(unit["not_applicable"].values())]
        rows.append([f"`{unit['name']}`", *numbers, *their.values()])
    rows.append(["all", *(sum(row[at] for row in rows[2:]) for at in range(1, len(head)))])
    out = [f"The test suite of {found['suite']}:", "", *_table(rows)]
    failed = [[f"`{unit['name']}`", test, why] for unit in units for test, why in unit["failed"].items()]
    out += ["", "Failed:", "", *_table([["unit", "test", "reason"], ["---"] * 3, *failed])] if failed else []
    reasons: Counter[str] = Counter()
    for unit in units:
        reasons.update(unit["not_applicable"])
    ordered = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    out += ["", "Not applicable:", "", *_table([["reason", "tests"], ["---"] * 2, *ordered])] if ordered else []
    unfinished = [unit["name"] for unit in units if not unit["whole"]]
    out += ["", f"Incomplete: {', '.join(unfinished)}"] if unfinished else []
    return "\n".join(out)


def _table(rows: Sequence[Sequence[object]]) -> list[str]:
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
