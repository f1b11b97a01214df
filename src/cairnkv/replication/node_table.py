"""The table of a node: what storage keeps of its state.

Invariants: the effects of an entry enter the table together with its position. While the table does not accept them,
the node applies no further entry.
"""

from cairnkv.commands import failures
from cairnkv.replication import node_records
from cairnkv.replication.entries import Entry, Kind
from cairnkv.replication.epochs import EpochTable
from cairnkv.replication.proposals import Changes
from cairnkv.storage import Effect, Storage, StorageRefused


class NodeTable:
    """The storage of one node, and the effects that it has not accepted yet."""

    def __init__(self, storage: Storage) -> None:
        self.open(storage)

    def open(self, storage: Storage) -> None:
        """Use this storage, which may be another one."""
        self.storage = storage
        self.failure: str | None = None
        """Why the table can accept no effects any more; None: it can."""
        self._pending: tuple[int, list[Effect], int] | None = None  # log time, effects and their size
        self._parts: dict[int, int] = {}  # by node: parts of a batch in the table

    def set_parts(self, epochs: EpochTable) -> None:
        """Set which parts of batches the table contains, after it was read."""
        self._parts = {node: len(row.parts) for node, row in epochs if row.parts}

    @property
    def accepts_entries(self) -> bool:
        """Whether the table has accepted all effects, and has room for those of another entry."""
        return self._write() and self.storage.accepts_writes

    def add(self, entry: Entry | None, changes: Changes, epochs: EpochTable, position: Effect, now: int) -> None:
        """Add the effects of an entry. position: the record of its position. now: log time."""
        assert self._pending is None, "only while `accepts_entries`"
        effects: list[Effect] = []  # of the state besides keys and values
        row = epochs.rows.get(entry.node) if entry is not None else None
        if entry is not None and row is not None and row.position == changes.position:
            node = entry.node
            effects.append(node_records.of_proposer(node, epochs.packed(node)))
            if entry.kind is Kind.PART and row.parts:
                effects.append(node_records.of_part(node, len(row.parts) - 1, row.parts[-1]))
            self._remove_parts(node, len(row.parts), effects)
            for removed in epochs.removed:
                effects.append(node_records.of_proposer(removed, None))
                effects.append(node_records.of_floor(epochs.floor))
                self._remove_parts(removed, 0, effects)
        effects.append(position)
        changes.keep(effects)
        self._pending = now, changes.effects, changes.size
        self._write()

    def _write(self) -> bool:
        if self._pending is None:
            return True
        try:
            self.storage.append((), *self._pending)
        except StorageRefused as refused:
            if refused.code is failures.READONLY:
                self.failure = str(refused)
            return False  # it is behind, or its disk is full
        self._pending = None
        return True

    def _remove_parts(self, node: int, kept: int, effects: list[Effect]) -> None:
        """Remove the parts of a node's batch from `kept` on."""
        removed = range(kept, self._parts.get(node, 0))
        effects += [node_records.of_part(node, index, None) for index in removed]
        if kept:
            self._parts[node] = kept
        else:
            self._parts.pop(node, None)
