"""A proxy that relays connections and shows every frame, field by field.

Invariants: the proxy relays bytes unchanged, before it shows them, and relays the end of each side on its own. If one
side does not read, the proxy stops reading from the other, so that its buffers stay small. It shows bytes before it
reads more: a stopped terminal (Ctrl-S) stops the connection.

Out of scope: the meaning of the bytes (`trace_format`).
"""

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from cairnkv.client.address import Endpoint, shown
from cairnkv.client.aio.dialing import dial_async
from cairnkv.errors import CairnError, CallerError, Unavailable
from cairnkv.lab.trace.trace_format import ConnectionTrace, Line, Side
from cairnkv.limits import CONNECT_TIMEOUT
from cairnkv.sockets import end_sending_below_tls

if TYPE_CHECKING:
    from cairnkv.client.tls import Tls

READ_BYTES: Final = 64 * 1024
"""Maximum bytes of one read."""

CONNECTIONS_MAX: Final = 256
"""Maximum connections at once."""

Show = Callable[[Iterable[Line]], None]


class Proxy:
    """Listens, and connects each client to the server."""

    def __init__(self, to: Sequence[Endpoint], show: Show, *, shown_bytes: int, tls: "Tls | None" = None) -> None:
        """tls: the TLS of the connections to the server. Those of clients have none."""
        self._to = to
        self._tls = tls
        self._show = show
        self._shown_bytes = shown_bytes
        self._count = 0
        self._open: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._broken: BaseException | None = None

    async def run(self, host: str, port: int) -> None:
        """Serve until SIGINT, SIGTERM or SIGHUP. Raises `OSError` if the output is closed."""
        loop = asyncio.get_running_loop()
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` ignores SIGHUP
            numbers.append(signal.SIGHUP)
        for sign in numbers:
            loop.add_signal_handler(sign, self._stop.set)
        try:
            listener = await asyncio.start_server(self._accept, host, port)
        except OSError as error:
            raise CallerError(f"cannot listen on {shown((host, port))}: {error.strerror}") from None
        async with listener:
            here = shown(listener.sockets[0].getsockname()[:2])
            to = f"{shown(self._to[0])}{' with TLS' if self._tls is not None else ''}"
            print(f"tracing cairn://{here} to {to}; try: cairn ping --url cairn://{here}", flush=True)
            await self._stop.wait()
            for task in self._open:  # first, because from Python 3.12 on the end of the listener waits for its clients
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)
        if self._broken is not None:
            raise self._broken

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._count += 1
        connection = _Traced(f"#{self._count}", self._show, shown_bytes=self._shown_bytes)
        self._open.add(task)
        try:
            if len(self._open) > CONNECTIONS_MAX:
                connection.remark(f"refused: {CONNECTIONS_MAX} connections are open")
            else:
                await connection.run(reader, writer, self._to, self._tls)
        except asyncio.CancelledError:
            pass  # by `run`
        except OSError as error:  # the output is closed
            self._broken = error
            self._stop.set()
        finally:
            self._open.discard(task)
            writer.transport.abort()


class _Traced:
    """One client and its connection to the server."""

    def __init__(self, name: str, show: Show, *, shown_bytes: int) -> None:
        self._trace = ConnectionTrace(name, shown_bytes=shown_bytes)
        self._show = show
        self._began = time.monotonic()

    async def run(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        endpoints: Sequence[Endpoint],
        tls: "Tls | None",
    ) -> None:
        """Relay bytes in both directions until both sides have ended. Raises `OSError` if the output is closed."""
        try:
            server_reader, server_writer = await _connect(endpoints, tls)
        except Unavailable as error:
            self.remark(str(error))
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._relay(Side.CLIENT, reader, server_writer))
                both.create_task(self._relay(Side.SERVER, server_reader, writer))
        except* _Lost as lost:
            self.remark(str(lost.exceptions[0]))
        except* OSError as failed:
            raise failed.exceptions[0] from None
        finally:
            # If both sides have ended, the system has all bytes. Otherwise one side was lost, and the other one ends.
            server_writer.transport.abort()

    async def _relay(self, side: Side, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay the bytes of one side, then its end."""
        while True:
            try:
                data = await reader.read(READ_BYTES)
            except OSError as error:
                raise _Lost(f"lost the {side.value}: {error.strerror or error}") from None
            if not data:
                break
            writer.write(data)
            # Before the next await, so that a command is shown before its reply.
            self._show(self._trace.received(side, data, self._now()))
            await _drained(writer)
        if writer.can_write_eof() and not writer.transport.is_closing():
            writer.write_eof()
        self._show(self._trace.closed(side, self._now()))
        await _flushed(writer)
        if not writer.can_write_eof() and not writer.transport.is_closing():
            end_sending_below_tls(writer.get_extra_info("socket").fileno())

    def remark(self, text: str) -> None:
        """Show an error of the connection."""
        self._show([self._trace.remark(text, self._now())])

    def _now(self) -> float:
        return time.monotonic() - self._began


class _Lost(Exception):
    """The connection of one side was lost."""


async def _drained(writer: asyncio.StreamWriter) -> None:
    try:
        await writer.drain()
    except OSError as error:
        raise _Lost(f"the connection was lost during a write: {error.strerror or error}") from None


async def _flushed(writer: asyncio.StreamWriter) -> None:
    """Wait until the system has all bytes. `drain` alone only waits for a part of them."""
    writer.transport.set_write_buffer_limits(high=0)
    await _drained(writer)


async def _connect(
    endpoints: Sequence[Endpoint], tls: "Tls | None"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the first endpoint that accepts the connection."""
    problems = []
    for endpoint in endpoints:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                if isinstance(endpoint, str):
                    return await asyncio.open_unix_connection(endpoint)
                connected = await dial_async(*endpoint, CONNECT_TIMEOUT)
                if tls is None:
                    return await asyncio.open_connection(sock=connected)
                return await _with_tls(tls, connected, endpoint)
        except OSError as error:  # TimeoutError is one
            problems.append(f"{shown(endpoint)}: {error.strerror or str(error) or 'timed out'}")
        except CairnError as error:
            problems.append(str(error))
    raise Unavailable(f"cannot connect to {'; '.join(problems)}")


async def _with_tls(
    tls: "Tls", connected: socket.socket, endpoint: tuple[str, int]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    from cairnkv.client.tls import handshake_error, without_zone  # imported before

    host = without_zone(endpoint[0])
    try:
        return await asyncio.open_connection(sock=connected, ssl=tls.context(), server_hostname=host)
    except OSError as error:
        connected.close()
        raise handshake_error(error, shown(endpoint)) from None
