"""Repair the ends of RocksDB's write-ahead WALs (WALs) after a power failure, and detect damage.

RocksDB detects both by checksums, with three faults: it refuses a WAL if a sector that was never fsynced is missing; it
skips a block that begins with zeros, and continues after it; and it treats a damaged length at the end as an incomplete
record, and drops it, acknowledged or not. So this module checks the ends before, by these rules:

- Data that was written and not fsynced is at the end of the newest WAL (`rocksdb` ensures that). There, a power failure
  leaves a record with zeros from some byte to the end of a sector, or of the file.
- If flipping one bit makes a record valid, the record was damaged, even if it contains sectors of zeros.
- Each batch of cairnkv has the sequence number up to which all data was fsynced before it. So a valid later batch may
  prove that a missing record was fsynced.

Invariants: a WAL only gets shorter, from the beginning of an invalid record. A record that looks like the remains of a
power failure, but is known to be fsynced, is damage.

Out of scope: reading the WAL. RocksDB does that.
"""

import mmap
import os
import struct
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from cairnkv.storage.record_format import SYNCED, SYNCED_KEY

BLOCK: Final = 32 * 1024
"""Bytes of a block. Records are split at its end, and each block begins with a record or a part of one."""

SECTOR: Final = 512
"""Bytes that a disk writes atomically. Disks with larger sectors also write these atomically."""

HEADER: Final = struct.Struct("<IHB")
"""A record's header: checksum, length, type. The checksum covers the type and the data after the header."""

MASK: Final = 0xA282EAD8
"""The number that RocksDB adds to a rotated CRC-32C."""

WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
TYPES: Final = range(WHOLE, LAST + 1)
"""Types of records, or parts of records, in a WAL that is not recycled."""

BATCH: Final = struct.Struct("<QI")
"""The beginning of a batch: the sequence number of its first operation, and the number of operations."""

MARK: Final = bytes((1, len(SYNCED_KEY))) + SYNCED_KEY + bytes((SYNCED.size,))
"""The beginning of the last operation of each batch, which puts `SYNCED`."""

MANIFEST: Final = "MANIFEST-"
"""The prefix of the name of RocksDB's MANIFEST file."""

MANIFEST_UNSYNCED_BYTES: Final = 4 * 1024
"""Maximum bytes that RocksDB writes to MANIFEST between two fsyncs. Its records do not tell which data was fsynced."""

_Data: TypeAlias = "mmap.mmap | bytes"


class Damaged(Exception):
    """Damage that no power failure explains. The text has its place."""


class _Bad(NamedTuple):
    """The first invalid record, or part of one.

    at: offset of its header. begin: offset of the record that it is part of.
    sequence: the sequence number with which that record should begin, if known.
    """

    at: int
    begin: int
    sequence: int | None


def repair(path: Path, *, newest: bool = True, thorough: bool = False) -> int:
    """Cut off the remains of writes that a power failure interrupted. Returns the number of bytes.

    newest: whether this is the newest WAL; only that one can have such an end.
    thorough: check all checksums, which takes seconds: for a WAL that RocksDB has refused.
    MANIFEST has the same format, without batches.
    Raises `Damaged` if no power failure explains the data, and `OSError`.
    """
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return 0
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if not thorough and _first_bad(data, checksums=False) is None:
                return 0
            bad = _first_bad(data, checksums=True)
            if bad is None:
                return 0
            if not newest:
                raise Damaged(f"{path.name} has a damaged record at byte {bad.at:,}, and there is a newer WAL")
            _judge(data, bad, path.name)
        file.truncate(bad.begin)
        os.fsync(file.fileno())
    return size - bad.begin


def _first_bad(data: _Data, *, checksums: bool) -> _Bad | None:
    """Return the first invalid record, or None. checksums: whether to check them."""
    size, at, begin = len(data), 0, None
    sequence: int | None = None  # expected in the next record
    own: int | None = None  # of the current, incomplete record
    while at < size:
        room = BLOCK - at % BLOCK
        if room < HEADER.size:
            at += room
            continue
        bad = _Bad(at, at, sequence) if begin is None else _Bad(at, begin, own)
        if size - at < HEADER.size:
            return bad
        checksum, length, kind = HEADER.unpack_from(data, at)
        end = at + HEADER.size + length
        if kind not in TYPES or end > size or HEADER.size + length > room:
            return bad
        if checksums and checksum != _checksum(data[at + HEADER.size - 1 : end]):
            return bad
        if (begin is None) != (kind in (WHOLE, FIRST)):
            return bad
        if begin is None:
            begin, own, sequence = at, None, None
            if length >= BATCH.size:
                own, count = BATCH.unpack_from(data, at + HEADER.size)
                sequence = own + count
        if kind in (WHOLE, LAST):
            begin = None
        at = end
    return None if begin is None else _Bad(size, begin, own)


