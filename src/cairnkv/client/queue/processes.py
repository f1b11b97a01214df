"""Workers with processes: each child process takes and runs one job at a time.

    parent: one thread. Extends the leases of all children, replaces children that died, ends jobs that run too long.
    child:  one thread. Takes a job, sends its lease to the parent, runs the handler, acks, sends that it is done.

So a handler in C that keeps the interpreter's lock does not stop the extension of its lease. The state of a lease is in
memory that a child shares with its parent (`lease_state`).

Invariants: the parent has no other threads, so it can fork at any time. If a child dies, the parent nacks its job at
once. If the parent dies, a child ends after its job, and the job's lease ends by itself.

Out of scope: threads (`worker`), and stores in this process, which children cannot use.
"""

import contextlib
import gc
import mmap
import multiprocessing.connection
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final, Generic

from cairnkv.client.queue.calls import B, Taken
from cairnkv.client.queue.handling import Handler, Source, give_back, work_on
from cairnkv.client.queue.jobs import Job
from cairnkv.client.queue.lease_state import SharedLeaseState, shared_memory
from cairnkv.client.queue.leases import Leases
from cairnkv.client.queue.working import STOPPED, WAIT_SECONDS, Pauses, Stops, WorkerOptions, log_stop, logger, too_long
from cairnkv.errors import CairnError

RESTART_SECONDS: Final = 1.0
"""Minimum seconds between two starts of the same child, so that a child that dies at once does not use all the CPU."""

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

KILL_SECONDS: Final = 5.0
"""Seconds after which the parent kills a child that stopped and still runs."""

IDLE_SECONDS: Final = 60.0
"""Seconds after which the parent looks again without a reason."""

PAUSE_SECONDS: Final = 0.2
"""Seconds between two looks for a stop, while a child pauses after an error."""


class _Child(Generic[B]):
    """A child process, as its parent sees it.

    job: the job that it runs, or None. began: the time at which it took the job.
    """

    def __init__(self, pid: int, connection: Connection, memory: mmap.mmap) -> None:
        self.pid = pid
        self.connection = connection
        self.memory = memory
        self.started = time.monotonic()
        self.began = 0.0
        self.job: Job[B] | None = None


def run_processes(source: Source[B], handler: Handler[B], options: WorkerOptions, stops: Stops) -> None:
    """Run a worker with processes until it ends or is stopped."""
    _Processes(source, handler, options, stops).run()


