"""Read a long write-ahead log, as a crash leaves it, in another process before this one opens the directory.

RocksDB reads the log while it opens, some seconds for 256 MiB, and `rocksdict` holds the GIL all the time, which would
block a server. The other process opens and closes the directory, which turns the log into tables; after that, opening
takes milliseconds.

Out of scope: errors. Opening the directory afterwards reports them.
"""

import contextlib
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cairnkv.errors import OptionError
from cairnkv.installation import python_command, python_environment
from cairnkv.storage.rocksdb import open_rocksdb

logger: Final = logging.getLogger("cairnkv.disk")

SHORT_BYTES: Final = 1024 * 1024
"""Bytes of a log that is read in about 20 ms. Starting a process takes longer."""

POLL_SECONDS: Final = 0.1
"""Interval of calls of `stopped`."""


def replay(directory: Path, limit: int | None, stopped: Callable[[], bool]) -> None:
    """Read the write-ahead log in another process, if it is long.

    limit: as for `open_rocksdb`. stopped: returns whether to give up; called at intervals.
    Raises `OptionError` if that fails.
    """
    size = sum(log.stat().st_size for log in directory.glob("*.log"))
    if size <= SHORT_BYTES:
        return
    logger.info("%s: reading a write-ahead log of %s bytes, left by a crash", directory, f"{size:,}")
    code = f"from {__name__} import read; read()"
    process = subprocess.Popen(
        python_command("-c", code, str(directory), "" if limit is None else str(limit)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={name: text for name, text in python_environment().items() if not name.startswith("CAIRNKV_")},
    )
    with process:
        while not stopped():
            with contextlib.suppress(subprocess.TimeoutExpired):
                message, _ = process.communicate(timeout=POLL_SECONDS)
                if message:
                    raise OptionError(message.decode("utf-8", "surrogateescape"))
                return  # after another failure, opening the directory reports it
        process.kill()  # as one more crash


def read() -> None:
    """Open and close the directory, in the other process, and print an error."""
    try:
        open_rocksdb(Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2] else None).close()
    except OptionError as error:
        sys.stdout.buffer.write(str(error).encode("utf-8", "surrogateescape"))
