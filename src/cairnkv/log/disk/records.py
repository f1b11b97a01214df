"""The format on disk: which records RocksDB holds, and what stands in them. docs/disk.md describes it.

What always holds: `FORMAT` changes with any change here. `END` is the last record in the order of keys and there from
the first day, so that whoever reads all records and does not come to it knows that some are missing.
"""

import struct
from typing import Final

FORMAT: Final = 1
"""The version of what is written. Others are refused."""

FORMAT_KEY: Final = b"\x00format"
STATE_KEY: Final = b"\x00state"
END_KEY: Final = b"\xff"

ENTRY: Final = 1
"""First byte of an entry's record key; the keyspace's number and the key follow."""

FOREVER: Final = b"\x00"
"""What the record of a value begins with that does not expire."""

EXPIRES: Final = struct.Struct(">BQ")
"""What it begins with otherwise: 1, and the deadline in milliseconds of log time."""

STATE: Final = struct.Struct(">QQ")
"""Position of the newest entry, and log time in milliseconds."""


def record_key(space: int, key: bytes) -> bytes:
    """Where an entry stands."""
    return bytes((ENTRY, space)) + key


def record_value(value: bytes, deadline: int | None) -> bytes:
    """What stands there."""
    return FOREVER + value if deadline is None else EXPIRES.pack(1, deadline) + value


def parsed_value(record: bytes) -> tuple[bytes, int | None]:
    """The value and deadline that stand in a record. Raises `ValueError` if none do."""
    if record[:1] == FOREVER:
        return record[1:], None
    if record[:1] == b"\x01" and len(record) >= EXPIRES.size:
        return record[EXPIRES.size :], EXPIRES.unpack_from(record)[1]
    raise ValueError("a record that is no entry")
