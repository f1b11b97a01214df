"""Leases across the failure of a node and of the log's leader, with real servers."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

import cairnkv
from cairnkv.lab.cluster.nats import NatsServer
from cairnkv.testing import RunningServer
from tests.replication.nodes import PATIENCE, Nodes, client, told, until
from tests.replication.reading import api
from tests.replication.test_node import node_of
from tests.replication.test_operations import words
from tests.support.nats import Nats


@pytest.fixture
def killed_later(node: Nodes) -> Iterator["tuple[subprocess.Popen[str], str]"]:
    """Run a node as a process. Yields the process and its address."""
    command = [sys.executable, "-m", "cairnkv", "serve", *words({**node.settings("killed"), "port": 0})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split(" ready on ")[1].split(",")[0]
        finally:
            process.kill()


def test_leases_outlive_the_node_that_gave_them(
    node: Nodes, nats: Nats, killed_later: "tuple[subprocess.Popen[str], str]"
) -> None:
    process, url = killed_later
    with node("b") as second, client(second) as other:
        with cairnkv.connect(url, timeout=PATIENCE) as one:
            queue = one.queue("q")
            queue.put_many(["short", "long"])
            short, long = queue.take(lease="3s"), queue.take(lease="5m")
            assert short is not None
            assert long is not None
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
        leader = leader_of(second, nats)
        leader.pause()
        try:
            again = taken_at_last(other)
        finally:
            leader.resume()
        assert (again.id, again.body) == (short.id, "short")
        assert again.attempt >= 2
        assert again.token > long.token > short.token
        again.ack()
        until(lambda: bool(told(second)["quorum"]))
        queue = other.queue("q")
        assert queue.take() is None
        message = queue.look(long.id)
        assert message is not None
        assert (message.state, message.token) == ("leased", long.token)


def leader_of(server: RunningServer, nats: Nats) -> NatsServer:
    """Return the server that leads the log of a node."""
    node = node_of(server)
    asked = api(node.stream, f"STREAM.INFO.{node.stream.identity.stream}")
    leader = asyncio.run_coroutine_threadsafe(asked, server.loop).result(PATIENCE)["cluster"]["leader"]
    return next(nats_server for nats_server in nats.servers if nats_server.config.name == leader)


def taken_at_last(kv: "cairnkv.Client[str, str]") -> "cairnkv.Job[str]":
    """Take the next message of a queue, also while a cluster elects a leader."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(cairnkv.OutcomeUnknown, cairnkv.Unavailable, cairnkv.Refused):
            job = kv.queue("q").take(lease="3s")
            if job is not None:
                return job
        time.sleep(0.05)
    raise AssertionError("the lease has not ended")
