"""Changes that the compiled hot path makes where a log has to have them before their replies leave.

A run of the hot path changes a keyspace itself, and gathers what the changes come to and what would undo them. At the
run's end both are handed over here: they become one entry of the log, and the replies to each client one object that
is held until the entry is safe. So the promises of the store hold for a run as for any command.

What always holds: from `begin` to `end` nothing else uses the store. A run whose entry the log refuses at the last
moment is undone at once, and its replies fail.

Not for what a command does (`cairnkv.session.executor_native`). Not compiled: it takes a few steps for a whole run.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

from cairnkv.commands import Failure
from cairnkv.engine import Database
from cairnkv.records import record
from cairnkv.storage import Effect, StorageRefused

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


class StagingStore(Protocol):
    """What this needs of the store."""

    def begin_batch(self, db: int, now: int) -> tuple[int, int] | None:
        """The sequence of the next entry, and the one that whatever shows a key has to wait for.

        None: the log takes nothing at present, or a reply could show a time that it has not noted.
        """

    def end_batch(self, staged: NativeChanges, effects: Sequence[Effect], size: int) -> "list[PendingBatch]":
        """Give the log an entry; where to put the replies that wait for it.

        Raises `StorageRefused` when it takes none; nothing was undone then.
        """

    def hold_batch(self, sequence: int, run: "PendingBatch") -> None:
        """Hold replies until that sequence is committed."""

    def uncommitted_keys(self, db: int) -> dict[bytes, int]:
        """The keys of a keyspace that were changed and are not committed, with the newest sequence that did."""

    def refusal(self, refused: StorageRefused) -> Failure:
        """How a client is told."""


class BatchUndo:
    """The runs on one keyspace of a store."""

    undoes = True
    """Whether what a run does may have to be undone."""

    def __init__(
        self, store: StagingStore, database: Database, pending: dict[bytes, int], *, only_reads: bool = False
    ) -> None:
        """pending: keys that were changed and are not committed, with the newest sequence that did.

        only_reads: whether runs may change nothing, since values may be cold.
        """
        self.pending = pending
        self.only_reads = only_reads
        self._store = store
        self._database = database
        self._sequence = 0  # of the run at hand
        self._refused: Failure | None = None  # whether its entry was

    def begin(self, now: int) -> tuple[int, int] | None:
        """A run begins: see `StagingStore.begin_batch`."""
        self._refused = None
        said = self._store.begin_batch(self._database.number, now)
        if said is not None:
            self._sequence = said[0]
        return said

    def end(self, effects: Sequence[Effect], undos: list[bytes | int | None], size: int) -> "list[PendingBatch] | None":
        """A run that has changed something ends.

        effects: what it comes to. undos: of each change the key, and the value and deadline that were there before.
        size: bytes of the keys and values.
        Returns where to put the replies that wait for its entry; None: `hold` knows what becomes of them.
        """
        staged = NativeChanges(self._database, undos)
        try:
            return self._store.end_batch(staged, effects, size)
        except StorageRefused as refused:
            self._take_back(staged)
            self._refused = self._store.refusal(refused)
            return None
        except BaseException:  # a fault of ours: what no log has must not be there
            self._take_back(staged)
            raise

    def _take_back(self, staged: NativeChanges) -> None:
        staged.undo()
        # Where an earlier entry had changed a key as well, the run's mark stands in the place of that entry's.
        self.pending.clear()
        self.pending.update(self._store.uncommitted_keys(self._database.number))

    def hold(self, sequence: int, run: "PendingBatch") -> None:
        """Hold replies of which some wait for this sequence, others for earlier ones."""
        if self._refused is not None and sequence == self._sequence:
            sequence = run.refuse(sequence, self._refused)  # the others wait for theirs
        self._store.hold_batch(sequence, run)
