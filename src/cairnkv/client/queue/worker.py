"""Workers: take the jobs of a queue, and run a handler for each in a thread or a process.

One of the free threads takes jobs for all free threads. Another thread extends the leases of all jobs. Each job is
acked when its handler returns, and nacked when it raises an exception.

Invariants: a worker takes no more jobs than it has free threads. After a stop it takes none, and gives back those that
a TAKE still brings.

Out of scope: processes (`processes`), asyncio (`aio.queue.worker`).
"""

import collections
import functools
import inspect
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, overload

from cairnkv.client.address import Seconds
from cairnkv.client.methods import Methods
from cairnkv.client.queue.calls import B, QueueCalls
from cairnkv.client.queue.handling import Handler, Source, give_back, work_on
from cairnkv.client.queue.jobs import Job
from cairnkv.client.queue.leases import Leases
from cairnkv.client.queue.working import (
    STOP_SECONDS,
    WAIT_SECONDS,
    Pauses,
    Stops,
    WorkerOptions,
    log_stop,
    logger,
    too_long,
    worker_options,
)
from cairnkv.errors import CairnError, OptionError
from cairnkv.records import replace

IDLE_BEAT_SECONDS: Final = 3_600.0
"""Seconds after which the thread that extends leases looks again without a reason."""

SIGNAL_SECONDS: Final = 0.2
"""Seconds between two looks for a second signal."""


class WorkerMethods(Generic[B]):
    """The methods of queues that run workers."""

    _kv: Methods[Any, Any]
    _calls: QueueCalls[B]

    def _take(self, count: int, lease: Seconds | None, wait: float) -> list[Job[B]]:
        raise NotImplementedError

    @overload
    def worker(self, handler: Handler[B]) -> "Worker[B]": ...
    @overload
    def worker(
        self,
        *,
        threads: int = 1,
        processes: int = 0,
        lease: Seconds | None = None,
        max_runtime: Seconds | None = None,
        stop_timeout: Seconds = STOP_SECONDS,
    ) -> "Callable[[Handler[B]], Worker[B]]": ...
    def worker(
        self,
        handler: Handler[B] | None = None,
        *,
        threads: int = 1,
        processes: int = 0,
        lease: Seconds | None = None,
        max_runtime: Seconds | None = None,
        stop_timeout: Seconds = STOP_SECONDS,
    ) -> "Worker[B] | Callable[[Handler[B]], Worker[B]]":
        """Make a worker of a function that handles a job: a decorator, with or without options.

        The worker still is a function, and its method `run` handles jobs until SIGTERM or SIGINT. Each job is acked
        when the function returns, and nacked with the exception that it raises as the reason.

        threads: maximum jobs at the same time, each in a thread. processes: the same, each in a process of its own,
        which a crash or a maximum time ends without the others.
        lease: the time of leases; the worker extends them at a third of it, until the function returns.
        max_runtime: the time after which a job counts as failed. A process ends then. A thread cannot be ended: it
        keeps its place until the function returns, but the next call of its job raises `LeaseLost`.
        stop_timeout: the time that running jobs have after a stop. Then the worker gives them back, uncounted.
        """
        how = worker_options(
            "processes" if processes else "threads",
            processes or threads,
            lease=lease,
            max_runtime=max_runtime,
            stop_timeout=stop_timeout,
        )
        if processes and threads != 1:
            raise OptionError("a worker has threads or processes; use one of the options")
        if processes and not self._kv._survives_forks:
            raise OptionError(
                "a worker with processes needs a server: other processes cannot use a store in this process"
            )
        make = functools.partial(Worker, self, how, in_processes=bool(processes))
        return make if handler is None else make(handler)

    def run(
        self,
        handler: Handler[B],
        *,
        threads: int = 1,
        processes: int = 0,
        lease: Seconds | None = None,
        max_runtime: Seconds | None = None,
        stop_timeout: Seconds = STOP_SECONDS,
        drain: bool = False,
    ) -> None:
        """Handle jobs until SIGTERM or SIGINT. See `worker`. drain: return when no message is ready."""
        make = self.worker(
            threads=threads,
            processes=processes,
            lease=lease,
            max_runtime=max_runtime,
            stop_timeout=stop_timeout,
        )
        make(handler).run(drain=drain)


