"""The server for the clients, empty before each test; and the report of a missing client."""

import shutil

import pytest

from tests.support.raw_resp import Peer
from tests.support.targets import Target
from tests.support.targets import redis_target as redis_target


@pytest.fixture
def server(redis_target: Target) -> Target:
    """The server, with nothing in it."""
    with Peer(redis_target.address) as peer:
        assert peer.ask(b"FLUSHALL") == b"+OK\r\n"
    return redis_target


def program(name: str, package: str) -> str:
    """The path of a program; the test is skipped, with Debian's package named, where it is missing."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name}; on Debian: apt-get install {package}")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Clients' warnings about themselves are not ours to mend."""
    for item in items:
        if "tests/clients/" in item.path.as_posix():
            item.add_marker(pytest.mark.filterwarnings("default"))
