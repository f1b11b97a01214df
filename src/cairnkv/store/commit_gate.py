"""The commit gate: which replies must wait for which commit.

Invariants:
- A reply waits for the newest uncommitted change of the keys that it may show. A reply about a whole database waits for
  the newest uncommitted change of that database. Every reply waits until storage has recorded the log time that it may
  show.
- Entries leave the gate in their order when they commit, and newest first when they fail.

Out of scope: commits themselves (storage), and the undo of changes (the store).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from cairnkv.commands import Failure, Reply, Scope, Step
from cairnkv.engine import Journal
from cairnkv.engine.database import Before, Change, Cleared
from cairnkv.limits import QUEUE_DB
from cairnkv.storage import Effect
from cairnkv.store.pending import CommittedReply, PendingReply

if TYPE_CHECKING:
    from cairnkv.store.pending_native import PendingBatch


class UncommittedEntry:
    """An entry that storage has not committed yet, and the replies that wait for it."""

    __slots__ = ("batches", "journal", "own", "replies", "sequence")

    def __init__(self, sequence: int, journal: Journal) -> None:
        """own: the replies to the writes themselves, except those in the batches."""
        self.sequence = sequence
        self.journal = journal
        self.own: list[PendingReply] = []
        self.replies: list[PendingReply] = []
        self.batches: list[PendingBatch] = []

    @property
    def waiting(self) -> "list[PendingReply | PendingBatch]":
        """All replies that wait for this commit, those to its writes first."""
        return [*self.own, *self.replies, *self.batches]

    def fail(self, committed: int, write_failure: Failure, read_failure: Failure) -> None:
        """Fail the replies. committed: sequence number of the newest commit."""
        for reply in self.own:
            reply.fail(write_failure)
        for reply in self.replies:
            reply.fail(read_failure)
        for batch in self.batches:
            batch.fail_above(committed, write_failure, read_failure)


class CommitGate:
    """The uncommitted entries of a store, by sequence number."""

    def __init__(self) -> None:
        self.uncommitted: Final[dict[int, UncommittedEntry]] = {}
        """Oldest first. While it is empty and log time is not later than `recorded_time`, no reply waits."""
        self.pending_keys: Final[tuple[dict[bytes, int], ...]] = tuple({} for _ in range(QUEUE_DB + 1))
        """By database: the newest uncommitted entry that changed a key."""
        self._cleared: dict[int, int] = {}  # by database: the newest uncommitted entry that deleted all keys
        self._changed: dict[int, int] = {}  # by database: the newest uncommitted entry that changed it
        self._time_recorded_by = 0  # the newest entry that recorded log time
        self.recorded_time = 0
        """Log time up to which replies may show expiry, if storage outlives the process and a key can expire."""
        self.committed = 0
        """Sequence number of the newest commit."""
        self._unresolved: dict[int, set[bytes | None]] = {}  # by database: keys; None: all keys

    # -- entries ------------------------------------------------------------------------------------------------

    def add(self, sequence: int, journal: Journal, reply: Reply) -> PendingReply:
        """Add an entry; return the pending reply to its write."""
        kind: type[PendingReply] = PendingReply
        for change in journal:
            number = change.database.number
            self._changed[number] = sequence
            if number == QUEUE_DB:
                kind = CommittedReply
            if isinstance(change, Before):
                self.pending_keys[number][change.key] = sequence
            elif isinstance(change, Cleared):
                self._cleared[number] = sequence
        self.uncommitted[sequence] = UncommittedEntry(sequence, journal)
        return self.add_reply(sequence, reply, kind)

    def add_reply(self, sequence: int, reply: Reply, kind: type[PendingReply] = CommittedReply) -> PendingReply:
        """Return the pending reply to a write of an entry."""
        pending_reply = kind(reply)
        self.uncommitted[sequence].own.append(pending_reply)
        return pending_reply

    def add_batch(self, sequence: int, changes: Sequence[Change]) -> "list[PendingBatch]":
        """Add an entry of the native path, which marks pending keys itself; return the list of its batches."""
        for change in changes:
            self._changed[change.database.number] = sequence
        entry = self.uncommitted[sequence] = UncommittedEntry(sequence, list(changes))
        return entry.batches

    def add_time(self, sequence: int, time: int) -> None:
        """Add an entry that records log time."""
        self._time_recorded_by = sequence
        self.recorded_time = time
        self.uncommitted[sequence] = UncommittedEntry(sequence, [])

    def commit_oldest(self, sequence: int) -> UncommittedEntry | None:
        """Remove and return the oldest entry, if its sequence number is at most this."""
        if not self.uncommitted or (first := next(iter(self.uncommitted))) > sequence:
            return None
        return self._removed(self.uncommitted.pop(first))

    def fail_newest(self) -> UncommittedEntry | None:
        """Remove and return the newest entry, if there is one. No log time counts as recorded after that."""
        self.recorded_time = self._time_recorded_by = 0
        return self._removed(self.uncommitted.popitem()[1]) if self.uncommitted else None

    def _removed(self, entry: UncommittedEntry) -> UncommittedEntry:
        sequence = entry.sequence
        self._cleared = {db: at for db, at in self._cleared.items() if at > sequence}
        self._changed = {db: at for db, at in self._changed.items() if at > sequence}
        for change in entry.journal:
            change.remove_pending(self.pending_keys[change.database.number], sequence)
        return entry

    # -- replies ------------------------------------------------------------------------------------------------

    def newest_for(self, step: Step) -> int:
        """Return the newest uncommitted entry that a reply to this command may show; 0: none."""
        match step.command.spec.scope:
            case Scope.NOTHING:
                return 0
            case Scope.TABLE:
                return max(self._changed.get(step.db, 0), self._time_recorded_by)
            case Scope.KEYS | Scope.QUEUES:
                return max(self.newest_of(*place) for place in step.command.places(step.db))

    def newest_of(self, db: int, key: bytes) -> int:
        """Return the newest uncommitted entry that a reply about this key may show; 0: none."""
        return max(self._cleared.get(db, 0), self.pending_keys[db].get(key, 0), self._time_recorded_by)

    def newest_of_all(self, db: int) -> int:
        """Return the newest uncommitted entry that every reply about keys of a database waits for; 0: none."""
        newest = max(self._cleared.get(db, 0), self._time_recorded_by)
        return newest if newest > self.committed else 0

    def is_pending(self, db: int, key: bytes) -> bool:
        """Whether an uncommitted entry has changed this key."""
        return db in self._cleared or key in self.pending_keys[db]

    def hold(self, reply: Reply, sequence: int) -> Reply | PendingReply:
        """Return the reply if the entry with this sequence number is committed, otherwise a pending reply."""
        entry = self.uncommitted.get(sequence)
        if entry is None:
            return reply
        pending_reply = PendingReply(reply)
        entry.replies.append(pending_reply)
        return pending_reply

    def hold_batch(self, sequence: int, batch: "PendingBatch") -> None:
        """Release a batch when the entry with this sequence number is committed."""
        entry = self.uncommitted.get(sequence)
        if entry is None:
            batch.release()
        else:
            entry.batches.append(batch)

    def uncommitted_keys(self, db: int) -> dict[bytes, int]:
        """Return the keys of a database that uncommitted entries changed, each with the newest of these entries."""
        return {
            key: sequence
            for sequence, entry in self.uncommitted.items()  # oldest first
            for change in entry.journal
            if change.database.number == db
            for key in change.keys
        }

    # -- failed writes whose outcome is unknown -----------------------------------------------------------------

    def set_unresolved(self, effects: Sequence[Effect]) -> bool:
        """Refuse commands on the keys of these effects until `resolve`. Returns whether there are such keys."""
        for db, key, _, _ in effects:
            self._unresolved.setdefault(db, set()).add(key)
        return bool(self._unresolved)

    def resolve(self) -> None:
        """Storage has read the outcome of all failed writes."""
        self._unresolved.clear()

    def is_unresolved(self, step: Step) -> bool:
        """Whether a reply to this command may depend on a failed write whose outcome is unknown."""
        match step.command.spec.scope:
            case Scope.NOTHING:
                return False
            case Scope.TABLE:
                return step.db in self._unresolved
            case Scope.KEYS | Scope.QUEUES:
                return any(self.is_key_unresolved(*place) for place in step.command.places(step.db))

    def is_key_unresolved(self, db: int, key: bytes) -> bool:
        """The same for one key."""
        keys = self._unresolved.get(db, ())
        return key in keys or None in keys


def release(entries: Sequence[UncommittedEntry]) -> None:
    """Release all replies that wait for these entries, then notify their receivers."""
    released = [reply for entry in entries for reply in entry.waiting]
    for reply in released:
        reply.release()
    notify(released)


def notify(replies: "Sequence[PendingReply | PendingBatch]") -> None:
    """Call `on_ready` of pending replies."""
    for reply in replies:
        if reply.on_ready is not None:
            reply.on_ready()
