"""The supervised processes of a cluster, under one lock, and in the state file.

What always holds: who changes a process holds `lock`, and nothing that waits is done under it, but for the system to
end a killed process. The state file names all processes that run, at any time when the disk has room for it.

Not for when processes are started or ended (`supervisor`, `restarts`, `faults`).
"""

import threading
import time
from collections.abc import Iterable, Iterator

from cairnkv.errors import OptionError
from cairnkv.lab.cluster.machines import Role, Target
from cairnkv.lab.cluster.notes import Notes
from cairnkv.lab.cluster.state import StateFile
from cairnkv.lab.cluster.supervised import Supervised


class ProcessTable:
    """All of them, by name."""

    def __init__(self, processes: Iterable[Supervised], file: StateFile, notes: Notes) -> None:
        """file: kept in step with what runs. notes: told of what ends."""
        self.lock = threading.RLock()
        self._processes = {one.name: one for one in processes}
        self._file = file
        self._notes = notes
        self._unsaved = False

    def __iter__(self) -> Iterator[Supervised]:
        return iter(self._processes.values())

    def __getitem__(self, name: str) -> Supervised:
        return self._processes[name]

    def of(self, role: Role) -> list[Supervised]:
        """All nodes, or all NATS servers, machine 1 first."""
        return [one for one in self if one.role is role]

    def meant(self, target: Target) -> list[Supervised]:
        """Those of a machine, or the one process."""
        return [self[f"{role.value}-{target.machine}"] for role in target.roles]

    def launch(self, one: Supervised) -> None:
        """Start a process, or have it count as one that ended at once. Under the lock."""
        try:
            one.start(time.monotonic())
        except (OSError, OptionError) as error:
            self.has_failed(one, str(error))
        self.save()

    def has_failed(self, one: Supervised, why: str) -> None:
        """A process has ended by itself. Under the lock."""
        backoff = one.fail(why, time.monotonic())
        self._notes.add(f"{one.name} {why}; it is started again in {backoff:g} s; see {one.child.log}")
        self.save()

    def save(self) -> None:
        """Write down who runs. Under the lock, after every change."""
        try:
            self._file.write({one.name: one.child.pid for one in self})
        except OSError as error:  # such as on a full disk, which is when processes fail, too
            if not self._unsaved:
                self._notes.add(f"{self._file.path} cannot be written: {error}; this is tried again")
            self._unsaved = True
        else:
            self._unsaved = False

    def save_if_behind(self) -> None:
        """Write it down if that has failed. Under the lock."""
        if self._unsaved:
            self.save()
