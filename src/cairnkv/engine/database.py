"""The keyspace: the table, what is visible in it at a time, and how changes are taken back.

What always holds:
- It is deterministic: what it holds and answers depends on the commands applied and the times they were
  applied with, and on nothing else. No clock, no randomness, no look at memory use or at who asked.
- `now` is log time in milliseconds and never decreases, so an expired key never comes back.
- Every change that shows goes through `put`, `drop` or `clear_all`, which tell the journal, if there is one, what
  was there before. Undoing a journal, newest entry first, restores exactly that.
- An expired key is invisible from its deadline on, whether or not it was removed.

Not for what each command does (`operations`), and not for when a reply may leave (the store).
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import Final, Protocol, TypeAlias

from cairnkv.engine.expiry import ExpiryIndex
from cairnkv.engine.log_time import LogTime
from cairnkv.engine.table import Stored, Table, length_of
from cairnkv.engine.versions import VERSION_SLOTS, version_slot
from cairnkv.records import record

FREE_BUCKETS: Final = 64
"""Buckets of a cleared table that are freed in one slice: some 11,000 entries, about a millisecond."""

FREE_EXPIRIES: Final = 10_000
"""Deadlines of a cleared table that are freed in one slice."""


class Change(Protocol):
    """One entry of a journal: something that was changed, and how to take that back."""

    @property
    def database(self) -> "Database":
        """Where that was."""

    @property
    def keys(self) -> Sequence[bytes]:
        """The single keys that were."""

    def remove_pending(self, pending: dict[bytes, int], sequence: int) -> None:
        """Take out the keys whose newest uncommitted change this was: `pending` says which sequence that has."""

    def undo(self) -> None:
        """Restore what was there before. Only what came later may have been undone before it."""

    def forget(self) -> None:
        """Let go of what was kept for that."""


Journal: TypeAlias = list[Change]


def undo(journal: Journal) -> None:
    """Take the changes of a journal back, newest first."""
    for change in reversed(journal):
        change.undo()


def forget(journal: Journal) -> None:
    """Let go of a journal that will not be undone."""
    for change in journal:
        change.forget()


@record
class Before:
    """A change of one key: what stood there before, value and deadline, or None."""

    database: "Database"
    key: bytes
    entry: tuple[Stored, int | None] | None

    @property
    def keys(self) -> Sequence[bytes]:
        """The key."""
        return (self.key,)

    def undo(self) -> None:
        """Let that stand there again."""
        self.database.restore(self.key, self.entry)

    def forget(self) -> None:
        """Nothing is kept besides this."""

    def remove_pending(self, pending: dict[bytes, int], sequence: int) -> None:
        """See `Change`."""
        if pending.get(self.key) == sequence:
            del pending[self.key]


@record
class Cleared:
    """A whole table, with its deadlines, that another took the place of."""

    database: "Database"
    table: Table
    expiries: ExpiryIndex

    @property
    def keys(self) -> Sequence[bytes]:
        """No single ones."""
        return ()

    def undo(self) -> None:
        """Let it be the table again."""
        self.database.restore_all(self)

    def forget(self) -> None:
        """Free it, in slices."""
        self.database.discard(self)

    def remove_pending(self, pending: dict[bytes, int], sequence: int) -> None:
        """There are no keys of it."""


@record
class Watched:
    """What a key was like when somebody began to watch it; `Database.is_unchanged` compares."""

    key: bytes
    version: int
    cleared: int  # how often its keyspace had been cleared
    restored: int  # ... and how often that had been undone
    there: bool
    expiry: int | None


class ColdValue(Exception):
    """The value of a key was asked for, which is cold: whoever asks has to see before that it is not."""


class Shared(LogTime):
    """What keyspaces share. Each that is made with it adds itself to `databases`."""

    def __init__(self) -> None:
        super().__init__()
        self.journal: Journal | None = None
        """Where changes leave what they replaced; None when nothing will be undone."""
        self.versions = array("Q", bytes(8 * VERSION_SLOTS))
        self.databases: list[Database] = []

    def version(self, db: int, key: bytes) -> int:
        """A number that is another one after every change of the key."""
        return self.versions[version_slot(db, key)]

    def changed(self, db: int, key: bytes) -> None:
        """The key has another value, deadline, or none any more."""
        self.versions[version_slot(db, key)] += 1


class Database:
    """A table in log time. One thread at a time."""

    def __init__(self, shared: Shared | None = None) -> None:
        """shared: with the other keyspaces of its store; None: it is alone."""
        self.shared: Final = shared or Shared()
        self.number: Final = len(self.shared.databases)
        self.shared.databases.append(self)
        self._table = Table()
        self._expiries = ExpiryIndex(self.shared)
        self._cleared: list[Cleared] = []  # what nobody can see any more, being freed in slices
        self._times_cleared = 0
        self._times_restored = 0  # by the undoing of `clear_all`

    # -- time ---------------------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        """Log time in milliseconds."""
        return self.shared.now

    def advance(self, now: int) -> None:
        """Let log time go on to `now`, if that is later than it is."""
        self.shared.advance(now)

    # -- reading ------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """The visible value of a key. Raises `ColdValue`."""
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
        """The visible value of a key and its deadline (None: never). Raises `ColdValue`."""
        entry = self.stored(key)
        if entry is None:
            return None
        value, expiry = entry
        if isinstance(value, int):
            raise ColdValue(f"the value of {key[:64]!r} is not in memory")
        return value, expiry

    def stored(self, key: bytes) -> tuple[Stored, int | None] | None:
        """What stands under a key, visibly, and its deadline: for whoever does not need the value."""
        entry = self._table.get(key)
        return entry if self._is_visible(entry) else None

    def has(self, key: bytes) -> bool:
        """Whether a key is visible."""
        return self._is_visible(self._table.get(key))

    def _is_visible(self, entry: tuple[Stored, int | None] | None) -> bool:
        return entry is not None and (entry[1] is None or entry[1] > self.now)

    def count(self) -> int:
        """How many keys are visible, exactly."""
        return self._table.keys - self._expiries.due(self.now)

    def count_expiring(self) -> int:
        """How many of these will expire."""
        return len(self._expiries) - self._expiries.due(self.now)

    def slice(self, cursor: int, count: int, prefix: bytes) -> tuple[int, list[bytes]]:
        """The visible keys with a prefix in one slice of the table, and the next cursor (0: the end)."""
        following, keys = self._table.slice(cursor, count)
        return following, [key for key in keys if key.startswith(prefix) and self.has(key)]

    @property
    def is_crowded(self) -> bool:
        """Whether a bucket has so many keys that `takes` may refuse a key."""
        return self._table.crowded > 0

    def takes(self, key: bytes) -> bool:
        """Return whether a key may be stored: False for a new key whose place has the maximum number of keys."""
        return self._table.takes(key, self.now)

    @property
    def used_bytes(self) -> int:
        """An estimate of the memory that the entries take, the expired ones included."""
        return self._table.used_bytes

    @property
    def index_bytes(self) -> int:
        """The estimated memory of the index of deadlines."""
        return self._expiries.used_bytes

    @property
    def garbage_bytes(self) -> int:
        """An estimate of the memory of cleared tables that are not freed yet."""
        return sum(cleared.table.used_bytes + cleared.expiries.used_bytes for cleared in self._cleared)

    # -- changing -----------------------------------------------------------------------------------------

    def put(self, key: bytes, value: bytes, expiry: int | None) -> None:
        """Store a value under a key, to expire at a deadline (None: never)."""
        old = self._table.get(key)
        if self.shared.journal is not None:
            self.shared.journal.append(Before(self, key, old))
        self._replace(key, old, (value, expiry))
        self.shared.changed(self.number, key)

    def drop(self, key: bytes) -> bool:
        """Take a key out; whether it was visible."""
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
        """Take every key out, by putting an empty table in the place of this one."""
        cleared = Cleared(self, self._table, self._expiries)
        if self.shared.journal is not None:
            self.shared.journal.append(cleared)
        else:
            self.discard(cleared)
        self._table, self._expiries = Table(), ExpiryIndex(self.shared)
        self._times_cleared += 1

    def _replace(
        self, key: bytes, old: tuple[Stored, int | None] | None, new: tuple[Stored, int | None] | None
    ) -> None:
        if old is not None and old[1] is not None:
            self._expiries.remove(key, old[1])
        if new is None:
            self._table.drop(key)
        else:
            self._table.put(key, *new)
            if new[1] is not None:
                self._expiries.add(key, new[1])

    def load(self, key: bytes, value: Stored, expiry: int | None) -> None:
        """Let an entry stand that was there in an earlier life. Only before the first command: no such key is there."""
        self._table.put(key, value, expiry)
        if expiry is not None:
            self._expiries.add(key, expiry)

    def take_over(self, loaded: "Database") -> None:
        """Have the entries of another keyspace, which is of no use afterwards. There are none here yet."""
        self._table, self._expiries = loaded._table, loaded._expiries
        self._expiries.belong_to(self.shared)
        self._times_restored += 1  # for whoever began to watch a key before

    def copy_undone(self, interrupted: "Database", journal: Journal) -> None:
        """Copy the entries of another keyspace without the changes of a journal. The last change may be incomplete.

        The other keyspace does not change. This keyspace must be empty."""
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

    # -- undoing (for journals) -----------------------------------------------------------------------------

    def restore(self, key: bytes, entry: tuple[Stored, int | None] | None) -> None:
        """Let this entry stand under a key again, or none."""
        present = self._table.get(key)
        self._replace(key, present, entry)
        if self._is_visible(present) or self._is_visible(entry):
            self.shared.changed(self.number, key)

    def restore_all(self, cleared: Cleared) -> None:
        """Let this table take its place again."""
        self.discard(Cleared(self, self._table, self._expiries))
        self._table, self._expiries = cleared.table, cleared.expiries
        self._times_restored += 1

    def discard(self, cleared: Cleared) -> None:
        """Free a table that nobody can see any more, in slices."""
        self._cleared.append(cleared)

    # -- watching -------------------------------------------------------------------------------------------

    def watch(self, key: bytes) -> Watched:
        """What a key is like now, for `is_unchanged`."""
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
        """Whether a key was neither changed nor taken away since, by a command, its undoing, or time."""
        if self.shared.version(self.number, watched.key) != watched.version:
            return False
        if self._times_restored != watched.restored:
            return False  # it may have come with the others, and whether it did nobody knows without a look at both
        if not watched.there:
            return True
        expired = watched.expiry is not None and watched.expiry <= self.now
        return not expired and self._times_cleared == watched.cleared

    # -- values that are elsewhere ----------------------------------------------------------------------------

    @property
    def cold_keys(self) -> int:
        """How many values are cold, those of expired keys included."""
        return self._table.cold_keys

    @property
    def cold_bytes(self) -> int:
        """Bytes that these have, wherever they are."""
        return self._table.cold_bytes

    def cold_length(self, key: bytes) -> int | None:
        """Bytes of the value of a key if it is cold, expired or not; None: it is not, or there is none."""
        value = self._table.bucket(key).values.get(key)
        return value if isinstance(value, int) else None

    def length(self, key: bytes) -> int:
        """Bytes of the value of a key, wherever it is, expired or not; 0: there is none."""
        return length_of(self._table.bucket(key).values.get(key) or 0)

    def is_hot(self, key: bytes) -> bool:
        """Whether a value is there in memory, expired or not."""
        return isinstance(self._table.bucket(key).values.get(key), bytes)

    def hot_keys(self) -> Iterator[bytes]:
        """The keys of all values in memory. Nothing may change meanwhile."""
        return (key for key, value, _ in self._table if isinstance(value, bytes))

    def cool(self, key: bytes) -> None:
        """Let go of a value that is in memory. It shows nowhere, so no journal is told and no version changes."""
        self._table.cool(key)

    def warm(self, key: bytes, value: bytes) -> None:
        """Let a cold value stand there again, which is this one."""
        self._table.warm(key, value)

    # -- in the background --------------------------------------------------------------------------------

    def expired(self, limit: int) -> list[bytes]:
        """Up to `limit` keys that are expired and still take memory; the latest second is left for later."""
        return self._expiries.some_due(self.now, limit)

    def free_expired(self, key: bytes) -> None:
        """Free the memory of an expired key. It shows nowhere, not even when older changes are undone, so no
        journal is told."""
        entry = self._table.get(key)
        assert not self._is_visible(entry), "only what is expired may go without a word"
        if entry is not None:
            self._replace(key, entry, None)

    def free_slice(self) -> bool:
        """Free a bounded part of what CLEAR_ALL left behind; whether there is more."""
        if not self._cleared:
            return False
        cleared = self._cleared[-1]
        if not cleared.expiries.free_some(FREE_EXPIRIES) and not cleared.table.free_buckets(FREE_BUCKETS):
            self._cleared.pop()
        return True

    @property
    def tidy(self) -> bool:
        """Whether there is nothing to remove or free, and will not be unless something is changed: no deadlines."""
        return self._expiries.empty and not self._cleared

    # -- checking -----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError unless table, index and counters agree; every test of it ends with this."""
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
