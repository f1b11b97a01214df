"""One client library in one process, in a loop, for some seconds: `clients.py CLIENT SECONDS KEYS [PORT]`.

It prints a line of JSON: how many calls, in how many seconds. Keys and values are bytes everywhere, keys are drawn
from all KEYS in a random order that is the same for all, clients have their defaults, and the event loop is asyncio's
own. Servers have been loaded before (`key:` and twelve digits); stores in this process load themselves.

Run by benchmarks/bench.py. Not for servers' rates: here the client is what takes the time.
"""

import asyncio
import contextlib
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

VALUE = b"x" * 32
CALLS_PER_LOOK = 500
"""Calls between two looks at the clock."""

Get = Callable[[bytes], object]
Put = Callable[[bytes, bytes], object]
AsyncGet = Callable[[bytes], Awaitable[object]]
Timed = tuple[int, float]


# -- sync clients: a connection, one call after the other -------------------------------------------------------------


def sync_cairnkv(port: int) -> Get:
    import cairnkv

    return cairnkv.connect(f"cairn://127.0.0.1:{port}", codec="bytes").get


def sync_redis(port: int) -> Get:
    import redis

    return redis.Redis(port=port).get


def sync_pymemcache(port: int) -> Get:
    import pymemcache

    return pymemcache.Client(("127.0.0.1", port)).get


def repeat(call: Callable[..., object], arguments: Sequence[tuple[object, ...]], seconds: float) -> Timed:
    """Call with one after the other of these arguments until the time is up."""
    rounds = itertools.cycle([arguments[at : at + CALLS_PER_LOOK] for at in range(0, len(arguments), CALLS_PER_LOOK)])
    calls, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        some = next(rounds)
        for given in some:
            call(*given)
        calls += len(some)
    return calls, spent


# -- async clients: as many tasks as are wanted -----------------------------------------------------------------------


@contextlib.asynccontextmanager
async def async_cairnkv(port: int):
    import cairnkv

    async with cairnkv.aio.connect(f"cairn://127.0.0.1:{port}", codec="bytes") as kv:
        yield kv.get


@contextlib.asynccontextmanager
async def async_redis(port: int):
    import redis.asyncio

    async with redis.asyncio.Redis(port=port) as client:
        yield client.get


@contextlib.asynccontextmanager
async def async_glide(port: int):
    import glide

    client = await glide.GlideClient.create(glide.GlideClientConfiguration([glide.NodeAddress("127.0.0.1", port)]))
    try:
        yield client.get
    finally:
        await client.close()


async def repeat_in_tasks(connect, port: int, keys: Sequence[bytes], tasks: int, seconds: float) -> Timed:
    """Get one after the other of the keys in each task until the time is up."""
    calls, over = 0, False

    async def work(get: AsyncGet, own: Iterator[bytes]) -> None:
        nonlocal calls
        for key in own:
            if over:
                return
            await get(key)
            calls += 1

    def stop() -> None:
        nonlocal over
        over = True

    async with connect(port) as get:
        if await get(keys[0]) != VALUE:
            raise ValueError("not what the server was loaded with")
        began = time.perf_counter()
        asyncio.get_running_loop().call_later(seconds, stop)
        share = len(keys) // tasks
        await asyncio.gather(*(work(get, itertools.cycle(keys[n * share : n * share + share])) for n in range(tasks)))
        return calls, time.perf_counter() - began


# -- stores in this process -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def embedded_cairnkv() -> Iterator[tuple[Get, Put, contextlib.AbstractContextManager[object]]]:
    import cairnkv

    with cairnkv.open(codec="bytes") as kv:
        yield kv.get, kv.set, contextlib.nullcontext()


@contextlib.contextmanager
def embedded_dict() -> Iterator[tuple[Get, Put, contextlib.AbstractContextManager[object]]]:
    table: dict[bytes, bytes] = {}
    yield table.get, table.__setitem__, contextlib.nullcontext()


@contextlib.contextmanager
def embedded_diskcache() -> Iterator[tuple[Get, Put, contextlib.AbstractContextManager[object]]]:
    import diskcache

    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as directory, diskcache.Cache(directory) as cache:
        yield cache.get, cache.set, cache.transact()


# -- all of them ------------------------------------------------------------------------------------------------------

SYNC = {"cairnkv": sync_cairnkv, "redis": sync_redis, "pymemcache": sync_pymemcache}
ASYNC = {"cairnkv": async_cairnkv, "redis": async_redis, "glide": async_glide}
EMBEDDED = {"cairnkv": embedded_cairnkv, "dict": embedded_dict, "diskcache": embedded_diskcache}


def measure(client: str, seconds: float, count: int, port: int) -> Timed:
    """Let a client work; `client` is KIND-NAME: sync-redis, async100-glide, get-dict, set-diskcache."""
    kind, _, name = client.partition("-")
    keys = [b"key:%012d" % n for n in range(count)]
    random.Random(1).shuffle(keys)
    if kind == "sync":
        get = SYNC[name](port)
        if get(keys[0]) != VALUE:
            raise ValueError("not what the server was loaded with")
        return repeat(get, [(key,) for key in keys], seconds)
    if kind.startswith("async"):
        return asyncio.run(repeat_in_tasks(ASYNC[name], port, keys, int(kind.removeprefix("async")), seconds))
    with EMBEDDED[name]() as (get, put, together):
        with together:
            for key in keys:
                put(key, VALUE)
        if get(keys[0]) != VALUE:
            raise ValueError("not what the store was loaded with")
        if kind == "get":
            return repeat(get, [(key,) for key in keys], seconds)
        return repeat(put, [(key, VALUE) for key in keys], seconds)


def main(client: str, seconds: str, count: str, port: str = "0") -> None:
    """Measure one client and print what came of it."""
    calls, spent = measure(client, float(seconds), int(count), int(port))
    print(json.dumps({"calls": calls, "seconds": spent}))


if __name__ == "__main__":
    main(*sys.argv[1:])
