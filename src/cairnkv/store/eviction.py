"""Eviction: which key a store in memory deletes to make room for a write.

Invariants: every visible key can be evicted, except the records of queues. A key is in the LRU order, or in the part of
the databases that the search for keys outside the order has not passed yet.

Out of scope: when keys are evicted (`memory`), and values that leave memory and stay on disk (`value_cache`).
"""

from collections.abc import Iterable, Sequence
from typing import Final

from cairnkv.engine import Database, Journal
from cairnkv.engine.database import Change, Cleared
from cairnkv.limits import DATABASES, QUEUE_DB
from cairnkv.store.lru import Lru, Place

KEYS_PER_LOOK: Final = 100
"""Keys that one search for a key outside the LRU order passes."""


class Eviction(Lru):
    """The LRU order of a store's keys, and the keys outside it."""

    def __init__(self, databases: Sequence[Database]) -> None:
        super().__init__()
        self._databases = databases
        self._search_from: tuple[int, int] | None = None  # database and cursor; None: all keys are in the order

    def search_all(self) -> None:
        """Search all databases for keys outside the order: after a CLEAR_ALL was undone, and in a new order."""
        self._search_from = (0, 0)

    def victim(self, spared: set[Place]) -> Place | None:
        """Return the key to evict next, which is none of `spared`; None if there is no other key."""
        return self._outside(spared) or self.oldest(spared)

    def _outside(self, spared: set[Place]) -> Place | None:
        for _ in range(DATABASES + 1):
            if self._search_from is None:
                break
            db, cursor = self._search_from
            following, keys = self._databases[db].slice(cursor, KEYS_PER_LOOK, b"")
            for key in keys:
                if (db, key) not in spared and not self.knows((db, key)):
                    return db, key
            self._search_from = (db, following) if following else (db + 1, 0)
            if self._search_from[0] == DATABASES:
                self._search_from = None
        return None

    def note_changes(self, changes: Iterable[Change]) -> None:
        """Note changes in their order. Keys that were set after a CLEAR_ALL are in use."""
        for change in changes:
            if isinstance(change, Cleared):
                self.note_change(change.database.number, None)
            for key in change.keys:
                self.note_change(change.database.number, key)

    def note_change(self, db: int, key: bytes | None) -> None:
        """Note that a key was changed, or that all keys of a database were deleted (None)."""
        if key is None:
            self.forget_all(db)
        else:
            self.note_use([(db, key)])

    def note_use(self, places: Iterable[Place]) -> None:
        """Note that a command has used these keys."""
        for place in places:
            if place[0] == QUEUE_DB:
                continue
            if self._databases[place[0]].get(place[1]) is None:
                self.forget(place)
            else:
                self.used(place)

    def note_undo(self, journal: Journal) -> None:
        """Note that changes were undone."""
        self.note_use((change.database.number, key) for change in journal for key in change.keys)
        if any(isinstance(change, Cleared) for change in journal):
            self.search_all()
