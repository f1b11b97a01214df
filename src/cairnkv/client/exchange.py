"""The path of a call through a socket: encodes commands, uses the socket, decodes replies.

`command_parts` encodes a command, `ReplyDecoder` decodes replies, `Line` uses the socket: natively where possible
(`exchange_native.pyx`), else in pure Python. Tests hold both paths equal.

Invariants: no wait ends later than a tenth of its time after the deadline. After an error or an interruption the number
of sent bytes is unknown, so the connection is unusable.
"""

import socket
import struct
import time
from typing import TYPE_CHECKING, Final

from cairnkv.commands import Command
from cairnkv.installation import native_path_in_use
from cairnkv.protocol import native
from cairnkv.protocol.native import CommandFlag

RECEIVE_BYTES: Final = 64 * 1024
"""Maximum bytes of one `recv`."""


class PureLine:
    """Sends and receives on a blocking socket. It uses the system's timeouts, which cost nothing per call."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._timeout = 0.0

    def send(self, data: bytes, deadline: float) -> None:
        """Send all bytes. Raises OSError; BlockingIOError or TimeoutError after the deadline."""
        self._wait_until(deadline)
        sent = self._socket.send(data)
        while sent < len(data):
            # The system's timeout begins again with each part.
            if time.monotonic() > deadline:
                raise TimeoutError
            sent += self._socket.send(memoryview(data)[sent:])

    def receive(self, deadline: float) -> bytes:
        """Return the next received bytes. Raises OSError; BlockingIOError or TimeoutError after the deadline."""
        if time.monotonic() > deadline:
            raise TimeoutError  # even if bytes have arrived: a slow sender could prevent it forever
        self._wait_until(deadline)
        data = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("the server closed it")
        return data

    def _wait_until(self, deadline: float) -> None:
        """Set the system's timeout. An earlier value that differs by less than a tenth stays."""
        timeout = max(deadline - time.monotonic(), 0.001)
        if not 0.9 * self._timeout <= timeout <= self._timeout:
            self._timeout = timeout
            limit = struct.pack("ll", int(timeout), max(1, int(timeout % 1 * 1_000_000)))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


class GreenLine(PureLine):
    """Sends and receives on a socket of gevent or eventlet. Other green threads run during its waits."""

    def send(self, data: bytes, deadline: float) -> None:
        """Send all bytes. Raises OSError, or TimeoutError after the deadline."""
        self._wait_until(deadline)
        self._socket.sendall(data)

    def _wait_until(self, deadline: float) -> None:
        if (left := deadline - time.monotonic()) <= 0:
            raise TimeoutError
        self._socket.settimeout(left)


if TYPE_CHECKING or not native_path_in_use():
    from cairnkv.protocol.native import ReplyDecoder, command_parts

    Line = PureLine
else:
    from cairnkv.client.exchange_native import Line, ReplyDecoder, command_parts

__all__ = ["GreenLine", "Line", "PureLine", "ReplyDecoder", "command_parts", "parts_with"]


def parts_with(flag: CommandFlag, command: Command) -> list[bytes]:
    """Return the frame of a command with a flag, in pieces. It is rare, so it has no native twin."""
    return native.command_parts(command, flags=flag)
