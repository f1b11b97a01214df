"""Backups: directories that hold all files of a store as of one moment, each with its SHA-256.

What always holds:
- A backup under its own name is whole: its manifest was written last, and everything was fsynced before it got it.
- Nothing changes a backup once it is there. Files that an earlier one has as well are the same files, under a second
  name, so removing any backup harms no other.
- A store's directory is never written to by restoring or verifying, nor is a backup.

Not for getting the files of a store that is in use (`checkpoint`), and not for what is in them (`check`).
"""

import contextlib
import datetime
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from cairnkv.errors import OptionError
from cairnkv.paths import in_words
from cairnkv.storage.base import Made, nobody
from cairnkv.storage.checkpoint import checkpoint, clear
from cairnkv.storage.files import UNFINISHED, Progress, becoming, copied, linked, refuse_within, remove, sha256, sync
from cairnkv.storage.record_format import FORMAT, STATE, STATE_KEY
from cairnkv.storage.rocksdb import RocksDB, open_rocksdb
from cairnkv.version import VERSION

MANIFEST: Final = "backup.json"
"""The file that says what a backup has, written last."""

MANIFEST_FORMAT: Final = 1
"""The version of that."""

MANIFEST_BYTES_MAX: Final = 64 * 1024 * 1024
"""A longer one is none; this one would name half a million files."""

LOCK: Final = ".lock"
"""The file that one backup at a time has locked."""


class File(NamedTuple):
    """A file of a backup."""

    name: str
    size: int
    sha256: str


