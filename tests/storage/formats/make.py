"""Makes the directory of this version's format: tables and a log, values in parts, deadlines, keyspaces and queues."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from cairnkv.commands import Ack, Clear, ClearAll, Command, Nack, Put, PutMany, QueueSet, Set, SetWith, Take
from cairnkv.storage.record_format import FORMAT, PART_BYTES
from tests.storage.test_disk import OnDisk

HERE: Final = Path(__file__).parent

LARGE: Final = b"0123456789abcdef" * (PART_BYTES // 16) + b"and a bit"
"""A value in two parts. Tables compress it; the log does not, so it goes to a table."""

IN_TABLES: Final[tuple[tuple[int, Command], ...]] = (
    (0, Set(b"plain", b"value")),
    (0, Set(b"k", b"the shortest key")),
    (0, Set(b"empty", b"")),
    (0, Set(b"binary \x00\xff", bytes(range(256)))),
    (0, Set(b"large", LARGE)),
    (0, SetWith(b"large that expires", LARGE, ttl=1_000_000)),
    (0, SetWith(b"expires", b"later", ttl=1_000_000)),
    (0, SetWith(b"expires soon", b"", ttl=10)),
    (0, Set(b"cleared", b"1")),
    (1, Set(b"plain", b"another keyspace")),
    (2, Set(b"cleared with its keyspace", b"1")),
    (15, Set(b"plain", b"the last keyspace of a Redis client")),
    (0, QueueSet(b"with settings", attempts=3, per_group=2)),
    (0, PutMany(b"plain", 0, 5, (b"acknowledged", b"first", b"second", LARGE))),
    (0, Take(b"plain", 2)),
    (0, Put(b"with settings", b"grouped", group=b"g", unique=b"n", unique_for=1_000_000)),
)

IN_LOG: Final[tuple[tuple[int, Command], ...]] = (
    (0, Set(b"plain", b"newer")),
    (0, Clear(b"cleared")),
    (2, ClearAll()),
    (2, Set(b"after", b"it was cleared")),
    (0, Ack(((3, 1),))),
    (0, Nack(4, 2, reason=b"a reason", delay=500_000)),
    (0, Put(b"with settings", b"", expires=1_000_000, priority=7)),
)

NEEDLESS: Final = ("LOG*", "LOCK", "reserve")
"""Files that say nothing of the store."""


def write(directory: Path, commands: tuple[tuple[int, Command], ...], *, crash: bool) -> None:
    """Write these, and end this process without closing the store, or not."""
    with OnDisk(directory) as disk:
        for db, command in commands:
            disk.reply(disk.store.execute(command, db))
        if crash:
            os._exit(0)


def make() -> None:
    """Make it."""
    target = HERE / str(FORMAT)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "made"
        for step in ("tables", "log"):
            subprocess.run([sys.executable, "-m", __spec__.name, step, str(made)], check=True)
        for needless in NEEDLESS:
            for path in made.glob(needless):
                path.unlink()
        for older in sorted(made.glob("OPTIONS-*"))[:-1]:
            older.unlink()
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(made, target)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["tables", directory]:
            write(Path(directory), IN_TABLES, crash=False)
        case ["log", directory]:
            write(Path(directory), IN_LOG, crash=True)
        case _:
            make()
