"""The state of a node besides keys and values, as records in its own table: how each is written, and all are read.

What always holds: nobody else knows the bytes of these records, but for that of the position, which repair changes. A
record is an effect on a keyspace that no client has (`NODE_DB`); what is no more has no value there.

Not for when they are written (`store`), nor for what a proposer's record says (`cairnkv.replication.epochs`).
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
"""Position in the stream, when the stream was made (ns), log time (ms), and the digest of all that came so far."""

_NODE: Final = struct.Struct(">Q")
_PART: Final = struct.Struct(">QI")
_SLOT: Final = struct.Struct(">H")
_NUMBER: Final = struct.Struct(">Q")


# -- written ---------------------------------------------------------------------------------------------------------


def of_position(position: int, identity: int, now: int, digest: int) -> Effect:
    """What the table has got to; see `POSITION`."""
    return NODE_DB, POSITION_KEY, POSITION.pack(position, identity, now, digest), None


def of_semantics(version: int) -> Effect:
    """Which are in force."""
    return NODE_DB, SEMANTICS_KEY, _SLOT.pack(version), None


def of_slot(slot: int, version: int) -> Effect:
    """A slot that is tracked."""
    return NODE_DB, SLOT_KEY + _SLOT.pack(slot), _NUMBER.pack(version), None


def of_floor(floor: int) -> Effect:
    """Which proposers are forgotten; see `EpochTable.floor`."""
    return NODE_DB, FLOOR_KEY, _NUMBER.pack(floor), None


def of_proposer(node: int, row: bytes | None) -> Effect:
    """A proposer's row; None: it is forgotten."""
    return NODE_DB, PROPOSER_KEY + _NODE.pack(node), row, None


def of_part(node: int, index: int, part: bytes | None) -> Effect:
    """A part of a batch that is not there whole; None: of no use any more."""
    return NODE_DB, PART_KEY + _PART.pack(node, index), part, None


# -- read ------------------------------------------------------------------------------------------------------------


class Records(NamedTuple):
    """The state besides keys and values, as it stands in a node's table."""

    position: tuple[int, int, int, int]
    semantics: int
    table: EpochTable
    versions: dict[int, int]


def read(state: Database) -> Records:
    """What the records of a table say. Raises `ValueError`."""
    position, semantics, table = (0, 0, 0, 0), 1, EpochTable()
    versions: dict[int, int] = {}
    records = sorted((key, value) for key in state.keys_in_memory() if (value := state.get(key)) is not None)
    try:
        # Proposers first, and their parts in their order.
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
