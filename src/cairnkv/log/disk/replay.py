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
from cairnkv.log.disk.engine import open_engine

_log: Final = logging.getLogger("cairnkv.disk")

SHORT_BYTES: Final = 1024 * 1024
"""A log of so many bytes is read in some 20 ms, which is less than another process takes to begin."""

ASK_SECONDS: Final = 0.1
"""How often it is asked whether to give up."""


def replay(directory: Path, stopped: Callable[[], bool]) -> None:
    """Have the write-ahead log read, if it is long. stopped: asked every now and then whether to give up."""
    size = sum(log.stat().st_size for log in directory.glob("*.log"))
    if size <= SHORT_BYTES:
        return
    _log.info("%s: reading a write-ahead log of %s bytes, as a crash leaves it", directory, f"{size:,}")
    command = [sys.executable, "-m", __name__, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while not stopped():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(ASK_SECONDS)
                return
        process.kill()  # which is one crash more


if __name__ == "__main__":
    with contextlib.suppress(OptionError):  # the parent process will find the same
        open_engine(Path(sys.argv[1])).close()
