"""The threads that watch the processes: one restarts a process that has ended, the others probe running ones.

A restart follows after a backoff that doubles at each end.

Invariants: a process that was killed on request stays down. While the cluster starts, the number of attempts is
limited, so that an error in the configuration ends the start; later it is unlimited. Each probe has its own thread,
because a process that hangs replies late, and sends requests without the lock. The reply of a process counts only if
the same process has the same state afterwards, and an error only after `FAILURES` in a row. A NATS server whose
JetStream is disabled after a full disk restarts. Every other error is only shown: the process recovers by itself, or
tells the user what to do.

Out of scope: the evaluation of replies (`health`, `nats`).
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Final

from cairnkv.lab.cluster.health import READY, UNRESPONSIVE, Health
from cairnkv.lab.cluster.health import probe as probe_node
from cairnkv.lab.cluster.hosts import Role, State
from cairnkv.lab.cluster.nats import NatsServer, ServerReport, is_jetstream_off
from cairnkv.lab.cluster.node import Node
from cairnkv.lab.cluster.supervised import POLL_INTERVAL, ProcessTable, Supervised

PROBE_INTERVAL: Final = 1.0
"""Seconds between two probes of a NATS server, and between two rounds of probes of all nodes."""

START_PROBE_INTERVAL: Final = 2 * POLL_INTERVAL
"""Seconds between two probes of a NATS server that starts."""

START_ATTEMPTS: Final = 2
"""Restarts of a process before the start of the cluster fails."""

FAILURES: Final = 2
"""Failed probes in a row after which a process counts as unresponsive, or a NATS server restarts."""

_STATE_TEXTS: Final = {State.READY: "ready again", State.NO_QUORUM: "without quorum"}
"""Texts for states in notes, if they differ from the values."""


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


class _Probe:
    """Probes the processes of one role in turn."""

    def __init__(self, table: ProcessTable) -> None:
        self._table = table

    def _running(self, role: Role) -> Iterator[tuple[Supervised, int, State]]:
        """Yield each working process with its ID and state, except paused ones and those that are about to end."""
        for one in self._table.of(role):
            with self._table.lock:
                pid, state = one.child.pid, one.state
            if pid is not None and state in (State.STARTING, State.READY) and not self._table.shutdown.requested:
                yield one, pid, state

    def _is_same(self, one: Supervised, pid: int, state: State) -> bool:
        """Return whether the process and its state have not changed. The caller holds the lock."""
        return one.child.pid == pid and one.state is state


class NatsProbe(_Probe):
    """Probes whether NATS servers are ready, can write, and have complete streams."""

    def __init__(self, table: ProcessTable) -> None:
        super().__init__(table)
        # The highest end of each stream on any server: now, at the start of this round, and one round before. A healthy
        # server has at least the end of one round before.
        self._ends: dict[tuple[str, str], int] = {}
        self._ends_at_round: dict[tuple[str, str], int] = {}
        self._expected: dict[tuple[str, str], int] = {}
        self._next_round = 0.0

    def run(self) -> None:
        """Probe all servers until the shutdown."""
        while not self._table.shutdown.wait():
            if time.monotonic() >= self._next_round:
                self._expected, self._ends_at_round = self._ends_at_round, dict(self._ends)
                self._next_round = time.monotonic() + PROBE_INTERVAL
            for one, pid, before in self._running(Role.NATS):
                if time.monotonic() < one.next_probe:
                    continue
                assert isinstance(one.child, NatsServer)
                ready = before is State.READY or one.child.has_leader()
                report = one.child.report() if ready else None
                with self._table.lock:
                    if self._is_same(one, pid, before):
                        one.next_probe = time.monotonic() + (PROBE_INTERVAL if ready else START_PROBE_INTERVAL)
                        if report is not None:
                            self._judge(one, report)
                        elif ready:
                            self._no_reply(one)

    def _no_reply(self, one: Supervised) -> None:
        one.missing_replies += 1
        if one.missing_replies >= FAILURES and one.state is State.READY:
            one.health = UNRESPONSIVE

    def _judge(self, one: Supervised, report: ServerReport) -> None:
        if one.state is State.STARTING:
            one.become_ready()
        trouble = report.trouble or report.behind(self._expected)
        one.health = Health(State.CATCHING_UP, trouble) if trouble else READY
        for stream, end in report.ends.items():
            self._ends[stream] = max(end, self._ends.get(stream, 0))
        one.missing_replies = 0
        one.failures = one.failures + 1 if is_jetstream_off(trouble) else 0
        if one.failures >= FAILURES:
            one.end_for_restart(f"cannot write any more, perhaps after a full disk ({trouble})", time.monotonic())


class NodeProbe(_Probe):
    """Probes the health of nodes, and adds a note for each new state of a node."""

    def run(self) -> None:
        """Probe all nodes until the shutdown."""
        next_round = 0.0
        while not self._table.shutdown.wait():
            if time.monotonic() < next_round:
                continue
            next_round = time.monotonic() + PROBE_INTERVAL
            for one, pid, before in self._running(Role.NODE):
                health = probe_node(one.address)
                with self._table.lock:
                    if self._is_same(one, pid, before):
                        self._judge(one, health)

    def _judge(self, one: Supervised, health: Health) -> None:
        one.missing_replies = one.missing_replies + 1 if health == UNRESPONSIVE else 0
        if health == UNRESPONSIVE and (one.state is State.STARTING or one.missing_replies < FAILURES):
            return
        one.health = health
        if one.state is State.READY and health.state is not one.announced:
            one.announced = health.state
            why = f": {one.reason}" if one.reason else ""
            self._table.notes.add(f"{one.name} is {_STATE_TEXTS.get(health.state, health.state.value)}{why}")
