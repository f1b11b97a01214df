"""A node's table on its way into a snapshot and out of it: the files that are sent, and a directory made of them.

What always holds: a table is only read, but for `put_node_record`, which is for a copy. What is sent is a backup with
its manifest, so whoever receives it has the SHA-256 of each file, too. All of this takes its time, and is for a thread.

Not for how the files travel (`snapshots`).
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cairnkv.errors import OptionError
from cairnkv.storage.backup import MANIFEST, damaged_files, read
from cairnkv.storage.base import no_progress
from cairnkv.storage.check import opened
from cairnkv.storage.disk import DiskStorage
from cairnkv.storage.files import Progress, sync
from cairnkv.storage.record_format import NODE_DB, Parts, parsed_value, part_key, record_key, record_value
from cairnkv.storage.rocksdb import open_rocksdb

STAGED: Final = ".snapshot"
"""What the name of the directory ends with, beside a table, in which the files for a snapshot are meanwhile."""


@contextlib.contextmanager
def staged(storage: DiskStorage, progress: Progress = no_progress) -> Iterator[Path]:
    """The files of a table that is in use, as of now, for as long as the block lasts. They share the disk with it.

    progress: told how many bytes more were looked at. Raises `StorageRefused`, `OptionError`, `OSError`.
    """
    table = storage.directory.absolute()
    stage = table.with_name(f".{table.name}{STAGED}")
    shutil.rmtree(stage, ignore_errors=True)  # what a crash has left
    try:
        yield storage.back_up(stage, progress=progress).path
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def install(fetched: Path, table: Path, progress: Progress = no_progress) -> None:
    """Make a node's table of fetched files, which are taken for it, in a directory that is empty or not there.

    progress: told how many bytes more were compared. Raises `OptionError`, and nothing was done then.
    """
    backup = read(fetched)
    if wrong := damaged_files(backup, progress):
        raise OptionError(f"{fetched} is damaged: {'; '.join(wrong[:3])}")
    if table.exists() and any(table.iterdir()):
        raise OptionError(f"{table} is there and is not empty")
    (fetched / MANIFEST).unlink()
    sync(fetched)
    fetched.rename(table)
    sync(table.parent)


def node_record(directory: Path, key: bytes) -> bytes | None:
    """What a node keeps for itself under a key, in a table that nobody has open or in its files; None: nothing.

    Reads little else. Raises `ValueError` where it is not whole, and what RocksDB raises.
    """
    at = record_key(NODE_DB, key)
    with opened(directory) as database:
        record = database.get(at)
        if record is None:
            return None
        value, _ = parsed_value(record)
        if not isinstance(value, Parts):
            return value
        whole = b"".join(database.get(part_key(value.number, index)) or b"" for index in range(value.pieces))
        if len(whole) != value.length:
            raise ValueError(f"{key!r} has {len(whole):,} of {value.length:,} bytes")
        return whole


def put_node_record(directory: Path, key: bytes, value: bytes) -> None:
    """Write a short record of a node's own into a table that nobody has open. Raises `OptionError`."""
    engine = open_rocksdb(directory)
    try:
        batch = engine.batch()
        batch.put(record_key(NODE_DB, key), record_value(value, None))
        engine.write(batch)
        engine.sync()
    finally:
        engine.close()
