"""The format on disk: which records RocksDB holds, and what stands in them. docs/disk.md describes it.

What always holds: `FORMAT` changes with any change here. `END` is the last record in the order of keys and there from
the first day, so that whoever reads all records and does not come to it knows that some are missing.
"""

import struct
from typing import Final, NamedTuple

from cairnkv.limits import DATABASES
from cairnkv.storage.base import LARGE_VALUE_BYTES

FORMAT: Final = 1
"""The version of what is written. Others are refused."""

FORMAT_KEY: Final = b"\x00format"
STATE_KEY: Final = b"\x00state"
SYNCED_KEY: Final = b"\x00synced"
END_KEY: Final = b"\xff"

ENTRY: Final = 1
"""First byte of an entry's record key; the keyspace's number and the key follow."""

NODE_DB: Final = DATABASES
"""The keyspace, behind those that commands can name, in which a node of a cluster keeps what it needs to go on."""

PART: Final = 2
"""First byte of the record key of a part of a value; the number that the value's parts share and their index follow."""

PART_BYTES: Final = 256 * 1024
"""The length of each part of a value except the last."""

INLINE_BYTES: Final = LARGE_VALUE_BYTES
"""The longest value that storage keeps in its entry's record. EXPIRE and PERSIST of a longer value rewrite the record,
but not the parts."""

# What an entry's record begins with, by its first byte.
PLAIN: Final = 0
"""The value follows."""
EXPIRES: Final = 1
"""A deadline in milliseconds of log time and the value follow."""
PARTED: Final = 2
"""The number of the value's parts and its length follow."""
EXPIRES_PARTED: Final = 3
"""A deadline, the number of the value's parts and its length follow."""

_EXPIRES: Final = struct.Struct(">BQ")
_PARTED: Final = struct.Struct(">BQQ")
_EXPIRES_PARTED: Final = struct.Struct(">BQQQ")
_PART_KEY: Final = struct.Struct(">BQI")

STATE: Final = struct.Struct(">QQ")
"""Sequence of the newest entry, and log time in milliseconds."""

SYNCED: Final = struct.Struct(">QQ")
"""RocksDB's newest sequence number before the write that this stands in, and that up to which all was on the disk."""


class Parts(NamedTuple):
    """A value that stands in records of its own.

    number: what their keys have in common. length: of the whole value, in bytes.
    """

    number: int
    length: int

    @property
    def pieces(self) -> int:
        """How many parts there are."""
        return -(-self.length // PART_BYTES)

    @property
    def range(self) -> tuple[bytes, bytes]:
        """The first of their keys, and the first key behind them."""
        return part_key(self.number, 0), part_key(self.number + 1, 0)


def record_key(db: int, key: bytes) -> bytes:
    """Where an entry stands."""
    return b"\x01%c%b" % (db, key)


def db_range(db: int) -> tuple[bytes, bytes]:
    """The first record key that an entry of a keyspace may have, and the first behind all of them."""
    return bytes((ENTRY, db)), bytes((ENTRY, db + 1))


def part_key(number: int, index: int) -> bytes:
    """Where a part of a value stands."""
    return _PART_KEY.pack(PART, number, index)


def parsed_part_key(key: bytes) -> tuple[int, int]:
    """The parts' number, and the part's index. Raises `ValueError` if it is no such key."""
    if len(key) != _PART_KEY.size:
        raise ValueError("a part of a value whose key is no such key")
    _, number, index = _PART_KEY.unpack(key)
    return number, index


def record_value(value: bytes | Parts, expiry: int | None) -> bytes:
    """What stands in an entry's record."""
    if isinstance(value, Parts):
        return _PARTED.pack(PARTED, *value) if expiry is None else _EXPIRES_PARTED.pack(EXPIRES_PARTED, expiry, *value)
    return b"\0" + value if expiry is None else _EXPIRES.pack(EXPIRES, expiry) + value


def parsed_value(record: bytes) -> tuple[bytes | Parts, int | None]:
    """The value, or where it stands, and the deadline. Raises `ValueError` if it is no entry's record."""
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
    raise ValueError("a record that is no entry")