class _Processes(Generic[B]):
    """A worker that runs its jobs in processes."""

    def __init__(self, source: Source[B], handler: Handler[B], options: WorkerOptions, stops: Stops) -> None:
        self._source = source
        self._handler = handler
        self._options = options
        self._stops = stops
        self._leases = Leases(source._kv)
        self._children: list[_Child[B]] = []
        self._restarts: list[float] = []  # when to start children instead of dead ones

    def run(self) -> None:
        try:
            for _ in range(self._options.slots):
                self._start()
            while not self._stops.number and (self._children or self._restarts):
                self._step(None)
            self._stop_children()
        finally:
            for child in list(self._children):
                self._kill(child)

    def _stop_children(self) -> None:
        """Let the children finish their jobs. After that time, or at a second stop, kill them."""
        for child in self._children:
            _send(child, signal.SIGTERM)
        log_stop(sum(child.job is not None for child in self._children))
        until = time.monotonic() + self._options.stop_timeout
        while self._stops.number < 2 and any(child.job for child in self._children) and time.monotonic() < until:
            self._step(until)
        until = min(until, time.monotonic() + KILL_SECONDS)
        while self._stops.number < 2 and any(not child.job for child in self._children) and time.monotonic() < until:
            self._step(until)

    def _step(self, until: float | None) -> None:
        """Wait for a message of a child, a signal, or the next lease, restart or maximum time, at most until a time.

        Then extend leases, kill the children that run too long, and start new ones.
        """
        now = time.monotonic()
        times = [now + IDLE_SECONDS if until is None else until, *self._restarts]
        if (beat := self._leases.next_beat()) is not None:
            times.append(beat)
        times += [child.began + self._options.max_runtime for child in self._children if child.job]
        sources = [child.connection for child in self._children]
        ready = multiprocessing.connection.wait([*sources, self._stops.fileno()], max(0.0, min(times) - now))
        self._stops.wait(0)
        for child in [child for child in self._children if child.connection in ready]:
            self._read(child)
        self._leases.beat()
        now = time.monotonic()
        for child in list(self._children):
            if child.job and now - child.began >= self._options.max_runtime:
                self._kill(child, too_long(self._options.max_runtime))
        while self._restarts and self._restarts[0] <= now and not self._stops.number:
            self._restarts.pop(0)
            self._start()

    def _read(self, child: _Child[B], reason: str | None = None) -> None:
        """Read one message of a child, or notice its end. reason: why the parent has killed it, or None."""
        try:
            message: tuple[Taken, float] | None = child.connection.recv()
        except (EOFError, OSError):
            self._ended(child, reason)
            return
        self._clear_job(child)
        if message is not None:
            taken, sent = message
            job: Job[B] = Job(self._source._kv, self._source._calls, taken, sent)
            job._share(SharedLeaseState(child.memory, taken.token))
            child.job, child.began = job, time.monotonic()
            self._leases.add(job)

    def _clear_job(self, child: _Child[B]) -> None:
        if child.job is not None:
            self._leases.discard(child.job)
            child.job = None

    def _ended(self, child: _Child[B], reason: str | None) -> None:
        """Nack the job of a child that has ended, and start another one."""
        self._children.remove(child)
        child.connection.close()
        _, status = os.waitpid(child.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        job = child.job
        self._clear_job(child)
        if job is not None:
            why = reason or _end_of(code)
            logger.warning("job %d of the queue %r: %s", job.id, job.queue, why)
            give_back(job, None if why == STOPPED else why)
        if code or job is not None:
            self._restarts.append(max(time.monotonic(), child.started + RESTART_SECONDS))
            self._restarts.sort()
        child.memory.close()

    def _kill(self, child: _Child[B], reason: str = STOPPED) -> None:
        """Kill a child, and read the messages that it sent before: it may have finished its job."""
        _send(child, signal.SIGKILL)
        while child in self._children:
            self._read(child, reason)

    # -- in a child ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Fork a child."""
        receiving, sending = multiprocessing.connection.Pipe(duplex=False)
        memory = shared_memory()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal in the child must not reach the handlers and the pipe of the parent.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            sending.close()
            self._children.append(_Child(pid, receiving, memory))
            return
        code = 1
        try:
            receiving.close()
            for child in self._children:
                child.connection.close()
            self._work(sending, memory)
            code = 0
        except BaseException:
            logger.exception("a process of a worker ended")
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _work(self, parent: Connection, memory: mmap.mmap) -> None:
        """Run jobs until SIGTERM or the end of the parent."""
        stops: list[int] = []

        def stop(number: int, _: object) -> None:
            stops.append(number)
            self._source._kv._end_takes()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        gc.freeze()  # the objects of the parent stay in memory that both share
        pauses = Pauses()
        drain = self._options.drain
        while not stops and not _has_ended(parent):
            try:
                jobs = self._source._take(1, self._options.lease, 0 if drain else WAIT_SECONDS)
            except CairnError as error:
                if stops:
                    return
                _pause(pauses.after(error), lambda: bool(stops))
                continue
            pauses.reset()
            if drain and not jobs:
                return
            for job in jobs:
                if stops or _has_ended(parent):
                    give_back(job)
                    return
                job._share(SharedLeaseState(memory, job.token))
                parent.send((job._taken, job._sent))
                work_on(job, self._handler)
                parent.send(None)


def _send(child: _Child[Any], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, number)


def _has_ended(parent: Connection) -> bool:
    """Return whether the parent has closed its end of a pipe."""
    poll = select.poll()
    poll.register(parent.fileno(), 0)
    return bool(poll.poll(0))


def _pause(seconds: float, stopped: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not stopped() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, PAUSE_SECONDS))


def _end_of(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"its process was killed by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"
