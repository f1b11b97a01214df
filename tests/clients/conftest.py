"""The server for the clients, empty before each test."""

import pytest

from tests.support.targets import redis_target as redis_target
from tests.support.targets import server as server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Clients' warnings about themselves are not ours to mend."""
    for item in items:
        if "tests/clients/" in item.path.as_posix():
            item.add_marker(pytest.mark.filterwarnings("default"))
