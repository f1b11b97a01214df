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


def test_commands_together_with_an_ack(kv: Any, queue: Any) -> None:
    other, name = f"{queue.name} next", queue.name.encode()
    kv.set(name, b"before")
    queue.put("a")
    with queue.take() as job, job.together() as both:
        before = both.get(name)
        both.set(name, b"done")
        counted = both.incr(name + b" n", 2)
        put = both.queue(other).put({"for": "b"}, delay="1s")
        absent = both.get(name + b" none")
        ids = both.queue(other).put_many(["c", "d"], priority=1)
    assert job.settled
    assert (before.result(), counted.result(), absent.result()) == (b"before", 2, None)
    assert put.result().new
    assert list(ids.result()) == [message.id for message in kv.queue(other).messages()]
    assert kv.get(name) == b"done"
    assert queue.look(job.id) is None
    assert kv.queue(other).look(put.result().id).body == {"for": "b"}


def test_a_lost_lease_refuses_all_commands(kv: Any, queue: Any, clock: ManualClock) -> None:
    name = queue.name.encode()
    queue.put("a")
    first = queue.take(lease="10s")
    clock.advance("10s")
    second = queue.take(lease="10s")
    both = first.together()
    stored, put = both.set(name, b"first"), both.queue(queue.name).put("b")
    with pytest.raises(cairnkv.LeaseLost, match="the queue refused its ack"):
        both.execute()
    assert not first.settled
    for pending in (stored, put):
        with pytest.raises(cairnkv.LeaseLost):
            pending.result()
    assert kv.get(name) is None
    assert queue.stats()["put"] == 1
    with second.together() as both:
        both.set(name, b"second")
    assert kv.get(name) == b"second"


def test_a_refused_command_refuses_all(kv: Any, queue: Any) -> None:
    name = queue.name.encode()
    kv.set(name, b"text")
    queue.put("a")
    job = queue.take()
    both = job.together()
    both.set(name + b" k", b"v")
    both.incr(name)
    with pytest.raises(cairnkv.BadCommand, match="NOTINT command 3, INCR"):
        both.execute()
    assert kv.get(name + b" k") is None
    assert queue.stats()["leased"] == 1
    several = kv.together()
    several.queue(queue.name).put("b")
    several.incr(name)
    with pytest.raises(cairnkv.BadCommand, match="NOTINT command 2, INCR"):
        several.execute()
    assert queue.stats()["put"] == 1
    job.ack()


def test_commands_together_without_a_job(kv: Any, queue: Any) -> None:
    name = queue.name.encode()
    with kv.together() as several:
        stored = several.set(name, b"order", if_absent=True)
        put = several.queue(queue.name).put("mail", unique="mail")
    assert stored.result()
    assert queue.take().id == put.result().id
    with kv.together() as several:
        again = several.set(name, b"other", if_absent=True)
        same = several.queue(queue.name).put("mail", unique="mail")
    assert not again.result()  # a condition that does not hold is no error
    assert same.result() == (put.result().id, False)


def test_take_waits_no_longer_than_its_time(queue: Any) -> None:
    assert queue.take(wait="50ms") is None
    queue.put("a")
    assert queue.take(wait="1h").body == "a"
