"""The writer: a thread that makes commits of what is queued, says when they are safe, and gets over a disk that fails.

What always holds:
- Entries are written in the order of their sequences; those that one commit has, it has whole or not at all.
- Everything that was queued while a commit was under way goes into the next one, up to its bounds.
- Sequence and log time stand in the same write as what they describe. So the sequence that a directory says, opened
  anew, tells which commits are there: all up to it, and none behind it.
- After a write or an fsync has failed nothing is written before the directory was opened anew, it is known what became
  of the commit that was under way, and the store has been told.

Not for who is told, in which thread (`log`).
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
from cairnkv.own_threads import OwnThread
from cairnkv.storage.base import Effect, StorageRefused, size_of_effects
from cairnkv.storage.load import Restored, newest
from cairnkv.storage.reader import Reader
from cairnkv.storage.record_format import ENTRY, PART, db_range
from cairnkv.storage.recorder import Recorder
from cairnkv.storage.rocksdb import RocksDB, wait_while_behind
from cairnkv.storage.space import Space
from cairnkv.storage.sync import Sync

logger: Final = logging.getLogger("cairnkv.disk")

QUEUED_BYTES_MAX: Final = 64 * 1024 * 1024
"""Maximum bytes of entries in the queue for the disk. A queue that is less than half full accepts any entry."""

QUEUED_BYTES_LEAST: Final = 16 * 1024 * 1024
QUEUED_PART: Final = 8
"""The queue's part of a memory limit, if that is more than the minimum."""

QUEUED_ENTRIES_MAX: Final = 100_000
"""Entries that may wait for the disk."""

COMMIT_BYTES: Final = 256 * 1024
"""Bytes of entries after which a commit takes no more; the last one may be larger than that by itself. Making and
writing its batch holds the interpreter for a millisecond."""

EFFECT_BYTES: Final = 32
"""What an effect takes besides its key and its value, near enough."""

UNCHECKED_BYTES: Final = 8 * 1024 * 1024
"""Bytes that are written between two looks at whether RocksDB is behind."""

REOPEN_FIRST_SECONDS: Final = 0.1
"""How long a writer waits after an attempt to open the directory anew that failed; doubled each time."""

REOPEN_LONGEST_SECONDS: Final = 5.0
"""How long it waits at most. It never gives up: the disk may come back."""

REOPEN_SAID_SECONDS: Final = 60.0
"""How often the log says that it still fails for the same reason."""

COMPACTION_PAUSE_SECONDS: Final = 2.0
"""How long a writer waits from one compaction for room to the next."""

COMPACTION_LOOK_SECONDS: Final = 0.2
"""How often it is looked whether one has ended."""

COMPACTIONS_FAILED_MAX: Final = 3
"""How often a compaction is tried again that had no room; before each time the directory is opened anew."""

EVERYTHING: Final = bytes((ENTRY,)), bytes((PART + 1,))
"""The range of all keys that entries and their parts have."""


class State(enum.Enum):
    """What a writer can do at present."""

    OK = "ok"
    RECOVERING = "recovering"
    """Nothing: a write has failed, and the directory is being opened anew."""
    BROKEN = "broken"
    """Nothing, for good."""


class Failed(NamedTuple):
    """A write or an fsync has failed: why, and the effects of which nobody can tell whether they are there."""

    reason: str
    unresolved: list[Effect]


class Resolved(NamedTuple):
    """The directory is open anew, behind that failure: its sequence, and which of these effects are there."""

    failure: int
    sequence: int
    happened: list[Effect]


class Entry:
    """What waits for the disk. sequence: 0 of a hint that nobody waits for."""

    __slots__ = ("effects", "now", "sequence", "size")

    def __init__(self, sequence: int, now: int, effects: Sequence[Effect], size: int | None = None) -> None:
        """size: bytes of the keys and values, if they are known."""
        self.sequence = sequence
        self.now = now
        self.effects = effects
        if size is None:
            size = size_of_effects(effects)
        self.size = EFFECT_BYTES * len(effects) + size


