"""The disk log: entries' effects in RocksDB, many in one commit, and the word when they are safe.

What always holds:
- Entries are written in the order of their positions; those that one commit has, it has whole or not at all.
- Everything that was appended while a commit was under way goes into the next one, up to its bounds.
- Position and log time stand in the same write as what they describe.
- The thread that uses the store waits for nothing but `close`; the writer thread never touches the store.
- After a write or an fsync has failed nothing is written any more: everything uncommitted fails as unknown.

Not for RocksDB's set-up (`engine`) or the format (`records`).
"""

import collections
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from cairnkv.commands import Step
from cairnkv.errors import OptionError
from cairnkv.keyspace import Keyspace
from cairnkv.log.base import Deliver, Effect, LogListener, LogRefused
from cairnkv.log.disk.engine import Engine, Operations, damaged, open_engine
from cairnkv.log.disk.records import (
    END_KEY,
    ENTRY,
    FORMAT_KEY,
    STATE,
    STATE_KEY,
    parsed_value,
    record_key,
    record_value,
)
from cairnkv.log.disk.sync import Sync

_log: Final = logging.getLogger("cairnkv.disk")

QUEUED_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of entries that may wait for the disk. One that is larger is taken where none waits."""

QUEUED_ENTRIES_MAX: Final = 100_000
"""Entries that may wait for the disk."""

COMMIT_BYTES: Final = 4 * 1024 * 1024
"""Bytes of entries after which a commit takes no more; the last one may be larger than that by itself."""

COMMIT_ENTRIES: Final = 10_000
"""Entries that one commit takes: making its batch holds the interpreter for a few milliseconds."""

EFFECT_BYTES: Final = 32
"""What an effect takes besides its key and value, near enough."""

PROGRESS_RECORDS: Final = 50_000
"""Records between two words of progress at the start."""

DROPPED_TOGETHER: Final = 10_000
"""Expired records that one write of the start takes out."""


class _Entry:
    """What waits for the disk. Position 0: a hint that nobody waits for."""

    __slots__ = ("effects", "now", "position", "size")

    def __init__(self, position: int, now: int, effects: Sequence[Effect]) -> None:
        self.position = position
        self.now = now
        self.effects = effects
        self.size = sum(
            EFFECT_BYTES + len(effect.key or b"") + (len(effect.entry[0]) if effect.entry else 0) for effect in effects
        )


class DiskLog:
    """A log in a directory."""

    size = "disk"
    commits_at_once = False
    keeps_effects = True

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        sync: Sync = Sync(),  # noqa: B008  # a record: never changed
        progress: Callable[[int], None] | None = None,
        new_engine: Callable[[Path], Engine] = open_engine,
    ) -> None:
        """progress: told how many entries were read, every now and then. new_engine: for tests.

        Raises `OptionError` when the directory cannot be opened.
        """
        self.directory: Final = Path(directory)
        self._sync = sync
        self._progress = progress
        self._engine = new_engine(self.directory)
        self._pid = os.getpid()
        self._listener: LogListener | None = None
        self._deliver: Deliver | None = None
        self._position = 0
        self._time = 0  # log time that was given to the engine; the writer's, once it runs
        # What both threads use, under the condition's lock:
        self._condition = threading.Condition()
        self._queue: collections.deque[_Entry] = collections.deque()
        self._queued_bytes = 0
        self._closing = False
        self._closed = False
        self._broken: str | None = None
        # Only appended to by one side and taken from by the other:
        self._outcomes: collections.deque[int | str] = collections.deque()  # positions committed, or what went wrong
        self._commits = 0
        self._writer = threading.Thread(target=self._write_all, name="cairnkv disk", daemon=True)

    # -- the contract, in the thread that uses the store ------------------------------------------------------

    def listen(self, listener: LogListener) -> None:
        """Tell this listener, and begin to write."""
        self._listener = listener
        self._writer.start()

    def deliver_by(self, deliver: Deliver) -> None:
        """How to reach the thread that uses the store."""
        self._deliver = deliver
        if self._outcomes:
            deliver(self._tell)

    def restore(self, keyspaces: Sequence[Keyspace]) -> int:
        """Put every entry into its keyspace, but for those whose time was over. Raises `OptionError` for damage."""
        try:
            return self._restore(keyspaces)
        except BaseException as error:
            self._closed = True
            self._engine.close()
            if isinstance(error, OptionError) or not isinstance(error, Exception):
                raise
            raise damaged(self.directory, str(error)) from None

    def _restore(self, keyspaces: Sequence[Keyspace]) -> int:
        records = 0
        expired: Operations = []
        key = b""
        for key, value in self._engine.items():
            if key[0] == ENTRY:  # the state comes before these
                entry, deadline = parsed_value(value)
                if deadline is not None and deadline <= self._time:
                    expired.append((key, None, None))
                else:
                    keyspaces[key[1]].load(key[2:], entry, deadline)
                records += 1
                if records % PROGRESS_RECORDS == 0 and self._progress is not None:
                    self._progress(records)
            elif key == STATE_KEY:
                self._position, self._time = STATE.unpack(value)
                keyspaces[0].advance(self._time)
            elif key not in (FORMAT_KEY, END_KEY):
                raise ValueError(f"a record that this format does not have: {key[:16]!r}")
        if key != END_KEY:
            raise ValueError(f"it cannot be read to its end, only to record {records:,}")
        for first in range(0, len(expired), DROPPED_TOGETHER):
            self._engine.write(expired[first : first + DROPPED_TOGETHER], sync=False)
        return self._position

    def append(self, steps: Sequence[Step], now: int, effects: Sequence[Effect] = ()) -> int:
        """Queue an entry for the writer."""
        entry = _Entry(self._position + 1, now, effects)
        with self._condition:
            if self._broken is not None:
                raise LogRefused(
                    f"{self._broken}; nothing is written to {self.directory} until it is opened anew", lasting=True
                )
            if self._closing:
                raise LogRefused(f"{self.directory} is closed", lasting=True)
            waiting = len(self._queue)
            if waiting >= QUEUED_ENTRIES_MAX or (waiting and self._queued_bytes + entry.size > QUEUED_BYTES_MAX):
                raise LogRefused(
                    f"the disk is behind: {waiting:,} writes of {self._queued_bytes:,} bytes wait for it already"
                )
            self._put(entry)
        self._position = entry.position
        return entry.position

    def expired(self, space: int, keys: Sequence[bytes], now: int) -> None:
        """Have their records dropped by the next commit. Where there is no room for that, the next start drops them."""
        with self._condition:
            if self._broken is None and not self._closing and len(self._queue) < QUEUED_ENTRIES_MAX // 2:
                self._put(_Entry(0, now, [Effect(space, key, None) for key in keys]))

    def _put(self, entry: _Entry) -> None:
        self._queue.append(entry)
        self._queued_bytes += entry.size
        if len(self._queue) == 1:  # the writer waits only where there was none
            self._condition.notify()

    def close(self, now: int) -> None:
        """Commit what is under way, note log time, and let the directory go."""
        if self._closed:
            return
        self._closed = True
        if self._pid != os.getpid():
            self._engine.abandon()
            return
        with self._condition:
            self._closing = True
            self._condition.notify()
        if self._writer.is_alive():
            self._writer.join()
        try:
            if self._broken is None:
                self._engine.write(
                    [(STATE_KEY, STATE.pack(self._position, now), None)], sync=self._sync.every is not None
                )
        except Exception as error:
            _log.error("%s: log time was not noted at the end: %s", self.directory, error)
        self._tell()
        self._engine.close()

    def about(self) -> Iterable[tuple[str, str | int]]:
        """What INFO tells."""
        return (
            ("data", str(self.directory)),
            ("sync", str(self._sync)),
            ("disk_commits", self._commits),
            ("disk_queued_entries", len(self._queue)),
            ("disk_queued_bytes", self._queued_bytes),
            ("disk_state", "ok" if self._broken is None else "broken"),
        )

    def _tell(self) -> None:
        """Tell the listener what the writer has found out."""
        assert self._listener is not None
        while self._outcomes:
            outcome = self._outcomes.popleft()
            if isinstance(outcome, str):
                self._listener.failed(outcome, unknown=True)
            else:
                while self._outcomes and isinstance(self._outcomes[0], int):
                    outcome = self._outcomes.popleft()
                assert isinstance(outcome, int)
                self._listener.committed(outcome)

    # -- in the writer thread -----------------------------------------------------------------------------------

    def _write_all(self) -> None:
        position = self._position
        unsynced_since: float | None = None
        every = self._sync.every
        try:
            while entries := self._next_entries(
                None if unsynced_since is None or not every else unsynced_since + every
            ):
                if entries[0] is not None:
                    position = self._commit([entry for entry in entries if entry is not None], position)
                    if every and unsynced_since is None:
                        unsynced_since = time.monotonic()
                if every and unsynced_since is not None and time.monotonic() >= unsynced_since + every:
                    self._engine.sync()
                    unsynced_since = None
            if unsynced_since is not None:
                self._engine.sync()
        except Exception as error:  # whatever it is, nobody can tell what the disk has
            with self._condition:
                self._broken = f"a write to the disk has failed: {error}"
                self._queue.clear()
                self._queued_bytes = 0
            _log.error("%s: %s. Nothing more is written there; restart to go on", self.directory, self._broken)
            self._found(self._broken)

    def _next_entries(self, sync_at: float | None) -> "list[_Entry | None]":
        """What the next commit has; [None] when it is time to sync, nothing when there will be no more."""
        with self._condition:
            while not self._queue and not self._closing:
                left = None if sync_at is None else sync_at - time.monotonic()
                if left is not None and left <= 0:
                    return [None]
                self._condition.wait(left)
            entries: list[_Entry | None] = []
            size = 0
            while self._queue and size < COMMIT_BYTES and len(entries) < COMMIT_ENTRIES:
                entry = self._queue.popleft()
                entries.append(entry)
                size += entry.size
            self._queued_bytes -= size
            return entries

    def _commit(self, entries: list[_Entry], position: int) -> int:
        """Write these as one, and have the store told. Returns the position of the newest."""
        operations: Operations = []
        for entry in entries:
            for space, key, value in entry.effects:
                if key is None:
                    operations.append((bytes((ENTRY, space)), None, bytes((ENTRY, space + 1))))
                elif value is None:
                    operations.append((record_key(space, key), None, None))
                else:
                    operations.append((record_key(space, key), record_value(*value), None))
            self._time = max(self._time, entry.now)
        newest = entries[-1].position or max(position, *(entry.position for entry in entries))
        operations.append((STATE_KEY, STATE.pack(newest, self._time), None))
        self._engine.write(operations, sync=self._sync.every == 0)
        self._commits += 1
        if newest > position:
            self._found(newest)
        return newest

    def _found(self, outcome: int | str) -> None:
        self._outcomes.append(outcome)
        if self._deliver is not None:
            try:
                self._deliver(self._tell)
            except RuntimeError:  # its loop has ended: `close` tells what there is to tell
                _log.debug("%s: nobody to tell", self.directory)
