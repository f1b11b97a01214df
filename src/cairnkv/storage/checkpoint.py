"""A checkpoint: hard links to a store's files as of one moment, while the store is written to.

RocksDB has a function for this, in rocksdict `Checkpoint`. It holds the GIL through fsyncs and a flush; under load,
every client would notice. This module uses system calls that release the GIL, and relies on two properties of RocksDB's
files:

- A table file ends with a footer, and does not change after it has one.
- A table file is complete before MANIFEST names it, and is deleted only after MANIFEST no longer uses it.

So if MANIFEST did not grow while all complete tables were linked, all tables that it names are linked. All data written
before a flush is in tables, in whole commits and in order; the write-ahead log has later data and is left out. An
unused table may be linked too; RocksDB deletes it when the copy is opened.

Out of scope: the use of the links (`backup`).
"""

import os
import shutil
from pathlib import Path
from typing import Final

from cairnkv.storage.rocksdb import RocksDB

STAGE: Final = "backup.tmp"
"""The directory for the links, in the store's directory. RocksDB ignores it."""

TRIES: Final = 100
"""Maximum attempts to link the tables before MANIFEST grows, which happens at most a few times a second."""

FOOTER: Final = 0x88E241B785F4CFF7.to_bytes(8, "little")
"""The last bytes of a complete table file."""

CURRENT: Final = "CURRENT"
CONFIG: Final = "rocksdict-config.json"


def checkpoint(rocksdb: RocksDB, directory: Path) -> list[Path]:
    """Return links to all files of a store as of now. They have all data written before the call.

    The links stay in the directory until `clear` is called. Any thread may call this, one at a time.
    """
    clear(directory)
    try:
        rocksdb.flush()
    except Exception as error:  # rocksdict raises plain `Exception`
        raise OSError(f"RocksDB could not write its tables: {error}") from None
    stage = directory / STAGE
    stage.mkdir(mode=0o700)
    for _ in range(TRIES):
        manifest, size = _manifest(directory)
        for table in directory.glob("*.sst"):
            _link(table, stage / table.name)
        if manifest and _manifest(directory) == (manifest, size):
            break
    else:
        raise OSError(f"cannot link the tables of {directory}: MANIFEST grew during each of {TRIES} attempts")
    with (directory / manifest).open("rb") as file:
        (stage / manifest).write_bytes(file.read(size))
    (stage / CURRENT).write_text(f"{manifest}\n")
    shutil.copyfile(directory / CONFIG, stage / CONFIG)
    for table in stage.glob("*.sst"):
        if not _is_complete(table):
            table.unlink()
    return sorted(stage.iterdir())


def clear(directory: Path) -> None:
    """Delete the links, also those that an interrupted backup has left."""
    shutil.rmtree(directory / STAGE, ignore_errors=True)


def _manifest(directory: Path) -> tuple[str, int]:
    """Return the name and size of MANIFEST; an empty name if RocksDB is replacing the file."""
    name = (directory / CURRENT).read_text().strip()
    try:
        return name, (directory / name).stat().st_size
    except FileNotFoundError:
        return "", 0


def _link(table: Path, name: Path) -> None:
    try:
        os.link(table, name)
    except (FileExistsError, FileNotFoundError):  # linked by an earlier attempt; or deleted
        pass
    except OSError as error:
        raise OSError(
            f"the file system of {table.parent} does not support hard links, which backups need: {error}"
        ) from None


def _is_complete(table: Path) -> bool:
    with table.open("rb") as file:
        if file.seek(0, os.SEEK_END) < len(FOOTER):
            return False
        file.seek(-len(FOOTER), os.SEEK_END)
        return file.read() == FOOTER
