"""A server that is still loading its store: it listens, and answers LOADING."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import cairnkv
from cairnkv.commands import Get, Info, Ping, Set
from cairnkv.errors import OptionError
from cairnkv.protocol import write_command
from cairnkv.server.server import Server
from cairnkv.server.settings import Settings
from cairnkv.storage.disk import DiskStorage
from cairnkv.store import LocalStore
from cairnkv.testing import ManualClock
from tests.storage.test_disk import PATIENCE, Faulty
from tests.support.raw import ServerProcess

RECORDS = 60_000


class Slow(Faulty):
    """RocksDB that delivers records when the test says."""

    released: threading.Event

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        for number, item in enumerate(super().items()):
            if number == RECORDS // 2:
                assert self.released.wait(PATIENCE)
            yield item


def slow_store(directory: Path, released: threading.Event) -> LocalStore:
    with cairnkv.open(directory, codec="bytes", sync="none") as kv:
        for first in range(0, RECORDS, 20_000):
            kv.set_many({b"%06d" % number: b"v" for number in range(first, first + 20_000)})

    def new_rocksdb(path: Path) -> Slow:
        engine = Slow(path)
        engine.released = released
        return engine

    return LocalStore(storage=DiskStorage(directory, new_rocksdb=new_rocksdb), clock=ManualClock(), loads_later=True)


@contextlib.asynccontextmanager
async def connected(server: Server) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    for _ in range(1_000):
        if server.port:
            break
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    yield reader, writer
    writer.close()


async def said(client: "tuple[asyncio.StreamReader, asyncio.StreamWriter]", data: bytes, until: bytes) -> bytes:
    client[1].write(data)
    async with asyncio.timeout(PATIENCE):
        return await client[0].readuntil(until)


@pytest.fixture
def released() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_clients_get_loading_until_the_store_is_loaded(tmp_path: Path, released: threading.Event) -> None:
    async def run() -> None:
        server = Server(Settings(port=0), slow_store(tmp_path / "data", released))
        starting = asyncio.create_task(server.start())
        async with connected(server) as redis, connected(server) as article:
            for text in (b"PING", b"GET 000001", b"SET a 1", b"FLUSHALL", b"DBSIZE"):
                assert (await said(redis, text + b"\r\n", b"\r\n")).startswith(b"-LOADING ")
            for text in (b"SELECT 3", b"SELECT 0", b"UNWATCH", b"MULTI"):
                assert not (await said(redis, text + b"\r\n", b"\r\n")).startswith(b"-")
            assert (await said(redis, b"GET a\r\n", b"\r\n")).startswith(b"-LOADING ")
            assert (await said(redis, b"EXEC\r\n", b"\r\n")).startswith(b"-EXECABORT ")
            told = await said(redis, b"INFO persistence\r\n", b"\r\n\r\n")
            assert b"\nloading:1\r" in told
            for command in (Ping(b""), Get(b"000001"), Set(b"a", b"1")):
                assert b"LOADING " in await said(article, write_command(command), b"later")
            assert b"durable" in await said(article, write_command(Info()), b"loading\0")
            assert not starting.done()
            released.set()
            async with asyncio.timeout(PATIENCE):
                assert await starting
            assert await said(redis, b"GET 000001\r\n", b"v\r\n") == b"$1\r\nv\r\n"
            assert await said(redis, b"DBSIZE\r\n", b"\r\n") == b":%d\r\n" % RECORDS
            assert (await said(redis, b"SET a 1\r\n", b"\r\n")) == b"+OK\r\n"
            assert b"PONG" in await said(article, write_command(Ping(b"")), b"PONG")
        await server.stop()

    asyncio.run(run())
    with cairnkv.open(tmp_path / "data") as kv:
        assert kv["a"] == "1"
        assert kv.count() == RECORDS + 1


def test_client_repeats_commands_during_loading(tmp_path: Path, released: threading.Event) -> None:
    async def run() -> None:
        server = Server(Settings(port=0), slow_store(tmp_path / "data", released))
        starting = asyncio.create_task(server.start())
        async with connected(server):
            kv = cairnkv.aio.connect(f"cairn://127.0.0.1:{server.port}", attempts=10)
            asking = asyncio.create_task(kv.get("000001"))
            await asyncio.sleep(0.1)
            assert not asking.done()
            released.set()
            assert await asking == "v"
            await kv.close()
        await starting
        await server.stop()

    asyncio.run(run())


@pytest.mark.parametrize("word", [None, b"SHUTDOWN NOSAVE\r\n"])
def test_server_can_be_stopped_during_loading(tmp_path: Path, released: threading.Event, word: bytes | None) -> None:
    async def run() -> None:
        server = Server(Settings(port=0), slow_store(tmp_path / "data", released))
        starting = asyncio.create_task(server.start())
        async with connected(server) as redis:
            if word is None:
                server.request_stop()
            else:
                redis[1].write(word)
            await server.stop_requested()
            await asyncio.sleep(0.05)
            released.set()  # the record at hand comes; those behind it are not asked for
            async with asyncio.timeout(PATIENCE):
                assert not await starting
                await server.stop()

    asyncio.run(run())
    with cairnkv.open(tmp_path / "data") as kv:
        assert kv.count() == RECORDS


def test_store_that_cannot_be_opened_stops_the_server(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")

    async def run() -> None:
        server = Server(Settings(port=0, data=str(tmp_path)))
        with pytest.raises(OptionError, match=r"letter\.txt"):
            await server.start()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)

    asyncio.run(run())


def test_write_ahead_log_of_a_killed_server_is_read_in_another_process(tmp_path: Path) -> None:
    options = ("--port", "0", "--data", str(tmp_path / "data"), "--sync", "none")
    with ServerProcess(*options, log=tmp_path / "first") as process:
        with cairnkv.connect("cairn://{}:{}".format(*process.address), codec="bytes", timeout=PATIENCE) as kv:
            for number in range(40):
                kv.set(b"%d" % number, bytes(100_000))
        process.signal(signal.SIGKILL)
        process.exit_code()
    with ServerProcess(*options, log=tmp_path / "second") as process:
        with cairnkv.connect("cairn://{}:{}".format(*process.address), codec="bytes", timeout=PATIENCE) as kv:
            assert kv.count() == 40
        assert "reading a write-ahead log of" in process.log()
