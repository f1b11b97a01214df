"""One client library in one process, in a loop, for some seconds: `clients.py CLIENT SECONDS KEYS [PORT [DIRECTORY]]`.

The program prints a line of JSON: the number of calls and the seconds. Keys and values are bytes. All clients use the
same random order of the KEYS keys, their defaults, and asyncio's event loop. Servers are loaded before (`key:` and
twelve digits). Embedded stores load the keys themselves; those on disk are in DIRECTORY until the end.

benchmarks/bench.py runs this program.

Out of scope: rates of servers. Here the client takes most of the time.
"""

import asyncio
import contextlib
import itertools
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

VALUE = b"x" * 32
PAIRS_AT_ONCE = 1_000
CALLS_PER_LOOK = 500
"""Calls between two readings of the clock."""

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
    """Call with one argument after the other until the time is up."""
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
    """Get one key after the other in each task until the time is up."""
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
            raise ValueError("the server has another value")
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


# -- stores in this process and on disk, as safe as they can be: no call returns before an fsync --------------------


KEYS_ON_DISK = 10_000
"""Fewer keys, because the slowest peer loads them slowly."""


@contextlib.contextmanager
def disk_cairnkv(directory: str, loaded: Sequence[bytes]) -> Iterator[tuple[Get, Put]]:
    import cairnkv

    with cairnkv.open(f"{directory}/data", codec="bytes", sync="always") as kv:
        for at in range(0, len(loaded), PAIRS_AT_ONCE):
            kv.set_many(dict.fromkeys(loaded[at : at + PAIRS_AT_ONCE], VALUE))
        yield kv.get, kv.set


@contextlib.contextmanager
def disk_diskcache(directory: str, loaded: Sequence[bytes]) -> Iterator[tuple[Get, Put]]:
    import diskcache

    with diskcache.Cache(directory, sqlite_synchronous=2, eviction_policy="none") as cache:  # 2: FULL
        with cache.transact():
            for key in loaded:
                cache.set(key, VALUE)
        yield cache.get, cache.set


@contextlib.contextmanager
def disk_sqlitedict(directory: str, loaded: Sequence[bytes]) -> Iterator[tuple[Get, Put]]:
    import sqlitedict

    # Without `outer_stack` it is faster, with less information in errors.
    with sqlitedict.SqliteDict(f"{directory}/data.sqlite", autocommit=True, outer_stack=False) as table:
        for key in loaded:
            table[key] = VALUE
        table.conn.select_one("PRAGMA synchronous=FULL")  # sqlitedict disables it and has no option
        if table.conn.select_one("PRAGMA synchronous") != (2,):
            raise ValueError("sqlitedict does not wait for the disk")
        yield table.__getitem__, table.__setitem__


def repeat_on_disk(name: str, work: str, threads: int, keys: Sequence[bytes], seconds: float, directory: str) -> Timed:
    """Get or set one key after the other in each thread until the time is up."""
    with (
        tempfile.TemporaryDirectory(prefix="cairn-bench-", dir=directory) as own,
        ON_DISK[name](own, keys if work == "get" else ()) as (get, put),
    ):
        if work == "get" and get(keys[0]) != VALUE:
            raise ValueError("the store has another value")
        done: list[int] = []

        def loop(some: Sequence[bytes]) -> None:
            for calls, key in enumerate(itertools.cycle(some)):
                if time.perf_counter() >= end:
                    done.append(calls)
                    return
                if work == "get":
                    get(key)
                else:
                    put(key, VALUE)

        share = len(keys) // threads
        loops = [
            threading.Thread(target=loop, args=(keys[n * share : n * share + share],), daemon=True)
            for n in range(threads)
        ]
        began = time.perf_counter()
        end = began + seconds
        for one in loops:
            one.start()
        for one in loops:
            one.join()
        if len(done) != threads:
            raise ValueError("a thread has failed")
        return sum(done), time.perf_counter() - began


# -- all of them ------------------------------------------------------------------------------------------------------

SYNC = {"cairnkv": sync_cairnkv, "redis": sync_redis, "pymemcache": sync_pymemcache}
ASYNC = {"cairnkv": async_cairnkv, "redis": async_redis, "glide": async_glide}
EMBEDDED = {"cairnkv": embedded_cairnkv, "dict": embedded_dict, "diskcache": embedded_diskcache}
ON_DISK = {"cairnkv": disk_cairnkv, "diskcache": disk_diskcache, "sqlitedict": disk_sqlitedict}


def measure(client: str, seconds: float, count: int, port: int, directory: str) -> Timed:
    """Run a client; `client` is KIND-NAME: sync-redis, async100-glide, get-dict, set8_on_disk-diskcache."""
    kind, _, name = client.partition("-")
    if kind.endswith("_on_disk"):
        count = min(count, KEYS_ON_DISK)
    keys = [b"key:%012d" % n for n in range(count)]
    random.Random(1).shuffle(keys)
    if kind == "sync":
        get = SYNC[name](port)
        if get(keys[0]) != VALUE:
            raise ValueError("the server has another value")
        return repeat(get, [(key,) for key in keys], seconds)
    if kind.endswith("_on_disk"):
        return repeat_on_disk(name, kind[:3], int(kind[3:].removesuffix("_on_disk")), keys, seconds, directory)
    if kind.startswith("async"):
        return asyncio.run(repeat_in_tasks(ASYNC[name], port, keys, int(kind.removeprefix("async")), seconds))
    with EMBEDDED[name]() as (get, put, together):
        with together:
            for key in keys:
                put(key, VALUE)
        if get(keys[0]) != VALUE:
            raise ValueError("the store has another value")
        if kind == "get":
            return repeat(get, [(key,) for key in keys], seconds)
        return repeat(put, [(key, VALUE) for key in keys], seconds)


def main(client: str, seconds: str, count: str, port: str = "0", directory: str = "") -> None:
    """Measure one client and print the result."""
    calls, spent = measure(client, float(seconds), int(count), int(port), directory)
    print(json.dumps({"calls": calls, "seconds": spent}))


if __name__ == "__main__":
    main(*sys.argv[1:])
