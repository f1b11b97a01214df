"""redis-py, and valkey-py, which has the same interface."""

from typing import Any

from shared import HOST, PORT, THREADS, TIMES, add_one, assert_count, assert_no_lock_left, in_threads, raises, run


def basics(connected: Any) -> None:
    def add(pipeline: Any) -> None:
        before = int(pipeline.get("in transactions") or 0)
        pipeline.multi()
        pipeline.set("in transactions", before + 1)

    def work(number: int) -> int:
        for _ in range(TIMES):
            connected.incr("n")
        for _ in range(5):
            connected.transaction(add, "in transactions")
        return sum(bool(connected.set(f"one:{at}", number, nx=True)) for at in range(TIMES))

    assert sum(in_threads(work)) == TIMES
    assert int(connected.get("n")) == THREADS * TIMES
    assert int(connected.get("in transactions")) == THREADS * 5
    with connected.pubsub() as listener:
        listener.subscribe("news")
        assert listener.get_message(timeout=30)["type"] == "subscribe"
        assert connected.publish("news", "hello") == 1
        assert listener.get_message(timeout=30)["data"] == b"hello"


def lock(connected: Any, not_owned: type[Exception]) -> None:
    def work(number: int) -> None:
        for _ in range(10):
            with connected.lock("lock", timeout=60, sleep=0.001):
                add_one()

    in_threads(work)
    assert_count(THREADS * 10)
    assert_no_lock_left()
    with connected.lock("without a timeout"):
        assert connected.ttl("without a timeout") == -1
    assert_no_lock_left()
    held = connected.lock("held", timeout=60)
    assert held.acquire()
    assert held.owned()
    assert not connected.lock("held", blocking=False).acquire()
    assert held.extend(40)
    assert 60_000 < connected.pttl("held") <= 100_000
    assert held.reacquire()
    assert connected.pttl("held") <= 60_000
    connected.set("held", "another owner")
    for operation in (held.release, held.reacquire, lambda: held.extend(10)):
        with raises(not_owned):
            operation()
    assert connected.get("held") == b"another owner"


def script(connected: Any) -> None:
    add = connected.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")

    def work(number: int) -> None:
        for _ in range(TIMES):
            add(keys=["n"], args=[2])

    in_threads(work)
    assert int(connected.get("n")) == THREADS * TIMES * 2
    connected.script_flush()
    assert add(keys=["n"], args=[1]) == THREADS * TIMES * 2 + 1  # loads it again
    with connected.pipeline() as pipeline:
        pipeline.set("a", 1)
        add(keys=["a"], args=[4], client=pipeline)
        assert pipeline.execute() == [True, 5]
    assert connected.eval("return {1, 'two', false, {ARGV[1]}}", 0, "three") == [1, b"two", None, [b"three"]]


def redis_client() -> Any:
    import redis

    return redis.Redis(HOST, PORT)


def valkey_client() -> Any:
    import valkey

    return valkey.Valkey(HOST, PORT)


def redis_basics() -> None:
    basics(redis_client())


def redis_lock() -> None:
    from redis.exceptions import LockError

    lock(redis_client(), LockError)


def redis_script() -> None:
    script(redis_client())


def valkey_basics() -> None:
    basics(valkey_client())


def valkey_lock() -> None:
    from valkey.exceptions import LockError

    lock(valkey_client(), LockError)


def valkey_script() -> None:
    script(valkey_client())


run(redis_basics, redis_lock, redis_script, valkey_basics, valkey_lock, valkey_script)
