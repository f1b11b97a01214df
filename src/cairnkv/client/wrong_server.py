"""Recognizes a server of another protocol by the first bytes that it sends.

A server that waits for the end of a line never answers a frame of the native protocol. If a new connection stays
silent, the clients send `LINES` on it, and `PROBE` on a second one, shortly before the call's timeout. A TLS server
closes the connection without a reply; the clients then send `TLS_PROBE` on a second connection.

Sans-IO. Out of scope: the decision to probe a connection (`sync`, `aio.connection`).
"""

import re
from typing import Final

from cairnkv.commands import Ping
from cairnkv.errors import WrongServer

PROBE: Final = b"INFO server\r\n\r\n"
"""Bytes that any server of a line protocol answers. The answer of cairnkv identifies it as cairnkv."""

LINES: Final = Ping(b"\r\n\r\n")
"""A command whose bytes end lines, for a server that serves one connection at a time."""

TLS_PROBE: Final = bytes.fromhex("16 0301 002f 01 00002b 0303") + bytes(32) + bytes.fromhex("00 0004 1301c02f 01 00")
"""A ClientHello, to which a TLS server answers with a ServerHello or an alert."""

PROBE_ANSWER_BYTES: Final = 512
"""Bytes of an answer that the client examines."""

PROBE_SECONDS: Final = 0.25
PROBE_SHARE: Final = 0.1
"""Seconds for a probe at the end of a call's timeout, and their maximum share of that timeout."""

FLAGS_MAX: Final = b"\x0f"
"""The largest header that a reply may have."""

TLS_SERVER: Final = "a TLS server"

_OURS: Final = re.compile(rb"cairnkv_version|^-NOAUTH ")
"""The answer of cairnkv to a probe. If it requires a login, it answers as Redis does: then `LINES` decides."""

_HTTP_2: Final = re.compile(rb"\0\0[\x06\x0c\x12\x18\x1e\x24]\x04\0\0\0\0\0")
"""The SETTINGS frame of an HTTP/2 server. Read as a reply, it would announce 100 MB of payload."""

_KINDS: Final = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), kind)
    for pattern, kind in (
        (_HTTP_2.pattern, "an HTTP/2 server"),
        (rb"HTTP/|<!DOCTYPE|<html", "an HTTP server"),
        (rb"[\x14-\x17]\x03[\0-\x04]", TLS_SERVER),
        (rb"SSH-", "an SSH server"),
        (rb"ERROR\r\n|(CLIENT|SERVER)_ERROR |\x81.{5}", "a memcached server"),
        (rb"INFO \{|-ERR '", "a NATS server"),
        (rb"\+OK .*POP3|\+OK .*ready", "a POP3 server"),
        (rb"\* OK|\* BYE", "an IMAP server"),
        (rb"[245]\d\d[ -]", "an SMTP or FTP server"),
        (rb"[+:][^\r\n]*\r\n|-[A-Z]+ |[$*]-?\d+\r\n|[%~,_#(]\d*\r\n", "a Redis server"),
        (rb".{3}\0(\x0a\d|\xff..)", "a MySQL server"),
        (rb"[ENR]\0\0[\0-\x04].", "a PostgreSQL server"),
        (rb"AMQP", "an AMQP server"),
    )
)


def wrong_server(data: bytes, where: str) -> WrongServer | None:
    """Return the error for a server whose first bytes are of a known other protocol, or None.

    >>> wrong_server(b"HTTP/1.1 400 Bad Request", "db1:80")
    WrongServer("db1:80 is an HTTP server, not cairnkv: its first bytes are b'HTTP/1.1 400 Bad Request'")
    """
    if data[:1] <= FLAGS_MAX and not _HTTP_2.match(data):
        return None
    kind = next((kind for pattern, kind in _KINDS if pattern.match(data)), None)
    if kind is None:
        return None
    hint = "; for cairnkv with TLS, use an address cairns://" if kind == TLS_SERVER else ""
    return WrongServer(f"{where} is {kind}, not cairnkv: its first bytes are {data[:24]!r}{hint}")


def wrong_server_by_probe(answer: bytes, where: str) -> WrongServer | None:
    """Return the error for a server that answered a probe; None if it may be cairnkv or did not answer."""
    return None if not answer or _OURS.search(answer) else wrong_server(answer, where)


def probe_seconds(timeout: float) -> float:
    """Return the seconds for a probe within `timeout` seconds."""
    return min(PROBE_SECONDS, timeout * PROBE_SHARE)


def probe_at(until: float, now: float) -> float:
    """Return the time at which to probe a silent server, before the timeout at `until`."""
    return until - probe_seconds(until - now)
