"""Servers for these tests: `redis_target` is cairnkv, `real_redis` is redis-server."""

from collections.abc import Iterator

import pytest

from tests.support import targets
from tests.support.targets import MissingServer, Target
from tests.support.targets import redis_target as redis_target


@pytest.fixture(scope="module")
def real_redis() -> Iterator[Target]:
    """The reference: redis-server. Skipped, which the summary says, where it is missing."""
    try:
        with targets.redis() as target:
            yield target
    except MissingServer as missing:
        pytest.skip(str(missing))
