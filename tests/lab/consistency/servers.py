"""Small servers with one fault each; and correct ones, one of which closes connections.

Each has several addresses, as a cluster has. Apart from its fault, a server executes commands with the real engine.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

from cairnkv.commands import Clear, Command, Exists, Failure, Get, Incr, Reply, Set, failures
from cairnkv.commands.replies import OK
from cairnkv.engine import Database, apply
from cairnkv.protocol.native import CommandDecoder, Request, StatusByte, reply_parts

LAG = 0.05
"""Seconds that what lags is behind."""


class HangUp(Exception):
    """The server closes the connection without a reply."""


class Right:
    """A correct server: all addresses have one table. A pause precedes and follows each command."""

    def __init__(self, seed: int = 1) -> None:
        self.dice = random.Random(seed)
        self.database = Database()

    async def answer(self, address: int, command: Command) -> Reply:
        await asyncio.sleep(self.dice.uniform(0, 0.002))
        reply = self.carry_out(address, command)
        await asyncio.sleep(self.dice.uniform(0, 0.002))
        return reply

    def carry_out(self, address: int, command: Command) -> Reply:
        return apply(self.database, command, 0)


class Unpleasant(Right):
    """Closes the connection at a tenth of all commands, before or after their execution, and refuses some."""

    async def answer(self, address: int, command: Command) -> Reply:
        match self.dice.randrange(40):
            case 0:
                raise HangUp
            case 1:
                self.carry_out(address, command)
                raise HangUp
            case 2:
                asyncio.get_running_loop().call_later(5 * LAG, self.carry_out, address, command)
                raise HangUp
            case 3:
                return Failure(failures.LOADING, "not yet")
        return await super().answer(address, command)


class EarlyReplies(Right):
    """Acknowledges a write before it executes the write."""

    def carry_out(self, address: int, command: Command) -> Reply:
        if isinstance(command, Set):
            asyncio.get_running_loop().call_later(LAG, super().carry_out, address, command)
            return OK
        return super().carry_out(address, command)


class StaleReads(Right):
    """Answers reads at the second address from an outdated copy."""

    def __init__(self) -> None:
        super().__init__()
        self._copy = Database()

    def carry_out(self, address: int, command: Command) -> Reply:
        if address == 1 and isinstance(command, Get | Exists):
            return apply(self._copy, command, 0)
        asyncio.get_running_loop().call_later(LAG, apply, self._copy, command, 0)
        return super().carry_out(address, command)


class LosesWrites(Right):
    """Acknowledges one of thirty writes without executing it."""

    def carry_out(self, address: int, command: Command) -> Reply:
        if isinstance(command, Set | Clear) and self.dice.random() < 1 / 30:
            return OK
        return super().carry_out(address, command)


class ForgetsWrites(Right):
    """Returns to an earlier state now and then, as after a crash without fsync."""

    def __init__(self) -> None:
        super().__init__()
        self._since: list[Command] = []
        self._durable = Database()

    def carry_out(self, address: int, command: Command) -> Reply:
        self._since.append(command)
        if len(self._since) == 100:
            for one in self._since[:80]:
                apply(self._durable, one, 0)
            self._since.clear()
            self.database = Database()
            for key in self._durable.slice(0, 1_000_000, b"")[1]:
                value = self._durable.get(key)
                assert value is not None
                apply(self.database, Set(key, value), 0)
        return super().carry_out(address, command)


class DoublesAdditions(Right):
    """Executes one of thirty additions twice, as by its own retry."""

    def carry_out(self, address: int, command: Command) -> Reply:
        reply = super().carry_out(address, command)
        if isinstance(command, Incr) and self.dice.random() < 1 / 30:
            super().carry_out(address, command)
        return reply


class DoublesWrites(Right):
    """Executes one of thirty writes again a moment later."""

    def carry_out(self, address: int, command: Command) -> Reply:
        if isinstance(command, Set) and self.dice.random() < 1 / 30:
            asyncio.get_running_loop().call_later(LAG, super().carry_out, address, command)
        return super().carry_out(address, command)


class RefusesWhatItDoes(Right):
    """Reports one of thirty writes as not executed, and executes it."""

    def carry_out(self, address: int, command: Command) -> Reply:
        reply = super().carry_out(address, command)
        if isinstance(command, Set) and self.dice.random() < 1 / 30:
            return Failure(failures.UNDONE, "it was taken back")
        return reply


class SplitBrain(Right):
    """Has an own table for each of two addresses."""

    def __init__(self) -> None:
        super().__init__()
        self._tables = [Database(), Database(), Database()]

    def carry_out(self, address: int, command: Command) -> Reply:
        return apply(self._tables[address], command, 0)


class ComparesApart(Right):
    """Executes a comparison and its write in two steps. Other commands may execute between them."""

    async def answer(self, address: int, command: Command) -> Reply:
        if command.spec.name == "SET_WITH":
            held = apply(self.database, Get(command.key), 0)  # type: ignore[attr-defined]
            await asyncio.sleep(0.002)
            if held != command.if_equals:  # type: ignore[attr-defined]
                return 0
            apply(self.database, Set(command.key, command.value), 0)  # type: ignore[attr-defined]
            return 1
        return await super().answer(address, command)


@contextlib.asynccontextmanager
async def serving(servant: Right, addresses: int = 2) -> AsyncIterator[tuple[str, ...]]:
    """Serve at a number of addresses, and yield them."""
    writers: set[asyncio.StreamWriter] = set()

    async def converse(address: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = CommandDecoder()
        writers.add(writer)
        try:
            while data := await reader.read(65_536):
                decoder.feed(data)
                while (request := decoder.next()) is not None:
                    assert isinstance(request, Request), request
                    reply = await servant.answer(address, request.command)
                    writer.write(b"".join(reply_parts(reply, StatusByte.ASCII)))
        except (HangUp, ConnectionError):
            pass
        finally:
            writers.discard(writer)
            writer.close()

    servers = []
    for address in range(addresses):

        async def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: int = address) -> None:
            await converse(address, reader, writer)

        servers.append(await asyncio.start_server(come, "127.0.0.1", 0))
    try:
        yield tuple("cairn://{}:{}".format(*server.sockets[0].getsockname()) for server in servers)
    finally:
        for server in servers:
            server.close()
        for writer in list(writers):
            writer.transport.abort()
        for server in servers:
            await server.wait_closed()
        await asyncio.sleep(2 * LAG)  # what lags comes to an end
