"""The restart policy: a process that ends by itself is started again, with a backoff that doubles at each end.

Invariants: a process that was killed on request stays down. While the cluster starts, the number of attempts is
limited, so that an error in the configuration ends the start; later it is unlimited.

Out of scope: processes that run but do not work (`probes`).
"""

import contextlib
import time
from typing import Final

from cairnkv.lab.cluster.hosts import State
from cairnkv.lab.cluster.node import Node
from cairnkv.lab.cluster.process_table import ProcessTable
from cairnkv.lab.cluster.supervised import Supervised

START_ATTEMPTS: Final = 2
"""Restarts of a process before the start of the cluster fails."""


class Restarts:
    """Restarts the processes of a table, in a thread, which also passes the notes on."""

    def __init__(self, table: ProcessTable) -> None:
        self.unlimited = False
        """Whether the number of restarts is unlimited: after the start of the cluster. Set under the lock."""
        self._table = table

    def run(self) -> None:
        """Check all processes until the shutdown."""
        while not self._table.shutdown.wait():
            with self._table.lock:
                for one in self._table:
                    if not self._table.shutdown.requested:
                        self._check(one, time.monotonic())
                self._table.retry_save()
            self._table.notes.flush()

    def _check(self, one: Supervised, now: float) -> None:
        child = one.child
        if one.state in (State.STOPPED, State.KILLED):
            return
        if child.running:
            if one.kill_at is not None:
                if now > one.kill_at:
                    with contextlib.suppress(TimeoutError):  # the next round tries again
                        child.kill()
            elif one.state is State.STARTING and isinstance(child, Node) and child.has_reported_ready():
                one.become_ready()
            elif one.state is State.READY:
                one.settle(now)
        elif one.state is not State.FAILED or one.kill_at is not None:
            self._table.record_end(one, one.why if one.kill_at is not None else child.end)
        elif now >= one.restart_at and (self.unlimited or one.restarts < START_ATTEMPTS):
            one.restarts += 1
            self._table.notes.add(f"{one.name}: restarting")
            self._table.launch(one)

    def has_given_up(self, one: Supervised) -> bool:
        """Return whether a process has failed too often for the start of a cluster. The caller holds the lock."""
        return one.state is State.FAILED and one.restarts >= START_ATTEMPTS
