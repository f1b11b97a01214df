"""Extends the leases of the jobs of a broker, in a thread.

Invariants: a keeper extends the lease of a job until the job is acked or nacked, or its lease is lost. It repeats an
ack without a reply until it receives a reply, and extends the lease meanwhile.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from cairnkv.client.address import Seconds
from cairnkv.client.methods import Methods
from cairnkv.client.queue.jobs import Job
from cairnkv.client.queue.leases import Leases
from cairnkv.errors import CairnError, LeaseLost

logger: Final = logging.getLogger("cairnkv.brokers")

AGAIN_SECONDS: Final = 1.0
"""Seconds after which a keeper repeats an ack without a reply."""


class Keeper:
    """Extends the leases of jobs until they are acked or nacked. Any thread may call the methods."""

    def __init__(self, kv: Methods[Any, Any]) -> None:
        self._leases = Leases(kv)
        self._changed = threading.Condition()  # guards all below
        self._again: list[Job[Any]] = []  # jobs whose ack had no reply
        self._next = math.inf
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, job: Job[Any]) -> None:
        """Extend the lease of a job from now on."""
        due = self._leases.add(job)
        with self._changed:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="cairnkv broker: leases", daemon=True)
                self._thread.start()
            if due < self._next:
                self._changed.notify()

    def ack(self, job: Job[Any]) -> None:
        """Delete a message, now or as soon as the server replies. Logs the loss of its lease."""
        if not self._settle(job, job.ack):
            with self._changed:
                self._again.append(job)
                self._changed.notify()

    def nack(
        self,
        job: Job[Any],
        reason: str | None = None,
        *,
        delay: Seconds | None = None,
        counted: bool = True,
        dead: bool = False,
    ) -> None:
        """Return a message to its queue. If the server does not reply, the message returns when its lease ends."""
        self._settle(job, lambda: job.nack(reason, delay=delay, counted=counted, dead=dead))
        self._leases.discard(job)

    def give_back(self, job: Job[Any]) -> None:
        """Return a message that the framework did not process. The attempt does not count."""
        self.nack(job, counted=False)

    def close(self) -> None:
        """Extend no lease any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        self._ack_again()

    def _settle(self, job: Job[Any], settle: Callable[[], None]) -> bool:
        """Ack or nack a job. Returns False if the outcome is unknown."""
        try:
            settle()
        except LeaseLost as error:
            logger.warning("%s; another worker may have the message", error)
        except CairnError as error:
            logger.warning("job %d of the queue %r: %s", job.id, job.queue, error)
            return False
        self._leases.discard(job)
        return True

    def _ack_again(self) -> None:
        with self._changed:
            jobs, self._again = self._again, []
        for job in jobs:
            self.ack(job)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._closed:
                    now = time.monotonic()
                    self._next = self._leases.next_beat() or math.inf
                    if self._again:
                        self._next = min(self._next, now + AGAIN_SECONDS)
                    if self._next > now:
                        self._changed.wait(None if self._next == math.inf else self._next - now)
                if self._closed:
                    return
            self._leases.beat()
            self._ack_again()
