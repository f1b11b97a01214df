"""Backups of a server: one at a time, in a thread, below the directory of --backup-dir.

Invariants: a client chooses a name, and the server writes nothing outside that directory. BACKUP replies at once; INFO
reports the progress.

Out of scope: the files of a backup (`cairnkv.storage`).
"""

import contextlib
import logging
import re
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cairnkv.commands import Backup, Failure, Reply, failures
from cairnkv.errors import OptionError
from cairnkv.paths import os_error_text
from cairnkv.storage import MakeBackup

logger: Final = logging.getLogger("cairnkv.backup")

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names of backups: no paths, and no characters that are special to a file system or a shell."""


class _Stopped(Exception):
    """The server stops."""


class _Job:
    """A running or finished backup. Its thread writes here; the server's thread reads."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.began = time.monotonic()
        self.seconds: float | None = None  # its duration; None: it is running
        self.size = 0
        self.done = 0
        self.new = 0
        self.made = ""  # the backup, once it is complete
        self.error = ""

    @property
    def state(self) -> str:
        return "running" if self.seconds is None else "done" if self.made else "failed" if self.error else "none"


def _newest_ms(directory: Path | None) -> int:
    """Return the end time of the newest backup of any name; 0: no readable backup. Raises `OptionError`."""
    if directory is None:
        return 0
    from cairnkv.storage.backup import listed

    newest = 0
    try:
        for path in directory.iterdir() if directory.exists() else ():
            if NAME.fullmatch(path.name) and path.is_dir():
                with contextlib.suppress(OptionError):  # skip unreadable backups
                    newest = max(newest, *(backup.ended_ms for backup in listed(path)), 0)
    except OSError as error:
        raise OptionError(f"cannot use --backup-dir {os_error_text(error)}") from None
    return newest


class Backups:
    """The backups of one server."""

    def __init__(self, back_up: MakeBackup | None, directory: str | None) -> None:
        """back_up: the store's; None: it keeps nothing on disk. directory: None: the server makes no backups."""
        self._back_up = back_up
        self._directory = None if directory is None else Path(directory)
        self._job = _Job(0, "")
        self._job.seconds = 0.0
        self._last_ms = _newest_ms(self._directory)  # when the newest complete backup ended
        self._thread: threading.Thread | None = None
        self._stopping = False

    def begin(self, command: Backup) -> Reply:
        """Begin a backup; return its number."""
        if self._back_up is None:
            return Failure(failures.NOBACKUP, "this store is in memory only; a store on disk (--data) has backups")
        if self._directory is None:
            return Failure(
                failures.NOBACKUP, "this server has no directory for backups; start it with --backup-dir DIR"
            )
        name = command.name.decode("utf-8", "replace")
        if not NAME.fullmatch(name):
            text = f"1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit, not {name[:80]!r}"
            return Failure(failures.BADARGS, f"the name of a backup is {text}")
        if self._job.state == "running" or self._stopping:
            return Failure(failures.UNDERWAY, f"the backup {self._job.name} is running; the server makes one at a time")
        job = _Job(self._job.number + 1, name)
        thread = threading.Thread(
            target=self._make,
            args=(job, self._back_up, self._directory / name, command.keep),
            name="cairnkv backup",
            daemon=True,
        )
        thread.start()
        self._job, self._thread = job, thread
        return self._job.number

    def _make(self, job: _Job, back_up: MakeBackup, directory: Path, keep: int | None) -> None:
        def expect(size: int) -> None:
            job.size = size

        def progress(size: int) -> None:
            if self._stopping:
                raise _Stopped("the server is stopping")
            job.done += size

        try:
            result = back_up(directory, keep=keep, expect=expect, progress=progress)
            job.size, job.new, job.made = result.size, result.new, f"{job.name}/{result.path.name}"
            self._last_ms = result.ended_ms
            logger.info("%s: %s bytes, %s of them new", result.path, f"{result.size:,}", f"{result.new:,}")
        except Exception as error:  # INFO reports it
            job.error = " ".join(str(error).split()) or type(error).__name__
            logger.error("the backup to %s failed: %s", directory, job.error)
        finally:
            job.seconds = time.monotonic() - job.began

    def stop(self) -> None:
        """Stop a running backup, and begin no more. Waits for at most one piece of a file, or a flush."""
        self._stopping = True
        if self._thread is not None:
            self._thread.join()

    def info(self) -> Iterable[tuple[str, str | int]]:
        """Yield names and values for INFO."""
        if self._back_up is None or self._directory is None:
            return ()
        job = self._job
        seconds = job.seconds
        return (
            ("backup_job", job.number),
            ("backup_state", job.state),
            ("backup_name", job.name),
            ("backup_made", job.made),
            ("backup_bytes", job.size),
            ("backup_bytes_done", job.done),
            ("backup_bytes_new", job.new),
            ("backup_seconds", int(time.monotonic() - job.began if seconds is None else seconds)),
            ("backup_error", job.error),
            ("backup_last_ms", self._last_ms),
        )
