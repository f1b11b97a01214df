"""redis-py and valkey-py, which share their interface: sync and asyncio, RESP2 and RESP3."""

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import pytest_asyncio

from tests.support.targets import Target

THREADS = 4

PAIRS = [("redis", "Redis"), ("valkey", "Valkey")]


@pytest.fixture(params=PAIRS, ids=[name for name, _ in PAIRS])
def library(request: pytest.FixtureRequest) -> tuple[Any, str]:
    """A library, and what its client is called."""
    name, client = request.param
    return pytest.importorskip(name), client


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def options(request: pytest.FixtureRequest, server: Target) -> dict[str, Any]:
    """How a client connects."""
    return {"host": server.host, "port": server.port, "protocol": request.param}


@pytest.fixture
def client(library: tuple[Any, str], options: dict[str, Any]) -> Iterator[Any]:
    module, name = library
    with getattr(module, name)(**options) as client:
        yield client


@pytest_asyncio.fixture
async def aclient(library: tuple[Any, str], options: dict[str, Any]) -> AsyncIterator[Any]:
    module, name = library
    pytest.importorskip(f"{module.__name__}.asyncio")
    async with getattr(module.asyncio, name)(**options) as client:
        yield client


# -- sync --------------------------------------------------------------------------------------------------------------


def test_strings(client: Any) -> None:
    assert client.set("k", b"\x00\xff\r\n") is True
    assert client.get("k") == b"\x00\xff\r\n"
    assert client.get("nothing") is None
    assert client.set("k", "new", nx=True) is None
    assert client.set("k", "new", xx=True, get=True) == b"\x00\xff\r\n"
    assert client.getset("k", "newer") == b"new"
    assert client.append("k", "!") == 6
    assert client.strlen("k") == 6
    assert client.getrange("k", 1, -2) == b"ewer"
    assert client.setrange("k", 1, "o") == 6
    assert client.getdel("k") == b"nower!"
    assert client.mset({"a": 1, "b": 2}) is True
    assert client.mget("a", "nothing", "b") == [b"1", None, b"2"]
    assert not client.msetnx({"b": 3, "c": 3})
    assert client.setnx("c", 3)
    assert client.setbit("bits", 7, 1) == 0
    assert client.getbit("bits", 7) == 1
    assert client.bitcount("bits") == 1


def test_numbers(client: Any, library: tuple[Any, str]) -> None:
    assert client.incr("n") == 1
    assert client.incrby("n", 41) == 42
    assert client.decr("n", 2) == 40
    assert client.incrbyfloat("n", 0.5) == 40.5
    client.set("text", "x")
    with pytest.raises(library[0].ResponseError, match="value is not an integer or out of range"):
        client.incr("text")


def test_keys(client: Any) -> None:
    client.mset({f"key:{n}": n for n in range(1000)})
    assert client.dbsize() == 1000
    assert {*client.scan_iter(match="key:*", count=100)} == {b"key:%d" % n for n in range(1000)}
    assert len(client.keys("key:?")) == 10
    assert client.exists("key:1", "key:1", "nothing") == 2
    assert client.type("key:1") == b"string"
    assert client.rename("key:1", "renamed")
    assert client.copy("renamed", "copied")
    assert client.touch("renamed", "copied", "nothing") == 2
    assert client.delete("renamed", "copied", "nothing") == 2
    assert client.unlink("key:2") == 1
    assert client.randomkey().startswith(b"key:")
    assert client.object("ENCODING", "key:3") == b"int"
    assert client.flushdb() is True
    assert client.randomkey() is None


def test_expiry(client: Any) -> None:
    assert client.setex("k", 100, "v")
    assert client.ttl("k") == 100
    assert 0 < client.pttl("k") <= 100_000
    assert client.expire("k", 50, gt=True) in (0, False)
    assert client.expiretime("k") >= time.time()
    assert client.persist("k")
    assert client.ttl("k") == -1
    assert client.getex("k", px=20) == b"v"
    time.sleep(0.05)
    assert client.get("k") is None
    assert client.ttl("k") == -2


def test_transactions(client: Any, library: tuple[Any, str]) -> None:
    with client.pipeline() as pipeline:
        assert pipeline.set("a", 1).incr("a").get("nothing").execute() == [True, 2, None]
    with client.pipeline() as pipeline:
        pipeline.watch("a")
        client.set("a", 5)
        pipeline.multi()
        pipeline.incr("a")
        with pytest.raises(library[0].WatchError):
            pipeline.execute()
    assert client.transaction(lambda pipeline: pipeline.multi() or pipeline.incr("a"), "a") == [6]
    with client.pipeline(transaction=False) as pipeline:
        for n in range(1000):
            pipeline.set(f"key:{n}", n)
        assert pipeline.execute() == [True] * 1000
    with client.pipeline() as pipeline:
        pipeline.set("a", "x").incr("a").set("b", 1)
        assert [isinstance(reply, Exception) for reply in pipeline.execute(raise_on_error=False)] == [
            False,
            True,
            False,
        ]


