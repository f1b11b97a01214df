"""The event loop of a server, and its listening sockets.

On the native path, the loop is asyncio's with a selector that serves clients while it waits (`poller_native.pyx`).
Otherwise it is uvloop's or asyncio's. `listen` accepts clients in any of them.

Out of scope: single clients (the connection).
"""

import asyncio
import errno
import logging
import selectors
import socket
from collections.abc import Callable
from typing import Any, Final

from cairnkv.installation import has_uvloop, native_path_in_use

try:
    from selectors import EpollSelector
except ImportError:  # macOS: the native path, which uses this class, does not exist there
    from selectors import SelectSelector as EpollSelector  # type: ignore[assignment]

logger: Final = logging.getLogger("cairnkv.server")

BACKLOG: Final = 1_024
"""Connections that the system queues until the server accepts them."""

ACCEPTED_TOGETHER: Final = 8
"""Connections that the server accepts before it closes the refused ones of them and frees their descriptors."""

SHORT_OF: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Error codes for a resource that the system has too little of to accept a client."""

ABSENT: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
"""Error codes for an address, or an address family, that the computer does not have."""

SHORT_PAUSE: Final = 1.0
"""Seconds before the server accepts clients again after such an error."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return the fastest available event loop."""
    if native_path_in_use():
        return PolledLoop(ClientSelector())
    if has_uvloop():
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


class ClientSelector(EpollSelector):
    """asyncio's selector. It serves clients while it waits."""

    def __init__(self) -> None:
        from cairnkv.server.poller_native import Poller

        super().__init__()
        self.poller: Final[Poller] = Poller(self.fileno())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for asyncio's descriptors. timeout: in seconds; None: no timeout; 0 or less: do not wait."""
        keys = self.get_map()
        ready = []
        for descriptor, happened in self.poller.poll(-1.0 if timeout is None else max(timeout, 0.0)):
            events = 0
            if happened & ~_EPOLLIN:
                events |= selectors.EVENT_WRITE
            if happened & ~_EPOLLOUT:
                events |= selectors.EVENT_READ
            key = keys.get(descriptor)
            if key is not None:
                ready.append((key, events & key.events))
        return ready


_EPOLLIN: Final = 0x1
_EPOLLOUT: Final = 0x4


class PolledLoop(asyncio.SelectorEventLoop):
    """asyncio's loop over a `ClientSelector`."""

    def __init__(self, clients: ClientSelector) -> None:
        self.clients: Final = clients
        super().__init__(clients)


async def listen(listening: socket.socket, new_protocol: Callable[[], asyncio.Protocol]) -> "asyncio.Server | Listener":
    """Accept clients on a bound socket."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, PolledLoop):
        return Listener(loop, listening, new_protocol)
    server: asyncio.Server
    if listening.family == socket.AF_UNIX:
        server = await loop.create_unix_server(new_protocol, sock=listening, backlog=ACCEPTED_TOGETHER)
    else:
        server = await loop.create_server(new_protocol, sock=listening, backlog=ACCEPTED_TOGETHER)
    listening.listen(BACKLOG)  # asyncio has one number for both
    return server


class Listener:
    """Accepts clients into the selector of a `PolledLoop`."""

    def __init__(
        self, loop: PolledLoop, listening: socket.socket, new_protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        self._loop = loop
        self._socket = listening
        self._new_protocol = new_protocol
        self._again: asyncio.TimerHandle | None = None
        listening.listen(BACKLOG)
        listening.setblocking(False)
        loop.add_reader(listening, self._accept)

    def close(self) -> None:
        """Accept no more clients."""
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _accept(self) -> None:
        from cairnkv.server.poller_native import Transport

        for _ in range(ACCEPTED_TOGETHER):
            try:
                connected, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in SHORT_OF:
                    raise
                logger.error("cannot accept clients now: %s", error.strerror)
                self._loop.remove_reader(self._socket)
                self._again = self._loop.call_later(SHORT_PAUSE, self._loop.add_reader, self._socket, self._accept)
                return
            connected.setblocking(False)
            Transport(self._loop.clients.poller, self._loop, connected, self._new_protocol())


async def bind(host: str, port: int) -> list[socket.socket]:
    """Bind sockets to those addresses of a host that this computer has. Raises OSError if it has none of them.

    A name may have addresses that the computer does not have: /etc/hosts maps localhost to ::1 even without IPv6. An
    address on which another process listens is an error: clients would reach one or the other process.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    absent: list[tuple[str, OSError]] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                bound.append(_bound(family, kind, protocol, address))
            except OSError as error:
                if error.errno not in ABSENT:
                    raise
                absent.append((str(address[0]), error))
        if not bound:
            raise absent[0][1]
    except BaseException:
        for listening in bound:
            listening.close()
        raise
    for where, why in absent:
        logger.warning("%s: not listening on its address %s: %s", host, where, why.strerror)
    return bound


def _bound(family: int, kind: int, protocol: int, address: Any) -> socket.socket:
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
    except BaseException:
        listening.close()
        raise
    return listening
