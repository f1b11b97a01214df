"""What a store's directory held when it was closed or crashed, back in the keyspaces.

What always holds: all records are read, to the mark of the end, or it fails. What was over in log time is not
brought back, and its record is dropped, as are parts of values that no entry has any more.

Not for what the records look like (`records`).
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from cairnkv.engine import Database
from cairnkv.engine.table import ENTRY_BYTES, USE_BYTES
from cairnkv.storage.record_format import (
    END_KEY,
    ENTRY,
    FORMAT_KEY,
    NODE_DB,
    PART,
    STATE,
    STATE_KEY,
    SYNCED_KEY,
    Parts,
    parsed_part_key,
    parsed_value,
)
from cairnkv.storage.rocksdb import RocksDB

PROGRESS_RECORDS: Final = 50_000
"""Records between two words of progress."""

DROPPED_TOGETHER: Final = 10_000
"""Records that one write drops."""


class OfNode(Exception):
    """It is the table of a node of a cluster, and there is no node to give it to."""


class Restored(NamedTuple):
    """What the log has to know besides.

    sequence, time: of the newest entry. parted: the values that stand in parts. number: the first that no parts have.
    """

    sequence: int
    time: int
    parted: dict[tuple[int, bytes], Parts]
    number: int


class _Parted:
    """A value whose parts are yet to come."""

    def __init__(self, db: int, key: bytes, expiry: int | None, parts: Parts, *, hot: bool) -> None:
        """hot: whether the value is to be in memory."""
        self.db = db
        self.key = key
        self.expiry = expiry
        self.parts = parts
        self._hot = hot
        self._pieces: list[bytes] = []
        self._length = 0
        self.come = 0  # parts

    def comes(self, piece: bytes) -> None:
        """The next part is there."""
        self.come += 1
        self._length += len(piece)
        if self._hot:
            self._pieces.append(piece)

    def load(self, database: Database) -> None:
        """All have come: let the entry stand in its keyspace. Raises `ValueError` if parts are missing."""
        if self._length != self.parts.length:
            raise ValueError(f"the value of {self.key[:64]!r} has {self._length:,} of {self.parts.length:,} bytes")
        database.load(self.key, b"".join(self._pieces) if self._hot else self._length, self.expiry)


class _Room:
    """What of the memory limit is left for values."""

    def __init__(self, limit: int | None) -> None:
        self._left = limit

    def take(self, key: bytes, length: int) -> bool:
        """Whether there is room for a value of so many bytes, under this key; then it is taken."""
        if self._left is None:
            return True
        self._left -= ENTRY_BYTES + len(key)
        length += USE_BYTES  # which only values in memory take
        if self._left < length:
            return False
        self._left -= length
        return True


def restore(
    engine: RocksDB, databases: Sequence[Database], progress: Callable[[int], None], memory_limit: int | None = None
) -> Restored:
    """Put every entry into its keyspace, and log time.

    memory_limit: bytes that entries may take; values beyond it are left cold. None: no limit.
    progress: told how many records were read, every now and then.
    Raises `ValueError` for records that are not as this format has them, `OfNode` where there are records of a node's
    own and no keyspace for them, and what the engine raises.
    """
    records = sequence = time = 0
    parted: dict[int, _Parted] = {}
    numbers: set[int] = set()
    dropped: list[bytes] = []
    room = _Room(memory_limit)
    key = b""
    for key, value in engine.items():
        kind = key[0] if key else None
        if kind == ENTRY and len(key) > 2 and key[1] < len(databases):  # the state comes before these
            entry, expiry = parsed_value(value)
            if expiry is not None and expiry <= time:
                dropped.append(key)
            elif isinstance(entry, Parts):
                hot = room.take(key, entry.length)
                parted[entry.number] = _Parted(key[1], key[2:], expiry, entry, hot=hot)
            else:
                databases[key[1]].load(key[2:], entry if room.take(key, len(entry)) else len(entry), expiry)
        elif kind == PART:  # all entries come before these
            number, index = parsed_part_key(key)
            numbers.add(number)
            if (owner := parted.get(number)) is None:
                dropped.append(key)
            elif index != owner.come:
                raise ValueError(f"part {owner.come} of the value of {owner.key[:64]!r} is missing")
            else:
                owner.comes(value)
        elif key == STATE_KEY and len(value) == STATE.size:
            sequence, time = STATE.unpack(value)
            databases[0].advance(time)
        elif kind == ENTRY and key[1:2] == bytes((NODE_DB,)):
            raise OfNode
        elif key not in (FORMAT_KEY, SYNCED_KEY, END_KEY):
            raise ValueError(f"a record that this format does not have: {key[:16]!r}")
        records += 1
        if records % PROGRESS_RECORDS == 0:
            progress(records)
    if key != END_KEY:
        raise ValueError(f"it cannot be read to its end, only to record {records:,}")
    for owner in parted.values():
        owner.load(databases[owner.db])
    _drop(engine, dropped)
    left = {(owner.db, owner.key): owner.parts for owner in parted.values()}
    return Restored(sequence, time, left, max(numbers, default=0) + 1)


def newest(engine: RocksDB) -> tuple[int, int]:
    """Sequence and log time of the newest entry; zeros before the first."""
    for key, value in engine.items():
        if key == STATE_KEY and len(value) == STATE.size:
            sequence, time = STATE.unpack(value)
            return sequence, time
        if key > STATE_KEY:
            break
    return 0, 0


def _drop(engine: RocksDB, keys: Sequence[bytes]) -> None:
    for first in range(0, len(keys), DROPPED_TOGETHER):
        batch = engine.batch()
        for key in keys[first : first + DROPPED_TOGETHER]:
            batch.delete(key)
        engine.write(batch)
