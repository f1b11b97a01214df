"""The contract of queues: each command behaves equally in every mode and over the native protocol."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

import cairnkv
from cairnkv.testing import ManualClock
from tests.conformance.drivers import DRIVERS

WITHOUT_QUEUES = ("redis", "async")
"""Parts of the names of drivers that have no queues here: `tests/client/test_queues.py` tests the asyncio client."""

WITH_QUEUES = {name: driver for name, driver in DRIVERS.items() if not any(part in name for part in WITHOUT_QUEUES)}

NAMES = (f"queue {number}" for number in itertools.count())


@pytest.fixture(scope="module", params=WITH_QUEUES.values(), ids=[*WITH_QUEUES])
def opened(request: pytest.FixtureRequest, path_in_use: str) -> Iterator[tuple[Any, ManualClock]]:
    """Yield a store that is opened once for all tests of its driver, and its clock."""
    clock = ManualClock()
    with request.param(clock) as store:
        yield store, clock


@pytest.fixture
def kv(opened: tuple[Any, ManualClock]) -> Any:
    return opened[0]


@pytest.fixture
def clock(opened: tuple[Any, ManualClock]) -> ManualClock:
    return opened[1]


@pytest.fixture
def queue(kv: Any) -> Any:
    """A queue that no other test uses."""
    return kv.queue(next(NAMES))


def test_acked_message_is_deleted(queue: Any) -> None:
    first, second = queue.put("a").id, queue.put("b").id
    assert first < second
    jobs = queue.take_many(5)
    assert [(job.id, job.body, job.attempt) for job in jobs] == [(first, "a", 1), (second, "b", 1)]
    assert jobs[0].token < jobs[1].token
    assert queue.take() is None
    for job in jobs:
        job.ack()
    assert queue.look(first) is None
    assert (queue.stats()["acked"], queue.stats()["leased"]) == (2, 0)


def test_ended_lease_delivers_again_and_refuses_the_old_token(queue: Any, clock: ManualClock) -> None:
    queue.put("a")
    first = queue.take(lease="10s")
    clock.advance("9s")
    assert queue.take() is None
    clock.advance("1s")
    second = queue.take(lease="10s")
    assert (second.id, second.attempt) == (first.id, 2)
    assert second.token > first.token
    with pytest.raises(cairnkv.LeaseLost):
        first.ack()
    clock.advance("6s")
    second.extend()
    clock.advance("6s")
    assert queue.take() is None
    second.ack()


def test_delay_and_backoff(queue: Any, clock: ManualClock) -> None:
    queue.set(backoff="4s", attempts=2)
    queue.put("a", delay="5s")
    assert queue.take() is None
    clock.advance("5s")
    queue.take().nack("why")
    assert queue.stats()["delayed"] == 1
    clock.advance("4s")
    job = queue.take()
    assert job.attempt == 2
    job.nack("again")
    (dead,) = queue.peek("dead")
    assert (dead.body, dead.attempts, dead.reason) == ("a", 2, "again")
    assert queue.requeue() == 1
    assert queue.take().attempt == 1


def test_order_of_priorities_and_groups(queue: Any) -> None:
    for body in ("a1", "a2", "a3", "b1"):
        queue.put(body, group=body[0])
    queue.put_many(["urgent", "too"], priority=1)
    assert [job.body for job in queue.take_many(9)] == ["urgent", "too", "a1", "b1", "a2", "a3"]


def test_group_with_one_lease_keeps_its_order(queue: Any, clock: ManualClock) -> None:
    queue.set(per_group=1)
    for body in ("a1", "a2", "b1"):
        queue.put(body, group=body[0])
    first, second = queue.take_many(9)
    assert [first.body, second.body] == ["a1", "b1"]
    first.nack("later", delay="5s")
    assert queue.take() is None
    clock.advance("5s")
    with queue.take() as job:
        assert job.body == "a1"
    assert queue.take().body == "a2"


def test_unique_name_is_free_after_ack_and_window(queue: Any, clock: ManualClock) -> None:
    first = queue.put("a", unique="n", unique_for="1m")
    again = queue.put("b", unique="n")
    assert (again.id, again.new) == (first.id, False)
    queue.take().ack()
    assert not queue.put("c", unique="n").new
    clock.advance("1m")
    assert queue.put("d", unique="n").new


def test_message_expires(queue: Any, clock: ManualClock) -> None:
    queue.put("a", expires="1s")
    clock.advance("1s")
    assert queue.take() is None
    assert queue.stats()["expired"] == 1


def test_full_queue_refuses_or_drops(queue: Any) -> None:
    queue.set(max_messages=1)
    queue.put("a")
    with pytest.raises(cairnkv.Refused, match="QUEUEFULL"):
        queue.put("b")
    queue.set(when_full="drop")
    queue.put("b")
    assert [message.body for message in queue.peek()] == ["b"]


def test_maintenance(kv: Any, queue: Any) -> None:
    queue.put_many(range(5))
    queue.put("late", delay="1h")
    assert queue.name in list(kv.queues())
    assert [message.body for message in queue.peek(count=3)] == [0, 1, 2]
    assert queue.remove(queue.peek()[0].id) == 1
    with pytest.raises(cairnkv.Refused, match="QUEUEBUSY"):
        queue.drop()
    assert queue.purge("delayed") == 1
    assert queue.purge() == 4
    queue.drop()
    assert queue.name not in list(kv.queues())
    with pytest.raises(cairnkv.BadCommand, match="NOQUEUE"):
        queue.stats()


def test_queues_are_no_keys(kv: Any, queue: Any) -> None:
    queue.put("a")
    kv.clear_all()
    assert kv.count() == 0
    assert queue.take().body == "a"


def test_long_bodies_end_a_reply_early(queue: Any) -> None:
    bodies = [letter * 700_000 for letter in "abc"]
    for body in bodies:
        queue.put(body)
    assert [job.body for job in queue.take_many(3)] == bodies[:1]
    assert [job.body for job in queue.take_many(2)] == bodies[1:2]
