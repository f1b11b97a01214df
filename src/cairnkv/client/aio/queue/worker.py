"""Workers for asyncio: take the jobs of a queue, and run a coroutine function for each in a task.

Another task extends the leases of all jobs.

Invariants: as for the sync worker (`client.queue.worker`). A TAKE is never cancelled, since its messages would stay
leased.

Out of scope: threads and processes.
"""

import asyncio
import contextlib
import functools
import inspect
import math
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, Generic, Protocol, TypeAlias, overload

from cairnkv.client.address import Seconds
from cairnkv.client.aio.methods import AsyncMethods
from cairnkv.client.aio.queue.jobs import AsyncJob
from cairnkv.client.aio.queue.leases import AsyncLeases
from cairnkv.client.queue.calls import B
from cairnkv.client.queue.working import (
    STOP_SECONDS,
    WAIT_SECONDS,
    Pauses,
    WorkerOptions,
    log_stop,
    logger,
    too_long,
    worker_options,
)
from cairnkv.errors import CairnError, LeaseLost, OptionError
from cairnkv.records import replace

AsyncHandler: TypeAlias = Callable[[AsyncJob[B]], Awaitable[object]]

CANCEL_SECONDS: Final = 5.0
"""Seconds that a cancelled handler has to end."""


class AsyncSource(Protocol[B]):
    """A queue, as workers see it."""

    _kv: AsyncMethods[Any, Any]

    async def _take(self, count: int, lease: Seconds | None, wait: float) -> list[AsyncJob[B]]:
        """Lease messages. wait: seconds."""


class AsyncWorkerMethods(Generic[B]):
    """The methods of queues that run workers."""

    _kv: AsyncMethods[Any, Any]

    async def _take(self, count: int, lease: Seconds | None, wait: float) -> list[AsyncJob[B]]:
        raise NotImplementedError

    @overload
    def worker(self, handler: AsyncHandler[B]) -> "AsyncWorker[B]": ...
    @overload
    def worker(
        self,
        *,
        tasks: int = 1,
        lease: Seconds | None = None,
        max_runtime: Seconds | None = None,
        stop_timeout: Seconds = STOP_SECONDS,
    ) -> "Callable[[AsyncHandler[B]], AsyncWorker[B]]": ...
    def worker(
        self,
        handler: AsyncHandler[B] | None = None,
        *,
        tasks: int = 1,
        lease: Seconds | None = None,
        max_runtime: Seconds | None = None,
        stop_timeout: Seconds = STOP_SECONDS,
    ) -> "AsyncWorker[B] | Callable[[AsyncHandler[B]], AsyncWorker[B]]":
        """Make a worker of a coroutine function that handles a job: a decorator, with or without options.

        The worker still is a function, and its method `run` handles jobs until SIGTERM or SIGINT. Each job is acked
        when the function returns, and nacked with the exception that it raises as the reason.

        tasks: maximum jobs at the same time, each in a task.
        lease: the time of leases; the worker extends them at a third of it, until the function returns.
        max_runtime: the time after which a job is cancelled, and counts as failed.
        stop_timeout: the time that running jobs have after a stop. Then they are cancelled and given back, uncounted.
        """
        how = worker_options("tasks", tasks, lease=lease, max_runtime=max_runtime, stop_timeout=stop_timeout)
        make = functools.partial(AsyncWorker, self, how)
        return make if handler is None else make(handler)

    async def run(
        self,
        handler: AsyncHandler[B],
        *,
        tasks: int = 1,
        lease: Seconds | None = None,
        max_runtime: Seconds | None = None,
        stop_timeout: Seconds = STOP_SECONDS,
        drain: bool = False,
    ) -> None:
        """Handle jobs until SIGTERM or SIGINT. See `worker`. drain: return when no message is ready."""
        make = self.worker(tasks=tasks, lease=lease, max_runtime=max_runtime, stop_timeout=stop_timeout)
        await make(handler).run(drain=drain)


class AsyncWorker(Generic[B]):
    """A coroutine function that handles jobs. `run` takes jobs and calls it; calling the worker calls it directly."""

    def __init__(self, source: AsyncSource[B], options: WorkerOptions, handler: AsyncHandler[B]) -> None:
        if not inspect.iscoroutinefunction(handler):
            raise OptionError(f"a worker for asyncio is made of a coroutine function, not {handler!r:.40}")
        functools.update_wrapper(self, handler)
        self._source = source
        self._options = options
        self._handler = handler
        self._running: _Tasks[B] | None = None

    def __call__(self, job: AsyncJob[B]) -> Awaitable[object]:
        return self._handler(job)

    async def run(self, *, drain: bool = False) -> None:
        """Handle jobs until `stop`, SIGTERM or SIGINT. Signals count only in the main thread.

        At the first signal the worker takes no more jobs and waits for the running ones; at the second it cancels them.
        Failures of the server are logged, and the worker continues when the server is back.
        drain: return when no message is ready.
        """
        self._running = _Tasks(self._source, self._handler, replace(self._options, drain=drain))
        try:
            with _signals_stop(self.stop):
                await self._running.run()
        finally:
            self._running = None

    def stop(self) -> None:
        """End `run`, as SIGTERM does. Call it in the event loop of `run`."""
        if self._running is not None:
            self._running.stop()


