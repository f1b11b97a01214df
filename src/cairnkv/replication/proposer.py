"""The proposer: publishes this node's proposals in log entries, and handles lost entries. Sans-IO.

Proposals wait in a queue. At most `IN_FLIGHT_MAX` entries are in flight. The next entry takes all queued proposals as
soon as they are as much work as the largest entry in flight. So with few proposals an entry leaves at once; the slower
the log and the more clients, the more commands share an entry, which costs each server an fsync, however small it is. A
read is a proposal without items: it joins the next entry, maybe an empty one, and is executed when that entry arrives.
So it sees every write that was acknowledged before the read.

    propose → queue → entries → (NATS) → arrived → executed
                 ↑                  |
                 └── epoch + 1 ←────┘ lost, or missing for too long

Invariants: proposals are executed in order. When an epoch of this node begins, its earlier entries that have not
arrived will never count, and their proposals are proposed again. No proposal that could count twice is proposed twice.
Each proposal is executed, or fails with a code that tells whether it may still be executed.

Out of scope: clocks, whose times are arguments, and the effects of proposals (the store).
"""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from cairnkv.commands import Failure, failures
from cairnkv.limits import MIB
from cairnkv.replication.entries import HEADER_BYTES_MAX, SEMANTICS, Entry, Item, ItemKind, Kind, packed_items
from cairnkv.replication.epochs import PARTS_BYTES_MAX, EpochTable, epoch_body

IN_FLIGHT_MAX: Final = 4
"""Maximum entries of a node in flight."""

COST_PER_ENTRY: Final = 2_000
"""Maximum commands in one entry, in work of the pure path. Applying it takes some ten milliseconds, in which a node
does nothing else."""

QUEUED_MAX: Final = 200_000
"""Maximum proposals in the queue."""

QUEUED_BYTES_MAX: Final = 256 * MIB
"""Maximum bytes of memory of queued proposals. A single larger proposal is accepted if the queue is empty."""

UNSEEN_SECONDS: Final = 5.0
"""Time after which a missing own entry means that the quorum is lost."""

OUTCOME_SECONDS: Final = 15.0
"""Maximum time for which a client waits for the outcome of a write in flight then. An election takes about six
seconds."""

FOREIGN_EPOCHS_MAX: Final = 3
"""Epochs of another process with this node's number after which that process counts as alive. A delayed epoch of an
earlier process of this node is normal."""

PROPOSAL_BYTES_MAX: Final = PARTS_BYTES_MAX - MIB
"""Maximum bytes of one proposal: with the headers of its items it must be a valid batch."""

PROBE_SECONDS: Final = 0.5
"""Interval of attempts to begin an epoch."""

BARREN_EPOCHS_MAX: Final = 2
"""Epochs in a row without an entry, after which new epochs begin only at the interval of attempts. Otherwise an entry
that is always refused would fill the log with epochs."""


class Proposal(Protocol):
    """Work to be executed at its log index."""

    @property
    def items(self) -> Sequence[Item]:
        """The items for the log; none for a read."""

    @property
    def weight(self) -> int:
        """Estimated bytes of memory, items included."""

    @property
    def cost(self) -> int:
        """Its work, in commands of the pure path."""

    @property
    def given_up(self) -> bool:
        """Whether it has failed. Its client has a reply; its items may still be executed."""

    def fail(self, failure: Failure, of_reads: Failure | None = None) -> None:
        """Fail it: it will not be executed, or its outcome is unknown, as the failure's code tells.

        of_reads: the failure for its reads; None: the same.
        """

    def fail_reads(self, failure: Failure) -> None:
        """Fail its clients that only read, whose reads will not be executed."""


def _is_skip(proposal: Proposal) -> bool:
    return any(item.kind is ItemKind.SKIP for item in proposal.items)


def _size(proposal: Proposal) -> int:
    """Return its approximate bytes in an entry; 0 for a read."""
    return sum(len(item.payload) for item in proposal.items)


@dataclasses.dataclass(slots=True)
class _Flight:
    """An entry in flight, and the proposals to execute with it. The last part of a batch has all proposals of the
    batch."""

    proposals: Sequence[Proposal]
    sent: float
    cost: int


