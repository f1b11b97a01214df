"""Fixtures for tests of the Redis session."""

import pytest

from tests.session.resp.chat import Chat


@pytest.fixture
def chat() -> Chat:
    return Chat()
