"""The writer: a thread that commits queued entries, reports commits, and recovers from disk failures.

Invariants:
- Entries are written in the order of their sequence numbers. A commit is atomic.
- All entries that were queued during a commit go into the next one, up to its limits.
- Sequence number and log time are in the same write as the effects. So after a reopening, the stored sequence number
  tells which commits are stored: all up to it, and no later ones.
- After a failed write or fsync, the writer writes nothing before it has reopened the directory, has found out whether
  the current commit is stored, and has reported that to the store.

Out of scope: the thread in which the store is called (`disk`).
"""

import collections
import contextlib
import enum
import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cairnkv.commands import failures
from cairnkv.engine.queue_records import MESSAGES, is_new
from cairnkv.limits import QUEUE_DB
from cairnkv.own_threads import OwnThread
from cairnkv.records import record
from cairnkv.storage.base import Effect, StorageRefused, size_of_effects
from cairnkv.storage.load import Restored, newest
from cairnkv.storage.reader import Reader
from cairnkv.storage.record_format import ENTRY, PART, db_range
from cairnkv.storage.recorder import Recorder
from cairnkv.storage.rocksdb import RocksDB, wait_while_behind
from cairnkv.storage.space import Space
from cairnkv.units import seconds

logger: Final = logging.getLogger("cairnkv.disk")

QUEUED_BYTES_MAX: Final = 64 * 1024 * 1024
"""Maximum bytes of entries in the queue for the disk. A queue that is less than half full accepts any entry."""

QUEUED_BYTES_LEAST: Final = 16 * 1024 * 1024
QUEUED_PART: Final = 8
"""The queue may use this part of a memory limit, if that is more than the minimum."""

QUEUED_ENTRIES_MAX: Final = 100_000
"""Maximum entries in the queue for the disk."""

COMMIT_BYTES: Final = 256 * 1024
"""Bytes of entries after which a commit is full; the last entry may be larger. Creating and writing the batch of a
commit holds the GIL for a millisecond."""

EFFECT_BYTES: Final = 32
"""Estimated bytes of memory of an effect besides its key and its value."""

UNCHECKED_BYTES: Final = 8 * 1024 * 1024
"""Bytes between two checks whether RocksDB is behind."""

REOPEN_FIRST_SECONDS: Final = 0.1
"""Time before the first attempt to reopen the directory; doubled after each failed attempt."""

REOPEN_LONGEST_SECONDS: Final = 5.0
"""Maximum time between attempts. The writer never gives up, since the disk may recover."""

REOPEN_LOGGED_SECONDS: Final = 60.0
"""Interval of log messages if attempts keep failing for the same reason."""

COMPACTION_PAUSE_SECONDS: Final = 2.0
"""Time between two compactions that free disk space."""

COMPACTION_POLL_SECONDS: Final = 0.2
"""Interval of checks whether a compaction has ended."""

COMPACTIONS_FAILED_MAX: Final = 3
"""Retries of a compaction that had too little disk space. The directory is reopened before each one."""

EVERYTHING: Final = bytes((ENTRY,)), bytes((PART + 1,))
"""The range of the record keys of all entries and parts."""


@record
class Sync:
    """When fsync is called.

    every: an interval in seconds; 0: before each commit is reported; None: never.

        always  a commit survives a crash of the process and of the system, and a power failure
        1s      a commit survives a crash of the process; a crash of the system or a power failure may lose the
                commits of the last second (or of another interval)
        none    a commit survives a crash of the process; the system decides when data reaches the disk
    """

    every: float | None = 0.0

    @classmethod
    def parse(cls, text: str) -> "Sync":
        """Parse `always`, `none` or an interval.

        >>> Sync.parse("always"), Sync.parse("500ms"), str(Sync.parse("1s"))
        (Sync(every=0.0), Sync(every=0.5), '1s')
        """
        if text in ("always", "none"):
            return cls(0.0 if text == "always" else None)
        try:
            every = seconds(text)
        except ValueError:
            every = 0.0
        if every <= 0:
            raise ValueError(f"always, none, or a time such as 1s or 500ms, not {text!r}")
        return cls(every)

    def __str__(self) -> str:
        if self.every is None:
            return "none"
        return f"{self.every:g}s" if self.every else "always"


