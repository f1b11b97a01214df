"""Versions of keys, by which a transaction sees that a watched key has changed.

Invariants: a key whose visible entry was changed, or changed back, has another version than before. Keys share
versions, so a key may seem to have changed that has not; the reverse never happens.
"""

import zlib
from typing import Final

VERSION_SLOTS: Final = 1 << 16
"""Versions that are kept: a key has the one of its slot, see `version_slot`. Half a megabyte for all keyspaces;
with more slots fewer transactions would be given up for a change of some other key."""


def version_slot(db: int, key: bytes) -> int:
    """Which version a key has: never that of a key with the same name in another keyspace."""
    return (zlib.crc32(key) + db) % VERSION_SLOTS
