"""Load the records of a store into the databases, at the start.

Invariants: all records up to `END_KEY` are read, or loading fails. Expired entries are not loaded, and their records
are deleted, like parts of values without an entry.

Out of scope: the format of records (`record_format`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from cairnkv.engine import Database
from cairnkv.engine.table import ENTRY_BYTES, USE_BYTES
from cairnkv.limits import QUEUE_DB
from cairnkv.storage.record_format import (
    END_KEY,
    ENTRY,
    FORMAT,
    FORMAT_KEY,
    NODE_DB,
    PART,
    STATE,
    STATE_KEY,
    SYNCED_KEY,
    PartedValue,
    Parts,
    parsed_part_key,
    parsed_value,
)
from cairnkv.storage.rocksdb import RocksDB

PROGRESS_RECORDS: Final = 50_000
"""Progress callback interval, in records."""

DELETES_MAX: Final = 10_000
"""Maximum number of records that one write deletes."""


class NodeRecords(Exception):
    """The store has records of a cluster node, and is not opened by a node."""


class Restored(NamedTuple):
    """The result of loading, besides the databases.

    sequence, time: of the newest entry. parted: values in parts. number: the first unused number of parts.
    store_format: of the store.
    """

    sequence: int
    time: int
    parted: dict[tuple[int, bytes], Parts]
    number: int
    store_format: int


class _Parted(PartedValue):
    """An entry whose parts are being read. cold: whether its value stays on disk."""

    def __init__(self, db: int, key: bytes, expiry: int | None, parts: Parts, *, cold: bool) -> None:
        super().__init__(key, parts)
        self.db = db
        self.expiry = expiry
        self._cold = cold
        self._parts: list[bytes] = []

    def add(self, index: int, part: bytes) -> bool:
        """Add a part. Raises `ValueError` if it is not the next one."""
        if not super().add(index, part):
            raise ValueError(f"part {self.parts_read} of the value of {self.key[:64]!r} is missing")
        if not self._cold:
            self._parts.append(part)
        return True

    def load(self, database: Database) -> None:
        """Load the entry into its database. Raises `ValueError` if parts are missing."""
        if not self.is_whole:
            raise ValueError(f"the value of {self.key[:64]!r} has {self.length:,} of {self.parts.length:,} bytes")
        database.load(self.key, self.length if self._cold else b"".join(self._parts), self.expiry)


class _Room:
    """The part of the memory limit that is left for values."""

    def __init__(self, limit: int | None) -> None:
        self._left = limit

    def take(self, key: bytes, length: int) -> bool:
        """Reserve memory for a value of `length` bytes. Returns whether it fits."""
        if self._left is None:
            return True
        self._left -= ENTRY_BYTES + len(key)
        length += USE_BYTES  # only values in memory use this
        if self._left < length:
            return False
        self._left -= length
        return True


def restore(
    rocksdb: RocksDB,
    databases: Mapping[int, Database],
    progress: Callable[[int], None],
    memory_limit: int | None = None,
) -> Restored:
    """Load all entries into their databases, and set log time.

    databases: by number. memory_limit: maximum bytes of entries; values beyond it stay cold, except those of queues.
    None: no limit. progress: called with the number
    of records read, at intervals. Raises `ValueError` for invalid records, `NodeRecords` for a node's own records if
    there is no database for them, and exceptions of RocksDB.
    """
    records = sequence = time = 0
    store_format = FORMAT
    parted: dict[int, _Parted] = {}
    numbers: set[int] = set()
    useless: list[bytes] = []
    room = _Room(memory_limit)
    key = b""
    for key, value in rocksdb.items():
        kind = key[0] if key else None
        if kind == ENTRY and len(key) > 2 and key[1] in databases:  # after the state
            entry, expiry = parsed_value(value)
            if expiry is not None and expiry <= time:
                useless.append(key)
            elif isinstance(entry, Parts):
                cold = not room.take(key, entry.length) and key[1] != QUEUE_DB
                parted[entry.number] = _Parted(key[1], key[2:], expiry, entry, cold=cold)
            else:
                stays = room.take(key, len(entry)) or key[1] == QUEUE_DB
                databases[key[1]].load(key[2:], entry if stays else len(entry), expiry)
        elif kind == PART:  # after all entries
            number, index = parsed_part_key(key)
            numbers.add(number)
            if (owner := parted.get(number)) is None:
                useless.append(key)
            else:
                owner.add(index, value)
        elif key == STATE_KEY and len(value) == STATE.size:
            sequence, time = STATE.unpack(value)
            databases[0].advance(time)
        elif kind == ENTRY and key[1:2] == bytes((NODE_DB,)):
            raise NodeRecords
        elif key == FORMAT_KEY:
            store_format = int(value)
        elif key not in (SYNCED_KEY, END_KEY):
            raise ValueError(f"a record with an unknown key: {key[:16]!r}")
        records += 1
        if records % PROGRESS_RECORDS == 0:
            progress(records)
    if key != END_KEY:
        raise ValueError(f"the records after record {records:,} cannot be read")
    for owner in parted.values():
        owner.load(databases[owner.db])
    _delete(rocksdb, useless)
    in_parts = {(owner.db, owner.key): owner.parts for owner in parted.values()}
    return Restored(sequence, time, in_parts, max(numbers, default=0) + 1, store_format)


def newest(rocksdb: RocksDB) -> tuple[int, int]:
    """Return the sequence number and log time of the newest entry; zeros before the first."""
    for key, value in rocksdb.items():
        if key == STATE_KEY and len(value) == STATE.size:
            sequence, time = STATE.unpack(value)
            return sequence, time
        if key > STATE_KEY:
            break
    return 0, 0


def _delete(rocksdb: RocksDB, keys: Sequence[bytes]) -> None:
    for first in range(0, len(keys), DELETES_MAX):
        batch = rocksdb.batch()
        for key in keys[first : first + DELETES_MAX]:
            batch.delete(key)
        rocksdb.write(batch)
