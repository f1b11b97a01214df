"""The table of the recorded results of the tests of Redis clients about scripts.

`make test-client-suite SUITE=DIR SUITE_FLAGS=--record` records the results; `docs/redis.md` shows them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parent / "client-suites.json"
"""The results that docs/redis.md shows."""


def markdown(clients: Sequence[dict[str, Any]]) -> str:
    """Format the results as a table, and failures as a list."""
    rows = ["| client | test files | passed | failed | skipped by the client |", "| --- | --- | --- | --- | --- |"]
    failures = []
    for client in clients:
        files = ", ".join(f"`{name}`" for name in client["files"])
        counts = f"{client['passed']} | {len(client['failed'])} | {client['skipped']}"
        rows.append(f"| {client['client']} {client['version']} | {files} | {counts} |")
        failures += [
            f"- {client['client']}: {test}: {why}".replace("|", "\\|") for test, why in client["failed"].items()
        ]
    return "\n".join([*rows, *(["", "Failed:", "", *failures] if failures else [])])
