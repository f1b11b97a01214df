"""Directories and files that appear whole or not at all, and files that are told apart by what they hold.

What always holds: whoever finds a directory under its own name finds all of it, and so does the disk: everything was
fsynced before it got that name.
"""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

from cairnkv.errors import OptionError
from cairnkv.paths import is_within
from cairnkv.storage.base import nobody

CHUNK: Final = 1024 * 1024
"""Bytes that are read at a time. Reading, hashing and writing them lets the interpreter go."""

UNFINISHED: Final = ".part"
"""What the name of a directory ends with that is not whole yet, or is being removed; it begins with a dot."""

Progress: TypeAlias = Callable[[int], None]
"""Told how many bytes, or records, more were done. What it raises ends the work."""


def refuse_within(directory: Path, source: Path) -> None:
    """Raise `OptionError` if a directory to write to is the source, or is in it."""
    if is_within(directory, source):
        raise OptionError(f"cannot write to {directory}: it is within {source}; name a directory outside of that")


def unfinished(directory: Path) -> Path:
    """Where a directory is while it is made or removed."""
    directory = directory.absolute()
    return directory.with_name(f".{directory.name}{UNFINISHED}")


@contextlib.contextmanager
def becoming(directory: Path) -> Iterator[Path]:
    """A directory to fill, which has this name when the block is done. The name may be that of an empty one.

    Raises `OptionError` where there is something already.
    """
    part = unfinished(directory)
    try:
        for path in (directory, directory.parent):
            if os.path.lexists(path) and not path.is_dir():
                raise OptionError(f"{path} is no directory: name a directory that is empty or not there yet")
        if directory.exists() and any(directory.iterdir()):
            raise OptionError(f"{directory} is there and is not empty: name a directory that is empty or not there yet")
        directory.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir(mode=0o700)
    except FileExistsError:
        raise OptionError(f"{part} is there: this is being done already, or was interrupted; remove it then") from None
    except OSError as error:
        raise OptionError(f"cannot make {directory}: {error.strerror or error}") from None
    try:
        yield part
        for path in part.iterdir():
            sync(path)
        sync(part)
        part.rename(directory)
        sync(directory.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def remove(directory: Path) -> None:
    """Remove a directory; half removed, it does not have its name any more."""
    part = unfinished(directory)
    directory.rename(part)
    sync(directory.parent)
    shutil.rmtree(part)


def rewrite(file: Path, text: str) -> None:
    """Let a file, its owner's, have this text, or what it had before. Raises `OSError`."""
    new = draft_of(file)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as written:
        written.write(text)
        written.flush()
        os.fsync(descriptor)
    new.replace(file)
    sync(file.parent)


def draft_of(file: Path) -> Path:
    """What `rewrite` leaves beside a file where it was interrupted."""
    return file.with_name(f".{file.name}.new")


def sync(path: Path) -> None:
    """Sync a file or a directory. Many network file systems cannot sync a directory; then this does nothing."""
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            stack.enter_context(_unless_it_cannot())
        descriptor = os.open(path, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        os.fsync(descriptor)


_CANNOT: Final = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EPERM, errno.EACCES, errno.EISDIR)
"""Error codes for an operation that a file system does not support. A failing disk returns EIO."""


@contextlib.contextmanager
def _unless_it_cannot() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _CANNOT:
            raise


def sha256(path: Path, progress: Progress = nobody) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            progress(len(chunk))
    return digest.hexdigest()


def copied(source: Path, target: Path, progress: Progress = nobody) -> str:
    """Copy a file, which may not be there yet; the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    with source.open("rb") as file, target.open("xb") as copy:
        with _unless_it_cannot():
            os.fchmod(copy.fileno(), 0o600)
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            copy.write(chunk)
            progress(len(chunk))
    return digest.hexdigest()


def linked(source: Path, target: Path) -> bool:
    """Give a file a second name, if the file system can: False if not."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one that has no such thing, or as many of them as it can have
        return False
    return True
