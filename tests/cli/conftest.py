"""How the command line is called in tests: in this process where that is enough, else in one of its own."""

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
"""How long a process may take before a test gives up. Only a test that fails waits for it."""


@dataclasses.dataclass(frozen=True)
class Said:
    """What a call of the command line came to."""

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
    """An empty server, which is also the one that CAIRNKV_URL names. Its clock stands still."""
    with cairnkv.connect(_running.url) as kv:
        kv.clear_all()
    monkeypatch.setenv("CAIRNKV_URL", _running.url)
    return _running.url


@pytest.fixture
def kv(url: str) -> Iterator[cairnkv.Client[bytes, bytes]]:
    """A client of that server."""
    with cairnkv.connect(url, codec="bytes") as client:
        yield client


class _Stdin(io.TextIOWrapper):
    """Standard input that holds these bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")


@pytest.fixture
def cairn_here(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """Call `cairn` in this process: `cairn_here("get", "k", stdin=b"")`. It sees pipes, not a terminal."""

    def call(*arguments: str, stdin: bytes = b"") -> Said:
        monkeypatch.setattr(sys, "stdin", _Stdin(stdin))
        capfdbinary.readouterr()
        code = main(arguments)
        out, err = capfdbinary.readouterr()
        return Said(code, out, err.decode())

    return call


def cairn_process(*arguments: str | bytes, stdin: bytes = b"", **environment: str) -> Said:
    """Call `cairn` in a process of its own."""
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
    """The words that start `cairn` in a process of its own."""
    return [sys.executable, "-m", "cairnkv", *arguments]


@pytest.fixture
def unused_url() -> Iterator[str]:
    """Where nobody listens: the port is taken, and refuses."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"cairn://127.0.0.1:{taken.getsockname()[1]}"
