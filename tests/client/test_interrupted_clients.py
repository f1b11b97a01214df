"""Calls of clients that something interrupts: an exception of a signal handler, or a handler that uses the client.

Each reply goes to its own call, and the client is of use afterwards, to other threads too."""

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import cairnkv
from cairnkv import aio
from cairnkv.testing import RunningServer, running_server
from tests.support.interrupting import at_each_point
from tests.support.scripted import Conversation, scripted

pytestmark = pytest.mark.filterwarnings(  # of sockets that an interrupted call could not close itself
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

PATIENCE = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def kv(server: RunningServer) -> Iterator[cairnkv.Client[str, str]]:
    with cairnkv.connect(server.url, timeout=PATIENCE) as kv:
        kv.clear_all()
        yield kv


def in_another_thread(function: Callable[[], object]) -> object:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert results, "another thread can use the client"
    return results[0]


def pipelined(kv: Any) -> list[object]:
    with kv.pipeline() as pipeline:
        results = [pipeline.get("a"), pipeline.incr("n"), pipeline.get("b"), pipeline.get("nobody")]
    return [result.result() for result in results]


CALLS: dict[str, Callable[[Any], object]] = {
    "get": lambda kv: kv.get("a"),
    "set": lambda kv: kv.set("c", "3"),
    "incr": lambda kv: kv.incr("n"),
    "scan": lambda kv: list(kv.scan()),
    "pipeline": pipelined,
}


@pytest.mark.parametrize("name", CALLS)
class TestSync:
    def test_interrupted_call_leaves_the_client_of_use(self, kv: cairnkv.Client[str, str], name: str) -> None:
        kv.set_many({"a": "1", "b": "2"})
        for _ in at_each_point(lambda: lambda: CALLS[name](kv)):
            assert in_another_thread(lambda: (kv.get("a"), kv.get("b"), kv.exists("nobody"))) == ("1", "2", False)
            assert kv.get("a") == "1"

    def test_first_call_that_is_interrupted_leaves_the_client_of_use(self, server: RunningServer, name: str) -> None:
        clients: list[Any] = []

        def prepare() -> Callable[[], object]:
            clients[:] = [cairnkv.connect(server.url, timeout=PATIENCE)]
            return lambda: CALLS[name](clients[0])

        for _ in at_each_point(prepare, step=3):
            (kv,) = clients
            assert in_another_thread(lambda kv=kv: kv.set("a", "1")) is True
            kv.close()

    def test_handler_may_use_the_client_whatever_it_interrupts(self, kv: cairnkv.Client[str, str], name: str) -> None:
        kv.set_many({"a": "1", "b": "2"})
        handled = 0

        def handle() -> None:
            nonlocal handled
            handled += 1
            assert kv.get("b") == "2"
            assert kv.incr("handled") == handled

        for _ in at_each_point(lambda: lambda: CALLS[name](kv), handle):
            assert (kv.get("a"), kv.get("b")) == ("1", "2")
        assert handled > 10


def test_interrupted_pipeline_says_that_its_writes_are_of_unknown_outcome(kv: cairnkv.Client[str, str]) -> None:
    told = set[type[Exception]]()
    pending: list[Any] = []

    def prepare() -> Callable[[], object]:
        pipeline = kv.pipeline()
        pending[:] = [pipeline.set("a", "1"), pipeline.get("a")]
        return pipeline.execute

    for _ in at_each_point(prepare):
        write, read = pending
        for result, errors in ((write, (cairnkv.OutcomeUnknown,)), (read, (cairnkv.Unavailable,))):
            try:
                result.result()
            except (*errors, cairnkv.CallerError) as error:  # CallerError: it was not begun
                told.add(type(error))
    assert told == {cairnkv.OutcomeUnknown, cairnkv.Unavailable, cairnkv.CallerError}


def test_connection_is_shared_again_after_its_turn_was_lost(kv: cairnkv.Client[str, str]) -> None:
    """Each interruption may take the turn away; the client makes another one, and not one for each call."""
    for _ in at_each_point(lambda: lambda: kv.incr("n")):
        pass
    kv.get("a")
    before = int(kv.info()["connections_accepted"])
    threads = [threading.Thread(target=lambda: [kv.get("a") for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert int(kv.info()["connections_accepted"]) == before


SIGNALS = """
import random, signal, sys, cairnkv
class Now(Exception): pass
armed = False
def now(*_):
    if armed: raise Now
signal.signal(signal.SIGALRM, now)
kv = cairnkv.connect(sys.argv[1], timeout=20)
kv.set_many({f"k{n}": f"v{n}" for n in range(100)})
for number in range(500):
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 4e-4))
        while True:
            n = random.randrange(100)
            assert kv[f"k{n}"] == f"v{n}"
    except Now:
        armed = False
assert kv["k1"] == "v1"
print("well")
"""


def test_signals_break_no_client(server: RunningServer) -> None:
    command = [sys.executable, "-c", SIGNALS, server.url]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=4 * PATIENCE, check=False)
    assert (ran.stdout, ran.stderr) == ("well\n", "")


def test_exception_in_a_callback_or_task_mixes_no_replies_up(server: RunningServer) -> None:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    kv = aio.connect(server.url, timeout=4)

    async def some() -> list[Any]:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.gather(kv.get("a"), kv.get("b"), kv.incr("n"), kv.get("a"), return_exceptions=True)

    async def two() -> list[Any]:
        return await asyncio.gather(kv.get("a"), kv.get("b"))

    def traced() -> None:
        replies = loop.run_until_complete(some())
        for reply, expected in zip(replies, ("1", "2", None, "1"), strict=True):
            assert expected is None or reply == expected or isinstance(reply, BaseException), replies

    loop.run_until_complete(kv.set_many({"a": "1", "b": "2"}))
    for _ in at_each_point(lambda: traced, step=2):
        assert loop.run_until_complete(two()) == ["1", "2"]
    loop.run_until_complete(kv.close())
    loop.close()


# -- replies that cannot be read ---------------------------------------------------------------------------------------


def garbage(client: Conversation) -> None:
    if client.command() is not None:
        client.raw(b"\x00\x77" * 10)


def another_kind(client: Conversation) -> None:
    while client.command() is not None:
        client.say(b"text")


@pytest.mark.parametrize("script", [garbage, another_kind])
class TestUnreadableReplies:
    def test_write_is_of_unknown_outcome_and_read_a_peer_error(self, script: Any) -> None:
        with scripted(script) as server, cairnkv.connect(server.url, timeout=PATIENCE) as kv:
            with pytest.raises(cairnkv.OutcomeUnknown, match="INCR"):
                kv.incr("n")
            with pytest.raises(cairnkv.PeerError):
                kv.count()

    async def test_the_same_with_asyncio(self, script: Any) -> None:
        with scripted(script) as server:
            async with aio.connect(server.url, timeout=PATIENCE) as kv:
                with pytest.raises(cairnkv.OutcomeUnknown, match="INCR"):
                    await kv.incr("n")
                with pytest.raises(cairnkv.PeerError):
                    await kv.count()

    def test_the_same_in_a_pipeline(self, script: Any) -> None:
        with scripted(script) as server, cairnkv.connect(server.url, timeout=PATIENCE) as kv:
            pipeline = kv.pipeline()
            write, read = pipeline.incr("n"), pipeline.count()
            with contextlib.suppress(cairnkv.OutcomeUnknown):
                pipeline.execute()
            with pytest.raises(cairnkv.OutcomeUnknown, match="INCR"):
                write.result()
            with pytest.raises(cairnkv.PeerError):
                read.result()
