"""A broker of dramatiq over the queues of a store, and its result backend.

    dramatiq.set_broker(CairnBroker("cairn://127.0.0.1:6555"))

The queues of dramatiq are queues of the store, with the same names. A delay is a delay of the queue, so there are no
delay queues. Dead letters are dead messages.

Invariants: a message counts against the prefetch of its consumer from TAKE to its ack.

Out of scope: retries and time limits, which are middlewares of dramatiq.
"""

import collections
import logging
import threading
import time
from collections.abc import Iterable
from typing import Any, Final

import dramatiq
from dramatiq.errors import ConnectionClosed, DecodeError, QueueJoinTimeout, QueueNotFound
from dramatiq.results.backend import Missing, ResultBackend

from cairnkv.client.address import Seconds
from cairnkv.client.brokers.keeper import Keeper
from cairnkv.client.entry import connect
from cairnkv.client.queue.jobs import Job
from cairnkv.client.queue.queues import Queue
from cairnkv.errors import BadCommand, CairnError
from cairnkv.limits import PRIORITY_DEFAULT, PRIORITY_MAX, TAKE_MAX

logger: Final = logging.getLogger("cairnkv.brokers")

JOIN_SECONDS: Final = 0.1
"""Seconds between two reads of a queue by `join`."""


class CairnBroker(dramatiq.Broker):
    """Keeps the messages of dramatiq in queues of a store.

    url: the address of the store. lease: the time after which the store delivers the message of a killed worker again;
    default: that of each queue, 60 seconds. middleware: as for all brokers.
    """

    def __init__(
        self, url: str | None = None, *, lease: Seconds | None = None, middleware: list[Any] | None = None
    ) -> None:
        super().__init__(middleware)
        self.kv = connect(url, codec="bytes")
        self.keeper = Keeper(self.kv)
        self.lease = lease

    def close(self) -> None:
        """Close the connection to the store."""
        self.keeper.close()
        self.kv.close()

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue. The first message makes it in the store."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues[queue_name] = self.kv.queue(queue_name, codec="bytes")
            self.emit_after("declare_queue", queue_name)

    def queue(self, queue_name: str) -> Queue[bytes]:
        """Return a declared queue. Raises `QueueNotFound`."""
        try:
            queue: Queue[bytes] = self.queues[queue_name]
        except KeyError:
            raise QueueNotFound(queue_name) from None
        return queue

    def enqueue(self, message: Any, *, delay: int | None = None) -> Any:
        """Put a message. delay: milliseconds until it is ready."""
        queue = self.queue(message.queue_name)
        self.emit_before("enqueue", message, delay)
        actor = self.actors.get(message.actor_name)
        priority = PRIORITY_DEFAULT + (actor.priority if actor else 0)
        try:
            queue.put(
                message.encode(),
                delay=None if delay is None else delay / 1000,
                priority=min(max(priority, 0), PRIORITY_MAX),
            )
        except ConnectionError as error:
            raise ConnectionClosed(error) from error
        self.emit_after("enqueue", message, delay)
        return message

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> "_Consumer":
        """Return an iterator over the messages of a queue. timeout: milliseconds to wait for one."""
        return _Consumer(self, self.queue(queue_name), prefetch, timeout / 1000)

    def flush(self, queue_name: str) -> None:
        """Delete all messages of a queue."""
        queue = self.queue(queue_name)
        if _size(queue):
            queue.purge()

    def flush_all(self) -> None:
        """Delete all messages of all declared queues."""
        for queue_name in self.queues:
            self.flush(queue_name)

    def join(self, queue_name: str, *, timeout: int | None = None) -> None:
        """Wait until a queue has no messages except dead ones. timeout: milliseconds. For tests."""
        queue = self.queue(queue_name)
        until = None if timeout is None else time.monotonic() + timeout / 1000
        while _size(queue):
            if until is not None and time.monotonic() >= until:
                raise QueueJoinTimeout(queue_name)
            time.sleep(JOIN_SECONDS)


class _Consumer(dramatiq.Consumer):
    """Takes the messages of a queue for the threads of a worker."""

    def __init__(self, broker: CairnBroker, queue: Queue[bytes], prefetch: int, timeout: float) -> None:
        self._broker = broker
        self._queue = queue
        self._prefetch = prefetch
        self._timeout = timeout
        self._taken: collections.deque[Job[bytes]] = collections.deque()
        self._acked = threading.Condition()  # guards all below
        self._unacked: set[int] = set()

    def __next__(self) -> "_Message | None":
        if not self._taken:
            self._take()
        while self._taken:
            job = self._taken.popleft()
            try:
                return _Message(job)
            except DecodeError:
                logger.exception("message %d of the queue %r is not from dramatiq; it is dead now", job.id, job.queue)
                self._end(job)
                self._broker.keeper.nack(job, "not a message of dramatiq", dead=True)
        return None

    def _take(self) -> None:
        with self._acked:
            if not self._acked.wait_for(lambda: len(self._unacked) < self._prefetch, self._timeout):
                return
            count = min(self._prefetch - len(self._unacked), TAKE_MAX)
        try:
            jobs = self._queue.take_many(count, lease=self._broker.lease, wait=self._timeout)
        except CairnError as error:
            raise ConnectionClosed(error) from error
        for job in jobs:
            self._broker.keeper.add(job)
        with self._acked:
            self._unacked.update(job.id for job in jobs)
        self._taken.extend(jobs)

    def _end(self, job: Job[bytes]) -> None:
        with self._acked:
            self._unacked.discard(job.id)
            self._acked.notify()

    def ack(self, message: "_Message") -> None:
        """Delete a message."""
        self._broker.keeper.ack(message.job)
        self._end(message.job)

    def nack(self, message: "_Message") -> None:
        """Make a message dead. The last line of its traceback is the reason."""
        lines = str(message.options.get("traceback") or "rejected").strip().splitlines()
        self._broker.keeper.nack(message.job, lines[-1], dead=True)
        self._end(message.job)

    def requeue(self, messages: Iterable["_Message"]) -> None:
        """Return messages that no thread has begun to process. The attempts do not count."""
        for message in messages:
            self._broker.keeper.give_back(message.job)
            self._end(message.job)

    def close(self) -> None:
        """Return the messages that the worker has not received."""
        while self._taken:
            job = self._taken.popleft()
            self._broker.keeper.give_back(job)
            self._end(job)


class _Message(dramatiq.MessageProxy):
    """A message with its job."""

    def __init__(self, job: Job[bytes]) -> None:
        super().__init__(dramatiq.Message.decode(job.data))
        self.job = job


class CairnBackend(ResultBackend):
    """Keeps results as keys of a store, until they expire. url: the address of the store."""

    def __init__(self, url: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.kv = connect(url, codec="bytes")

    def close(self) -> None:
        """Close the connection to the store."""
        self.kv.close()

    def _get(self, message_key: str) -> Any:
        stored = self.kv.get(message_key)
        return Missing if stored is None else self.encoder.decode(stored)

    def _store(self, message_key: str, result: Any, ttl: int) -> None:
        self.kv.set(message_key, self.encoder.encode(result), ttl=ttl / 1000)


def _size(queue: Queue[bytes]) -> int:
    """Return the number of messages of a queue, except dead ones. 0 if it does not exist yet."""
    try:
        stats = queue.stats()
    except BadCommand:
        return 0
    return stats["ready"] + stats["delayed"] + stats["leased"]
