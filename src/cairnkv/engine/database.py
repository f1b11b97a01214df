"""A database: the table, log time, and undoing of changes.

Invariants:
- A database is deterministic. Its contents and replies depend only on the commands applied and their times. It reads no
  clock, no random number, no memory use and no identity of a client.
- `now` is log time in milliseconds and never decreases, so an expired key never comes back.
- Every visible change goes through `put`, `delete` or `clear_all`, which record the previous state in the journal, if
  there is one. Undoing a journal, newest entry first, restores exactly that state.
- An expired key is invisible from its expiry on, removed or not.
- A key whose visible entry was changed, or changed back, has a new version. Keys share versions, so an unchanged key
  may seem changed; a changed key never seems unchanged.

Out of scope: the effect of each command (`operations`), and the time at which a reply may leave (the store).
"""

import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import Final, Protocol, TypeAlias

from cairnkv.engine.expiry import ExpiryIndex, LogTime
from cairnkv.engine.table import Stored, Table, length_of
from cairnkv.limits import QUEUE_DB
from cairnkv.records import record

FREE_BUCKETS: Final = 64
"""Buckets of a cleared table that one slice frees: about 11,000 entries, in about a millisecond."""

FREE_EXPIRIES: Final = 10_000
"""Expiries of a cleared table that one slice frees."""

VERSION_SLOTS: Final = 1 << 16
"""Number of versions of keys, for all databases: half a megabyte. With more slots, fewer transactions would fail
because another key of the slot changed."""


def version_slot(db: int, key: bytes) -> int:
    """Return the slot of a key's version. Equal keys of two databases have different slots."""
    return (zlib.crc32(key) + db) % VERSION_SLOTS


class Change(Protocol):
    """A journal entry: a change, and how to undo it."""

    @property
    def database(self) -> "Database":
        """The changed database."""

    @property
    def keys(self) -> Sequence[bytes]:
        """The changed keys, if they are known one by one."""

    def remove_pending(self, pending: dict[bytes, int], sequence: int) -> None:
        """Remove the keys whose newest uncommitted change has this sequence number. pending: sequence number by key."""

    def undo(self) -> None:
        """Restore the state before the change. All later changes must be undone already."""

    def discard(self) -> None:
        """Free the data kept for `undo`."""


Journal: TypeAlias = list[Change]


def undo(journal: Journal) -> None:
    """Undo the changes of a journal, newest first."""
    for change in reversed(journal):
        change.undo()


def discard(journal: Journal) -> None:
    """Free the data of a journal that will not be undone."""
    for change in journal:
        change.discard()


@record
class Before:
    """A change of one key, with its previous entry (value and expiry, or None)."""

    database: "Database"
    key: bytes
    entry: tuple[Stored, int | None] | None

    @property
    def keys(self) -> Sequence[bytes]:
        """The key."""
        return (self.key,)

    def undo(self) -> None:
        """Restore the previous entry."""
        self.database.restore(self.key, self.entry)

    def discard(self) -> None:
        """Do nothing."""

    def remove_pending(self, pending: dict[bytes, int], sequence: int) -> None:
        """See `Change`."""
        if pending.get(self.key) == sequence:
            del pending[self.key]


@record
class Cleared:
    """A table and its expiries that `clear_all` has replaced."""

    database: "Database"
    table: Table
    expiries: ExpiryIndex

    @property
    def keys(self) -> Sequence[bytes]:
        """No keys: they are not known one by one."""
        return ()

    def undo(self) -> None:
        """Make it the database's table again."""
        self.database.restore_all(self)

    def discard(self) -> None:
        """Free it, in slices."""
        self.database.free_later(self)

    def remove_pending(self, pending: dict[bytes, int], sequence: int) -> None:
        """Do nothing."""


@record
class Watched:
    """A key's state when a client began to watch it; see `Database.is_unchanged`."""

    key: bytes
    version: int
    cleared: int  # how often its database had been cleared
    restored: int  # how often a clearing had been undone
    there: bool
    expiry: int | None


