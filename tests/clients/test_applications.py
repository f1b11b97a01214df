"""Flask-Caching, Celery's result backend, dogpile.cache and locks. Features that need scripts raise an error."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from tests.support.targets import Target


def test_flask_caching(server: Target) -> None:
    flask = pytest.importorskip("flask")
    caching = pytest.importorskip("flask_caching")
    application = flask.Flask("tests")
    settings = {"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": server.url, "CACHE_KEY_PREFIX": "app:"}
    cache = caching.Cache(application, config={**settings, "CACHE_DEFAULT_TIMEOUT": 100})
    asked = []

    @application.route("/double/<int:n>")  # type: ignore[untyped-decorator]
    @cache.cached()  # type: ignore[untyped-decorator]
    def double(n: int) -> str:
        asked.append(n)
        return str(n * 2)

    @cache.memoize(50)  # type: ignore[untyped-decorator]
    def slow(n: int) -> int:
        asked.append(n)
        return n * 3

    with application.app_context(), application.test_client() as client:
        assert [client.get("/double/4").text for _ in range(3)] == ["8"] * 3
        assert [slow(5), slow(5)] == [15, 15]
        assert asked == [4, 5]
        cache.delete_memoized(slow)
        assert slow(5) == 15
        assert asked == [4, 5, 5]
        assert cache.set("k", {"any": "object"})
        assert cache.get("k") == {"any": "object"}
        assert cache.add("k", 1) is False
        assert cache.get_many("k", "nothing") == [{"any": "object"}, None]
        assert cache.set_many({"a": 1, "b": 2})
        assert cache.cache.inc("n", 5) == 5
        assert cache.delete_many("a", "b")
        assert cache.clear()
        assert cache.get("k") is None


def test_celery_result_backend(server: Target) -> None:
    """Results are strings with a deadline, and a channel tells of them. Its queues need lists, and are not asked."""
    celery = pytest.importorskip("celery")
    application = celery.Celery("tests", broker="memory://", backend=server.url)
    application.conf.result_expires = 100
    waiting = application.AsyncResult("the-task")
    assert waiting.state == "PENDING"
    later = threading.Timer(0.2, application.backend.store_result, ("the-task", {"answer": 42}, "SUCCESS"))
    later.start()
    assert waiting.get(timeout=20) == {"answer": 42}
    later.join()
    assert application.AsyncResult("the-task").state == "SUCCESS"
    client = application.backend.client
    assert 0 < client.ttl(application.backend.get_key_for_task("the-task")) <= 100
    application.backend.store_result("failed", ValueError("no"), "FAILURE")
    with pytest.raises(ValueError, match="no"):
        application.AsyncResult("failed").get(timeout=20)
    waiting.forget()
    assert application.AsyncResult("the-task").state == "PENDING"
    application.backend.result_consumer.stop()


# -- from several threads ----------------------------------------------------------------------------------------------

THREADS = 4
TIMES = 200
"""How often each thread does what a test is about."""

SECONDS = 120.0


T = TypeVar("T")


def from_threads(work: Callable[[int], T]) -> list[T]:
    """Call a function in several threads at once, each with a number. Returns their results, or raises their error."""
    results: list[T] = []
    errors: list[BaseException] = []
    together = threading.Barrier(THREADS)

    def run(number: int) -> None:
        try:
            together.wait(SECONDS)
            results.append(work(number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    if errors:
        raise errors[0]
    assert len(results) == THREADS
    return results


def test_redis_py_counts_from_several_threads(server: Target) -> None:
    redis = pytest.importorskip("redis")
    with redis.Redis(port=server.port) as client:

        def add(pipeline: Any) -> None:
            before = int(pipeline.get("in transactions") or 0)
            pipeline.multi()
            pipeline.set("in transactions", before + 1)

        def work(number: int) -> None:
            for _ in range(TIMES):
                client.incr("n")
            for _ in range(10):
                client.transaction(add, "in transactions")

        from_threads(work)
        assert int(client.get("n")) == THREADS * TIMES
        assert int(client.get("in transactions")) == THREADS * 10


def test_one_of_several_threads_sets_an_absent_key(server: Target) -> None:
    redis = pytest.importorskip("redis")
    with redis.Redis(port=server.port) as client:
        won = from_threads(lambda number: sum(bool(client.set(f"k{at}", number, nx=True)) for at in range(TIMES)))
        assert sum(won) == TIMES


def test_flask_caching_counts_from_several_threads(server: Target) -> None:
    flask = pytest.importorskip("flask")
    caching = pytest.importorskip("flask_caching")
    application = flask.Flask("tests")
    cache = caching.Cache(application, config={"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": server.url})
    with application.app_context():
        backend = cache.cache

    def work(number: int) -> int:
        for _ in range(TIMES):
            backend.inc("n")
        return sum(bool(backend.add(f"k{at}", number)) for at in range(TIMES))

    assert sum(from_threads(work)) == TIMES
    assert backend.get("n") == THREADS * TIMES


def test_celery_results_from_several_threads(server: Target) -> None:
    celery = pytest.importorskip("celery")
    application = celery.Celery("tests", broker="memory://", backend=server.url)

    def work(number: int) -> None:
        for at in range(50):
            application.backend.store_result(f"{number}-{at}", at, "SUCCESS")
            assert application.backend.get_result(f"{number}-{at}") == at

    from_threads(work)
    application.backend.result_consumer.stop()


def test_release_of_a_redis_py_lock_raises(server: Target) -> None:
    """Its release is a script. Without scripts it raises, and the key stays until it expires."""
    redis = pytest.importorskip("redis")
    with redis.Redis(port=server.port) as client:
        lock = client.lock("job", timeout=60)
        assert lock.acquire()
        if server.name == "cairn":  # where there are no scripts
            with pytest.raises(redis.ResponseError, match="unknown command 'EVALSHA'"):
                lock.release()
            assert 0 < client.ttl("job") <= 60
        else:
            lock.release()
            assert not client.exists("job")


def test_lock_released_by_delifeq_excludes_other_threads(server: Target) -> None:
    """An alternative to the lock: SET NX with a TTL, and DELIFEQ, which Valkey has since 9.0."""
    redis = pytest.importorskip("redis")
    if server.name != "cairn":
        pytest.skip("redis-server has no DELIFEQ")
    count = 0
    with redis.Redis(port=server.port) as client:

        def work(number: int) -> None:
            nonlocal count
            for _ in range(20):
                while not client.set("lock", f"{number}", nx=True, ex=60):
                    pass
                before = count
                client.ping()  # others have their turn
                count = before + 1
                assert client.execute_command("DELIFEQ", "lock", f"{number}") == 1

        from_threads(work)
    assert count == THREADS * 20


@pytest.mark.parametrize("distributed", [False, True], ids=["a lock of its own", "a lock of the server"])
def test_dogpile_cache(server: Target, distributed: bool) -> None:
    dogpile = pytest.importorskip("dogpile.cache")
    redis = pytest.importorskip("redis")
    arguments = {"host": server.host, "port": server.port}
    if distributed:
        arguments |= {"distributed_lock": True, "thread_local_lock": False, "lock_timeout": 60}
    region = dogpile.make_region().configure("dogpile.cache.redis", arguments=arguments)
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return 42

    if distributed and server.name == "cairn":  # the lock is redis-py's
        with pytest.raises(redis.ResponseError, match="unknown command 'EVALSHA'"):
            region.get_or_create("k", make)
        return
    assert from_threads(lambda number: region.get_or_create("k", make)) == [42] * THREADS
    assert made == [1]
    region.delete("k")
    assert region.get("k") is dogpile.api.NO_VALUE
