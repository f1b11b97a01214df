"""The memory of a store's entries: its limit, and room for writes.

Invariants: memory is checked before a write enters storage or the log. A refused write changes nothing. An eviction is
a CLEAR in storage.

Out of scope: the growth that a command causes (`admission`), and the key that is evicted (`eviction`).
"""

from collections.abc import Callable, Sequence
from typing import Final

from cairnkv.commands import Failure, Step, failures
from cairnkv.engine import Database
from cairnkv.engine.table import USE_BYTES
from cairnkv.storage import Storage
from cairnkv.storage.base import STORAGE_PART
from cairnkv.store.admission import growth, length_after
from cairnkv.store.eviction import Eviction
from cairnkv.store.housekeeping import EXPIRED_PER_SLICE, remove_expired
from cairnkv.store.lru import Place
from cairnkv.store.value_cache import ValueCache

EVICTIONS_PER_WRITE: Final = 1_000
"""Keys that one write may evict. A value that needs more room is refused, and the client may repeat the write."""

SLICES_PER_WRITE: Final = 8
"""Slices of housekeeping that a write may wait for when memory is short."""


def _evicts_none(_db: int, _key: bytes) -> bool:
    return False


class Memory:
    """The memory of the databases of one store."""

    def __init__(
        self,
        databases: Sequence[Database],
        storage: Storage,
        limit: int | None,
        value_max: int,
        *,
        evict: Callable[[int, bytes], bool] = _evicts_none,
    ) -> None:
        """limit: estimated bytes of all entries; None: no limit. value_max: bytes of a value.

        evict: deletes a key through storage; returns whether storage has taken that.
        """
        self.storage = storage
        self.limit = limit
        self.eviction: Eviction | None = None
        """None: the store evicts no keys."""
        self.cache: ValueCache | None = None
        """None: all values stay in memory."""
        self.expired = 0
        """Expired keys that were removed."""
        self.evicted = 0
        self.value_max = value_max
        self._databases = databases
        self._evict_by = evict

    @property
    def used_bytes(self) -> int:
        """The estimated memory of the entries of all databases, including the LRU order."""
        if self.cache is not None:
            return self.cache.used_bytes
        used = sum(database.used_bytes + database.index_bytes for database in self._databases)
        return used if self.eviction is None else used + self.eviction.used_bytes

    @property
    def garbage_bytes(self) -> int:
        """The estimated memory of deleted tables that housekeeping has not freed yet."""
        return sum(database.garbage_bytes for database in self._databases)

    def admit(self, step: Step) -> Failure | None:
        """Make room for a command that may make the entries grow. Returns a failure if there is no room."""
        database = self._databases[step.db]
        if (length := length_after(database, step.command)) > self.value_max:
            text = f"a value would have {length:,} bytes; the limit is {self.value_max:,}"
            return Failure(failures.TOOLONG, text)
        per_key = 0 if self.eviction is None else USE_BYTES
        if self.limit is None or (more := growth(database, step.command, per_key)) <= 0:
            return None
        if self.cache is not None:
            return self._admit_to_cache(self.cache, more)
        # Storage was opened with a limit that may have been higher: its memory depends on that one.
        limit = self.limit - min(self.storage.memory_bytes, self.limit // STORAGE_PART)
        for _ in range(SLICES_PER_WRITE):
            if self.used_bytes + self.garbage_bytes + more <= limit or not self.housekeep():
                break
        if self.eviction is not None and more <= limit:
            spared = set(step.command.places(step.db))
            self.eviction.note_use(spared)
            for _ in range(EVICTIONS_PER_WRITE):
                if self.used_bytes + more <= limit or not self._evict(self.eviction, spared):
                    break
        if self.used_bytes + more <= limit:
            return None
        return Failure(failures.FULL, f"the memory limit of {self.limit:,} bytes has no room for {more:,} more")

    def _admit_to_cache(self, cache: ValueCache, more: int) -> Failure | None:
        if self.garbage_bytes:
            self._free_some()
        if cache.has_room(more):
            return None
        text = f"the memory limit of {cache.limit:,} bytes has no room for {more:,} more beside the keys"
        return Failure(failures.FULL, text)

    def _evict(self, eviction: Eviction, spared: set[Place]) -> bool:
        place = eviction.victim(spared)
        if place is None:
            return False
        db, key = place
        database = self._databases[db]
        if database.get(key) is None:
            database.free_expired(key)
            self.expired += 1
        elif self._evict_by(db, key):
            self.evicted += 1
        else:
            return False
        eviction.forget(place)
        return True

    def housekeep(self) -> bool:
        """Do one bounded slice: remove expired keys, free deleted tables. Returns whether more is to be done now.

        Does not advance log time: the time of a command that waits for room is fixed.
        """
        more = self._free_some()
        more_cold = self.cache is not None and self.cache.cool_some()
        return more or more_cold

    def _free_some(self) -> bool:
        """Do the same, but let no value leave memory: the current entry may have changed it."""
        forget = self.eviction.forget if self.eviction is not None else self.cache.forget if self.cache else None
        removed, more = remove_expired(self._databases, self.storage, forget)
        self.expired += removed
        more_uses = self.eviction is not None and self.eviction.free_some()
        return more or more_uses or removed == EXPIRED_PER_SLICE
