"""Locks on a store's directory before RocksDB opens it, so that no other process uses it during checks and repairs.

Invariants: this process opens a directory at most once. During `locked`, no other process has the directory open. The
lock is RocksDB's own, a POSIX lock, which a process loses when it closes any descriptor of the file; so a directory
that RocksDB has open in this process is never locked again.

Out of scope: the time while the directory is open. RocksDB holds the lock then.
"""

import contextlib
import errno
import fcntl
import os
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

from cairnkv.errors import OptionError

Place: TypeAlias = tuple[int, int]
"""The identity of a directory: device and inode."""

_lock: Final = threading.Lock()
_here: Final[set[Place]] = set()  # directories that this process has open, or opens


def claim(directory: Path) -> Place:
    """Claim a directory within this process. Raises `OptionError` if it is claimed already."""
    status = directory.stat()
    place = status.st_dev, status.st_ino
    with _lock:
        if place in _here:
            raise taken(directory, os.getpid())
        _here.add(place)
    return place


def release(place: Place) -> None:
    """End the claim of a directory."""
    with _lock:
        _here.discard(place)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock a claimed, closed directory against other processes. Raises `OptionError` if another process has it.

    If the block raises, the directory is unchanged: a new lock file is deleted. In a read-only directory, use a shared
    lock, which excludes writers.
    """
    file = directory / "LOCK"
    made = not file.exists()
    kind = fcntl.LOCK_EX
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if made or error.errno not in (errno.EACCES, errno.EROFS):
            raise
        descriptor, kind = os.open(file, os.O_RDONLY | os.O_CLOEXEC), fcntl.LOCK_SH
    try:
        try:
            fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # which one depends on the system
            raise taken(directory, _holder(descriptor)) from None
        try:
            yield
        except BaseException:
            if made:
                file.unlink(missing_ok=True)
            raise
    finally:
        os.close(descriptor)


_FLOCK: Final = struct.Struct("@hhqqi")
"""`struct flock` of Linux: type, whence, start, length, process."""


def _holder(descriptor: int) -> int | None:
    """Return the process that has the lock of an open file, or None if unknown."""
    if sys.platform != "linux":
        return None
    lock = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    with contextlib.suppress(OSError):
        pid: int = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, lock))[4]
        return pid if pid > 0 else None  # 0 or below: in another container
    return None


def holder(directory: Path) -> int | None:
    """Return the process that has a claimed, closed directory, or None."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory / "LOCK", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _holder(descriptor)
        finally:
            os.close(descriptor)
    return None


def taken(directory: Path, pid: int | None) -> OptionError:
    """Return the error for a directory that a process has open. pid: that process; None: unknown."""
    if pid == os.getpid():
        return OptionError(f"{directory} is already open in this process: use the open store, or close it first")
    where = "another process" if pid is None else f"process {pid}"
    return OptionError(
        f"{directory} is already open in {where}, and only one process can use a store: stop that process, or serve "
        f"the store (cairn serve --data {directory}) and connect from all processes, also for backups"
    )
