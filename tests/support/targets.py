"""Servers that speak Redis' wire, to prove things of: ours, or the real redis-server, each a process of its own.

What always holds: every wait is bounded; a server listens on a free port of 127.0.0.1, keeps nothing on disk, and is
gone when its `with` block is left. Tests take a `Target` and never ask which of the two it is, except where they
say why.
"""

import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.raw import SECONDS, ServerProcess
from tests.support.raw_resp import Peer

REDIS_SERVER = "redis-server"
DEBIAN_PACKAGE = "redis-server"

START_ATTEMPTS = 5
"""How often redis-server is given another free port, since another process may take it in between."""


class MissingServer(Exception):
    """The server that a test needs is not installed."""


@dataclass(frozen=True)
class Target:
    """A server that runs. name: "cairn", "redis", or "other" for one that was running before.

    login: user and secret of clients, if they log in. tls: the context of TLS, if they use it.
    """

    name: str
    host: str
    port: int
    login: tuple[bytes, ...] = ()
    tls: ssl.SSLContext | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self.host, self.port

    @property
    def url(self) -> str:
        """The same, as Redis' clients write it."""
        return f"redis://{self.host}:{self.port}"


@contextlib.contextmanager
def chosen() -> Iterator[Target]:
    """Yield the server that the variable TARGET names: cairn (the default), redis, or HOST:PORT."""
    name = os.environ.get("TARGET", "cairn")
    if match := re.fullmatch(r"([\w.-]+):(\d+)", name):
        yield Target("other", match[1], int(match[2]))
    elif name == "cairn":
        with cairn() as target:
            yield target
    elif name == "redis":
        with redis() as target:
            yield target
    else:
        raise ValueError(f"TARGET is {name!r}; it is cairn, redis, or HOST:PORT")


@pytest.fixture(scope="module")
def redis_target() -> Iterator[Target]:
    """The server that is tested: `cairn serve`, or what the variable TARGET names. Conftests import this."""
    try:
        with chosen() as target:
            yield target
    except MissingServer as missing:
        pytest.skip(str(missing))


@pytest.fixture
def server(redis_target: Target) -> Target:
    """The server, without keys. Conftests import this."""
    with Peer(redis_target.address) as peer:
        assert peer.ask(b"FLUSHALL") == b"+OK\r\n"
    return redis_target


@contextlib.contextmanager
def cairn(*flags: str) -> Iterator[Target]:
    """`cairn serve` with these flags."""
    kept = {name: text for name, text in os.environ.items() if name == "CAIRNKV__PURE"}
    with (
        tempfile.TemporaryDirectory(prefix="cairn-") as directory,
        ServerProcess("--port", "0", *flags, log=Path(directory) / "log", environment=kept) as server,
    ):
        yield Target("cairn", *server.address)


@contextlib.contextmanager
def redis(*flags: str) -> Iterator[Target]:
    """The real redis-server with these flags. Raises `MissingServer` where it is not installed."""
    program = shutil.which(REDIS_SERVER)
    if program is None:
        raise MissingServer(f"there is no {REDIS_SERVER}; on Debian: apt-get install {DEBIAN_PACKAGE}")
    with tempfile.TemporaryDirectory(prefix="cairn-redis-") as directory:
        for _ in range(START_ATTEMPTS):
            port = _free_port()
            nothing_kept = ["--save", "", "--appendonly", "no", "--dir", directory]
            process = subprocess.Popen(
                [program, "--bind", "127.0.0.1", "--port", str(port), *nothing_kept, *flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                if _listens(process, port):
                    yield Target("redis", "127.0.0.1", port)
                    return
            finally:
                _end(process)
    raise AssertionError(f"{REDIS_SERVER} did not start, {START_ATTEMPTS} times")


def redis_version() -> tuple[int, int]:
    """Major and minor of the redis-server that is installed; (0, 0) where there is none."""
    program = shutil.which(REDIS_SERVER)
    if program is None:
        return 0, 0
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=SECONDS, check=True).stdout
    match = re.search(r"v=(\d+)\.(\d+)", said)
    assert match is not None, said
    return int(match[1]), int(match[2])


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether a server takes connections in time; False when it ends instead, as it does when the port is taken."""
    end = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return process.poll() is None
        time.sleep(0.02)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
