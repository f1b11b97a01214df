"""The asyncio client of a store at an address. Any number of tasks share its one connection.

Out of scope: the meaning of a call (`calls`), the decision to repeat it (`retry`), its endpoint (`endpoints`), and its
reply (`connection`).
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
from cairnkv.client.login import no_answer, not_logged_in, tls_of
from cairnkv.client.pending import AnyPending
from cairnkv.client.retry import pause_before, worth_repeating
from cairnkv.commands import Failure, Reply
from cairnkv.commands.failures import NOAUTH
from cairnkv.errors import AccessDenied, CairnError, CallerError, PeerError, Unavailable
from cairnkv.records import replace

if TYPE_CHECKING:
    from cairnkv.storage import BackupResult

LEFT_MAX: Final = 16
"""Maximum number of connections that the client has left and that still owe replies. Above it the client closes the
oldest one."""


MISREAD: Final = "the server misread its first frame"
"""The reason for closing a connection after which the next one begins with a PING."""


class Client(AsyncKeyValue[K, V]):
    """A store at an address. Any number of tasks of one event loop share it.

    A TAKE that waits for messages has another connection meanwhile, because the calls behind it would wait, too. It
    connects at its first call, and again after it lost the connection, and in another event loop. With several
    addresses it connects to the next one, also if a node is silent or refuses what another node may execute.
    """

    _survives_forks = True

    def __init__(self, address: Address, keys: KeyCodec[K], values: Codec[V]) -> None:
        super().__init__(keys, values)
        self._address = address
        self._tls = tls_of(address)
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # of the connection, in the process of this generation
        self._generation = 0
        self._endpoints = Endpoints(address)
        self._left: list[Connection] = []  # connections that still owe replies
        self._closed = False
        self._takes_only = False
        self._takers: list[Client[K, V]] = []  # clients for TAKE commands that wait: all of them
        self._idle_takers: list[Client[K, V]] = []

    def __repr__(self) -> str:
        return f"<cairnkv.aio.Client {self._address}>"

    async def close(self) -> None:
        """Close the connection. Waiting calls fail. Using the client afterwards is an error."""
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
        for taker in self._takers:
            await taker.close()

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
            self._enter_loop(loop)
        deadline = loop.time() + self._address.timeout
        if waiting_time := call.command.waiting_time():
            if not self._takes_only:
                return await self._take(call)
            deadline += waiting_time / 1000
        attempt = 0
        while True:
            attempt += 1
            connection = self._connection
            try:
                if connection is None or not connection.usable:
                    connection = await self._connected(deadline)
                while connection.crowded:
                    await connection.room(deadline)
                reply = await connection.submit(call.command, deadline, call.flag)
            except Unavailable:
                if connection is not None and not connection.usable:
                    self._leave(connection, connection.ended)
                at_once = self._endpoints.fresh(loop.time())
                if not await self._may_retry(attempt, deadline, at_once=at_once):
                    raise
                continue
            if not isinstance(reply, Failure):
                return call.result(reply)
            if self._endpoints.misread(call.command, reply):
                connection.close(MISREAD)
                continue
            elsewhere = self._endpoints.several and reply.code.elsewhere
            if elsewhere or (reply.code is NOAUTH and self._address.logs_in):  # the next one logs in again
                self._leave(connection, reply.message)
            at_once = elsewhere and self._endpoints.fresh(loop.time())
            if not (at_once or worth_repeating(reply)) or not await self._may_retry(attempt, deadline, at_once=at_once):
                reply = not_logged_in(reply, self._address.credentials)
                return call.result(self._endpoints.with_other_failures(reply, loop.time()))

    async def _take(self, call: Call[T]) -> T:
        """Execute a TAKE that waits, on a connection that no other call uses meanwhile."""
        if self._closed:
            raise CallerError("this client is closed")
        if self._idle_takers:
            taker = self._idle_takers.pop()
        else:
            taker = Client(self._address, self._calls._keys, self._calls._values)
            taker._takes_only = True
            self._takers.append(taker)
        try:
            return await taker._do(call)
        except asyncio.CancelledError:
            if taker._connection is not None:
                taker._connection.close("the task was cancelled")  # so that the server gives the lease back
            raise
        finally:
            self._idle_takers.append(taker)

    def _end_takes(self) -> None:
        for taker in self._takers:
            if taker not in self._idle_takers and taker._connection is not None:
                taker._connection.end_sending()

    def pipeline(self) -> AsyncPipeline[K, V]:
        """Return a pipeline. See `AsyncKeyValue.pipeline`.

        `asyncio.gather` also sends calls together, but a call that the client repeats may execute after later calls. A
        pipeline repeats no command, so its commands execute in order.
        """
        return AsyncPipeline(self._calls, self._execute_all)

    async def _execute_all(self, pending: list[AnyPending]) -> None:
        """Send commands in order and await their replies. Settles or fails each command; never repeats one."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._generation != process.generation:
            self._enter_loop(loop)
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
            sent.append((one, connection, connection.submit(one.call.command, deadline, one.call.flag)))
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
                    await self._execute_all(pending)
                    return
                one.settle(reply)
                if isinstance(reply, Failure) and (
                    (self._endpoints.several and reply.code.elsewhere)
                    or (reply.code is NOAUTH and self._address.logs_in)
                ):
                    self._leave(connection, reply.message)

    async def _may_retry(self, attempt: int, deadline: float, *, at_once: bool) -> bool:
        """Return whether the client may try again. If so, wait before, unless it tries another endpoint at once."""
        if attempt >= self._endpoints.attempts:
            return False
        pause = 0.0 if at_once else pause_before(attempt)
        if asyncio.get_running_loop().time() + pause >= deadline:
            return False
        await asyncio.sleep(pause)
        return True

    def _leave(self, connection: Connection, why: str) -> None:
        """Use another endpoint for new calls. Waiting calls may still get their replies from this connection.

        The first reason counts.
        """
        if self._connection is not connection:
            return
        self._connection = None
        self._endpoints.add_failure(connection.endpoint, why, asyncio.get_running_loop().time())
        connection.retire()
        self._left = [left for left in self._left if left.owes]
        if connection.owes:
            self._left.append(connection)
        if len(self._left) > LEFT_MAX:
            self._left.pop(0).close("it was left for another node, with too many others")

    def _enter_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin anew in this event loop and process, without the connections of another one."""
        if self._loop is not None and self._generation == process.generation and self._loop.is_running():
            raise CallerError("this client is in use by another event loop that runs; make one for each loop")
        if self._generation != process.generation:
            self._endpoints = Endpoints(self._address)  # in an order of its own
        self._loop, self._generation = loop, process.generation
        self._connection = self._connecting = None
        self._left = []

    async def _connected(self, deadline: float) -> Connection:
        """Return a new connection. Calls that arrive meanwhile await the same one."""
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
            failures = self._endpoints.other_failures(None, loop.time())
            raise Unavailable(f"cannot connect to {self._address} in {self._address.timeout:g} s{failures}") from None
        except asyncio.CancelledError:
            if self._closed:
                raise CallerError("this client is closed") from None
            raise

    def _connect_done(self, task: asyncio.Task[Connection]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # asyncio would log the exception if no call awaited it

    async def _connect(self) -> Connection:
        """Return a new connection, to the first endpoint that accepts."""
        loop, endpoints = asyncio.get_running_loop(), self._endpoints
        until = loop.time() + self._address.timeout
        in_order = endpoints.in_order(loop.time())
        refusal: CairnError | None = None
        for tried, endpoint in enumerate(in_order):
            try:
                connection = await self._try(endpoint, until, len(in_order) - tried)
            except (OSError, PeerError, AccessDenied) as error:
                why = getattr(error, "strerror", None) or str(error) or type(error).__name__
                endpoints.add_failure(endpoint, why, loop.time())
                if isinstance(error, AccessDenied) or (isinstance(error, PeerError) and not endpoints.several):
                    refusal = error
            else:
                endpoints.prefer(endpoint)
                self._connection = connection
                return connection
        if refusal is not None:
            raise refusal
        raise Unavailable(f"cannot connect to {endpoints.all_failures(loop.time())}")

    async def _try(self, endpoint: Endpoint, until: float, untried: int) -> Connection:
        """Return a connection to an endpoint. Raises OSError, PeerError or `AccessDenied`."""
        loop, endpoints = asyncio.get_running_loop(), self._endpoints
        timeout = endpoints.timeout(until - loop.time(), untried)
        silence = functools.partial(endpoints.silence, endpoint) if endpoints.several else None
        deadline = loop.time() + timeout
        connection = await open_connection(endpoint, timeout, self._address.timeout, silence, self._tls)
        if not endpoints.pings_first and not self._takes_only:  # the reply to TAKE may come late
            return connection
        try:
            async with asyncio.timeout_at(deadline):
                await connection.greet(self._address.present_credentials(), deadline)
        except BaseException as error:
            connection.close("its first PING failed")
            if isinstance(error, TimeoutError):
                raise no_answer(self._address.credentials) from None
            raise
        return connection
