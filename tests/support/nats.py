"""Three NATS servers on this computer, for tests: a cluster with JetStream, and faults for its servers.

The fixture `nats` starts it once for all tests of a process. Each test uses another name for its cluster
(`Nats.fresh_name`), so that tests do not share streams. Before each test, the fixture waits until it is healthy.
"""

import asyncio
import atexit
import contextlib
import functools
import itertools
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import nats as client
import pytest
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError

from cairnkv.lab.cluster.nats import NatsConfig, NatsServer, free_ports
from cairnkv.limits import MIB
from cairnkv.replication.nats.options import ClusterOptions
from cairnkv.replication.nats.stream_config import stream_name

SERVERS: Final = 3
PATIENCE: Final = 30.0
STREAM_LIMIT: Final = 64 * MIB

_numbers = itertools.count(1)


def wait_listening(server: NatsServer, timeout: float = 10.0) -> None:
    """Wait until clients can connect to a NATS server.

    Raises `OSError` after the timeout, or if the process ends.
    """
    until = time.monotonic() + timeout
    while True:
        if not server.running:
            raise OSError(f"NATS server {server.name} {server.end}:\n{server.log_tail()}")
        with contextlib.suppress(OSError), socket.create_connection((server.config.host, server.config.port), 1.0):
            return
        if time.monotonic() > until:
            raise OSError(f"NATS server {server.name} does not listen after {timeout:g} s; see {server.log}")
        time.sleep(0.02)


class Nats:
    """A cluster of NATS servers. The context manager stops them."""

    def __init__(self, directory: Path, *, sync: Sequence[str | None] = ("always",) * SERVERS, **settings: Any) -> None:
        """sync: each server's sync_interval. settings: more of `NatsConfig`, for all."""
        ports = free_ports(2 * len(sync))
        client_ports, route_ports = ports[: len(sync)], ports[len(sync) :]
        settings = {"file_max": 8192 * MIB, "password": "a-store", "system_password": "a-system", **settings}
        self.servers = [
            NatsServer(
                NatsConfig(
                    name=f"nats-{number}",
                    directory=directory / f"nats-{number}",
                    port=port,
                    route_port=route_ports[number],
                    routes=tuple(("127.0.0.1", route) for route in route_ports),
                    sync=sync[number],
                    **settings,
                )
            )
            for number, port in enumerate(client_ports)
        ]

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of all servers, with user and password."""
        return tuple(server.config.url for server in self.servers)

    @property
    def system(self) -> str:
        """USER:PASSWORD of the system account."""
        return self.servers[0].config.system

    def options(self, name: str | None = None, **more: Any) -> ClusterOptions:
        """Return the options of a node of a new cluster, or of the named one."""
        more = {"urls": self.urls, "system": self.system, "limit": STREAM_LIMIT, **more}
        return ClusterOptions(name=name or self.fresh_name(), **more)

    @staticmethod
    def fresh_name() -> str:
        """Return a cluster's name that no other test uses."""
        return f"test-{next(_numbers)}"

    def forget(self, name: str) -> None:
        """Delete the log of a cluster, which frees its share of the servers' limit."""
        asyncio.run(self._forget(name))

    async def _forget(self, name: str) -> None:
        until = time.monotonic() + PATIENCE
        nc = await client.connect(list(self.urls), error_cb=_ignore)
        try:
            while True:
                try:
                    await nc.jetstream(timeout=2.0).delete_stream(stream_name(name))
                    return
                except NotFoundError:
                    return
                except (TimeoutError, client.errors.Error, JetStreamError):  # an election may be under way
                    if time.monotonic() > until:
                        raise
                    await asyncio.sleep(0.1)
        finally:
            await nc.close()

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                server.start()
            for server in self.servers:
                wait_listening(server, PATIENCE)
            self.wait_healthy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.kill()

    def heal(self) -> None:
        """Resume and start servers, and wait until JetStream is ready."""
        for server in self.servers:
            server.resume()
            if not server.running:
                server.start()
                wait_listening(server, PATIENCE)
        self.wait_healthy()

    def wait_healthy(self) -> None:
        """Wait until JetStream answers by way of every server."""
        asyncio.run(self._wait_healthy())

    async def _wait_healthy(self) -> None:
        await asyncio.gather(*[_answers(url) for url in self.urls])


async def _answers(url: str) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            nc = await client.connect(url, allow_reconnect=False, connect_timeout=1, error_cb=_ignore)
            try:
                await nc.jetstream(timeout=1.0).account_info()
                return
            finally:
                await nc.close()
        except (TimeoutError, client.errors.Error, JetStreamError, OSError):
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.1)


async def _ignore(_: Exception) -> None:
    pass


@functools.cache
def of_this_process() -> Nats:
    """Return the cluster of this process, which stops when the process ends."""
    ending = contextlib.ExitStack()
    atexit.register(ending.close)
    directory = ending.enter_context(tempfile.TemporaryDirectory(prefix="cairn-nats-", ignore_cleanup_errors=True))
    return ending.enter_context(Nats(Path(directory)))


@pytest.fixture
def nats() -> Nats:
    """Return the cluster of this process after it is healthy."""
    cluster = of_this_process()
    cluster.heal()
    return cluster