def queued_bytes_max(memory_limit: int | None) -> int:
    """Return the maximum bytes of entries in the queue for the disk, with this memory limit."""
    if memory_limit is None:
        return QUEUED_BYTES_MAX
    return min(QUEUED_BYTES_MAX, max(QUEUED_BYTES_LEAST, memory_limit // QUEUED_PART))


class Writer:
    """A queue, and the thread that empties it into an engine."""

    def __init__(
        self,
        directory: Path,
        engine: RocksDB,
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
        """found: called in the writer's thread with the newest sequence that is safe, or what else was found out.

        reopen: opens the directory anew. reader: has the same engine. `resume` is to be called for each `Resolved`.
        gather: seconds for which an entry waits for others, unless there are enough for a commit.
        queued_bytes_max: maximum bytes of entries in the queue.
        """
        self._directory = directory
        self._engine = engine
        self._is_open = True
        self._space = space
        self._reopen = reopen
        self._reader = reader
        self._flight: Sequence[Entry] = ()  # what the commit under way has
        self._compaction: threading.Thread | None = None
        self._compact_at = 0.0
        self._compacting: set[tuple[bytes, bytes]] = set()
        self._compactions_failed = 0  # one after the other
        self._to_compact: set[tuple[bytes, bytes]] = set()
        self._changed = True  # whether anything was changed since everything was compacted
        self._sync = sync
        self._gather = gather
        self._queued_bytes_max = queued_bytes_max
        self._recorder = Recorder(engine, restored.parted, restored.number)
        self._found = found
        self._sequence = restored.sequence
        self._time = restored.time  # log time that was given to the engine
        self.written = (restored.sequence, restored.time)  # of the newest commit that the engine has for certain
        self._unchecked = 0  # bytes written since the last look at whether RocksDB is behind
        # What both threads use, under the condition's lock:
        self._condition = threading.Condition()
        self._queue: collections.deque[Entry] = collections.deque()
        self._ending = False
        self.queued_bytes = 0
        self.state = State.OK
        self.why = ""  # it is not ok
        self.commits = 0
        self.failures = 0
        self._thread = OwnThread(self._run, "cairnkv disk")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def engine(self) -> RocksDB:
        """What is written to."""
        return self._engine

    @property
    def queued(self) -> int:
        """How many entries wait."""
        return len(self._queue)

    @property
    def takes(self) -> bool:
        """Whether `put` would take an entry now, however large."""
        return (
            self.state is State.OK
            and not self._ending
            and self._space.full is None
            and self.queued_bytes < self._queued_bytes_max // 2
            and len(self._queue) < QUEUED_ENTRIES_MAX
        )

    def put(self, entry: Entry) -> None:
        """Queue an entry. Raises `StorageRefused` when none is taken."""
        with self._condition:
            if self.state is not State.OK:
                lasting = self.state is State.BROKEN
                raise StorageRefused(self.why, failures.READONLY if lasting else failures.RECOVERING)
            if self._ending:
                raise StorageRefused(f"{self._directory} is closed", failures.READONLY)
            if self._space.full is not None and any(value is not None for _, _, value, _ in entry.effects):
                raise StorageRefused(f"{self._directory}: {self._space.full}", failures.DISKFULL)
            waiting = len(self._queue)
            behind = self.queued_bytes >= self._queued_bytes_max // 2
            if waiting >= QUEUED_ENTRIES_MAX or (behind and self.queued_bytes + entry.size > self._queued_bytes_max):
                raise StorageRefused(
                    f"the disk is behind: {waiting:,} writes of {self.queued_bytes:,} bytes wait for it already"
                )
            self._put(entry)

    def hint(self, entry: Entry) -> None:
        """Queue an entry that nobody waits for, if there is room to spare."""
        with self._condition:
            if self.state is State.OK and not self._ending and len(self._queue) < QUEUED_ENTRIES_MAX // 2:
                self._put(entry)

    def _put(self, entry: Entry) -> None:
        self._queue.append(entry)
        had, self.queued_bytes = self.queued_bytes, self.queued_bytes + entry.size
        # The writer waits only where there was none, or not enough.
        if len(self._queue) == 1 or had < COMMIT_BYTES <= self.queued_bytes:
            self._condition.notify()

    def end(self, now: int) -> None:
        """Write what is queued and log time as it was shown, and end. Waits for that."""
        with self._condition:
            self._ending = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join()
        if self._is_open and self.state is State.OK:
            try:
                batch = self._engine.batch()
                self._recorder.note(batch, self._sequence, now)
                self._engine.write(batch)
                if self._sync.every is not None:
                    self._engine.sync()
            except Exception as error:
                logger.error("%s: log time was not noted at the end: %s", self._directory, error)
        self._reader.end()
        self._space.release()
        self._close()

    def resume(self, failure: int) -> None:
        """Take entries again, unless it has failed anew: the store has been told what was resolved."""
        with self._condition:
            if self.state is not State.RECOVERING or failure != self.failures:
                return
            self.state, self.why = State.OK, ""
        logger.warning("%s: writes go on", self._directory)

    def abandon(self) -> None:
        """Never touch the directory again, in a process that was forked from the writer's."""
        self._engine.abandon()

    # -- in the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                self._write_all()
                return
            except Exception as error:  # whatever it is, nobody can tell what the disk has
                reason = f"a write to the disk has failed: {error}"
            # Not within the clause: what was raised holds on to what has to go before the directory can be opened.
            if not self._recover(reason):
                return

    def _write_all(self) -> None:
        self._space.look()
        sync_at: float | None = None  # when fsync is to be called next, if it is called every now and then
        every = self._sync.every
        while (entries := self._next_entries(self._duty_at(sync_at))) is not None:
            if entries:
                self._commit(entries)
                if every and sync_at is None:
                    sync_at = time.monotonic() + every
            if sync_at is not None and time.monotonic() >= sync_at:
                self._engine.sync()
                sync_at = None
            if self._space.due:
                self._space.look()
            self._make_room()
        if sync_at is not None:
            self._engine.sync()

    def _next_entries(self, duty_at: float | None) -> list[Entry] | None:
        """What the next commit has; nothing when there is something else to do, None when there will be no more."""
        with self._condition:
            while not self._queue:
                if self._ending:
                    return None
                left = None if duty_at is None else duty_at - time.monotonic()
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
        """Write these as one, make them as safe as they are to be, and say so."""
        if self._unchecked >= UNCHECKED_BYTES:
            self._wait_while_behind()
        batch = self._recorder.begin()
        self._flight = entries
        sequence = self._sequence
        for entry in entries:
            self._recorder.fill(batch, entry.effects, entry.size)
            sequence = entry.sequence or sequence
            self._time = max(self._time, entry.now)
            self._space.wrote(entry.size)
        self._recorder.note(batch, sequence, self._time)
        self._engine.write(batch)
        if self._sync.every == 0:
            self._engine.sync()
        self._flight = ()
        self.commits += 1
        self._changed = self._changed or any(entry.effects for entry in entries)
        self._to_compact.update(map(db_range, self._recorder.cleared))
        self.written = (sequence, self._time)
        if sequence > self._sequence:
            self._sequence = sequence
            self._found(sequence)

    def _wait_while_behind(self) -> None:
        self._unchecked = 0
        if self._sync.every is not None and self._engine.behind:
            self._engine.sync()  # nothing is written meanwhile, and what was is not to wait for that
        wait_while_behind(self._engine)

    # -- when the disk has failed -------------------------------------------------------------------------------

    def _recover(self, reason: str) -> bool:
        """Have everything fail that is not committed, open the directory anew, and find out what is there.

        Whether that was possible; if not, the writer ends.
        """
        unresolved = [effect for entry in self._flight for effect in entry.effects]
        last = max((entry.sequence for entry in self._flight), default=0) or self._sequence
        flight, self._flight = self._flight, ()
        self._set(State.RECOVERING, f"{reason}; {self._directory} is being opened anew, and takes no writes before")
        logger.error("%s: %s. It is opened anew; until then it takes no writes", self._directory, reason)
        self._found(Failed(reason, unresolved))
        while self._open_again():
            try:
                sequence, log_time = newest(self._engine)
                if sequence < self._sequence:
                    self._give_up(sequence)
                    return False
                happened = any(entry.sequence for entry in flight) and sequence >= last
                self._space.look()
                self._recorder.go_on(self._engine, happened=happened)
            except Exception as error:
                logger.error("%s: it failed again: %s", self._directory, error)
                continue
            self._sequence, self._time = sequence, max(self._time, log_time)
            self.written = (self._sequence, self._time)
            logger.warning(
                "%s: opened anew; what was being written is %s", self._directory, "there" if happened else "not there"
            )
            self._found(Resolved(self.failures, sequence, unresolved if happened else []))
            self._reader.go_on(self._engine)  # behind that, so that nothing is answered before it is resolved
            return True
        return False

    def _give_up(self, sequence: int) -> None:
        """The disk has less than it had confirmed; memory has it still."""
        lost = self._sequence - sequence
        self._set(
            State.BROKEN,
            f"the disk has failed, and {lost:,} writes that it had taken are not in {self._directory}: what is in "
            "memory can be read, and exported; a restart goes on from what is on the disk",
        )
        self._reader.give_up(self.why)
        self._reader.go_on(self._engine)
        logger.critical("%s: %s", self._directory, self.why)
        self._found(Resolved(self.failures, self._sequence, []))

    def _set(self, state: State, why: str) -> None:
        with self._condition:
            self.state, self.why = state, why
            self.failures += state is State.RECOVERING
            self._queue.clear()
            self.queued_bytes = 0

    def _open_again(self) -> bool:
        """Open the directory anew, however long it takes; False when the writer is to end."""
        pause = REOPEN_FIRST_SECONDS
        said, said_at = "", 0.0
        while True:
            self._close()
            with self._condition:
                if self._ending or self._condition.wait_for(lambda: self._ending, pause):
                    return False
            pause = min(2 * pause, REOPEN_LONGEST_SECONDS)
            try:
                self._engine = self._reopen()
                self._is_open = True
                return True
            except Exception as error:
                text = str(error)
            if "No space left" in text and self._space.release():
                logger.warning("%s: the reserve is given up to open it", self._directory)
            if text != said or time.monotonic() >= said_at + REOPEN_SAID_SECONDS:
                said, said_at = text, time.monotonic()
                logger.error("%s: it cannot be opened anew yet: %s", self._directory, text)

    def _close(self) -> None:
        if self._compaction is not None and self._compaction.is_alive():
            self._engine.stop_compacting()
            self._compaction.join()
            self._to_compact |= self._compacting
        self._compaction = None
        if self._is_open:
            self._is_open = False
            self._reader.pause()
            # It complains where it cannot bring everything into tables; the write-ahead log has it then.
            with contextlib.suppress(Exception):
                self._engine.close()

    # -- room ---------------------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        """Have RocksDB give back the room of what was deleted: after a keyspace was cleared, and while it is short.

        All is only compacted where there is room for all: what is kept is written anew before what was there goes.
        """
        if self._compaction is not None:
            if self._compaction.is_alive():
                return
            self._compaction = None
            if self._engine.gave_up and self._compactions_failed < COMPACTIONS_FAILED_MAX:
                self._compactions_failed += 1
                self._to_compact |= self._compacting
            else:
                self._compactions_failed = 0
        if time.monotonic() < self._compact_at:
            return
        if self._space.full is not None and (self._changed or self._to_compact):
            self._space.make_way()
            if self._changed and self._engine.table_bytes < self._space.free:
                self._to_compact = {EVERYTHING}
            self._changed = False
        if self._to_compact:
            self._compact_at = time.monotonic() + COMPACTION_PAUSE_SECONDS
            if self._engine.gave_up:
                raise OSError("RocksDB has stopped bringing its tables in order")
            self._compacting, self._to_compact = self._to_compact, set()
            ranges = sorted(self._compacting)
            self._compaction = OwnThread(
                functools.partial(self._compact, self._engine, ranges, self._space.full is not None),
                "cairnkv compaction",
            )
            self._compaction.start()

    def _compact(self, engine: RocksDB, ranges: list[tuple[bytes, bytes]], alone: bool) -> None:
        try:
            for begin, end in ranges:
                engine.compact(begin, end, alone=alone)
        except Exception as error:
            logger.warning("%s: no room was given back: %s", self._directory, error)

    def _duty_at(self, sync_at: float | None) -> float | None:
        """When there is something to do though nothing is queued."""
        compact_at = None
        if self._to_compact or self._compaction is not None:
            compact_at = max(self._compact_at, time.monotonic() + COMPACTION_LOOK_SECONDS)
        return min((at for at in (sync_at, self._space.look_at, compact_at) if at is not None), default=None)
