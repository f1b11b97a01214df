"""What the tests of the Redis conversations share."""

import pytest

from tests.session.redis.chat import Chat


@pytest.fixture
def chat() -> Chat:
    return Chat()