class Proposer:
    """This node's proposals."""

    def __init__(self, node: int, nonce: bytes, *, supports: int = SEMANTICS) -> None:
        """node: its number. nonce: identifies the epochs of this process."""
        self.node: Final = node
        self.room = MIB - HEADER_BYTES_MAX
        """Maximum bytes of the body of an entry."""
        self.semantics = 1
        """The version of semantics in force."""
        self.quorum = False
        """Whether own entries arrive."""
        self.obstacle: str | None = None
        """The reason, if own entries do not arrive because of this node."""
        self.arrived_sent = 0.0
        """When the newest arrived own entry was published: this node has all writes that were acknowledged before."""
        self.taken_over = False
        """Whether another process uses this node's number."""
        self._nonce = nonce
        self._supports = supports
        self._epoch = 0  # 0: none has begun
        self._number = 0  # of the newest published entry of this epoch
        self._wanted = 0  # the epoch to begin; 0: none
        self._epoch_sent: float | None = None  # time of the last attempt to begin one; None: the next attempt is due
        self._barren_epochs = 0
        self._wanted_since: float | None = None  # time of the first attempt since an epoch has begun
        self._newest = 0  # the latest epoch that this process has tried to begin
        self._foreign = b"", 0  # nonce of another process with this node's number, and its epochs
        self._queue: collections.deque[Proposal] = collections.deque()
        self._queued_bytes = self._queued_cost = 0
        self._flights: dict[int, _Flight] = {}  # by number, oldest first
        self._parts: collections.deque[bytes] = collections.deque()  # of a batch that is being published
        self._parted: Sequence[Proposal] = ()  # the proposals of that batch
        self._no_room: Failure | None = None  # for writes that are not in the log
        self._closed: Failure | None = None

    # -- called by the store ----------------------------------------------------------------------------------

    def propose(self, proposal: Proposal, *, first: bool = False) -> None:
        """Queue a proposal, or fail it at once. first: before all others that are queued."""
        if (refusal := self.refusal) is not None:
            proposal.fail(refusal)
        elif (size := _size(proposal)) > PROPOSAL_BYTES_MAX:
            text = f"a command of {size:,} bytes is longer than the maximum of {PROPOSAL_BYTES_MAX:,}"
            proposal.fail(Failure(failures.UNDONE, text))
        elif len(self._queue) >= QUEUED_MAX or (
            self._queued_bytes and self._queued_bytes + proposal.weight > QUEUED_BYTES_MAX
        ):
            proposal.fail(Failure(failures.UNDONE, "the queue of proposals of this node is full; try again"))
        else:
            (self._queue.appendleft if first else self._queue.append)(proposal)
            self._queued_bytes += proposal.weight
            self._queued_cost += proposal.cost

    @property
    def refusal(self) -> Failure | None:
        """The failure of any proposal now, or None."""
        return self._closed or (None if self.quorum else self._no_quorum())

    @property
    def is_in_parts(self) -> bool:
        """Whether the next entry is a part of a batch whose first part is published."""
        return bool(self._parts)

    @property
    def accepts_batch(self) -> bool:
        """Whether there is a quorum, and space in the queue for another batch of commands."""
        if self._closed is not None or not self.quorum:
            return False
        return len(self._queue) < QUEUED_MAX and self._queued_bytes < QUEUED_BYTES_MAX - MIB

    def close(self, failure: Failure) -> None:
        """Propose nothing more, and fail all proposals, since arrivals are not reported any more."""
        self._closed = failure
        self.fail_waiting(failure, under_way=True)

    @property
    def waiting(self) -> int:
        """The number of proposals that are neither executed nor failed."""
        return len(self._queue) + len(self._parted) + sum(len(flight.proposals) for flight in self._flights.values())

    @property
    def under_way(self) -> bool:
        """Whether a published entry has not arrived yet."""
        return bool(self._flights or (self._wanted and self._wanted_since is not None))

    # -- publishing ------------------------------------------------------------------------------------------

    @property
    def may_publish(self) -> bool:
        """Whether `take_entries` may return an entry now."""
        return self.has_more or bool(self._wanted)

    @property
    def has_more(self) -> bool:
        """Whether `take_entries` would return an entry now, other than the beginning of an epoch."""
        if self._closed is not None or self._wanted or len(self._flights) >= IN_FLIGHT_MAX:
            return False
        if self._parts:
            return True
        return bool(self._queue) and self._queued_cost >= max(
            (flight.cost for flight in self._flights.values()), default=0
        )

    def take_entries(self, monotonic: float, time: int, lead: int = 0) -> Iterator[bytes]:
        """Yield the entries to publish, in this order.

        monotonic: time in seconds. time, lead: log time, and its lead over this node's clock, in milliseconds.
        """
        if self._wanted and self._closed is None:
            if self._epoch_sent is None or monotonic - self._epoch_sent >= PROBE_SECONDS:
                self._epoch_sent = monotonic
                if self._wanted_since is None:
                    self._wanted_since = monotonic
                body = epoch_body(self._nonce, self._supports)
                yield Entry(Kind.EPOCH, self.node, self._wanted, 0, time, body, self.semantics, lead=lead).packed()
            return
        while self.has_more:
            if self._parts:
                part = self._parts.popleft()
                kind = Kind.PART if self._parts else Kind.LAST_PART
                proposals = () if self._parts else self._parted
                if not self._parts:
                    self._parted = ()
                yield self._sent(kind, part, proposals, monotonic, time, lead)
                continue
            proposals = self._taken()
            body = packed_items(item for proposal in proposals for item in proposal.items)
            if len(body) <= self.room:
                yield self._sent(Kind.BATCH, body, proposals, monotonic, time, lead)
            else:
                self._parts.extend(body[at : at + self.room] for at in range(0, len(body), self.room))
                self._parted = proposals

    def _taken(self) -> list[Proposal]:
        """Remove the proposals of the next entry from the queue, and return them."""
        taken: list[Proposal] = []
        size = cost = 0
        while self._queue:
            size += _size(self._queue[0])
            cost += self._queue[0].cost
            if taken and (size > self.room or cost > COST_PER_ENTRY):
                break
            taken.append(self._queue.popleft())
            self._queued_bytes -= taken[-1].weight
            self._queued_cost -= taken[-1].cost
        return taken

    def _sent(
        self, kind: Kind, body: bytes, proposals: Sequence[Proposal], monotonic: float, time: int, lead: int
    ) -> bytes:
        self._number += 1
        self._flights[self._number] = _Flight(proposals, monotonic, sum(proposal.cost for proposal in proposals))
        return Entry(kind, self.node, self._epoch, self._number, time, body, self.semantics, lead=lead).packed()

    # -- arrivals ---------------------------------------------------------------------------------------------

    def begin(self, table: EpochTable) -> None:
        """Begin an epoch after all epochs of this node in the table, at the start or after an entry was lost.

        Until it has begun, no other entry is published.
        """
        self._wanted = self._newest = max(self._newest, table.newest_epoch(self.node)) + 1
        if self._barren_epochs < BARREN_EPOCHS_MAX:
            self._epoch_sent = None

    def interrupt(self, failure: Failure) -> None:
        """Prepare for another epoch table, which may include entries of this node whose arrival is not reported.

        Queued proposals fail; those in flight fail with UNKNOWN, since proposing them again could execute them twice.
        Call `begin` to continue.
        """
        self.quorum = False
        self.fail_waiting(failure, under_way=True)
        self._epoch = self._wanted = 0
        self._wanted_since = None
        self._flights.clear()
        self._parts.clear()
        self._parted = ()

    def arrived(self, entry: Entry, table: EpochTable, *, counts: bool) -> Sequence[Proposal]:
        """Return the proposals to execute with an arrived entry of this node, in order.

        counts: whether the entry counts. table: after the entry. Batches of earlier processes have no proposals here.
        """
        if entry.kind is Kind.EPOCH:
            self._epoch_arrived(entry, table, counts=counts)
            return ()
        if entry.epoch != self._epoch or not self._epoch:
            return ()  # of an earlier process or epoch
        if counts:
            self.quorum = True
            flight = self._flights.pop(entry.number, None)
            if flight is None:
                return ()
            self.arrived_sent = flight.sent
            self._barren_epochs = 0
            return flight.proposals
        row = table.rows.get(self.node)
        # A duplicate; or an earlier entry is missing, or this node was removed from the table.
        if row is None or row.epoch != self._epoch or entry.number > row.number:
            self.lost(table)
        return ()

    def _epoch_arrived(self, entry: Entry, table: EpochTable, *, counts: bool) -> None:
        row = table.rows.get(self.node)
        if row is not None and counts and row.nonce != self._nonce:
            self._foreign_epoch(row.nonce, table)
            return
        if not self._wanted:
            return
        if not counts:  # the epoch was used before
            if table.newest_epoch(self.node) >= self._wanted:
                self.begin(table)
            return
        if entry.epoch < self._wanted:
            return  # an earlier attempt; the current one is in flight
        self._begun(entry.epoch)

    def _begun(self, epoch: int) -> None:
        """Handle the beginning of an epoch: entries in flight will never count, so propose them again, in order."""
        self.quorum = True
        self._epoch, self._number = epoch, 0
        self._barren_epochs += 1
        if self._wanted_since is not None:  # unknown which of several attempts it was
            self.arrived_sent = self._wanted_since
        self._wanted, self._wanted_since = 0, None
        under_way = [proposal for flight in self._flights.values() for proposal in flight.proposals]
        again = [proposal for proposal in [*under_way, *self._parted] if not proposal.given_up]
        again.sort(key=lambda proposal: not _is_skip(proposal))  # all of them get a log time behind the skip
        self._flights.clear()
        self._parts.clear()
        self._parted = ()
        no_room, self._no_room = self._no_room, None
        if no_room is not None:
            refused = [proposal for proposal in again if proposal.items]
            again = [proposal for proposal in again if not proposal.items]
        self._queue.extendleft(reversed(again))
        self._queued_bytes += sum(proposal.weight for proposal in again)
        self._queued_cost += sum(proposal.cost for proposal in again)
        if no_room is not None:
            for proposal in refused:
                proposal.fail(no_room)

    def _foreign_epoch(self, nonce: bytes, table: EpochTable) -> None:
        """Handle an epoch of an earlier or another process of this node: entries in flight will not count."""
        if not self._epoch:
            return  # the next epoch of this process handles it
        before, epochs = self._foreign
        self._foreign = nonce, epochs + 1 if nonce == before else 1
        if self._foreign[1] >= FOREIGN_EPOCHS_MAX:
            self.taken_over = True
        else:
            self.begin(table)

    @property
    def epoch(self) -> int:
        """The epoch of entries published now; 0 if none has begun: then `take_entries` tries to begin one."""
        return 0 if self._wanted else self._epoch

    def lost(self, table: EpochTable, epoch: int | None = None) -> None:
        """Begin a new epoch, since a published entry is probably not in the log.

        epoch: of the lost entry; an earlier epoch than the current one needs nothing. None: the current one.
        """
        if self._epoch and not self._wanted and epoch in (None, self._epoch):
            self.begin(table)

    def no_room(self, failure: Failure, table: EpochTable, epoch: int | None = None) -> None:
        """As `lost`, because the log is full: writes in flight fail as soon as they cannot count any more."""
        if epoch in (None, self._epoch) or (self._wanted and not epoch):
            self._no_room = failure
            self.lost(table, epoch)

    # -- time -------------------------------------------------------------------------------------------------

    def tick(self, monotonic: float, table: EpochTable) -> None:
        """Check timeouts. Call it several times a second."""
        waits = [flight.sent for flight in self._flights.values()]
        if self._wanted and self._wanted_since is not None:
            waits.append(self._wanted_since)
        if not waits:
            return
        oldest = min(waits)
        if monotonic - oldest < UNSEEN_SECONDS:
            return
        self.lost(table)
        if self.quorum:
            self.quorum = False
            self.fail_waiting(self._no_quorum(), under_way=False)
        if monotonic - oldest >= OUTCOME_SECONDS:
            self.fail_waiting(self._no_quorum(), under_way=True)

    def fail_waiting(self, failure: Failure, *, under_way: bool) -> None:
        """Fail queued proposals, and reads in flight. under_way: also writes in flight, with UNKNOWN.

        Entries in flight stay: if one arrives, all nodes execute it.
        """
        queued, self._queue = self._queue, collections.deque()
        self._queued_bytes = self._queued_cost = 0
        unknown = Failure(failures.UNKNOWN, f"{failure.text}, while the command was on its way to the log")
        sent = [proposal for flight in self._flights.values() for proposal in flight.proposals]
        for proposal in [*sent, *self._parted]:
            if proposal.given_up:
                continue
            if under_way:
                proposal.fail(unknown if proposal.items else failure, failure)
            else:
                proposal.fail_reads(failure)
        for proposal in queued:
            proposal.fail(failure)

    def _no_quorum(self) -> Failure:
        text = self.obstacle or "the log has no majority of its servers, or this node cannot reach it"
        return Failure(failures.NOQUORUM, text)
