"""Backups: directories with all files of a store as of one moment, and the SHA-256 of each file.

Invariants:
- A backup with its final name is complete: its manifest was written last, and all files were fsynced before the
  renaming.
- A backup never changes. A file that an earlier backup also has is a hard link to it, so deleting a backup affects no
  other one.
- Restoring and verifying write neither to a store's directory nor to a backup.

Out of scope: the files of an open store (`checkpoint`), and their contents (`check`).
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
from cairnkv.paths import os_error_text
from cairnkv.storage.base import BackupResult, no_progress
from cairnkv.storage.checkpoint import checkpoint, clear
from cairnkv.storage.files import UNFINISHED, Progress, becoming, copied, linked, refuse_within, remove, sha256, sync
from cairnkv.storage.record_format import FORMAT, FORMAT_KEY, STATE, STATE_KEY
from cairnkv.storage.rocksdb import RocksDB, open_rocksdb
from cairnkv.version import VERSION

MANIFEST: Final = "backup.json"
"""The file that lists the files of a backup. Written last."""

MANIFEST_FORMAT: Final = 1
"""The version of the manifest's format."""

MANIFEST_BYTES_MAX: Final = 64 * 1024 * 1024
"""Maximum bytes of a manifest: enough for half a million files."""

LOCK: Final = ".lock"
"""The file that a running backup locks."""


class File(NamedTuple):
    """A file of a backup."""

    name: str
    size: int
    sha256: str


