"""Detection of a useless consumer, with a scripted JetStream."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest_asyncio

from cairnkv.replication.nats.connection import Connection
from cairnkv.replication.nats.consumer import STALLS_MAX, Consumption
from cairnkv.replication.nats.stream import StreamState
from cairnkv.replication.nats.stream_config import Identity

IDENTITY = Identity("CAIRN_x", 1)

TURNS = 30
"""Turns of the loop in which everything is done that waits for nobody."""


class Consumer:
    """The server's side of a consumer."""

    def __init__(self, start: int, told: Callable[[Any], None]) -> None:
        self.start = start
        self._told = told
        self._sent = 0

    def send(self, position: int) -> None:
        """Send the message of a log index."""
        self._sent += 1
        reply = f"$JS.ACK.{IDENTITY.stream}.name.1.{position}.{self._sent}.0.0"
        self._told(SimpleNamespace(headers=None, data=b"%d" % position, reply=reply))

    def beat(self) -> None:
        """Send a heartbeat: the consumer has sent all messages of its server."""
        headers = {"Status": "100", "Nats-Last-Consumer": str(self._sent), "Nats-Last-Stream": str(self._last)}
        self._told(SimpleNamespace(headers=headers, data=b"", reply=""))

    @property
    def _last(self) -> int:
        return self.start - 1 + self._sent


class JetStream:
    """The requests of a consumer to a connection, and their answers."""

    is_connected = True

    def __init__(self) -> None:
        self.consumers: list[Consumer] = []
        self.got: list[tuple[int, bytes]] = []
        self._inboxes = 0
        self._told: Callable[[Any], None]

    def new_inbox(self) -> str:
        self._inboxes += 1
        return f"_INBOX.{self._inboxes}"

    async def on_message(self, subject: str, told: Callable[[Any], None]) -> Any:
        self._told = told

        async def unsubscribe() -> None:
            pass

        return SimpleNamespace(unsubscribe=unsubscribe)

    async def request(self, subject: str, data: bytes, **_: Any) -> Any:
        self.consumers.append(Consumer(json.loads(data)["config"]["opt_start_seq"], self._told))
        return SimpleNamespace(data=b"{}")

    async def publish(self, subject: str, data: bytes, reply: str) -> None:
        pass

    async def consumer(self, number: int) -> Consumer:
        """Let pending tasks run, and return the newest of exactly so many consumers."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert len(self.consumers) == number
        return self.consumers[-1]


@pytest_asyncio.fixture
async def reading() -> AsyncIterator[tuple[JetStream, Consumption]]:
    jetstream = JetStream()

    async def state() -> StreamState:
        return StreamState(IDENTITY, {}, first=1, last=10, bytes=0, cluster="", peers=frozenset(), led_alone=False)

    consumption = Consumption(cast(Connection, jetstream), IDENTITY, 0, state)

    async def read() -> None:
        async for batch in consumption.batches():
            jetstream.got += batch

    task = asyncio.create_task(read())
    yield jetstream, consumption
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_consumer_on_a_server_that_lags_is_replaced(reading: tuple[JetStream, Consumption]) -> None:
    """Its heartbeats report that everything known to its server was sent."""
    jetstream, consumption = reading
    consumer = await jetstream.consumer(1)
    consumer.send(1)
    consumption.stream_ends(5)  # since then it stands where it does
    for _ in range(STALLS_MAX):
        assert (await jetstream.consumer(1)) is consumer
        consumer.beat()
        consumption.stream_ends(5)
    other = await jetstream.consumer(2)
    assert other.start == 2
    for position in range(2, 6):
        other.send(position)
    await asyncio.sleep(0)
    await jetstream.consumer(2)
    assert [position for position, _ in jetstream.got] == [1, 2, 3, 4, 5]


async def test_consumer_that_progresses_or_is_at_the_end_is_kept(reading: tuple[JetStream, Consumption]) -> None:
    jetstream, consumption = reading
    consumer = await jetstream.consumer(1)
    for position in range(1, 4 * STALLS_MAX):
        if position % STALLS_MAX == 0:
            consumer.send(position // STALLS_MAX)
        consumer.beat()
        consumption.stream_ends(100)
        await jetstream.consumer(1)
    for _ in range(4 * STALLS_MAX):
        consumption.stream_ends(consumption.position)
        await jetstream.consumer(1)