class Worker(Generic[B]):
    """A function that handles jobs. `run` takes jobs and calls it; calling the worker calls it directly."""

    def __init__(
        self, source: Source[B], options: WorkerOptions, handler: Handler[B], *, in_processes: bool = False
    ) -> None:
        if not callable(handler):
            raise OptionError(f"a worker is made of a function, not {handler!r:.40}")
        if inspect.iscoroutinefunction(handler):
            raise OptionError("the handler is a coroutine function; use a queue of cairnkv.aio")
        functools.update_wrapper(self, handler)
        self._source = source
        self._options = options
        self._handler = handler
        self._in_processes = in_processes
        self._stops: Stops | None = None

    def __call__(self, job: Job[B]) -> object:
        return self._handler(job)

    def run(self, *, drain: bool = False) -> None:
        """Handle jobs until `stop`, SIGTERM or SIGINT. Signals count only in the main thread.

        At the first signal the worker takes no more jobs and waits for the running ones; at the second it gives them
        back at once. Failures of the server are logged, and the worker continues when the server is back.
        drain: return when no message is ready.
        """
        options = replace(self._options, drain=drain)
        run: Callable[[Source[B], Handler[B], WorkerOptions, Stops], None] = _run_threads
        if self._in_processes:
            from cairnkv.client.queue.processes import run_processes  # only this worker needs these slow imports

            run = run_processes
        stops = self._stops = Stops()
        try:
            with stops.catching():
                run(self._source, self._handler, options, stops)
        finally:
            self._stops = None
            stops.close()

    def stop(self) -> None:
        """End `run`, as SIGTERM does. Threads and signal handlers may call it."""
        if (stops := self._stops) is not None:
            stops.stop()


def _run_threads(source: Source[B], handler: Handler[B], options: WorkerOptions, stops: Stops) -> None:
    _Threads(source, handler, options, stops).run()


