"""Packages that send messages: Celery's results, channels-redis, FastStream, taskiq-redis, optuna, litellm."""

import asyncio
import threading
from typing import Any

from shared import HOST, PORT, SECONDS, THREADS, URL, client, in_threads, raises, run, wait_for_subscribers


def celery_results() -> None:
    """Results are strings with an expiry, and a channel announces them."""
    import celery

    application = celery.Celery("tests", broker="memory://", backend=URL)
    application.conf.result_expires = 100
    waiting = application.AsyncResult("the-task")
    assert waiting.state == "PENDING"
    later = threading.Timer(0.2, application.backend.store_result, ("the-task", {"answer": 42}, "SUCCESS"))
    later.start()
    assert waiting.get(timeout=SECONDS) == {"answer": 42}
    later.join()
    assert application.AsyncResult("the-task").state == "SUCCESS"
    assert 0 < client.ttl(application.backend.get_key_for_task("the-task")) <= 100
    application.backend.store_result("failed", ValueError("no"), "FAILURE")
    with raises(ValueError, "no"):
        application.AsyncResult("failed").get(timeout=SECONDS)
    waiting.forget()
    assert application.AsyncResult("the-task").state == "PENDING"

    def work(number: int) -> None:
        for at in range(25):
            application.backend.store_result(f"{number}-{at}", at, "SUCCESS")
            assert application.backend.get_result(f"{number}-{at}") == at

    in_threads(work)
    application.backend.result_consumer.stop()


async def channels() -> None:
    from channels_redis.pubsub import RedisPubSubChannelLayer

    layer = RedisPubSubChannelLayer(hosts=[URL])
    mine = [await layer.new_channel() for _ in range(THREADS)]
    for name in mine:
        await layer.group_add("room", name)
    await layer.group_send("room", {"type": "news", "text": "hello"})
    received = await asyncio.gather(*(layer.receive(name) for name in mine))
    assert received == [{"type": "news", "text": "hello"}] * THREADS
    await layer.send(mine[0], {"type": "one"})
    assert await layer.receive(mine[0]) == {"type": "one"}
    await layer.group_discard("room", mine[0])
    await layer.flush()


async def faststream() -> None:
    from faststream.redis import RedisBroker

    broker = RedisBroker(URL)
    received: asyncio.Queue[Any] = asyncio.Queue()

    @broker.subscriber("news")
    async def handle(message: dict[str, int]) -> None:
        await received.put(message["number"])

    @broker.subscriber("question")
    async def answer(message: str) -> str:
        return message.upper()

    async with broker:
        await broker.start()
        await asyncio.gather(*(broker.publish({"number": number}, "news") for number in range(THREADS)))
        assert {await received.get() for _ in range(THREADS)} == set(range(THREADS))
        reply = await broker.request("hello", "question", timeout=SECONDS)
        assert await reply.decode() == "HELLO"


async def taskiq() -> None:
    from taskiq.api import run_receiver_task
    from taskiq_redis import PubSubBroker, RedisAsyncResultBackend

    broker = PubSubBroker(URL).with_result_backend(RedisAsyncResultBackend(URL))

    @broker.task
    async def double(n: int) -> int:
        return n * 2

    await broker.startup()
    worker = asyncio.create_task(run_receiver_task(broker))
    await asyncio.to_thread(wait_for_subscribers, "taskiq")
    sent = [await double.kiq(number) for number in range(THREADS)]
    results = [await task.wait_result(timeout=SECONDS, check_interval=0.01) for task in sent]
    assert [result.return_value for result in results] == [0, 2, 4, 6]
    worker.cancel()
    await broker.shutdown()


def optuna() -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalRedisBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalRedisBackend(URL))
    optuna.create_study(study_name="study", storage=storage)

    def work(number: int) -> None:
        study = optuna.load_study(study_name="study", storage=JournalStorage(JournalRedisBackend(URL)))
        study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=5)

    in_threads(work)
    study = optuna.load_study(study_name="study", storage=JournalStorage(JournalRedisBackend(URL)))
    assert [trial.number for trial in study.trials] == list(range(THREADS * 5))
    assert all(trial.state.name == "COMPLETE" for trial in study.trials)


async def litellm() -> None:
    from litellm.caching.caching import DualCache
    from litellm.caching.redis_cache import RedisCache

    cache = RedisCache(host=HOST, port=PORT)
    cache.set_cache("k", {"any": "object"}, ttl=100)
    assert cache.get_cache("k") == {"any": "object"}
    await cache.async_set_cache("a", 1, ttl=100)
    assert await cache.async_get_cache("a") == 1
    await cache.async_set_cache_pipeline([("b", 2), ("c", 3)])
    assert await cache.async_batch_get_cache(["b", "c"]) == {"b": 2, "c": 3}
    both = DualCache(redis_cache=cache)
    await asyncio.gather(*(both.async_increment_cache("n", 1) for _ in range(THREADS * 10)))
    assert int(client.get("n")) == THREADS * 10
    await cache.disconnect()


run(celery_results, channels, faststream, taskiq, optuna, litellm)
