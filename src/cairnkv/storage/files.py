"""Atomic creation of directories and files, and comparison of files by their contents.

Invariants: a directory with its final name is complete, also after a power failure: its files were fsynced before the
renaming.
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
from cairnkv.storage.base import no_progress

CHUNK: Final = 1024 * 1024
"""Bytes of one read. Reading, hashing and writing them releases the GIL."""

UNFINISHED: Final = ".part"
"""The suffix of the name of an incomplete directory. The name begins with a dot."""

Progress: TypeAlias = Callable[[int], None]
"""Called with the bytes, or records, done since the last call. An exception ends the work."""


def refuse_within(directory: Path, source: Path) -> None:
    """Raise `OptionError` if a directory to write to is the source or is in it."""
    if is_within(directory, source):
        raise OptionError(f"cannot write to {directory}: it is in {source}; use a directory outside of that")


def unfinished(directory: Path) -> Path:
    """Return the path of a directory while it is being created or deleted."""
    directory = directory.absolute()
    return directory.with_name(f".{directory.name}{UNFINISHED}")


@contextlib.contextmanager
def becoming(directory: Path) -> Iterator[Path]:
    """Create a directory: yield a temporary one to fill, and rename it after the block.

    Raises `OptionError` if the directory exists and is not empty.
    """
    part = unfinished(directory)
    try:
        for path in (directory, directory.parent):
            if os.path.lexists(path) and not path.is_dir():
                raise OptionError(f"{path} is not a directory: use an empty or a new directory")
        if directory.exists() and any(directory.iterdir()):
            raise OptionError(f"{directory} is not empty: use an empty or a new directory")
        directory.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir(mode=0o700)
    except FileExistsError:
        raise OptionError(
            f"{part} exists: another process is doing this, or was interrupted; in that case delete it"
        ) from None
    except OSError as error:
        raise OptionError(f"cannot create {directory}: {error.strerror or error}") from None
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
    """Delete a directory. It is renamed first, so that a partly deleted one does not have its name."""
    part = unfinished(directory)
    directory.rename(part)
    sync(directory.parent)
    shutil.rmtree(part)


def rewrite(file: Path, text: str) -> None:
    """Replace the text of a file atomically. Only its owner can read it. Raises `OSError`."""
    new = draft_of(file)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as written:
        written.write(text)
        written.flush()
        os.fsync(descriptor)
    new.replace(file)
    sync(file.parent)


def draft_of(file: Path) -> Path:
    """Return the path of the temporary file of `rewrite`, which remains after an interruption."""
    return file.with_name(f".{file.name}.new")


def sync(path: Path) -> None:
    """Fsync a file or a directory. Many network file systems cannot fsync a directory; then this does nothing."""
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            stack.enter_context(_ignore_unsupported())
        descriptor = os.open(path, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        os.fsync(descriptor)


_CANNOT: Final = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EPERM, errno.EACCES, errno.EISDIR)
"""Error codes for an operation that a file system does not support. A failing disk returns EIO."""


@contextlib.contextmanager
def _ignore_unsupported() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _CANNOT:
            raise


def sha256(path: Path, progress: Progress = no_progress) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            progress(len(chunk))
    return digest.hexdigest()


def copied(source: Path, target: Path, progress: Progress = no_progress) -> str:
    """Copy a file to a new file. Returns the SHA-256 of the data."""
    digest = hashlib.sha256()
    with source.open("rb") as file, target.open("xb") as copy:
        with _ignore_unsupported():
            os.fchmod(copy.fileno(), 0o600)
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            copy.write(chunk)
            progress(len(chunk))
    return digest.hexdigest()


def linked(source: Path, target: Path) -> bool:
    """Create a hard link. Returns False if that is not possible."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, no support for links, or too many links
        return False
    return True
