"""Streams as context managers, readers that collect entries, and requests to JetStream."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from cairnkv.replication.nats.connection import ask
from cairnkv.replication.nats.options import ClusterOptions
from cairnkv.replication.nats.stream import Stream

PATIENCE = 20.0


@contextlib.asynccontextmanager
async def opened(options: ClusterOptions, **more: Any) -> AsyncIterator[Stream]:
    """Yield an open stream, and close it after the block."""
    stream = Stream(options, **more)
    await stream.open()
    try:
        yield stream
    finally:
        await stream.close()


class Reader:
    """Collects the entries of a stream in a task. Use as a context manager."""

    def __init__(self, stream: Stream, after: int = 0, each: Callable[[], Any] | None = None) -> None:
        """each: a function that is awaited between two lists."""
        self.got: list[tuple[int, bytes]] = []
        self._stream = stream
        self._after = after
        self._each = each
        self._news = asyncio.Event()

    async def __aenter__(self) -> "Reader":
        self.task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _read(self) -> None:
        async with contextlib.aclosing(self._stream.entries(self._after)) as entries:
            async for batch in entries:
                assert batch
                self.got += batch
                self._news.set()
                if self._each is not None:
                    await self._each()

    @property
    def positions(self) -> list[int]:
        return [position for position, _ in self.got]

    @property
    def texts(self) -> list[bytes]:
        return [data for _, data in self.got]

    async def has(self, what: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait until a condition holds for the collected entries."""
        async with asyncio.timeout(patience):
            while not what():
                if self.task.done():
                    self.task.result()
                    raise AssertionError("the entries ended")
                self._news.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await self._news.wait()


async def api(stream: Stream, what: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return JetStream's answer to a request."""
    return await ask(stream.nc, f"$JS.API.{what}", request, PATIENCE)


async def eventually(what: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(patience):
        while not what():  # noqa: ASYNC110 - it may be anything
            await asyncio.sleep(0.02)


async def put(stream: Stream, *messages: bytes) -> None:
    """Publish messages one by one, and wait until each is logged."""
    for message in messages:
        answer = await _requested(stream, message)
        assert b'"error"' not in answer.data, answer.data


async def _requested(stream: Stream, message: bytes) -> Msg:
    """Return JetStream's answer. Retry, because a new stream may not accept messages yet."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await stream.nc.request(f"cairn.{stream.identity.stream[6:]}.log", message, timeout=PATIENCE)
            except NoRespondersError:
                await asyncio.sleep(0.02)
