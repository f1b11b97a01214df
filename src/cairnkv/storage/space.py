"""The disk space of a store, and the reserve: a file that keeps space for work that frees more.

Invariants: writes stop before the disk is full, since RocksDB needs space to flush and to compact. The reserve always
counts as used, so freeing it does not let writes continue. Only the writer's thread calls methods that ask the system;
any thread may read `full`.

Out of scope: the refusal of writes (`writer`), and memory (the store).
"""

import contextlib
import errno
import logging
import os
import time
from pathlib import Path
from typing import Final

from cairnkv.limits import KIB, MIB

logger: Final = logging.getLogger("cairnkv.disk")

FULL_AT: Final = 0.90
"""Writes stop if this part of the disk, or of the limit, is used."""

CONTINUE_AT: Final = 0.88
"""Writes continue below this part. The distance prevents frequent changes."""

RESERVE_BYTES: Final = 32 * MIB
"""Bytes of the reserve: a memtable that is flushed to a table."""

RESERVE_SHARE: Final = 1 / 32
"""Maximum part of the disk, or of the limit, for the reserve."""

LIMIT_LEAST: Final = 8 * MIB
"""Minimum limit of a store's directory. Compactions need space for new tables before they delete old ones."""

RESERVE_NAME: Final = "reserve"

MEASURE_SECONDS: Final = 1.0
"""Maximum time from a write to the next measurement; also the interval of measurements if the disk is full."""

MEASURE_SHARE: Final = 0.25
"""Maximum part of the remaining bytes that is written before the next measurement."""

BLOCK: Final = 512
"""Bytes of a block in `st_blocks`, on every file system."""


def total_room(directory: Path, limit: int | None) -> int:
    """Return the bytes of disk space for a store, used or not. Raises `OSError`."""
    status = os.statvfs(directory)
    total = (status.f_blocks - status.f_bfree + status.f_bavail) * status.f_frsize
    return total if limit is None else min(limit, total)


class Space:
    """The disk space of one directory.

    full: the reason why writes that need more space are refused, or None.
    """

    def __init__(self, directory: Path, limit: int | None) -> None:
        """limit: maximum bytes of the directory; None: the size of its file system."""
        self._directory = directory
        self._limit = limit
        self._reserve = directory / RESERVE_NAME
        self._reserve_bytes = 0  # wanted size
        self._left = 0  # bytes until writes stop, at the last measurement
        self._written = 0  # bytes written since then
        self._measure_at = 0.0
        self.full: str | None = None
        self.free = 0
        """Free bytes of the file system, at the last measurement."""

    def wrote(self, size: int) -> None:
        """Count written bytes."""
        self._written += size

    @property
    def due(self) -> bool:
        """Whether a measurement is due."""
        if self._written > self._left * MEASURE_SHARE:
            return True
        return (self._written > 0 or self.full is not None) and time.monotonic() >= self._measure_at

    @property
    def measure_at(self) -> float | None:
        """The monotonic time of the next measurement if nothing is written; None: none."""
        return self._measure_at if self.full is not None else None

    def measure(self) -> None:
        """Measure the used space, create the reserve if there is space for it, and set `full`."""
        self._written = 0
        self._measure_at = time.monotonic() + MEASURE_SECONDS
        status = os.statvfs(self._directory)
        free = status.f_bavail * status.f_frsize
        self.free = free
        total = (status.f_blocks - status.f_bfree) * status.f_frsize + free
        self._reserve_bytes = int(min(RESERVE_BYTES, RESERVE_SHARE * min(total, self._limit or total)))
        missing = self._reserve_bytes - self._reserved()
        found = [(f"its file system of {total:,} bytes is", total - free + missing, total)]
        if self._limit is not None:
            found.append((f"the disk limit of {self._limit:,} bytes is", self._size() + missing, self._limit))
        what, used, of = max(found, key=lambda one: one[1] / one[2])
        self._left = int(min(FULL_AT * of - used for _, used, of in found))
        self._judge(what, used / of)
        if missing > 0 and self.full is None:
            self._keep_reserve()

    def _judge(self, what: str, share: float) -> None:
        if share >= FULL_AT or (self.full is not None and share >= CONTINUE_AT):
            if self.full is None:
                logger.warning(
                    "%s: %s %.1f %% used: writes that need more space are refused until it is below %.0f %%",
                    *(self._directory, what, 100 * share, 100 * CONTINUE_AT),
                )
            self.full = (
                f"{what} {100 * share:.0f} % used, and writes that need more space stop at {100 * FULL_AT:.0f} %"
            )
        elif self.full is not None:
            logger.warning("%s: %s %.1f %% used: writes continue", self._directory, what, 100 * share)
            self.full = None

    def _size(self) -> int:
        """Return the bytes of the files in the directory."""
        size = 0
        with os.scandir(self._directory) as files:
            for file in files:
                with contextlib.suppress(FileNotFoundError):  # RocksDB has just deleted it
                    size += file.stat(follow_symlinks=False).st_blocks * BLOCK
        return size

    # -- the reserve --------------------------------------------------------------------------------------------

    def _reserved(self) -> int:
        try:
            return self._reserve.stat().st_blocks * BLOCK
        except FileNotFoundError:
            return 0

    def _keep_reserve(self) -> None:
        try:
            descriptor = os.open(self._reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _allocate(descriptor, max(self._reserve_bytes, KIB))
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                logger.warning("%s: cannot create the reserve: %s", self._directory, error.strerror)
            self.release()

    def release_if_short(self) -> None:
        """Free the reserve if there is less free space than its size, before a compaction, which may need it."""
        status = os.statvfs(self._directory)
        if status.f_bavail * status.f_frsize < self._reserve_bytes and self.release():
            logger.warning("%s: the reserve is freed for a compaction", self._directory)

    def release(self) -> bool:
        """Free the reserve. Returns whether it existed."""
        with contextlib.suppress(OSError):
            self._reserve.unlink()
            return True
        return False


def _allocate(descriptor: int, size: int) -> None:
    """Allocate disk space for a file."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # macOS
        for at in range(0, size, MIB):
            os.pwrite(descriptor, bytes(min(MIB, size - at)), at)
