"""Pipelines for asyncio: commands that execute in order.

`asyncio.gather` also sends calls together, but a repeated call may then execute after later calls. A pipeline repeats
no command, so its commands execute in order.
"""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from cairnkv.client.calls import Call, Calls, Durability, K, T, V, from_memory, locally, memory_is_enough
from cairnkv.client.pipeline import AnyPending, Commands, Pending, raise_first


class AsyncPipeline(Commands[K, V]):
    """Commands that the client sends together. Each method returns a `Pending`; `execute` sends the commands.

    The commands execute in order, one by one. Commands of other clients may execute in between. No command is repeated.
    """

    def __init__(
        self,
        calls: Calls[K, V],
        carry_out: Callable[[list[AnyPending]], Awaitable[None]],
        *,
        of: "AsyncPipeline[K, V] | None" = None,
        memory: bool = False,
        local: bool = False,
    ) -> None:
        """of: the pipeline to add the commands to; None: this one. memory, local: as for `durability` and `local`."""
        super().__init__(calls)
        self._carry_out = carry_out
        self._memory, self._local = memory, local
        if of is not None:
            self._pending = of._pending

    def _add(self, call: Call[T]) -> Pending[T]:
        if self._memory:
            call = from_memory(call)
        return super()._add(locally(call) if self._local else call)

    async def execute(self) -> None:
        """Execute the commands. Afterwards raises the first error; each result has its own error."""
        pending = self._take()
        await self._carry_out(pending)
        raise_first(pending)

    def durability(self, how: Durability) -> "AsyncPipeline[K, V]":
        """Return this pipeline with another durability of its writes. See `KeyValue.durability`."""
        memory = memory_is_enough(how)
        return AsyncPipeline(self._calls, self._carry_out, of=self, memory=memory, local=self._local)

    def local(self) -> "AsyncPipeline[K, V]":
        """Return this pipeline with local reads. See `KeyValue.local`."""
        return AsyncPipeline(self._calls, self._carry_out, of=self, memory=self._memory, local=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.execute()
