"""A line: the blocking way of bytes through a connected socket, each wait with a deadline.

What always holds: nothing waits longer than a tenth beyond its deadline. Whoever catches an error or an interruption
here cannot know how much has left: a line that failed is of no more use.

This is the readable one. `exchange_native.pyx` has its twin, which `cairnkv.client.exchange` prefers. Not for what the
bytes mean.
"""

import socket
import struct
import time
from typing import Final

RECEIVE_BYTES: Final = 64 * 1024
"""Bytes asked of the socket at once."""


class Line:
    """Sends and receives on a blocking socket. Its timeouts are the system's, which cost nothing per call."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._patience = 0.0

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of some bytes. Raises OSError; BlockingIOError or TimeoutError when it takes too long."""
        self._wait_until(deadline)
        sent = self._socket.send(data)
        while sent < len(data):
            # The system counts its timeout anew for each part that it takes.
            if time.monotonic() > deadline:
                raise TimeoutError
            sent += self._socket.send(memoryview(data)[sent:])

    def receive(self, deadline: float) -> bytes:
        """The next bytes that come. Raises OSError; BlockingIOError or TimeoutError when it takes too long."""
        if time.monotonic() > deadline:
            raise TimeoutError  # also where bytes have come: they could trickle in for ever
        self._wait_until(deadline)
        data = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("the server closed it")
        return data

    def _wait_until(self, deadline: float) -> None:
        """Let the system wait until then to send or receive; it is told again only when that matters."""
        patience = max(deadline - time.monotonic(), 0.001)
        if not 0.9 * self._patience <= patience <= self._patience:
            self._patience = patience
            limit = struct.pack("ll", int(patience), max(1, int(patience % 1 * 1_000_000)))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


class GreenLine:
    """Sends and receives on a socket of gevent or eventlet. Other green threads run during its waits."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def send(self, data: bytes, deadline: float) -> None:
        """Send all bytes. Raises OSError, or TimeoutError after the deadline."""
        self._wait_until(deadline)
        self._socket.sendall(data)

    def receive(self, deadline: float) -> bytes:
        """Return the next received bytes. Raises OSError, or TimeoutError after the deadline."""
        self._wait_until(deadline)
        data: bytes = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionResetError("the server closed it")
        return data

    def _wait_until(self, deadline: float) -> None:
        if (left := deadline - time.monotonic()) <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
