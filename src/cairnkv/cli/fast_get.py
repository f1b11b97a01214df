"""The straight way of one GET: the article's frame out, its response in, on a socket of its own.

A process that runs one `cairn get` spends its time on imports, and the vocabulary with all that hangs on it
costs more than the rest together. So that `get` starts as fast as it should, this module knows one command of
the wire by heart, as the compiled hot path knows some: it handles the answer that comes at once from a plain
address, and leaves everything else (`NotQuick`) to the client, which asks again. GET changes nothing, so it
may be asked twice. A test holds this module's bytes against `cairnkv.protocol.native`.

Not for use from elsewhere, and not for another command.
"""

import socket
from typing import Final

from cairnkv.limits import FRAME_MAX, KEY_MAX, PORT

PATIENCE: Final = 0.25
"""Seconds to wait for the system's or the server's answer; whoever takes longer is left to the client, beside
whose own times this one does not count."""


class NotQuick(Exception):
    """This is none of the simple cases: ask the client."""


def request(key: bytes, *, local: bool = False) -> bytes:
    """The frame of a GET: header, two-byte number, key. local: with the header's flag for what may be behind."""
    if not 1 <= len(key) <= KEY_MAX:
        raise NotQuick
    return (b"\1\0\0" if local else b"\0\0\0") + len(key).to_bytes(4, "big") + key


def get(url: str, key: bytes, *, local: bool = False) -> bytes | None:
    """The value of a key, None when it is not there; `NotQuick` when that takes more than the simplest case."""
    frame = request(key, local=local)
    try:
        with _connected(url) as connection:
            connection.settimeout(PATIENCE)
            connection.sendall(frame)
            with connection.makefile("rb") as replies:
                head = replies.read(6)
                length = int.from_bytes(head[2:6], "big")
                if len(head) < 6 or length > FRAME_MAX:
                    raise NotQuick
                payload = replies.read(length)
    except (OSError, OverflowError):
        raise NotQuick from None
    if len(payload) < length:
        raise NotQuick
    match head[0], head[1]:
        case 0, 0x00 | 0x30:
            return payload
        case 0x01, 0x01 | 0x31:
            return None
    raise NotQuick


def _literal(host: str) -> bool:
    return host == "localhost" or (host.count(".") == 3 and host.replace(".", "").isdecimal())


def _connected(url: str) -> socket.socket:
    """A connection to a plain address. Anything but a single host, or a path, is the client's to understand."""
    scheme, _, place = url.partition("://")
    plain = place.isascii() and not any(map(place.__contains__, "%?@,[]"))
    if plain and scheme == "cairn":
        host, _, port = place.removesuffix("/").partition(":")
        # Only numeric addresses: a name lookup cannot be stopped, and only the full client bounds its time.
        if _literal(host) and "/" not in host and (port or str(PORT)).isdecimal():
            # As bytes, the name is looked up as it is; as text, Python would first import what encodes others.
            address = (host.encode(), int(port or PORT))
            return socket.create_connection(address, PATIENCE)  # type: ignore[arg-type]  # bytes are documented
    if plain and scheme == "cairn+unix" and place.startswith("/"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE)
        try:
            connection.connect(place)
        except BaseException:
            connection.close()
            raise
        return connection
    raise NotQuick
