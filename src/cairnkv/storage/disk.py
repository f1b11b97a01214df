"""Storage of the durable mode: the effects of entries in RocksDB, many entries per commit.

Invariants: the thread that uses the store never blocks, except in `close`. The writer's thread never calls the store:
it queues its results, and the function given to `deliver_by` schedules their delivery.

Out of scope: commits (`writer`), the options of RocksDB (`rocksdb`), and the format (`record_format`).
"""

import collections
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from cairnkv.commands import Step, failures
from cairnkv.engine import Database
from cairnkv.errors import OptionError
from cairnkv.storage import backup, checkpoint
from cairnkv.storage.base import (
    BackupResult,
    CommitListener,
    Deliver,
    Effect,
    LoadingStopped,
    StorageRefused,
    no_progress,
)
from cairnkv.storage.load import NodeRecords, restore
from cairnkv.storage.reader import Answer, Reader, Request
from cairnkv.storage.replay import replay
from cairnkv.storage.rocksdb import RocksDB, cannot_keep, damaged, memory_bytes, open_rocksdb
from cairnkv.storage.space import Space
from cairnkv.storage.writer import Entry, Failed, Resolved, State, Sync, Writer, queued_bytes_max

logger: Final = logging.getLogger("cairnkv.disk")

WRITTEN_SECONDS_MAX: Final = 60.0
"""Maximum time for which a backup waits until earlier entries are written."""

PAUSE_SECONDS_MAX: Final = 0.01
"""Maximum pause of a backup after each chunk of a file. A pause is as long as the chunk took, so that the backup uses
at most half a processor."""

WRITTEN_PAUSE_SECONDS: Final = 0.005
"""Interval of checks whether they are written."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of records read, and the estimated total, in the thread that reads."""


