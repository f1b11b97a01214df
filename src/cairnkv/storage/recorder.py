"""Convert the effects of entries to records, in the batch of a commit.

Invariants: a value that is too long for its entry's record is written in parts, before the batch with the entry. Each
part has its own write, so that no write holds the GIL for long. The batch that replaces a value deletes its parts,
except if only the expiry changes. The next start deletes parts that a crash has left without an entry. The batch with
the first record of a queue raises the format of the store.

Out of scope: writing batches (`writer`).
"""

import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from cairnkv.installation import native_path_in_use
from cairnkv.limits import QUEUE_DB
from cairnkv.storage.base import Effect, Redated
from cairnkv.storage.record_format import (
    FIRST_FORMAT,
    FORMAT,
    FORMAT_KEY,
    INLINE_BYTES,
    PART_BYTES,
    STATE,
    STATE_KEY,
    Parts,
    db_range,
    part_key,
    record_key,
    record_value,
)
from cairnkv.storage.rocksdb import Batch, RocksDB

LARGE_ENTRY_BYTES: Final = 1024 * 1024
"""Bytes of an entry above which all values longer than `SMALL_BYTES` are in parts, since its batch is one write."""

SMALL_BYTES: Final = 4 * 1024
"""See `LARGE_ENTRY_BYTES`."""


ANY_DB: Final = 256
"""More than the number of any database."""

NativeFill: TypeAlias = Callable[
    [Callable[[bytes, bytes], None], Callable[[bytes], None], Sequence[Effect], int, int], int
]


class Recorder:
    """Fills batches. Knows the values that are in parts."""

    def __init__(
        self,
        rocksdb: RocksDB,
        parted: dict[tuple[int, bytes], Parts],
        number: int,
        store_format: int = FIRST_FORMAT,
    ) -> None:
        """parted: the values in parts. number: the first unused number of parts. store_format: of the store."""
        self._rocksdb = rocksdb
        self._parted = parted
        self._number = number
        self._native_fill: NativeFill | None = None
        if native_path_in_use():
            from cairnkv.storage.recorder_native import fill

            self._native_fill = fill
        self._before: list[tuple[tuple[int, bytes], Parts | None]] = []  # parts before this batch
        self._first = number  # number of the first parts of this batch
        self._format = store_format
        self._raises_format = False  # in this batch
        self.cleared: set[int] = set()
        """Databases that this batch clears."""

    def begin(self) -> Batch:
        """Return a new batch. The previous one is written."""
        self._before.clear()
        self._first = self._number
        self.cleared.clear()
        self._raises_format = False
        return self._rocksdb.batch()

    def resume(self, rocksdb: RocksDB, *, happened: bool) -> None:
        """Continue with the reopened RocksDB. happened: whether the last batch is stored.

        If not, deletes its parts. Raises exceptions of RocksDB.
        """
        self._rocksdb = rocksdb
        if happened:
            return
        for place, parts in reversed(self._before):
            if parts is None:
                self._parted.pop(place, None)
            else:
                self._parted[place] = parts
        self._before.clear()
        if self._raises_format:
            self._format, self._raises_format = FIRST_FORMAT, False
        if self._number > self._first:
            batch = rocksdb.batch()
            batch.delete_range(part_key(self._first, 0), part_key(self._number, 0))
            rocksdb.write(batch)

    def fill(self, batch: Batch, effects: Sequence[Effect], size: int) -> None:
        """Add the effects of an entry. size: its approximate bytes."""
        put = batch.put
        longest = INLINE_BYTES if size <= LARGE_ENTRY_BYTES else SMALL_BYTES
        if self._native_fill is not None and not self._parted:
            left = ANY_DB if self._format == FORMAT else QUEUE_DB
            done = self._native_fill(put, batch.delete, effects, longest, left)
            if done == len(effects):
                return
            effects = effects[done:]
        for effect in effects:
            db, key, value, expiry = effect
            if db == QUEUE_DB and self._format < FORMAT:
                put(FORMAT_KEY, b"%d" % FORMAT)
                self._format, self._raises_format = FORMAT, True
            if key is None:
                self._clear(batch, db)
                continue
            if isinstance(effect, Redated) and (parts := self._parted.get((db, key))) is not None:
                put(record_key(db, key), record_value(parts, expiry))
                continue
            if self._parted and (old := self._parted.pop((db, key), None)) is not None:
                self._before.append(((db, key), old))
                batch.delete_range(*old.range)
            if value is None:
                batch.delete(record_key(db, key))
            elif len(value) <= longest:
                put(record_key(db, key), record_value(value, expiry))
            else:
                self._before.append(((db, key), None))
                self._parted[db, key] = self._write_parts(value)
                put(record_key(db, key), record_value(self._parted[db, key], expiry))

    def note(self, batch: Batch, sequence: int, now: int) -> None:
        """Add the sequence number and log time of the store after the batch."""
        batch.put(STATE_KEY, STATE.pack(sequence, now))

    def _clear(self, batch: Batch, db: int) -> None:
        self.cleared.add(db)
        batch.delete_range(*db_range(db))
        for place in [place for place in self._parted if place[0] == db]:
            parts = self._parted.pop(place)
            self._before.append((place, parts))
            batch.delete_range(*parts.range)

    def _write_parts(self, value: bytes) -> Parts:
        parts = Parts(self._number, len(value))
        self._number += 1
        for index in range(parts.part_count):
            batch = self._rocksdb.batch()
            batch.put(part_key(parts.number, index), value[index * PART_BYTES : (index + 1) * PART_BYTES])
            self._rocksdb.write(batch)
            time.sleep(0)  # releases the GIL
        return parts
