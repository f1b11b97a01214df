"""The asyncio client: a store at an address, over one connection that any number of tasks share.

Not for what a call means (`calls`), when it may be repeated (`retry`), where it goes (`endpoints`), or how replies find
their calls (`connection`).
"""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from cairnkv.client import process
from cairnkv.client.address import Address, Endpoint
from cairnkv.client.aio.connection import Connection, open_connection
from cairnkv.client.aio.keyvalue import AsyncKeyValue
from cairnkv.client.aio.pipeline import AsyncPipeline
from cairnkv.client.backup_progress import POLL_SECONDS, Watch
from cairnkv.client.calls import Call, K, T, V
from cairnkv.client.codec import Codec, KeyCodec
from cairnkv.client.endpoints import Endpoints
from cairnkv.client.pending import AnyPending
from cairnkv.client.retry import SAYS_NOTHING, pause_before, with_story, worth_repeating
from cairnkv.commands import Failure, Reply
from cairnkv.errors import CairnError, CallerError, Unavailable
from cairnkv.records import replace

if TYPE_CHECKING:
    from cairnkv.storage import BackupResult

LEFT_MAX: Final = 16
"""Connections to nodes that were left and still owe replies. Beyond it the oldest is closed, whoever waits for it."""


MISREAD: Final = "the server misread its first frame"
"""The reason for closing a connection after which the next one begins with a PING."""


