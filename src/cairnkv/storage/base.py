"""The contract of storage: it commits writes before their replies leave, and keeps the data of a store.

Invariants: entries have sequence numbers from 1 without gaps; the numbers of failed entries may be used again. Commits
are in order: if entry n is committed, all entries before n are. An appended entry either commits or fails, and all
entries appended after it fail with it.

Out of scope: the state. Storage loads its records into the databases once, when the store begins, and does not read the
databases afterwards.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeAlias

from cairnkv.commands import Step, failures
from cairnkv.commands.failures import Code
from cairnkv.engine import Database

__all__ = [
    "BackupResult",
    "CommitListener",
    "Deliver",
    "Effect",
    "LoadingStopped",
    "MakeBackup",
    "Storage",
    "StorageRefused",
]

logger: Final = logging.getLogger("cairnkv.server")

Deliver: TypeAlias = Callable[[Callable[[], None]], object]
"""Schedules a function call in the thread that uses the store. Thread-safe. Raises `RuntimeError` if that thread's loop
is closed."""


Effect: TypeAlias = tuple[int, bytes | None, bytes | None, int | None]
"""The state of a key after a change: database, key, value and expiry. No value: the key is deleted. No key: the
database is cleared. A plain tuple, since the native path creates one for each write."""


LARGE_VALUE_BYTES: Final = 64 * 1024
"""Length in bytes above which a change of the expiry alone does not rewrite the value."""


STORAGE_PART: Final = 4
"""The maximum part of a memory limit that storage itself uses."""


class Redated(NamedTuple):
    """An effect that changes only the expiry of a large value."""

    db: int
    key: bytes
    value: bytes
    expiry: int | None


def size_of_effects(effects: Sequence[Effect]) -> int:
    """Return the bytes of the effects' keys and written values."""
    return sum(
        len(effect[1] or b"") + (0 if isinstance(effect, Redated) else len(effect[2] or b"")) for effect in effects
    )


def no_progress(_: int) -> None:
    """Ignore progress."""


StartProgress: TypeAlias = Callable[[str, int, int, str], None]
"""Called while a store loads or a node joins its cluster, with the step, the amount done, the approximate total and the
unit. Called in any thread, one at a time."""

PROGRESS_SECONDS: Final = 1.0
"""Interval of progress messages of `LoggedProgress`."""


class LoggedProgress:
    """A `StartProgress` that logs."""

    def __init__(self) -> None:
        self._due = time.monotonic() + PROGRESS_SECONDS

    def __call__(self, step: str, done: int, total: int, unit: str) -> None:
        """Log the progress, if the interval has passed."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + PROGRESS_SECONDS
            logger.info("%s: %s of about %s %s", step, f"{done:,}", f"{max(done, total):,}", unit)


class BackupResult(NamedTuple):
    """A completed backup.

    size: bytes of its files. new: bytes of the files that no earlier backup in the directory has.
    began_ms, ended_ms: milliseconds since 1970.
    """

    path: Path
    size: int
    new: int
    began_ms: int
    ended_ms: int


class MakeBackup(Protocol):
    """Makes a backup; see `Storage.back_up`."""

    def __call__(
        self,
        directory: Path,
        *,
        keep: int | None = None,
        expect: Callable[[int], None] = no_progress,
        progress: Callable[[int], None] = no_progress,
    ) -> BackupResult:
        """Make a backup."""


class CommitListener(Protocol):
    """The methods of a store that storage calls, in the thread that uses the store."""

    def committed(self, sequence: int) -> None:
        """All entries up to this sequence number are committed."""

    def failed(self, reason: str, *, unknown: bool, unresolved: Sequence[Effect] = ()) -> None:
        """All appended, uncommitted entries have failed.

        unknown: False if none of them can appear later, True if that is unknown.
        unresolved: effects that may appear later; `resolved` tells. Storage accepts no writes before that.
        """

    def resolved(self, happened: Sequence[Effect]) -> None:
        """Of the unresolved effects, exactly these are stored, in this order."""


class Storage(Protocol):
    """Commits the writes of a store."""

    mode: str
    """The mode of a store with this storage: in-memory, durable or replicated."""
    commits_at_once: bool
    """Whether an entry is committed when `append` returns. If so, the listener is never called."""
    keeps_effects: bool
    """Whether storage keeps the effects of entries, not their commands. If so, `append` needs effects."""

    def restore(self, databases: Mapping[int, Database], memory_limit: int | None = None) -> int:
        """Load all records into the databases, set log time, and return the newest sequence number.

        databases: by number.
        memory_limit: maximum bytes of entries, as the table estimates them; values beyond it stay cold.
        Called once, before all methods except `deliver_by`, `about` and `close`. May run in its own thread, while the
        store's thread calls these three. Raises `LoadingStopped` after `close`.
        """

    def deliver_by(self, deliver: Deliver) -> None:
        """Set how to reach the thread that uses the store. Storage does not call its listener before."""

    def listen(self, listener: CommitListener) -> None:
        """Set the listener. Called once, before the first `append`."""

    @property
    def accepts_writes(self) -> bool:
        """Whether storage accepts an entry of any size now."""

    @property
    def is_behind(self) -> bool:
        """Whether the queue of uncommitted entries is at least half full."""

    @property
    def memory_bytes(self) -> int:
        """Bytes of the memory limit that storage itself uses."""

    @property
    def sequence(self) -> int:
        """The newest entry's sequence number."""

    def append(self, steps: Sequence[Step], now: int, effects: Sequence[Effect] = (), size: int | None = None) -> int:
        """Append an entry, the writes applied together at log time `now` (ms). Returns its sequence number.

        effects: the effects of the writes, in order, for storage that keeps effects; it needs no steps. size: bytes of
        the keys and values, if known.
        An entry without steps records that replies have shown log time up to `now`.
        Raises `StorageRefused` if storage accepts no entry now; then nothing has changed.
        """

    def expired(self, db: int, keys: Sequence[bytes], now: int) -> None:
        """Delete the records of keys that have expired at log time `now`, at some time. No reply waits for this."""

    def fetch(self, db: int, key: bytes, length: int, on_value: Callable[[bytes | Exception], None]) -> None:
        """Begin to read the value of a committed entry. length: of the value, in bytes.

        on_value: called in the thread that uses the store, with the value or an error, later or before `fetch` returns.
        If the entry changes meanwhile, the value may be the old or the new one.
        """

    def close(self, now: int) -> None:
        """Commit or fail all uncommitted entries, and accept no more.

        now: log time as replies have shown it; an entry without steps may have recorded a later one.
        """

    def about(self) -> Iterable[tuple[str, str | int]]:
        """Yield the fields of INFO about storage, except the mode."""

    @property
    def back_up(self) -> MakeBackup | None:
        """Make a backup in a directory of backups; None: this storage keeps no data.

        A backup has all entries appended before the call, and later ones up to some commit. The call waits for the
        disk, so call it in its own thread; the store keeps working. keep: number of newest backups to keep, this one
        included; None: all. expect: called with the size of the backup in bytes; progress: called with the bytes done
        since the last call. An exception from these ends the backup without a trace. Raises `OptionError` if a backup
        is already being made there, `StorageRefused` if storage has failed, `OSError`.
        """


class StorageRefused(Exception):
    """Storage accepts no entries at present; the text has the reason.

    code: the failure of the command, which was not executed.
    """

    def __init__(self, text: str, code: Code = failures.UNDONE) -> None:
        super().__init__(text)
        self.code = code


class LoadingStopped(Exception):
    """Storage was closed while it loaded."""
