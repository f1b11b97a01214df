"""`cairn serve` on a directory in a process that tests kill, and the store that it leaves."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from cairnkv.storage.disk import DiskStorage
from cairnkv.storage.writer import Sync
from cairnkv.store import LocalStore

PATIENCE = 30.0

SMALL_MEMTABLES = "memtable=65536"
"""Has RocksDB flush and compact every now and then in a test (see `tampered`)."""


class Served:
    """A server on disk. Use as a context manager, which kills it."""

    def __init__(
        self,
        directory: Path,
        *flags: str,
        tampering: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """flags: of `cairn serve`, besides. tampering: see `tests.support.tampered`."""
        command = [sys.executable, "-m", "tests.support.tampered", *tampering, "--", "serve", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--data", str(directory), *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.process.stdout.close()
        if "mode durable" not in line:
            self.kill()
            raise AssertionError(f"the server does not serve {directory}: {line!r}")
        self.url = line.split(" ready on ")[1].split(",")[0]
        host, port = self.url.removeprefix("cairn://").rsplit(":", 1)
        self.address = host, int(port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End it with SIGKILL, if it is still there."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> None:
        """End it in good order."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)


@contextlib.contextmanager
def store_in(directory: Path) -> Iterator[LocalStore]:
    """Open the store of a directory as the next process would."""
    store = LocalStore(storage=DiskStorage(directory, sync=Sync(None)))
    try:
        store.housekeep()
        for database in store.databases:
            database.check()
        store.queues.check()
        yield store
    finally:
        store.close()