class _Threads(Generic[B]):
    """A worker that runs its jobs in threads.

    One of the free threads takes jobs: one for itself, and more for the other free threads. Meanwhile these wait.
    """

    def __init__(self, source: Source[B], handler: Handler[B], options: WorkerOptions, stops: Stops) -> None:
        self._source = source
        self._handler = handler
        self._options = options
        self._stops = stops
        self._leases = Leases(source._kv)
        self._pauses = Pauses()
        lock = threading.Lock()  # guards all below
        self._wants_job = threading.Condition(lock)
        self._changed = threading.Condition(lock)  # a job has ended, or the worker was stopped
        self._wakes_beat = threading.Condition(lock)
        self._jobs: collections.deque[Job[B]] = collections.deque()  # taken for threads that wait
        self._started: dict[Job[B], float] = {}
        self._busy = 0  # threads that have a job or will get one of `_jobs`
        self._taking = False
        self._stopped = False
        self._ended = False
        self._next_beat = 0.0
        self._error: BaseException | None = None

    def run(self) -> None:
        beating = threading.Thread(target=self._beat, name="cairnkv worker: leases", daemon=True)
        beating.start()
        for number in range(1, self._options.slots + 1):
            threading.Thread(target=self._run_jobs, name=f"cairnkv worker: {number}", daemon=True).start()
        try:
            self._stops.wait()
        finally:
            with self._changed:
                self._stopped = True
                self._wants_job.notify_all()
                self._changed.notify_all()
            self._end_take()
            self._give_back(self._jobs)
            self._await_running()
            self._give_back(self._started)
            with self._changed:
                self._ended = True
                self._wakes_beat.notify()
            beating.join()
        if self._error is not None:
            raise self._error

    def _end_take(self) -> None:
        """Wait for the end of the TAKE that may wait for messages."""
        with self._changed:
            while self._taking:
                self._source._kv._end_takes()
                self._changed.wait(SIGNAL_SECONDS)

    def _await_running(self) -> None:
        """Wait for the running jobs, until their time ends or the worker is stopped a second time."""
        log_stop(self._busy)
        until = time.monotonic() + self._options.stop_timeout
        while self._busy and self._stops.number < 2 and (left := until - time.monotonic()) > 0:
            with self._changed:
                if self._busy:
                    self._changed.wait(min(left, SIGNAL_SECONDS))
            self._stops.wait(0)

    def _give_back(self, jobs: Iterable[Job[B]]) -> None:
        """Return jobs to the queue, uncounted: those that have not begun, or those that still run."""
        with self._changed:
            returned = list(jobs)
            self._busy -= len(self._jobs)
            self._jobs.clear()
        for job in returned:
            self._leases.discard(job)
            self._started.pop(job, None)
            give_back(job)

    # -- the threads that run jobs ------------------------------------------------------------------------------

    def _run_jobs(self) -> None:
        while (job := self._next_job()) is not None:
            try:
                work_on(job, self._handler)
            finally:
                self._leases.discard(job)
                with self._changed:
                    self._started.pop(job, None)
                    self._busy -= 1
                    self._changed.notify_all()

    def _next_job(self) -> Job[B] | None:
        """Return the next job: one that another thread has taken, or that this thread takes. None after a stop."""
        with self._wants_job:
            while self._taking and not self._jobs and not self._stopped:
                self._wants_job.wait()
            if self._stopped:
                return None
            if self._jobs:
                return self._jobs.popleft()
            self._taking = True
        try:
            return self._take()
        except BaseException as error:  # the thread of `run` raises it
            self._error = error
            self._stops.end()
            with self._changed:
                self._stopped = True
            return None
        finally:
            with self._changed:
                self._taking = False
                self._changed.notify_all()
                self._wants_job.notify(len(self._jobs) + 1)  # one more takes

    def _take(self) -> Job[B] | None:
        """Take jobs for the free threads until there are some. Returns one for this thread; None after a stop."""
        drains = self._options.drain
        while not self._stopped:
            busy = self._busy
            try:
                jobs = self._source._take(
                    self._options.slots - busy, self._options.lease, 0 if drains else WAIT_SECONDS
                )
            except CairnError as error:
                if not self._pause_after(error):
                    return None
                continue
            self._pauses.reset()
            if jobs and (mine := self._begin(jobs)) is not None:
                return mine
            if drains and not jobs:
                self._await_end_of_a_job()
        return None

    def _begin(self, jobs: list[Job[B]]) -> Job[B] | None:
        """Note that jobs begin. Returns the first; the others are for other threads. After a stop, gives them back."""
        now = time.monotonic()
        with self._changed:
            stopped = self._stopped
            if not stopped:
                self._busy += len(jobs)
                self._started.update(dict.fromkeys(jobs, now))
        if stopped:
            for job in jobs:
                give_back(job)
            return None
        due = min(map(self._leases.add, jobs))
        first, *others = jobs
        with self._changed:
            self._jobs.extend(others)
            if min(due, now + self._options.max_runtime) < self._next_beat:
                self._wakes_beat.notify()
        return first

    def _await_end_of_a_job(self) -> None:
        """Wait until a job ends, which may free a message of its group. If no job runs, stop the worker."""
        with self._changed:
            busy = self._busy
            if not busy:
                self._stopped = True
                self._stops.end()
            self._changed.wait_for(lambda: self._stopped or self._busy < busy)

    def _pause_after(self, error: CairnError) -> bool:
        """Wait after a failure. Returns False after a stop, which ends a TAKE that waits."""
        with self._changed:
            return not (
                self._stopped or self._changed.wait_for(lambda: self._stopped, timeout=self._pauses.after(error))
            )

    # -- the thread that extends leases -------------------------------------------------------------------------

    def _beat(self) -> None:
        while True:
            with self._wakes_beat:
                if self._ended:
                    return
                now = time.monotonic()
                self._next_beat = min(
                    self._leases.next_beat() or math.inf,
                    min(self._started.values(), default=math.inf) + self._options.max_runtime,
                    now + IDLE_BEAT_SECONDS,
                )
                if self._next_beat > now:
                    self._wakes_beat.wait(self._next_beat - now)
            self._leases.beat()
            self._end_long_jobs()

    def _end_long_jobs(self) -> None:
        """Nack the jobs that run longer than they may. Their threads stay busy until the handlers return."""
        latest = time.monotonic() - self._options.max_runtime
        with self._changed:
            jobs = [job for job, started in self._started.items() if started <= latest]
            for job in jobs:
                del self._started[job]
        for job in jobs:
            self._leases.discard(job)
            why = too_long(self._options.max_runtime)
            logger.warning("job %d of the queue %r %s", job.id, job.queue, why)
            give_back(job, why, why_lost=why)
