"""Queues in pipelines: PUT among other commands.

Out of scope: taking. A pipeline sends its commands before it reads a reply, so it cannot process a message.
"""

import datetime
from collections.abc import Iterable, Sequence
from typing import Any, Generic

from cairnkv.client.address import Seconds
from cairnkv.client.calls import Key, NotCopied
from cairnkv.client.codec import Codec
from cairnkv.client.pending import Pending, PendingCalls
from cairnkv.client.queue.calls import B, PutResult, QueueCalls, name_shown
from cairnkv.errors import OptionError
from cairnkv.limits import TAKE_MAX


class PipelineQueue(NotCopied, Generic[B]):
    """A queue in a pipeline, with bodies of type B. Its methods add a command, and return a `Pending`."""

    def __init__(
        self, pipeline: PendingCalls[Any, Any], name: Key, codec: Codec[B], *, value_max: int | None = None
    ) -> None:
        self._pipeline = pipeline
        self._calls = QueueCalls(name, codec, value_max=value_max)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    @property
    def name(self) -> str:
        """The name of the queue."""
        return name_shown(self._calls.name)

    def put(
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
    ) -> Pending[PutResult]:
        """Put a message into the queue. See `Queue.put`."""
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
        return self._pipeline._add(call)

    def put_many(
        self, bodies: Iterable[B], *, delay: Seconds | None = None, priority: int | None = None
    ) -> Pending[Sequence[int]]:
        """Put a message for each of 1 to 1,000 bodies: all, or none. The result is their ids."""
        calls = list(self._calls.put_slices(bodies, delay=delay, priority=priority))
        if len(calls) != 1:
            raise OptionError(f"put_many of a pipeline takes 1 to {TAKE_MAX:,} bodies, as one command")
        return self._pipeline._add(calls[0])
