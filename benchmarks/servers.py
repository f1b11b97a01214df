"""The servers that are compared: each a process of its own on a free port, ended by whoever started it.

What always holds: every wait is bounded; a server is gone when its `with` block is left, in whatever way, and what it
kept with it.

Not for what is asked of them (`bench`, `generator.c`, `clients`).
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

READY_SECONDS = 20.0
"""How long a server may take until it accepts connections."""

STOP_SECONDS = 10.0
"""How long a server that was told to stop may take before it is killed."""

CAIRN = Path(sys.executable).with_name("cairn")
"""The command of the package that is measured: the one beside this interpreter."""

PACKAGES = {
    "redis-server": "redis-server",
    "memcached": "memcached",
    "cc": "gcc libc6-dev",
    "etcd": "etcd-server",
    "h2load": "nghttp2-client",
}
"""Programs that are needed, and Debian's packages that have them."""


IN_MEMORY = ("tmpfs", "ramfs")
"""File systems that are no disk: fsync costs nothing there."""

T = TypeVar("T")


class Missing(Exception):
    """A program is not installed."""


@dataclass(frozen=True)
class Server:
    """A server that runs. wire: what the generator speaks with it."""

    name: str
    wire: str
    port: int
    pid: int

    def resident_bytes(self) -> int:
        """The memory that its process has now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024


@contextlib.contextmanager
def cairn(*flags: str, program: Path = CAIRN, within: Path | None = None) -> Iterator[Server]:
    """`cairn serve` with its defaults, on a free port.

    program: that of another checkout, to compare the two. within: where its own directory is made.
    """
    with served("cairn", [str(program), "serve", "--port", "0", *flags], within) as server:
        yield server


@contextlib.contextmanager
def served(name: str, command: Sequence[str], within: Path | None = None) -> Iterator[Server]:
    """A server of cairnkv that a command starts, once it has said where it can be reached."""
    with _process(command, within) as (process, log):
        ready = _until(process, log, lambda: re.search(r"ready on cairn://[\d.]+:(\d+)", log.read_text()))
        yield Server(name, "article", int(ready[1]), process.pid)


@contextlib.contextmanager
def redis() -> Iterator[Server]:
    """redis-server as redis-benchmark's users run it for comparison: nothing is saved."""
    with _redis("--appendonly", "no") as server:
        yield server


@contextlib.contextmanager
def cairn_on_disk() -> Iterator[Server]:
    """`cairn serve --data`, which has every write on the disk before its reply."""
    with cairn("--data", "data", within=disk_directory()) as server:
        yield server


@contextlib.contextmanager
def redis_on_disk() -> Iterator[Server]:
    """redis-server that has every write on the disk before its reply; it rewrites its log at no time."""
    flags = ("--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0")
    with _redis(*flags, within=disk_directory()) as server:
        yield server


@contextlib.contextmanager
def _redis(*flags: str, within: Path | None = None) -> Iterator[Server]:
    port = _free_port()
    command = [installed_program("redis-server"), "--save", "", *flags, "--bind", "127.0.0.1", "--port", str(port)]
    with _process(command, within) as (process, log):
        _until(process, log, lambda: _accepts(port))
        yield Server("redis-server", "resp", port, process.pid)


def disk_directory() -> Path:
    """Where all that are compared keep what they keep: a directory for temporary files that is on a disk.

    Raises `Missing` where there is none.
    """
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    for path in map(Path, (tempfile.gettempdir(), "/var/tmp", Path.home())):
        over = [(place, kind) for place, kind in mounts if path.resolve().is_relative_to(place)]
        if max(over, key=lambda mount: len(mount[0]), default=("", "tmpfs"))[1] not in IN_MEMORY:
            return path
    raise Missing("temporary files are in memory here, not on a disk: name a directory in TMPDIR")


@contextlib.contextmanager
def memcached() -> Iterator[Server]:
    """memcached with its defaults, and memory enough that it throws nothing away."""
    port = _free_port()
    command = [installed_program("memcached"), "-U", "0", "-l", "127.0.0.1", "-p", str(port), "-m", "4096"]
    with _process([*command, *(["-u", "root"] if os.geteuid() == 0 else [])]) as (process, log):
        _until(process, log, lambda: _accepts(port))
        yield Server("memcached", "memcached", port, process.pid)


def version(program: str) -> str | None:
    """What an installed program says of its version, None when it is not installed."""
    path = shutil.which(program)
    if path is None:
        return None
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=READY_SECONDS).stdout
    found = re.search(r"\d+(\.\d+)+\S*", said)
    return found[0] if found else "unknown"


def installed_program(name: str) -> str:
    """The path of a program. Raises `Missing`."""
    path = shutil.which(name)
    if path is None:
        raise Missing(f"{name} is not installed; on Debian: apt-get install {PACKAGES[name]}")
    return path


@contextlib.contextmanager
def _process(command: Sequence[str], within: Path | None = None) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process in a directory of its own, and the file that its output goes to. within: where that is made."""
    settings = {name: text for name, text in os.environ.items() if not re.match("CAIRNKV_(?!_PURE)", name)}
    with tempfile.TemporaryDirectory(prefix="cairn-bench-", dir=within) as directory:
        log = Path(directory) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=directory,
                env=settings,
                start_new_session=True,  # Ctrl-C is for this program, which ends what it started
            )
        try:
            yield process, log
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until(process: subprocess.Popen[bytes], log: Path, ready: Callable[[], T]) -> T:
    """What `ready` gives once it gives something. Raises RuntimeError when the server ends, or takes too long."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if found := ready():
            return found
        time.sleep(0.02)
    said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
    raise RuntimeError(f"{Path(process.args[0]).name} did not start; the last it said: {said[-1]}")


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