def test_channels(client: Any) -> None:
    with client.pubsub(ignore_subscribe_messages=False) as pubsub:
        pubsub.subscribe("one")
        pubsub.psubscribe("o*")
        assert [_next(pubsub)["type"] for _ in range(2)] == ["subscribe", "psubscribe"]
        assert client.publish("one", "hello") == 2
        heard = [_next(pubsub) for _ in range(2)]
        assert [(message["type"], message["data"]) for message in heard] == [
            ("message", b"hello"),
            ("pmessage", b"hello"),
        ]
        assert client.pubsub_channels() == [b"one"]
        assert [tuple(pair) for pair in client.pubsub_numsub("one")] == [(b"one", 1)]
        assert client.pubsub_numpat() == 1
        pubsub.ping()
        assert _next(pubsub)["type"] == "pong"
        pubsub.unsubscribe()
        assert _next(pubsub)["type"] == "unsubscribe"
    assert client.publish("one", "hello") == 0


def _next(pubsub: Any) -> Any:
    """The next message; None when there is none within a second, which no test here expects."""
    end = time.monotonic() + 1
    while time.monotonic() < end:
        if message := pubsub.get_message(timeout=0.1):
            return message
    return None


def test_connections(client: Any, library: tuple[Any, str], options: dict[str, Any]) -> None:
    module, name = library
    assert client.ping() is True
    assert client.echo("hello") == b"hello"
    assert client.time()[0] == pytest.approx(time.time(), abs=5)
    with getattr(module, name)(**options, db=3, client_name="third", decode_responses=True) as third:
        assert third.set("k", "v")
        assert client.get("k") is None
        assert third.client_getname() == "third"
        assert third.client_info()["db"] in (3, "3")
        ours = third.client_id()
        assert any(each["name"] == "third" for each in client.client_list())
        assert client.client_kill_filter(_id=ours) == 1
        with contextlib.suppress(module.ConnectionError):
            third.get("k")  # the end may be on its way yet when this is sent
        assert third.get("k") == "v"  # it connects again
    assert "redis_version" in client.info()
    assert client.info("keyspace")["db3"]["keys"] == 1
    assert client.config_get("maxmemory")["maxmemory"] == "0"
    assert client.command_count() > 60
    assert client.memory_usage("nothing") is None


def test_connection_with_replies_off(client: Any) -> None:
    with pytest.raises(Exception, match="unknown command"):
        client.execute_command("NOSUCH", "argument")
    with pytest.raises(Exception, match="wrong number of arguments for 'get' command"):
        client.execute_command("GET")
    assert client.execute_command("SELECT", 0) in (b"OK", True)


# -- asyncio -----------------------------------------------------------------------------------------------------------


def test_lock_released_by_delifeq_excludes_other_threads(server: Target) -> None:
    """A lock without scripts: SET NX with a TTL, and DELIFEQ, which Valkey has since 9.0."""
    redis = pytest.importorskip("redis")
    if server.name != "cairn":
        pytest.skip("redis-server has no DELIFEQ")
    count = 0
    with redis.Redis(port=server.port) as client, ThreadPoolExecutor(THREADS) as threads:

        def work(number: int) -> None:
            nonlocal count
            for _ in range(20):
                while not client.set("lock", f"{number}", nx=True, ex=60):
                    pass
                before = count
                client.ping()  # other threads run in between
                count = before + 1
                assert client.execute_command("DELIFEQ", "lock", f"{number}") == 1

        list(threads.map(work, range(THREADS)))
    assert count == THREADS * 20


async def test_asyncio(aclient: Any) -> None:
    assert await aclient.set("k", "v", ex=100) is True
    assert await aclient.get("k") == b"v"
    assert await aclient.ttl("k") == 100
    async with aclient.pipeline() as pipeline:
        assert await pipeline.set("n", 1).incr("n").execute() == [True, 2]
    await aclient.mset({f"key:{n}": n for n in range(500)})
    assert len({key async for key in aclient.scan_iter(match="key:*")}) == 500
    async with aclient.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.psubscribe("news:*")
        await aclient.publish("news:1", "hi")
        heard = [await pubsub.get_message(timeout=1) for _ in range(2)]
        assert [message["data"] for message in heard if message] == [b"hi"]
    with pytest.raises(Exception, match="not an integer"):
        await aclient.incr("k")
    assert await aclient.delete("k") == 1
