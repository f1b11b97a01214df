"""Batches of the native path that need a commit: a batch becomes one entry of storage, or is undone.

The native path changes a database itself, and collects the effects of a batch and the values for its undo. At the end
of the batch it hands both over here. The replies to each client are one object, which waits for the entry.

Invariants: from `begin` to `end` no other code uses the store. If storage refuses the entry, the batch is undone at
once and its replies fail.

Out of scope: commands (`cairnkv.session.executor_native`). Not compiled: it takes a few steps for a whole batch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from cairnkv.commands import Failure
from cairnkv.engine import Database
from cairnkv.limits import QUEUE_DB
from cairnkv.records import record
from cairnkv.storage import Effect, Storage, StorageRefused
from cairnkv.store.commit_gate import CommitGate
from cairnkv.store.memory import Memory

if TYPE_CHECKING:
    from cairnkv.store.pending_native import PendingBatch


@record
class NativeChanges:
    """Changes made by the native path. undos: key, previous value and previous expiry of each change, in a row."""

    database: Database
    undos: list[bytes | int | None]

    @property
    def keys(self) -> Sequence[bytes]:
        """The keys."""
        return cast("list[bytes]", self.undos[::3])

    def undo(self) -> None:
        """Restore the previous entries, newest first."""
        for at in range(len(self.undos) - 3, -1, -3):
            key, value, expiry = cast("tuple[bytes, bytes | None, int | None]", self.undos[at : at + 3])
            self.database.restore(key, None if value is None else (value, expiry))

    def discard(self) -> None:
        """Do nothing."""

    def remove_pending(self, pending: dict[bytes, int], sequence: int) -> None:
        """See `Change`."""
        from cairnkv.engine.table_native import remove_pending

        remove_pending(pending, self.undos, sequence)


class BatchUndo:
    """The batches on one database of a store."""

    undoes = True
    """Whether a batch may have to be undone."""

    def __init__(
        self, storage: Storage, gate: CommitGate, memory: Memory, database: Database, *, only_reads: bool
    ) -> None:
        """only_reads: whether batches must not change the database, because values may be cold."""
        self.pending = gate.pending_keys[database.number]
        """The keys with uncommitted changes, each with the newest entry that changed it."""
        self.pending_of_queues = gate.pending_keys[QUEUE_DB]
        """The same of the records of queues."""
        self._of_queues: list[bytes | int | None] = []  # undos of the current batch
        self.only_reads = only_reads
        self._storage = storage
        self._gate = gate
        self._memory = memory
        self._database = database
        self._sequence = 0  # of the current batch
        self._refused: Failure | None = None  # why storage refused its entry

    def begin(self, now: int) -> tuple[int, int] | None:
        """Begin a batch. Returns the sequence number of its entry, and the entry that every reply must wait for.

        Returns None if the pure path must execute the commands: storage takes no entry now, a reply could show a log
        time that is not recorded, or the value cache has to learn which keys are used.
        """
        self._refused = None
        shared, cache = self._database.shared, self._memory.cache
        if not self._storage.accepts_writes or (shared.expiring and max(now, shared.now) > self._gate.recorded_time):
            return None
        if cache is not None and cache.wants_a_look():
            return None
        self._of_queues = []
        self._sequence = self._storage.sequence + 1
        return self._sequence, self._gate.newest_of_all(self._database.number)

    def floor_of_queues(self) -> int:
        """Return the entry that every reply about queues must wait for; 0: none."""
        return self._gate.newest_of_all(QUEUE_DB)

    def undo_queues(self, undos: list[bytes | int | None]) -> None:
        """Note the undos of records of queues that the current batch has changed, before its end; see `end`."""
        self._of_queues = undos

    def end(self, effects: Sequence[Effect], undos: list[bytes | int | None], size: int) -> "list[PendingBatch] | None":
        """End a batch that has changed the database.

        undos: for each change the key, and the value and expiry before it. size: bytes of the keys and values.
        Returns the list for the replies that wait for its entry; None: pass the replies to `hold`.
        """
        queues = self._database.shared.databases[QUEUE_DB]
        staged = [
            NativeChanges(database, undone)
            for database, undone in ((self._database, undos), (queues, self._of_queues))
            if undone
        ]
        try:
            sequence = self._storage.append((), self._database.now, effects, size)
        except StorageRefused as refused:
            self._undo(staged)
            self._refused = Failure(refused.code, str(refused))
            return None
        except BaseException:  # a bug, or an interrupt: changes that storage does not have must not stay
            self._undo(staged)
            raise
        return self._gate.add_batch(sequence, staged)

    def _undo(self, staged: Sequence[NativeChanges]) -> None:
        for changes in staged:
            changes.undo()
            # If an earlier entry had changed a key as well, the batch's mark has replaced that entry's.
            pending = self._gate.pending_keys[changes.database.number]
            pending.clear()
            pending.update(self._gate.uncommitted_keys(changes.database.number))

    def hold(self, sequence: int, batch: "PendingBatch") -> None:
        """Hold replies of which some wait for this entry, others for earlier ones."""
        if self._refused is not None and sequence == self._sequence:
            sequence = batch.refuse(sequence, self._refused)  # the others wait for their entries
        self._gate.hold_batch(sequence, batch)
