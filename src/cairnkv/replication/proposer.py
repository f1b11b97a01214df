"""How a node has its own proposals logged: in which entries, and what became of those that nobody has seen. Sans-IO.

Proposals wait in a queue. Up to `IN_FLIGHT_MAX` entries are under way; below that the next is made of all that waits
once that is as much as the largest of these: at once where little is under way, and the slower the log and the more
clients, the more commands share an entry, which costs each server a sync, however small it is. A read is a proposal
without items: it rides in the next entry that is published after it came, or in an empty one, and is carried out when
that has come back, so it sees everything that was acknowledged before it came.

    propose → queue → entries → (NATS) → came → carried out
                 ↑                  |
                 └── epoch + 1 ←────┘ lost, or unseen for too long

What always holds: proposals are carried out in the order in which they came. What was in an entry that will never
count, which is known once an epoch of this node has begun behind it, is proposed again. Nothing is proposed twice that
could count twice. Every wait ends: in being carried out, or in a failure that says whether that may still happen.

Not for time, which is told, nor for what a proposal does (the store).
"""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from cairnkv.commands import Failure, failures
from cairnkv.limits import MIB
from cairnkv.replication.entries import HEADER_BYTES_MAX, SEMANTICS, Entry, Item, Kind, packed_items
from cairnkv.replication.epochs import STAGED_MAX, EpochTable, epoch_body

IN_FLIGHT_MAX: Final = 4
"""Entries of a node that are under way at once."""

COST_PER_ENTRY: Final = 2_000
"""Commands in one entry, as the readable way carries them out: to apply it takes some ten milliseconds, in which a node
does nothing else."""

QUEUED_MAX: Final = 200_000
"""Proposals that wait for an entry."""

QUEUED_BYTES_MAX: Final = 256 * MIB
"""Bytes that they keep. One that is larger by itself has the queue for itself."""

UNSEEN_SECONDS: Final = 5.0
"""How long an own entry may be under way before the majority counts as lost."""

OUTCOME_SECONDS: Final = 15.0
"""How long a client waits at most for what became of a write that was under way then: an election takes some six."""

STRANGER_EPOCHS_MAX: Final = 3
"""Epochs that one other process may begin as this node. An earlier life's that was held somewhere may come late; who
goes on to begin them is alive."""

PROPOSAL_BYTES_MAX: Final = STAGED_MAX - MIB
"""Bytes of one proposal: with the heads of its items it has to be a batch that counts as one."""

PROBE_SECONDS: Final = 0.5
"""How often it is tried again to begin an epoch."""

BARREN_EPOCHS_MAX: Final = 2
"""Epochs in a row in which nothing was logged; behind these, others are begun no more often than tried again. An entry
that is always refused would fill the log with them else."""


class Proposal(Protocol):
    """Something to be carried out in its turn."""

    @property
    def items(self) -> Sequence[Item]:
        """What the log has to have of it; nothing of a read."""

    @property
    def weight(self) -> int:
        """Bytes that it keeps while it waits, its items among them, near enough."""

    @property
    def cost(self) -> int:
        """How many commands of the readable way it is as much work as."""

    @property
    def given_up(self) -> bool:
        """Whether it has failed: who waited for it was told, whatever becomes of its items."""

    def fail(self, failure: Failure, of_reads: Failure | None = None) -> None:
        """It will not be carried out, or nobody knows: the failure's code says which.

        of_reads: what is said of what only reads; None: the same.
        """

    def fail_reads(self, failure: Failure) -> None:
        """What is in it of clients that only read will not be carried out."""


def _size(proposal: Proposal) -> int:
    """Bytes that it takes in an entry, near enough; a read takes none."""
    return sum(len(item.payload) for item in proposal.items)


@dataclasses.dataclass(slots=True)
class _Flight:
    """An entry under way, and what is carried out with it: of a batch in parts all with the last."""

    proposals: Sequence[Proposal]
    sent: float
    cost: int


