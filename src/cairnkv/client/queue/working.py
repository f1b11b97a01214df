"""Parts that all workers share: their options, their signals, and the texts of their log.

Out of scope: taking jobs and running handlers (`worker`, `processes`, `aio.queue.worker`).
"""

import contextlib
import logging
import math
import os
import select
import signal
import threading
from collections.abc import Iterator
from typing import Final

from cairnkv.client.address import Seconds
from cairnkv.client.queue.calls import lease_milliseconds, seconds_of
from cairnkv.errors import AccessDenied, CairnError, CallerError, OptionError
from cairnkv.records import record

logger: Final = logging.getLogger("cairnkv.worker")

SLOTS_MAX: Final = 1_000
"""Maximum jobs that one worker runs at the same time: one TAKE can lease as many."""

STOP_SECONDS: Final = 25.0
"""Default for the seconds that a worker waits for its running jobs after it was stopped: less than the 30 seconds that
Kubernetes waits before it kills."""

WAIT_SECONDS: Final = 2.0
"""Seconds that a TAKE of a worker waits for messages. A stop ends that of a client at once, but waits for that of an
embedded store."""

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
"""Seconds before a worker takes again after a failure, and their maximum. They double each time."""


@record
class WorkerOptions:
    """The options of a worker, in seconds.

    slots: maximum jobs at the same time. lease: the time of leases, or None for that of the message or the queue.
    max_runtime: the time after which a job counts as failed. stop_timeout: the time for running jobs after a stop.
    drain: end when no message is ready.
    """

    slots: int
    lease: float | None
    max_runtime: float
    stop_timeout: float
    drain: bool


def worker_options(
    what: str,
    slots: int,
    *,
    lease: Seconds | None,
    max_runtime: Seconds | None,
    stop_timeout: Seconds,
    drain: bool = False,
) -> WorkerOptions:
    """Return checked options. what: the name of the option for the slots. Raises `OptionError`."""
    given: object = slots
    if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= SLOTS_MAX:
        raise OptionError(f"{what} is a whole number from 1 to {SLOTS_MAX:,}, not {slots!r:.40}")
    return WorkerOptions(
        slots=slots,
        lease=None if lease is None else lease_milliseconds(lease) / 1000,
        max_runtime=math.inf if max_runtime is None else seconds_of("max_runtime", max_runtime),
        stop_timeout=seconds_of("stop_timeout", stop_timeout),
        drain=drain,
    )


class Pauses:
    """The pauses of a worker after failures."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    def reset(self) -> None:
        """Note a success."""
        self._next = FIRST_PAUSE

    def after(self, error: CairnError) -> float:
        """Return the seconds to wait after a failure. Raises it if it lasts."""
        if isinstance(error, CallerError):
            raise error
        if isinstance(error, AccessDenied):  # a refused login counts at the server
            self._next = LONGEST_PAUSE
        pause, self._next = self._next, min(2 * self._next, LONGEST_PAUSE)
        logger.warning("cannot take jobs, next try in %g s: %s", pause, error)
        return pause


def too_long(max_runtime: float) -> str:
    """Return the reason of a job that ran longer than its maximum time."""
    return f"ran longer than {max_runtime:g} s"


def log_stop(running: int) -> None:
    """Log that a worker stops, and how many jobs still run."""
    if running:
        logger.info("the worker stops; %d %s", running, "job still runs" if running == 1 else "jobs still run")


STOPPED: Final = "its worker has stopped"
"""Why a job has lost its lease that a stopped worker gave back."""


class Stops:
    """The requests to stop a worker: calls of `stop`, and SIGTERM and SIGINT within `catching`.

    They are bytes in a pipe. The system writes those of signals (`signal.set_wakeup_fd`), since a Python handler does
    not run while the main thread waits in C, if the signal came just before.

    number: how many there were. ended: whether the worker has ended by itself.
    """

    def __init__(self) -> None:
        self.number = 0
        self.ended = False
        self._lock = threading.RLock()  # a signal handler may call `stop`
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._closed = False

    def fileno(self) -> int:
        """Return the file that is readable if there is a new request."""
        return self._read

    def stop(self) -> None:
        """Request a stop."""
        self._send(_STOP)

    def end(self) -> None:
        """Note that the worker has ended by itself."""
        self._send(_END)

    def _send(self, byte: int) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):  # then the pipe is full of requests
            if not self._closed:
                os.write(self._write, bytes((byte,)))

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for a new request or the end. Returns False if none comes in this time."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        if not poll.poll(None if seconds is None else math.ceil(seconds * 1000)):
            return False
        for byte in os.read(self._read, 4096):
            self.number += byte in (_STOP, signal.SIGTERM, signal.SIGINT)
            self.ended |= byte == _END
        return True

    @contextlib.contextmanager
    def catching(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT be requests, within a `with` statement in the main thread; elsewhere do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, _nothing) for number in (signal.SIGTERM, signal.SIGINT)}
        woken = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(woken)
            for number, handler in before.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Close the pipe."""
        with self._lock:
            self._closed = True
            os.close(self._read)
            os.close(self._write)


_STOP: Final = 0
_END: Final = 255
"""Bytes that are no numbers of signals."""


def _nothing(*_: object) -> None:
    pass
