"""The calls of a process on a directory, as trace.c records them: the shim, and its trace.

What always holds: a note is there once what it says has happened, so who reads the notes' length knows that all of them
up to there had happened before. The shim is compiled once for a run of the tests, with gcc.

Not for what a power failure makes of it (`failure`).
"""

import errno
import functools
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

SOURCE: Final = Path(__file__).with_name("trace.c")

NOTE: Final = struct.Struct("<IIIIqQ")

OPEN, WRITE, TRUNCATE, SYNC, SYNCED, RENAME, UNLINK, LINK, MKDIR, RMDIR, STRANGE = range(1, 12)

SYNC_SECONDS: Final = 0.000_3
"""What an fsync takes under the shim: long enough for others to come in between."""


KILL: Final = -1
"""The error of a fault that kills the process with SIGKILL."""


class Note(NamedTuple):
    """One thing that happened.

    number: which opening of a file it was done to; of SYNCED: which fsync has ended.
    offset: where a write begins, to which length a file was cut or grown, which number an fsync has; of OPEN: whether
    it is a directory. text, text2: what was written, or paths.
    time: of the monotonic clock, in ns. end: length of the notes with this one.
    """

    kind: int
    number: int
    offset: int
    text: bytes
    text2: bytes
    time: int
    end: int


class Fault(NamedTuple):
    """Calls that fail: the `nth` and those behind it, `times` of them (0: all), on files with this in their path.

    call: write, sync, open, rename; for `KILL` also written and synced.
    """

    call: str
    name: str
    error: int = errno.EIO
    nth: int = 1
    times: int = 0


class Trace:
    """Notes of what processes do below a directory, one after the other."""

    def __init__(self, root: Path, file: Path) -> None:
        """root: has to be there. file: outside of it."""
        self.root: Final = root.resolve()
        self.file: Final = file
        self.switch: Final = file.with_suffix(".faults")

    def environment(self, *faults: Fault) -> dict[str, str]:
        """What a process needs in its environment to be noted; the faults happen while `switch` is there."""
        return {
            **os.environ,
            "LD_PRELOAD": str(shim()),
            "TRACE_ROOT": str(self.root),
            "TRACE_FILE": str(self.file),
            "TRACE_SYNC_US": str(round(SYNC_SECONDS * 1e6)),
            "TRACE_FAULTS": " ".join(f"{f.call}:{f.name}:{f.nth}:{f.times}:{f.error}" for f in faults),
            "TRACE_FAULTS_WHEN": str(self.switch),
        }

    @property
    def length(self) -> int:
        """How far the notes go by now."""
        try:
            return self.file.stat().st_size
        except FileNotFoundError:
            return 0

    def notes(self) -> Iterator[Note]:
        """All of them, in order. A half one at the end, of a process that was killed, is left out."""
        data = memoryview(self.file.read_bytes())
        at = 0
        while at + NOTE.size <= len(data):
            kind, length, length2, number, offset, when = NOTE.unpack_from(data, at)
            begin = at + NOTE.size
            at = begin + length + length2
            if at > len(data):
                return
            yield Note(
                kind, number, offset, bytes(data[begin : begin + length]), bytes(data[begin + length : at]), when, at
            )


def now() -> int:
    """The time that notes bear."""
    return time.monotonic_ns()


@functools.cache
def shim() -> Path:
    """The compiled shim. It is there as long as this process."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "the power loss tests need a C compiler; on Debian: apt-get install gcc"
    directory = tempfile.TemporaryDirectory()
    _directories.append(directory)
    library = Path(directory.name) / "trace.so"
    command = [
        compiler,
        "-O1",
        "-Wall",
        "-Wextra",
        "-shared",
        "-fPIC",
        "-o",
        str(library),
        str(SOURCE),
        "-ldl",
        "-lpthread",
    ]
    subprocess.run(command, check=True)
    return library


_directories: Final[list["tempfile.TemporaryDirectory[str]"]] = []