class Client(AsyncKeyValue[K, V]):
    """A store at an address. Any number of tasks of one event loop share it.

    It connects when it is first used, and again when the connection is lost, or in another event loop; with several
    addresses to the next of them, also when a node is silent or cannot do what another may.
    """

    def __init__(self, address: Address, keys: KeyCodec[K], values: Codec[V]) -> None:
        super().__init__(keys, values)
        self._address = address
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # where it is at home, in the process of this generation
        self._generation = 0
        self._endpoints = Endpoints(address)
        self._left: list[Connection] = []  # for others, and still owe replies
        self._closed = False

    def __repr__(self) -> str:
        return f"<cairnkv.aio.Client {self._address}>"

    async def close(self) -> None:
        """Close the connection. Calls that await replies fail, and using the client afterwards is an error."""
        self._closed = True
        connections, connecting = [*self._left, self._connection], self._connecting
        self._connection = self._connecting = None
        self._left = []
        if self._loop is asyncio.get_running_loop() and self._generation == process.generation:
            if connecting is not None:
                connecting.cancel()
            for connection in connections:
                if connection is not None:
                    connection.close("this client was closed")

    async def backup(self, name: str, *, keep: int | None = None) -> "BackupResult":
        """Make a backup at the server, and wait until it is complete. See `cairnkv.Client.backup`."""
        begin = self._calls.backup(name, keep)
        clock = asyncio.get_running_loop().time
        # Once: a repetition might begin a second one.
        async with Client(replace(self._address, attempts=1), self._calls._keys, self._calls._values) as once:
            watch = Watch(await once._do(begin), clock())
            while True:
                facts = None
                with contextlib.suppress(Unavailable):
                    facts = await once.info()
                if (made := watch.made(facts, clock())) is not None:
                    return made
                await asyncio.sleep(POLL_SECONDS)

    async def _do(self, call: Call[T]) -> T:
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._generation != process.generation:
            self._move_in(loop)
        deadline = loop.time() + self._address.timeout
        attempt = 0
        while True:
            attempt += 1
            connection = self._connection
            try:
                if connection is None or not connection.usable:
                    connection = await self._connected(deadline)
                while connection.crowded:
                    await connection.room(deadline)
                reply = await connection.submit(call.command, deadline, call.leeway)
            except Unavailable:
                if connection is not None and not connection.usable:
                    self._leave(connection, connection.ended)
                at_once = self._endpoints.fresh(loop.time())
                if not await self._goes_on(attempt, deadline, at_once=at_once):
                    raise
                continue
            if not isinstance(reply, Failure):
                return call.result(reply)
            if self._endpoints.misread(call.command, reply):
                connection.close(MISREAD)
                continue
            if elsewhere := self._endpoints.several and reply.code.elsewhere:
                self._leave(connection, reply.message)
            at_once = elsewhere and self._endpoints.fresh(loop.time())
            if not (at_once or worth_repeating(reply)) or not await self._goes_on(attempt, deadline, at_once=at_once):
                return call.result(with_story(reply, self._endpoints, loop.time()))

    def pipeline(self) -> AsyncPipeline[K, V]:
        """Return a pipeline. See `AsyncKeyValue.pipeline`.

        `asyncio.gather` also sends calls together, but a call that the client repeats may execute after later calls. A
        pipeline repeats no command, so its commands execute in order.
        """
        return AsyncPipeline(self._calls, self._carry_out)

    async def _carry_out(self, pending: list[AnyPending]) -> None:
        """Send commands in order and await their replies. Settles or fails each command; never repeats one."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._generation != process.generation:
            self._move_in(loop)
        sent: list[tuple[AnyPending, Connection, Awaitable[Reply]]] = []
        unsent = iter(pending)
        for one in unsent:
            deadline = loop.time() + self._address.timeout
            try:
                connection = self._connection
                if connection is None or not connection.usable:
                    connection = await self._connected(deadline)
                while connection.crowded:
                    await connection.room(deadline)
            except CairnError as error:
                for failed in (one, *unsent):
                    failed.fail(error)
                break
            sent.append((one, connection, connection.submit(one.call.command, deadline, one.call.leeway)))
        for one, connection, future in sent:
            try:
                reply = await future
            except CairnError as error:
                one.fail(error)
                if not connection.usable:
                    self._leave(connection, connection.ended)
            else:
                if one is pending[0] and self._endpoints.misread(one.call.command, reply):
                    connection.close(MISREAD)
                    for _, _, behind in sent[1:]:
                        with contextlib.suppress(CairnError):
                            await behind
                    await self._carry_out(pending)
                    return
                one.settle(reply)
                if self._endpoints.several and isinstance(reply, Failure) and reply.code.elsewhere:
                    self._leave(connection, reply.message)

    async def _goes_on(self, attempt: int, deadline: float, *, at_once: bool) -> bool:
        """Whether there is another attempt, and time for it; waits before it, unless it is elsewhere."""
        if attempt >= self._endpoints.attempts:
            return False
        pause = 0.0 if at_once else pause_before(attempt)
        if asyncio.get_running_loop().time() + pause >= deadline:
            return False
        await asyncio.sleep(pause)
        return True

    def _leave(self, connection: Connection, why: str) -> None:
        """Go elsewhere from now on; what others await on this connection may still come. Who says it first counts."""
        if self._connection is not connection:
            return
        self._connection = None
        self._endpoints.trouble(connection.endpoint, why, asyncio.get_running_loop().time())
        connection.retire()
        self._left = [left for left in self._left if left.owes]
        if connection.owes:
            self._left.append(connection)
        if len(self._left) > LEFT_MAX:
            self._left.pop(0).close("it was left for another node, with too many others")

    def _move_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """Be at home in this event loop and process; what belongs to another one is left behind."""
        if self._loop is not None and self._generation == process.generation and self._loop.is_running():
            raise CallerError("this client is in use by another event loop that runs; make one for each loop")
        if self._generation != process.generation:
            self._endpoints = Endpoints(self._address)  # in an order of its own
        self._loop, self._generation = loop, process.generation
        self._connection = self._connecting = None
        self._left = []

    async def _connected(self, deadline: float) -> Connection:
        """The connection, made anew; calls that come meanwhile await the same one."""
        if self._closed:
            raise CallerError("this client is closed")
        loop = asyncio.get_running_loop()
        if self._connection is not None and not self._connection.usable:
            self._leave(self._connection, self._connection.ended)
        if self._connecting is None or self._connecting.done():
            self._connecting = loop.create_task(self._connect())
            self._connecting.add_done_callback(self._connect_done)
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(self._connecting)
        except TimeoutError:
            told = self._endpoints.besides(None, loop.time())
            raise Unavailable(f"cannot connect to {self._address} in {self._address.timeout:g} s{told}") from None
        except asyncio.CancelledError:
            if self._closed:
                raise CallerError("this client is closed") from None
            raise

    def _connect_done(self, task: asyncio.Task[Connection]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # whoever awaits it sees it; with nobody left it is no news

    async def _connect(self) -> Connection:
        """A new connection, to the first endpoint that takes one."""
        loop, endpoints = asyncio.get_running_loop(), self._endpoints
        until = loop.time() + self._address.timeout
        in_turn = endpoints.in_turn(loop.time())
        for turn, endpoint in enumerate(in_turn):
            try:
                connection = await self._try(endpoint, until, len(in_turn) - turn)
            except OSError as error:
                why = error.strerror or str(error) or type(error).__name__
                endpoints.trouble(endpoint, why, loop.time())
            else:
                endpoints.good(endpoint)
                self._connection = connection
                return connection
        raise Unavailable(f"cannot connect to {endpoints.story(loop.time())}")

    async def _try(self, endpoint: Endpoint, until: float, untried: int) -> Connection:
        """A connection to an endpoint. Raises OSError."""
        loop, endpoints = asyncio.get_running_loop(), self._endpoints
        patience = endpoints.patience(until - loop.time(), untried)
        silence = functools.partial(endpoints.silence, endpoint) if endpoints.several else None
        deadline = loop.time() + patience
        connection = await open_connection(endpoint, patience, self._address.timeout, silence)
        if not endpoints.greets:
            return connection
        try:
            async with asyncio.timeout_at(deadline):
                await connection.greet(deadline)
        except BaseException as error:
            connection.close("its first PING failed")
            if isinstance(error, TimeoutError):
                raise TimeoutError(SAYS_NOTHING) from None
            raise
        return connection