def _judge(data: _Data, bad: _Bad, name: str) -> None:
    """Raise `Damaged` unless a power failure explains the invalid record."""
    size, at = len(data), bad.at
    where = f"{name} has a damaged record at byte {at:,}"
    if size - bad.begin > MANIFEST_UNSYNCED_BYTES if name.startswith(MANIFEST) else _was_synced(data, bad):
        raise Damaged(f"{where}, which had been fsynced")
    if size - at < HEADER.size:
        return  # the file ends within a header, or between two parts of a record
    _, length, kind = HEADER.unpack_from(data, at)
    end = at + HEADER.size + length
    block_end = min((at // BLOCK + 1) * BLOCK, size)
    if _has_one_flipped_bit(data[at:block_end]):
        raise Damaged(where)  # its data may contain sectors of zeros
    for sector in range(at // SECTOR * SECTOR, min(end, block_end), SECTOR):
        if not any(data[max(at, sector) : min(sector + SECTOR, size)]):
            return  # the sector was not written
    if kind in TYPES and end > size and end <= (at // BLOCK + 1) * BLOCK:
        # The file ends in the record. Then no record follows, and it is invalid with every other length.
        block = data[at:block_end]
        if not _is_whole(block, 0, len(block)) and not any(
            _is_whole(block, behind, behind + HEADER.size + HEADER.unpack_from(block, behind)[1])
            for behind in range(1, len(block) - HEADER.size + 1)
        ):
            return
    raise Damaged(where)


def _was_synced(data: _Data, bad: _Bad) -> bool:
    """Return whether a valid later batch proves that the invalid record was fsynced."""
    sequence = bad.sequence
    hit = data.find(MARK, bad.at)
    while hit >= 0:
        value_at = hit + len(MARK)
        if value_at + SYNCED.size <= len(data):
            written, synced = SYNCED.unpack_from(data, value_at)
            if (sequence is None or synced >= sequence) and (kind := _ending(data, value_at + SYNCED.size)):
                if sequence is None:
                    # The maximum of the invalid record; or this is its own end, and all later records have more.
                    sequence = written if kind == WHOLE else written + 1
                if synced >= sequence:
                    return True
        hit = data.find(MARK, hit + 1)
    return False


def _ending(data: _Data, end: int) -> int:
    """`WHOLE` or `LAST` if a record of that type ends here, else 0."""
    block_begin = (end - 1) // BLOCK * BLOCK
    block = data[block_begin:end]
    for at in range(len(block) - HEADER.size):
        _, length, kind = HEADER.unpack_from(block, at)
        if kind in (WHOLE, LAST) and length == len(block) - at - HEADER.size and _is_whole(block, at, len(block)):
            return int(kind)
    return 0


def _is_whole(block: bytes, at: int, end: int) -> bool:
    """Return whether a valid record begins at `at` and ends at `end`."""
    checksum, _, kind = HEADER.unpack_from(block, at)
    if kind not in TYPES or end > len(block):
        return False
    return bool(checksum == _checksum(block[at + HEADER.size - 1 : end]))


def _has_one_flipped_bit(block: bytes) -> bool:
    """Return whether flipping one bit makes the record at the beginning of `block` valid.

    By chance, that is true for at most one in 16,000 records with a missing sector.
    """
    checksum, length, _ = HEADER.unpack_from(block)
    if any(_is_whole(block, 0, HEADER.size + (length ^ 1 << bit)) for bit in range(16)):
        return True  # a bit of the length, which the checksum does not cover
    covered = block[HEADER.size - 1 : HEADER.size + length]
    if len(covered) != length + 1:
        return False
    actual = _checksum(covered)
    if (checksum ^ actual).bit_count() == 1:
        return True
    # CRCs are linear: the change by one flipped bit depends only on the number of bytes after it. So step the
    # difference back, byte by byte, until it equals the change by a single bit of that byte.
    difference = _unmasked(checksum) ^ _unmasked(actual)
    for _ in covered:
        index = _INDEX_OF_TOP[difference >> 24]
        if index.bit_count() == 1 and difference == _TABLE[index]:
            return True
        difference = ((difference ^ _TABLE[index]) << 8 | index) & 0xFFFFFFFF
    return False


def _checksum(data: bytes) -> int:
    """Return the CRC-32C of data, masked as RocksDB stores it. Slow, in pure Python."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + MASK) & 0xFFFFFFFF


def _unmasked(checksum: int) -> int:
    """Return the CRC-32C of a masked checksum."""
    crc = (checksum - MASK) & 0xFFFFFFFF
    return (crc << 15 | crc >> 17) & 0xFFFFFFFF


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE: Final = _table()

_INDEX_OF_TOP: Final = {entry >> 24: index for index, entry in enumerate(_TABLE)}
"""The index of the entry of `_TABLE` with this topmost byte."""
