"""The files of a snapshot of a node's storage, their installation on another node, and the thread for such work.

Invariants: storage is only read, except by `put_node_record`, which is for a copy. The files are a backup with its
manifest, so the receiver has the SHA-256 of each file. Jobs of a `SideThread` run one after the other; so the deletion
of a directory runs after a job that writes to it, even if the task of that job was cancelled.

Out of scope: the transfer of the files (`nats.snapshots`).
"""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from cairnkv.errors import OptionError
from cairnkv.storage.backup import MANIFEST, damaged_files, read
from cairnkv.storage.base import no_progress
from cairnkv.storage.check import opened
from cairnkv.storage.disk import DiskStorage
from cairnkv.storage.files import Progress, sync
from cairnkv.storage.record_format import NODE_DB, Parts, parsed_value, part_key, record_key, record_value
from cairnkv.storage.rocksdb import open_rocksdb

_T = TypeVar("_T")
_P = ParamSpec("_P")

STAGE: Final = ".snapshot"
"""The suffix of the name of the directory for the files of a snapshot, beside the directory of storage."""


class SideThread:
    """A thread beside the event loop for file work. It starts with the first job."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, name)

    def close(self) -> None:
        """End the thread after its jobs. Does not block."""
        self._executor.shutdown(wait=False)

    async def run(self, job: Callable[_P, _T], *args: _P.args, **named: _P.kwargs) -> _T:
        """Run a job, and return or raise its result. The job continues if the caller is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: job(*args, **named))

    @contextlib.asynccontextmanager
    async def entered(self, manager: contextlib.AbstractContextManager[_T]) -> AsyncIterator[_T]:
        """Enter and exit a context manager in the thread. It cannot suppress exceptions."""
        value = await self.run(manager.__enter__)
        try:
            yield value
        except BaseException as error:
            await asyncio.shield(self.run(manager.__exit__, type(error), error, error.__traceback__))
            raise
        await asyncio.shield(self.run(manager.__exit__, None, None, None))


@contextlib.contextmanager
def staged(storage: DiskStorage) -> Iterator[Path]:
    """Yield a directory with the files of open storage as of now, as hard links, and delete it after the block.

    Raises `StorageRefused`, `OptionError`, `OSError`.
    """
    table = storage.directory.absolute()
    stage = table.with_name(f".{table.name}{STAGE}")
    shutil.rmtree(stage, ignore_errors=True)  # left by a crash
    try:
        yield storage.back_up(stage).path
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def install(fetched: Path, table: Path, progress: Progress = no_progress) -> None:
    """Move fetched files to the directory of a node's storage, which must be empty or missing.

    progress: called with the bytes verified since the last call. Raises `OptionError`; then nothing has changed.
    """
    backup = read(fetched)
    if wrong := damaged_files(backup, progress):
        raise OptionError(f"{fetched} is damaged: {'; '.join(wrong[:3])}")
    if table.exists() and any(table.iterdir()):
        raise OptionError(f"{table} is not empty")
    (fetched / MANIFEST).unlink()
    sync(fetched)
    fetched.rename(table)
    sync(table.parent)


def node_record(directory: Path, key: bytes) -> bytes | None:
    """Read a record of a node in closed storage; None: absent.

    Reads little else. Raises `ValueError` for an incomplete record, and exceptions of RocksDB.
    """
    at = record_key(NODE_DB, key)
    with opened(directory) as database:
        record = database.get(at)
        if record is None:
            return None
        value, _ = parsed_value(record)
        if not isinstance(value, Parts):
            return value
        whole = b"".join(database.get(part_key(value.number, index)) or b"" for index in range(value.part_count))
        if len(whole) != value.length:
            raise ValueError(f"{key!r} has {len(whole):,} of {value.length:,} bytes")
        return whole


def put_node_record(directory: Path, key: bytes, value: bytes) -> None:
    """Write a short record of a node to closed storage. Raises `OptionError`."""
    rocksdb = open_rocksdb(directory)
    try:
        batch = rocksdb.batch()
        batch.put(record_key(NODE_DB, key), record_value(value, None))
        rocksdb.write(batch)
        rocksdb.sync()
    finally:
        rocksdb.close()