class Proposer:
    """This node's proposals."""

    def __init__(self, node: int, nonce: bytes, *, supports: int = SEMANTICS) -> None:
        """node: its number. nonce: of this process, by which it knows its own epochs."""
        self.node: Final = node
        self.room = MIB - HEADER_BYTES_MAX
        """Bytes of the body of an entry."""
        self.semantics = SEMANTICS
        """What is in force, as entries say."""
        self.quorum = False
        """Whether own entries come back."""
        self.obstacle: str | None = None
        """Why they do not, where that is this node's own affair."""
        self.came_sent = 0.0
        """When the newest own entry that has come back was published: all that was acknowledged before is here."""
        self.taken_over = False
        """Whether another process has begun an epoch of this node."""
        self._nonce = nonce
        self._supports = supports
        self._epoch = 0  # none has begun
        self._number = 0  # of the newest entry of this epoch that was sent
        self._wanted = 0  # the epoch that is to begin; 0: none is
        self._epoch_sent: float | None = None  # when one was logged last; None: the next waits for nothing
        self._barren_epochs = 0
        self._wanted_since: float | None = None  # when it, or one before it that has not begun, was logged first
        self._newest = 0  # the latest that this process has wanted
        self._stranger = b"", 0  # another process that has begun an epoch of this node, and how many
        self._queue: collections.deque[Proposal] = collections.deque()
        self._queued_bytes = self._queued_cost = 0
        self._flights: dict[int, _Flight] = {}  # by number, oldest first
        self._parts: collections.deque[bytes] = collections.deque()  # of a batch that is being sent
        self._parted: Sequence[Proposal] = ()  # what that batch is of
        self._no_room: Failure | None = None  # for writes that are found not to be in the log
        self._closed: Failure | None = None

    # -- what the store says ----------------------------------------------------------------------------------

    def propose(self, proposal: Proposal) -> None:
        """Queue a proposal; or fail it at once where it could only wait."""
        if self._closed is not None:
            proposal.fail(self._closed)
        elif not self.quorum:
            proposal.fail(self._no_quorum())
        elif (size := _size(proposal)) > PROPOSAL_BYTES_MAX:
            text = f"{size:,} bytes in one piece; the log takes {PROPOSAL_BYTES_MAX:,}"
            proposal.fail(Failure(failures.UNDONE, text))
        elif len(self._queue) >= QUEUED_MAX or (
            self._queued_bytes and self._queued_bytes + proposal.weight > QUEUED_BYTES_MAX
        ):
            proposal.fail(
                Failure(failures.UNDONE, "more is waiting for the log than this node has room for; try again")
            )
        else:
            self._queue.append(proposal)
            self._queued_bytes += proposal.weight
            self._queued_cost += proposal.cost

    @property
    def takes(self) -> bool:
        """Whether there is quorum, and room for another run of commands."""
        if self._closed is not None or not self.quorum:
            return False
        return len(self._queue) < QUEUED_MAX and self._queued_bytes < QUEUED_BYTES_MAX - MIB

    def close(self, failure: Failure) -> None:
        """Propose nothing more, and fail what waits: nobody will say what comes back."""
        self._closed = failure
        self.fail_waiting(failure, under_way=True)

    @property
    def waiting(self) -> int:
        """Proposals that are neither carried out nor failed."""
        return len(self._queue) + len(self._parted) + sum(len(flight.proposals) for flight in self._flights.values())

    @property
    def under_way(self) -> bool:
        """Whether an entry was published that has not come back yet."""
        return bool(self._flights or (self._wanted and self._wanted_since is not None))

    # -- what is to be published ------------------------------------------------------------------------------

    @property
    def may_publish(self) -> bool:
        """Whether `entries` would give something now, or maybe a new epoch."""
        return self.has_more or bool(self._wanted)

    @property
    def has_more(self) -> bool:
        """Whether `entries` would give something now, but for a new epoch, which waits for its time."""
        if self._closed is not None or self._wanted or len(self._flights) >= IN_FLIGHT_MAX:
            return False
        if self._parts:
            return True
        return bool(self._queue) and self._queued_cost >= max(
            (flight.cost for flight in self._flights.values()), default=0
        )

    def entries(self, now: float, time: int, lead: int = 0) -> Iterator[bytes]:
        """The entries to publish, in this order.

        now: seconds of a monotonic clock. time, lead: log time, and its lead over this node's clock, in milliseconds.
        """
        if self._wanted and self._closed is None:
            if self._epoch_sent is None or now - self._epoch_sent >= PROBE_SECONDS:
                self._epoch_sent = now
                if self._wanted_since is None:
                    self._wanted_since = now
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
                yield self._sent(kind, part, proposals, now, time, lead)
                continue
            proposals = self._taken()
            body = packed_items(item for proposal in proposals for item in proposal.items)
            if len(body) <= self.room:
                yield self._sent(Kind.BATCH, body, proposals, now, time, lead)
            else:
                self._parts.extend(body[at : at + self.room] for at in range(0, len(body), self.room))
                self._parted = proposals

    def _taken(self) -> list[Proposal]:
        """The proposals of the next entry, out of the queue."""
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

    def _sent(self, kind: Kind, body: bytes, proposals: Sequence[Proposal], now: float, time: int, lead: int) -> bytes:
        self._number += 1
        self._flights[self._number] = _Flight(proposals, now, sum(proposal.cost for proposal in proposals))
        return Entry(kind, self.node, self._epoch, self._number, time, body, self.semantics, lead=lead).packed()

    # -- what comes back --------------------------------------------------------------------------------------

    def begin(self, table: EpochTable) -> None:
        """Begin an epoch behind all of this node's that are in the table: as it starts, or what it proposed is lost.

        Until it has begun nothing else is logged.
        """
        self._wanted = self._newest = max(self._newest, table.newest_epoch(self.node)) + 1
        if self._barren_epochs < BARREN_EPOCHS_MAX:
            self._epoch_sent = None

    def interrupt(self, failure: Failure) -> None:
        """Another table takes the place of this node's, and may have entries of this node that it will not be told of.

        What waits fails, and what is under way as unknown: to propose it again could do it twice. `begin` goes on.
        """
        self.quorum = False
        self.fail_waiting(failure, under_way=True)
        self._epoch = self._wanted = 0
        self._wanted_since = None
        self._flights.clear()
        self._parts.clear()
        self._parted = ()

    def came(self, entry: Entry, table: EpochTable, *, counts: bool) -> Sequence[Proposal]:
        """An entry of this node has come, which counts or not: what is to be carried out with it, in order.

        table: as it is behind that entry. A batch that this process has not proposed has nobody who waits.
        """
        if entry.kind is Kind.EPOCH:
            self._epoch_came(entry, table, counts=counts)
            return ()
        if entry.epoch != self._epoch or not self._epoch:
            return ()  # of an earlier life, or given up
        if counts:
            self.quorum = True
            flight = self._flights.pop(entry.number, None)
            if flight is None:
                return ()
            self.came_sent = flight.sent
            self._barren_epochs = 0
            return flight.proposals
        row = table.rows.get(self.node)
        # It has come twice; or one before it is missing, or this node was forgotten.
        if row is None or row.epoch != self._epoch or entry.number > row.number:
            self.lost(table)
        return ()

    def _epoch_came(self, entry: Entry, table: EpochTable, *, counts: bool) -> None:
        row = table.rows.get(self.node)
        if row is not None and counts and row.nonce != self._nonce:
            self._stranger_came(row.nonce, table)
            return
        if not self._wanted:
            return
        if not counts:  # its number was used before
            if table.newest_epoch(self.node) >= self._wanted:
                self.begin(table)
            return
        if entry.epoch < self._wanted:
            return  # one that was given up; the wanted one is on its way
        self._begun(entry.epoch)

    def _begun(self, epoch: int) -> None:
        """The epoch that was wanted has begun: what is under way will never count, and is proposed again, in order."""
        self.quorum = True
        self._epoch, self._number = epoch, 0
        self._barren_epochs += 1
        if self._wanted_since is not None:  # it is not known which of several it was
            self.came_sent = self._wanted_since
        self._wanted, self._wanted_since = 0, None
        under_way = [proposal for flight in self._flights.values() for proposal in flight.proposals]
        again = [proposal for proposal in [*under_way, *self._parted] if not proposal.given_up]
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

    def _stranger_came(self, nonce: bytes, table: EpochTable) -> None:
        """An earlier life's epoch was late, or somebody else is this node: what is under way will not count."""
        if not self._epoch:
            return  # it is known by the next of this process that none was
        before, epochs = self._stranger
        self._stranger = nonce, epochs + 1 if nonce == before else 1
        if self._stranger[1] >= STRANGER_EPOCHS_MAX:
            self.taken_over = True
        else:
            self.begin(table)

    @property
    def epoch(self) -> int:
        """The epoch of what `entries` gives now; 0 while none is there: what begins one is tried again by itself."""
        return 0 if self._wanted else self._epoch

    def lost(self, table: EpochTable, epoch: int | None = None) -> None:
        """Something that was published has not come into the log, as far as is known: find out by a new epoch.

        epoch: of what is lost; of one that is over nothing is to be found out any more. None: this one.
        """
        if self._epoch and not self._wanted and epoch in (None, self._epoch):
            self.begin(table)

    def no_room(self, failure: Failure, table: EpochTable, epoch: int | None = None) -> None:
        """The same, and the log has no room for it: writes that are under way fail, as soon as they cannot count."""
        if epoch in (None, self._epoch) or (self._wanted and not epoch):
            self._no_room = failure
            self.lost(table, epoch)

    # -- as time goes on --------------------------------------------------------------------------------------

    def tick(self, now: float, table: EpochTable) -> None:
        """Look at what takes too long. To be called several times a second."""
        waits = [flight.sent for flight in self._flights.values()]
        if self._wanted and self._wanted_since is not None:
            waits.append(self._wanted_since)
        if not waits:
            return
        oldest = min(waits)
        if now - oldest < UNSEEN_SECONDS:
            return
        self.lost(table)
        if self.quorum:
            self.quorum = False
            self.fail_waiting(self._no_quorum(), under_way=False)
        if now - oldest >= OUTCOME_SECONDS:
            self.fail_waiting(self._no_quorum(), under_way=True)

    def fail_waiting(self, failure: Failure, *, under_way: bool) -> None:
        """Fail what waits, and reads that are under way; with `under_way` also writes that are, as unknown.

        What is under way stays where it is: if it comes, it is carried out as on all nodes.
        """
        queued, self._queue = self._queue, collections.deque()
        self._queued_bytes = self._queued_cost = 0
        unknown = Failure(failures.UNKNOWN, f"{failure.text}, while this was on its way into the log")
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
        text = self.obstacle or "this node's log has no majority of its machines, or the node cannot reach it"
        return Failure(failures.NOQUORUM, text)
