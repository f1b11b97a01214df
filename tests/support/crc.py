"""Keys forged to share their CRC-32, or its leading bits, as an attacker would forge them."""

import itertools
import zlib
from collections.abc import Iterator


def _row(index: int) -> int:
    for _ in range(8):
        index = index >> 1 ^ (0xEDB88320 if index & 1 else 0)
    return index


_TABLE = [_row(index) for index in range(256)]
_INDEX_BY_HIGH_BYTE = {row >> 24: index for index, row in enumerate(_TABLE)}


def key_at(crc: int, prefix: bytes) -> bytes:
    """The prefix with four more bytes, so that the CRC-32 of the whole is `crc`.

    >>> hex(zlib.crc32(key_at(0xDEADBEEF, b"any")))
    '0xdeadbeef'
    """
    register = crc ^ 0xFFFFFFFF
    indices = []
    for _ in range(4):
        indices.append(_INDEX_BY_HIGH_BYTE[register >> 24])
        register = (register ^ _TABLE[indices[-1]]) << 8 & 0xFFFFFFFF
    register = zlib.crc32(prefix) ^ 0xFFFFFFFF
    suffix = bytearray()
    for index in reversed(indices):
        suffix.append((register ^ index) & 0xFF)
        register = register >> 8 ^ _TABLE[index]
    return prefix + bytes(suffix)


def keys_at(crc: int) -> Iterator[bytes]:
    """Any number of different keys at one position."""
    return (key_at(crc, b"forged:%d:" % number) for number in itertools.count())


def keys_sharing(bits: int, leading: int) -> Iterator[bytes]:
    """Any number of different keys, up to one per position, whose position begins with these bits."""
    room = 32 - bits
    return (key_at(leading << room | low, b"crowd:") for low in range(1 << room))
