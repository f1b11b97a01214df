"""How much room there is for a store, and the reserve: a file that keeps some for what makes room.

What always holds: writes stop while there is room left, since RocksDB needs some to write the log anew as tables, and
to give room back. The reserve counts as used whether it is there or not, so that giving it up looks like no room won.
Only the writer's thread calls what asks the system; `full` may be read by any.

Not for what happens when there is no room (`writer`), nor for memory (the store).
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
"""Which part of the disk, or of the limit, is used when writes stop."""

ROOM_AGAIN_AT: Final = 0.88
"""Which part is used when they go on, so that they do not stop and go with every few bytes."""

RESERVE_BYTES: Final = 32 * MIB
"""The reserve: as much as a memtable that becomes a table."""

RESERVE_SHARE: Final = 1 / 32
"""The part of a small disk, or of a small limit, that it is at most."""

LIMIT_LEAST: Final = 8 * MIB
"""What a store's directory has to have at least, to be of use: RocksDB writes what it has anew to give room back."""

RESERVE_NAME: Final = "reserve"

LOOK_SECONDS: Final = 1.0
"""How long something that was written may be unaccounted for; also how often a disk is looked at that is full."""

LOOK_SHARE: Final = 0.25
"""Which part of what was left at the last look may be written before the next one."""

BLOCK: Final = 512
"""What the system counts a file's blocks in, whatever the file system's own are."""


def total_room(directory: Path, limit: int | None) -> int:
    """How much there is for a store, whatever uses it now, in bytes. Raises `OSError`."""
    status = os.statvfs(directory)
    total = (status.f_blocks - status.f_bfree + status.f_bavail) * status.f_frsize
    return total if limit is None else min(limit, total)


class Space:
    """The room of one directory.

    full: why nothing is written that needs more; None where there is room.
    """

    def __init__(self, directory: Path, limit: int | None) -> None:
        """limit: bytes that the directory may have; None: as many as its file system."""
        self._directory = directory
        self._limit = limit
        self._reserve = directory / RESERVE_NAME
        self._reserve_bytes = 0  # what it is to have
        self._left = 0  # bytes until writes stop, at the last look
        self._written = 0  # bytes since then
        self._look_at = 0.0
        self.full: str | None = None
        self.free = 0
        """Bytes that the file system has left, at the last look."""

    def wrote(self, size: int) -> None:
        """So many bytes were written."""
        self._written += size

    @property
    def due(self) -> bool:
        """Whether it is time for another look."""
        if self._written > self._left * LOOK_SHARE:
            return True
        return (self._written > 0 or self.full is not None) and time.monotonic() >= self._look_at

    @property
    def look_at(self) -> float | None:
        """When to look again though nothing was written, by the monotonic clock; None: not at all."""
        return self._look_at if self.full is not None else None

    def look(self) -> None:
        """See how much is used, keep the reserve if there is room for it, and set `full`."""
        self._written = 0
        self._look_at = time.monotonic() + LOOK_SECONDS
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
        if share >= FULL_AT or (self.full is not None and share >= ROOM_AGAIN_AT):
            if self.full is None:
                logger.warning(
                    "%s: %s %.1f %% used: what needs more room is refused until it is below %.0f %%",
                    *(self._directory, what, 100 * share, 100 * ROOM_AGAIN_AT),
                )
            self.full = f"{what} {100 * share:.0f} % used, and writes that need more stop at {100 * FULL_AT:.0f} %"
        elif self.full is not None:
            logger.warning("%s: %s %.1f %% used: writes go on", self._directory, what, 100 * share)
            self.full = None

    def _size(self) -> int:
        """Bytes that the directory's files have."""
        size = 0
        with os.scandir(self._directory) as files:
            for file in files:
                with contextlib.suppress(FileNotFoundError):  # RocksDB has just removed it
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
                logger.warning("%s: no reserve could be made: %s", self._directory, error.strerror)
            self.release()

    def make_way(self) -> None:
        """Give it up if there is less room than it takes: something is about to make room, and may need some."""
        status = os.statvfs(self._directory)
        if status.f_bavail * status.f_frsize < self._reserve_bytes and self.release():
            logger.warning("%s: the reserve is given up to make room", self._directory)

    def release(self) -> bool:
        """Give the reserve up for what makes room; whether there was one."""
        with contextlib.suppress(OSError):
            self._reserve.unlink()
            return True
        return False


def _allocate(descriptor: int, size: int) -> None:
    """Give a file this many bytes of the disk."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # macOS
        for at in range(0, size, MIB):
            os.pwrite(descriptor, bytes(min(MIB, size - at)), at)
