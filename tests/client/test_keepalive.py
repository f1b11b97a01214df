"""TCP keepalive in the clients: the system finds a server whose computer vanished."""

import sys

import pytest

import cairnkv
from cairnkv.limits import KEEPALIVE_IDLE
from tests.support.scripted import scripted
from tests.support.sockets import keepalive_seconds

from .test_sync import answer_everything

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the timers of sockets from /proc")


def has_keepalive(port: int) -> bool:
    timers = keepalive_seconds(remote_port=port)
    return len(timers) == 1 and timers[0] <= KEEPALIVE_IDLE


def test_sync_client_probes_a_quiet_server() -> None:
    with scripted(answer_everything) as server, cairnkv.connect(server.url) as kv:
        kv.ping()
        assert has_keepalive(server.port)


async def test_asyncio_client_probes_a_quiet_server() -> None:
    with scripted(answer_everything) as server:
        async with cairnkv.aio.connect(server.url) as kv:
            await kv.ping()
            assert has_keepalive(server.port)


def test_asyncio_client_probes_a_quiet_server_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def ask(url: str, port: int) -> bool:
        async with cairnkv.aio.connect(url) as kv:
            await kv.ping()
            return has_keepalive(port)

    with scripted(answer_everything) as server:
        assert uvloop.run(ask(server.url, server.port))
