"""A NATS server with a full disk disables JetStream and does not enable it again by itself."""

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from nats.js.errors import Error as JetStreamError

from cairnkv.lab.cluster import LocalCluster
from cairnkv.limits import MIB
from tests.lab.cluster.stand_in import stand_in

MAY_MOUNT = sys.platform == "linux" and os.geteuid() == 0

PATIENCE = 30.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small file system, and yield its directory."""
    directory = tmp_path / "disk"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=640m", "none", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


@pytest.mark.skipif(not MAY_MOUNT, reason="NOT TESTED HERE: a disk is mounted, which only root may do, on Linux")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_nats_server_is_restarted_after_a_full_disk(disk: Path) -> None:
    told: list[str] = []
    with LocalCluster.up(disk, command=stand_in, notify=told.append) as cluster:
        assert cluster.log_limit < 100 * MIB, "less than usual, since the disk is small"
        ballast = disk / "ballast"
        connection = await nats.connect(list(cluster.nats_urls), error_cb=ignore)
        try:
            stream = connection.jetstream(timeout=1.0)
            until = time.monotonic() + PATIENCE
            while not await made(stream):  # the leader takes some seconds until it knows that all servers are there
                assert time.monotonic() < until
                await asyncio.sleep(0.1)
            while not await published(stream, b"before"):
                assert time.monotonic() < until
            fill(ballast)
            while not any("perhaps after a full disk" in line for line in told):
                assert time.monotonic() < until, told
                await published(stream, bytes(900_000))
            ballast.unlink()
            cluster.wait_ready()
            while not await published(stream, b"after"):
                assert time.monotonic() < until
            info = await stream.stream_info("s")
            assert info.state.messages >= 2
        finally:
            await connection.close()
            del stream, connection
            gc.collect()  # nats-py leaves sockets to Python when it reconnects


def fill(file: Path) -> None:
    """Fill a file system completely."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(MIB))


async def made(stream: JetStreamContext) -> bool:
    try:
        await stream.add_stream(StreamConfig(name="s", subjects=["s"], num_replicas=3, max_bytes=64 * MIB))
    except (JetStreamError, nats.errors.Error):
        return False
    return True


async def published(stream: JetStreamContext, data: bytes) -> bool:
    try:
        await stream.publish("s", data)
    except (JetStreamError, nats.errors.Error):
        return False
    return True


async def ignore(_: Exception) -> None:
    """Ignore an error: connections break in this test."""
