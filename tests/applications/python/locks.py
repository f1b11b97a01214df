"""Packages that are mostly a lock: portalocker, redlock-py, aioredlock, pottery, dogpile.cache."""

import time

from shared import (
    HOST,
    PORT,
    SECONDS,
    THREADS,
    URL,
    add_one,
    add_one_in_task,
    assert_count,
    assert_no_lock_left,
    client,
    in_tasks,
    in_threads,
    run,
)


def portalocker() -> None:
    import portalocker

    import redis

    def work(number: int) -> None:
        connected = redis.Redis(HOST, PORT)
        for _ in range(5):
            with portalocker.RedisLock("lock", connected, timeout=SECONDS, check_interval=0.001):
                add_one()

    in_threads(work)
    assert_count(THREADS * 5)


def redlock_py() -> None:
    from redlock import Redlock

    def work(number: int) -> None:
        manager = Redlock([{"host": HOST, "port": PORT}], retry_count=20_000, retry_delay=0.002)
        for _ in range(10):
            lock = manager.lock("lock", 60_000)
            assert lock
            add_one()
            manager.unlock(lock)

    in_threads(work)
    assert_count(THREADS * 10)
    assert_no_lock_left()
    manager = Redlock([{"host": HOST, "port": PORT}], retry_count=1)
    lock = manager.lock("lock", 60_000)
    assert not manager.lock("lock", 60_000)
    client.set("lock", "another owner")
    manager.unlock(lock)
    assert client.get("lock") == b"another owner"


async def aioredlock() -> None:
    from aioredlock import Aioredlock

    async def work(number: int) -> None:
        manager = Aioredlock([URL], retry_count=20_000, retry_delay_min=0.001, retry_delay_max=0.003)
        for _ in range(5):
            async with await manager.lock("lock", lock_timeout=60):
                await add_one_in_task()
        await manager.destroy()

    await in_tasks(work)
    assert_count(THREADS * 5)
    assert_no_lock_left()


def pottery_redlock() -> None:
    from pottery import Redlock

    import redis

    def work(number: int) -> None:
        connected = redis.Redis(HOST, PORT)
        for _ in range(5):
            with Redlock(key="lock", masters={connected}, auto_release_time=60):
                add_one()

    in_threads(work)
    assert_count(THREADS * 5)
    assert_no_lock_left()
    lock = Redlock(key="held", masters={redis.Redis(HOST, PORT)}, auto_release_time=60)
    assert lock.acquire()
    assert 0 < lock.locked() <= 60
    lock.extend()
    lock.release()
    assert not lock.locked()


def dogpile(distributed: bool) -> None:
    from dogpile.cache import make_region
    from dogpile.cache.api import NO_VALUE

    arguments = {"host": HOST, "port": PORT, "redis_expiration_time": 100}
    if distributed:
        arguments |= {"distributed_lock": True, "thread_local_lock": False, "lock_timeout": 60, "lock_sleep": 0.001}
    made: list[int] = []

    def make() -> int:
        made.append(1)
        time.sleep(0.05)  # the others come meanwhile
        return 42

    region = make_region().configure("dogpile.cache.redis", arguments=arguments)
    for at in range(5):
        assert in_threads(lambda number, at=at: region.get_or_create(f"k{at}", make)) == [42] * THREADS
        assert len(made) == at + 1
    assert_no_lock_left(*(f"k{at}" for at in range(5)))
    region.set_multi({"a": 1, "b": {"any": "object"}})
    assert region.get_multi(["a", "b", "nothing"]) == [1, {"any": "object"}, NO_VALUE]
    region.delete("a")
    assert region.get("a") is NO_VALUE


def dogpile_cache() -> None:
    dogpile(distributed=False)


def dogpile_distributed_lock() -> None:
    dogpile(distributed=True)


run(portalocker, redlock_py, aioredlock, pottery_redlock, dogpile_cache, dogpile_distributed_lock)
