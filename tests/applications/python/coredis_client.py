"""coredis: a client for asyncio, and its lock."""

import coredis
from shared import (
    HOST,
    PORT,
    THREADS,
    TIMES,
    add_one_in_task,
    assert_count,
    assert_no_lock_left,
    in_tasks,
    run,
)


async def basics() -> None:
    async with coredis.Redis(host=HOST, port=PORT, decode_responses=True) as connected:

        async def work(number: int) -> int:
            won = 0
            for at in range(TIMES):
                await connected.incr("n")
                won += bool(await connected.set(f"one:{at}", number, condition=coredis.PureToken.NX))
            return won

        assert sum(await in_tasks(work)) == TIMES
        assert await connected.get("n") == str(THREADS * TIMES)


async def lock() -> None:
    async with coredis.Redis(host=HOST, port=PORT, decode_responses=True) as connected:

        async def work(number: int) -> None:
            for _ in range(10):
                async with connected.lock("lock", timeout=60, sleep=0.001):
                    await add_one_in_task()

        await in_tasks(work)
        assert_count(THREADS * 10)
        assert_no_lock_left()


run(basics, lock)
