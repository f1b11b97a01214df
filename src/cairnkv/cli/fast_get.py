"""One GET of the native protocol without the client: `cairn get` starts faster, because it imports fewer modules.

This module handles a plain address, a user and a secret without percent-encoding, and a reply that is a value or "not
found". AUTH leaves with the GET in one write. For everything else this module raises `NeedsClient`, and the client
sends the GET again, which is safe because GET changes nothing; not after a wrong secret, which would count twice. A
test compares the bytes of this module with those of `cairnkv.protocol.native`.

Out of scope: other commands, and other users than `cairn get`.
"""

import os
import socket
from typing import TYPE_CHECKING, Final

from cairnkv.limits import CREDENTIALS_MAX, FRAME_MAX, KEY_MAX, PORT

if TYPE_CHECKING:
    from typing import BinaryIO

TIMEOUT: Final = 0.25
"""Seconds to wait for the connection or the reply before the client takes over. Its own timeouts are longer."""

LOGIN_TIMEOUT: Final = 5.0
"""Seconds to wait for the reply to AUTH, which a server delays by up to 4 seconds after failed logins. The client must
not take over meanwhile: its login would count as another failure."""


class NeedsClient(Exception):
    """The address, the key or the reply is not one of the simple cases."""


def request(key: bytes, *, local: bool = False) -> bytes:
    """Return the frame of a GET: flags, command number, key length, key. local: set the flag for a local read."""
    if not 1 <= len(key) <= KEY_MAX:
        raise NeedsClient
    return (b"\1\0\0" if local else b"\0\0\0") + len(key).to_bytes(4, "big") + key


def login_request(login: bytes) -> bytes:
    """Return the frame of AUTH for `user:secret`: flags, command number, count, and both with their lengths."""
    user, colon, secret = login.partition(b":")
    if not (colon and user and secret and len(login) <= CREDENTIALS_MAX):
        raise NeedsClient
    strings = b"".join(len(string).to_bytes(4, "big") + string for string in (user, secret))
    return b"\0\0\x2c\0\0\0\2" + strings


def get(url: str, key: bytes, *, local: bool = False, credentials: str | None = None) -> bytes | None:
    """Return the value of a key, or None if it is absent. Raises `NeedsClient`.

    credentials: the file with user and secret, for a URL without them.
    """
    frame = request(key, local=local)
    scheme, _, place = url.partition("://")
    login, at, place = place.rpartition("@")
    if "@" in login or not (login.isascii() and login.isprintable() and not any(map(login.__contains__, "%,/?# "))):
        raise NeedsClient
    try:
        pair = login.encode("ascii") if at else _first_line(credentials) if credentials else b""
        begin = login_request(pair) if at or credentials else b""
        with _connected(scheme, place) as connection:
            connection.settimeout(LOGIN_TIMEOUT if begin else TIMEOUT)
            connection.sendall(begin + frame)
            with connection.makefile("rb") as replies:
                if begin:
                    _check_login(replies, pair.partition(b":")[0].decode("utf-8", "backslashreplace"), place)
                header, status, payload = _reply(replies)
    except (OSError, OverflowError):
        raise NeedsClient from None
    match header, status:
        case 0, 0x00 | 0x30:
            return payload
        case 0x01, 0x01 | 0x31:
            return None
    raise NeedsClient


_OK: Final = ((0, 0x00, b"OK"), (0, 0x30, b"OK"))


def _reply(replies: "BinaryIO") -> tuple[int, int, bytes]:
    """Return the header, the status and the payload of a reply. Raises `NeedsClient`."""
    head = replies.read(6)
    length = int.from_bytes(head[2:6], "big")
    if len(head) < 6 or length > FRAME_MAX:
        raise NeedsClient
    payload = replies.read(length)
    if len(payload) < length:
        raise NeedsClient
    return head[0], head[1], payload


def _check_login(replies: "BinaryIO", user: str, place: str) -> None:
    """Read the reply to AUTH. Raises `LoginFailed`, or `NeedsClient` for a failure that does not count as wrong."""
    try:
        header, status, payload = _reply(replies)
    except TimeoutError:
        header, status, payload = 0, 0, b"WRONGPASS no reply to the login; a server delays it after failed logins"
    if payload.startswith(b"WRONGPASS "):
        from cairnkv.errors import LoginFailed  # a slow import that only an error needs

        code, _, text = payload.decode("utf-8", "replace").partition(" ")
        raise LoginFailed(f"{code} login as {user!r} at {place.removesuffix('/')}: {text}")
    if (header, status, payload) not in _OK:
        raise NeedsClient


def _first_line(path: str) -> bytes:
    """Return the first line of a file that only its owner may use. Raises OSError or `NeedsClient`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.fstat(descriptor).st_mode & 0o077:
            raise NeedsClient
        return os.read(descriptor, 2 * CREDENTIALS_MAX).partition(b"\n")[0].rstrip(b"\r")
    finally:
        os.close(descriptor)


def _literal(host: str) -> bool:
    return host == "localhost" or (host.count(".") == 3 and host.replace(".", "").isdecimal())


def _connected(scheme: str, place: str) -> socket.socket:
    """Connect to one numeric host, or to a path. Raises `NeedsClient` for any other place."""
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
