"""The asyncio client: a store at an address, over one connection that any number of tasks share.

Not for what a call means (`calls`), when it may be repeated (`retry`), or how replies find their calls
(`connection`).
"""

import asyncio

from cairnkv.client import forking
from cairnkv.client.address import Address, shown
from cairnkv.client.aio.connection import Connection, open_connection
from cairnkv.client.aio.keyvalue import AsyncKeyValue
from cairnkv.client.calls import Call, K, T, V
from cairnkv.client.codec import Codec, KeyCodec
from cairnkv.client.retry import pause_before, worth_repeating
from cairnkv.errors import CallerError, Unavailable


class Client(AsyncKeyValue[K, V]):
    """A store at an address. Any number of tasks of one event loop share it.

    It connects when it is first used, and again when the connection is lost, or in another event loop.
    """

    def __init__(self, address: Address, keys: KeyCodec[K], values: Codec[V]) -> None:
        super().__init__(keys, values)
        self._address = address
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # where it is at home, in the process of this generation
        self._generation = 0
        self._endpoint = 0  # the one that was last good
        self._closed = False

    def __repr__(self) -> str:
        return f"<cairnkv.aio.Client {self._address}>"

    async def close(self) -> None:
        """Close the connection. Calls that await replies fail, and using the client afterwards is an error."""
        self._closed = True
        connection, connecting = self._connection, self._connecting
        self._connection = self._connecting = None
        if self._loop is asyncio.get_running_loop() and self._generation == forking.generation:
            if connecting is not None:
                connecting.cancel()
            if connection is not None:
                connection.close("this client was closed")

    async def _do(self, call: Call[T]) -> T:
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._generation != forking.generation:
            self._move_in(loop)
        deadline = loop.time() + self._address.timeout
        attempt = 0
        while True:
            attempt += 1
            last = attempt >= self._address.attempts
            connection = self._connection
            try:
                if connection is None or not connection.usable:
                    connection = await self._connected(deadline)
                while connection.crowded:
                    await connection.room(deadline)
                reply = await connection.submit(call.command, deadline, call.leeway)
            except Unavailable:
                if last or not await self._pause(attempt, deadline):
                    raise
                continue
            if last or not worth_repeating(reply) or not await self._pause(attempt, deadline):
                return call.result(reply)

    async def _pause(self, attempt: int, deadline: float) -> bool:
        """Wait before another attempt; False when there is no time for one."""
        pause = pause_before(attempt)
        if asyncio.get_running_loop().time() + pause >= deadline:
            return False
        await asyncio.sleep(pause)
        return True

    def _move_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """Be at home in this event loop and process; what belongs to another one is left behind."""
        if self._loop is not None and self._generation == forking.generation and self._loop.is_running():
            raise CallerError("this client is in use by another event loop that runs; make one for each loop")
        self._loop, self._generation = loop, forking.generation
        self._connection = self._connecting = None

    async def _connected(self, deadline: float) -> Connection:
        """The connection, made anew; calls that come meanwhile await the same one."""
        if self._closed:
            raise CallerError("this client is closed")
        loop = asyncio.get_running_loop()
        if self._connecting is None:
            self._connecting = loop.create_task(self._connect())
            self._connecting.add_done_callback(self._connect_done)
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(self._connecting)
        except TimeoutError:
            raise Unavailable(f"cannot connect to {self._address} in {self._address.timeout:g} s") from None
        except asyncio.CancelledError:
            if self._closed:
                raise CallerError("this client is closed") from None
            raise

    def _connect_done(self, task: asyncio.Task[Connection]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # whoever awaits it sees it; with nobody left it is no news

    async def _connect(self) -> Connection:
        problems = []
        endpoints = self._address.endpoints
        for turn in range(len(endpoints)):
            at = (self._endpoint + turn) % len(endpoints)
            try:
                async with asyncio.timeout(self._address.connect_timeout):
                    connection = await open_connection(endpoints[at], self._address.timeout)
            except OSError as error:
                problems.append(f"{shown(endpoints[at])}: {error.strerror or str(error) or type(error).__name__}")
            else:
                self._endpoint = at
                self._connection = connection
                return connection
        raise Unavailable(f"cannot connect to {'; '.join(problems)}")
