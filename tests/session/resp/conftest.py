"""What the tests of the Redis conversations share."""

import pytest

from tests.session.resp.chat import Chat


@pytest.fixture
def chat() -> Chat:
    return Chat()
