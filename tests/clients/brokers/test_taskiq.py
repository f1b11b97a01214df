"""taskiq with tasks and results in a store: real workers, one of which is killed."""

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import cairnkv
from tests.clients.brokers.programs import HANGS, SECONDS, Worker, kill_in_mid_task

taskiq = pytest.importorskip("taskiq")

PICTURES = """
import hangs
from taskiq import SmartRetryMiddleware

from cairnkv.client.brokers.taskiq import CairnBroker, CairnResults

broker = (
    CairnBroker("{url}", lease=6)
    .with_result_backend(CairnResults("{url}", keep=1_000))
    .with_middlewares(SmartRetryMiddleware(default_delay=0.01, use_jitter=False))
)


@broker.task
async def add(a: int, b: int) -> int:
    return a + b


@broker.task(retry_on_error=True, max_retries=2)
async def fail() -> None:
    raise ValueError("no such picture")


@broker.task
async def hang() -> int:
    return hangs.hang("{url}")  # keeps the event loop
"""


@pytest.fixture
async def pictures(
    url: str, kv: cairnkv.Client[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Any]:
    (tmp_path / "pictures.py").write_text(PICTURES.format(url=url))
    (tmp_path / "hangs.py").write_text(HANGS)
    monkeypatch.syspath_prepend(tmp_path)
    pictures = importlib.import_module("pictures")
    await pictures.broker.startup()
    yield pictures
    await pictures.broker.shutdown()
    del sys.modules["pictures"], sys.modules["hangs"]


def worker(directory: Path) -> Worker:
    return Worker("taskiq", "worker", "pictures:broker", "--workers", "1", directory=directory)


async def test_tasks_run_and_have_results(pictures: Any, kv: cairnkv.Client[str, str], tmp_path: Path) -> None:
    queue = kv.queue("taskiq")
    with worker(tmp_path) as running:
        task = await pictures.add.kiq(1, 2)
        assert (await task.wait_result(timeout=SECONDS)).return_value == 3
        assert 0 < (kv.ttl(f"taskiq:{task.task_id}") or 0) <= 1_000
        task = await pictures.add.kicker().with_labels(delay=1).kiq(3, 4)
        assert (await task.wait_result(timeout=SECONDS)).return_value == 7
        task = await pictures.fail.kiq()
        result = await task.wait_result(timeout=SECONDS)
        assert result.is_err
        assert str(result.error) == "no such picture"
        await pictures.add.kicker().with_labels(delay=3_600).kiq(5, 6)
        assert await asyncio.to_thread(running.stop) == 0
    stats = queue.stats()
    assert (stats["ready"], stats["leased"], stats["delayed"]) == (0, 0, 1)


async def test_task_of_a_killed_worker_runs_on_another_one(
    pictures: Any, kv: cairnkv.Client[str, str], tmp_path: Path
) -> None:
    loop = asyncio.get_running_loop()

    def send() -> None:
        asyncio.run_coroutine_threadsafe(pictures.hang.kiq(), loop).result(SECONDS)

    await asyncio.to_thread(kill_in_mid_task, kv, "taskiq", lambda: worker(tmp_path), send)


async def test_labels_are_priority_and_queue(pictures: Any, kv: cairnkv.Client[str, str]) -> None:
    await pictures.add.kiq(1, 1)
    await pictures.add.kicker().with_labels(priority=9).kiq(2, 2)
    await pictures.add.kicker().with_labels(queue_name="other").kiq(3, 3)
    assert [message.priority for message in kv.queue("taskiq").peek()] == [1_000, 991]
    assert kv.queue("other").stats()["ready"] == 1


async def test_result_that_does_not_exist_raises(pictures: Any) -> None:
    backend = pictures.broker.result_backend
    assert not await backend.is_result_ready("no such task")
    with pytest.raises(taskiq.exceptions.ResultGetError):
        await backend.get_result("no such task")


async def test_progress_is_kept(pictures: Any) -> None:
    from taskiq.depends.progress_tracker import TaskProgress

    backend = pictures.broker.result_backend
    assert await backend.get_progress("task") is None
    await backend.set_progress("task", TaskProgress(state="half", meta={"done": 50}))
    assert await backend.get_progress("task") == TaskProgress(state="half", meta={"done": 50})


async def test_stopped_broker_returns_unacked_messages_uncounted(
    url: str, pictures: Any, kv: cairnkv.Client[str, str]
) -> None:
    from cairnkv.client.brokers.taskiq import CairnBroker

    broker = CairnBroker(url)
    broker.is_worker_process = True
    await broker.startup()
    await pictures.add.kiq(1, 2)
    await pictures.add.kiq(3, 4)
    messages = broker.listen()
    await (await anext(messages)).ack()
    await anext(messages)
    await messages.aclose()
    await broker.shutdown()
    (message,) = kv.queue("taskiq").peek()
    assert message.attempts == 0
