# Source of client/queue/leases.py: run tools/generate_clients.py after a change.
"""Extends the leases of the jobs that a worker has: one EXTEND for all of them.

Invariants: a lease is extended when a third of its time has passed. If that fails it is tried again, until the lease
is lost.
"""

import time
from typing import Any, Final

from cairnkv.client.aio.methods import AsyncMethods
from cairnkv.client.aio.queue.jobs import AsyncJob
from cairnkv.client.queue.calls import extend
from cairnkv.errors import CairnError
from cairnkv.limits import TAKE_MAX

BEATS_PER_LEASE: Final = 3
"""How often a lease is extended in its time."""

TRIES_PER_BEAT: Final = 4
"""How often a failed extension is tried again until the next beat would be due."""


class AsyncLeases:
    """The leases of the jobs of one process."""

    def __init__(self, kv: AsyncMethods[Any, Any]) -> None:
        self._kv = kv
        self._due: dict[AsyncJob[Any], float] = {}

    def __len__(self) -> int:
        return len(self._due)

    def add(self, job: AsyncJob[Any]) -> float:
        """Extend the lease of a job from now on. Returns the time at which this is due."""
        due = self._due[job] = time.monotonic() + job.lease / BEATS_PER_LEASE
        return due

    def discard(self, job: AsyncJob[Any]) -> None:
        """Do not extend the lease of a job any more."""
        self._due.pop(job, None)

    def jobs(self) -> list[AsyncJob[Any]]:
        """Return the jobs."""
        return list(self._due)

    def next_beat(self) -> float | None:
        """Return the time at which a lease must be extended, by `time.monotonic`; None: there is no lease."""
        return min(list(self._due.values()), default=None)

    async def beat(self) -> None:
        """Extend the leases whose time has come, and with them all leases of the same length."""
        now = time.monotonic()
        due = dict(self._due)
        for milliseconds in {job._lease_ms for job, at in due.items() if at <= now}:
            jobs = [job for job in due if job._lease_ms == milliseconds]
            for begin in range(0, len(jobs), TAKE_MAX):
                await self._extend(jobs[begin : begin + TAKE_MAX], milliseconds)

    async def _extend(self, jobs: list[AsyncJob[Any]], milliseconds: int) -> None:
        """Extend leases of one length. A failure that is no answer about them leaves them due soon."""
        sent = time.monotonic()
        try:
            answers = await self._kv._do(extend([job._lease for job in jobs], milliseconds))
        except CairnError:
            for job in jobs:
                if job.lost:
                    self._lose(job, "the worker could not extend it in time")
                elif job in self._due:
                    self._due[job] = sent + job.lease / BEATS_PER_LEASE / TRIES_PER_BEAT
            return
        for job, extended in zip(jobs, answers, strict=True):
            if not extended and not job.settled:
                self._lose(job, "its time has ended")
            elif job in self._due:
                job._leased(sent, milliseconds)
                self._due[job] = sent + job.lease / BEATS_PER_LEASE

    def _lose(self, job: AsyncJob[Any], why: str) -> None:
        if job in self._due:
            self.discard(job)
            job._lose(why)
