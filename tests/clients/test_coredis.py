"""coredis: typed, asyncio only, RESP3."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.targets import Target

Connect = Callable[[], Any]


@pytest.fixture
def connect(server: Target) -> Connect:
    """Makes a client; its context has to be entered by the test, in the task that leaves it."""
    coredis = pytest.importorskip("coredis")
    return lambda: coredis.Redis(host=server.host, port=server.port, decode_responses=True)


async def test_strings_and_keys(connect: Connect) -> None:
    async with connect() as client:
        coredis = pytest.importorskip("coredis")
        assert await client.set("k", "v", ex=100) is True
        assert await client.get("k") == "v"
        assert await client.ttl("k") == 100
        assert not await client.set("k", "w", condition=coredis.PureToken.NX)
        assert await client.mset({"a": "1", "b": "2"}) is True
        assert tuple(await client.mget(["a", "nothing", "b"])) == ("1", None, "2")
        assert await client.incrby("a", 41) == 42
        assert await client.incrbyfloat("f", 0.5) == 0.5
        assert await client.getex("k", persist=True) == "v"
        assert await client.ttl("k") == -1
        assert {key async for key in client.scan_iter(match="?")} == {"k", "a", "b", "f"}
        assert await client.delete(["a", "b", "nothing"]) == 2
        with pytest.raises(coredis.exceptions.ResponseError, match="not an integer"):
            await client.incr("k")
        assert "redis_version" in await client.info()


async def test_transactions(connect: Connect) -> None:
    async with connect() as client:
        async with client.pipeline(transaction=True) as pipeline:
            first = pipeline.set("n", 1)
            second = pipeline.incr("n")
        assert await first
        assert await second == 2


async def test_channels(connect: Connect) -> None:
    async with connect() as client, client.pubsub(ignore_subscribe_messages=True, patterns=["news:*"]) as pubsub:
        for _ in range(200):  # it subscribes in the background
            if await client.publish("news:1", "hi") == 1:
                break
            await asyncio.sleep(0.01)
        message = None
        for _ in range(3):  # None takes the place of a message that is ignored
            message = message or await pubsub.get_message(timeout=5)
        assert message is not None
        assert (message["data"], message["channel"]) == ("hi", "news:1")