class State(enum.Enum):
    """The state of a writer."""

    OK = "ok"
    RECOVERING = "recovering"
    """A write has failed, and the writer reopens the directory. It accepts no entries."""
    BROKEN = "broken"
    """The writer accepts no entries any more."""


class Failed(NamedTuple):
    """A write or an fsync has failed. unresolved: effects that may be stored or not."""

    reason: str
    unresolved: list[Effect]


class Resolved(NamedTuple):
    """The directory was reopened after a failure. failure: number of the failure. happened: effects that are stored."""

    failure: int
    sequence: int
    happened: list[Effect]


class Entry:
    """An entry in the queue. sequence: 0 for a hint, whose commit no reply waits for."""

    __slots__ = ("effects", "now", "sequence", "size")

    def __init__(self, sequence: int, now: int, effects: Sequence[Effect], size: int | None = None) -> None:
        """size: bytes of the keys and values, if known."""
        self.sequence = sequence
        self.now = now
        self.effects = effects
        if size is None:
            size = size_of_effects(effects)
        self.size = EFFECT_BYTES * len(effects) + size


def _needs_space(effect: Effect) -> bool:
    """Return whether a full disk refuses an effect: it adds an entry, or a message to a queue.

    The other records of queues only change. A full disk accepts them, so that a queue can be emptied.
    """
    db, key, value, _ = effect
    return value is not None and (db != QUEUE_DB or (key is not None and key.startswith(MESSAGES) and is_new(value)))


