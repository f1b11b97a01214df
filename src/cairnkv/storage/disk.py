"""The disk log: entries' effects in RocksDB, many in one commit, and the word when they are safe.

What always holds: the thread that uses the store waits for nothing but `close`, and the writer's thread never touches
the store: it leaves word, and has that told by whoever `deliver_by` names.

Not for commits (`writer`), RocksDB's set-up (`engine`) or the format (`records`).
"""

import collections
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from cairnkv.commands import Step, failures
from cairnkv.engine import Database
from cairnkv.errors import OptionError
from cairnkv.storage import backup, checkpoint
from cairnkv.storage.base import CommitListener, Deliver, Effect, LoadingStopped, Made, StorageRefused, nobody
from cairnkv.storage.load import OfNode, restore
from cairnkv.storage.reader import Answer, Reader, Request
from cairnkv.storage.replay import replay
from cairnkv.storage.rocksdb import RocksDB, cannot_keep, damaged, memory_bytes, open_rocksdb
from cairnkv.storage.space import Space
from cairnkv.storage.sync import Sync
from cairnkv.storage.writer import Entry, Failed, Resolved, State, Writer, queued_bytes_max

logger: Final = logging.getLogger("cairnkv.disk")

WRITTEN_SECONDS_MAX: Final = 60.0
"""How long a backup waits until what was executed before it has been written."""

PAUSE_SECONDS_MAX: Final = 0.01
"""How long a backup pauses behind a piece of a file: as long as that took, so that it has half a processor, or so much.
Others wait less for one then."""

