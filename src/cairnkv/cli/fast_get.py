"""One GET of the native protocol without the client: `cairn get` starts faster, because it imports fewer modules.

This module handles a plain address and a reply that is a value or "not found". For everything else it raises
`NeedsClient`, and the client sends the GET again, which is safe because GET changes nothing. A test compares the bytes
of this module with those of `cairnkv.protocol.native`.

Out of scope: other commands, and other users than `cairn get`.
"""

import socket
from typing import Final

from cairnkv.limits import FRAME_MAX, KEY_MAX, PORT

TIMEOUT: Final = 0.25
"""Seconds to wait for the connection or the reply before the client takes over. Its own timeouts are longer."""


class NeedsClient(Exception):
    """The address, the key or the reply is not one of the simple cases."""


def request(key: bytes, *, local: bool = False) -> bytes:
    """Return the frame of a GET: flags, command number, key length, key. local: set the flag for a local read."""
    if not 1 <= len(key) <= KEY_MAX:
        raise NeedsClient
    return (b"\1\0\0" if local else b"\0\0\0") + len(key).to_bytes(4, "big") + key


def get(url: str, key: bytes, *, local: bool = False) -> bytes | None:
    """Return the value of a key, or None if it is absent. Raises `NeedsClient`."""
    frame = request(key, local=local)
    try:
        with _connected(url) as connection:
            connection.settimeout(TIMEOUT)
            connection.sendall(frame)
            with connection.makefile("rb") as replies:
                head = replies.read(6)
                length = int.from_bytes(head[2:6], "big")
                if len(head) < 6 or length > FRAME_MAX:
                    raise NeedsClient
                payload = replies.read(length)
    except (OSError, OverflowError):
        raise NeedsClient from None
    if len(payload) < length:
        raise NeedsClient
    match head[0], head[1]:
        case 0, 0x00 | 0x30:
            return payload
        case 0x01, 0x01 | 0x31:
            return None
    raise NeedsClient


def _literal(host: str) -> bool:
    return host == "localhost" or (host.count(".") == 3 and host.replace(".", "").isdecimal())


def _connected(url: str) -> socket.socket:
    """Connect to a URL with one numeric host, or with a path. Raises `NeedsClient` for any other URL."""
    scheme, _, place = url.partition("://")
    plain = place.isascii() and not any(map(place.__contains__, "%?@,[]"))
    if plain and scheme == "cairn":
        host, _, port = place.removesuffix("/").partition(":")
        # Only numeric addresses: a name lookup cannot be stopped, and only the full client bounds its time.
        if _literal(host) and "/" not in host and (port or str(PORT)).isdecimal():
            # For a host as text, Python would import an encoding.
            address = (host.encode(), int(port or PORT))
            return socket.create_connection(address, TIMEOUT)  # type: ignore[arg-type]  # bytes are documented
    if plain and scheme == "cairn+unix" and place.startswith("/"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT)
        try:
            connection.connect(place)
        except BaseException:
            connection.close()
            raise
        return connection
    raise NeedsClient