def queued_bytes_max(memory_limit: int | None) -> int:
    """Return the maximum bytes of entries in the queue for the disk, with this memory limit."""
    if memory_limit is None:
        return QUEUED_BYTES_MAX
    return min(QUEUED_BYTES_MAX, max(QUEUED_BYTES_LEAST, memory_limit // QUEUED_PART))


class Writer:
    """A queue of entries, and the thread that writes them to RocksDB."""

    def __init__(
        self,
        directory: Path,
        rocksdb: RocksDB,
        sync: Sync,
        restored: Restored,
        *,
        space: Space,
        found: Callable[[int | Failed | Resolved], None],
        reopen: Callable[[], RocksDB],
        reader: Reader,
        gather: float = 0.0,
        queued_bytes_max: int = QUEUED_BYTES_MAX,
    ) -> None:
        """found: called in the writer's thread with the newest committed sequence number, or a failure, or its end.

        reopen: reopens the directory. reader: uses the same RocksDB. Call `resume` after each `Resolved`.
        gather: seconds to wait for more entries, unless there are enough for a commit.
        queued_bytes_max: maximum bytes of entries in the queue.
        """
        self._directory = directory
        self.rocksdb = rocksdb
        """The current RocksDB."""
        self._is_open = True
        self._space = space
        self._reopen = reopen
        self._reader = reader
        self._flight: Sequence[Entry] = ()  # the entries of the current commit
        self._compaction: threading.Thread | None = None
        self._compact_at = 0.0
        self._compacting: set[tuple[bytes, bytes]] = set()
        self._compactions_failed = 0  # in a row
        self._to_compact: set[tuple[bytes, bytes]] = set()
        self._changed = True  # since everything was compacted
        self._sync = sync
        self._gather = gather
        self._queued_bytes_max = queued_bytes_max
        self._recorder = Recorder(rocksdb, restored.parted, restored.number, restored.store_format)
        self._found = found
        self._sequence = restored.sequence
        self._time = restored.time  # log time in RocksDB
        self.written = (restored.sequence, restored.time)  # of the newest commit in RocksDB
        self._unchecked = 0  # bytes written since the last check whether RocksDB is behind
        # Used by both threads, under the condition's lock:
        self._condition = threading.Condition()
        self._queue: collections.deque[Entry] = collections.deque()
        self._ending = False
        self.queued_bytes = 0
        self.state = State.OK
        self.why = ""  # the reason, if the state is not OK
        self.commits = 0
        self.failures = 0
        self._thread = OwnThread(self._run, "cairnkv disk")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def queued(self) -> int:
        """The number of entries in the queue."""
        return len(self._queue)

    @property
    def accepts_writes(self) -> bool:
        """Whether `put` accepts an entry of any size now."""
        return (
            self.state is State.OK
            and not self._ending
            and self._space.full is None
            and self.queued_bytes < self._queued_bytes_max // 2
            and len(self._queue) < QUEUED_ENTRIES_MAX
        )

    def put(self, entry: Entry) -> None:
        """Queue an entry. Raises `StorageRefused` if it is not accepted."""
        with self._condition:
            if self.state is not State.OK:
                lasting = self.state is State.BROKEN
                raise StorageRefused(self.why, failures.READONLY if lasting else failures.RECOVERING)
            if self._ending:
                raise StorageRefused(f"{self._directory} is closed", failures.READONLY)
            if self._space.full is not None and any(map(_needs_space, entry.effects)):
                raise StorageRefused(f"{self._directory}: {self._space.full}", failures.DISKFULL)
            waiting = len(self._queue)
            behind = self.queued_bytes >= self._queued_bytes_max // 2
            if waiting >= QUEUED_ENTRIES_MAX or (behind and self.queued_bytes + entry.size > self._queued_bytes_max):
                raise StorageRefused(
                    f"the disk is too slow: {waiting:,} writes of {self.queued_bytes:,} bytes wait for it"
                )
            self._put(entry)

    def hint(self, entry: Entry) -> None:
        """Queue an entry that no reply waits for, if the queue is less than half full."""
        with self._condition:
            if self.state is State.OK and not self._ending and len(self._queue) < QUEUED_ENTRIES_MAX // 2:
                self._put(entry)

    def _put(self, entry: Entry) -> None:
        self._queue.append(entry)
        had, self.queued_bytes = self.queued_bytes, self.queued_bytes + entry.size
        # The writer waits only if the queue was empty, or had too few entries for a commit.
        if len(self._queue) == 1 or had < COMMIT_BYTES <= self.queued_bytes:
            self._condition.notify()

    def end(self, now: int) -> None:
        """Write the queue and log time, and end the thread. Blocks."""
        with self._condition:
            self._ending = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join()
        if self._is_open and self.state is State.OK:
            try:
                batch = self.rocksdb.batch()
                self._recorder.note(batch, self._sequence, now)
                self.rocksdb.write(batch)
                if self._sync.every is not None:
                    self.rocksdb.sync()
            except Exception as error:
                logger.error("%s: cannot write log time: %s", self._directory, error)
        self._reader.end()
        self._space.release()
        self._close()

    def resume(self, failure: int) -> None:
        """Accept entries again, after the store has handled a failure. Does nothing after another failure."""
        with self._condition:
            if self.state is not State.RECOVERING or failure != self.failures:
                return
            self.state, self.why = State.OK, ""
        logger.warning("%s: writes continue", self._directory)

    def abandon(self) -> None:
        """Never touch the directory again, in a forked process."""
        self.rocksdb.abandon()

    # -- in the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                self._write_all()
                return
            except Exception as error:  # after any exception, the data on the disk is unknown
                reason = f"a write to the disk has failed: {error}"
            # Not in the except clause: the exception refers to objects that must be freed before reopening.
            if not self._recover(reason):
                return

    def _write_all(self) -> None:
        self._space.measure()
        sync_at: float | None = None  # time of the next fsync, if there is an interval
        every = self._sync.every
        while (entries := self._next_entries(self._next_work_at(sync_at))) is not None:
            if entries:
                self._commit(entries)
                if every and sync_at is None:
                    sync_at = time.monotonic() + every
            if sync_at is not None and time.monotonic() >= sync_at:
                self.rocksdb.sync()
                sync_at = None
            if self._space.due:
                self._space.measure()
            self._free_space()
        if sync_at is not None:
            self.rocksdb.sync()

    def _next_entries(self, work_at: float | None) -> list[Entry] | None:
        """Return the entries of the next commit; [] if other work is due, None at the end."""
        with self._condition:
            while not self._queue:
                if self._ending:
                    return None
                left = None if work_at is None else work_at - time.monotonic()
                if left is not None and left <= 0:
                    return []
                self._condition.wait(left)
            if self._gather:
                self._condition.wait_for(lambda: self._ending or self.queued_bytes >= COMMIT_BYTES, self._gather)
            entries: list[Entry] = []
            size = 0
            while self._queue and size < COMMIT_BYTES:
                entry = self._queue.popleft()
                entries.append(entry)
                size += entry.size
            self.queued_bytes -= size
        self._unchecked += size
        return entries

    def _commit(self, entries: Sequence[Entry]) -> None:
        """Write entries as one commit, sync as configured, and report the commit."""
        if self._unchecked >= UNCHECKED_BYTES:
            self._unchecked = 0
            if self._sync.every is not None and self.rocksdb.behind:
                self.rocksdb.sync()  # before waiting, so that the data written so far is synced
            wait_while_behind(self.rocksdb)
        batch = self._recorder.begin()
        self._flight = entries
        sequence = self._sequence
        for entry in entries:
            self._recorder.fill(batch, entry.effects, entry.size)
            sequence = entry.sequence or sequence
            self._time = max(self._time, entry.now)
            self._space.wrote(entry.size)
        self._recorder.note(batch, sequence, self._time)
        self.rocksdb.write(batch)
        if self._sync.every == 0:
            self.rocksdb.sync()
        self._flight = ()
        self.commits += 1
        self._changed = self._changed or any(entry.effects for entry in entries)
        self._to_compact.update(map(db_range, self._recorder.cleared))
        self.written = (sequence, self._time)
        if sequence > self._sequence:
            self._sequence = sequence
            self._found(sequence)

    # -- recovery ----------------------------------------------------------------------------------------------

    def _recover(self, reason: str) -> bool:
        """Fail all uncommitted entries, reopen the directory, and find out which effects are stored.

        Returns False if the writer must end.
        """
        unresolved = [effect for entry in self._flight for effect in entry.effects]
        last = max((entry.sequence for entry in self._flight), default=0) or self._sequence
        flight, self._flight = self._flight, ()
        self._set(State.RECOVERING, f"{reason}; {self._directory} is being reopened, and accepts no writes before")
        logger.error("%s: %s. It is being reopened, and accepts no writes before", self._directory, reason)
        self._found(Failed(reason, unresolved))
        while self._open_again():
            try:
                sequence, log_time = newest(self.rocksdb)
                if sequence < self._sequence:
                    self._give_up(sequence)
                    return False
                happened = any(entry.sequence for entry in flight) and sequence >= last
                self._space.measure()
                self._recorder.resume(self.rocksdb, happened=happened)
            except Exception as error:
                logger.error("%s: recovery failed: %s", self._directory, error)
                continue
            self._sequence, self._time = sequence, max(self._time, log_time)
            self.written = (self._sequence, self._time)
            logger.warning(
                "%s: reopened; the interrupted commit is %s", self._directory, "stored" if happened else "not stored"
            )
            self._found(Resolved(self.failures, sequence, unresolved if happened else []))
            self._reader.resume(self.rocksdb)  # after that, so that no read is answered before
            return True
        return False

    def _give_up(self, sequence: int) -> None:
        """Stop, since fsynced data is missing. Memory still has it."""
        lost = self._sequence - sequence
        self._set(
            State.BROKEN,
            f"the disk has failed, and {lost:,} committed writes are missing in {self._directory}: the data in "
            "memory can be read and exported; a restart continues with the data on the disk",
        )
        self._reader.give_up(self.why)
        self._reader.resume(self.rocksdb)
        logger.critical("%s: %s", self._directory, self.why)
        self._found(Resolved(self.failures, self._sequence, []))

    def _set(self, state: State, why: str) -> None:
        with self._condition:
            self.state, self.why = state, why
            self.failures += state is State.RECOVERING
            self._queue.clear()
            self.queued_bytes = 0

    def _open_again(self) -> bool:
        """Reopen the directory, with any number of attempts. Returns False if the writer must end."""
        pause = REOPEN_FIRST_SECONDS
        logged, logged_at = "", 0.0
        while True:
            self._close()
            with self._condition:
                if self._ending or self._condition.wait_for(lambda: self._ending, pause):
                    return False
            pause = min(2 * pause, REOPEN_LONGEST_SECONDS)
            try:
                self.rocksdb = self._reopen()
                self._is_open = True
                return True
            except Exception as error:
                text = str(error)
            if "No space left" in text and self._space.release():
                logger.warning("%s: the reserve is freed to open it", self._directory)
            if text != logged or time.monotonic() >= logged_at + REOPEN_LOGGED_SECONDS:
                logged, logged_at = text, time.monotonic()
                logger.error("%s: cannot be reopened yet: %s", self._directory, text)

    def _close(self) -> None:
        if self._compaction is not None and self._compaction.is_alive():
            self.rocksdb.stop_compacting()
            self._compaction.join()
            self._to_compact |= self._compacting
        self._compaction = None
        if self._is_open:
            self._is_open = False
            self._reader.pause()
            # It raises if it cannot flush everything to tables; then the write-ahead log has the rest.
            with contextlib.suppress(Exception):
                self.rocksdb.close()

    # -- disk space ---------------------------------------------------------------------------------------------

    def _free_space(self) -> None:
        """Compact ranges in RocksDB, to free the space of deleted records: after a database was cleared, and if space
        is low.

        A compaction writes new tables before it deletes the old ones, so everything is compacted only if there is
        enough space for that.
        """
        if self._compaction is not None:
            if self._compaction.is_alive():
                return
            self._compaction = None
            if self.rocksdb.gave_up and self._compactions_failed < COMPACTIONS_FAILED_MAX:
                self._compactions_failed += 1
                self._to_compact |= self._compacting
            else:
                self._compactions_failed = 0
        if time.monotonic() < self._compact_at:
            return
        if self._space.full is not None and (self._changed or self._to_compact):
            self._space.release_if_short()
            if self._changed and self.rocksdb.table_bytes < self._space.free:
                self._to_compact = {EVERYTHING}
            self._changed = False
        if self._to_compact:
            self._compact_at = time.monotonic() + COMPACTION_PAUSE_SECONDS
            if self.rocksdb.gave_up:
                raise OSError("RocksDB has stopped compacting")
            self._compacting, self._to_compact = self._to_compact, set()
            ranges = sorted(self._compacting)
            self._compaction = OwnThread(
                functools.partial(self._compact, self.rocksdb, ranges, self._space.full is not None),
                "cairnkv compaction",
            )
            self._compaction.start()

    def _compact(self, rocksdb: RocksDB, ranges: list[tuple[bytes, bytes]], alone: bool) -> None:
        try:
            for begin, end in ranges:
                rocksdb.compact(begin, end, alone=alone)
        except Exception as error:
            logger.warning("%s: compaction failed: %s", self._directory, error)

    def _next_work_at(self, sync_at: float | None) -> float | None:
        """Return the time of the next work besides entries, or None."""
        compact_at = None
        if self._to_compact or self._compaction is not None:
            compact_at = max(self._compact_at, time.monotonic() + COMPACTION_POLL_SECONDS)
        return min((at for at in (sync_at, self._space.measure_at, compact_at) if at is not None), default=None)
