"""A long write-ahead log, as a crash leaves it, is read by another process before this one opens the directory.

RocksDB reads it as it opens, some seconds for 256 MiB, and `rocksdict` holds the interpreter all the time: a server
would answer nobody. Whoever has opened and closed the directory has turned that log into tables, and opening it again
takes milliseconds.

Not for what is wrong with a directory: opening it here afterwards says that.
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
"""A log of so many bytes is read in some 20 ms, which is less than another process takes to begin."""

ASK_SECONDS: Final = 0.1
"""How often it is asked whether to give up."""


def replay(directory: Path, limit: int | None, stopped: Callable[[], bool]) -> None:
    """Have the write-ahead log read, if it is long.

    limit: as for `open_rocksdb`. stopped: asked every now and then whether to give up.
    Raises `OptionError` when it cannot be.
    """
    size = sum(log.stat().st_size for log in directory.glob("*.log"))
    if size <= SHORT_BYTES:
        return
    logger.info("%s: reading a write-ahead log of %s bytes, as a crash leaves it", directory, f"{size:,}")
    code = f"from {__name__} import read; read()"
    process = subprocess.Popen(
        python_command("-c", code, str(directory), "" if limit is None else str(limit)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=python_environment(),
    )
    with process:
        while not stopped():
            with contextlib.suppress(subprocess.TimeoutExpired):
                said, _ = process.communicate(timeout=ASK_SECONDS)
                if said:
                    raise OptionError(said.decode("utf-8", "surrogateescape"))
                return  # where it has ended in any other way, opening the directory here will tell why
        process.kill()  # which is one crash more


def read() -> None:
    """In the other process: open, close, and say what was wrong."""
    try:
        open_rocksdb(Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2] else None).close()
    except OptionError as error:
        sys.stdout.buffer.write(str(error).encode("utf-8", "surrogateescape"))
