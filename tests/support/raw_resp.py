"""Redis' wire as tests see it: raw bytes first, so that a reply is compared as it came, and a plain reading of them.

It shares nothing with `cairnkv.protocol`, which it is there to check. A value is a pair of its type's first byte and
what it holds: `(b"$", b"text")`, `(b":", 1)`, `(b"*", [value, ...])`, `(b"%", [(key, value), ...])`; the content of a
null is None. Texts of numbers other than integers stay bytes.
"""

import socket
import ssl
from typing import Any, Self

from tests.support.raw import SECONDS

Value = tuple[bytes, Any]
Words = tuple[bytes, ...]

NOT_WHOLE = -1


def command(*words: bytes) -> bytes:
    """A command as clients send it.

    >>> command(b"GET", b"k")
    b'*2\\r\\n$3\\r\\nGET\\r\\n$1\\r\\nk\\r\\n'
    """
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def end_of(data: bytes | bytearray, at: int = 0) -> int:
    """Where the value that begins at `at` ends; NOT_WHOLE when it has not come whole.

    >>> end_of(b"*2\\r\\n$1\\r\\na\\r\\n:1\\r\\n+OK\\r\\n")
    15
    """
    missing = 1
    while missing:
        missing -= 1
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return NOT_WHOLE
        kind, text = data[at : at + 1], bytes(data[at + 1 : line_end])
        at = line_end + 2
        if kind in b"$=!":
            if text != b"-1":
                at += int(text) + 2
                if at > len(data):
                    return NOT_WHOLE
        elif kind in b"*~>":
            missing += max(int(text), 0)
        elif kind == b"%":
            missing += 2 * int(text)
        elif kind not in b"+-:,#(_":
            raise ValueError(f"no value of Redis' wire begins with {bytes(kind)!r}: {bytes(data[:100])!r}")
    return at


def value_of(raw: bytes) -> Value:
    """Return the value of its raw bytes.

    >>> value_of(b"*2\r\n$1\r\na\r\n:1\r\n")
    (b'*', [(b'$', b'a'), (b':', 1)])
    """
    value, end = _value(raw, 0)
    assert end == len(raw), f"there is more behind the value: {raw!r}"
    return value


def _value(raw: bytes, at: int) -> tuple[Value, int]:
    line_end = raw.index(b"\r\n", at)
    kind, text = raw[at : at + 1], raw[at + 1 : line_end]
    at = line_end + 2
    if kind == b":":
        return (kind, int(text)), at
    if kind == b"_" or (kind in b"$*" and text == b"-1"):
        return (kind, None), at
    if kind in b"$=!":
        return (kind, raw[at : at + int(text)]), at + int(text) + 2
    if kind in b"*~>":
        items = []
        for _ in range(int(text)):
            item, at = _value(raw, at)
            items.append(item)
        return (kind, items), at
    if kind == b"%":
        pairs = []
        for _ in range(int(text)):
            key, at = _value(raw, at)
            value, at = _value(raw, at)
            pairs.append((key, value))
        return (kind, pairs), at
    return (kind, text), at


class Peer:
    """A connection to a server of the Redis protocol. Use as a context manager, which closes it."""

    def __init__(self, address: tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
        """tls: the context of TLS; None: plain text."""
        self.socket = socket.create_connection(address, SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname=address[0])
        self._came = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close in good order."""
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send these bytes."""
        self.socket.sendall(data)

    def reply(self) -> bytes:
        """The raw bytes of the next reply. ConnectionError when the server closes, TimeoutError when none comes."""
        while (end := end_of(self._came)) == NOT_WHOLE:
            data = self.socket.recv(64 * 1024)
            if not data:
                raise ConnectionError(f"closed by the server, with {bytes(self._came)!r} of a reply")
            self._came += data
        reply = bytes(self._came[:end])
        del self._came[:end]
        return reply

    def ask(self, *words: bytes) -> bytes:
        """The raw reply to a command."""
        self.send(command(*words))
        return self.reply()

    def line(self) -> bytes:
        """The next line that came, without its end."""
        while (end := self._came.find(b"\r\n")) < 0:
            data = self.socket.recv(64 * 1024)
            if not data:
                raise ConnectionError(f"closed by the server, with {bytes(self._came)!r} of a line")
            self._came += data
        line = bytes(self._came[:end])
        del self._came[: end + 2]
        return line

    def quiet(self, seconds: float) -> bytes:
        """Return the unsolicited bytes of some seconds: ideally none."""
        self.socket.settimeout(seconds)
        try:
            while data := self.socket.recv(64 * 1024):
                self._came += data
        except TimeoutError:
            pass
        finally:
            self.socket.settimeout(SECONDS)
        came, self._came = bytes(self._came), bytearray()
        return came

    def is_closed(self) -> bool:
        """Whether the server closes the connection, with nothing unread before; waits for it."""
        if self._came:
            return False
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True
