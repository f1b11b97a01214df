"""A broker of taskiq over a queue of a store, and its result backend.

    broker = CairnBroker("cairn://127.0.0.1:6555").with_result_backend(CairnResults("cairn://127.0.0.1:6555"))

Labels of tasks: `delay`, in seconds; `priority`: tasks with a higher number come first; `queue_name`: another queue.

Invariants: a thread extends leases, so they do not end while a coroutine blocks the event loop.

Out of scope: the schedules of taskiq, which need a source of schedules.
"""

import asyncio
import functools
from collections.abc import AsyncGenerator
from typing import Any, Final

from taskiq import AckableMessage, AsyncBroker, AsyncResultBackend, BrokerMessage
from taskiq.depends.progress_tracker import TaskProgress
from taskiq.exceptions import ResultGetError
from taskiq.result import TaskiqResult

from cairnkv.client.address import Seconds, parse
from cairnkv.client.aio.client import Client
from cairnkv.client.brokers.keeper import Keeper
from cairnkv.client.codec import Bytes
from cairnkv.client.entry import connect
from cairnkv.client.queue.jobs import Job
from cairnkv.client.queue.working import Pauses
from cairnkv.errors import CairnError
from cairnkv.limits import PRIORITY_DEFAULT

WAIT_SECONDS: Final = 5.0
"""Seconds that one TAKE waits for a message."""

RESULT_SECONDS: Final = 86_400.0
"""Default for the seconds that a result is kept."""


class CairnBroker(AsyncBroker):
    """Keeps the messages of taskiq in a queue of a store.

    url: the address of the store. queue_name: the queue of its tasks. lease: the time after which the
    store delivers the task of a killed worker again; default: that of the queue, 60 seconds.
    """

    def __init__(self, url: str | None = None, queue_name: str = "taskiq", *, lease: Seconds | None = None) -> None:
        super().__init__()
        self._url = url
        self._name = queue_name
        self._lease = lease
        self._kv = _client(url)
        self._jobs: set[Job[bytes]] = set()

    async def startup(self) -> None:
        """Begin to extend leases, in a worker."""
        await super().startup()
        if self.is_worker_process:
            self._sync = connect(self._url, codec="bytes")
            self._keeper = Keeper(self._sync)

    async def shutdown(self) -> None:
        """Return the messages that were not processed, and close the connections."""
        await super().shutdown()
        if self.is_worker_process:
            await asyncio.to_thread(self._end)
        await self._kv.close()

    def _end(self) -> None:
        for job in list(self._jobs):
            self._keeper.give_back(job)
        self._keeper.close()
        self._sync.close()

    async def kick(self, message: BrokerMessage) -> None:
        """Put a message."""
        labels = message.labels
        delay, priority = labels.get("delay"), labels.get("priority")
        await self._kv.queue(labels.get("queue_name") or self._name, codec="bytes").put(
            message.message,
            delay=None if delay is None else float(delay),
            priority=None if priority is None else max(PRIORITY_DEFAULT - int(priority), 0),
        )

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        """Yield the messages of the queue."""
        queue = self._kv.queue(self._name, codec="bytes")
        of_keeper = self._sync.queue(self._name, codec="bytes")
        pauses = Pauses()
        while True:
            try:
                taken = await queue.take(lease=self._lease, wait=WAIT_SECONDS)
            except CairnError as error:
                await asyncio.sleep(pauses.after(error))
                continue
            pauses.reset()
            if taken is not None:
                job = Job(self._sync, of_keeper._calls, taken._taken, taken._sent)
                self._jobs.add(job)
                self._keeper.add(job)
                yield AckableMessage(data=job.data, ack=functools.partial(self._ack, job))

    async def _ack(self, job: Job[bytes]) -> None:
        self._jobs.discard(job)
        await asyncio.to_thread(self._keeper.ack, job)


class CairnResults(AsyncResultBackend):
    """Keeps results and progress as keys of a store, until they expire.

    url: the address of the store. keep: the time for which a result is kept. prefix: that of the keys.
    """

    def __init__(self, url: str | None = None, *, keep: Seconds = RESULT_SECONDS, prefix: str = "taskiq:") -> None:
        self._kv = _client(url)
        self._keep = keep
        self._prefix = prefix

    async def shutdown(self) -> None:
        """Close the connection."""
        await self._kv.close()

    async def set_result(self, task_id: str, result: Any) -> None:
        """Store a result."""
        await self._kv.set(self._prefix + task_id, result.model_dump_json().encode(), ttl=self._keep)

    async def is_result_ready(self, task_id: str) -> bool:
        """Return whether there is a result."""
        return await self._kv.exists(self._prefix + task_id)

    async def get_result(self, task_id: str, with_logs: bool = False) -> Any:
        """Return a result. Raises `ResultGetError` if there is none."""
        stored = await self._kv.get(self._prefix + task_id)
        if stored is None:
            raise ResultGetError
        return TaskiqResult.model_validate_json(stored)

    async def set_progress(self, task_id: str, progress: Any) -> None:
        """Store the progress of a task."""
        await self._kv.set(f"{self._prefix}{task_id}:progress", progress.model_dump_json().encode(), ttl=self._keep)

    async def get_progress(self, task_id: str) -> Any:
        """Return the progress of a task, or None."""
        stored = await self._kv.get(f"{self._prefix}{task_id}:progress")
        return None if stored is None else TaskProgress.model_validate_json(stored)


def _client(url: str | None) -> Client[bytes, bytes]:
    return Client(parse(url), Bytes(), Bytes())
