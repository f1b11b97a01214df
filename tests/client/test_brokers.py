"""The part of brokers that keeps leases. `tests/clients/brokers` tests the brokers, with their frameworks."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import cairnkv
from cairnkv.client.brokers.keeper import Keeper
from cairnkv.store import wall_clock
from cairnkv.testing import running_server
from tests.support.raw import eventually
from tests.support.serving import Served

SECONDS = 60.0


@pytest.fixture
def kv() -> Iterator[cairnkv.Client[str, str]]:
    with running_server(clock=wall_clock) as server, cairnkv.connect(server.url) as kv:
        yield kv


@pytest.fixture
def keeper(kv: cairnkv.Client[str, str]) -> Iterator[Keeper]:
    keeper = Keeper(kv)
    yield keeper
    keeper.close()


def test_lease_is_extended_until_the_ack(kv: cairnkv.Client[str, str], keeper: Keeper) -> None:
    queue = kv.queue("work")
    queue.put("body")
    job = queue.take(lease=6)
    assert job is not None
    (before,) = queue.peek("leased")
    keeper.add(job)
    eventually(lambda: queue.peek("leased")[0].due > before.due, SECONDS)
    keeper.ack(job)
    assert queue.stats()["acked"] == 1


def test_ack_without_an_answer_is_sent_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Served(tmp_path / "data") as server:
        host, port = server.address
        kv = cairnkv.connect(f"cairn://{host}:{port}/?timeout=500ms")
        queue = kv.queue("work")
        queue.put("body")
        job = queue.take(lease=60)
        assert job is not None
        keeper = Keeper(kv)
        keeper.add(job)
    keeper.ack(job)
    assert f"job {job.id} of the queue 'work'" in caplog.text
    assert not job.settled
    with Served(tmp_path / "data", "--port", str(port)), kv:
        eventually(lambda: job.settled, SECONDS)
        assert queue.stats()["acked"] == 1
        keeper.close()


def test_ack_of_a_lost_lease_is_logged(
    kv: cairnkv.Client[str, str], keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    queue = kv.queue("work")
    queue.put("body")
    job = queue.take()
    assert job is not None
    keeper.add(job)
    queue.remove(job.id)
    with caplog.at_level(logging.WARNING, "cairnkv.brokers"):
        keeper.ack(job)
    assert "has lost its lease" in caplog.text
    assert not job.settled


def test_job_that_is_given_back_does_not_count(kv: cairnkv.Client[str, str], keeper: Keeper) -> None:
    queue = kv.queue("work")
    queue.put("body")
    job = queue.take()
    assert job is not None
    keeper.add(job)
    keeper.give_back(job)
    (message,) = queue.peek()
    assert message.attempts == 0
