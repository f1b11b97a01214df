"""A server, `cairn serve`, and a client of it, with no queues."""

from collections.abc import Iterator

import pytest

import cairnkv
from tests.support.targets import cairn


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with cairn() as target:
        yield f"cairn://{target.host}:{target.port}"


@pytest.fixture
def kv(url: str) -> Iterator[cairnkv.Client[str, str]]:
    with cairnkv.connect(url) as kv:
        kv.clear_all()
        for name in kv.queues():
            kv.queue(name).purge()
            kv.queue(name).drop()
        yield kv
