# Source of client/pipeline.py: run tools/generate_clients.py after a change.
"""Pipelines: commands that a client or an embedded store sends or commits together."""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from cairnkv.client.calls import Calls, D, Durability, K, Key, V, memory_is_enough
from cairnkv.client.codec import Codec, CodecName, value_codec
from cairnkv.client.pending import AnyPending, raise_first
from cairnkv.client.pipeline_methods import PipelineMethods

if TYPE_CHECKING:
    from cairnkv.client.queue.pipeline_queue import PipelineQueue


class AsyncCollected(PipelineMethods[K, V]):
    """Commands that the client sends at the end of an `async with` statement, or at `execute`. If the statement ends
    with an exception, it sends none."""

    def __init__(self, calls: Calls[K, V], execute_all: Callable[[list[AnyPending]], Awaitable[None]]) -> None:
        super().__init__(calls)
        self._execute_all = execute_all

    @overload
    def queue(self, name: Key, *, codec: Literal["json", "msgpack"] = "json") -> "PipelineQueue[Any]": ...
    @overload
    def queue(self, name: Key, *, codec: Literal["text"]) -> "PipelineQueue[str]": ...
    @overload
    def queue(self, name: Key, *, codec: Literal["bytes"]) -> "PipelineQueue[bytes]": ...
    @overload
    def queue(self, name: Key, *, codec: Codec[D]) -> "PipelineQueue[D]": ...
    def queue(self, name: Key, *, codec: CodecName | Codec[Any] = "json") -> "PipelineQueue[Any]":
        """Return the queue with a name, whose `put` and `put_many` add commands to this pipeline."""
        from cairnkv.client.queue.pipeline_queue import PipelineQueue  # with slow imports that only queues need

        return PipelineQueue(self, name, value_codec(codec), value_max=self._calls.value_max)

    async def execute(self) -> None:
        """Execute the commands. Afterwards raises the first error; each result has its own error."""
        pending = self._take()
        await self._execute_all(pending)
        raise_first(pending)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.execute()


class AsyncPipeline(AsyncCollected[K, V]):
    """Commands that the client sends together. Each method returns a `Pending`; `execute` sends the commands.

    The commands execute in order, one by one. Commands of other clients may execute in between.
    """

    def durability(self, how: Durability) -> "AsyncPipeline[K, V]":
        """Return this pipeline with another durability of its writes. See `KeyValue.durability`."""
        return self._view(memory=memory_is_enough(how), local=self._local)

    def local(self) -> "AsyncPipeline[K, V]":
        """Return this pipeline with local reads. See `KeyValue.local`."""
        return self._view(memory=self._memory, local=True)

    def _view(self, *, memory: bool, local: bool) -> "AsyncPipeline[K, V]":
        if (memory, local) == (self._memory, self._local):
            return self
        view = AsyncPipeline(self._calls, self._execute_all)
        view._memory, view._local, view._pending = memory, local, self._pending
        return view
