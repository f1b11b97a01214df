"""valkey-glide, whose core is Rust: asyncio over RESP2 and RESP3, and the sync client."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.targets import Target


@pytest_asyncio.fixture(params=["RESP2", "RESP3"])
async def client(request: pytest.FixtureRequest, server: Target) -> AsyncIterator[Any]:
    glide = pytest.importorskip("glide")
    client = await glide.GlideClient.create(
        glide.GlideClientConfiguration(
            [glide.NodeAddress(server.host, server.port)],
            protocol=glide.ProtocolVersion[request.param],
            client_name="glide",
        )
    )
    yield client
    await client.close()


@pytest.fixture
def sync_client(server: Target) -> Iterator[Any]:
    glide = pytest.importorskip("glide_sync")
    client = glide.GlideClient.create(
        glide.GlideClientConfiguration([glide.NodeAddress(server.host, server.port)], database_id=2)
    )
    yield client
    client.close()


async def test_strings_and_keys(client: Any) -> None:
    glide = pytest.importorskip("glide")
    assert await client.set("k", "v", expiry=glide.ExpirySet(glide.ExpiryType.SEC, 100)) == "OK"
    assert await client.get("k") == b"v"
    assert await client.ttl("k") == 100
    assert await client.set("k", "w", conditional_set=glide.ConditionalChange.ONLY_IF_DOES_NOT_EXIST) is None
    assert await client.mset({"a": "1", "b": "2"}) == "OK"
    assert await client.mget(["a", "nothing", "b"]) == [b"1", None, b"2"]
    assert await client.incrby("a", 41) == 42
    assert await client.incrbyfloat("f", 0.5) == 0.5
    assert await client.exists(["a", "b", "nothing"]) == 2
    cursor, found = b"0", set()
    for _ in range(100):
        cursor, keys = await client.scan(cursor, match="*")
        found.update(keys)
        if cursor == b"0":
            break
    assert found == {b"k", b"a", b"b", b"f"}
    assert await client.delete(["a", "b", "nothing"]) == 2
    with pytest.raises(glide.RequestError, match="not an integer"):
        await client.incr("k")
    assert await client.client_getname() == b"glide"
    assert b"redis_version" in await client.info()


async def test_transactions(client: Any) -> None:
    glide = pytest.importorskip("glide")
    batch = glide.Batch(is_atomic=True)
    batch.set("n", "1")
    batch.incr("n")
    batch.get("nothing")
    assert await client.exec(batch, raise_on_error=True) == ["OK", 2, None]
    pipeline = glide.Batch(is_atomic=False)
    for n in range(1000):
        pipeline.set(f"key:{n}", str(n))
    assert await client.exec(pipeline, raise_on_error=True) == ["OK"] * 1000
    assert await client.dbsize() == 1001


async def test_channels(server: Target) -> None:
    glide = pytest.importorskip("glide")
    modes = glide.GlideClientConfiguration.PubSubChannelModes
    wanted = glide.GlideClientConfiguration.PubSubSubscriptions(
        {modes.Pattern: {"news:*"}}, callback=None, context=None
    )
    address = [glide.NodeAddress(server.host, server.port)]
    listener = await glide.GlideClient.create(glide.GlideClientConfiguration(address, pubsub_subscriptions=wanted))
    speaker = await glide.GlideClient.create(glide.GlideClientConfiguration(address))
    try:
        assert await speaker.publish("hello", "news:1") == 1
        message = await listener.get_pubsub_message()
        assert (message.message, message.channel, message.pattern) == (b"hello", b"news:1", b"news:*")
    finally:
        await listener.close()
        await speaker.close()


def test_sync(sync_client: Any) -> None:
    assert sync_client.set("k", "v") == "OK"
    assert sync_client.get("k") == b"v"
    assert sync_client.incr("n") == 1
    assert sync_client.dbsize() == 2
    assert sync_client.delete(["k", "nothing"]) == 1
    assert sync_client.ping() == b"PONG"


async def test_compare_and_set(client: Any, redis_target: Target) -> None:
    """Valkey's own condition, which redis-server does not know."""
    glide = pytest.importorskip("glide")
    if redis_target.name == "redis":
        pytest.skip("redis-server knows no IFEQ")
    await client.set("k", "old")
    assert await client.set("k", "new", conditional_set=glide.OnlyIfEqual("other")) is None
    assert await client.set("k", "new", conditional_set=glide.OnlyIfEqual("old")) == "OK"
    assert await client.get("k") == b"new"
