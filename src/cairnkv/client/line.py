"""Sends and receives bytes on a connected socket. Each wait has a deadline.

Invariants: no wait ends later than a tenth of its time after the deadline. After an error or an interruption the number
of sent bytes is unknown, so the connection is unusable.

`exchange_native.pyx` has the native twin of `Line`; `cairnkv.client.exchange` chooses. Out of scope: the meaning of the
bytes.
"""

import socket
import struct
import time
from typing import Final

RECEIVE_BYTES: Final = 64 * 1024
"""Maximum bytes of one `recv`."""


class Line:
    """Sends and receives on a blocking socket. It uses the system's timeouts, which cost nothing per call."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._patience = 0.0

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
