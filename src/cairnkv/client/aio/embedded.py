"""The embedded store for asyncio code: the methods are awaited, and wait for the disk where there is one.

Commands about the whole table let other tasks go first, so that a long scan is many short steps of the loop.
"""

import asyncio
import contextlib
import os

from cairnkv.client.aio.keyvalue import AsyncKeyValue
from cairnkv.client.calls import Call, K, T, V
from cairnkv.client.codec import Codec, KeyCodec
from cairnkv.client.embedded import Shared
from cairnkv.commands import Scope
from cairnkv.limits import VALUE_MAX
from cairnkv.log import Made
from cairnkv.paths import user_path
from cairnkv.store import Held, Store


class AsyncEmbedded(AsyncKeyValue[K, V]):
    """A store in this process, for asyncio code."""

    def __init__(self, store: Store, keys: KeyCodec[K], values: Codec[V]) -> None:
        super().__init__(keys, values, value_max=VALUE_MAX)
        self._shared = Shared(store)

    def __repr__(self) -> str:
        return "<cairnkv.aio.Embedded>"

    async def close(self) -> None:
        """Let the store go. Using it afterwards is an error."""
        await asyncio.to_thread(self._shared.close)  # a store on disk has its last writes to wait for

    def local(self) -> AsyncKeyValue[K, V]:
        """This store itself, which is the only one that there is."""
        return self

    async def backup(self, directory: str | os.PathLike[str], *, keep: int | None = None) -> Made:
        """Make a backup of a store on disk; see `cairnkv.Embedded.backup`. Other tasks go on meanwhile."""
        return await asyncio.to_thread(self._shared.back_up, user_path(directory, "the directory for backups"), keep)

    async def _do(self, call: Call[T]) -> T:
        if call.command.word.scope is Scope.TABLE:
            await asyncio.sleep(0)
        outcome = self._shared.execute(call.command, call.leeway)
        if isinstance(outcome, Held):
            loop = asyncio.get_running_loop()
            ready = asyncio.Event()

            def on_ready() -> None:
                with contextlib.suppress(RuntimeError):  # the loop was closed, and nobody waits any more
                    loop.call_soon_threadsafe(ready.set)

            outcome.on_ready = on_ready
            if outcome.reply is None:
                await ready.wait()
            assert outcome.reply is not None
            outcome = outcome.reply
        return call.result(outcome)
