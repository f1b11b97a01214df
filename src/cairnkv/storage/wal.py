"""The ends of RocksDB's logs: what a power failure has left of the last writes is cut off, and damage is reported.

RocksDB tells by checksums. But it refuses a log of which a sector has not reached the disk, though nobody was told that
it would; skips a block that begins to be empty, and goes on behind it; and takes a damaged length at the end for a
record that was cut off, and drops it, acknowledged or not. So the ends are looked at before, and told apart here:

- What was written and never fsynced is the end of the newest log (`engine` sees to that). Of a record there a power
  failure leaves nothing but zeros from some place on to the end of a sector, or of the file.
- If flipping one bit makes a record whole, the record was damaged, even if it holds sectors of zeros.
- Every batch of ours says up to which sequence number all was on the disk before it was written. So where a whole one
  stands behind, it may say that what is gone was on the disk already.

What always holds: a log is only ever made shorter, from the beginning of a record that is not whole. What looks like a
power failure, and had been on the disk as far as can be known, is damage.

Not for reading the log: RocksDB does that.
"""

import mmap
import os
import struct
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from cairnkv.storage.record_format import SYNCED, SYNCED_KEY

BLOCK: Final = 32 * 1024
"""Bytes of a block; records are cut at its end, and each block begins with one."""

SECTOR: Final = 512
"""Bytes that a disk writes as a whole. Those that write more at a time also write these as a whole."""

HEADER: Final = struct.Struct("<IHB")
"""A record's header: checksum, length, type. The checksum is of the type and of what follows the header."""

MASK: Final = 0xA282EAD8
"""The number that RocksDB adds to a rotated CRC-32C."""

WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
TYPES: Final = range(WHOLE, LAST + 1)
"""A record, or which part of one: what a log that is not recycled has."""

BATCH: Final = struct.Struct("<QI")
"""What a batch begins with: the sequence number of its first operation, and how many operations there are."""

MARK: Final = bytes((1, len(SYNCED_KEY))) + SYNCED_KEY + bytes((SYNCED.size,))
"""What the last operation of each batch begins with: it puts `SYNCED` there."""

MANIFEST: Final = "MANIFEST-"
"""What the name of RocksDB's list of files begins with."""

MANIFEST_UNSYNCED_BYTES: Final = 4 * 1024
"""What RocksDB writes there between two fsyncs, at most: it says of no record what was on the disk before."""

_Data: TypeAlias = "mmap.mmap | bytes"


class Damaged(Exception):
    """Something else than a power failure was at work; the text says where."""


class _Bad(NamedTuple):
    """Where a log cannot be read on.

    at: a record's header that is wrong, or that of a wrong record. begin: where the record begins that this is part of.
    sequence: the sequence number that it should begin with, if that is known.
    """

    at: int
    begin: int
    sequence: int | None


def mend(log: Path, *, newest: bool = True, thorough: bool = False) -> int:
    """Cut off what a power failure has left of a log's last writes. Returns how many bytes that was.

    newest: whether nothing was written behind this log; no other can have such an end.
    thorough: check all checksums, which takes seconds: for a log that RocksDB has refused.
    The manifest is a log as well, though not of batches.
    Raises `Damaged` when no power failure explains what is there, and `OSError`.
    """
    with log.open("r+b") as file:
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
                raise Damaged(f"{log.name} has a damaged record at byte {bad.at:,}, and there is a newer log")
            _judge(data, bad, log.name)
        file.truncate(bad.begin)
        os.fsync(file.fileno())
    return size - bad.begin


def _first_bad(data: _Data, *, checksums: bool) -> _Bad | None:
    """The first place that cannot be read; without a look at checksums, unless it is told to."""
    size, at, begin = len(data), 0, None
    sequence: int | None = None  # that the next record should have
    own: int | None = None  # that the record has which is not yet read whole
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
    """Raise `Damaged` unless a power failure explains it."""
    size, at = len(data), bad.at
    where = f"{name} has a damaged record at byte {at:,}"
    if size - bad.begin > MANIFEST_UNSYNCED_BYTES if name.startswith(MANIFEST) else _was_synced(data, bad):
        raise Damaged(f"{where}, which had been on the disk")
    if size - at < HEADER.size:
        return  # the file ends within a header, or between two parts of a record
    _, length, kind = HEADER.unpack_from(data, at)
    end = at + HEADER.size + length
    block_end = min((at // BLOCK + 1) * BLOCK, size)
    if _has_one_flipped_bit(data[at:block_end]):
        raise Damaged(where)  # its own content may have sectors of zeros
    for sector in range(at // SECTOR * SECTOR, min(end, block_end), SECTOR):
        if not any(data[max(at, sector) : min(sector + SECTOR, size)]):
            return  # it has not reached the disk
    if kind in TYPES and end > size and end <= (at // BLOCK + 1) * BLOCK:
        # The file ends within it. Then nothing stands behind, and it is not whole with another length.
        block = data[at:block_end]
        if not _is_whole(block, 0, len(block)) and not any(
            _is_whole(block, behind, behind + HEADER.size + HEADER.unpack_from(block, behind)[1])
            for behind in range(1, len(block) - HEADER.size + 1)
        ):
            return
    raise Damaged(where)


def _was_synced(data: _Data, bad: _Bad) -> bool:
    """Whether a whole batch behind says that what should stand here was on the disk when it was written."""
    sequence = bad.sequence
    hit = data.find(MARK, bad.at)
    while hit >= 0:
        value_at = hit + len(MARK)
        if value_at + SYNCED.size <= len(data):
            written, synced = SYNCED.unpack_from(data, value_at)
            if (sequence is None or synced >= sequence) and (kind := _ending(data, value_at + SYNCED.size)):
                if sequence is None:
                    # The bad record has that at most; or this is its own end, and all behind has more.
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
    """Whether a record stands here that ends there."""
    checksum, _, kind = HEADER.unpack_from(block, at)
    if kind not in TYPES or end > len(block):
        return False
    return bool(checksum == _checksum(block[at + HEADER.size - 1 : end]))


def _has_one_flipped_bit(block: bytes) -> bool:
    """Return whether flipping one bit makes the record at the beginning of `block` whole.

    That is true by chance for at most one in 16,000 of the records that lack a sector.
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
    # CRCs are linear: what one flipped bit adds to the register depends only on how many bytes follow it. So step the
    # difference back, byte by byte, until it is what a single bit of that byte adds.
    difference = _unmasked(checksum) ^ _unmasked(actual)
    for _ in covered:
        index = _INDEX_OF_TOP[difference >> 24]
        if index.bit_count() == 1 and difference == _TABLE[index]:
            return True
        difference = ((difference ^ _TABLE[index]) << 8 | index) & 0xFFFFFFFF
    return False


def _checksum(data: bytes) -> int:
    """CRC-32C, which Python does not have, masked as RocksDB stores it. Slow."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + MASK) & 0xFFFFFFFF


def _unmasked(checksum: int) -> int:
    """The CRC-32C that RocksDB stores as `checksum`."""
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
"""The index of the one entry of `_TABLE` with this topmost byte."""
