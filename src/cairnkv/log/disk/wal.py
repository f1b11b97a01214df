"""Whether the end of RocksDB's write-ahead log is torn, as a crash leaves it, or damaged.

RocksDB tells by checksums, but takes a damaged length in the last block for a record that a crash has cut off, and
drops it and all that follow, acknowledged or not. What a crash has cut off has nothing behind it; so if a whole record
stands behind, or the cut one is whole with another length, something else was at work.

Not for reading the log: RocksDB does that, and reports what is damaged elsewhere.
"""

import struct
from pathlib import Path
from typing import Final

BLOCK: Final = 32 * 1024
"""Bytes of a block; records are cut at its end, and each block begins with one."""

HEADER: Final = struct.Struct("<IHB")
"""A record's header: checksum, length, type. The checksum is of the type and of what follows the header."""

TYPES: Final = range(1, 5)
"""Whole, first, middle and last part of a record: what a log that is not recycled has."""


def is_damaged(log: Path) -> bool:
    """Whether records were cut off that no crash has cut off."""
    size = log.stat().st_size
    with log.open("rb") as file:
        file.seek((size - 1) // BLOCK * BLOCK if size else 0)
        block = file.read()
    at = 0
    while at + HEADER.size <= len(block):
        _, length, kind = HEADER.unpack_from(block, at)
        if kind not in TYPES:
            return False  # RocksDB looks at that
        if at + HEADER.size + length > len(block):
            return _is_whole(block, at, len(block)) or any(
                _is_whole(block, behind, behind + HEADER.size + HEADER.unpack_from(block, behind)[1])
                for behind in range(at + 1, len(block) - HEADER.size + 1)
            )
        at += HEADER.size + length
    return False


def _is_whole(block: bytes, at: int, end: int) -> bool:
    """Whether a record stands here that ends there."""
    checksum, _, kind = HEADER.unpack_from(block, at)
    if kind not in TYPES or end > len(block):
        return False
    return bool(checksum == _masked(_crc32c(block[at + HEADER.size - 1 : end])))


def _masked(checksum: int) -> int:
    """As RocksDB stores it."""
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE: Final = _table()


def _crc32c(data: bytes) -> int:
    """CRC-32C, which Python does not have. Slow, and only used for what looks torn."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF
