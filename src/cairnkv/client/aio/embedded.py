"""The embedded store for asyncio code.

Commands on the whole table let other tasks run first, so that a long scan is many short steps of the loop.
"""

import asyncio
import contextlib
import os

from cairnkv.client.aio.keyvalue import AsyncKeyValue
from cairnkv.client.aio.pipeline import AsyncPipeline
from cairnkv.client.calls import Call, K, T, V
from cairnkv.client.codec import Codec, KeyCodec
from cairnkv.client.embedded import PIPELINE_COMMANDS, reply_itself, share
from cairnkv.client.pending import AnyPending
from cairnkv.commands import Reply, Scope
from cairnkv.limits import VALUE_MAX
from cairnkv.paths import user_path
from cairnkv.storage import BackupResult
from cairnkv.store import LocalStore, PendingReply


class Embedded(AsyncKeyValue[K, V]):
    """A store in this process, for asyncio code."""

    def __init__(self, store: LocalStore, keys: KeyCodec[K], values: Codec[V]) -> None:
        super().__init__(keys, values, value_max=VALUE_MAX)
        self._shared = share(store)

    def __repr__(self) -> str:
        return "<cairnkv.aio.Embedded>"

    async def close(self) -> None:
        """Close the store. Using it afterwards is an error."""
        await asyncio.to_thread(self._shared.close)  # a store on disk waits for its last writes

    def local(self) -> AsyncKeyValue[K, V]:
        """Return this store, whose reads are local."""
        return self

    async def backup(self, directory: str | os.PathLike[str], *, keep: int | None = None) -> BackupResult:
        """Make a backup of a store on disk. See `cairnkv.Embedded.backup`. Other tasks run meanwhile."""
        return await asyncio.to_thread(self._shared.back_up, user_path(directory, "the directory for backups"), keep)

    def pipeline(self) -> AsyncPipeline[K, V]:
        """Return a pipeline. See `AsyncKeyValue.pipeline`. On disk, its commands share an fsync."""
        return AsyncPipeline(self._calls, self._execute_all)

    async def _execute_all(self, pending: list[AnyPending]) -> None:
        for begin in range(0, len(pending), PIPELINE_COMMANDS):
            await asyncio.sleep(0)
            await self._execute_some(pending[begin : begin + PIPELINE_COMMANDS])

    async def _execute_some(self, pending: list[AnyPending]) -> None:
        """Execute some commands, and wait once for their pending replies."""
        outcomes: list[tuple[AnyPending, Reply | PendingReply]] = []
        try:
            for one in pending:
                outcome: Reply | PendingReply
                if one.call.command.waiting_time():
                    outcome = await self._take(Call(one.call.command, reply_itself))
                else:
                    outcome = self._shared.execute(one.call.command, one.call.flag)
                if isinstance(outcome, PendingReply) and outcome.blocks:
                    outcome = await _awaited(outcome)  # it has not run yet, and later commands must run after it
                outcomes.append((one, outcome))
        finally:
            for one, outcome in outcomes:
                one.settle(await _awaited(outcome))

    async def _do(self, call: Call[T]) -> T:
        if call.command.spec.scope is Scope.TABLE:
            await asyncio.sleep(0)
        if call.command.waiting_time():
            return await self._take(call)
        return call.result(await _awaited(self._shared.execute(call.command, call.flag)))

    async def _take(self, call: Call[T]) -> T:
        """Execute a TAKE that may wait. Other tasks run meanwhile."""
        take = self._shared.new_take(call.command, call.flag)
        try:
            ready = _event_of(take)
            self._shared.begin_take(take)
            if take.reply is None:
                await ready.wait()
            assert take.reply is not None
            return call.result(take.reply)
        except BaseException:
            self._shared.end_take(take)
            raise


async def _awaited(outcome: Reply | PendingReply) -> Reply:
    """Wait for the reply to a command."""
    if not isinstance(outcome, PendingReply):
        return outcome
    ready = _event_of(outcome)
    if outcome.reply is None:
        await ready.wait()
    assert outcome.reply is not None
    return outcome.reply


def _event_of(pending_reply: PendingReply) -> asyncio.Event:
    """Return an event that is set when the reply is there."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()

    def on_ready() -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed, and no task waits
            loop.call_soon_threadsafe(ready.set)

    pending_reply.on_ready = on_ready
    return ready
