"""Options of TCP sockets that servers and clients share.

A peer whose computer or network vanished does not close its connection, so only keepalive probes detect it. The system
sends the probes; `limits` has the intervals.
"""

import contextlib
import os
import socket
from typing import Any, Final, Protocol

from cairnkv.limits import KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES


class HasOptions(Protocol):
    """A socket, or the socket object of an asyncio or uvloop transport."""

    def setsockopt(self, level: int, option: int, value: int, /) -> Any:
        """Set an option."""


_TIMES: Final = (
    ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
    ("TCP_KEEPALIVE", KEEPALIVE_IDLE),  # the name of TCP_KEEPIDLE on macOS
    ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
    ("TCP_KEEPCNT", KEEPALIVE_PROBES),
)
_KEEPALIVE: Final = tuple((getattr(socket, name), value) for name, value in _TIMES if hasattr(socket, name))
"""The keepalive options that this system has. Without them, the system's defaults apply."""


def set_tcp_options(connected: HasOptions, *, acknowledged_in: float | None = None) -> None:
    """Set a TCP socket to send small frames at once and to probe a quiet peer.

    acknowledged_in: seconds after which the system closes the connection if the peer acknowledges no data (Linux,
        TCP_USER_TIMEOUT). Linux applies it also to a peer that acknowledges but reads nothing.
    """
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        connected.setsockopt(socket.IPPROTO_TCP, option, value)
    if acknowledged_in is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(acknowledged_in * 1000))


def end_sending_below_tls(descriptor: int) -> None:
    """End the sending of a TCP connection with TLS, which still receives.

    Python's objects for TLS cannot end one direction alone. Frames have lengths, so the peer needs no end of TLS.
    """
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as same:
        same.shutdown(socket.SHUT_WR)
