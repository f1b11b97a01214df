"""Health probes: a process that runs may be of no use, and only its answers tell.

What always holds: each probe has a thread of its own, since a process that hangs takes its time to answer, and none is
asked under the lock. What was asked of a process counts only if that process, in that state, is still there afterwards.
One bad answer is chance; `FAILURES` in a row count. A NATS server that has switched its JetStream off, since its disk
was full, is ended and started anew; another is shown as it says it is, and so is a node: they mend themselves, or tell
what to do.

Not for what an answer means (`health`, `nats`), nor for processes that end (`restarts`).
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cairnkv.lab.cluster.health import READY, SILENT, Health, remedy
from cairnkv.lab.cluster.health import ask as ask_health
from cairnkv.lab.cluster.machines import Role, State
from cairnkv.lab.cluster.nats import NatsServer, Sight, is_switched_off
from cairnkv.lab.cluster.notes import Notes
from cairnkv.lab.cluster.process_table import ProcessTable
from cairnkv.lab.cluster.shutdown import LOOK_EVERY, Shutdown
from cairnkv.lab.cluster.supervised import Supervised

EVERY: Final = 1.0
"""Seconds between two probes of a NATS server, and between two rounds through all nodes."""

UNREADY_EVERY: Final = 2 * LOOK_EVERY
"""The same of a NATS server that is starting."""

FAILURES: Final = 2
"""So often in a row a NATS server has to say that it cannot write, or a process nothing."""

_SAID: Final = {State.READY: "ready again", State.NO_QUORUM: "without quorum"}
"""How a node's new state is told, where that is not its name."""


class _Probe:
    """Asks the processes of one role in turn."""

    def __init__(self, table: ProcessTable, shutdown: Shutdown) -> None:
        self._table = table
        self._shutdown = shutdown

    def _running(self, role: Role) -> Iterator[tuple[Supervised, int, State]]:
        """Processes that run, and are not paused or about to end, each with its number and state."""
        for one in self._table.of(role):
            with self._table.lock:
                pid, state = one.child.pid, one.state
            if pid is not None and state in (State.STARTING, State.READY) and not self._shutdown.asked:
                yield one, pid, state

    def _is_same(self, one: Supervised, pid: int, state: State) -> bool:
        """Whether it is what was asked. Under the lock."""
        return one.child.pid == pid and one.state is state


class NatsProbe(_Probe):
    """Whether NATS servers are ready, and can write, and have what the others have."""

    def __init__(self, table: ProcessTable, shutdown: Shutdown) -> None:
        super().__init__(table, shutdown)
        # How far streams had come at any server: as was told lately, and before the last turn, and the one before that.
        # Those that are well are never further apart than from one turn to the next.
        self._told: dict[tuple[str, str], int] = {}
        self._told_before: dict[tuple[str, str], int] = {}
        self._known: dict[tuple[str, str], int] = {}
        self._next_turn = 0.0

    def run(self) -> None:
        """Ask them until the shutdown."""
        while not self._shutdown.wait():
            if time.monotonic() >= self._next_turn:
                self._known, self._told_before = self._told_before, dict(self._told)
                self._next_turn = time.monotonic() + EVERY
            for one, pid, before in self._running(Role.NATS):
                if time.monotonic() < one.next_probe:
                    continue
                assert isinstance(one.child, NatsServer)
                ready = before is State.READY or one.child.has_leader()
                sight = one.child.sight() if ready else None
                with self._table.lock:
                    if self._is_same(one, pid, before):
                        one.next_probe = time.monotonic() + (EVERY if ready else UNREADY_EVERY)
                        if sight is not None:
                            self._judge(one, sight)
                        elif ready:
                            self._silent(one)

    def _silent(self, one: Supervised) -> None:
        one.silences += 1
        if one.silences >= FAILURES and one.state is State.READY:
            one.health = SILENT

    def _judge(self, one: Supervised, sight: Sight) -> None:
        if one.state is State.STARTING:
            one.become_ready()
        trouble = sight.trouble or sight.behind(self._known)
        one.health = Health(State.CATCHING_UP, trouble) if trouble else READY
        for stream, end in sight.ends.items():
            self._told[stream] = max(end, self._told.get(stream, 0))
        one.silences = 0
        one.failures = one.failures + 1 if is_switched_off(trouble) else 0
        if one.failures >= FAILURES:
            why = f"cannot write any more, which its disk being full may have brought about ({trouble})"
            one.give_up(why, time.monotonic())


class NodeProbe(_Probe):
    """What nodes say of themselves."""

    def __init__(self, table: ProcessTable, notes: Notes, shutdown: Shutdown, directory: Path) -> None:
        """notes: told of a node's new state. directory: of the cluster, for what to do about it."""
        super().__init__(table, shutdown)
        self._notes = notes
        self._directory = directory

    def run(self) -> None:
        """Ask them until the shutdown."""
        next_round = 0.0
        while not self._shutdown.wait():
            if time.monotonic() < next_round:
                continue
            next_round = time.monotonic() + EVERY
            for one, pid, before in self._running(Role.NODE):
                health = ask_health(one.address)
                with self._table.lock:
                    if self._is_same(one, pid, before):
                        self._judge(one, health)

    def _judge(self, one: Supervised, health: Health) -> None:
        one.silences = one.silences + 1 if health == SILENT else 0
        if health == SILENT and (one.state is State.STARTING or one.silences < FAILURES):
            return
        one.health = health
        if one.state is State.READY and health.state is not one.told:
            one.told = health.state
            why = f": {health.why}" if health.why else ""
            what_to_do = remedy(one.name, health.why, self._directory) if one.stopped_itself else ""
            self._notes.add(f"{one.name} is {_SAID.get(health.state, health.state.value)}{why}{what_to_do}")