class Backup(NamedTuple):
    """A backup that is there.

    began_ms, ended_ms: in milliseconds since 1970.
    sequence, log_time_ms: of the newest commit when it began; it may have newer ones as well.
    """

    path: Path
    began_ms: int
    ended_ms: int
    version: str
    format: int
    sequence: int
    log_time_ms: int
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes of all its files, whoever shares them."""
        return sum(file.size for file in self.files)


# -- manifests ---------------------------------------------------------------------------------------------------


def _told(backup: Backup) -> dict[str, Any]:
    return {
        "backup_format": MANIFEST_FORMAT,
        "cairnkv": backup.version,
        "store_format": backup.format,
        "began_ms": backup.began_ms,
        "ended_ms": backup.ended_ms,
        "position": backup.sequence,
        "log_time_ms": backup.log_time_ms,
        "files": [{"name": name, "bytes": size, "sha256": digest} for name, size, digest in backup.files],
    }


def _rendered(told: dict[str, Any]) -> bytes:
    """The text of a manifest, its own SHA-256 included; there is one text for what is told."""
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    return json.dumps({**told, "sha256": digest}, indent=1).encode() + b"\n"


def read(path: Path) -> Backup:
    """What a backup says of itself. Raises `OptionError` if it is none, or its manifest is not as it was written."""
    try:
        with (path / MANIFEST).open("rb") as file:
            text = file.read(MANIFEST_BYTES_MAX + 1)
    except PermissionError as error:
        raise OptionError(f"cannot read a backup: {in_words(error)}") from None
    except OSError as error:
        inner = [entry.path.name for entry in listed(path)] if path.is_dir() else []
        hint = f": it holds backups; name one of them, such as {path / inner[-1]}" if inner else ""
        raise OptionError(f"{path} is no whole backup ({MANIFEST}: {error.strerror}){hint}") from None
    told: dict[str, Any] = {}  # if it is what `make` has written, all of it is there
    with contextlib.suppress(ValueError):
        if isinstance(parsed := json.loads(text), dict):
            told = parsed
            told.pop("sha256", None)
    if _rendered(told) != text:
        raise OptionError(f"{path} is damaged: {MANIFEST} is not as it was written. Take another backup")
    if told["backup_format"] != MANIFEST_FORMAT or told["store_format"] != FORMAT:
        raise OptionError(
            f"{path} was made by cairnkv {told['cairnkv']} in a format that {VERSION} does not know: use that version"
        )
    if any("/" in file["name"] for file in told["files"]):
        raise OptionError(f"{path} names files that are not in it: cairnkv has not made it")
    return Backup(
        path,
        told["began_ms"],
        told["ended_ms"],
        told["cairnkv"],
        told["store_format"],
        told["position"],
        told["log_time_ms"],
        tuple(File(file["name"], file["bytes"], file["sha256"]) for file in told["files"]),
    )


def listed(directory: Path, wrong: list[str] | None = None) -> list[Backup]:
    """The whole backups in a directory, the oldest first.

    wrong: is given what is wrong with those whose manifest is damaged; they are left out.
    Raises `OptionError` when the directory cannot be read.
    """
    found = []
    try:
        paths = [path for path in directory.iterdir() if not path.name.startswith(".") and path.is_dir()]
    except OSError as error:
        raise OptionError(f"cannot read {in_words(error)}") from None
    for path in paths:
        if os.access(path, os.X_OK) and (path / MANIFEST).exists():
            try:
                found.append(read(path))
            except OptionError as error:
                if wrong is not None:
                    wrong.append(str(error))
    return sorted(found, key=lambda backup: (backup.began_ms, backup.path.name))


# -- making one --------------------------------------------------------------------------------------------------


def make(
    engine: RocksDB,
    store: Path,
    directory: Path,
    *,
    state: tuple[int, int],
    keep: int | None = None,
    expect: Callable[[int], None] = nobody,
    progress: Progress = nobody,
) -> Made:
    """Make a backup of an open store among those in a directory, which is made if it is not there. Any thread may.

    state: sequence and log time of a commit that is in it for certain.
    keep: so many of the newest backups are kept, this one included; None: all.
    expect: told how many bytes it will have; progress: how many more were looked at.
    Raises `OptionError` when a backup is made there already or the directory is in the store's, and `OSError`.
    """
    refuse_within(directory, store)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(directory):
        for left in directory.glob(f".*{UNFINISHED}"):
            shutil.rmtree(left, ignore_errors=True)
        before = listed(directory)
        began = max(time.time_ns() // 1_000_000, before[-1].began_ms + 1 if before else 0)
        at = datetime.datetime.fromtimestamp(began / 1000, datetime.UTC)
        path = directory / f"{at:%Y%m%d-%H%M%S}-{began % 1000:03}"
        try:
            staged = checkpoint(engine, store)
            expect(sum(file.stat().st_size for file in staged))
            known = _Known(before)
            with becoming(path) as part:
                files = tuple(known.place(file, part / file.name, progress) for file in staged)
                for file in part.iterdir():
                    sync(file)
                ended = max(began, time.time_ns() // 1_000_000)
                backup = Backup(path, began, ended, VERSION, FORMAT, *state, files)
                (part / MANIFEST).write_bytes(_rendered(_told(backup)))
        finally:
            clear(store)
        for old in before[: max(len(before) + 1 - keep, 0)] if keep is not None else ():
            remove(old.path)
    return Made(path, backup.size, known.new, began, ended)


def make_of_closed(
    store: Path,
    directory: Path,
    *,
    keep: int | None = None,
    expect: Callable[[int], None] = nobody,
    progress: Progress = nobody,
) -> Made:
    """Make a backup of a store that nobody has open; see `make`. Raises `OptionError` when it cannot be opened."""
    engine = open_rocksdb(store)
    try:
        records = dict(itertools.islice(engine.items(), 2))  # that of the format, and that of the state
        sequence, time_ms = STATE.unpack(records.get(STATE_KEY, bytes(STATE.size)))
        return make(engine, store, directory, state=(sequence, time_ms), keep=keep, expect=expect, progress=progress)
    finally:
        engine.close()


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """While nobody else makes a backup there. A process that is killed lets go of it."""
    with (directory / LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OptionError(f"a backup to {directory} is under way already: wait for its end") from None
        yield


class _Known:
    """The files that earlier backups have.

    new: bytes of files that none of them had.
    """

    def __init__(self, backups: list[Backup]) -> None:
        self.new = 0
        self._by_identity: dict[tuple[int, int, int], str] = {}  # what a file that is the same one holds
        self._by_content: dict[tuple[int, str], Path] = {}
        for backup in backups:
            for name, size, digest in backup.files:
                path = backup.path / name
                with contextlib.suppress(OSError):
                    status = path.stat()
                    if status.st_size == size:
                        self._by_identity[status.st_dev, status.st_ino, size] = digest
                        self._by_content[size, digest] = path

    def place(self, source: Path, target: Path, progress: Progress) -> File:
        """Have a file there: the same one that an earlier backup has, if it holds the same."""
        status = source.stat()
        size = status.st_size
        digest = self._by_identity.get((status.st_dev, status.st_ino, size))
        if digest is not None and linked(source, target):
            progress(size)
            return File(source.name, size, digest)
        digest = sha256(source, progress)
        earlier = self._by_content.get((size, digest))
        if earlier is not None and sha256(earlier, nobody) == digest and linked(earlier, target):
            return File(source.name, size, digest)
        self.new += size
        if not linked(source, target) and copied(source, target) != digest:
            raise OSError(f"{source} was not the same when it was read again")
        return File(source.name, size, digest)


# -- using one ---------------------------------------------------------------------------------------------------


def damaged_files(backup: Backup, progress: Progress = nobody) -> list[str]:
    """What is wrong with the files of a backup: one line for each that is not as it was."""
    wrong = []
    for name, size, digest in backup.files:
        path = backup.path / name
        try:
            if path.stat().st_size != size:
                wrong.append(f"{name} has {path.stat().st_size:,} bytes, and had {size:,}")
            elif sha256(path, progress) != digest:
                wrong.append(f"{name} is damaged: its SHA-256 is another one")
        except PermissionError as error:
            raise OptionError(f"cannot read a backup: {in_words(error)}") from None
        except OSError as error:
            wrong.append(f"{name}: {error.strerror}")
    return wrong


def restore(backup: Backup, directory: Path, progress: Progress = nobody) -> None:
    """Make a store of a backup, in a directory that is empty or not there. Progress is told twice its bytes.

    Raises `OptionError` when the backup is damaged, before anything was made, or the directory is not empty or is in
    the backup.
    """
    refuse_within(directory, backup.path)
    if wrong := damaged_files(backup, progress):
        raise OptionError(f"{backup.path} is damaged, and nothing was restored: {'; '.join(wrong[:3])}")
    room = shutil.disk_usage(_existing(directory)).free
    if room < backup.size:
        raise OptionError(f"{directory}: the file system has {room:,} bytes free, and {backup.size:,} are needed")
    with becoming(directory) as part:
        for name, _, digest in backup.files:
            if copied(backup.path / name, part / name, progress) != digest:
                raise OptionError(f"{backup.path / name} has changed while it was restored; nothing was restored")


def _existing(path: Path) -> Path:
    """The path, or the first directory above it that is there."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
