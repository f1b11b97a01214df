"""Servers are killed, paused and restarted while entries are published and consumed. Each entry arrives once and in
order, and the log continues within the promised time."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator

import pytest_asyncio

from cairnkv.lab.cluster.nats import NatsServer
from cairnkv.replication.nats.stream import Stream
from tests.replication.reading import Reader, api, eventually, opened, put
from tests.support.nats import Nats

HOLDS_MAX = 5
"""Times that a message is held in a paused server until one is logged."""

FAILOVER = 12.0
"""Seconds that are promised, an election included."""


def shows(reader: Reader, number: int) -> bool:
    return bool(reader.got) and int(reader.texts[-1]) >= number


def has_got(reader: Reader, count: int) -> bool:
    return len(reader.got) >= count


class Traffic:
    """Publishes messages periodically, and repeats each message that does not come back, as a node does."""

    def __init__(self, nats: Nats, publisher: Stream, reader: Stream) -> None:
        self.nats = nats
        self.publisher = publisher
        self.back = Reader(publisher)
        self.other = Reader(reader)
        self.published = 0

    async def __aenter__(self) -> "Traffic":
        await self.back.__aenter__()
        await self.other.__aenter__()
        self.task = asyncio.create_task(self._publish())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.back.__aexit__()
        await self.other.__aexit__()

    async def _publish(self) -> None:
        while True:
            self.published += 1
            self.publisher.publish(b"%d" % self.published, lambda reason: None)
            await asyncio.sleep(0.02)

    async def more(self, patience: float = FAILOVER) -> None:
        """Wait until both readers have received a message that was published after this call."""
        first = self.published + 1
        for reader in (self.back, self.other):
            await reader.has(functools.partial(shows, reader, first), patience)

    def check(self) -> None:
        """Check that all entries of the stream have arrived, without a gap."""
        for reader in (self.back, self.other):
            assert reader.positions == list(range(1, len(reader.got) + 1))
        both = min(len(self.back.got), len(self.other.got))
        assert self.back.got[:both] == self.other.got[:both]

    async def check_against_the_stream(self) -> None:
        """Compare each message with JetStream's copy."""
        self.task.cancel()
        state = await self.publisher.state()
        for reader in (self.back, self.other):
            await reader.has(functools.partial(has_got, reader, state.last))
        async with opened(self.nats.options(name=self.publisher.identity.stream[6:])) as fresh, Reader(fresh) as all_:
            await all_.has(lambda: len(all_.got) >= state.last)
            assert all_.got[: state.last] == self.back.got[: state.last]
        self.check()


@pytest_asyncio.fixture
async def traffic(nats: Nats) -> AsyncIterator[Traffic]:
    options = nats.options()
    async with opened(options) as one, opened(options) as other, Traffic(nats, one, other) as traffic:
        await traffic.more()
        yield traffic


def server_of(nats: Nats, port: int | None) -> NatsServer:
    (server,) = [server for server in nats.servers if server.config.port == port]
    return server


async def leader_of(nats: Nats, stream: Stream) -> NatsServer:
    about = await api(stream, f"STREAM.INFO.{stream.identity.stream}")
    (server,) = [server for server in nats.servers if server.config.name == about["cluster"]["leader"]]
    return server


async def consumers_server(nats: Nats, stream: Stream) -> NatsServer:
    about = await api(stream, f"CONSUMER.LIST.{stream.identity.stream}", {"offset": 0})
    (server,) = [server for server in nats.servers if server.config.name == about["consumers"][0]["cluster"]["leader"]]
    return server


