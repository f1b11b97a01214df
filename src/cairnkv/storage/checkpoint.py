"""A store's files as of one moment, under second names, while it is written to.

RocksDB has a function for this, which rocksdict offers as `Checkpoint`. It keeps the interpreter through its fsyncs
and a flush, and under load that is long enough for every client to notice. So it is done here, with
system calls that let the interpreter go, from what RocksDB's files promise:

- A table file ends with its footer, and never changes once it has that.
- A table file is whole before MANIFEST names it, and is removed only after MANIFEST says that it is not used any more.

So if MANIFEST has not grown while all whole tables were given second names, all tables that it names are among them.
What was written before a flush is in tables, commits whole and in their order; the write-ahead log, which has what
came later, is left out. A table that nothing names may come along; RocksDB drops it when the copy is opened.

Not for what becomes of the files (`backup`).
"""

import os
import shutil
from pathlib import Path
from typing import Final

from cairnkv.storage.rocksdb import RocksDB

STAGE: Final = "backup.tmp"
"""The directory within the store's where the second names stand meanwhile; RocksDB does not look at it."""

TRIES: Final = 100
"""How often the tables are linked anew because MANIFEST has grown, which it does a few times a second at most."""

FOOTER: Final = 0x88E241B785F4CFF7.to_bytes(8, "little")
"""What a whole table file ends with."""

CURRENT: Final = "CURRENT"
CONFIG: Final = "rocksdict-config.json"


def checkpoint(engine: RocksDB, directory: Path) -> list[Path]:
    """All files of a store as of now; everything that was written before this was called is in them.

    They are within the directory until `clear` is called, so that nothing removes them. Any thread may call this, one
    at a time.
    """
    clear(directory)
    try:
        engine.flush()
    except Exception as error:  # that is all that rocksdict says of its class
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
        raise OSError(f"MANIFEST of {directory} grew all the time")
    with (directory / manifest).open("rb") as file:
        (stage / manifest).write_bytes(file.read(size))
    (stage / CURRENT).write_text(f"{manifest}\n")
    shutil.copyfile(directory / CONFIG, stage / CONFIG)
    for table in stage.glob("*.sst"):
        if not _is_whole(table):
            table.unlink()
    return sorted(stage.iterdir())


def clear(directory: Path) -> None:
    """Remove the second names, also those that an interrupted backup has left."""
    shutil.rmtree(directory / STAGE, ignore_errors=True)


def _manifest(directory: Path) -> tuple[str, int]:
    """The name and size of MANIFEST. It is another file now and then; no name: just now."""
    name = (directory / CURRENT).read_text().strip()
    try:
        return name, (directory / name).stat().st_size
    except FileNotFoundError:
        return "", 0


def _link(table: Path, name: Path) -> None:
    try:
        os.link(table, name)
    except (FileExistsError, FileNotFoundError):  # by an earlier try; or nobody needs it any more
        pass
    except OSError as error:
        raise OSError(f"the file system of {table.parent} has no hard links, which backups need: {error}") from None


def _is_whole(table: Path) -> bool:
    with table.open("rb") as file:
        if file.seek(0, os.SEEK_END) < len(FOOTER):
            return False
        file.seek(-len(FOOTER), os.SEEK_END)
        return file.read() == FOOTER
