"""The health of a node: its quorum, its clock, the room of the log, and its NATS server.

Invariants: a node with a wrong clock proposes no writes; a node whose log is nearly full proposes no writes that grow.

Out of scope: proposals without a quorum (`proposer`).
"""

import logging
import math
from collections.abc import Iterable
from typing import Final

from cairnkv.commands import Failure, failures
from cairnkv.replication import node_snapshots
from cairnkv.replication.clocks import CLOCK_OFF_MS, Clocks
from cairnkv.replication.entries import Entry
from cairnkv.replication.nats.stream import Stream
from cairnkv.replication.proposer import UNSEEN_SECONDS
from cairnkv.replication.store import ReplicatedStore

logger: Final = logging.getLogger("cairnkv.cluster")

LEAVE_SECONDS: Final = 10.0
"""Seconds without a quorum by way of one NATS server, after which a node that has caught up tries another server. A
server may report no problem and log nothing. Elections take less time."""


class NodeHealth:
    """The checks of one node."""

    def __init__(self, store: ReplicatedStore, stream: Stream) -> None:
        self._store = store
        self._stream = stream
        self._clocks = Clocks()
        self._clock_off = 0
        self._has_quorum = True  # as logged last
        self._round_trip = 0.0  # seconds from the publication of the newest own entry to its arrival
        self._arrived_sent = 0.0  # when that entry was published
        self._waits_since = math.inf  # since when no own entry has arrived by way of this NATS server
        self._server = 0  # the number of the connection to it

    # -- clocks -----------------------------------------------------------------------------------------------

    def note_own_entry(self, monotonic: float) -> None:
        """Note that an entry of this node has arrived."""
        sent = self._store.proposer.arrived_sent
        if sent != self._arrived_sent:
            self._arrived_sent = sent
            self._round_trip = monotonic - sent

    def note_clock(self, entry: Entry, monotonic: float) -> bool:
        """Note the clock of another node. Returns whether the entry shows that this node's clock is not ahead of it."""
        late = 1000 * self._delay(monotonic)
        self._clocks.note(entry.node, entry.clock, late, monotonic)
        return late < CLOCK_OFF_MS or entry.clock > self._store.clock()

    def _delay(self, monotonic: float) -> float:
        """Return the maximum seconds for which entries that arrive now were delayed.

        Own entries take the same route. An entry behind an own one entered the log after the own one was published. If
        none is pending, entries take as long as the last own one; the next one, a second later, shows a change.
        """
        proposer = self._store.proposer
        if not proposer.arrived_sent:
            return math.inf  # replayed entries may be of any age
        return monotonic - proposer.arrived_sent if proposer.under_way else self._round_trip

    def is_clock_off(self, clock: int, monotonic: float) -> bool:
        """Whether a time of this node's clock differs too much from the other nodes' clocks."""
        return abs(self._clocks.off(clock, monotonic)) > CLOCK_OFF_MS

    # -- checks -----------------------------------------------------------------------------------------------

    def check_limits(self, monotonic: float) -> None:
        """Set which writes the store refuses because of the clock and the room of the log."""
        off = self._clocks.off(self._store.clock(), monotonic)
        self._clock_off = off if abs(off) > CLOCK_OFF_MS else 0
        self._store.refuses_writes = None
        if self._clock_off:
            side = "ahead of" if self._clock_off > 0 else "behind"
            text = f"this node's clock is {abs(self._clock_off):,} ms {side} the other nodes' clocks"
            self._store.refuses_writes = Failure(failures.CLOCK, text)
        self._store.refuses_growth = None
        if self._stream.fill >= node_snapshots.FILL_MAX:
            text = f"the log uses {self._stream.fill:.0%} of its maximum size"
            self._store.refuses_growth = Failure(failures.LOGFULL, text)

    def log_quorum(self) -> None:
        """Log each loss and each return of the quorum once."""
        has = self._store.proposer.quorum
        if has == self._has_quorum or self._store.loading:
            return
        self._has_quorum = has
        if has:
            logger.info("the majority is back: entries of this node come back from the log")
        else:
            logger.warning(
                "no majority: no entry of this node came back for %g s. Commands are refused, but for local reads; "
                "JetStream says: %s",
                UNSEEN_SECONDS,
                self._stream.trouble or ("nothing" if self._stream.connected else "no connection to NATS"),
            )

    async def check_server(self, monotonic: float, *, has_caught_up: bool) -> None:
        """Connect to another NATS server if no own entry arrives by way of this one for too long."""
        store, stream = self._store, self._stream
        waits = store.proposer.under_way and not store.proposer.quorum
        # Known reasons: this node's own disk, a log without room, or a backlog.
        explained = store.proposer.obstacle is not None or store.refuses_growth is not None
        if not waits or explained or not has_caught_up or stream.connections != self._server:
            self._waits_since, self._server = math.inf, stream.connections
        elif stream.connected:
            self._waits_since = min(self._waits_since, monotonic)
            if monotonic - self._waits_since >= LEAVE_SECONDS:
                self._waits_since = math.inf
                await stream.nc.leave("no entry of this node comes back by way of it")

    def info(self) -> Iterable[tuple[str, str | int]]:
        """Yield names and values for INFO."""
        yield "clock_off_ms", self._clock_off
