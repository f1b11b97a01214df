"""The disk log: entries' effects in RocksDB, many in one commit, and the word when they are safe.

What always holds: the thread that uses the store waits for nothing but `close`, and the writer's thread never touches
the store: it leaves word, and has that told by whoever `deliver_by` names.

Not for commits (`writer`), RocksDB's set-up (`engine`) or the format (`records`).
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
from cairnkv.log.base import Deliver, Effect, LogListener, LogRefused, Made, nobody
from cairnkv.log.disk import backup, checkpoint
from cairnkv.log.disk.engine import Engine, damaged, open_engine
from cairnkv.log.disk.reader import Answer, Reader, Request
from cairnkv.log.disk.restoring import restore
from cairnkv.log.disk.sync import Sync
from cairnkv.log.disk.writer import Entry, Writer

_log: Final = logging.getLogger("cairnkv.disk")

WRITTEN_SECONDS_MAX: Final = 60.0
"""How long a backup waits until what was executed before it has been written."""

PAUSE_SECONDS_MAX: Final = 0.01
"""How long a backup pauses behind a piece of a file: as long as that took, so that it has half a processor, or so much.
Others wait less for one then."""

WRITTEN_PAUSE_SECONDS: Final = 0.005
"""How long it waits before it looks again."""


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
        progress: Callable[[int], None] = nobody,
        reads: bool = False,
        new_engine: Callable[[Path], Engine] | None = None,
    ) -> None:
        """progress: told how many records were read, every now and then.

        reads: whether single values will be read again (`fetch`), as with a memory limit. new_engine: for tests.

        Raises `OptionError` when the directory cannot be opened.
        """
        self.directory: Final = Path(directory)
        self._sync = sync
        self._progress = progress
        self._engine = open_engine(self.directory, reads=reads) if new_engine is None else new_engine(self.directory)
        checkpoint.clear(self.directory)
        self._pid = os.getpid()
        self._listener: LogListener | None = None
        self._deliver: Deliver | None = None
        self.position = 0
        self._closed = False
        # Only appended to by the writer's thread, and taken from by the store's:
        self._outcomes: collections.deque[int | str] = collections.deque()  # positions committed, or what went wrong
        self._answers: collections.deque[tuple[Request, Answer]] = collections.deque()  # by the readers' threads
        self._reader = Reader(self._engine, self._read)
        self._writer: Writer
        self._backing_up = threading.Lock()

    def restore(self, keyspaces: Sequence[Keyspace], memory_limit: int | None = None) -> int:
        """Put every entry into its keyspace, but for those whose time was over. Raises `OptionError` for damage."""
        try:
            restored = restore(self._engine, keyspaces, self._progress, memory_limit)
        except BaseException as error:
            self._closed = True
            self._engine.close()
            if isinstance(error, OptionError) or not isinstance(error, Exception):
                raise
            raise damaged(self.directory, str(error)) from None
        self.position = restored.position
        self._writer = Writer(self.directory, self._engine, self._sync, restored, self._found)
        return self.position

    def listen(self, listener: LogListener) -> None:
        """Tell this listener, and begin to write."""
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
        return self._writer.takes

    def append(self, steps: Sequence[Step], now: int, effects: Sequence[Effect] = (), size: int | None = None) -> int:
        """Queue an entry for the writer."""
        self._writer.put(Entry(self.position + 1, now, effects, size))
        self.position += 1
        return self.position

    def expired(self, space: int, keys: Sequence[bytes], now: int) -> None:
        """Have their records dropped by the next commit. Where there is no room for that, the next start drops them."""
        self._writer.hint(Entry(0, now, [(space, key, None, None) for key in keys]))

    def fetch(self, space: int, key: bytes, length: int, told: Callable[[bytes | Exception], None]) -> None:
        """Have a value read by another thread."""
        try:
            self._reader.ask(Request(space, key, length, told))
        except OSError as error:
            told(error)

    def close(self, now: int) -> None:
        """Commit what is under way, note log time, and let the directory go."""
        if self._closed:
            return
        self._closed = True
        if self._pid != os.getpid():
            self._engine.abandon()
            return
        with self._backing_up:
            pass  # a backup under way has ended, since this is closed
        self._writer.end(now)
        self._reader.end()
        self._tell()
        self._engine.close()

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
            self._wait_until_written(self.position)
            return backup.make(
                self._writer.engine,
                self.directory,
                directory,
                state=self._writer.written,
                keep=keep,
                expect=expect,
                progress=go_on,
            )

    def _wait_until_written(self, position: int) -> None:
        """Have everything up to this position with the engine: clients may have a reply already, or not."""
        end = time.monotonic() + WRITTEN_SECONDS_MAX
        while True:
            self._refuse_if_over()
            if self._writer.written[0] >= position:
                return
            if time.monotonic() > end:
                raise OSError(f"{self.directory}: the disk is behind; what was said has not been written yet")
            time.sleep(WRITTEN_PAUSE_SECONDS)

    def _refuse_if_over(self) -> None:
        """Raise `LogRefused` if there is nothing to back up any more."""
        if self._closed or self._pid != os.getpid():
            raise LogRefused(f"{self.directory} is closed", lasting=True)
        if self._writer.broken is not None:
            raise LogRefused(f"{self._writer.broken}; nobody can tell what a backup would have", lasting=True)

    def about(self) -> Iterable[tuple[str, str | int]]:
        """What INFO tells."""
        return (
            ("data", str(self.directory)),
            ("sync", str(self._sync)),
            ("disk_commits", self._writer.commits),
            ("disk_queued_entries", self._writer.queued),
            ("disk_queued_bytes", self._writer.queued_bytes),
            ("disk_reads", self._reader.calls),
            ("disk_state", "ok" if self._writer.broken is None else "broken"),
        )

    def _tell(self) -> None:
        """Tell the listener what the writer has found out, and then whoever waits for a value."""
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
        while self._answers:
            request, answer = self._answers.popleft()
            request.told(answer)

    def _found(self, outcome: int | str) -> None:
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
                _log.debug("%s: nobody to tell", self.directory)
