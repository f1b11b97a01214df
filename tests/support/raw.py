"""Clients without manners: bare sockets that send any bytes and take replies apart, or do not.

What always holds: every wait is bounded by `SECONDS`; a reply that does not come is an error, never a hang.
"""

import contextlib
import os
import re
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self, TypeVar

from cairnkv.commands import Command, Ping
from cairnkv.installation import PURE_VARIABLE
from cairnkv.protocol.native import Response, ResponseDecoder, Width, write_command

SECONDS = 20.0
"""How long anything may take before a test gives up. Generous: only a test that fails waits for it."""

PING = write_command(Ping(b""))
PING_4 = write_command(Ping(b""), width=4)
PONG = Response(True, b"PONG")
OK = Response(True, b"OK")

Address = tuple[str, int] | str
"""(host, port), or the path of a Unix socket."""


class RawClient:
    """A socket to a server. Use as a context manager."""

    def __init__(self, address: Address | None, *, receive_buffer: int | None = None, seconds: float = SECONDS) -> None:
        """receive_buffer: bytes that this side's system takes from the server unread, about."""
        assert address is not None
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.socket.settimeout(seconds)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.decoder = ResponseDecoder()
        try:
            self.socket.connect(address)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- sending -----------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send all of this."""
        self.socket.sendall(data)

    def send_in_pieces(self, data: bytes, size: int = 1, *, pause: float = 0) -> None:
        """Send all of this, so many bytes in a packet, with a pause of so many seconds behind each."""
        if self.socket.family == socket.AF_INET:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(data), size):
            self.socket.sendall(data[at : at + size])
            if pause:
                time.sleep(pause)

    def send_commands(self, commands: Iterable[Command], *, width: Width = 2) -> None:
        """Send these commands in one go."""
        self.send(b"".join(write_command(command, width=width) for command in commands))

    def send_until_refused(self, data: bytes, *, most: int, quiet: float) -> int:
        """Send this again and again until the server takes no more for `quiet` seconds; how many bytes it took."""
        sent = 0
        self.socket.settimeout(quiet)
        with contextlib.suppress(TimeoutError):
            while sent < most:
                sent += self.socket.send(data[sent % len(data) :])
        self.socket.settimeout(SECONDS)
        return sent

    def half_close(self) -> None:
        """Say that no more will come; replies still may."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close in good order."""
        self.socket.close()

    def reset(self) -> None:
        """Vanish: the server is sent a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    # -- receiving -----------------------------------------------------------------------------------------------

    def reply(self) -> Response:
        """The next reply; ConnectionError when the server closes instead."""
        while (response := self.decoder.next()) is None:
            data = self.socket.recv(256 * 1024)
            if not data:
                raise ConnectionError(f"closed by the server, with {self.decoder.pending} bytes of a reply")
            self.decoder.feed(data)
        return response

    def replies(self, count: int) -> list[Response]:
        """So many replies."""
        return [self.reply() for _ in range(count)]

    def ask(self, command: Command, *, width: Width = 2) -> Response:
        """The reply to a command."""
        self.send(write_command(command, width=width))
        return self.reply()

    def rest(self) -> list[Response]:
        """All replies until the server closes, which it has to do."""
        found = []
        with contextlib.suppress(ConnectionError):
            while True:
                found.append(self.reply())
        assert self.decoder.pending == 0, "the server closed within a reply"
        return found

    def is_closed(self) -> bool:
        """Whether the server closes the connection, without another byte; waits for it."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True


def failed_with(response: Response, code: str) -> bool:
    """Whether a reply is a failure with this code."""
    return not response.ok and response.payload.split(b" ")[0] == code.encode()


def eventually(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until a condition holds; an error when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "this did not come true in time"
        time.sleep(0.005)


# -- servers as processes ----------------------------------------------------------------------------------------


_SERVE = "import runpy, sys; sys.argv.insert(1, 'serve'); runpy.run_module('cairnkv', run_name='__main__')"


class ServerProcess:
    """`python -m cairnkv serve` as a process of its own. Use as a context manager, which ends it."""

    def __init__(
        self,
        *arguments: str,
        log: Path,
        environment: dict[str, str] | None = None,
        prelude: str = "",
    ) -> None:
        """log: the file that takes its standard error. prelude: Python that its process runs first."""
        clean = clean_environment()
        self._log = log
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"{prelude}\n{_SERVE}", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=clean | (environment or {}),
            )
        self.readiness = ""

    def __enter__(self) -> Self:
        try:
            self.readiness = self._first_line()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _first_line(self) -> str:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(SECONDS), "there was no readiness line in time"
        line = self.process.stdout.readline().decode()
        assert line.endswith("\n"), f"the server did not start: {self.log()}"
        return line.rstrip("\n")

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, from its readiness line."""
        match = re.search(r"cairns?://([\d.]+):(\d+)", self.readiness)
        assert match is not None, self.readiness
        return match[1], int(match[2])

    def log(self) -> str:
        """Return its standard error so far."""
        return self._log.read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def exit_code(self, seconds: float = SECONDS) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(seconds)

    def memory_mib(self, which: str = "VmRSS") -> float:
        """Its resident memory in MiB: VmRSS now, VmHWM at its highest."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(rf"{which}:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) / 1024


def clean_environment() -> dict[str, str]:
    """Return the environment without options of a server."""
    return {name: text for name, text in os.environ.items() if not name.startswith("CAIRNKV_") or name == PURE_VARIABLE}


def serve(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `cairn serve` with arguments with which it ends by itself."""
    clean = clean_environment()
    return subprocess.run(
        [sys.executable, "-m", "cairnkv", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=clean | (environment or {}),
        check=False,
    )


T = TypeVar("T")


@contextlib.contextmanager
def all_of(clients: Iterable[AbstractContextManager[T]]) -> Iterator[list[T]]:
    """These clients, closed at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(client) for client in clients]
