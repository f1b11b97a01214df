"""The epoch table, which decides which log entries count: the consecutive entries of each node's current epoch.
Sans-IO.

A delayed message may enter the log late, twice, or after messages that were sent later; message ids do not prevent
that. So every entry has its proposer, the proposer's epoch and a number in that epoch, and each node applies the same
rules to a table that is a part of the state:

- An entry that begins an epoch counts if the epoch is later than the proposer's current one, by at most
  `EPOCHS_AHEAD_MAX`. For a proposer that is not in the table, it must be later than all epochs of removed proposers. So
  no entry counts twice.
- Any other entry counts if it has the proposer's current epoch and the next number.
- Nodes ignore all entries that do not count.

So when a node sees the beginning of its own epoch, it knows the outcome of everything that it proposed before.

Invariants: all nodes have the same table at the same log index. The table is bounded.

Out of scope: the effects of entries (the store), and the beginning of epochs (`proposer`).
"""

import dataclasses
import struct
from collections.abc import Iterator
from typing import Final

from cairnkv.limits import MIB
from cairnkv.replication.entries import Entry, Kind

PROPOSERS_MAX: Final = 64
"""Maximum nodes in the table. One more node removes the node whose last entry is oldest. That node can begin an epoch
again, later than all epochs of removed nodes; it does so automatically."""

PARTS_BYTES_MAX: Final = 1_024 * MIB
"""Maximum bytes of the parts of one batch. A larger batch has no effect."""

PARTS_MAX: Final = 65_536
"""Maximum parts of one batch. A batch with more has no effect."""

EPOCHS_AHEAD_MAX: Final = 1 << 20
"""Maximum distance between an epoch and the one before. A node begins the next one, and tries some more."""

NONCE_BYTES: Final = 8

_ROW: Final = struct.Struct(f">QQQH{NONCE_BYTES}s?")
_EPOCH: Final = struct.Struct(f">{NONCE_BYTES}sH")


def epoch_body(nonce: bytes, supports: int) -> bytes:
    """Return the body of an entry that begins an epoch.

    nonce: identifies the process. supports: the newest version of semantics that it supports.
    """
    return _EPOCH.pack(nonce, supports)


@dataclasses.dataclass(slots=True)
class Row:
    """The row of one node.

    number: of its newest counting entry in the epoch. position: log index of its newest counting entry.
    parts: of an incomplete batch. parts_bytes: their bytes. oversized: whether the batch has too many parts or bytes.
    """

    epoch: int
    number: int
    position: int
    supports: int
    nonce: bytes
    oversized: bool = False
    parts: list[bytes] = dataclasses.field(default_factory=list)
    parts_bytes: int = 0

    def add(self, part: bytes) -> None:
        """Add the next part."""
        self.parts.append(part)
        self.parts_bytes += len(part)

    def clear_parts(self, *, oversized: bool = False) -> None:
        """Remove all parts. oversized: whether more parts of the same batch may come, which do not count."""
        self.parts, self.parts_bytes, self.oversized = [], 0, oversized


@dataclasses.dataclass(slots=True)
class Judged:
    """The judgement on an entry.

    counts: whether it counts. batch: the body of the batch that it completes, or None.
    """

    counts: bool
    batch: bytes | None = None


class EpochTable:
    """Rows by the nodes' numbers."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.floor = 0
        """The latest epoch of all removed nodes."""
        self.removed: list[int] = []
        """Nodes that the newest entry has removed from the table."""

    def judge(self, entry: Entry, position: int) -> Judged:
        """Judge the entry at a log index, and update the table.

        Raises `ValueError` for an invalid entry, equally on all nodes.
        """
        self.removed = []
        row = self.rows.get(entry.node)
        if entry.kind is Kind.EPOCH:
            if len(entry.body) != _EPOCH.size:
                raise ValueError("an entry that begins an epoch, with an invalid body")
            if not 0 < entry.epoch - self.newest_epoch(entry.node) <= EPOCHS_AHEAD_MAX:
                return Judged(counts=False)
            nonce, supports = _EPOCH.unpack(entry.body)
            self.rows[entry.node] = Row(entry.epoch, 0, position, supports, nonce)
            self._remove_oldest()
            return Judged(counts=True)
        if row is None or entry.epoch != row.epoch or entry.number != row.number + 1:
            return Judged(counts=False)
        if entry.kind is not Kind.BATCH and not entry.body:
            raise ValueError("an empty part of a batch")
        row.number = entry.number
        row.position = position
        if entry.kind is Kind.BATCH:
            row.clear_parts()
            return Judged(counts=True, batch=entry.body)
        full = row.parts_bytes + len(entry.body) > PARTS_BYTES_MAX or len(row.parts) == PARTS_MAX
        if row.oversized or full:
            row.clear_parts(oversized=True)
        else:
            row.add(entry.body)
        if entry.kind is Kind.PART:
            return Judged(counts=True)
        batch = None if row.oversized else b"".join(row.parts)
        row.clear_parts()
        return Judged(counts=True, batch=batch)

    def _remove_oldest(self) -> None:
        while len(self.rows) > PROPOSERS_MAX:
            oldest = min(self.rows, key=lambda node: self.rows[node].position)
            self.floor = max(self.floor, self.rows.pop(oldest).epoch)
            self.removed.append(oldest)

    def newest_epoch(self, node: int) -> int:
        """Return the epoch that the next epoch of a node must exceed."""
        row = self.rows.get(node)
        return self.floor if row is None else row.epoch

    @property
    def supported(self) -> int:
        """The newest version of semantics that all nodes in the table support; 0 for an empty table."""
        return min((row.supports for row in self.rows.values()), default=0)

    # -- as records (`cairnkv.replication.store`) ---------------------------------------------------------------

    def packed(self, node: int) -> bytes:
        """Return the record of a node's row, without its parts."""
        row = self.rows[node]
        return _ROW.pack(row.epoch, row.number, row.position, row.supports, row.nonce, row.oversized)

    def load(self, node: int, packed: bytes) -> None:
        """Load the record of a row. Raises `ValueError`."""
        if len(packed) != _ROW.size:
            raise ValueError("an invalid row of the epoch table")
        self.rows[node] = Row(*_ROW.unpack(packed))

    def load_part(self, node: int, part: bytes) -> None:
        """Load the next part of a node's batch. Raises `ValueError`."""
        if node not in self.rows:
            raise ValueError("a part of a batch of a node that is not in the epoch table")
        self.rows[node].add(part)

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        return iter(self.rows.items())
