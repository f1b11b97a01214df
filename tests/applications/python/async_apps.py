"""Packages for asyncio: aiocache, cashews, fastapi-cache2, starsessions, litestar, aiogram."""

import asyncio
from typing import Any

from shared import (
    HOST,
    PORT,
    THREADS,
    TIMES,
    URL,
    add_one_in_task,
    assert_count,
    assert_no_lock_left,
    client,
    in_tasks,
    is_allowed,
    raises,
    run,
)


async def aiocache() -> None:
    async with aiocache_of() as cache:
        assert await cache.set("k", {"any": "object"}, ttl=100)
        assert await cache.get("k") == {"any": "object"}
        assert await cache.multi_set([("a", 1), ("b", 2)])
        assert await cache.multi_get(["a", "b", "nothing"]) == [1, 2, None]
        assert await cache.exists("a")
        assert await cache.expire("a", 50)
        assert await cache.delete("a") == 1

        async def work(number: int) -> int:
            won = 0
            for at in range(TIMES):
                try:
                    won += bool(await cache.add(f"one:{at}", number))
                except ValueError:  # the key exists
                    continue
            return won

        assert sum(await in_tasks(work)) == TIMES
        await cache.clear()
        assert not client.keys()


async def aiocache_redlock() -> None:
    """Callers wait for the owner. Two callers that come at the same moment may both pass, with every server."""
    from aiocache.lock import OptimisticLock, OptimisticLockError, RedLock

    made = []
    inside = asyncio.Event()
    async with aiocache_of() as cache:

        async def value(number: int) -> Any:
            async with RedLock(cache, "k", lease=30):
                inside.set()
                found = await cache.get("k")
                if found is None:
                    made.append(number)
                    await asyncio.sleep(0.05)  # the others come meanwhile
                    found = "made"
                    await cache.set("k", found)
                return found

        async def work(number: int) -> Any:
            if number > 0:
                await inside.wait()
            return await value(number)

        assert await in_tasks(work) == ["made"] * THREADS
        assert made == [0]
        assert_no_lock_left("app::k")
        async with OptimisticLock(cache, "k") as lock:
            await lock.cas("changed")
        assert await cache.get("k") == "changed"
        with raises(OptimisticLockError):
            async with OptimisticLock(cache, "k") as lock:
                await cache.set("k", "by another")
                await lock.cas("lost")
        assert await cache.get("k") == "by another"


def aiocache_of() -> Any:
    from aiocache import Cache
    from aiocache.serializers import JsonSerializer

    return Cache(Cache.REDIS, endpoint=HOST, port=PORT, namespace="app:", serializer=JsonSerializer())


async def cashews_cache() -> None:
    from cashews import cache

    cache.setup(f"{URL}/0", suppress=False)
    await cache.set("k", {"any": "object"}, expire=100)
    assert await cache.get("k") == {"any": "object"}
    assert await cache.set_many({"a": 1, "b": 2}) is None
    assert await cache.get_many("a", "b", "nothing") == (1, 2, None)
    assert await cache.delete("k")
    made = []

    @cache(ttl="1m", key="slow:{n}")
    async def slow(n: int) -> int:
        made.append(n)
        return n * 3

    assert [await slow(5), await slow(5)] == [15, 15]
    assert made == [5]

    async def work(number: int) -> None:
        for _ in range(TIMES):
            await cache.incr("n")

    await in_tasks(work)
    assert await cache.get("n") == THREADS * TIMES
    await cache.close()


async def cashews_lock() -> None:
    from cashews import cache

    cache.setup(f"{URL}/0")

    async def work(number: int) -> None:
        for _ in range(5):
            async with cache.lock("lock", expire=60, wait=True):
                await add_one_in_task()

    await in_tasks(work)
    assert_count(THREADS * 5)
    assert_no_lock_left()
    await cache.close()


async def cashews_rate_limit() -> None:
    from cashews import RateLimitError, cache

    cache.setup(f"{URL}/0", suppress=False)

    @cache.rate_limit(limit=10, period="1h", key="limited")
    async def limited() -> None: ...

    async def work(number: int) -> list[bool]:
        allowed = []
        for _ in range(5):
            try:
                await limited()
                allowed.append(True)
            except RateLimitError:
                allowed.append(False)
        return allowed

    is_allowed(10, [allowed for calls in await in_tasks(work) for allowed in calls])
    await cache.close()


async def cashews_tags() -> None:
    """With `suppress=False`, the error of a server without sets and sorted sets is raised. Nothing fails silently."""
    from cashews import RateLimitError, cache
    from cashews.exceptions import CacheBackendInteractionError

    import redis

    cache.setup(f"{URL}/0", suppress=False)
    current = 1

    @cache(ttl="1m", key="value", tags=["t:1"])
    async def value() -> int:
        return current

    @cache.slice_rate_limit(limit=2, period="1h", key="limited")
    async def limited() -> None: ...

    try:
        client.sadd("set", "member")
    except redis.ResponseError:
        with raises((redis.ResponseError, CacheBackendInteractionError)):
            await value()
        with raises(CacheBackendInteractionError):
            await limited()
    else:
        assert await value() == 1
        await cache.delete_tags("t:1")
        current = 2
        assert await value() == 2
        await limited()
        await limited()
        with raises(RateLimitError):
            await limited()
    await cache.close()


