"""Interrupted calls of clients: by an exception of a signal handler, or by a handler that uses the client.

Each reply goes to its own call. Afterwards all threads can use the client."""

import asyncio
import contextlib
import functools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import cairnkv
from cairnkv import aio
from cairnkv.client import sync
from cairnkv.testing import RunningServer, running_server
from tests.support.interrupting import at_each_point
from tests.support.scripted import Conversation, scripted

pytestmark = pytest.mark.filterwarnings(  # of sockets that an interrupted call could not close itself
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

PATIENCE = 60.0


@pytest.fixture(scope="module")
def server(path_in_use: str) -> Iterator[RunningServer]:
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
    def test_interrupted_call_leaves_the_client_usable(self, kv: cairnkv.Client[str, str], name: str) -> None:
        kv.set_many({"a": "1", "b": "2"})
        for _ in at_each_point(lambda: lambda: CALLS[name](kv)):
            assert in_another_thread(lambda: (kv.get("a"), kv.get("b"), kv.exists("nobody"))) == ("1", "2", False)
            assert kv.get("a") == "1"

    def test_interrupted_first_call_leaves_the_client_usable(self, server: RunningServer, name: str) -> None:
        clients: list[Any] = []

        def prepare() -> Callable[[], object]:
            clients[:] = [cairnkv.connect(server.url, timeout=PATIENCE)]
            return lambda: CALLS[name](clients[0])

        for _ in at_each_point(prepare, step=3):
            (kv,) = clients
            assert in_another_thread(functools.partial(kv.set, "a", "1")) is True
            kv.close()

    def test_handler_may_use_the_client_at_any_point(self, kv: cairnkv.Client[str, str], name: str) -> None:
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


def test_interrupted_pipeline_reports_writes_of_unknown_outcome(server: RunningServer) -> None:
    told = set[type[Exception]]()
    pending: list[Any] = []
    clients: list[cairnkv.Client[str, str]] = []

    def prepare() -> Callable[[], object]:
        # A client of its own for each point: a call that connects again has other points than one that does not.
        clients.append(cairnkv.connect(server.url, timeout=PATIENCE))
        pipeline = clients[-1].pipeline()
        pending[:] = [pipeline.set("a", "1"), pipeline.get("a")]
        return pipeline.execute

    for _ in at_each_point(prepare):
        write, read = pending
        for result, errors in ((write, (cairnkv.OutcomeUnknown,)), (read, (cairnkv.Unavailable,))):
            try:
                result.result()
            except (*errors, cairnkv.CallerError) as error:  # CallerError: it was not begun
                told.add(type(error))
        clients.pop().close()
    clients.pop().close()
    assert told == {cairnkv.OutcomeUnknown, cairnkv.Unavailable, cairnkv.CallerError}


def test_connection_is_shared_again_after_its_turn_was_lost(kv: cairnkv.Client[str, str]) -> None:
    """An interruption may lose the turn. The client then replaces the turn once, not once per call."""
    for _ in at_each_point(lambda: lambda: kv.incr("n")):
        pass
    kv.get("a")
    before = int(kv.info()["connections_accepted"])
    threads = [threading.Thread(target=lambda: [kv.get("a") for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    # A thread that the system suspends just when it receives the turn looks as if it had lost it.
    assert int(kv.info()["connections_accepted"]) - before <= 3


def test_threads_take_turns_and_none_waits_for_long(kv: cairnkv.Client[str, str]) -> None:
    """A thread that calls all the time gives its turn to those that wait, in their order."""
    kv.set("a", "1")
    done = threading.Event()
    others = [threading.Thread(target=lambda: [kv.get("a") for _ in range(50)]) for _ in range(3)]
    calls = 0

    def greedy() -> None:
        nonlocal calls
        while not done.is_set():
            kv.get("a")
            calls += 1

    thread = threading.Thread(target=greedy)
    thread.start()
    try:
        for other in others:
            other.start()
        for other in others:
            other.join(PATIENCE)
            assert not other.is_alive()
    finally:
        done.set()
        thread.join(PATIENCE)
    assert calls < 50 * 50


def test_handler_may_use_the_client_while_its_thread_waits(kv: cairnkv.Client[str, str]) -> None:
    """Its own turn would come only behind that of the call that it interrupts."""
    kv.set("a", "1")
    exchange, holds = kv._exchange, threading.Event()

    def slow_exchange(*arguments: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            holds.set()
            time.sleep(1)
        return exchange(*arguments)

    handled: list[float] = []

    def handle(*_: object) -> None:
        began = time.monotonic()
        assert kv.get("a") == "1"
        handled.append(time.monotonic() - began)

    kv._exchange = slow_exchange  # type: ignore[method-assign, assignment]
    before = signal.signal(signal.SIGALRM, handle)
    other = threading.Thread(target=lambda: kv.get("a"))
    other.start()
    try:
        assert holds.wait(PATIENCE)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        assert kv.get("a") == "1"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        other.join()
    assert len(handled) == 1
    assert handled[0] < 0.8, "the handler does not wait for the call of the other thread"


def test_finalizer_may_use_the_client_while_its_turn_is_replaced(
    kv: cairnkv.Client[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kv.set("a", "1")
    turn_class, found = sync._Turn, list[object]()

    def new_turn() -> Any:
        if not found:
            found.append(None)
            found.append(kv.get("a"))
        return turn_class()

    kv._turns.get_nowait()  # as if a call that was interrupted had taken it away
    monkeypatch.setattr(sync, "_Turn", new_turn)
    assert in_another_thread(lambda: kv.get("a")) == "1"
    assert found == [None, "1"]
    assert in_another_thread(lambda: kv.get("a")) == "1"


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


def test_exception_in_a_callback_or_task_does_not_mix_up_replies(server: RunningServer) -> None:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    kv = aio.connect(server.url, timeout=4)

    async def some() -> tuple[object, ...]:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.gather(kv.get("a"), kv.get("b"), kv.incr("n"), kv.get("a"), return_exceptions=True)

    async def two() -> tuple[object, ...]:
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

    async def test_asyncio_write_is_of_unknown_outcome_and_read_a_peer_error(self, script: Any) -> None:
        with scripted(script) as server:
            async with aio.connect(server.url, timeout=PATIENCE) as kv:
                with pytest.raises(cairnkv.OutcomeUnknown, match="INCR"):
                    await kv.incr("n")
                with pytest.raises(cairnkv.PeerError):
                    await kv.count()

    def test_pipelined_write_is_of_unknown_outcome_and_read_a_peer_error(self, script: Any) -> None:
        with scripted(script) as server, cairnkv.connect(server.url, timeout=PATIENCE) as kv:
            pipeline = kv.pipeline()
            write, read = pipeline.incr("n"), pipeline.count()
            with contextlib.suppress(cairnkv.OutcomeUnknown):
                pipeline.execute()
            with pytest.raises(cairnkv.OutcomeUnknown, match="INCR"):
                write.result()
            with pytest.raises(cairnkv.PeerError):
                read.result()
