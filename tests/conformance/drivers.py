"""Drivers: each gives the same methods over one mode, protocol and client, so that one set of tests checks all.

A new mode or protocol adds a driver to `DRIVERS`. Each driver is a context manager that takes a clock and gives
an empty store of bytes on that clock.
"""

import asyncio
import contextlib
import functools
import inspect
import socket
import struct
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import cairnkv
from cairnkv import aio
from cairnkv.client.calls import Call, Durability
from cairnkv.client.codec import Bytes, Codec
from cairnkv.client.embedded import Embedded, _OnDisk
from cairnkv.client.keyvalue import KeyValue
from cairnkv.client.pipeline import Pipeline
from cairnkv.client.stores import new_store
from cairnkv.commands import COUNTED_FROM, MISSING, OK, Answer, Failure, InMemory, Items, Reply, failures
from cairnkv.limits import MIB
from cairnkv.protocol.native import CommandFlag
from cairnkv.store import Clock, LocalStore, PendingReply, WhenFull
from cairnkv.testing import ManualClock, RunningServer, running_server
from tests.conformance import redis_driver
from tests.support import nats, secured
from tests.support.simulated import Cluster

PATIENCE = 30.0
"""Seconds that anything here may take."""

FLAGS = {None: 0, CommandFlag.LOCAL_READ: 1, CommandFlag.MEMORY_IS_ENOUGH: 2}
"""What of a command's header the protocol page says of these."""


class ByHand(KeyValue[bytes, bytes]):
    """The methods over frames that are packed and unpacked here, from the protocol page alone."""

    def __init__(self, address: tuple[str, int], width: int, *, login: Sequence[str] = ()) -> None:
        """login: a user and a secret."""
        super().__init__(Bytes(), Bytes())
        self._socket = socket.create_connection(address, PATIENCE)
        self._number = ">BH" if width == 2 else ">BI"
        if login:
            strings = b"".join(struct.pack(">I", len(text)) + text.encode() for text in login)
            self._socket.sendall(struct.pack(self._number, 0, 44) + struct.pack(">I", len(login)) + strings)
            assert self._exactly(8) == struct.pack(">BBI", 0, ord("0"), 2) + b"OK"

    def close(self) -> None:
        self._socket.close()

    def pipeline(self) -> Pipeline[bytes, bytes]:
        raise NotImplementedError  # other drivers have them

    def _do(self, call: Call[Any]) -> Any:
        self._socket.sendall(self._frame(call))
        header, status, length = struct.unpack(">BBI", self._exactly(6))
        payload = self._exactly(length)
        reply = _reply(header & ~8, status, payload, call.command.spec.answer)
        return call.result(InMemory(reply) if header & 8 else reply)

    def _frame(self, call: Call[Any]) -> bytes:
        command = call.command
        strings = command.arguments()
        frame = struct.pack(self._number, FLAGS[call.flag], command.spec.number)
        if command.spec.number >= COUNTED_FROM:
            frame += struct.pack(">I", len(strings))
        return frame + b"".join(struct.pack(">I", len(string)) + string for string in strings)

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self._socket.recv(length - len(data))
            assert piece, "the server closed the connection"
            data += piece
        return data


def _reply(header: int, status: int, payload: bytes, answer: Answer) -> Reply:
    if status == ord("1"):
        if header & 1:
            assert payload == b"Key not found"
            return MISSING
        code, _, text = payload.decode().partition(" ")
        return Failure(failures.CODES[code], text)
    assert (header, status) == (0, ord("0"))
    if answer is Answer.OK:
        assert payload == b"OK"
        return OK
    if answer is Answer.NUMBER:
        return int(payload)
    if answer is Answer.BYTES:
        return payload
    strings: list[bytes | None] = []
    while payload:
        (length,) = struct.unpack_from(">I", payload)
        strings.append(None if length == 0xFFFFFFFF else payload[4 : 4 + length])
        payload = payload[4:] if length == 0xFFFFFFFF else payload[4 + length :]
    return Items(tuple(strings))