async def fastapi_cache_of(work: Any) -> None:
    from fastapi import FastAPI
    from fastapi_cache import FastAPICache
    from fastapi_cache.backends.redis import RedisBackend
    from fastapi_cache.decorator import cache
    from httpx import ASGITransport, AsyncClient
    from redis.asyncio import Redis

    connected = Redis(host=HOST, port=PORT)
    FastAPICache.init(RedisBackend(connected), prefix="app")
    application = FastAPI()
    asked = []

    @application.get("/double/{n}")
    @cache(expire=100)
    async def double(n: int) -> int:
        asked.append(n)
        return n * 2

    async with AsyncClient(transport=ASGITransport(application), base_url="http://test") as browser:

        async def get(n: int) -> Any:
            return (await browser.get(f"/double/{n}")).json()

        await work(get, asked)
    await connected.aclose()


async def fastapi_cache() -> None:
    async def work(get: Any, asked: list[int]) -> None:
        assert await get(4) == 8
        assert [await get(4) for _ in range(3)] == [8] * 3
        assert asked == [4]
        assert await in_tasks(lambda number: get(number + 10)) == [20, 22, 24, 26]

    await fastapi_cache_of(work)


async def fastapi_cache_clear() -> None:
    from fastapi_cache import FastAPICache

    async def work(get: Any, asked: list[int]) -> None:
        client.set("other", "stays")
        await in_tasks(get, 20)
        assert len(client.keys("app:*")) == 20
        await FastAPICache.clear()
        assert client.keys() == [b"other"]
        assert await get(4) == 8
        assert len(asked) == 21

    await fastapi_cache_of(work)


def starsessions() -> None:
    from shared import in_threads
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient
    from starsessions import SessionAutoloadMiddleware, SessionMiddleware
    from starsessions.stores.redis import RedisStore

    async def visit(request: Request) -> JSONResponse:
        request.session["visits"] = request.session.get("visits", 0) + 1
        return JSONResponse(request.session["visits"])

    async def leave(request: Request) -> JSONResponse:
        request.session.clear()
        return JSONResponse("left")

    def work(number: int) -> None:
        application = Starlette(
            routes=[Route("/visit", visit), Route("/leave", leave)],
            middleware=[
                Middleware(SessionMiddleware, store=RedisStore(URL), lifetime=100, cookie_https_only=False),
                Middleware(SessionAutoloadMiddleware),
            ],
        )
        with TestClient(application) as browser:
            assert [browser.get("/visit").json() for _ in range(5)] == [1, 2, 3, 4, 5]
            browser.get("/leave")
            assert browser.get("/visit").json() == 1

    in_threads(work)
    assert len(client.keys()) == THREADS


async def litestar_store() -> None:
    from litestar.stores.redis import RedisStore

    store = RedisStore.with_client(url=URL)
    other = store.with_namespace("other")
    await store.set("k", b"value", expires_in=100)
    assert await store.get("k", renew_for=200) == b"value"
    assert 100 < await store.expires_in("k") <= 200
    assert await store.exists("k")
    await other.set("k", b"of another namespace")
    await in_tasks(lambda number: store.set(f"k{number}", b"v"))
    await store.delete("k")
    assert await store.get("k") is None
    await store.delete_all()
    assert await store.get("k0") is None
    assert [await store.get("k1"), await other.get("k")] in ([None, None], [None, b"of another namespace"])


async def litestar_channels() -> None:
    from litestar.channels import ChannelsPlugin
    from litestar.channels.backends.redis import RedisChannelsPubSubBackend
    from redis.asyncio import Redis

    plugin = ChannelsPlugin(RedisChannelsPubSubBackend(redis=Redis(host=HOST, port=PORT)), channels=["news", "other"])
    async with plugin, plugin.start_subscription(["news"]) as subscriber:
        await in_tasks(lambda number: plugin.wait_published(f"message {number}", "news"))
        received = set()
        async for message in subscriber.iter_events():
            received.add(message)
            if len(received) == THREADS:
                break
        assert received == {f"message {number}".encode() for number in range(THREADS)}


async def aiogram() -> None:
    from aiogram.fsm.state import State
    from aiogram.fsm.storage.base import StorageKey
    from aiogram.fsm.storage.redis import RedisStorage

    storage = RedisStorage.from_url(URL)

    async def work(number: int) -> None:
        key = StorageKey(bot_id=1, chat_id=number, user_id=number)
        await storage.set_state(key, State("waiting", "form"))
        assert await storage.get_state(key) == "form:waiting"
        await storage.set_data(key, {"number": number})
        assert await storage.update_data(key, {"more": 1}) == {"number": number, "more": 1}
        assert await storage.get_data(key) == {"number": number, "more": 1}
        await storage.set_state(key, None)
        assert await storage.get_state(key) is None

    await in_tasks(work)
    isolation = storage.create_isolation()
    key = StorageKey(bot_id=1, chat_id=9, user_id=9)

    async def alone(number: int) -> None:
        async with isolation.lock(key):
            await add_one_in_task()

    await in_tasks(alone)
    assert_count(THREADS)
    assert not client.keys("fsm:9:9:lock")
    await storage.close()


run(
    aiocache,
    aiocache_redlock,
    cashews_cache,
    cashews_lock,
    cashews_rate_limit,
    cashews_tags,
    fastapi_cache,
    fastapi_cache_clear,
    starsessions,
    litestar_store,
    litestar_channels,
    aiogram,
)
