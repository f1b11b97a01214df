"""Takes that wait for messages, in embedded stores and clients, from threads and from asyncio tasks."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cairnkv
from cairnkv import aio
from cairnkv.store import wall_clock
from cairnkv.testing import ManualClock, RunningServer, running_server
from tests.conformance.drivers import a_node
from tests.support.interrupting import at_each_point
from tests.support.patience import AT_ONCE
from tests.support.raw import eventually

LONG = 20.0
KINDS = ["memory", "disk", "client", "cluster"]
TIMEOUTS = {"client": 1.0, "cluster": 30.0}


def queue_of(kv: Any) -> Any:
    """Return the queue of all tests."""
    return kv.queue("q", codec="bytes")


def take(kv: Any, wait: float = LONG) -> bytes | None:
    """Take a message. Returns its body, or None."""
    job = queue_of(kv).take(wait=wait)
    return None if job is None else job.body


def put(kv: Any, body: bytes, **options: Any) -> None:
    """Put a message."""
    queue_of(kv).put(body, **options)


def counts(kv: Any) -> list[int]:
    """The ready, delayed, leased and dead messages of the queue."""
    stats = queue_of(kv).stats()
    return [stats[state] for state in ("ready", "delayed", "leased", "dead")]


def waiting(kv: Any) -> int:
    return int(kv.info()["waiting_takes"])


def wait_for(kv: Any, count: int) -> None:
    """Wait until so many TAKE commands wait."""
    eventually(lambda: waiting(kv) == count)


@pytest.fixture(scope="module")
def node(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A node of a cluster, for all tests."""
    with a_node(wall_clock) as server:
        yield server


def server_of(kind: str, request: pytest.FixtureRequest, stack: contextlib.ExitStack) -> RunningServer:
    """Return a server, or the node of all tests with an empty queue."""
    if kind == "client":
        return stack.enter_context(running_server(clock=wall_clock))
    server: RunningServer = request.getfixturevalue("node")
    with cairnkv.connect(server.url) as kv:
        queue_of(kv).resume()  # this makes the queue
        queue_of(kv).purge()
    return server


@contextlib.contextmanager
def opened(kind: str, path: Path, clock: Any = wall_clock) -> Iterator[Any]:
    """Open an embedded store."""
    with cairnkv.open(path / "data" if kind == "disk" else None, clock=clock) as kv:
        yield kv