class ColdValue(Exception):
    """A read of a cold value. The caller must check for cold values before it executes a command."""


class Shared(LogTime):
    """State that the databases of a store share. Each database adds itself to `databases`, by its number."""

    def __init__(self) -> None:
        super().__init__()
        self.journal: Journal | None = None
        """Receives the previous state of each change; None: no change will be undone."""
        self.versions = array("Q", bytes(8 * VERSION_SLOTS))
        self.databases: dict[int, Database] = {}

    def version(self, db: int, key: bytes) -> int:
        """Return a key's version."""
        return self.versions[version_slot(db, key)]

    def changed(self, db: int, key: bytes) -> None:
        """Give a key a new version, after a change of its value, its expiry or its existence.

        No client watches records of queues.
        """
        if db != QUEUE_DB:
            self.versions[version_slot(db, key)] += 1


class Database:
    """A table in log time. Not thread-safe."""

    __slots__ = ("_cleared", "_expiries", "_table", "_times_cleared", "_times_restored", "number", "shared")

    def __init__(self, shared: Shared | None = None, number: int | None = None) -> None:
        """shared: state shared with the other databases of the store; None: there are no others.

        number: None: the next one.
        """
        self.shared: Final = shared or Shared()
        self.number: Final = len(self.shared.databases) if number is None else number
        self.shared.databases[self.number] = self
        self._table = Table()
        self._expiries = ExpiryIndex(self.shared)
        self._cleared: list[Cleared] = []  # to be freed in slices
        self._times_cleared = 0
        self._times_restored = 0  # how often `clear_all` was undone

    # -- time ---------------------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        """Log time in milliseconds."""
        return self.shared.now

    def advance(self, now: int) -> None:
        """Advance log time to `now`, if that is later."""
        self.shared.advance(now)

    # -- reading ------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None if it is absent. Raises `ColdValue`."""
        bucket = self._table.bucket(key)
        value = bucket.values.get(key)
        if value is not None and bucket.expiries:
            expiry = bucket.expiries.get(key)
            if expiry is not None and expiry <= self.now:
                return None
        if isinstance(value, int):
            raise ColdValue(f"the value of {key[:64]!r} is not in memory")
        return value

    def entry(self, key: bytes) -> tuple[bytes, int | None] | None:
        """Return the value and the expiry (None: never) of a key, or None if it is absent. Raises `ColdValue`."""
        entry = self.stored(key)
        if entry is None:
            return None
        value, expiry = entry
        if isinstance(value, int):
            raise ColdValue(f"the value of {key[:64]!r} is not in memory")
        return value, expiry

    def stored(self, key: bytes) -> tuple[Stored, int | None] | None:
        """Return the value, or the length of a cold value, and the expiry of a key, or None if it is absent."""
        entry = self._table.get(key)
        return entry if self._is_visible(entry) else None

    def has(self, key: bytes) -> bool:
        """Return whether a key exists."""
        return self._is_visible(self._table.get(key))

    def _is_visible(self, entry: tuple[Stored, int | None] | None) -> bool:
        return entry is not None and (entry[1] is None or entry[1] > self.now)

    def count(self) -> int:
        """Return the exact number of keys, without expired keys."""
        return self._table.keys - self._expiries.expired(self.now)

    def count_expiring(self) -> int:
        """Return the number of keys with an expiry, without expired keys."""
        return len(self._expiries) - self._expiries.expired(self.now)

    def slice(self, cursor: int, count: int, prefix: bytes) -> tuple[int, list[bytes]]:
        """Return the next cursor (0: the end), and the keys with a prefix in one slice of the table."""
        following, keys = self._table.slice(cursor, count)
        return following, [key for key in keys if key.startswith(prefix) and self.has(key)]

    @property
    def is_crowded(self) -> bool:
        """Whether a bucket has so many keys that `has_room_for` may return False."""
        return self._table.crowded > 0

    def has_room_for(self, key: bytes) -> bool:
        """Return False for a new key if `PLACE_KEYS_MAX` keys share its place in the scan order."""
        return self._table.has_room_for(key, self.now)

    @property
    def used_bytes(self) -> int:
        """The estimated memory of all entries, expired ones included."""
        return self._table.used_bytes

    @property
    def index_bytes(self) -> int:
        """The estimated memory of the expiry index."""
        return self._expiries.used_bytes

    @property
    def garbage_bytes(self) -> int:
        """The estimated memory of cleared tables that are not freed yet."""
        return sum(cleared.table.used_bytes + cleared.expiries.used_bytes for cleared in self._cleared)

    # -- changing -----------------------------------------------------------------------------------------

    def put(self, key: bytes, value: bytes, expiry: int | None) -> None:
        """Set the value and the expiry (None: never) of a key."""
        old = self._table.get(key)
        if self.shared.journal is not None:
            self.shared.journal.append(Before(self, key, old))
        self._replace(key, old, (value, expiry))
        self.shared.changed(self.number, key)

    def delete(self, key: bytes) -> bool:
        """Delete a key. Returns whether it existed."""
        old = self._table.get(key)
        if old is None:
            return False
        if self.shared.journal is not None:
            self.shared.journal.append(Before(self, key, old))
        self._replace(key, old, None)
        if not self._is_visible(old):
            return False
        self.shared.changed(self.number, key)
        return True

    def clear_all(self) -> None:
        """Delete all keys, by replacing the table with an empty one."""
        cleared = Cleared(self, self._table, self._expiries)
        if self.shared.journal is not None:
            self.shared.journal.append(cleared)
        else:
            self.free_later(cleared)
        self._table, self._expiries = Table(), ExpiryIndex(self.shared)
        self._times_cleared += 1

    def _replace(
        self, key: bytes, old: tuple[Stored, int | None] | None, new: tuple[Stored, int | None] | None
    ) -> None:
        if old is not None and old[1] is not None:
            self._expiries.remove(key, old[1])
        if new is None:
            self._table.delete(key)
        else:
            self._table.put(key, *new)
            if new[1] is not None:
                self._expiries.add(key, new[1])

    def load(self, key: bytes, value: Stored, expiry: int | None) -> None:
        """Add an entry that storage has kept. The key must be absent; no command has been executed yet."""
        self._table.put(key, value, expiry)
        if expiry is not None:
            self._expiries.add(key, expiry)

    def take_over(self, loaded: "Database") -> None:
        """Move all entries of another database, which is unusable afterwards, to this empty one."""
        self._table, self._expiries = loaded._table, loaded._expiries
        self._expiries.belong_to(self.shared)
        self._times_restored += 1  # so that keys watched before count as changed

    def copy_undone(self, interrupted: "Database", journal: Journal) -> None:
        """Copy the entries of another database without the changes of a journal. The last change may be incomplete.

        The other database does not change. This database must be empty."""
        table, before = interrupted._table, list[tuple[bytes, tuple[Stored, int | None] | None]]()
        for change in reversed(journal):
            if change.database is not interrupted:
                continue
            if isinstance(change, Cleared):
                table, before = change.table, []
            elif isinstance(change, Before):
                before.append((change.key, change.entry))
        self._table = table.copy(before)
        for key, expiry in self._table.expiries():
            self._expiries.add(key, expiry)

    # -- undoing (for changes) -----------------------------------------------------------------------------

    def restore(self, key: bytes, entry: tuple[Stored, int | None] | None) -> None:
        """Restore the entry of a key; None: delete the key."""
        present = self._table.get(key)
        self._replace(key, present, entry)
        if self._is_visible(present) or self._is_visible(entry):
            self.shared.changed(self.number, key)

    def restore_all(self, cleared: Cleared) -> None:
        """Restore a cleared table."""
        self.free_later(Cleared(self, self._table, self._expiries))
        self._table, self._expiries = cleared.table, cleared.expiries
        self._times_restored += 1

    def free_later(self, cleared: Cleared) -> None:
        """Free an unused table in slices; see `free_slice`."""
        self._cleared.append(cleared)

    # -- watching -------------------------------------------------------------------------------------------

    def watch(self, key: bytes) -> Watched:
        """Return the state of a key, for `is_unchanged`."""
        entry = self.stored(key)
        return Watched(
            key,
            self.shared.version(self.number, key),
            self._times_cleared,
            self._times_restored,
            there=entry is not None,
            expiry=None if entry is None else entry[1],
        )

    def is_unchanged(self, watched: Watched) -> bool:
        """Return False if a command, an undo or an expiry may have changed the key since `watch`."""
        if self.shared.version(self.number, watched.key) != watched.version:
            return False
        if self._times_restored != watched.restored:
            return False  # a restored table may have another entry of the key
        if not watched.there:
            return True
        expired = watched.expiry is not None and watched.expiry <= self.now
        return not expired and self._times_cleared == watched.cleared

    # -- cold values ------------------------------------------------------------------------------------------

    @property
    def cold_keys(self) -> int:
        """The number of cold values, those of expired keys included."""
        return self._table.cold_keys

    @property
    def cold_bytes(self) -> int:
        """The total length of cold values in bytes."""
        return self._table.cold_bytes

    def cold_length(self, key: bytes) -> int | None:
        """Return the length of a cold value in bytes, expired or not; None if the value is in memory or absent."""
        value = self._table.bucket(key).values.get(key)
        return value if isinstance(value, int) else None

    def length(self, key: bytes) -> int:
        """Return the length of a value in bytes, cold or not, expired or not; 0 if it is absent."""
        return length_of(self._table.bucket(key).values.get(key) or 0)

    def in_memory(self, key: bytes) -> bool:
        """Return whether the value of a key is in memory, expired or not."""
        return isinstance(self._table.bucket(key).values.get(key), bytes)

    def keys_in_memory(self) -> Iterator[bytes]:
        """Yield the keys of all values in memory. The database must not change meanwhile."""
        return (key for key, value, _ in self._table if isinstance(value, bytes))

    def evict_value(self, key: bytes) -> None:
        """Make a value cold. This is no visible change: neither the journal nor the version changes."""
        self._table.evict_value(key)

    def load_value(self, key: bytes, value: bytes) -> None:
        """Put a cold value back into memory."""
        self._table.load_value(key, value)

    # -- in the background --------------------------------------------------------------------------------

    def expired(self, limit: int) -> list[bytes]:
        """Return up to `limit` expired keys that still take memory, without those of the current tick."""
        return self._expiries.some_expired(self.now, limit)

    def free_expired(self, key: bytes) -> None:
        """Free the memory of an expired key. No journal records this: undoing older changes cannot make the key
        visible."""
        entry = self._table.get(key)
        assert not self._is_visible(entry), "the key has not expired"
        if entry is not None:
            self._replace(key, entry, None)

    def free_slice(self) -> bool:
        """Free a bounded part of cleared tables. Returns whether there was one."""
        if not self._cleared:
            return False
        cleared = self._cleared[-1]
        if not cleared.expiries.free_some(FREE_EXPIRIES) and not cleared.table.free_buckets(FREE_BUCKETS):
            self._cleared.pop()
        return True

    @property
    def tidy(self) -> bool:
        """Whether no key has an expiry and no cleared table is left, so that housekeeping has nothing to do."""
        return self._expiries.empty and not self._cleared

    # -- checking -----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError unless table, expiry index and counters agree."""
        entries = list(self._table)
        assert len(entries) == self._table.keys == len({key for key, _, _ in entries})
        with_expiry = {(key, expiry) for key, _, expiry in entries if expiry is not None}
        assert with_expiry == set(self._expiries.pairs())
        rebuilt = Table()
        for key, value, expiry in entries:
            assert self._table.get(key) == (value, expiry)
            rebuilt.put(key, value, expiry)
        assert rebuilt.used_bytes == self._table.used_bytes
        assert (rebuilt.cold_keys, rebuilt.cold_bytes) == (self._table.cold_keys, self._table.cold_bytes)
