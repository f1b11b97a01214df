"""Celery with tasks and results in a store: real workers, one of which is killed."""

import contextlib
import datetime
import importlib
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cairnkv
from tests.clients.brokers.programs import HANGS, SECONDS, Worker, kill_in_mid_task, taken
from tests.support.raw import eventually
from tests.support.serving import Served

celery = pytest.importorskip("celery")

SHOP = """
import socket

import celery
import hangs

from cairnkv.client.brokers.celery import configure

app = celery.Celery("shop")
configure(app, "{url}", lease=6)
app.conf.result_expires = 1_000


@app.task
def add(a, b):
    return a + b


@app.task
def total(numbers):
    return sum(numbers)


@app.task
def fail():
    raise ValueError("no such picture")


@app.task(bind=True, max_retries=2)
def flaky(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task
def reject():
    raise celery.exceptions.Reject("bad", requeue=False)


@app.task(ignore_result=True)
def call(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.recv(1)


@app.task
def hang():
    return hangs.hang("{url}")
"""


@contextlib.contextmanager
def shop_at(url: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield the module with the tasks, which are at a server."""
    (directory / "shop.py").write_text(SHOP.format(url=url))
    (directory / "hangs.py").write_text(HANGS)
    monkeypatch.syspath_prepend(directory)
    shop = importlib.import_module("shop")
    yield shop
    shop.app.close()
    del sys.modules["shop"], sys.modules["hangs"]


@pytest.fixture
def shop(url: str, kv: cairnkv.Client[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with shop_at(url, tmp_path, monkeypatch) as shop:
        yield shop


def worker(directory: Path, name: str, *options: str) -> Worker:
    return Worker("celery", "-A", "shop", "worker", "-n", f"{name}@here", *options, directory=directory)


def test_tasks_run_and_have_results(shop: Any, kv: cairnkv.Client[str, str], tmp_path: Path) -> None:
    queue = kv.queue("celery")
    with worker(tmp_path, "one", "-c", "2", "-l", "INFO") as running:
        assert shop.add.delay(1, 2).get(timeout=SECONDS, interval=0.05) == 3
        assert shop.flaky.delay().get(timeout=SECONDS, interval=0.05) == 2
        parts = celery.group(shop.add.s(n, n) for n in range(3))
        assert celery.chord(parts)(shop.total.s()).get(timeout=SECONDS, interval=0.05) == 6
        failed = shop.fail.delay()
        with pytest.raises(ValueError, match="no such picture"):
            failed.get(timeout=SECONDS, interval=0.05)
        assert 0 < (kv.ttl(f"celery-task-meta-{failed.id}") or 0) <= 1_000

        (answer,) = shop.app.control.ping(timeout=SECONDS, limit=1)
        assert answer == {"one@here": {"ok": "pong"}}

        beats: list[Any] = []
        with shop.app.connection() as connection:
            receiver = shop.app.events.Receiver(connection, handlers={"worker-heartbeat": beats.append})
            receiver.capture(limit=1, timeout=SECONDS)
        assert beats[0]["hostname"] == "one@here"

        shop.reject.delay()
        eventually(lambda: queue.stats()["dead"] == 1, SECONDS)
        assert queue.peek("dead")[0].reason == "rejected by its consumer"

        later = shop.add.apply_async((3, 4), eta=datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1))
        soon = shop.add.apply_async((5, 6), countdown=1)
        assert soon.get(timeout=SECONDS, interval=0.05) == 11
        (delayed,) = queue.peek("delayed")
        assert delayed.attempts == 0
        assert later.state == "PENDING"

        last = shop.hang.delay()
        taken(kv.queue("seen"))
        running.terminate()
        kv.queue("go").put("go")  # the worker waits for the end of its task
        assert running.wait() == 0
        assert last.successful()
        log = running.log.read_text()
    assert "one@here ready" in log
    assert re.findall(r".*(?:WARNING|ERROR|CRITICAL)/MainProcess.*", log) == []
    assert queue.stats()["leased"] == 0


@pytest.mark.parametrize("moment", [1, 2], ids=["before the first read", "between read and write"])
def test_state_of_an_earlier_attempt_does_not_replace_a_success(
    shop: Any, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """The attempt that succeeds stores its result while an earlier one stores RETRY."""
    backend = shop.app.backend
    get, reads = backend.get, []

    def read(key: bytes) -> bytes | None:
        value: bytes | None = get(key)
        reads.append(key)
        if len(reads) == moment:
            backend.set(key, backend.encode({"status": "SUCCESS", "result": 42, "task_id": "task"}))
        return value

    monkeypatch.setattr(backend, "get", read)
    backend.store_result("task", ValueError("again"), "RETRY")
    monkeypatch.undo()
    assert shop.app.AsyncResult("task").get(timeout=SECONDS) == 42


def test_task_of_a_killed_worker_runs_on_another_one(shop: Any, kv: cairnkv.Client[str, str], tmp_path: Path) -> None:
    names = iter(("one", "two"))
    kill_in_mid_task(kv, "celery", lambda: worker(tmp_path, next(names), "-c", "1"), shop.hang.delay)


def test_task_that_ends_while_there_is_no_server_is_acked_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)
        with Served(tmp_path / "data") as server, shop_at(server.url, tmp_path, monkeypatch) as shop:
            port = str(server.address[1])
            with worker(tmp_path, "one", "-c", "1"):
                shop.call.delay(listener.getsockname()[1])
                task, _ = listener.accept()
                server.kill()
                task.close()  # the task ends
                with Served(tmp_path / "data", "--port", port), cairnkv.connect(server.url) as kv:
                    eventually(lambda: kv.queue("celery").stats()["acked"] == 1, SECONDS)
                    assert shop.add.delay(1, 2).get(timeout=SECONDS, interval=0.05) == 3
                    assert kv.queue("celery").stats()["taken"] == 2


def test_task_of_a_killed_pool_process_runs_again(shop: Any, kv: cairnkv.Client[str, str], tmp_path: Path) -> None:
    with worker(tmp_path, "one", "-c", "1"):
        result = shop.hang.delay()
        killed = taken(kv.queue("seen"))
        os.kill(killed, signal.SIGKILL)
        again = taken(kv.queue("seen"))
        assert again != killed
        kv.queue("go").put("go")
        assert result.get(timeout=SECONDS, interval=0.05) == again
    assert kv.queue("celery").stats()["put"] == 1
