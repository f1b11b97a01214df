"""One supervised process: its state, and when it is started again.

             start            says that it is ready
    STOPPED ───────▶ STARTING ─────────────────────▶ READY
                      ▲    │ ends                      │ ends, or is told to end since it is of no use any more
           `restart_at` is │                           │
           reached    │    ▼                           │
                     FAILED ◀──────────────────────────┘

    KILLED: by request, from any of them; START again by request. PAUSED: by request, from STARTING and READY, and back.

What always holds: this is bookkeeping of one process, and nothing here waits, but for the system to end a killed
process. It is changed under the lock of its `ProcessTable`.

Not for when to look, nor what to make of it (`restarts`, `probes`, `faults`).
"""

from typing import Final

from cairnkv.lab.cluster.child import STOP_PATIENCE
from cairnkv.lab.cluster.health import BACK, READY
from cairnkv.lab.cluster.machines import Process, Role, State
from cairnkv.lab.cluster.nats import NatsServer
from cairnkv.lab.cluster.node import Node

BACKOFF_FIRST: Final = 0.5
BACKOFF_MAX: Final = 10.0
"""Seconds from the end of a process to its next start, doubled with each, and from where on that begins anew:"""
STEADY_SECONDS: Final = 30.0


class Supervised:
    """A store node or a NATS server, and what its supervisor knows of it. Times are of `time.monotonic`."""

    def __init__(self, child: NatsServer | Node, role: Role, machine: int, address: str) -> None:
        """One that is not started yet. address: as `Process` has it."""
        self.child = child
        self.role = role
        self.machine = machine
        self.address = address
        self.state = State.STOPPED
        self.restarts = 0
        """How often it was started again without a request."""
        self.why = ""
        """Why it ended last."""
        self.restart_at = 0.0
        """When it is started again, if it is FAILED."""
        self.kill_at: float | None = None
        """When it is killed, if it was told to end so that it is started anew."""
        self.health = READY
        """What it says of itself."""
        self.told = State.READY
        """Which state of its health people were told last."""
        self.silences = 0
        """Probes in a row that it did not answer."""
        self.failures = 0
        """Probes in a row to which a NATS server said that it cannot write."""
        self.next_probe = 0.0
        """When a NATS server is asked again."""
        self._backoff = BACKOFF_FIRST
        self._started = 0.0
        self._before_pause = State.STARTING

    @property
    def name(self) -> str:
        """`node-1`, `nats-1` and so on."""
        return self.child.name

    @property
    def stopped_itself(self) -> bool:
        """Whether it runs and takes no part any more."""
        return self.state is State.READY and self.child.running and self.health.state is State.STOPPED

    def described(self) -> Process:
        """As others see it."""
        pid, state = self.child.pid, self.state
        if pid is None and state in (State.STARTING, State.READY, State.PAUSED):
            state = State.FAILED  # and the watcher will see it, too
        why = self.why
        if self._health_tells(state):
            state, why = self.health.state, self.health.why or why
        return Process(self.name, self.role, self.machine, self.address, state, pid, self.restarts, why)

    def _health_tells(self, state: State) -> bool:
        """Whether what it says of itself is news. Before a node is ready, it is whether it serves at all by now."""
        return self.health != READY and (
            state is State.READY or (state is State.STARTING and self.health.state is State.JOINING)
        )

    # -- what happens to it ---------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Have a process. Raises `OSError`, `OptionError`; it counts as one that has ended then (`fail`)."""
        self._started = now
        self.silences = self.failures = 0
        self.next_probe = 0.0
        self.kill_at = None
        self.health = READY
        self.told = State.READY
        self.state = State.STARTING
        self.child.start()

    def become_ready(self) -> None:
        """It has said that it is."""
        self.state = State.READY
        self.health = READY

    def fail(self, why: str, now: float) -> float:
        """It has ended by itself; gives after how many seconds it is started again."""
        backoff = self._backoff
        self.state = State.FAILED
        self.why = why
        self.kill_at = None
        self.restart_at = now + backoff
        self._backoff = min(2 * backoff, BACKOFF_MAX)
        return backoff

    def settle(self, now: float) -> None:
        """It runs on: after a while what was before counts no more."""
        if now - self._started > STEADY_SECONDS:
            self.forgive()

    def forgive(self) -> None:
        """Have its next end be as its first."""
        self._backoff = BACKOFF_FIRST

    def give_up(self, why: str, now: float) -> None:
        """It runs, but is of no use: have it end, so that it is started anew."""
        self.state = State.FAILED
        self.why = why
        self.kill_at = now + STOP_PATIENCE
        self.child.tell_to_stop()

    def kill(self) -> None:
        """End it; it stays down. Raises `TimeoutError`."""
        self.state = State.KILLED  # before it ends, which the watcher may see
        self.child.kill()

    def pause(self) -> None:
        """Stop it as it is, until `resume`."""
        self._before_pause = self.state
        self.state = State.PAUSED
        self.child.pause()

    def resume(self, next_probe: float) -> None:
        """Let it go on. next_probe: until then it may be out of breath."""
        self.state = self._before_pause
        self.next_probe = next_probe
        self.come_back()
        self.child.resume()

    def come_back(self) -> None:
        """It was away: what it said of itself counts no more, but that it has stopped."""
        self.silences = self.failures = 0
        if self.state is State.READY and not self.stopped_itself:
            self.health = BACK
