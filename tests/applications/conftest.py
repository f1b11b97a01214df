"""The server for the programs, empty before each; and the record of their results."""

import json
import os
from collections.abc import Iterator

import pytest
from docs.applications import RECORD, USES

from tests.applications.install import versions
from tests.support.targets import redis_target as redis_target
from tests.support.targets import server as server


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of the uses that CI runs."""
    config.addinivalue_line("markers", "in_ci: CI runs the program of this use")


@pytest.fixture(scope="session")
def results() -> Iterator[dict[str, str]]:
    """The results of this run by use. At the end, the record gets them if the variable RECORD is set."""
    found: dict[str, str] = {}
    yield found
    if os.environ.get("RECORD"):
        target = os.environ.get("TARGET", "cairn")
        before = json.loads(RECORD.read_text())["results"]
        merged = {use.name: before.get(use.name, {}) for use in USES if use.program}
        for name, result in found.items():
            merged[name] = dict(sorted({**merged[name], target: result}.items()))
        RECORD.write_text(json.dumps({"versions": versions(), "results": merged}, indent=1) + "\n")
