"""Calls of the command line in tests: in this process, or in a new one."""

import dataclasses
import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

import cairnkv
from cairnkv.cli.main import main
from cairnkv.testing import RunningServer, running_server

SECONDS = 30.0
"""Maximum seconds of a process. Only a failing test waits so long."""


@dataclasses.dataclass(frozen=True)
class Said:
    """The exit code and the output of a call of the command line."""

    code: int
    out: bytes
    err: str


Call = Callable[..., Said]


@pytest.fixture(scope="module")
def _running() -> Iterator[RunningServer]:
    with running_server() as running:
        yield running


@pytest.fixture
def url(_running: RunningServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty server, also in CAIRNKV_URL. Its clock stands still."""
    with cairnkv.connect(_running.url) as kv:
        kv.clear_all()
    monkeypatch.setenv("CAIRNKV_URL", _running.url)
    return _running.url


@pytest.fixture
def kv(url: str) -> Iterator[cairnkv.Client[bytes, bytes]]:
    """A client of the server."""
    with cairnkv.connect(url, codec="bytes") as client:
        yield client


class _Stdin(io.TextIOWrapper):
    """Standard input with these bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")


@pytest.fixture
def cairn_here(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """Call `cairn` in this process, without a terminal: `cairn_here("get", "k", stdin=b"")`."""

    def call(*arguments: str, stdin: bytes = b"") -> Said:
        monkeypatch.setattr(sys, "stdin", _Stdin(stdin))
        capfdbinary.readouterr()
        code = main(arguments)
        out, err = capfdbinary.readouterr()
        return Said(code, out, err.decode())

    return call


def cairn_process(*arguments: str | bytes, stdin: bytes = b"", **environment: str) -> Said:
    """Call `cairn` in a new process."""
    done = subprocess.run(
        command(*arguments),
        input=stdin,
        capture_output=True,
        env={**os.environ, **environment},
        timeout=SECONDS,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr.decode())


def command(*arguments: str | bytes) -> list[str | bytes]:
    """Return the arguments that start `cairn` in a new process."""
    return [sys.executable, "-m", "cairnkv", *arguments]


@pytest.fixture
def unused_url() -> Iterator[str]:
    """An address that refuses connections. Other programs cannot get its port meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"cairn://127.0.0.1:{taken.getsockname()[1]}"
