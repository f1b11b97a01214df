"""The restart policy: what ends by itself is started again, after a while that grows with each end (backoff).

What always holds: what was killed on request is left alone. While a cluster starts, a process is tried a few times
only, so that a mistake is told soon; from then on it is tried for ever.

Not for processes that run and do nothing (`probes`).
"""

import contextlib
import time
from typing import Final

from cairnkv.lab.cluster.machines import State
from cairnkv.lab.cluster.node import Node
from cairnkv.lab.cluster.notes import Notes
from cairnkv.lab.cluster.process_table import ProcessTable
from cairnkv.lab.cluster.shutdown import Shutdown
from cairnkv.lab.cluster.supervised import Supervised

START_ATTEMPTS: Final = 2
"""How often a process that ends is started again before a cluster that is starting is given up."""


class Restarts:
    """Looks after the processes of a table, in a thread."""

    def __init__(self, table: ProcessTable, notes: Notes, shutdown: Shutdown) -> None:
        """notes: told of each restart, and told on from here."""
        self.for_ever = False
        """Whether what ends is started again without end: not while the cluster starts. Set under the lock."""
        self._table = table
        self._notes = notes
        self._shutdown = shutdown

    def run(self) -> None:
        """Look after them until the shutdown."""
        while not self._shutdown.wait():
            with self._table.lock:
                for one in self._table:
                    if not self._shutdown.asked:
                        self._look_after(one, time.monotonic())
                self._table.save_if_behind()
            self._notes.tell()

    def _look_after(self, one: Supervised, now: float) -> None:
        child = one.child
        if one.state in (State.STOPPED, State.KILLED):
            return
        if child.running:
            if one.kill_at is not None:
                if now > one.kill_at:
                    with contextlib.suppress(TimeoutError):  # it is looked at again
                        child.kill()
            elif one.state is State.STARTING and isinstance(child, Node) and child.says_ready():
                one.become_ready()
            elif one.state is State.READY:
                one.settle(now)
        elif one.state is not State.FAILED or one.kill_at is not None:
            self._table.has_failed(one, one.why if one.kill_at is not None else child.end)
        elif now >= one.restart_at and (self.for_ever or one.restarts < START_ATTEMPTS):
            one.restarts += 1
            self._notes.add(f"{one.name}: starting it again")
            self._table.launch(one)

    def hopeless(self, one: Supervised) -> bool:
        """Whether a process has ended so often that a cluster which is starting is given up. Under the lock."""
        return one.state is State.FAILED and one.restarts >= START_ATTEMPTS
