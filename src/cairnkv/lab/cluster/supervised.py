"""One supervised process: its state, and the time of its next restart.

             start            reports that it is ready
    STOPPED ───────▶ STARTING ─────────────────────▶ READY
                      ▲    │ ends                      │ ends, or is ended because it cannot write any more
           `restart_at` is │                           │
           reached    │    ▼                           │
                     FAILED ◀──────────────────────────┘

    A request moves any state to KILLED, and KILLED to STARTING; STARTING and READY to PAUSED, and back.

Invariants: these methods only record and signal; the only wait is for the end of a killed process. Their caller holds
the lock of the `ProcessTable`.

Out of scope: the decisions (`restarts`, `probes`, `faults`).
"""

from typing import Final

from cairnkv.lab.cluster.child import STOP_TIMEOUT
from cairnkv.lab.cluster.health import READY, RECONNECTING, advice
from cairnkv.lab.cluster.hosts import Process, Role, State
from cairnkv.lab.cluster.nats import NatsServer
from cairnkv.lab.cluster.node import Node

BACKOFF_FIRST: Final = 0.5
BACKOFF_MAX: Final = 10.0
"""Seconds from the end of a process to its restart: first, and at most. Each end doubles them."""

STEADY_SECONDS: Final = 30.0
"""Seconds of a process in state READY that reset the backoff."""


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
        if self.health != READY and (state is State.READY or joining):
            state, why = self.health.state, self.reason or why
        return Process(self.name, self.role, self.host, self.address, state, pid, self.restarts, why)

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