class DiskStorage:
    """Storage in a directory. See `Storage`."""

    mode = "durable"
    commits_at_once = False
    keeps_effects = True

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        sync: Sync = Sync(),  # noqa: B008  # a record: never changed
        apart: bool = False,
        progress: Progress = lambda read, records: None,
        memory_limit: int | None = None,
        limit: int | None = None,
        gather: float = 0.0,
        new_rocksdb: Callable[[Path], RocksDB] | None = None,
    ) -> None:
        """Opens nothing; `restore` does, and raises `OptionError` if that fails.

        apart: use another process for work that holds the GIL for long. memory_limit: the store's limit in bytes, of
        which storage uses `memory_bytes`; with a limit, the store may `fetch` values. None: no limit. limit: maximum
        bytes of the directory; None: the size of its file system. gather: seconds for which an entry waits for more
        entries of the same commit. new_rocksdb: for tests.
        """
        self.directory: Final = Path(directory)
        self._sync = sync
        self._apart = apart
        self._progress = progress
        self._limit = limit
        self._gather = gather
        self.memory_bytes = 0 if memory_limit is None else memory_bytes(memory_limit)
        """Bytes of the memory limit that RocksDB uses."""
        self._queued_bytes_max = queued_bytes_max(memory_limit)
        self._new_rocksdb = new_rocksdb or functools.partial(open_rocksdb, limit=limit, memory_limit=memory_limit)
        self._space = Space(self.directory, limit)
        self._rocksdb: RocksDB | None = None
        self._records_read = self._records = 0
        self._pid = os.getpid()
        self._listener: CommitListener | None = None
        self._deliver: Deliver | None = None
        self.sequence = 0
        self._beginning = threading.Lock()  # guards the following, if one thread restores and another closes
        self._closed = False
        self._writer: Writer | None = None  # after `restore`
        # The writer's thread appends, the store's thread removes:
        self._outcomes: collections.deque[int | Failed | Resolved] = collections.deque()  # committed, or a failure
        self._answers: collections.deque[tuple[Request, Answer]] = collections.deque()  # from the readers' threads
        self._reader: Reader | None = None  # after `restore`
        self._backing_up = threading.Lock()

    def restore(self, databases: Mapping[int, Database], memory_limit: int | None = None) -> int:
        """Load all entries into their databases, except expired ones. Raises `OptionError` for damage."""
        try:
            self._rocksdb = self._open_first()
            checkpoint.clear(self.directory)
            self._records = self._rocksdb.records
            self._restored_so_far(0)
            if memory_limit is not None:
                memory_limit -= self.memory_bytes
            restored = restore(self._rocksdb, databases, self._restored_so_far, memory_limit)
            with self._beginning:
                if self._closed:
                    raise LoadingStopped
                self._reader = Reader(self._rocksdb, self._read)
                self._writer = Writer(
                    self.directory,
                    self._rocksdb,
                    self._sync,
                    restored,
                    space=self._space,
                    found=self._found,
                    reopen=self._open,
                    reader=self._reader,
                    gather=self._gather,
                    queued_bytes_max=self._queued_bytes_max,
                )
        except BaseException as error:
            self._closed = True
            if self._rocksdb is not None:
                self._rocksdb.close()
            if isinstance(error, OptionError | LoadingStopped) or not isinstance(error, Exception):
                raise
            if isinstance(error, NodeRecords):
                raise OptionError(
                    f"{self.directory} is the store of a cluster node: serve it with --cluster, or make a store "
                    f"without a cluster from it (cairn repair {self.directory} NEW)"
                ) from None
            if isinstance(error, OSError):
                raise cannot_keep(self.directory, error) from None
            raise damaged(self.directory, str(error)) from None
        self.sequence = restored.sequence
        return self.sequence

    def _open(self) -> RocksDB:
        if self._apart:
            replay(self.directory, self._limit, lambda: self._closed)
        return self._new_rocksdb(self.directory)

    def _open_first(self) -> RocksDB:
        """Open RocksDB at the start, with the space of the reserve if the disk is full."""
        try:
            return self._open()
        except OptionError as error:
            if "No space left" not in str(error) or not self._space.release():
                raise
        logger.warning("%s: the reserve is freed to open it", self.directory)
        return self._open()

    def _restored_so_far(self, records: int) -> None:
        self._records_read = records
        if self._closed:
            raise LoadingStopped
        self._progress(records, self._records)

    def listen(self, listener: CommitListener) -> None:
        """Set the listener, and start the writer."""
        assert self._writer is not None
        self._listener = listener
        self._writer.start()

    def deliver_by(self, deliver: Deliver) -> None:
        """See `Storage`."""
        self._deliver = deliver
        if self._outcomes or self._answers:
            deliver(self._notify)

    @property
    def accepts_writes(self) -> bool:
        """See `Storage`."""
        return self._writer is not None and self._writer.accepts_writes

    @property
    def is_behind(self) -> bool:
        """See `Storage`."""
        return self._writer is not None and self._writer.queued_bytes >= self._queued_bytes_max // 2

    @property
    def full(self) -> str | None:
        """The reason why writes that need disk space are refused, or None."""
        return self._space.full

    def append(self, steps: Sequence[Step], now: int, effects: Sequence[Effect] = (), size: int | None = None) -> int:
        """Queue an entry for the writer."""
        assert self._writer is not None
        self.sequence += 1  # first, so that no other entry gets this number after an interruption
        try:
            self._writer.put(Entry(self.sequence, now, effects, size))
        except StorageRefused:
            self.sequence -= 1
            raise
        return self.sequence

    def expired(self, db: int, keys: Sequence[bytes], now: int) -> None:
        """Delete their records with the next commit. If the queue is half full, the next start deletes them."""
        assert self._writer is not None
        self._writer.hint(Entry(0, now, [(db, key, None, None) for key in keys]))

    def fetch(self, db: int, key: bytes, length: int, on_value: Callable[[bytes | Exception], None]) -> None:
        """Read a value in another thread."""
        assert self._reader is not None
        try:
            self._reader.ask(Request(db, key, length, on_value))
        except OSError as error:
            on_value(error)

    def close(self, now: int) -> None:
        """Commit the queue, write log time, and release the directory."""
        if self._pid != os.getpid():  # forked: a thread of the parent may have held the lock
            if not self._closed and self._writer is not None:
                self._writer.abandon()
            self._closed = True
            return
        with self._beginning:
            if self._closed:
                return
            self._closed = True
            if self._writer is None:
                return  # a running `restore` releases the directory
        if self._listener is None:  # no command was executed
            assert self._rocksdb is not None
            self._rocksdb.close()
            return
        with self._backing_up:
            pass  # wait for the end of a backup, which `_closed` stops
        self._writer.end(now)
        self._notify()

    def back_up(
        self,
        directory: Path,
        *,
        keep: int | None = None,
        expect: Callable[[int], None] = no_progress,
        progress: Callable[[int], None] = no_progress,
    ) -> BackupResult:
        """See `Storage`."""

        worked_since = time.monotonic()

        def checked_progress(size: int) -> None:
            nonlocal worked_since
            self._check_open()
            progress(size)
            time.sleep(min(time.monotonic() - worked_since, PAUSE_SECONDS_MAX))
            worked_since = time.monotonic()

        self._check_open()  # before the lock: in a forked process it may be locked forever
        with self._backing_up:
            assert self._writer is not None
            self._wait_until_written(self._writer, self.sequence)
            return backup.make(
                self._writer.rocksdb,
                self.directory,
                directory,
                state=self._writer.written,
                keep=keep,
                expect=expect,
                progress=checked_progress,
            )

    def _wait_until_written(self, writer: Writer, sequence: int) -> None:
        """Wait until all entries up to this sequence number are written, since clients may have their replies."""
        end = time.monotonic() + WRITTEN_SECONDS_MAX
        while True:
            self._check_open()
            if writer.written[0] >= sequence:
                return
            if time.monotonic() > end:
                raise OSError(
                    f"{self.directory}: the disk is too slow: earlier writes took more than {WRITTEN_SECONDS_MAX:g} s"
                )
            time.sleep(WRITTEN_PAUSE_SECONDS)

    def _check_open(self) -> None:
        """Raise `StorageRefused` unless storage is loaded, open and in order."""
        if self._closed or self._pid != os.getpid():
            raise StorageRefused(f"{self.directory} is closed", failures.READONLY)
        if self._writer is None:
            raise StorageRefused("the store is loading; try again later", failures.LOADING)
        if self._writer.state is not State.OK:
            code = failures.READONLY if self._writer.state is State.BROKEN else failures.RECOVERING
            raise StorageRefused(f"{self._writer.why}; the contents of a backup would be unknown", code)

    def about(self) -> Iterable[tuple[str, str | int]]:
        """See `Storage`."""
        common = ("data", str(self.directory)), ("sync", str(self._sync))
        if self._writer is None:
            return (
                *common,
                ("disk_state", "loading"),
                ("disk_records", self._records),
                ("disk_records_read", self._records_read),
            )
        return (
            *common,
            ("disk_commits", self._writer.commits),
            ("disk_queued_entries", self._writer.queued),
            ("disk_queued_bytes", self._writer.queued_bytes),
            ("disk_reads", self._reader.calls if self._reader is not None else 0),
            ("disk_failures", self._writer.failures),
            ("disk_state", self._state(self._writer)),
        )

    def _state(self, writer: Writer) -> str:
        return "full" if writer.state is State.OK and self._space.full is not None else writer.state.value

    def _notify(self) -> None:
        """Deliver results of the writer to the listener, then values."""
        assert self._listener is not None
        assert self._writer is not None
        while self._outcomes:
            outcome = self._outcomes.popleft()
            if isinstance(outcome, Failed):
                self._listener.failed(outcome.reason, unknown=True, unresolved=outcome.unresolved)
            elif isinstance(outcome, Resolved):
                self.sequence = outcome.sequence
                self._listener.resolved(outcome.happened)
                self._writer.resume(outcome.failure)
            else:
                while self._outcomes and isinstance(self._outcomes[0], int):
                    outcome = self._outcomes.popleft()
                assert isinstance(outcome, int)
                self._listener.committed(outcome)
        while self._answers:
            request, answer = self._answers.popleft()
            request.on_value(answer)

    def _found(self, outcome: int | Failed | Resolved) -> None:  # in the writer's thread
        self._outcomes.append(outcome)
        self._schedule()

    def _read(self, answers: Sequence[tuple[Request, Answer]]) -> None:  # in a reader's thread
        self._answers.extend(answers)
        self._schedule()

    def _schedule(self) -> None:
        if self._deliver is not None:
            try:
                self._deliver(self._notify)
            except RuntimeError:  # the loop is closed: `close` delivers the results
                logger.debug("%s: the event loop is closed", self.directory)
