"""Replacement of a lost NATS server as docs/cluster.md describes: the log continues completely."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import nats as client
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError

from cairnkv.lab.cluster.nats import NatsConfig, NatsServer, free_ports
from cairnkv.limits import MIB
from cairnkv.replication.nats.stream_config import stream_name
from tests.replication.reading import Reader, opened, put
from tests.support.nats import Nats

PATIENCE = 30.0
LOOK_EVERY = 0.2

Answer: TypeAlias = dict[str, Any]


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Nats]:
    """Run servers for one test, which may leave them in any state."""
    with Nats(tmp_path, file_max=512 * MIB) as nats:
        yield nats


async def test_lost_nats_server_is_replaced_by_one_of_another_name(three: Nats, tmp_path: Path) -> None:
    port, route_port = free_ports(2)
    pattern, gone = three.servers[0].config, three.servers[2]
    new = NatsServer(
        NatsConfig(
            name="nats-new",
            directory=tmp_path / "nats-new",
            port=port,
            route_port=route_port,
            routes=(*pattern.routes, ("127.0.0.1", route_port)),
            password=pattern.password,
            system_password=pattern.system_password,
            file_max=pattern.file_max,
        )
    )
    options = three.options()
    info = f"$JS.API.STREAM.INFO.{stream_name(options.name)}"
    try:
        async with opened(options) as stream, Reader(stream) as reader, asked_by(three, system=True) as system:
            await put(stream, b"before")
            gone.kill()
            new.start()
            await until(lambda: servers(system), lambda told: "nats-new" in members(told))

            async def removed() -> Answer | None:
                await asked(system, "$JS.API.SERVER.REMOVE", peer=gone.config.name)
                return await servers(system)

            await until(removed, lambda told: gone.config.name not in members(told))
            async with asked_by(three) as store:
                await until(lambda: asked(store, info), lambda told: replicas(told) == {"nats-0", "nats-1", "nats-new"})
            await put(stream, b"after")
            await reader.has(lambda: reader.texts == [b"before", b"after"])
    finally:
        new.kill()


@contextlib.asynccontextmanager
async def asked_by(nats: Nats, *, system: bool = False) -> AsyncIterator[Client]:
    """Yield a connection to the first server, as a user of the store's account or of the system account."""
    config = nats.servers[0].config
    connection = await client.connect(f"nats://{config.system}@127.0.0.1:{config.port}" if system else config.url)
    try:
        yield connection
    finally:
        await connection.close()


async def asked(connection: Client, subject: str, **question: object) -> Answer | None:
    """Return the answer of JetStream, or None without one."""
    try:
        message = await connection.request(subject, json.dumps(question).encode() if question else b"", timeout=2)
    except NatsError:
        return None
    answer: Answer = json.loads(message.data)
    return None if "error" in answer else answer


async def until(ask: Callable[[], Awaitable[Answer | None]], holds: Callable[[Answer], bool]) -> None:
    """Repeat a request until the answer satisfies a condition."""
    async with asyncio.timeout(PATIENCE):
        while (answer := await ask()) is None or not holds(answer):  # noqa: ASYNC110 - NATS does not tell by itself
            await asyncio.sleep(LOOK_EVERY)


async def servers(connection: Client) -> Answer | None:
    """Return the servers with JetStream, as the meta leader reports them."""
    return await asked(connection, "$SYS.REQ.SERVER.PING.JSZ", leader_only=True)


def members(told: Answer) -> set[str]:
    """Return the servers of the cluster, also offline ones, except the server that answers."""
    return {one["name"] for one in told["data"].get("meta_cluster", {}).get("replicas", ())}


def replicas(told: Answer) -> set[str]:
    """Return the servers that have a complete copy of a stream."""
    cluster = told["cluster"]
    return {cluster.get("leader", "")} | {one["name"] for one in cluster.get("replicas", ()) if one["current"]}
