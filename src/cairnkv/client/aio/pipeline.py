"""Pipelines of asyncio code: commands that are carried out in their order.

Calls that are issued together leave together by themselves (`asyncio.gather`), but a call that is repeated may then
come behind later ones. In a pipeline nothing is repeated, so the order is that of the commands.
"""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from cairnkv.client.calls import Call, Calls, Durable, K, T, V, from_memory, locally, memory_is_enough
from cairnkv.client.pipeline import AnyPending, Commands, Pending, raise_first


class AsyncPipeline(Commands[K, V]):
    """Commands that leave together. Each method gives a `Pending`, and nothing happens before `execute`.

    The commands are carried out in order, one by one: others may come in between. Nothing is repeated.
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
        """of: the pipeline that the commands are added to; None: this one. memory, local: how its calls are made."""
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
        """Carry the commands out. Raises the first error when all are settled; each result has its own."""
        pending = self._take()
        await self._carry_out(pending)
        raise_first(pending)

    def durable(self, how: Durable) -> "AsyncPipeline[K, V]":
        """This pipeline, whose writes are answered as soon as they are as safe as this says: see `KeyValue.durable`."""
        memory = memory_is_enough(how)
        return AsyncPipeline(self._calls, self._carry_out, of=self, memory=memory, local=self._local)

    def local(self) -> "AsyncPipeline[K, V]":
        """This pipeline, whose reads are answered from the table of the node that is asked: see `KeyValue.local`."""
        return AsyncPipeline(self._calls, self._carry_out, of=self, memory=self._memory, local=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.execute()
