"""Records of a node's table: the state of the node besides keys and values.

Invariants: no other module knows the bytes of these records, except that repair changes the record of the position. A
record is an effect on a database that no client can use (`NODE_DB`). A removed record has no value.

Out of scope: when they are written (`node_table`), and the bytes of an epoch row (`cairnkv.replication.epochs`).
"""

import struct
from typing import Final, NamedTuple

from cairnkv.engine import Database
from cairnkv.replication.epochs import EpochTable
from cairnkv.storage import Effect
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
