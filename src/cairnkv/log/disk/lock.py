"""Whose a store's directory is, before RocksDB says so: nothing may be looked at or mended there that another one uses.

What always holds: a directory is open once in this process; while `locked` lasts no other process has it open, and
none opens it. It is RocksDB's own lock, of the system's kind that a process loses by closing the file once more: so
that is never done to a directory which RocksDB has open here.

Not for the time while it is open: RocksDB holds the lock then.
"""

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

from cairnkv.errors import OptionError

Place: TypeAlias = tuple[int, int]
"""A directory, whatever its name: device and inode."""

_lock: Final = threading.Lock()
_here: Final[set[Place]] = set()  # what this process has open, or is opening


def claim(directory: Path) -> Place:
    """Have it be this caller's, among those in this process. Raises `OptionError` when it is another one's."""
    status = directory.stat()
    place = status.st_dev, status.st_ino
    with _lock:
        if place in _here:
            raise taken(directory)
        _here.add(place)
    return place


def let_go(place: Place) -> None:
    """Have it be nobody's."""
    with _lock:
        _here.discard(place)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other processes out of a directory that is claimed, and not open. Raises `OptionError` when one has it."""
    descriptor = os.open(directory / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # either, by the system
            raise taken(directory) from None
        yield
    finally:
        os.close(descriptor)


def taken(directory: Path) -> OptionError:
    """What to raise when somebody else has it."""
    return OptionError(
        f"{directory} is open already, in this process or another one: stop that, or take another directory"
    )
