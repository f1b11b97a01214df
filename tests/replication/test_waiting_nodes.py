"""TAKE commands that wait at real nodes: events at other nodes, clients that leave, and failures."""

import concurrent.futures
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import cairnkv
from cairnkv.commands import Put, Take
from cairnkv.limits import WAIT_MAX
from cairnkv.testing import RunningServer
from tests.replication.nodes import PATIENCE, Nodes, client, told, until
from tests.replication.test_queue_failover import killed_later, leader_of
from tests.support.nats import Nats
from tests.support.raw import RawClient

__all__ = ["killed_later"]

WAIT = Take(b"q", 1, wait=WAIT_MAX)


@pytest.fixture
def two(node: Nodes) -> Iterator[tuple[RunningServer, RunningServer]]:
    """Yield two nodes."""
    with node("a") as one, node("b") as other:
        yield one, other


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    """Yield threads."""
    with concurrent.futures.ThreadPoolExecutor() as executor:
        yield executor


def waits(server: RunningServer, count: int) -> None:
    """Wait until so many TAKE commands wait at a node."""
    until(lambda: bool(told(server)["waiting_takes"] == count))


def taken(kv: "cairnkv.Client[str, str]") -> "cairnkv.Job[Any]":
    """Take the next message."""
    job = kv.queue("q").take(wait=3 * PATIENCE)
    assert job is not None
    return job


def test_put_at_one_node_ends_a_wait_at_another(
    two: tuple[RunningServer, RunningServer], pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    one, other = two
    with client(one) as producer, client(other) as consumer:
        for at in range(5):
            job = pool.submit(taken, consumer)
            waits(other, 1)
            producer.queue("q").put(at)
            assert job.result(PATIENCE).body == at
        job = pool.submit(taken, consumer)
        waits(other, 1)
        producer.queue("q").put("later", delay=0.3)
        assert job.result(PATIENCE).body == "later"
        assert producer.queue("q").stats()["leased"] == 6


def test_workers_at_all_nodes_share_messages(two: tuple[RunningServer, RunningServer]) -> None:
    done: list[int] = []

    def work(kv: "cairnkv.Client[str, str]") -> None:
        for job in kv.queue("q").jobs():
            with job:
                if job.body is None:
                    return
                done.append(job.body)

    with client(two[0]) as first, client(two[1]) as second, concurrent.futures.ThreadPoolExecutor(8) as pool:
        workers = [pool.submit(work, kv) for kv in (first, second) for _ in range(4)]
        try:
            for server in two:
                waits(server, 4)
            for at in range(100):
                (first, second)[at % 2].queue("q").put(at)
        finally:
            first.queue("q").put_many([None] * len(workers), priority=4_000_000_000)
        for worker in workers:
            worker.result(PATIENCE)
        assert sorted(done) == list(range(100))
        assert first.queue("q").stats()["acked"] == 100 + len(workers)


def test_client_that_disconnects_takes_nothing(two: tuple[RunningServer, RunningServer]) -> None:
    one, other = two
    with client(one) as kv:
        queue = kv.queue("q")
        for at in range(5):
            with RawClient(other.address) as taker:
                taker.send_commands([WAIT])
                waits(other, 1)
            waits(other, 0)
            queue.put(at)
            job = queue.take(wait=PATIENCE)
            assert job is not None
            assert (job.body, job.attempt) == (at, 1)


def test_client_that_leaves_in_mid_take_gives_its_lease_back(two: tuple[RunningServer, RunningServer]) -> None:
    """A pause of the node lets the PUT and the end of the connection arrive together."""
    one, other = two
    with client(one) as kv:
        queue = kv.queue("q")
        for at in range(5):
            with RawClient(other.address) as taker, RawClient(other.address) as producer:
                taker.send_commands([WAIT])
                waits(other, 1)
                holding, held = threading.Event(), threading.Event()
                other.loop.call_soon_threadsafe(lambda: (holding.set(), held.wait(PATIENCE)))  # noqa: B023
                assert holding.wait(PATIENCE)
                producer.send_commands([Put(b"q", b"%d" % at)])
                taker.close()
                held.set()
                assert producer.reply().ok
            waits(other, 0)
            job = queue.take(wait=PATIENCE)
            assert job is not None
            assert (job.body, job.attempt) == (at, 1)


def test_waiting_client_of_a_killed_node_waits_at_another(
    node: Nodes,
    killed_later: "tuple[subprocess.Popen[str], str]",  # a fixture
    pool: concurrent.futures.ThreadPoolExecutor,
) -> None:
    process, url = killed_later
    with node("b") as second, client(second) as producer:
        addresses = f"{url},{second.url.removeprefix('cairn://')}/?order=given"
        with cairnkv.connect(addresses, timeout=PATIENCE) as consumer:
            assert consumer.info()["waiting_takes"] == 0
            job = pool.submit(taken, consumer)
            with cairnkv.connect(url, timeout=PATIENCE) as observer:
                until(lambda: bool(observer.info()["waiting_takes"] == 1))
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE)
            waits(second, 1)
            producer.queue("q").put("work")
            assert job.result(PATIENCE).body == "work"


def test_wait_goes_on_through_an_election(
    two: tuple[RunningServer, RunningServer], nats: Nats, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    one, other = two
    with client(one) as producer, client(other) as consumer:
        job = pool.submit(taken_at_last, consumer)
        waits(other, 1)
        leader = leader_of(one, nats)
        leader.pause()
        try:
            put = pool.submit(put_at_last, producer)
            assert job.result(3 * PATIENCE).body == "work"
            put.result(PATIENCE)
        finally:
            leader.resume()
        until(lambda: bool(told(one)["quorum"]) and bool(told(other)["quorum"]))
        stats = producer.queue("q").stats()
        assert (stats["ready"], stats["leased"]) == (0, 1)


def taken_at_last(kv: "cairnkv.Client[str, str]") -> "cairnkv.Job[Any]":
    """Take the next message, also if an election takes long."""
    end = time.monotonic() + 2 * PATIENCE
    while True:
        try:
            return taken(kv)
        except (cairnkv.OutcomeUnknown, cairnkv.Unavailable, cairnkv.Refused):
            assert time.monotonic() < end
            time.sleep(0.05)


def put_at_last(kv: "cairnkv.Client[str, str]") -> None:
    """Put one message, also while a cluster elects a leader."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            kv.queue("q").put("work", unique="one", unique_for="1h")
            return
        except (cairnkv.OutcomeUnknown, cairnkv.Unavailable, cairnkv.Refused):
            assert time.monotonic() < end
            time.sleep(0.05)


def test_node_that_stops_sends_its_waiting_clients_to_another(
    node: Nodes, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    with node("b") as second, client(second) as producer:
        with node("a") as first:
            addresses = f"{first.url},{second.url.removeprefix('cairn://')}/?order=given"
            consumer = cairnkv.connect(addresses, timeout=PATIENCE)
            job = pool.submit(taken, consumer)
            waits(first, 1)
        with consumer:
            waits(second, 1)
            producer.queue("q").put("work")
            assert job.result(PATIENCE).body == "work"