class Awaited:
    """An asyncio store whose methods are called from sync code: each runs in a loop of another thread."""

    def __init__(self, store: aio.AsyncKeyValue[bytes, bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)

        def call(*arguments: Any, **options: Any) -> Any:
            outcome = method(*arguments, **options)
            if isinstance(outcome, aio.AsyncKeyValue):
                return Awaited(outcome, self._loop)
            if inspect.isasyncgen(outcome):
                outcome = _all_of(outcome)
            return asyncio.run_coroutine_threadsafe(outcome, self._loop).result(PATIENCE)

        return call


async def _all_of(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


@contextlib.contextmanager
def _loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()


@contextlib.contextmanager
def embedded(clock: ManualClock) -> Iterator[Any]:
    with cairnkv.open(codec="bytes", clock=clock) as store:
        yield store


@contextlib.contextmanager
def embedded_async(clock: ManualClock) -> Iterator[Any]:
    with _loop_in_a_thread() as loop:
        store = Awaited(aio.open(codec="bytes", clock=clock), loop)
        yield store
        store.close()


@contextlib.contextmanager
def sync(clock: ManualClock) -> Iterator[Any]:
    with running_server(clock=clock) as server, cairnkv.connect(server.url, codec="bytes", timeout=PATIENCE) as store:
        yield store


@contextlib.contextmanager
def pipelined(clock: ManualClock) -> Iterator[Any]:
    """The sync client, each of whose calls goes through a pipeline where there is such a method."""
    with sync(clock) as client:
        yield Pipelined(client)


class Pipelined:
    def __init__(self, client: cairnkv.Client[bytes, bytes], how: Durability = "committed") -> None:
        self._client = client
        self._how = how
        self._store = client.durability(how)

    def durability(self, how: Durability) -> "Pipelined":
        return Pipelined(self._client, how)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not hasattr(cairnkv.Pipeline, name) or name == "queue":  # the queue of a pipeline only puts
            method: Callable[..., Any] = getattr(self._store, name)
            return method

        def call(*arguments: Any, **options: Any) -> Any:
            with self._client.pipeline() as pipeline:
                pending = getattr(pipeline.durability(self._how), name)(*arguments, **options)
            return pending.result()

        return call


@contextlib.contextmanager
def asynchronous(clock: ManualClock) -> Iterator[Any]:
    with running_server(clock=clock) as server, _loop_in_a_thread() as loop:
        store = Awaited(aio.connect(server.url, codec="bytes", timeout=PATIENCE), loop)
        yield store
        store.close()


def by_hand(width: int, *, on_disk: bool = False) -> Callable[[ManualClock], AbstractContextManager[Any]]:
    @contextlib.contextmanager
    def driver(clock: ManualClock) -> Iterator[Any]:
        with contextlib.ExitStack() as stack:
            data: dict[str, Any] = {"data": stack.enter_context(tempfile.TemporaryDirectory())} if on_disk else {}
            server = stack.enter_context(running_server(clock=clock, **data))
            assert server.address is not None
            with ByHand(server.address, width) as store:
                yield store

    return driver


@contextlib.contextmanager
def disk(clock: ManualClock) -> Iterator[Any]:
    with (
        tempfile.TemporaryDirectory() as directory,
        cairnkv.open(directory, codec="bytes", sync="none", clock=clock) as store,
    ):
        yield store


@contextlib.contextmanager
def disk_sync(clock: ManualClock) -> Iterator[Any]:
    with (
        tempfile.TemporaryDirectory() as directory,
        running_server(clock=clock, data=directory) as server,
        cairnkv.connect(server.url, codec="bytes", timeout=PATIENCE) as store,
    ):
        yield store


@contextlib.contextmanager
def tls(clock: ManualClock) -> Iterator[Any]:
    with running_server(clock=clock, **secured.tls_options()) as server:
        assert server.address is not None
        url = f"cairns://127.0.0.1:{server.address[1]}/?ca={secured.authority()}"
        with cairnkv.connect(url, codec="bytes", timeout=PATIENCE) as store:
            yield store


@contextlib.contextmanager
def limited(clock: ManualClock, *, by_hand: bool = False) -> Iterator[Any]:
    """by_hand: with `ByHand` instead of the client."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(running_server(clock=clock, users=str(secured.users_file(directory))))
        assert server.address is not None
        administrator = stack.enter_context(_client(server.address[1], secured.ADMINISTRATOR))
        login = secured.USER, secured.SECRETS[secured.USER]
        store = ByHand(server.address, 4, login=login) if by_hand else _client(server.address[1], secured.USER)
        yield secured.Limited(stack.enter_context(store), administrator)


def _client(port: int, user: str) -> cairnkv.Client[bytes, bytes]:
    url = f"cairn://{user}:{secured.SECRETS[user]}@127.0.0.1:{port}"
    return cairnkv.connect(url, codec="bytes", timeout=PATIENCE)


MEMORY_LIMIT = 100 * MIB


class Cooled:
    """The methods of a store on disk none of whose values are in memory when one is called."""

    def __init__(self, store: Any, engine: LocalStore, call: Callable[[Callable[[], None]], Any]) -> None:
        """call: calls a function in the thread that uses the engine."""
        self._store = store
        self._engine = engine
        self._call = call

    def _cool(self) -> None:
        self._engine.limit_memory(1, WhenFull.REFUSE)
        while self._engine.housekeep():
            pass
        self._engine.limit_memory(MEMORY_LIMIT, WhenFull.REFUSE)

    def __getattr__(self, name: str) -> Any:
        self._call(self._cool)
        return getattr(self._store, name)


@contextlib.contextmanager
def disk_cache(clock: ManualClock) -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as directory:
        engine = new_store(directory, MEMORY_LIMIT, "refuse", "none", None, clock)
        with Embedded(engine, Bytes(), Bytes()) as store:
            shared = store._shared
            assert isinstance(shared, _OnDisk)
            yield Cooled(store, engine, shared.call)


@contextlib.contextmanager
def disk_cache_sync(clock: ManualClock) -> Iterator[Any]:
    with (
        tempfile.TemporaryDirectory() as directory,
        running_server(clock=clock, data=directory, memory_limit=MEMORY_LIMIT) as server,
        cairnkv.connect(server.url, codec="bytes", timeout=PATIENCE) as store,
    ):
        engine = server.server.store
        assert isinstance(engine, LocalStore)
        yield Cooled(store, engine, server.call)


@contextlib.contextmanager
def a_node(clock: Clock) -> Iterator[RunningServer]:
    """Yield the first node of a new cluster."""
    cluster = nats.of_this_process()
    name = cluster.fresh_name()
    with contextlib.ExitStack() as stack:
        stack.callback(cluster.forget, name)
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        node = running_server(
            clock=clock,
            cluster=",".join(cluster.urls),
            nats_system=cluster.system,
            name=name,
            log_limit=nats.STREAM_LIMIT,
            data=directory,
        )
        yield stack.enter_context(node)


@contextlib.contextmanager
def quorum(clock: ManualClock) -> Iterator[Any]:
    with a_node(clock) as node, cairnkv.connect(node.url, codec="bytes", timeout=PATIENCE) as store:
        yield store


@contextlib.contextmanager
def quorum_by_hand(clock: ManualClock) -> Iterator[Any]:
    with a_node(clock) as node:
        assert node.address is not None
        with ByHand(node.address, 4) as store:
            yield store


class OnNode(KeyValue[Any, Any]):
    """The methods at one node of a simulated cluster, in which everything comes as it should."""

    def __init__(self, cluster: Cluster, number: int, codec: Codec[Any]) -> None:
        super().__init__(codec, codec)
        self._cluster = cluster
        self._node = cluster.nodes[number]
        self._lock = threading.Lock()

    def close(self) -> None:
        pass

    def pipeline(self) -> Pipeline[Any, Any]:
        raise NotImplementedError  # other drivers have them

    def _do(self, call: Call[Any]) -> Any:
        with self._lock:
            outcome = self._node.execute(call.command)
            if isinstance(outcome, PendingReply):
                self._cluster.settle()
                assert outcome.reply is not None
                outcome = outcome.reply
        return call.result(outcome)


@contextlib.contextmanager
def quorum_simulated(clock: ManualClock, codec: Codec[Any] | None = None) -> Iterator[Any]:
    cluster = Cluster(2, room=MIB, clock=clock)
    cluster.settle()
    with OnNode(cluster, 1, codec or Bytes()) as store:
        yield store


DRIVERS: dict[str, Callable[[ManualClock], AbstractContextManager[Any]]] = {
    "embedded": embedded,
    "embedded-async": embedded_async,
    "sync": sync,
    "disk": disk,
    "disk-sync": disk_sync,
    "disk-cache": disk_cache,
    "disk-cache-sync": disk_cache_sync,
    "quorum, simulated": quorum_simulated,
    "pipeline": pipelined,
    "async": asynchronous,
    "disk, two-byte frames": by_hand(2, on_disk=True),
    "two-byte frames": by_hand(2),
    "four-byte frames": by_hand(4),
    "tls": tls,
    "user with prefixes": limited,
    "user with prefixes, four-byte frames": functools.partial(limited, by_hand=True),
    "quorum": quorum,
    "quorum, four-byte frames": quorum_by_hand,
    **redis_driver.DRIVERS,
    "quorum, redis-py": redis_driver.sync(3, a_node),
}
