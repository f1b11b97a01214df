"""dramatiq with messages and results in a store: real workers, one of which is killed."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cairnkv
from tests.clients.brokers.programs import HANGS, SECONDS, Worker, kill_in_mid_task

dramatiq = pytest.importorskip("dramatiq")

LETTERS = """
import dramatiq
import hangs
from dramatiq.results import Results

from cairnkv.client.brokers.dramatiq import CairnBackend, CairnBroker

broker = CairnBroker("{url}", lease=6)
broker.add_middleware(Results(backend=CairnBackend("{url}")))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def add(a, b):
    return a + b


@dramatiq.actor(max_retries=2, min_backoff=1, max_backoff=1)
def fail():
    raise ValueError("no such letter")


@dramatiq.actor(time_limit=100, max_retries=0)
def slow():
    while True:
        pass


@dramatiq.actor(max_age=1)
def old():
    pass


@dramatiq.actor(priority=5)
def later():
    pass


@dramatiq.actor
def hang():
    hangs.hang("{url}")
"""


@pytest.fixture
def letters(url: str, kv: cairnkv.Client[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "letters.py").write_text(LETTERS.format(url=url))
    (tmp_path / "hangs.py").write_text(HANGS)
    monkeypatch.syspath_prepend(tmp_path)
    letters = importlib.import_module("letters")
    yield letters
    letters.broker.get_results_backend().close()
    letters.broker.close()
    del sys.modules["letters"], sys.modules["hangs"]


def worker(directory: Path) -> Worker:
    return Worker("dramatiq", "letters", "--processes", "1", "--threads", "2", directory=directory)


def test_messages_run_and_have_results(letters: Any, kv: cairnkv.Client[str, str], tmp_path: Path) -> None:
    queue = kv.queue("default")
    with worker(tmp_path) as running:
        milliseconds = round(SECONDS * 1000)
        assert letters.add.send(1, 2).get_result(block=True, timeout=milliseconds) == 3
        delayed = letters.add.send_with_options(args=(3, 4), delay=1_000)
        assert delayed.get_result(block=True, timeout=milliseconds) == 7
        letters.fail.send()
        letters.slow.send()
        letters.old.send_with_options(delay=10)
        letters.broker.join("default", timeout=milliseconds)
        assert sorted(message.reason for message in queue.peek("dead")) == [
            "ValueError: no such letter",
            "dramatiq.middleware.time_limit.TimeLimitExceeded",
            "rejected",
        ]
        letters.add.send_with_options(args=(5, 6), delay=3_600_000)
        assert running.stop() == 0
    stats = queue.stats()
    assert (stats["ready"], stats["leased"], stats["delayed"]) == (0, 0, 1)


def test_message_of_a_killed_worker_runs_on_another_one(
    letters: Any, kv: cairnkv.Client[str, str], tmp_path: Path
) -> None:
    kill_in_mid_task(kv, "default", lambda: worker(tmp_path), letters.hang.send)


def test_lower_priority_number_of_an_actor_is_first(letters: Any) -> None:
    letters.later.send()
    letters.add.send(1, 2)
    consumer = letters.broker.consume("default", timeout=1_000)
    message = next(consumer)
    assert message.actor_name == "add"
    consumer.ack(message)
    assert next(consumer).actor_name == "later"


def test_prefetch_limits_the_unacked_messages(letters: Any, kv: cairnkv.Client[str, str]) -> None:
    for number in range(3):
        letters.add.send(number, 0)
    consumer = letters.broker.consume("default", prefetch=2, timeout=100)
    first, second = next(consumer), next(consumer)
    assert next(consumer) is None
    consumer.ack(first)
    third = next(consumer)
    assert third.args == (2, 0)
    consumer.requeue([second, third])
    consumer.close()
    assert [message.attempts for message in kv.queue("default").peek()] == [0, 0]


def test_message_of_another_program_becomes_dead(letters: Any, kv: cairnkv.Client[str, str]) -> None:
    kv.queue("default", codec="bytes").put(b"not of dramatiq")
    letters.add.send(1, 2)
    consumer = letters.broker.consume("default", prefetch=2, timeout=1_000)
    consumer.ack(next(consumer))
    assert kv.queue("default").peek("dead")[0].reason == "not a message of dramatiq"


def test_flushed_queue_is_empty(letters: Any, kv: cairnkv.Client[str, str]) -> None:
    letters.broker.flush_all()
    letters.add.send_with_options(args=(1, 2), delay=60_000)
    letters.broker.flush_all()
    assert kv.queue("default").stats()["delayed"] == 0


def test_undeclared_queue_is_refused(letters: Any) -> None:
    with pytest.raises(dramatiq.QueueNotFound):
        letters.broker.consume("other")


def test_broker_without_a_server_raises_a_connection_error(letters: Any) -> None:
    from cairnkv.client.brokers.dramatiq import CairnBroker

    broker = CairnBroker("cairn+unix:///nowhere/socket?attempts=1")
    broker.declare_queue("default")
    with pytest.raises(dramatiq.ConnectionClosed):
        broker.enqueue(letters.add.message(1, 2))
    with pytest.raises(dramatiq.ConnectionClosed):
        next(broker.consume("default", timeout=1_000))
    broker.close()
