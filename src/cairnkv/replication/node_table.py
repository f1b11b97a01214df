"""The table of a node: what storage keeps of its state, and the records of the state besides keys and values.

Invariants: the effects of an entry enter the table together with its position. While the table does not accept them,
the node applies no further entry. No other module knows the bytes of the records, except that repair changes the record
of the position. A record is an effect on a database that no client can use (`NODE_DB`). A removed record has no value.

Out of scope: the bytes of an epoch row (`cairnkv.replication.epochs`).
"""

import struct
from typing import Final, NamedTuple

from cairnkv.commands import failures
from cairnkv.engine import Database
from cairnkv.replication.entries import Entry, Kind
from cairnkv.replication.epochs import EpochTable
from cairnkv.replication.proposals import Changes
from cairnkv.storage import Effect, Storage, StorageRefused
from cairnkv.storage.record_format import NODE_DB

POSITION_KEY: Final = b"position"
PROPOSER_KEY: Final = b"proposer:"
PART_KEY: Final = b"part:"
SLOT_KEY: Final = b"slot:"
SEMANTICS_KEY: Final = b"semantics"
FLOOR_KEY: Final = b"floor"

POSITION: Final = struct.Struct(">QQQI")
"""The position, the time when the stream was made (ns), log time (ms), and the digest of the state."""

_NODE: Final = struct.Struct(">Q")
_PART: Final = struct.Struct(">QI")
_SLOT: Final = struct.Struct(">H")
_NUMBER: Final = struct.Struct(">Q")


# -- writing ---------------------------------------------------------------------------------------------------------


def of_position(position: int, identity: int, now: int, digest: int) -> Effect:
    """Return the record of the position; see `POSITION`."""
    return NODE_DB, POSITION_KEY, POSITION.pack(position, identity, now, digest), None


def of_semantics(version: int) -> Effect:
    """Return the record of the semantics in force."""
    return NODE_DB, SEMANTICS_KEY, _SLOT.pack(version), None


def of_slot(slot: int, version: int) -> Effect:
    """Return the record of a tracked slot."""
    return NODE_DB, SLOT_KEY + _SLOT.pack(slot), _NUMBER.pack(version), None


def of_floor(floor: int) -> Effect:
    """Return the record of the floor; see `EpochTable.floor`."""
    return NODE_DB, FLOOR_KEY, _NUMBER.pack(floor), None


def of_proposer(node: int, row: bytes | None) -> Effect:
    """Return the record of a proposer's row; None: the row is removed."""
    return NODE_DB, PROPOSER_KEY + _NODE.pack(node), row, None


def of_part(node: int, index: int, part: bytes | None) -> Effect:
    """Return the record of a part of an incomplete batch; None: the part is removed."""
    return NODE_DB, PART_KEY + _PART.pack(node, index), part, None


# -- reading ---------------------------------------------------------------------------------------------------------


class Records(NamedTuple):
    """The state of a node besides keys and values."""

    position: tuple[int, int, int, int]
    semantics: int
    table: EpochTable
    versions: dict[int, int]


def read(state: Database) -> Records:
    """Return the records of a table. Raises `ValueError`."""
    position, semantics, table = (0, 0, 0, 0), 1, EpochTable()
    versions: dict[int, int] = {}
    records = sorted((key, value) for key in state.keys_in_memory() if (value := state.get(key)) is not None)
    try:
        # Proposers before their parts, and parts in their order.
        for key, value in sorted(records, key=lambda record: record[0].startswith(PART_KEY)):
            if key == POSITION_KEY:
                position = POSITION.unpack(value)
            elif key == SEMANTICS_KEY:
                (semantics,) = _SLOT.unpack(value)
            elif key == FLOOR_KEY:
                (table.floor,) = _NUMBER.unpack(value)
            elif key.startswith(PROPOSER_KEY):
                (node,) = _NODE.unpack(key[len(PROPOSER_KEY) :])
                table.load(node, value)
            elif key.startswith(PART_KEY):
                node, _ = _PART.unpack(key[len(PART_KEY) :])
                table.load_part(node, value)
            elif key.startswith(SLOT_KEY):
                (slot,) = _SLOT.unpack(key[len(SLOT_KEY) :])
                (versions[slot],) = _NUMBER.unpack(value)
    except (struct.error, ValueError) as error:
        raise ValueError(f"the node's table is damaged: {error}") from None
    return Records(position, semantics, table, versions)


# -- the table -------------------------------------------------------------------------------------------------------


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
            effects.append(of_proposer(node, epochs.packed(node)))
            if entry.kind is Kind.PART and row.parts:
                effects.append(of_part(node, len(row.parts) - 1, row.parts[-1]))
            self._remove_parts(node, len(row.parts), effects)
            for removed in epochs.removed:
                effects.append(of_proposer(removed, None))
                effects.append(of_floor(epochs.floor))
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
        effects += [of_part(node, index, None) for index in removed]
        if kept:
            self._parts[node] = kept
        else:
            self._parts.pop(node, None)
