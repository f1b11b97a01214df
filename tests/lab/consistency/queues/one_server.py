"""One durable server behind a relay, and a nemesis that kills it, pauses it and cuts it off.

A cut loses the bytes that are between the clients and the server, and the connections; it needs no privileges.
"""

import asyncio
import random
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from cairnkv.lab.consistency.history import Action
from cairnkv.lab.consistency.run import AnyRun
from tests.support.serving import Served

FAULTS = {"kill": (0.1, 1.0), "pause": (0.1, 2.0), "cut": (0.1, 2.0)}
"""The kinds of faults, and the minimum and maximum seconds of each."""

CALM = (0.2, 1.0)
"""Minimum and maximum seconds between two faults."""


class OneServer:
    """A server and its relay. Use as an async context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._served: Served | None = None
        self._relay: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._cut = False

    async def __aenter__(self) -> Self:
        await self.start()
        self._relay = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._relay is not None
        self._relay.close()
        self.disconnect()
        await self._relay.wait_closed()
        assert self._served is not None
        await asyncio.to_thread(self._served.stop)

    @property
    def address(self) -> str:
        """The address of the relay."""
        assert self._relay is not None
        host, port = self._relay.sockets[0].getsockname()
        return f"cairn://{host}:{port}"

    async def start(self) -> None:
        """Start the server, with its data."""
        self._served = await asyncio.to_thread(Served, self._directory)

    async def inject(self, fault: str) -> None:
        """Begin a fault."""
        assert self._served is not None
        match fault:
            case "kill":
                await asyncio.to_thread(self._served.kill)
            case "pause":
                self._served.process.send_signal(signal.SIGSTOP)
            case "cut":
                self._cut = True
                self.disconnect()

    async def heal(self, fault: str) -> None:
        """End a fault."""
        assert self._served is not None
        match fault:
            case "kill":
                await self.start()
            case "pause":
                self._served.process.send_signal(signal.SIGCONT)
            case "cut":
                self._cut = False

    def disconnect(self) -> None:
        """Close all connections at once."""
        for writer in self._connections:
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._served is not None
        if self._cut:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection(*self._served.address)
        except OSError:
            writer.transport.abort()
            return
        self._connections |= {writer, back}
        try:
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        except OSError:
            pass
        finally:
            for one in (writer, back):
                one.transport.abort()
                self._connections.discard(one)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


class OneServerNemesis:
    """Injects one fault after another, each at least once, and heals each."""

    def __init__(self, server: OneServer, faults: Sequence[str], *, seconds: float, seed: int) -> None:
        self._server = server
        self._faults = faults
        self._seconds = seconds
        self._dice = random.Random(f"nemesis {seed}")

    async def __call__(self, run: AnyRun) -> None:
        end = time.monotonic() + self._seconds
        for number, fault in enumerate(self._in_turns()):
            await asyncio.sleep(self._dice.uniform(*CALM))
            if number >= len(self._faults) and time.monotonic() > end:
                return
            await self._server.inject(fault)
            began = run.now()
            await asyncio.sleep(self._dice.uniform(*FAULTS[fault]))
            run.action(Action(fault, "server", began, run.now()))
            await self._server.heal(fault)

    def _in_turns(self) -> Iterator[str]:
        """Yield each fault in a random order, again and again."""
        while True:
            yield from self._dice.sample(list(self._faults), len(self._faults))
