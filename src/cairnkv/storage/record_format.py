"""The format of records in RocksDB. docs/disk.md describes it.

Invariants: `FORMAT` changes with any change here. The record with `END_KEY` is the last one in key order and always
exists, so a reader that does not find it knows that records are missing.
"""

import struct
from typing import Final, NamedTuple

from cairnkv.limits import DATABASES
from cairnkv.storage.base import LARGE_VALUE_BYTES

FORMAT: Final = 2
"""The newest version of the format: with records of queues. The batch with the first of them raises the version of a
store, so that earlier releases can open stores without queues."""

FIRST_FORMAT: Final = 1
"""The version of a store without queues. Versions that are neither are refused."""

FORMATS: Final = frozenset({b"%d" % FIRST_FORMAT, b"%d" % FORMAT})
"""The values of the record with `FORMAT_KEY`."""

FORMAT_KEY: Final = b"\x00format"
STATE_KEY: Final = b"\x00state"
SYNCED_KEY: Final = b"\x00synced"
END_KEY: Final = b"\xff"

ENTRY: Final = 1
"""First byte of an entry's record key; the database's number and the key follow."""

NODE_DB: Final = DATABASES
"""A database that commands cannot name. A cluster node keeps its own records there."""

PART: Final = 2
"""First byte of the record key of a part of a value; the number shared by the value's parts and the part's index
follow."""

PART_BYTES: Final = 256 * 1024
"""The length of each part of a value except the last."""

INLINE_BYTES: Final = LARGE_VALUE_BYTES
"""The longest value that storage keeps in its entry's record. EXPIRE and PERSIST of a longer value rewrite the record,
but not the parts."""

# The first byte of an entry's record.
PLAIN: Final = 0
"""The value follows."""
EXPIRES: Final = 1
"""The expiry in milliseconds of log time and the value follow."""
PARTED: Final = 2
"""The number of the value's parts and its length follow."""
EXPIRES_PARTED: Final = 3
"""The expiry, the number of the value's parts and its length follow."""

_EXPIRES: Final = struct.Struct(">BQ")
_PARTED: Final = struct.Struct(">BQQ")
_EXPIRES_PARTED: Final = struct.Struct(">BQQQ")
_PART_KEY: Final = struct.Struct(">BQI")

STATE: Final = struct.Struct(">QQ")
"""The newest entry's sequence number, and log time in milliseconds."""

SYNCED: Final = struct.Struct(">QQ")
"""RocksDB's newest sequence number before this write, and the sequence number up to which all data was fsynced."""


class Parts(NamedTuple):
    """A value that is stored in parts.

    number: shared by the record keys of its parts. length: of the whole value, in bytes.
    """

    number: int
    length: int

    @property
    def part_count(self) -> int:
        """The number of parts."""
        return -(-self.length // PART_BYTES)

    @property
    def range(self) -> tuple[bytes, bytes]:
        """The record key of the first part, and the first key after all parts."""
        return part_key(self.number, 0), part_key(self.number + 1, 0)


class PartedValue:
    """A value whose parts are being read.

    parts_read, length: the number of parts read, and their total length.
    """

    def __init__(self, key: bytes, parts: Parts) -> None:
        self.key = key
        self.parts = parts
        self.parts_read = 0
        self.length = 0

    def add(self, index: int, part: bytes) -> bool:
        """Add a part. Returns False if it is not the next one."""
        if index != self.parts_read:
            return False
        self.parts_read += 1
        self.length += len(part)
        return True

    @property
    def is_whole(self) -> bool:
        """Whether all parts were read."""
        return self.length == self.parts.length


def record_key(db: int, key: bytes) -> bytes:
    """Return the record key of an entry."""
    return b"\x01%c%b" % (db, key)


def db_range(db: int) -> tuple[bytes, bytes]:
    """Return the first record key of a database, and the first key after all its entries."""
    return bytes((ENTRY, db)), bytes((ENTRY, db + 1))


def part_key(number: int, index: int) -> bytes:
    """Return the record key of a part of a value."""
    return _PART_KEY.pack(PART, number, index)


def parsed_part_key(key: bytes) -> tuple[int, int]:
    """Return the number of the parts, and the index of the part. Raises `ValueError` for another key."""
    if len(key) != _PART_KEY.size:
        raise ValueError("a part of a value with an invalid key")
    _, number, index = _PART_KEY.unpack(key)
    return number, index


def record_value(value: bytes | Parts, expiry: int | None) -> bytes:
    """Return the record of an entry."""
    if isinstance(value, Parts):
        return _PARTED.pack(PARTED, *value) if expiry is None else _EXPIRES_PARTED.pack(EXPIRES_PARTED, expiry, *value)
    return b"\0" + value if expiry is None else _EXPIRES.pack(EXPIRES, expiry) + value


def parsed_value(record: bytes) -> tuple[bytes | Parts, int | None]:
    """Return the value or its parts, and the expiry. Raises `ValueError` if this is no entry's record."""
    kind = record[0] if record else None
    if kind == PLAIN:
        return record[1:], None
    if kind == EXPIRES and len(record) >= _EXPIRES.size:
        return record[_EXPIRES.size :], _EXPIRES.unpack_from(record)[1]
    if kind == PARTED and len(record) == _PARTED.size:
        return Parts(*_PARTED.unpack(record)[1:]), None
    if kind == EXPIRES_PARTED and len(record) == _EXPIRES_PARTED.size:
        _, expiry, *parts = _EXPIRES_PARTED.unpack(record)
        return Parts(*parts), expiry
    raise ValueError("an invalid record of an entry")
