"""The supervised processes, and the state that all threads of a supervisor share.

A process has a state and the time of its next restart:

             start            reports that it is ready
    STOPPED ───────▶ STARTING ─────────────────────▶ READY
                      ▲    │ ends                      │ ends, or is ended because it cannot write any more
           `restart_at` is │                           │
           reached    │    ▼                           │
                     FAILED ◀──────────────────────────┘

    A request moves any state to KILLED, and KILLED to STARTING; STARTING and READY to PAUSED, and back.

Invariants: a thread holds `ProcessTable.lock` when it changes a process. The methods of a process only record and
signal, so while a thread holds the lock it waits for nothing but the end of a killed process. The state file names all
running processes, unless the disk is full.

Out of scope: the decisions to start or end processes (`watch`, `faults`, `supervisor`).
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from cairnkv.errors import OptionError
from cairnkv.lab.cluster.child import STOP_TIMEOUT
from cairnkv.lab.cluster.health import READY, RECONNECTING, advice
from cairnkv.lab.cluster.hosts import Process, Role, State, Target
from cairnkv.lab.cluster.nats import NatsServer
from cairnkv.lab.cluster.node import Node
from cairnkv.lab.cluster.state import StateFile

BACKOFF_FIRST: Final = 0.5
BACKOFF_MAX: Final = 10.0
"""Seconds from the end of a process to its restart: first, and at most. Each end doubles them."""

STEADY_SECONDS: Final = 30.0
"""Seconds of a process in state READY that reset the backoff."""

NOTES_MAX: Final = 1_000
"""Notes that wait; `Notes` drops the oldest of more."""

POLL_INTERVAL: Final = 0.05
"""Seconds between two checks of the processes, and of the request to stop."""


class Supervised:
    """The supervisor's record of a store node or NATS server. Times are of `time.monotonic`."""

    def __init__(self, child: NatsServer | Node, role: Role, host: int, address: str) -> None:
        """A process that is not started. address: see `Process`."""
        self.child = child
        self.role = role
        self.host = host
        self.address = address
        self.state = State.STOPPED
        self.restarts = 0
        """The number of automatic restarts."""
        self.why = ""
        """The reason of its last end."""
        self.restart_at = 0.0
        """The time of its restart, if it is FAILED."""
        self.kill_at: float | None = None
        """The time to kill a process that got SIGTERM in order to restart."""
        self.health = READY
        self.announced = State.READY
        """The state of its health in the last note for the user."""
        self.missing_replies = 0
        """Probes in a row without a reply."""
        self.failures = 0
        """Probes in a row to which a NATS server replied that it cannot write."""
        self.next_probe = 0.0
        """The time of the next probe of a NATS server."""
        self._backoff = BACKOFF_FIRST
        self._started = 0.0
        self._before_pause = State.STARTING

    @property
    def name(self) -> str:
        """`node-1`, `nats-1` and so on."""
        return self.child.name

    @property
    def stopped_itself(self) -> bool:
        """Whether the node runs and takes no part any more."""
        return self.state is State.READY and self.child.running and self.health.state is State.STOPPED

    @property
    def reason(self) -> str:
        """The reason for its health, with advice for a node that takes no part any more."""
        directory = self.child.config.directory.parent  # of the cluster
        return self.health.why + (advice(self.name, self.health.remedy, directory) if self.stopped_itself else "")

    def described(self) -> Process:
        """Return the process as users see it."""
        pid, state = self.child.pid, self.state
        if pid is None and state in (State.STARTING, State.READY, State.PAUSED):
            state = State.FAILED  # `Restarts` has not seen the end yet
        why = self.why
        joining = state is State.STARTING and self.health.state is State.JOINING
        if self.health.state is not State.READY and (state is State.READY or joining):
            state, why = self.health.state, self.reason or why
        users = self.health.users if self.state is State.READY else ""
        return Process(self.name, self.role, self.host, self.address, state, pid, self.restarts, why, users)

    # -- transitions ----------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Start the process. Raises `OSError`, `OptionError`; the caller then calls `fail`."""
        self._started = now
        self.missing_replies = self.failures = 0
        self.next_probe = 0.0
        self.kill_at = None
        self.health = READY
        self.announced = State.READY
        self.state = State.STARTING
        self.child.start()

    def become_ready(self) -> None:
        """Record that the process has reported that it is ready."""
        self.state = State.READY
        self.health = READY

    def fail(self, why: str, now: float) -> float:
        """Record that the process ended by itself. Return the seconds until its restart."""
        backoff = self._backoff
        self.state = State.FAILED
        self.why = why
        self.kill_at = None
        self.restart_at = now + backoff
        self._backoff = min(2 * backoff, BACKOFF_MAX)
        return backoff

    def settle(self, now: float) -> None:
        """Reset the backoff if the process has run for long."""
        if now - self._started > STEADY_SECONDS:
            self.reset_backoff()

    def reset_backoff(self) -> None:
        """Restart the process after its next end as fast as after its first."""
        self._backoff = BACKOFF_FIRST

    def end_for_restart(self, why: str, now: float) -> None:
        """Send SIGTERM to a process that does not work, so that it restarts."""
        self.state = State.FAILED
        self.why = why
        self.kill_at = now + STOP_TIMEOUT
        self.child.terminate()

    def kill(self) -> None:
        """Kill the process, which stays down. Raises `TimeoutError`."""
        self.state = State.KILLED  # before the end, which `Restarts` may see
        self.child.kill()

    def pause(self) -> None:
        """Stop the process until `resume`."""
        self._before_pause = self.state
        self.state = State.PAUSED
        self.child.pause()

    def resume(self, next_probe: float) -> None:
        """Continue the process. next_probe: the time of the next probe."""
        self.state = self._before_pause
        self.next_probe = next_probe
        self.reset_health()
        self.child.resume()

    def reset_health(self) -> None:
        """Discard the health of a process that was paused or cut off, unless it takes no part any more."""
        self.missing_replies = self.failures = 0
        if self.state is State.READY and not self.stopped_itself:
            self.health = RECONNECTING


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
