"""State that all threads of a supervisor share: the processes, the notes for the user, and the request to stop.

Invariants: a thread holds `ProcessTable.lock` when it changes a process. While it holds the lock it waits for nothing
but the end of a killed process. The state file names all running processes, unless the disk is full.

Out of scope: decisions to start or end processes (`supervisor`, `restarts`, `faults`).
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from cairnkv.errors import OptionError
from cairnkv.lab.cluster.hosts import Role, Target
from cairnkv.lab.cluster.state import StateFile
from cairnkv.lab.cluster.supervised import Supervised

NOTES_MAX: Final = 1_000
"""Notes that wait; `Notes` drops the oldest of more."""

POLL_INTERVAL: Final = 0.05
"""Seconds between two checks of the processes, and of the request to stop."""


class Notes:
    """Lines for the user. Any thread adds them; one thread passes them on, in order, without the lock."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        """notify: called with each line. It may send requests to the supervisor."""
        self._notify = notify
        self._lines: deque[str] = deque(maxlen=NOTES_MAX)

    def add(self, text: str) -> None:
        """Add a line."""
        self._lines.append(text)

    def flush(self) -> None:
        """Pass on all lines. The caller must not hold the lock."""
        while self._lines:
            text = self._lines.popleft()
            with contextlib.suppress(OSError):  # such as a closed terminal; the cluster continues
                self._notify(text)


class Shutdown:
    """The request to stop. Plain attributes, because a signal handler must not set a `threading.Event`."""

    def __init__(self) -> None:
        self.requested = False
        self.immediate = False
        """Whether to kill processes without a wait."""

    def wait(self) -> bool:
        """Wait for a poll interval. Return whether a stop is requested."""
        time.sleep(POLL_INTERVAL)
        return self.requested


class ProcessTable:
    """All processes, by name."""

    def __init__(self, processes: Iterable[Supervised], file: StateFile, notes: Notes, shutdown: Shutdown) -> None:
        """file: gets the running processes. notes: get a line for each process that ends, restarts or changes."""
        self.notes = notes
        self.shutdown = shutdown
        self.lock = threading.RLock()
        self._processes = {one.name: one for one in processes}
        self._file = file
        self._unsaved = False

    def __iter__(self) -> Iterator[Supervised]:
        return iter(self._processes.values())

    def __getitem__(self, name: str) -> Supervised:
        return self._processes[name]

    def of(self, role: Role) -> list[Supervised]:
        """Return all processes of a role, ordered by host."""
        return [one for one in self if one.role is role]

    def selected(self, target: Target) -> list[Supervised]:
        """Return the processes of a target."""
        return [self[f"{role.value}-{target.host}"] for role in target.roles]

    def launch(self, one: Supervised) -> None:
        """Start a process; if this fails, treat it as a process that has ended. The caller holds the lock."""
        try:
            one.start(time.monotonic())
        except (OSError, OptionError) as error:
            self.record_end(one, str(error))
        self.save()

    def record_end(self, one: Supervised, why: str) -> None:
        """Record that a process has ended by itself. The caller holds the lock."""
        backoff = one.fail(why, time.monotonic())
        self.notes.add(f"{one.name} {why}; it restarts in {backoff:g} s; see {one.child.log}")
        self.save()

    def save(self) -> None:
        """Write the running processes to the state file, after each change. The caller holds the lock."""
        try:
            self._file.write({one.name: one.child.pid for one in self})
        except OSError as error:  # such as a full disk, which also makes processes fail
            if not self._unsaved:
                self.notes.add(f"cannot write {self._file.path}: {error}; retrying")
            self._unsaved = True
        else:
            self._unsaved = False

    def retry_save(self) -> None:
        """Write the state file again if the last write failed. The caller holds the lock."""
        if self._unsaved:
            self.save()