@contextlib.contextmanager
def _signals_stop(stop: Callable[[], object]) -> Iterator[None]:
    """Call a function at SIGTERM and SIGINT, within a `with` statement in the main thread; elsewhere do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


class _Tasks(Generic[B]):
    """A worker that runs its jobs in tasks."""

    def __init__(self, source: AsyncSource[B], handler: AsyncHandler[B], options: WorkerOptions) -> None:
        self._source = source
        self._handler = handler
        self._options = options
        self._leases = AsyncLeases(source._kv)
        self._running: set[asyncio.Task[None]] = set()
        self._stops = 0
        self._changed = asyncio.Event()  # set when a job ends or the worker is stopped
        self._next_beat = 0.0
        self._wakes_beat = asyncio.Event()

    def stop(self) -> None:
        self._stops += 1
        self._changed.set()
        self._source._kv._end_takes()

    async def run(self) -> None:
        beating = asyncio.create_task(self._beat())
        taking = asyncio.create_task(self._take_all())
        try:
            await asyncio.shield(taking)
            await self._await_running()
        finally:
            self.stop()
            for task in self._running:
                task.cancel()
            with contextlib.suppress(CairnError):  # `shield` has raised it
                await taking
            if self._running:
                await asyncio.wait(self._running, timeout=CANCEL_SECONDS)
            beating.cancel()
            await asyncio.wait([beating])

    async def _take_all(self) -> None:
        """Take jobs for free places until the worker is stopped."""
        pauses, drains = Pauses(), self._options.drain
        while free := await self._free_places():
            try:
                jobs = await self._source._take(free, self._options.lease, 0 if drains else WAIT_SECONDS)
            except CairnError as error:
                if self._stops:
                    return
                await self._change(time.monotonic() + pauses.after(error), lambda: self._stops > 0)
                continue
            pauses.reset()
            if drains and not jobs:
                if not self._running:
                    return
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            for job in jobs:
                await self._begin(job)

    async def _free_places(self) -> int:
        """Wait for a free place. Returns the number of free places; 0: the worker was stopped."""
        await self._change(math.inf, lambda: self._stops > 0 or len(self._running) < self._options.slots)
        return 0 if self._stops else self._options.slots - len(self._running)

    async def _change(self, until: float, condition: Callable[[], bool]) -> None:
        """Wait until a condition is true, at most until a time."""
        while not condition() and (left := until - time.monotonic()) > 0:
            self._changed.clear()
            if math.isinf(left):
                await self._changed.wait()
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), left)

    async def _begin(self, job: AsyncJob[B]) -> None:
        if self._stops:
            await _give_back(job)
            return
        if self._leases.add(job) < self._next_beat:
            self._wakes_beat.set()
        task = asyncio.create_task(self._work_on(job))
        self._running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._changed.set()

    async def _work_on(self, job: AsyncJob[B]) -> None:
        """Run the handler, and ack or nack its job. Logs failures."""
        limit = self._options.max_runtime
        try:
            async with job:
                try:
                    async with asyncio.timeout(None if math.isinf(limit) else limit) as timer:
                        await self._handler(job)
                except TimeoutError:
                    if not timer.expired():
                        raise
                    raise TimeoutError(too_long(limit)) from None
        except LeaseLost as error:
            logger.warning("%s", error)
        except CairnError as error:
            logger.warning("job %d of the queue %r: %s", job.id, job.queue, error)
        except Exception:
            logger.exception("job %d of the queue %r failed, attempt %d", job.id, job.queue, job.attempt)
        finally:
            self._leases.discard(job)

    async def _await_running(self) -> None:
        """Wait for the running jobs, until their time ends or the worker is stopped a second time."""
        log_stop(len(self._running))
        until = time.monotonic() + self._options.stop_timeout
        await self._change(until, lambda: not self._running or self._stops > 1)

    async def _beat(self) -> None:
        while True:
            self._wakes_beat.clear()
            self._next_beat = self._leases.next_beat() or math.inf
            left = self._next_beat - time.monotonic()
            if left > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wakes_beat.wait(), None if math.isinf(left) else left)
            await self._leases.beat()


async def _give_back(job: AsyncJob[B]) -> None:
    try:
        await job.nack(counted=False)
    except CairnError as error:  # the lease ends by itself
        logger.warning("job %d of the queue %r was not given back: %s", job.id, job.queue, error)
