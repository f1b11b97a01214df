"""Which entries of the log count: of each node those of its current epoch, one after the other. Sans-IO.

A message that was held somewhere may come into the log late, twice, or behind others that were sent after it; message
ids prevent neither. So every entry says its proposer, the proposer's epoch, and which of that epoch it is, and each
node judges alike, by a table that is a part of the state:

- an entry that begins an epoch counts if the epoch is later than the proposer's is, or, of one that is not in the
  table, later than that of anyone who was and is no longer, and not so much later that no node would begin it:
  nothing that has counted once counts again;
- any other counts if it is of the proposer's epoch and the next in it;
- whatever does not count is as if it were not there.

So once a node has seen an epoch of its own begin, it knows what became of everything that it proposed before.

What always holds: the table is the same on all nodes at the same position, and bounded.

Not for what the entries do (the store), nor for when an epoch begins (`proposer`).
"""

import dataclasses
import struct
from collections.abc import Iterator
from typing import Final

from cairnkv.limits import MIB
from cairnkv.replication.entries import Entry, Kind

PROPOSERS_MAX: Final = 64
"""Nodes that are remembered. For one more, that is forgotten which has proposed nothing for longest: it may begin an
epoch again, a later one than any that was forgotten, which it does by itself."""

STAGED_MAX: Final = 1_024 * MIB
"""Bytes of parts of one batch of one proposer. More of them count as a batch that is none."""

PARTS_MAX: Final = 65_536
"""Parts of one batch; likewise."""

EPOCHS_AHEAD_MAX: Final = 1 << 20
"""By how much an epoch may be later than the one before it: a node begins the next one, and tries some more."""

NONCE_BYTES: Final = 8

_ROW: Final = struct.Struct(f">QQQH{NONCE_BYTES}s?")
_EPOCH: Final = struct.Struct(f">{NONCE_BYTES}sH")


def epoch_body(nonce: bytes, supports: int) -> bytes:
    """What stands in an entry that begins an epoch.

    nonce: by which a process knows its own. supports: the newest semantics that it knows.
    """
    return _EPOCH.pack(nonce, supports)


@dataclasses.dataclass(slots=True)
class Row:
    """What is known of one node.

    number: of its newest entry in this epoch that counts. position: of its newest that counts at all.
    parts: of a batch whose last one is not there; staged: their bytes. spoilt: whether there were too many of them, so
    that it is none.
    """

    epoch: int
    number: int
    position: int
    supports: int
    nonce: bytes
    spoilt: bool = False
    parts: list[bytes] = dataclasses.field(default_factory=list)
    staged: int = 0

    def add(self, part: bytes) -> None:
        """Have the next part."""
        self.parts.append(part)
        self.staged += len(part)

    def drop(self) -> None:
        """Have no parts any more."""
        self.parts, self.staged = [], 0


@dataclasses.dataclass(slots=True)
class Judged:
    """What an entry comes to.

    counts: whether it does. batch: the body of the batch that is whole with it; None: none is.
    """

    counts: bool
    batch: bytes | None = None


class EpochTable:
    """The table, by the nodes' numbers."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.floor = 0
        """The latest epoch of any node that was forgotten."""
        self.forgotten: list[int] = []
        """Nodes that the newest entry has pushed out of the table; whoever keeps it has to know."""

    def judge(self, entry: Entry, position: int) -> Judged:
        """Whether an entry counts, which stands at that position; the table is as it is behind it then.

        Raises `ValueError` for an entry that is none, on all nodes alike.
        """
        self.forgotten = []
        row = self.rows.get(entry.node)
        if entry.kind is Kind.EPOCH:
            if len(entry.body) != _EPOCH.size:
                raise ValueError("an entry that begins an epoch and does not say whose")
            if not 0 < entry.epoch - self.newest_epoch(entry.node) <= EPOCHS_AHEAD_MAX:
                return Judged(counts=False)
            nonce, supports = _EPOCH.unpack(entry.body)
            self.rows[entry.node] = Row(entry.epoch, 0, position, supports, nonce)
            self._forget()
            return Judged(counts=True)
        if row is None or entry.epoch != row.epoch or entry.number != row.number + 1:
            return Judged(counts=False)
        if entry.kind is not Kind.BATCH and not entry.body:
            raise ValueError("a part of a batch that is none")
        row.number = entry.number
        row.position = position
        if entry.kind is Kind.BATCH:
            row.drop()
            row.spoilt = False
            return Judged(counts=True, batch=entry.body)
        if row.staged + len(entry.body) > STAGED_MAX or len(row.parts) == PARTS_MAX:
            row.spoilt = True
        if row.spoilt:
            row.drop()
        else:
            row.add(entry.body)
        if entry.kind is Kind.PART:
            return Judged(counts=True)
        batch = None if row.spoilt else b"".join(row.parts)
        row.drop()
        row.spoilt = False
        return Judged(counts=True, batch=batch)

    def _forget(self) -> None:
        while len(self.rows) > PROPOSERS_MAX:
            longest = min(self.rows, key=lambda node: self.rows[node].position)
            self.floor = max(self.floor, self.rows.pop(longest).epoch)
            self.forgotten.append(longest)

    def newest_epoch(self, node: int) -> int:
        """The epoch that a node's next has to be later than."""
        row = self.rows.get(node)
        return self.floor if row is None else row.epoch

    @property
    def supported(self) -> int:
        """The newest semantics that every node in the table knows; 0 without any."""
        return min((row.supports for row in self.rows.values()), default=0)

    # -- as records (`cairnkv.replication.store`) ---------------------------------------------------------------

    def packed(self, node: int) -> bytes:
        """A node's row, but for its parts."""
        row = self.rows[node]
        return _ROW.pack(row.epoch, row.number, row.position, row.supports, row.nonce, row.spoilt)

    def load(self, node: int, packed: bytes) -> None:
        """Have a row that was packed. Raises `ValueError`."""
        if len(packed) != _ROW.size:
            raise ValueError("a row of the table of proposers that is none")
        self.rows[node] = Row(*_ROW.unpack(packed))

    def load_part(self, node: int, part: bytes) -> None:
        """Have the next part of a node's batch. Raises `ValueError`."""
        if node not in self.rows:
            raise ValueError("a part of a batch of a proposer that is not in the table")
        self.rows[node].add(part)

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        return iter(self.rows.items())
