"""Programs that tests of brokers start: workers of task frameworks, each in a session of its own.

Tasks report to the queue `seen` of the store, and wait for a message in the queue `go`.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import cairnkv
from tests.support.raw import clean_environment, eventually

Store = cairnkv.KeyValue[Any, Any]

SECONDS = 90.0
"""How long anything may take before a test fails."""

HANGS = '''
import os

import cairnkv


def hang(url):
    """Report this process, and wait for the permission to end."""
    with cairnkv.connect(url) as kv:
        kv.queue("seen").put(os.getpid())
        with kv.queue("go").take(wait=SECONDS):
            pass
    return os.getpid()
'''.replace("SECONDS", str(SECONDS))
"""The module `hangs`, with the function that a task calls."""


class Worker:
    """A worker that runs. Use it as a context manager, which kills it with all its processes."""

    def __init__(self, *command: str, directory: Path) -> None:
        """command: the module and its arguments. directory: that of the modules with the tasks."""
        self.log = directory / f"{command[0]}-{len(list(directory.iterdir()))}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=clean_environment() | {"PYTHONUNBUFFERED": "1"},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Kill all its processes at once with SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(SECONDS)

    def terminate(self) -> None:
        """Send SIGTERM to its first process."""
        self._process.terminate()

    def wait(self) -> int:
        """Wait for its end. Returns its exit code."""
        return self._process.wait(SECONDS)

    def stop(self) -> int:
        """Let it end. Returns its exit code."""
        self.terminate()
        return self.wait()


def taken(queue: "cairnkv.Queue[Any]") -> Any:
    """Wait for a message of a queue, delete it and return its body."""
    job = queue.take(wait=SECONDS)
    assert job is not None
    with job:
        return job.body


def kill_in_mid_task(kv: Store, queue: str, start: Callable[[], Worker], send: Callable[[], object]) -> None:
    """Kill a worker that has the only task of a queue, which calls `hang`. Another worker gets the task, once.

    start: starts a worker. send: sends the task.
    """
    tasks, seen = kv.queue(queue), kv.queue("seen")
    with start() as first:
        send()
        killed = taken(seen)
        with start() as second:
            await_extensions(tasks, 2)
            first.kill()
            assert taken(seen) != killed
            kv.queue("go").put("go")
            eventually(lambda: tasks.stats()["acked"] == 1, SECONDS)
            second.stop()
    stats = tasks.stats()
    assert [stats[name] for name in ("ready", "delayed", "leased", "dead")] == [0, 0, 0, 0]
    assert seen.stats()["put"] == 2


def await_extensions(queue: "cairnkv.Queue[Any]", count: int) -> None:
    """Wait until the lease of the only leased message of a queue was extended several times."""
    (message,) = queue.peek("leased")
    ends = {message.due}

    def extended() -> bool:
        (found,) = queue.peek("leased")
        assert (found.id, found.token) == (message.id, message.token)
        ends.add(found.due)
        return len(ends) > count

    eventually(extended, SECONDS)
