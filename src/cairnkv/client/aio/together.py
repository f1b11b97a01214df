# Source of client/together.py: run tools/generate_clients.py after a change.
"""Commands on keys and queues that the store executes as one, or not at all.

Invariants: the client sends them as one command, TOGETHER. If the store refuses it, no command has had an effect.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from cairnkv.client.aio.pipeline import AsyncCollected
from cairnkv.client.calls import Call, Calls, K, T, V
from cairnkv.client.pending import AnyPending, Pending
from cairnkv.commands import Replies
from cairnkv.commands.queue_vocabulary import may_be_together
from cairnkv.errors import CairnError, CallerError

Execute: TypeAlias = Callable[[list[Call[Any]]], Awaitable[Replies]]
"""A function that executes calls as one, and returns the reply to each."""


class AsyncTogether(AsyncCollected[K, V]):
    """Commands that the store executes as one: all of them, or none. Each method returns a `Pending`.

    The client sends them as one command at the end of the `async with` statement. If the store refuses one of them,
    none has an effect, and the statement raises the error. A condition such as `if_absent` that does not hold is no
    error. There may be 1,000 commands; those on the whole store, such as `count` and `clear_all`, raise `CallerError`.
    """

    def __init__(self, calls: Calls[K, V], execute: Execute) -> None:
        super().__init__(calls, self._execute_as_one)
        self._execute = execute

    def _add(self, call: Call[T]) -> Pending[T]:
        if not may_be_together(call.command.spec):
            raise CallerError(f"{call.command.spec.name} concerns the whole store, so it cannot be a part of together")
        return super()._add(call)

    async def _execute_as_one(self, pending: list[AnyPending]) -> None:
        try:
            replies = await self._execute([one.call for one in pending])
        except CairnError as error:
            for one in pending:
                one.fail(error)
            raise
        for one, reply in zip(pending, replies.values, strict=True):
            one.settle(reply)
