# Source of client/queue/queues.py: run tools/generate_clients.py after a change.
"""Queues: put messages, take them, and look at them.

Out of scope: jobs (`jobs`), workers (`worker`), and the commands (`calls`).
"""

import asyncio
import datetime
import math
import os
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final, Literal

from cairnkv.client.address import Seconds
from cairnkv.client.aio.methods import AsyncMethods
from cairnkv.client.aio.queue.jobs import AsyncJob, repeated
from cairnkv.client.aio.queue.worker import AsyncWorkerMethods
from cairnkv.client.calls import Key, NotCopied
from cairnkv.client.codec import Codec
from cairnkv.client.queue.calls import (
    B,
    Message,
    PutResult,
    QueueCalls,
    State,
    name_shown,
    remove,
    requeue_ids,
    wait_seconds,
)
from cairnkv.client.retry import pause_before
from cairnkv.errors import OutcomeUnknown
from cairnkv.limits import TAKE_MAX, WAIT_MAX

REPEATABLE_SECONDS: Final = 300
"""Seconds for which the unique name of a repeatable PUT stays taken: longer than any late reply."""

REPLY_SECONDS: Final = 1.0
"""Seconds that the reply to a TAKE takes at most, after the end of its wait, as far as jobs estimate their leases."""


class AsyncQueue(AsyncWorkerMethods[B], NotCopied):
    """A queue of a store, with bodies of type B.

    A message is delivered at least once: a job that is neither acked nor nacked returns to the queue when its lease
    ends. The first `put` or `set` makes the queue.
    """

    def __init__(self, kv: AsyncMethods[Any, Any], name: Key, codec: Codec[B], *, value_max: int | None = None) -> None:
        self._kv = kv
        self._calls = QueueCalls(name, codec, value_max=value_max)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} of {self._kv!r}>"

    @property
    def name(self) -> str:
        """The name of the queue."""
        return name_shown(self._calls.name)

    # -- messages -------------------------------------------------------------------------------------------

    async def put(
        self,
        body: B,
        *,
        delay: Seconds | None = None,
        at: datetime.datetime | float | None = None,
        priority: int | None = None,
        group: Key | None = None,
        unique: Key | None = None,
        unique_for: Seconds | None = None,
        until_taken: bool = False,
        expires: Seconds | None = None,
        lease: Seconds | None = None,
        repeatable: bool = False,
    ) -> PutResult:
        """Put a message into the queue. Returns its `id`, and whether it is `new`.

        delay: the time until it is ready. at: the same as a datetime, or in seconds since 1970.
        priority: messages with a lower number are taken first; default: 1000.
        group: groups take turns, and the setting `per_group` limits the leases of each.
        unique: a name that only one message of the queue can have. If a message has it, no message is put, and the
        result is that message's. It has the name until it is deleted or dead; unique_for: at least for this time;
        until_taken: only until its first delivery.
        expires: the time after which the message is deleted, unless it is delayed, leased or dead. lease: the time of
        its leases, unless `take` has one.
        repeatable: if the outcome is unknown, put again, with the same unique name, so that there is one message. The
        name is `unique` or a random one, for five minutes unless `unique_for` is given.
        """
        if repeatable:
            unique = os.urandom(16).hex() if unique is None else unique
            unique_for = REPEATABLE_SECONDS if unique_for is None else unique_for
        call = self._calls.put(
            body,
            delay=delay,
            at=at,
            priority=priority,
            group=group,
            unique=unique,
            unique_for=unique_for,
            until_taken=until_taken,
            expires=expires,
            lease=lease,
        )
        if not repeatable:
            return await self._kv._do(call)
        result, _ = await repeated(self._kv, call)
        return result

    async def put_many(
        self, bodies: Iterable[B], *, delay: Seconds | None = None, priority: int | None = None
    ) -> list[int]:
        """Put a message for each body. Returns their ids. Atomic for each thousand bodies."""
        ids: list[int] = []
        for call in self._calls.put_slices(bodies, delay=delay, priority=priority):
            ids += await self._kv._do(call)
        return ids

    async def take(self, *, lease: Seconds | None = None, wait: Seconds | None = 0) -> AsyncJob[B] | None:
        """Lease the next message, and return it as a job. Returns None if no message is ready.

        lease: the time after which the message is ready again; default: that of the message or the queue.
        wait: maximum time to wait for a message; None: without end.
        If the outcome is unknown, the client takes again, so a message may stay leased until its lease ends.
        """
        jobs = await self.take_many(1, lease=lease, wait=wait)
        return jobs[0] if jobs else None

    async def take_many(
        self, count: int, *, lease: Seconds | None = None, wait: Seconds | None = 0
    ) -> list[AsyncJob[B]]:
        """Lease up to `count` messages. Returns as soon as there is one. See `take`."""
        until = time.monotonic() + wait_seconds(wait)
        unknown = False
        while True:
            left = max(0.0, until - time.monotonic())
            try:
                jobs = await self._take(count, lease, min(left, WAIT_MAX / 1000))
            except OutcomeUnknown:
                if unknown:
                    raise
                unknown = True
                await asyncio.sleep(pause_before(1))
                continue
            if jobs or time.monotonic() >= until:
                return jobs
            unknown = False

    async def _take(self, count: int, lease: Seconds | None, wait: float) -> list[AsyncJob[B]]:
        """Take once. wait: seconds, up to the maximum of one TAKE."""
        sent = time.monotonic()
        taken = await self._kv._do(self._calls.take(count, lease, math.ceil(wait * 1000)))
        if wait:
            sent = max(sent, time.monotonic() - REPLY_SECONDS)
        return [AsyncJob(self._kv, self._calls, one, sent) for one in taken]

    async def jobs(self, *, lease: Seconds | None = None, wait: Seconds | None = None) -> AsyncIterator[AsyncJob[B]]:
        """Yield jobs. Ends when no message is ready for the time `wait`; None: never.

        The iteration acks no job: use each in an `async with` statement.
        """
        while (job := await self.take(lease=lease, wait=wait)) is not None:
            yield job

    def __aiter__(self) -> AsyncIterator[AsyncJob[B]]:
        return self.jobs()

    # -- looking --------------------------------------------------------------------------------------------

    async def look(self, message: int) -> Message[B] | None:
        """Return the message with an id, or None if it does not exist."""
        return await self._kv._do(self._calls.look(message))

    async def peek(self, state: State = "ready", *, count: int = 10) -> list[Message[B]]:
        """Return up to `count` messages in a state, in the order of their ids, without taking them."""
        found: list[Message[B]] = []
        async for message in self.messages(state):
            found.append(message)
            if len(found) >= count:
                break
        return found

    async def messages(self, state: State = "ready") -> AsyncIterator[Message[B]]:
        """Iterate over the messages in a state, slice by slice, in the order of their ids."""
        cursor = 0
        while True:
            cursor, messages = await self._kv._do(self._calls.peek_slice(state, cursor, TAKE_MAX))
            for message in messages:
                yield message
            if cursor == 0:
                return

    async def stats(self) -> dict[str, int]:
        """Return the numbers of messages in each state, their bytes, and totals since the queue was made. All exact.

        oldest_ready_ms: the milliseconds for which `take` could already have returned a message.
        """
        return await self._kv._do(self._calls.stats())

    # -- maintenance ----------------------------------------------------------------------------------------

    async def requeue(self, *messages: int, state: Literal["dead", "delayed"] = "dead") -> int:
        """Make dead messages ready, with all their attempts. Returns their number.

        messages: the ids of dead or delayed messages; without ids, all messages in the state.
        """
        total = 0
        if messages:
            for begin in range(0, len(messages), TAKE_MAX):
                total += await self._kv._do(requeue_ids(messages[begin : begin + TAKE_MAX]))
            return total
        while True:
            count = await self._kv._do(self._calls.requeue(state))
            total += count
            if count < TAKE_MAX:
                return total

    async def remove(self, *messages: int) -> int:
        """Delete messages by their ids, in any state. Returns the number of messages that existed.

        A job of a deleted message raises `LeaseLost`.
        """
        total = 0
        for begin in range(0, len(messages), TAKE_MAX):
            total += await self._kv._do(remove(messages[begin : begin + TAKE_MAX]))
        return total

    async def purge(self, state: Literal["all"] | State = "all") -> int:
        """Delete the messages in a state, or all, slice by slice. Returns their number."""
        cursor, total = 0, 0
        while True:
            cursor, deleted = await self._kv._do(self._calls.purge_slice(state, cursor))
            total += deleted
            if cursor == 0:
                return total

    async def drop(self) -> None:
        """Delete the queue with its settings and totals. It must be empty."""
        await self._kv._do(self._calls.drop())

    # -- settings -------------------------------------------------------------------------------------------

    async def settings(self) -> dict[str, Any]:
        """Return the settings of the queue, by the names of `set`. Times are in seconds."""
        return await self._kv._do(self._calls.settings())

    async def set(
        self,
        *,
        lease: Seconds | None = None,
        attempts: int | None = None,
        backoff: Seconds | None = None,
        factor: int | None = None,
        backoff_max: Seconds | None = None,
        per_group: int | None = None,
        max_messages: int | None = None,
        max_bytes: int | None = None,
        max_age: Seconds | None = None,
        dead_max: int | None = None,
        dead_age: Seconds | None = None,
        when_full: Literal["refuse", "drop"] | None = None,
        paused: bool | None = None,
    ) -> None:
        """Change settings of the queue. Settings that are None stay as they are. 0 means no limit, or never.

        lease: the time of a lease. attempts: number of deliveries before a message is dead.
        backoff, factor, backoff_max: the time before the second attempt, the factor for each further attempt, and the
        maximum time.
        per_group: maximum number of leases of a group; with 1, a group is in strict order. It changes only while the
        queue is empty.
        max_messages, max_bytes: maximum number of messages, without dead ones, and maximum bytes of all bodies.
        max_age: the time after which later messages expire. dead_max, dead_age: maximum number of dead messages, and
        the time after which they are deleted.
        when_full: "refuse" refuses a put to a full queue; "drop" deletes the oldest message that is not leased.
        paused: while it is True, `take` returns no message.
        """
        await self._kv._do(
            self._calls.set(
                lease=lease,
                attempts=attempts,
                backoff=backoff,
                factor=factor,
                backoff_max=backoff_max,
                per_group=per_group,
                max_messages=max_messages,
                max_bytes=max_bytes,
                max_age=max_age,
                dead_max=dead_max,
                dead_age=dead_age,
                when_full=when_full,
                paused=paused,
            )
        )

    async def pause(self) -> None:
        """Make `take` return no message until `resume`. `put`, `ack` and `nack` still work."""
        await self.set(paused=True)

    async def resume(self) -> None:
        """Make `take` return messages again."""
        await self.set(paused=False)