WRITTEN_PAUSE_SECONDS: Final = 0.005
"""How long it waits before it looks again."""

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many records were read, and how many there are, by estimate. In the thread that reads."""


def _nobody(read: int, records: int) -> None:
    pass


class DiskStorage:
    """A log in a directory."""

    mode = "durable"
    commits_at_once = False
    keeps_effects = True

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        sync: Sync = Sync(),  # noqa: B008  # a record: never changed
        apart: bool = False,
        progress: Progress = _nobody,
        memory_limit: int | None = None,
        limit: int | None = None,
        gather: float = 0.0,
        new_engine: Callable[[Path], RocksDB] | None = None,
    ) -> None:
        """apart: whether nothing may hold the interpreter for long, so that what does is left to another process.

        memory_limit: the store's limit in bytes, of which this log uses `memory_bytes`; with a limit, the store may
        read single values later (`fetch`). None: no limit.
        limit: bytes that the directory is to have at most; None: as many as its file system.
        gather: seconds for which an entry waits for others to be written with, where nobody waits for it.
        new_engine: for tests. Nothing is opened before `restore`, which raises `OptionError` when that cannot be.
        """
        self.directory: Final = Path(directory)
        self._sync = sync
        self._apart = apart
        self._progress = progress
        self._limit = limit
        self._gather = gather
        self.memory_bytes = 0 if memory_limit is None else memory_bytes(memory_limit)
        """Bytes of the memory limit that count for RocksDB."""
        self._queued_bytes_max = queued_bytes_max(memory_limit)
        self._new_engine = new_engine or functools.partial(open_rocksdb, limit=limit, memory_limit=memory_limit)
        self._space = Space(self.directory, limit)
        self._engine: RocksDB | None = None
        self._records_read = self._records = 0
        self._pid = os.getpid()
        self._listener: CommitListener | None = None
        self._deliver: Deliver | None = None
        self.sequence = 0
        self._beginning = threading.Lock()  # for what follows, while one thread restores and another may close
        self._closed = False
        self._writer: Writer | None = None  # once everything is restored
        # Only appended to by the writer's thread, and taken from by the store's:
        self._outcomes: collections.deque[int | Failed | Resolved] = collections.deque()  # sequences committed, or else
        self._answers: collections.deque[tuple[Request, Answer]] = collections.deque()  # by the readers' threads
        self._reader: Reader | None = None  # likewise
        self._backing_up = threading.Lock()

    def restore(self, databases: Sequence[Database], memory_limit: int | None = None) -> int:
        """Put every entry into its keyspace, but for those whose time was over. Raises `OptionError` for damage."""
        try:
            self._engine = self._open_first()
            checkpoint.clear(self.directory)
            self._records = self._engine.records
            self._restored_so_far(0)
            if memory_limit is not None:
                memory_limit -= self.memory_bytes
            restored = restore(self._engine, databases, self._restored_so_far, memory_limit)
            with self._beginning:
                if self._closed:
                    raise LoadingStopped
                self._reader = Reader(self._engine, self._read)
                self._writer = Writer(
                    self.directory,
                    self._engine,
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
            if self._engine is not None:
                self._engine.close()
            if isinstance(error, OptionError | LoadingStopped) or not isinstance(error, Exception):
                raise
            if isinstance(error, OfNode):
                raise OptionError(
                    f"{self.directory} is the table of a node of a cluster: serve it with --cluster, or have a store "
                    f"without a cluster made of it (cairn repair {self.directory} NEW)"
                ) from None
            if isinstance(error, OSError):
                raise cannot_keep(self.directory, error) from None
            raise damaged(self.directory, str(error)) from None
        self.sequence = restored.sequence
        return self.sequence

    def _open(self) -> RocksDB:
        if self._apart:
            replay(self.directory, self._limit, lambda: self._closed)
        return self._new_engine(self.directory)

    def _open_first(self) -> RocksDB:
        """The same at the start, which a full disk may leave no room for: then with that of the reserve."""
        try:
            return self._open()
        except OptionError as error:
            if "No space left" not in str(error) or not self._space.release():
                raise
        logger.warning("%s: the reserve is given up to open it", self.directory)
        return self._open()

    def _restored_so_far(self, records: int) -> None:
        self._records_read = records
        if self._closed:
            raise LoadingStopped
        self._progress(records, self._records)

    def listen(self, listener: CommitListener) -> None:
        """Tell this listener, and begin to write."""
        assert self._writer is not None
        self._listener = listener
        self._writer.start()

    def deliver_by(self, deliver: Deliver) -> None:
        """How to reach the thread that uses the store."""
        self._deliver = deliver
        if self._outcomes or self._answers:
            deliver(self._tell)

    @property
    def takes(self) -> bool:
        """Whether there is room in the writer's queue, and the disk is well."""
        return self._writer is not None and self._writer.takes

    @property
    def is_behind(self) -> bool:
        """Whether the writer's queue is at least half full."""
        return self._writer is not None and self._writer.queued_bytes >= self._queued_bytes_max // 2

    @property
    def full(self) -> str | None:
        """Why nothing is taken that needs more room on the disk; None: there is room."""
        return self._space.full

    def append(self, steps: Sequence[Step], now: int, effects: Sequence[Effect] = (), size: int | None = None) -> int:
        """Queue an entry for the writer."""
        assert self._writer is not None
        self.sequence += 1  # first: whatever interrupts this, no other entry gets this sequence
        try:
            self._writer.put(Entry(self.sequence, now, effects, size))
        except StorageRefused:
            self.sequence -= 1
            raise
        return self.sequence

    def expired(self, db: int, keys: Sequence[bytes], now: int) -> None:
        """Have their records dropped by the next commit. Where there is no room for that, the next start drops them."""
        assert self._writer is not None
        self._writer.hint(Entry(0, now, [(db, key, None, None) for key in keys]))

    def fetch(self, db: int, key: bytes, length: int, told: Callable[[bytes | Exception], None]) -> None:
        """Have a value read by another thread."""
        assert self._reader is not None
        try:
            self._reader.ask(Request(db, key, length, told))
        except OSError as error:
            told(error)

    def close(self, now: int) -> None:
        """Commit what is under way, note log time, and let the directory go."""
        if self._pid != os.getpid():  # a thread of the parent may have had the lock at the fork
            if not self._closed and self._writer is not None:
                self._writer.abandon()
            self._closed = True
            return
        with self._beginning:
            if self._closed:
                return
            self._closed = True
            if self._writer is None:
                return  # `restore` will let it go, if it is under way
        if self._listener is None:  # nothing was said or shown since it was read
            assert self._engine is not None
            self._engine.close()
            return
        with self._backing_up:
            pass  # a backup under way has ended, since this is closed
        self._writer.end(now)
        self._tell()

    def back_up(
        self,
        directory: Path,
        *,
        keep: int | None = None,
        expect: Callable[[int], None] = nobody,
        progress: Callable[[int], None] = nobody,
    ) -> Made:
        """Make a backup among those in a directory; see the contract."""

        worked_since = time.monotonic()

        def go_on(size: int) -> None:
            nonlocal worked_since
            self._refuse_if_over()
            progress(size)
            time.sleep(min(time.monotonic() - worked_since, PAUSE_SECONDS_MAX))
            worked_since = time.monotonic()

        self._refuse_if_over()  # in a forked process, the lock may be held by a thread that is not there
        with self._backing_up:
            assert self._writer is not None
            self._wait_until_written(self._writer, self.sequence)
            return backup.make(
                self._writer.engine,
                self.directory,
                directory,
                state=self._writer.written,
                keep=keep,
                expect=expect,
                progress=go_on,
            )

    def _wait_until_written(self, writer: Writer, sequence: int) -> None:
        """Have everything up to this sequence with the engine: clients may have a reply already, or not."""
        end = time.monotonic() + WRITTEN_SECONDS_MAX
        while True:
            self._refuse_if_over()
            if writer.written[0] >= sequence:
                return
            if time.monotonic() > end:
                raise OSError(f"{self.directory}: the disk is behind; what was said has not been written yet")
            time.sleep(WRITTEN_PAUSE_SECONDS)

    def _refuse_if_over(self) -> None:
        """Raise `StorageRefused` if there is nothing to back up any more."""
        if self._closed or self._pid != os.getpid():
            raise StorageRefused(f"{self.directory} is closed", failures.READONLY)
        if self._writer is None:
            raise StorageRefused("what is on disk is being read; try again when all of it is there", failures.LOADING)
        if self._writer.state is not State.OK:
            code = failures.READONLY if self._writer.state is State.BROKEN else failures.RECOVERING
            raise StorageRefused(f"{self._writer.why}; nobody can tell what a backup would have", code)

    def about(self) -> Iterable[tuple[str, str | int]]:
        """What INFO tells."""
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

    def _tell(self) -> None:
        """Tell the listener what the writer has found out, and then whoever waits for a value."""
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
            request.told(answer)

    def _found(self, outcome: int | Failed | Resolved) -> None:
        """Called in the writer's thread."""
        self._outcomes.append(outcome)
        self._have_told()

    def _read(self, answers: Sequence[tuple[Request, Answer]]) -> None:
        """Called in a reader's thread."""
        self._answers.extend(answers)
        self._have_told()

    def _have_told(self) -> None:
        if self._deliver is not None:
            try:
                self._deliver(self._tell)
            except RuntimeError:  # its loop has ended: `close` tells what there is to tell
                logger.debug("%s: nobody to tell", self.directory)
