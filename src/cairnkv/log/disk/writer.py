"""The writer: a thread that makes commits of what is queued, and says when they are safe.

What always holds:
- Entries are written in the order of their positions; those that one commit has, it has whole or not at all.
- Everything that was queued while a commit was under way goes into the next one, up to its bounds.
- Position and log time stand in the same write as what they describe.
- After a write or an fsync has failed nothing is written any more.

Not for who is told, in which thread (`log`).
"""

import collections
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cairnkv.commands import failures
from cairnkv.log.base import Effect, LogRefused
from cairnkv.log.disk.engine import Engine
from cairnkv.log.disk.recorder import Recorder
from cairnkv.log.disk.restoring import Restored
from cairnkv.log.disk.sync import Sync

_log: Final = logging.getLogger("cairnkv.disk")

QUEUED_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of entries that may wait for the disk. One that is larger is taken where none waits."""

QUEUED_ENTRIES_MAX: Final = 100_000
"""Entries that may wait for the disk."""

COMMIT_BYTES: Final = 256 * 1024
"""Bytes of entries after which a commit takes no more; the last one may be larger than that by itself. Making and
writing its batch holds the interpreter for a millisecond."""

EFFECT_BYTES: Final = 32
"""What an effect takes besides its key and its value, near enough."""

UNCHECKED_BYTES: Final = 8 * 1024 * 1024
"""Bytes that are written between two looks at whether RocksDB is behind."""

BEHIND_SECONDS_MAX: Final = 60.0
"""How long it may be behind before that counts as a failed write."""

BEHIND_PAUSE_SECONDS: Final = 0.01
"""How long a writer waits before it looks again."""


class Entry:
    """What waits for the disk. position: 0 of a hint that nobody waits for."""

    __slots__ = ("effects", "now", "position", "size")

    def __init__(self, position: int, now: int, effects: Sequence[Effect], size: int | None = None) -> None:
        """size: bytes of the keys and values, if they are known."""
        self.position = position
        self.now = now
        self.effects = effects
        if size is None:
            size = sum(len(key or b"") + len(value or b"") for _, key, value, _ in effects)
        self.size = EFFECT_BYTES * len(effects) + size


class Writer:
    """A queue, and the thread that empties it into an engine."""

    def __init__(
        self,
        directory: Path,
        engine: Engine,
        sync: Sync,
        restored: Restored,
        found: Callable[[int | str], None],
    ) -> None:
        """found: called in the writer's thread with the newest position that is safe, or what went wrong."""
        self._directory = directory
        self._engine = engine
        self._sync = sync
        self._recorder = Recorder(engine, restored.parted, restored.number)
        self._found = found
        self._position = restored.position
        self._time = restored.time  # log time that was given to the engine
        self._unchecked = 0  # bytes written since the last look at whether RocksDB is behind
        # What both threads use, under the condition's lock:
        self._condition = threading.Condition()
        self._queue: collections.deque[Entry] = collections.deque()
        self._ending = False
        self.queued_bytes = 0
        self.broken: str | None = None
        self.commits = 0
        self._thread = threading.Thread(target=self._write_all, name="cairnkv disk", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def queued(self) -> int:
        """How many entries wait."""
        return len(self._queue)

    @property
    def takes(self) -> bool:
        """Whether `put` would take an entry now, however large."""
        return (
            self.broken is None
            and not self._ending
            and self.queued_bytes < QUEUED_BYTES_MAX // 2
            and len(self._queue) < QUEUED_ENTRIES_MAX
        )

    def put(self, entry: Entry) -> None:
        """Queue an entry. Raises `LogRefused` when none is taken."""
        with self._condition:
            if self.broken is not None:
                raise LogRefused(
                    f"{self.broken}; nothing is written to {self._directory} until it is opened anew", failures.READONLY
                )
            if self._ending:
                raise LogRefused(f"{self._directory} is closed", failures.READONLY)
            waiting = len(self._queue)
            if waiting >= QUEUED_ENTRIES_MAX or (waiting and self.queued_bytes + entry.size > QUEUED_BYTES_MAX):
                raise LogRefused(
                    f"the disk is behind: {waiting:,} writes of {self.queued_bytes:,} bytes wait for it already"
                )
            self._put(entry)

    def hint(self, entry: Entry) -> None:
        """Queue an entry that nobody waits for, if there is room to spare."""
        with self._condition:
            if self.broken is None and not self._ending and len(self._queue) < QUEUED_ENTRIES_MAX // 2:
                self._put(entry)

    def _put(self, entry: Entry) -> None:
        self._queue.append(entry)
        self.queued_bytes += entry.size
        if len(self._queue) == 1:  # the writer waits only where there was none
            self._condition.notify()

    def end(self, now: int) -> None:
        """Write what is queued and log time as it was shown, and end. Waits for that."""
        with self._condition:
            self._ending = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join()
        if self.broken is not None:
            return
        try:
            batch = self._engine.batch()
            self._recorder.note(batch, self._position, now)
            self._engine.write(batch)
            if self._sync.every is not None:
                self._engine.sync()
        except Exception as error:
            _log.error("%s: log time was not noted at the end: %s", self._directory, error)

    # -- in the thread ------------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        sync_at: float | None = None  # when fsync is to be called next, if it is called every now and then
        every = self._sync.every
        try:
            while (entries := self._next_entries(sync_at)) is not None:
                if entries:
                    self._commit(entries)
                    if every and sync_at is None:
                        sync_at = time.monotonic() + every
                if sync_at is not None and time.monotonic() >= sync_at:
                    self._engine.sync()
                    sync_at = None
            if sync_at is not None:
                self._engine.sync()
        except Exception as error:  # whatever it is, nobody can tell what the disk has
            with self._condition:
                self.broken = f"a write to the disk has failed: {error}"
                self._queue.clear()
                self.queued_bytes = 0
            _log.error("%s: %s. Nothing more is written there; restart to go on", self._directory, self.broken)
            self._found(self.broken)

    def _next_entries(self, sync_at: float | None) -> list[Entry] | None:
        """What the next commit has; nothing when it is time to sync, None when there will be no more."""
        with self._condition:
            while not self._queue:
                if self._ending:
                    return None
                left = None if sync_at is None else sync_at - time.monotonic()
                if left is not None and left <= 0:
                    return []
                self._condition.wait(left)
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
        batch = self._engine.batch()
        before = self._position
        for entry in entries:
            self._recorder.fill(batch, entry.effects, entry.size)
            self._position = entry.position or self._position
            self._time = max(self._time, entry.now)
        self._recorder.note(batch, self._position, self._time)
        self._engine.write(batch)
        if self._sync.every == 0:
            self._engine.sync()
        self.commits += 1
        if self._position > before:
            self._found(self._position)

    def _wait_while_behind(self) -> None:
        self._unchecked = 0
        begin = time.monotonic()
        while self._engine.behind:
            if time.monotonic() > begin + BEHIND_SECONDS_MAX:
                raise OSError(f"RocksDB was behind for {BEHIND_SECONDS_MAX:g} seconds")
            time.sleep(BEHIND_PAUSE_SECONDS)