@pytest.fixture(params=KINDS)
def kv(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A store in real time."""
    with contextlib.ExitStack() as stack:
        if request.param in ("memory", "disk"):
            yield stack.enter_context(opened(request.param, tmp_path))
        else:
            server = server_of(request.param, request, stack)
            yield stack.enter_context(cairnkv.connect(server.url, timeout=TIMEOUTS[request.param]))


class Taker(threading.Thread):
    """A thread that takes one message."""

    def __init__(self, kv: Any, wait: float = LONG) -> None:
        super().__init__(daemon=True)
        self._kv, self._wait = kv, wait
        self._result: list[bytes | BaseException | None] = []
        self.start()

    def run(self) -> None:
        try:
            self._result.append(take(self._kv, self._wait))
        except BaseException as error:
            self._result.append(error)

    def result(self) -> bytes | None:
        """Return the body of the taken message, or None. Raise the exception of the TAKE."""
        self.join(AT_ONCE)
        (result,) = self._result
        if isinstance(result, BaseException):
            raise result
        return result


# -- threads ------------------------------------------------------------------------------------------------------


def test_take_waits_in_one_thread_for_a_put_in_another(kv: Any) -> None:
    taker = Taker(kv)
    wait_for(kv, 1)
    kv["k"] = "other calls go on"
    put(kv, b"work")
    assert taker.result() == b"work"
    assert waiting(kv) == 0


def test_wait_ends_without_a_message(kv: Any) -> None:
    assert take(kv, 0.03) is None
    assert waiting(kv) == 0


def test_wait_may_be_longer_than_the_timeout_of_the_client(tmp_path: Path) -> None:
    with running_server(clock=wall_clock) as server, cairnkv.connect(server.url, timeout=0.2) as kv:
        began = time.monotonic()
        assert take(kv, 0.5) is None
        assert time.monotonic() - began >= 0.5
        kv["k"] = "usable"


def test_waiting_thread_gets_a_message_at_the_end_of_its_delay(kv: Any) -> None:
    put(kv, b"later", delay=0.05)
    assert take(kv) == b"later"


def test_waiting_thread_gets_a_message_at_the_end_of_a_lease(kv: Any) -> None:
    put(kv, b"again", lease=0.05)
    assert take(kv) == b"again"
    assert take(kv) == b"again"


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_manual_clock_moves_delays_of_embedded_stores(kind: str, tmp_path: Path) -> None:
    clock = ManualClock()
    with opened(kind, tmp_path, clock) as kv:
        put(kv, b"later", delay="1h")
        taker = Taker(kv)
        wait_for(kv, 1)
        clock.advance("1h")
        counts(kv)  # the next command on queues advances log time, in any thread
        assert taker.result() == b"later"


def test_threads_get_each_message_once_in_their_order(kv: Any) -> None:
    takers = []
    for count in range(1, 31):
        takers.append(Taker(kv))
        wait_for(kv, count)
    queue_of(kv).put_many(b"%d" % at for at in range(20))
    for at in range(20, 30):
        put(kv, b"%d" % at)
    assert [taker.result() for taker in takers] == [b"%d" % at for at in range(30)]


def test_producers_and_consumers_in_threads(kv: Any) -> None:
    done: list[bytes | None] = []
    sent = [b"%d %d" % (producer, at) for producer in range(4) for at in range(50)]

    def consume() -> None:
        while (taken := take(kv)) != b"end":
            done.append(taken)

    def produce(number: int) -> None:
        for at in range(50):
            put(kv, b"%d %d" % (number, at))

    consumers = [threading.Thread(target=consume, daemon=True) for _ in range(4)]
    producers = [threading.Thread(target=produce, args=(number,), daemon=True) for number in range(4)]
    for thread in (*consumers, *producers):
        thread.start()
    for thread in producers:
        thread.join(60)
    for _ in consumers:
        put(kv, b"end", priority=4_000_000_000)
    for thread in consumers:
        thread.join(60)
        assert not thread.is_alive()
    assert sorted(done) == sorted(sent)  # type: ignore[type-var]


def test_close_of_an_embedded_store_ends_waits(tmp_path: Path) -> None:
    for kind in ("memory", "disk"):
        with opened(kind, tmp_path) as kv:
            taker = Taker(kv)
            wait_for(kv, 1)
            kv.close()
            with pytest.raises(cairnkv.CallerError, match="closed"):
                taker.result()
            with pytest.raises(cairnkv.CallerError, match="closed"):
                take(kv)


def test_stop_of_the_server_ends_waits() -> None:
    with running_server(clock=wall_clock) as server, cairnkv.connect(server.url) as kv:
        taker = Taker(kv)
        wait_for(kv, 1)
        server.call(server.server.request_stop)
        with pytest.raises((cairnkv.Unavailable, cairnkv.OutcomeUnknown)):  # of the TAKE that repeats the ended one
            taker.result()


# -- interruptions ------------------------------------------------------------------------------------------------


class Interrupt(Exception):
    """The exception of a signal handler."""


@pytest.fixture
def alarm() -> Iterator[Callable[[Any], None]]:
    """Returns a function that interrupts the main thread by a signal once a TAKE waits."""

    def handle(*_: object) -> None:
        raise Interrupt

    def interrupt(kv: Any) -> None:
        wait_for(kv, 1)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    yield lambda kv: threading.Thread(target=interrupt, args=(kv,), daemon=True).start()
    signal.signal(signal.SIGUSR1, before)


def test_signal_that_ends_a_wait_leaves_no_waiter(kv: Any, alarm: Callable[[Any], None]) -> None:
    alarm(kv)
    with pytest.raises(Interrupt):
        take(kv)
    wait_for(kv, 0)
    put(kv, b"work")
    assert counts(kv) == [1, 0, 0, 0]
    assert take(kv) == b"work"


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_take_that_is_interrupted_anywhere_leaves_its_message(kind: str, tmp_path: Path) -> None:
    with opened(kind, tmp_path) as kv:
        put(kv, b"work")

        def take_and_give_back() -> None:
            job = queue_of(kv).take(wait=LONG)
            assert job.body == b"work"
            job.nack(counted=False)

        def prepare() -> Callable[[], object]:
            assert counts(kv) == [1, 0, 0, 0]
            return take_and_give_back

        for interrupted in at_each_point(prepare):
            assert interrupted
            eventually(lambda: waiting(kv) == 0)
            if counts(kv) == [0, 0, 1, 0]:  # behind the return of the call, or in the NACK
                queue_of(kv).purge()
                put(kv, b"work")


def test_put_that_is_interrupted_anywhere_forgets_no_waiter() -> None:
    """The message is put or not, and the waiter gets it, if not at once then by the next call."""
    with cairnkv.open() as kv:
        takers: list[Taker] = []

        def prepare() -> Callable[[], object]:
            takers.append(Taker(kv))
            wait_for(kv, 1)
            return lambda: put(kv, b"work")

        for interrupted in at_each_point(prepare):
            assert interrupted
            waiting(kv)  # the next call serves the waiter if the interrupted one did not
            if waiting(kv):
                put(kv, b"work")
            assert takers.pop().result() == b"work"
        assert takers.pop().result() == b"work"


def test_handler_of_a_signal_may_wait_within_a_call() -> None:
    """It waits while the call that it interrupted keeps the store, so no other thread can put; the wait ends."""
    with cairnkv.open() as kv:
        seen: list[bytes | None] = []
        for _ in at_each_point(
            lambda: lambda: kv.set("k", "v"), lambda: seen.append(take(kv, 0.001)), step=17, least=0
        ):
            assert waiting(kv) == 0
        assert set(seen) <= {None}
        assert kv["k"] == "v"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_process_has_no_waiters() -> None:
    with cairnkv.open() as kv:
        taker = Taker(kv)
        wait_for(kv, 1)
        child = os.fork()
        if child == 0:
            try:
                put(kv, b"work of the child")
                well = counts(kv) == [1, 0, 0, 0] and take(kv) == b"work of the child" and take(kv, 0.02) is None
                os._exit(0 if well else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        put(kv, b"work")
        assert taker.result() == b"work"


# -- asyncio ------------------------------------------------------------------------------------------------------


async def aio_take(kv: Any, wait: float = LONG) -> bytes | None:
    job = await queue_of(kv).take(wait=wait)
    return None if job is None else job.body


async def aio_put(kv: Any, body: bytes, **options: Any) -> None:
    await queue_of(kv).put(body, **options)


async def aio_wait_for(kv: Any, count: int) -> None:
    async with asyncio.timeout(AT_ONCE):
        while int((await kv.info())["waiting_takes"]) != count:  # noqa: ASYNC110  # there is no event of another task
            await asyncio.sleep(0.005)


Run = Callable[[Callable[[Any], Any]], None]


@pytest.fixture(params=KINDS)
def in_loop(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Returns a function that runs a test with a store."""

    async def run(test: Callable[[Any], Any], kv: Any) -> None:
        async with kv:
            await test(kv)

    def run_with_store(test: Callable[[Any], Any]) -> None:
        with contextlib.ExitStack() as stack:
            if request.param in ("memory", "disk"):
                asyncio.run(run(test, aio.open(tmp_path / "data" if request.param == "disk" else None)))
            else:
                asyncio.run(
                    run(
                        test, aio.connect(server_of(request.param, request, stack).url, timeout=TIMEOUTS[request.param])
                    )
                )

    return run_with_store


class TestTasks:
    def test_task_waits_for_a_put_of_another(self, in_loop: Run) -> None:
        async def test(kv: Any) -> None:
            taker = asyncio.create_task(aio_take(kv))
            await aio_wait_for(kv, 1)
            await kv.set("k", "other calls go on")
            await aio_put(kv, b"work")
            assert await taker == b"work"
            assert await aio_take(kv, 0.02) is None

        in_loop(test)

    def test_cancelled_task_takes_nothing(self, in_loop: Run) -> None:
        async def test(kv: Any) -> None:
            tasks = []
            for count in range(1, 7):
                tasks.append(asyncio.create_task(aio_take(kv)))
                await aio_wait_for(kv, count)
            for task in tasks[::2]:
                task.cancel()
            await aio_wait_for(kv, 3)
            await queue_of(kv).put_many([b"1", b"2", b"3", b"4"])
            assert await asyncio.gather(*tasks[1::2]) == [b"1", b"2", b"3"]
            stats = await queue_of(kv).stats()
            assert [stats[state] for state in ("ready", "delayed", "leased")] == [1, 0, 3]
            assert await aio_take(kv) == b"4"

        in_loop(test)

    def test_task_that_times_out_takes_nothing(self, in_loop: Run) -> None:
        async def test(kv: Any) -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.03):
                    await aio_take(kv)
            await aio_wait_for(kv, 0)
            await aio_put(kv, b"work")
            assert await aio_take(kv) == b"work"

        in_loop(test)

    def test_delay_ends_a_wait(self, in_loop: Run) -> None:
        async def test(kv: Any) -> None:
            await aio_put(kv, b"later", delay=0.05)
            assert await aio_take(kv) == b"later"

        in_loop(test)


def test_thread_puts_for_a_task() -> None:
    """A store in memory that a task and threads share."""

    async def run() -> None:
        async with aio.open() as kv:
            taker = asyncio.create_task(aio_take(kv))
            await aio_wait_for(kv, 1)
            await asyncio.to_thread(asyncio.run, aio_put(kv, b"work"))
            assert await taker == b"work"

    asyncio.run(run())