class Backup(NamedTuple):
    """A complete backup.

    began_ms, ended_ms: milliseconds since 1970.
    sequence, log_time_ms: of the newest commit when the backup began; it may have newer ones too.
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
        """Bytes of all its files, shared ones included."""
        return sum(file.size for file in self.files)


# -- manifests ---------------------------------------------------------------------------------------------------


def _manifest(backup: Backup) -> dict[str, Any]:
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


def _rendered(manifest: dict[str, Any]) -> bytes:
    """Return the only text of a manifest, with its own SHA-256."""
    digest = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": digest}, indent=1).encode() + b"\n"


def read(path: Path) -> Backup:
    """Read the manifest of a backup. Raises `OptionError` if the directory is no backup, or the manifest is damaged."""
    try:
        with (path / MANIFEST).open("rb") as file:
            text = file.read(MANIFEST_BYTES_MAX + 1)
    except PermissionError as error:
        raise OptionError(f"cannot read a backup: {os_error_text(error)}") from None
    except OSError as error:
        inner = [entry.path.name for entry in listed(path)] if path.is_dir() else []
        hint = f". It contains backups; use one of them, such as {path / inner[-1]}" if inner else ""
        raise OptionError(f"{path} is not a complete backup ({MANIFEST}: {error.strerror}){hint}") from None
    manifest: dict[str, Any] = {}  # if `make` has written it, all fields exist
    with contextlib.suppress(ValueError):
        if isinstance(parsed := json.loads(text), dict):
            manifest = parsed
            manifest.pop("sha256", None)
    if _rendered(manifest) != text:
        raise OptionError(f"{path} is damaged: {MANIFEST} has changed. Use another backup")
    if manifest["backup_format"] != MANIFEST_FORMAT or not 1 <= manifest["store_format"] <= FORMAT:
        raise OptionError(
            f"{path} has a format of cairnkv {manifest['cairnkv']} that {VERSION} does not support: use that version"
        )
    if any("/" in file["name"] for file in manifest["files"]):
        raise OptionError(f"{path} is not a backup of cairnkv: its manifest lists files outside of it")
    return Backup(
        path,
        manifest["began_ms"],
        manifest["ended_ms"],
        manifest["cairnkv"],
        manifest["store_format"],
        manifest["position"],
        manifest["log_time_ms"],
        tuple(File(file["name"], file["bytes"], file["sha256"]) for file in manifest["files"]),
    )


def listed(directory: Path, wrong: list[str] | None = None) -> list[Backup]:
    """Return the complete backups in a directory, the oldest first, without those with a damaged manifest.

    wrong: receives the errors of these.
    Raises `OptionError` if the directory cannot be read.
    """
    found = []
    try:
        paths = [path for path in directory.iterdir() if not path.name.startswith(".") and path.is_dir()]
    except OSError as error:
        raise OptionError(f"cannot read {os_error_text(error)}") from None
    for path in paths:
        if os.access(path, os.X_OK) and (path / MANIFEST).exists():
            try:
                found.append(read(path))
            except OptionError as error:
                if wrong is not None:
                    wrong.append(str(error))
    return sorted(found, key=lambda backup: (backup.began_ms, backup.path.name))


# -- making ------------------------------------------------------------------------------------------------------


def make(
    rocksdb: RocksDB,
    store: Path,
    directory: Path,
    *,
    state: tuple[int, int],
    keep: int | None = None,
    expect: Callable[[int], None] = no_progress,
    progress: Progress = no_progress,
) -> BackupResult:
    """Make a backup of an open store in a directory of backups, which is created if missing. Any thread may call this.

    state: sequence number and log time of a commit that the backup certainly has.
    keep: number of newest backups to keep, this one included; None: all.
    expect: called with the size of the backup in bytes. progress: called with the bytes read since the last call.
    Raises `OptionError` if a backup is already being made there or the directory is in the store's, and `OSError`.
    """
    refuse_within(directory, store)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(directory):
        for interrupted in directory.glob(f".*{UNFINISHED}"):
            shutil.rmtree(interrupted, ignore_errors=True)
        before = listed(directory)
        began = max(time.time_ns() // 1_000_000, before[-1].began_ms + 1 if before else 0)
        at = datetime.datetime.fromtimestamp(began / 1000, datetime.UTC)
        path = directory / f"{at:%Y%m%d-%H%M%S}-{began % 1000:03}"
        try:
            staged = checkpoint(rocksdb, store)
            store_format = int(rocksdb.read([FORMAT_KEY])[0] or FORMAT)  # later, so that it is not too low
            expect(sum(file.stat().st_size for file in staged))
            known = _Known(before)
            with becoming(path) as part:
                files = tuple(known.place(file, part / file.name, progress) for file in staged)
                for file in part.iterdir():
                    sync(file)
                ended = max(began, time.time_ns() // 1_000_000)
                backup = Backup(path, began, ended, VERSION, store_format, *state, files)
                (part / MANIFEST).write_bytes(_rendered(_manifest(backup)))
        finally:
            clear(store)
        for old in before[: max(len(before) + 1 - keep, 0)] if keep is not None else ():
            remove(old.path)
    return BackupResult(path, backup.size, known.new, began, ended)


def make_of_closed(
    store: Path,
    directory: Path,
    *,
    keep: int | None = None,
    expect: Callable[[int], None] = no_progress,
    progress: Progress = no_progress,
) -> BackupResult:
    """Make a backup of a closed store; see `make`. Raises `OptionError` if the store cannot be opened."""
    rocksdb = open_rocksdb(store)
    try:
        records = dict(itertools.islice(rocksdb.items(), 2))  # format and state
        sequence, time_ms = STATE.unpack(records.get(STATE_KEY, bytes(STATE.size)))
        return make(rocksdb, store, directory, state=(sequence, time_ms), keep=keep, expect=expect, progress=progress)
    finally:
        rocksdb.close()


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Lock a directory against other backups. A killed process loses the lock."""
    with (directory / LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OptionError(f"another backup to {directory} is running: wait for its end") from None
        yield


class _Known:
    """The files of earlier backups.

    new: bytes of placed files that no earlier backup has.
    """

    def __init__(self, backups: list[Backup]) -> None:
        self.new = 0
        self._by_identity: dict[tuple[int, int, int], str] = {}  # SHA-256 of the file with this identity
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
        """Link a file of an earlier backup with the same contents to the target, or else the source, or copy the
        source."""
        status = source.stat()
        size = status.st_size
        digest = self._by_identity.get((status.st_dev, status.st_ino, size))
        if digest is not None and linked(source, target):
            progress(size)
            return File(source.name, size, digest)
        digest = sha256(source, progress)
        earlier = self._by_content.get((size, digest))
        if earlier is not None and sha256(earlier, no_progress) == digest and linked(earlier, target):
            return File(source.name, size, digest)
        self.new += size
        if not linked(source, target) and copied(source, target) != digest:
            raise OSError(f"{source} changed while it was copied")
        return File(source.name, size, digest)


# -- using -------------------------------------------------------------------------------------------------------


def damaged_files(backup: Backup, progress: Progress = no_progress) -> list[str]:
    """Return one line for each damaged file of a backup."""
    wrong = []
    for name, size, digest in backup.files:
        path = backup.path / name
        try:
            if path.stat().st_size != size:
                wrong.append(f"{name} has {path.stat().st_size:,} bytes instead of {size:,}")
            elif sha256(path, progress) != digest:
                wrong.append(f"{name} is damaged: its SHA-256 differs")
        except PermissionError as error:
            raise OptionError(f"cannot read a backup: {os_error_text(error)}") from None
        except OSError as error:
            wrong.append(f"{name}: {error.strerror}")
    return wrong


def restore(backup: Backup, directory: Path, progress: Progress = no_progress) -> None:
    """Restore a backup to an empty or new directory. progress: called for each byte twice.

    Raises `OptionError` if the backup is damaged, before anything is created, or if the directory is not empty or is in
    the backup.
    """
    refuse_within(directory, backup.path)
    if wrong := damaged_files(backup, progress):
        raise OptionError(f"{backup.path} is damaged; nothing was restored: {'; '.join(wrong[:3])}")
    room = shutil.disk_usage(_existing(directory)).free
    if room < backup.size:
        raise OptionError(f"{directory}: the file system has {room:,} bytes free, but {backup.size:,} are needed")
    with becoming(directory) as part:
        for name, _, digest in backup.files:
            if copied(backup.path / name, part / name, progress) != digest:
                raise OptionError(f"{backup.path / name} changed while it was restored; nothing was restored")


def _existing(path: Path) -> Path:
    """Return the path, or its closest existing parent."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