class TestOneServerFails:
    async def test_killed_leader_returns(self, nats: Nats, traffic: Traffic) -> None:
        identity = traffic.publisher.identity
        leader = await leader_of(nats, traffic.publisher)
        leader.kill()
        await traffic.more()
        traffic.check()
        assert (await traffic.publisher.state()).identity == identity, "when it was made is the same at each server"
        leader.start()
        await asyncio.sleep(1)
        await traffic.more()
        await traffic.check_against_the_stream()

    async def test_paused_leader_resumes(self, nats: Nats, traffic: Traffic) -> None:
        leader = await leader_of(nats, traffic.publisher)
        leader.pause()
        await traffic.more()
        leader.resume()
        await asyncio.sleep(1)
        await traffic.more()
        await traffic.check_against_the_stream()

    async def test_server_of_the_consumer_is_paused(self, nats: Nats, traffic: Traffic) -> None:
        server = await consumers_server(nats, traffic.publisher)
        server.pause()
        await traffic.more()
        server.resume()
        await traffic.more()
        await traffic.check_against_the_stream()

    async def test_connected_server_is_killed(self, nats: Nats, traffic: Traffic) -> None:
        url = traffic.publisher.nc.connected_url
        assert url is not None
        server_of(nats, url.port).kill()
        await eventually(lambda: traffic.publisher.nc.connected_url not in (url, None), 3)
        await traffic.more()
        await traffic.check_against_the_stream()


class TestSeveralServersFail:
    async def test_minority_gets_nothing_and_recovers_by_itself(self, nats: Nats, traffic: Traffic) -> None:
        for server in nats.servers[:2]:
            server.pause()
        await asyncio.sleep(4)
        before = len(traffic.back.got), len(traffic.other.got)
        await asyncio.sleep(1)
        assert (len(traffic.back.got), len(traffic.other.got)) == before
        for server in nats.servers[:2]:
            server.resume()
        await traffic.more()
        await traffic.check_against_the_stream()

    async def test_all_servers_are_killed_and_restarted(self, nats: Nats, traffic: Traffic) -> None:
        identity = traffic.publisher.identity
        for server in nats.servers:
            server.kill()
        await eventually(lambda: not traffic.publisher.connected, 2)
        refused: list[str] = []
        traffic.publisher.publish(b"x", refused.append)
        await eventually(lambda: refused == ["no connection to NATS"], 1)
        for server in nats.servers:
            server.start()
        await traffic.more(2 * FAILOVER)
        await traffic.check_against_the_stream()
        assert (await traffic.publisher.state()).identity == identity


async def test_messages_in_a_paused_server_are_logged_later(nats: Nats) -> None:
    """So no timeout proves that a message will not be logged, nor does its order among others."""
    options = nats.options()
    async with opened(options) as other, Reader(other) as reader:
        for attempt in range(HOLDS_MAX):
            leader = await leader_of(nats, other)
            (away,) = [server for server in nats.servers if server.config.port == other.nc.connected_url.port]  # type: ignore[union-attr]
            paused = next(server for server in nats.servers if server not in (leader, away))
            held, later = b"held %d" % attempt, b"later %d" % attempt
            async with opened(nats.options(options.name, urls=(paused.config.url,))) as one:
                paused.pause()
                one.publish(held, lambda reason: None)
                await asyncio.sleep(0.1)
                await put(other, later)
                paused.resume()
                with contextlib.suppress(TimeoutError):
                    await reader.has(lambda held=held: held in reader.texts, 5.0)  # type: ignore[misc]
            if held in reader.texts:
                assert reader.texts.index(later) < reader.texts.index(held)
                return
    raise AssertionError(f"of {HOLDS_MAX} held messages none was logged")


async def test_paused_server_that_reads_nothing_is_left(nats: Nats) -> None:
    """More than the socket buffers, so that the connection cannot be closed cleanly."""
    async with opened(nats.options()) as one, Reader(one) as reader:
        await put(one, b"first")
        await reader.has(lambda: reader.texts == [b"first"])
        url = one.nc.connected_url
        assert url is not None
        server_of(nats, url.port).pause()
        for _ in range(40):
            one.publish(bytes(one.payload_max), lambda reason: None)
        await eventually(lambda: one.nc.connected_url not in (url, None), 8)
        async with asyncio.timeout(2 * FAILOVER):  # refused while there is no leader; all held is logged before it
            while b"last" not in reader.texts:
                one.publish(b"last", lambda reason: None)
                await asyncio.sleep(0.2)
        assert reader.positions == list(range(1, len(reader.got) + 1))
