"""Workers: threads, processes and tasks that handle the jobs of a queue, under signals, crashes and lost leases."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
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

Queue = cairnkv.Queue[Any]
Job = cairnkv.Job[Any]

SECONDS = 30.0
"""Maximum seconds until an expected event."""


STOPS = "the worker stops; 1 job still runs"
"""The line of the log after a signal."""


@pytest.fixture(scope="module")
def path_in_use() -> None:
    """Replace the fixture for both paths: queues have no native path in the clients."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def server(clock: ManualClock) -> Iterator[RunningServer]:
    with running_server(clock=clock) as running:
        yield running


@pytest.fixture
def queue(server: RunningServer) -> Iterator[Queue]:
    with cairnkv.connect(server.url) as kv:
        yield kv.queue("q")


@pytest.fixture(params=["threads", "processes"])
def slots(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, which another thread or process makes true."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the expected event did not come"
        time.sleep(0.005)


def due(queue: Queue, job: Job) -> float:
    """Return the time at which the lease of a job ends."""
    message = queue.look(job.id)
    assert message is not None
    return message.due


@contextlib.contextmanager
def running(worker: cairnkv.Worker[Any]) -> Iterator[None]:
    """Run a worker in a thread, and stop it at the end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            worker.run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        while thread.is_alive():
            worker.stop()
            thread.join(0.1)
    if errors:
        raise errors[0]


class Program:
    """A worker in a process of its own. Its handler writes lines, which the test reads."""

    def __init__(
        self, url: str, handler: str, options: str = "", *, asynchronous: bool = False, logs: bool = False
    ) -> None:
        lines = textwrap.indent(textwrap.dedent(handler), "    ")
        head = (
            "import asyncio, cairnkv, logging, os, signal, sys, time\nfrom cairnkv import aio\n"
            f"logging.basicConfig(stream=sys.stdout, level={'INFO' if logs else 'CRITICAL'!r}, format='%(message)s')\n"
        )
        if asynchronous:
            code = (
                f"{head}async def handle(job):\n{lines}\n"
                f"async def main():\n    async with aio.connect({url!r}) as kv:\n"
                f"        await kv.queue('q').run(handle, {options})\n"
                "asyncio.run(main())\nprint('end', flush=True)\n"
            )
        else:
            code = (
                f"{head}def handle(job):\n{lines}\n"
                f"cairnkv.connect({url!r}).queue('q').run(handle, {options})\nprint('end', flush=True)\n"
            )
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        """Return the next line of the handler."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        """Let a handler that reads its standard input go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def ended(self) -> int:
        return self.process.wait(SECONDS)


@pytest.fixture
def program(server: RunningServer) -> Iterator[Callable[..., Program]]:
    with contextlib.ExitStack() as stack:

        def start(handler: str, options: str = "", **more: Any) -> Program:
            started = Program(server.url, handler, options, **more)
            stack.enter_context(started.process)
            stack.callback(started.process.kill)
            return started

        yield start


class TestHandling:
    def test_every_job_is_handled_and_acked(self, queue: Queue, slots: str, tmp_path: Path) -> None:
        queue.put_many(range(50))
        queue.run(lambda job: (tmp_path / str(job.body)).touch(), **{slots: 4}, drain=True)
        assert len(list(tmp_path.iterdir())) == 50
        assert queue.stats()["acked"] == 50

    def test_job_acks_together_with_its_effects(self, server: RunningServer, slots: str) -> None:
        def handle(job: cairnkv.Job[Any]) -> None:
            with job.together() as both:
                both.incr("sum", job.body)
                both.queue("done").put(job.body)

        with cairnkv.connect(server.url) as kv:
            queue, done = kv.queue("q"), kv.queue("done")
            queue.put_many(range(20))
            queue.run(handle, **{slots: 4}, drain=True)
            assert (queue.stats()["acked"], done.stats()["ready"]) == (20, 20)
            assert kv.get("sum") == str(sum(range(20)))

    def test_exception_nacks_with_its_reason_and_the_worker_continues(
        self, queue: Queue, clock: ManualClock, slots: str
    ) -> None:
        def handle(job: Job) -> None:
            if job.body == "bad" and job.attempt == 1:
                raise ValueError("no address")

        queue.put_many(["bad", "good"])
        queue.run(handle, **{slots: 1}, drain=True)
        (message,) = queue.messages("delayed")
        assert (message.reason, queue.stats()["acked"]) == ("ValueError: no address", 1)
        clock.advance("1h")
        queue.run(handle, **{slots: 1}, drain=True)
        assert queue.stats()["acked"] == 2

    def test_exit_in_a_handler_counts_as_failure(self, queue: Queue, slots: str) -> None:
        queue.put_many(["exit", "more"])
        queue.run(lambda job: job.body == "exit" and sys.exit(3), **{slots: 1}, drain=True)
        (message,) = queue.messages("delayed")
        assert (message.reason, queue.stats()["acked"]) == ("SystemExit: 3", 1)

    def test_poison_message_becomes_dead(self, queue: Queue, slots: str) -> None:
        queue.set(attempts=3, backoff=0)
        queue.put_many(["poison", "good"])

        def handle(job: Job) -> None:
            if job.body == "poison":
                raise RuntimeError("cannot digest this")

        queue.run(handle, **{slots: 2}, drain=True)
        (message,) = queue.peek("dead")
        assert (message.body, message.attempts, message.reason) == ("poison", 3, "RuntimeError: cannot digest this")

    def test_handler_may_settle_its_job(self, queue: Queue, slots: str) -> None:
        queue.put_many(["ack", "later"])
        queue.run(
            lambda job: job.ack() if job.body == "ack" else job.nack("closed", delay="1h"), **{slots: 1}, drain=True
        )
        (message,) = queue.messages("delayed")
        assert (message.body, message.reason) == ("later", "closed")

    def test_threads_run_at_the_same_time_and_no_more_than_asked(self, queue: Queue) -> None:
        queue.put_many(range(8))
        barrier = threading.Barrier(4)
        running_jobs: list[int] = []
        most: list[int] = []

        def handle(job: Job) -> None:
            running_jobs.append(job.id)
            most.append(len(running_jobs))
            barrier.wait(SECONDS)
            running_jobs.remove(job.id)

        queue.run(handle, threads=4, drain=True)
        assert max(most) == 4

    def test_worker_takes_only_for_free_threads(self, queue: Queue) -> None:
        queue.put_many(range(3))
        began, go = threading.Semaphore(0), threading.Event()

        def handle(job: Job) -> None:
            began.release()
            go.wait(SECONDS)

        with running(queue.worker(threads=2)(handle)):
            assert began.acquire(timeout=SECONDS)
            assert began.acquire(timeout=SECONDS)
            assert (queue.stats()["leased"], queue.stats()["ready"]) == (2, 1)
            go.set()
            until(lambda: queue.stats()["acked"] == 3)

    def test_decorator_keeps_the_function(self, queue: Queue) -> None:
        @queue.worker(threads=2)
        def send(job: Job) -> str:
            """Send a mail."""
            return f"sent {job.body}"

        @queue.worker
        def plain(job: Job) -> None:
            pass

        assert (vars(send)["__name__"], send.__doc__) == ("send", "Send a mail.")
        queue.put("mail")
        job = queue.take()
        assert job is not None
        assert send(job) == "sent mail"
        job.nack(counted=False)
        plain.run(drain=True)
        assert queue.stats()["acked"] == 1

    def test_worker_of_an_embedded_store(self) -> None:
        with cairnkv.open() as kv:
            queue = kv.queue("q")
            queue.put_many(range(5))
            handled: list[int] = []
            queue.run(lambda job: handled.append(job.body), threads=2, drain=True)
            assert sorted(handled) == list(range(5))
            with pytest.raises(cairnkv.OptionError, match="processes needs a server"):
                queue.run(print, processes=2)

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"threads": 0}, "threads is a whole number from 1 to"),
            ({"processes": True}, "processes is a whole number"),
            ({"threads": 2, "processes": 2}, "threads or processes"),
            ({"max_runtime": "soon"}, "max_runtime is a time"),
            ({"stop_timeout": -1}, "stop_timeout is 0 seconds or more"),
            ({"lease": 0}, "lease is a time"),
        ],
    )
    def test_wrong_options_are_refused(self, queue: Queue, options: dict[str, Any], text: str) -> None:
        with pytest.raises(cairnkv.OptionError, match=text):
            queue.worker(**options)

    def test_coroutine_function_needs_asyncio(self, queue: Queue) -> None:
        async def handle(job: Job) -> None:
            pass

        with pytest.raises(cairnkv.OptionError, match=r"cairnkv\.aio"):
            queue.worker(handle)
        with pytest.raises(cairnkv.OptionError, match="made of a function"):
            queue.worker("handle")  # type: ignore[call-overload]

    def test_worker_continues_after_its_server_was_away(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        handled = threading.Event()
        with contextlib.ExitStack() as stack:
            queue = stack.enter_context(cairnkv.connect(f"cairn://127.0.0.1:{port}", timeout="2s")).queue("q")
            stack.enter_context(running(queue.worker(lambda job: handled.set())))
            stack.enter_context(running_server(port=port))
            queue.put("a")
            assert handled.wait(SECONDS)
            until(lambda: queue.stats()["acked"] == 1)

    def test_lasting_error_ends_the_worker(self, queue: Queue) -> None:
        with cairnkv.open() as kv:
            kv.close()
            with pytest.raises(cairnkv.CallerError, match="closed"):
                kv.queue("q").run(print)


class TestLeases:
    def test_lease_is_extended_while_the_handler_runs(self, queue: Queue, clock: ManualClock) -> None:
        attempts: list[int] = []

        def handle(job: Job) -> None:
            for _ in range(4):
                clock.advance(0.5)
                until(lambda: due(queue, job) >= clock() / 1000 + 0.9)
            attempts.append(job.attempt)

        queue.put("long")
        queue.run(handle, lease="900ms", drain=True)
        assert attempts == [1]
        assert queue.stats()["acked"] == 1

    def test_one_command_extends_all_leases(self, queue: Queue, server: RunningServer, clock: ManualClock) -> None:
        queue.put_many(range(20))
        all_run = threading.Barrier(20)

        def handle(job: Job) -> None:
            before = due(queue, job)
            all_run.wait(SECONDS)
            if job.body == 0:
                clock.advance(0.5)
            until(lambda: due(queue, job) > before)

        queue.run(handle, threads=20, lease="2s", drain=True)
        assert queue.stats()["acked"] == 20

    def test_lost_lease_stops_the_job_at_its_next_call(self, queue: Queue, clock: ManualClock) -> None:
        raised: list[BaseException] = []

        def handle(job: Job) -> None:
            if job.attempt > 1:
                return
            clock.advance("1s")
            until(lambda: job.lost)
            try:
                job.check()
            except cairnkv.LeaseLost as error:
                raised.append(error)
                raise

        queue.put("a")
        queue.run(handle, lease="1s", drain=True)
        assert "its time has ended" in str(raised[0])
        stats = queue.stats()
        assert (stats["acked"], stats["taken"], stats["nacked"]) == (1, 2, 0)

    def test_worker_does_not_ack_a_job_whose_lease_is_lost(self, queue: Queue, clock: ManualClock) -> None:
        lost = threading.Event()

        def handle(job: Job) -> None:
            clock.advance("1s")
            until(lambda: job.lost)
            lost.set()

        queue.put("a")
        with running(queue.worker(lease="1s")(handle)):
            assert lost.wait(SECONDS)
        assert queue.stats()["acked"] == 0

    def test_job_counts_its_lease_as_lost_while_the_server_is_away(self) -> None:
        raised: list[str] = []
        with contextlib.ExitStack() as server, contextlib.ExitStack() as stack:
            running_now = server.enter_context(running_server())
            queue = stack.enter_context(cairnkv.connect(running_now.url, timeout="300ms")).queue("q")

            def handle(job: Job) -> None:
                server.close()
                until(lambda: job.lost)
                try:
                    job.check()
                except cairnkv.LeaseLost as error:
                    raised.append(str(error))

            queue.put("a")
            with running(queue.worker(lease="1s", stop_timeout=0)(handle)):
                until(lambda: raised)
        assert "has lost its lease" in raised[0]

    def test_max_runtime_of_a_thread_nacks_and_takes_the_lease(self, queue: Queue) -> None:
        raised: list[str] = []

        def handle(job: Job) -> None:
            until(lambda: job.lost)
            try:
                job.ack()
            except cairnkv.LeaseLost as error:
                raised.append(str(error))

        queue.put("a")
        queue.run(handle, max_runtime="50ms", drain=True)
        assert "ran longer than 0.05 s" in raised[0]
        (message,) = queue.messages("delayed")
        assert (message.reason, message.attempts) == ("ran longer than 0.05 s", 1)

    def test_max_runtime_of_a_process_kills_it(self, queue: Queue) -> None:
        queue.put_many(["forever", "short"])
        began = time.monotonic()
        queue.run(
            lambda job: time.sleep(600 if job.body == "forever" else 0), processes=1, max_runtime="200ms", drain=True
        )
        assert time.monotonic() - began < SECONDS
        (message,) = queue.messages("delayed")
        assert (message.body, message.reason) == ("forever", "ran longer than 0.2 s")
        assert queue.stats()["acked"] == 1

    def test_handler_that_keeps_the_interpreter_keeps_its_lease_in_a_process(self) -> None:
        def handle(job: Job) -> None:
            import ctypes

            ctypes.PyDLL(None).usleep(2_500_000)  # with the interpreter's lock, as some extension modules do

        with running_server(clock=wall_clock) as server, cairnkv.connect(server.url) as kv:
            queue = kv.queue("q")
            queue.put("a")
            queue.run(handle, processes=1, lease="1s", drain=True)
            assert (queue.stats()["taken"], queue.stats()["acked"]) == (1, 1)

    def test_child_learns_that_its_lease_is_lost(self, queue: Queue, program: Callable[..., Program]) -> None:
        queue.put("a")
        started = program(
            """
            print("began", flush=True)
            sys.stdin.readline()
            while not job.lost:
                time.sleep(0.005)
            try:
                job.check()
            except cairnkv.LeaseLost as error:
                print(error, flush=True)
            """,
            "processes=1, lease='1s'",
        )
        assert started.line() == "began"
        (message,) = queue.messages("leased")
        queue.remove(message.id)
        started.go()
        assert started.line().endswith("its time has ended")
        started.process.terminate()
        assert started.ended() == 0

    def test_child_learns_that_its_lease_was_extended(self, queue: Queue, program: Callable[..., Program]) -> None:
        queue.put("a")
        started = program(
            """
            began = time.monotonic()
            while time.monotonic() < began + 1.5:
                job.check()
                time.sleep(0.01)
            print(job.attempt, flush=True)
            """,
            "processes=1, lease='900ms'",
        )
        assert started.line() == "1"
        until(lambda: queue.stats()["acked"] == 1)


class TestCrashes:
    def test_killed_worker_leaves_its_job_to_the_next(
        self, queue: Queue, clock: ManualClock, program: Callable[..., Program], slots: str
    ) -> None:
        queue.put("a")
        started = program("print(os.getpid(), flush=True); time.sleep(600)", f"{slots}=1, lease='30s'")
        child = int(started.line())
        started.process.kill()
        assert started.ended() == -signal.SIGKILL
        if slots == "processes":
            os.kill(child, signal.SIGKILL)  # its handler sleeps on
        assert queue.take() is None
        clock.advance("30s")
        handled: list[int] = []
        queue.run(lambda job: handled.append(job.attempt), drain=True)
        assert handled == [2]

    def test_child_of_a_killed_worker_ends_after_its_job(
        self, queue: Queue, clock: ManualClock, program: Callable[..., Program]
    ) -> None:
        queue.put_many(["a", "b"])
        started = program("print(os.getpid(), flush=True); sys.stdin.readline()", "processes=1")
        child = int(started.line())
        started.process.kill()
        started.process.wait(SECONDS)
        started.go()
        until(lambda: not Path(f"/proc/{child}").exists())
        assert (queue.stats()["acked"], queue.stats()["ready"]) == (1, 1)

    def test_job_of_a_killed_child_is_nacked_at_once(self, queue: Queue) -> None:
        def handle(job: Job) -> None:
            if job.attempt == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        queue.set(backoff=0)
        queue.put("a")
        queue.run(handle, processes=1, drain=True)
        stats = queue.stats()
        assert (stats["taken"], stats["nacked"], stats["acked"]) == (2, 1, 1)

    def test_message_that_kills_its_process_becomes_dead(self, queue: Queue) -> None:
        queue.set(backoff=0, attempts=2)
        queue.put_many(["poison", "good"])
        queue.run(lambda job: job.body == "poison" and os._exit(7), processes=1, drain=True)
        (message,) = queue.peek("dead")
        assert (message.body, message.reason) == ("poison", "its process ended with exit code 7")
        assert queue.stats()["acked"] == 1


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_signal_finishes_running_jobs_and_takes_no_more(
        self, queue: Queue, program: Callable[..., Program], slots: str, number: int
    ) -> None:
        queue.put_many(["a", "b"])
        started = program(
            "print('began', flush=True); sys.stdin.readline(); print('done', flush=True)", f"{slots}=1", logs=True
        )
        assert started.line() == "began"
        started.process.send_signal(number)
        assert started.line() == STOPS
        started.go()
        assert [started.line(), started.line()] == ["done", "end"]
        assert started.ended() == 0
        assert queue.stats()["acked"] == 1
        job = queue.take()
        assert job is not None
        assert (job.body, job.attempt) == ("b", 1)

    def test_job_that_runs_too_long_after_a_signal_is_given_back_uncounted(
        self, queue: Queue, program: Callable[..., Program], slots: str
    ) -> None:
        queue.put("a")
        started = program("print('began', flush=True); time.sleep(600)", f"{slots}=1, stop_timeout='100ms'")
        assert started.line() == "began"
        started.process.terminate()
        assert started.line() == "end"
        assert started.ended() == 0
        job = queue.take()
        assert job is not None
        assert job.attempt == 1

    def test_second_signal_gives_jobs_back_at_once(
        self, queue: Queue, program: Callable[..., Program], slots: str
    ) -> None:
        queue.put("a")
        started = program("print('began', flush=True); time.sleep(600)", f"{slots}=1, stop_timeout='10m'", logs=True)
        assert started.line() == "began"
        started.process.terminate()
        assert started.line() == STOPS
        started.process.terminate()
        while started.line() != "end":
            pass
        assert started.ended() == 0
        job = queue.take()
        assert job is not None
        assert job.attempt == 1

    def test_idle_worker_ends_soon(self, program: Callable[..., Program], queue: Queue, slots: str) -> None:
        started = program("print(job.body, flush=True)", f"{slots}=2")
        queue.put("a")
        assert started.line() == "a"
        started.process.terminate()
        assert started.line() == "end"
        assert started.ended() == 0

    def test_handlers_of_the_program_come_back(self, queue: Queue) -> None:
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        queue.run(print, drain=True)
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


class TestAsyncio:
    def run(self, server: RunningServer, main: Callable[[Any], Any]) -> None:
        async def inner() -> None:
            async with aio.connect(server.url) as kv:
                await main(kv.queue("q"))

        asyncio.run(inner())

    def test_tasks_run_at_the_same_time_and_no_more_than_asked(self, server: RunningServer, queue: Queue) -> None:
        queue.put_many(range(12))
        most: list[int] = []

        async def main(async_queue: Any) -> None:
            barrier = asyncio.Barrier(4)
            running_jobs: set[int] = set()

            async def handle(job: Any) -> None:
                running_jobs.add(job.id)
                most.append(len(running_jobs))
                await barrier.wait()
                running_jobs.discard(job.id)

            await async_queue.run(handle, tasks=4, drain=True)

        self.run(server, main)
        assert max(most) == 4
        assert queue.stats()["acked"] == 12

    def test_exception_nacks_with_its_reason(self, server: RunningServer, queue: Queue) -> None:
        queue.put_many(["bad", "good"])

        async def main(async_queue: Any) -> None:
            @async_queue.worker(tasks=2)  # type: ignore[untyped-decorator]
            async def handle(job: Any) -> None:
                if job.body == "bad":
                    raise ValueError("no address")

            await handle.run(drain=True)

        self.run(server, main)
        (message,) = queue.messages("delayed")
        assert (message.reason, queue.stats()["acked"]) == ("ValueError: no address", 1)

    def test_max_runtime_cancels_the_handler(self, server: RunningServer, queue: Queue) -> None:
        queue.put("forever")

        async def main(async_queue: Any) -> None:
            async def handle(job: Any) -> None:
                await asyncio.Event().wait()

            await async_queue.run(handle, max_runtime="50ms", drain=True)

        self.run(server, main)
        (message,) = queue.messages("delayed")
        assert message.reason == "TimeoutError: ran longer than 0.05 s"

    def test_lease_is_extended_and_loss_is_noticed(
        self, server: RunningServer, queue: Queue, clock: ManualClock
    ) -> None:
        queue.put("a")
        lost: list[str] = []

        async def main(async_queue: Any) -> None:
            async def handle(job: Any) -> None:
                if job.attempt > 1:
                    return
                for _ in range(3):
                    clock.advance(0.5)
                    await asyncio.to_thread(until, lambda: due(queue, job) >= clock() / 1000 + 0.9)
                clock.advance(1)
                await asyncio.to_thread(until, lambda: job.lost)
                try:
                    await job.ack()
                except cairnkv.LeaseLost as error:
                    lost.append(str(error))

            async with asyncio.timeout(SECONDS):
                await async_queue.run(handle, lease="900ms", drain=True)

        self.run(server, main)
        assert "its time has ended" in lost[0]
        assert (queue.stats()["taken"], queue.stats()["acked"]) == (2, 1)

    def test_stop_and_cancellation_give_jobs_back_uncounted(self, server: RunningServer, queue: Queue) -> None:
        queue.put("a")

        async def main(async_queue: Any) -> None:
            for how in ("stop", "cancel"):
                began = asyncio.Event()

                async def handle(job: Any, began: asyncio.Event = began) -> None:
                    began.set()
                    await asyncio.Event().wait()

                worker = async_queue.worker(stop_timeout=0)(handle)
                task = asyncio.create_task(worker.run())
                await began.wait()
                if how == "stop":
                    worker.stop()
                    await task
                else:
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task

        self.run(server, main)
        job = queue.take()
        assert job is not None
        assert job.attempt == 1

    def test_sigterm_finishes_running_jobs(self, queue: Queue, program: Callable[..., Program]) -> None:
        queue.put_many(["a", "b"])
        started = program(
            "print('began', flush=True); await asyncio.to_thread(sys.stdin.readline); print('done', flush=True)",
            asynchronous=True,
            logs=True,
        )
        assert started.line() == "began"
        started.process.terminate()
        assert started.line() == STOPS
        started.go()
        assert [started.line(), started.line()] == ["done", "end"]
        assert started.ended() == 0
        assert (queue.stats()["acked"], queue.stats()["ready"], queue.stats()["taken"]) == (1, 1, 1)

    def test_plain_function_is_refused(self, server: RunningServer) -> None:
        async def main(async_queue: Any) -> None:
            with pytest.raises(cairnkv.OptionError, match="coroutine function"):
                async_queue.worker(print)

        self.run(server, main)
