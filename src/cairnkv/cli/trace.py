"""`cairn trace`: a proxy that passes a connection through and shows every frame of it, field by field.

What always holds: bytes are passed on as they came, before they are shown; the end of one side is passed on
while the other goes on; whoever does not read stops whoever sends to it, so that nothing is kept but what is on
its way. What is shown goes out before more is read: a terminal that is stopped (Ctrl-S) stops the connection.

Not for what the bytes mean (`annotate`).
"""

import asyncio
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from cairnkv.cli.annotate import SHOWN_BYTES, Conversation, Line, Side
from cairnkv.cli.arguments import Parser
from cairnkv.cli.main import FOUND
from cairnkv.cli.output import coloured, styled
from cairnkv.client.address import Endpoint, parse, shown
from cairnkv.client.aio.dialing import dial_async
from cairnkv.errors import CallerError, Unavailable
from cairnkv.limits import CONNECT_TIMEOUT
from cairnkv.server.settings import is_loopback, number

READ_BYTES: Final = 64 * 1024
"""Bytes that are passed on at once, at most."""

CONNECTIONS_MAX: Final = 256
"""Connections at once. Nobody reads the trace of more."""

Show = Callable[[Iterable[Line]], None]


def run(name: str, arguments: Sequence[str]) -> int:
    """Pass connections through until told to stop."""
    parser = Parser(
        name,
        description="Pass connections through to a server and print every frame, in both directions, field by field.",
        example="cairn trace &\ncairn get greeting --url cairn://127.0.0.1:7000",
    )
    parser.add_argument(
        "--listen", default="127.0.0.1:7000", metavar="HOST:PORT", help="where clients connect (default: %(default)s)"
    )
    parser.add_argument("--to", metavar="URL", help="the server (default: $CAIRNKV_URL, else cairn://127.0.0.1:6555)")
    parser.add_argument(
        "--bytes",
        type=_shown_bytes,
        default=SHOWN_BYTES,
        metavar="N",
        help="bytes of each field to print (default: %(default)s)",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="listen on a non-loopback address without authentication"
    )
    options = parser.parse_args(arguments)
    host, port = _listen_at(options.listen)
    if not options.insecure and not is_loopback(host):
        raise CallerError(
            f"{host} is beyond this machine, and nobody has to authenticate; say --insecure if you mean it"
        )
    proxy = _Proxy(parse(options.to).endpoints, _printer(), shown_bytes=options.bytes)
    asyncio.run(proxy.run(host, port))
    return FOUND


def _shown_bytes(text: str) -> int:
    return number(1, 1024 * 1024)(text)


def _listen_at(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+)):)?([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65_535:
        raise CallerError(f"--listen takes HOST:PORT or PORT, not {text!r}")
    return match[1] or match[2] or "127.0.0.1", int(match[3])


def _printer() -> Show:
    """Prints lines at once, in colours on a terminal."""
    if not coloured(sys.stdout):

        def plain(lines: Iterable[Line]) -> None:
            for line in lines:
                print(line)
            sys.stdout.flush()

        return plain

    def in_colours(lines: Iterable[Line]) -> None:
        for line in lines:
            print("".join(styled(text, part.value) if part.value else text for text, part in line.parts))
        sys.stdout.flush()

    return in_colours


class _Proxy:
    """Listens, and connects each client to the server."""

    def __init__(self, to: Sequence[Endpoint], show: Show, *, shown_bytes: int) -> None:
        self._to = to
        self._show = show
        self._shown_bytes = shown_bytes
        self._count = 0
        self._open: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._broken: BaseException | None = None

    async def run(self, host: str, port: int) -> None:
        """Serve until SIGINT, SIGTERM or SIGHUP, or until the output is closed, which raises."""
        loop = asyncio.get_running_loop()
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` ignores SIGHUP; keep it so
            numbers.append(signal.SIGHUP)
        for sign in numbers:
            loop.add_signal_handler(sign, self._stop.set)
        try:
            listener = await asyncio.start_server(self._accept, host, port)
        except OSError as error:
            raise CallerError(f"cannot listen on {shown((host, port))}: {error.strerror}") from None
        async with listener:
            here = shown(listener.sockets[0].getsockname()[:2])
            to = shown(self._to[0])
            print(f"tracing cairn://{here} to {to}; try: cairn ping --url cairn://{here}", flush=True)
            await self._stop.wait()
            for task in self._open:  # first: a listener that is closed waits for its clients, from Python 3.12 on
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
                connection.remark(f"turned away: {CONNECTIONS_MAX} others are open")
            else:
                await connection.run(reader, writer, self._to)
        except asyncio.CancelledError:
            pass  # the trace is over
        except OSError as error:  # whoever read what is shown has gone
            self._broken = error
            self._stop.set()
        finally:
            self._open.discard(task)
            writer.transport.abort()


class _Traced:
    """One client and its connection to the server."""

    def __init__(self, name: str, show: Show, *, shown_bytes: int) -> None:
        self._conversation = Conversation(name, shown_bytes=shown_bytes)
        self._show = show
        self._began = time.monotonic()

    async def run(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, endpoints: Sequence[Endpoint]
    ) -> None:
        """Pass bytes both ways until both sides have ended. Raises OSError when nothing can be shown."""
        try:
            server_reader, server_writer = await _connect(endpoints)
        except Unavailable as error:
            self.remark(str(error))
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(Side.CLIENT, reader, server_writer))
                both.create_task(self._pass(Side.SERVER, server_reader, writer))
        except* _Lost as lost:
            self.remark(str(lost.exceptions[0]))
        except* OSError as failed:
            raise failed.exceptions[0] from None
        finally:
            # Whatever was written has been handed to the system when both sides have ended; otherwise one
            # side was cut off, and so is the other.
            server_writer.transport.abort()

    async def _pass(self, side: Side, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what one side says, then that it has ended."""
        while True:
            try:
                data = await reader.read(READ_BYTES)
            except OSError as error:
                raise _Lost(f"the {side.value} was cut off: {error.strerror or error}") from None
            if not data:
                break
            writer.write(data)
            # Before anything is awaited, so that a reply is never shown before what it replies to.
            self._show(self._conversation.said(side, data, self._now()))
            await _drained(writer)
        if writer.can_write_eof() and not writer.transport.is_closing():
            writer.write_eof()
        self._show(self._conversation.closed(side, self._now()))
        await _flushed(writer)

    def remark(self, text: str) -> None:
        """Show what is wrong with the connection."""
        self._show([self._conversation.remark(text, self._now())])

    def _now(self) -> float:
        return time.monotonic() - self._began


class _Lost(Exception):
    """A side of the connection was cut off."""


async def _drained(writer: asyncio.StreamWriter) -> None:
    try:
        await writer.drain()
    except OSError as error:
        raise _Lost(f"cut off while it was sent something: {error.strerror or error}") from None


async def _flushed(writer: asyncio.StreamWriter) -> None:
    """Wait until the system has taken everything, which drain alone does not."""
    writer.transport.set_write_buffer_limits(high=0)
    await _drained(writer)


async def _connect(endpoints: Sequence[Endpoint]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the first endpoint that accepts one."""
    problems = []
    for endpoint in endpoints:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                if isinstance(endpoint, str):
                    return await asyncio.open_unix_connection(endpoint)
                return await asyncio.open_connection(sock=await dial_async(*endpoint, CONNECT_TIMEOUT))
        except OSError as error:  # TimeoutError is one
            problems.append(f"{shown(endpoint)}: {error.strerror or str(error) or 'no answer before the timeout'}")
    raise Unavailable(f"cannot connect to {'; '.join(problems)}")
