# Source of client/keyvalue.py: run tools/generate_clients.py after a change.
"""Stores: the methods that are several calls, or none.

Out of scope: the methods that are one call (`methods`), the syntax of a dict (`mapping`), and the execution of a call,
which is `_do` of each kind of store.
"""

import abc
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, cast, overload

from cairnkv.client.aio.mapping import AsyncMappingSyntax
from cairnkv.client.aio.pipeline import AsyncPipeline
from cairnkv.client.calls import (
    UNSET,
    Call,
    D,
    Durability,
    K,
    Key,
    NotCopied,
    StoreCalls,
    T,
    Unset,
    V,
    Values,
    memory_is_enough,
    pairs_of,
    too_large_together,
    with_leeway,
)
from cairnkv.client.codec import Codec, CodecName, KeyCodec, value_codec
from cairnkv.commands import Replies
from cairnkv.errors import BadCommand
from cairnkv.limits import SCAN_COUNT

if TYPE_CHECKING:
    from cairnkv.client.aio.queue.queues import AsyncQueue
    from cairnkv.client.aio.together import AsyncTogether


class AsyncKeyValue(AsyncMappingSyntax[K, V], NotCopied):
    """A store: the methods of clients and embedded stores.

    Keys are text or bytes; methods return them as K. Values are V, as the codec decodes them.
    """

    def __init__(self, keys: KeyCodec[K], values: Codec[V], *, value_max: int | None = None) -> None:
        self._calls = StoreCalls(keys, values, value_max=value_max)

    @abc.abstractmethod
    async def close(self) -> None:
        """Close the store. Using it afterwards is an error."""

    # -- the whole store ------------------------------------------------------------------------------------

    async def scan(self, prefix: Key = "", *, count: int = SCAN_COUNT) -> AsyncIterator[K]:
        """Iterate over the keys that begin with a prefix, slice by slice. Each slice looks at `count` keys.

        Yields all keys that exist from the beginning to the end of the scan. A key that is stored or deleted during the
        scan may be missing.
        """
        async for keys in self._slices(prefix, count):
            for key in keys:
                yield key

    async def _slices(self, prefix: Key = "", count: int = SCAN_COUNT) -> AsyncIterator[list[K]]:
        cursor = 0
        while True:
            cursor, keys = await self._do(self._calls.scan_slice(cursor, prefix, count))
            yield keys
            if cursor == 0:
                return

    async def _pairs(self) -> AsyncIterator[tuple[K, V]]:
        async for keys in self._slices():
            async for pair in self._pairs_of(keys):
                yield pair

    async def _pairs_of(self, keys: list[K]) -> AsyncIterator[tuple[K, V]]:
        try:
            found = await self._do(self._calls.get_many(cast("list[Key]", keys)))
        except BadCommand as error:
            if not too_large_together(error, keys):
                raise
            half = len(keys) // 2
            for part in (keys[:half], keys[half:]):
                async for pair in self._pairs_of(part):
                    yield pair
        else:
            for pair in found.items():
                yield pair

    async def clear_prefix(self, prefix: Key) -> int:
        """Delete the keys that begin with a prefix, slice by slice. Returns the number of deleted keys."""
        cursor, total = 0, 0
        while True:
            cursor, cleared = await self._do(self._calls.clear_prefix_slice(cursor, prefix))
            total += cleared
            if cursor == 0:
                return total

    @abc.abstractmethod
    def pipeline(self) -> AsyncPipeline[K, V]:
        """Return a pipeline. Use it in an `async with` statement; its commands execute at the end of the statement.

        The commands execute in order, one by one. Commands of other clients may execute in between. A pipeline takes
        one round trip to a server, or one fsync on disk.
        """

    def durability(self, how: Durability) -> "AsyncKeyValue[K, V]":
        """Return this store with another durability of its writes.

        how: "memory": a write returns when it has been executed in memory. Its commit follows. Until then a crash or a
        disk failure undoes the write, and no read shows it. "committed": a write returns when it is committed, as in
        this store.
        Closing the returned store closes this store. Raises `OptionError` for other values.
        """
        return self._view(memory=memory_is_enough(how), local=False)

    def local(self) -> "AsyncKeyValue[K, V]":
        """Return this store with local reads.

        In a cluster, reads are linearizable: a read shows every write that returned before the read began. It takes a
        round through the cluster's log. A local read does not: the node that receives it answers it at once, also
        without a quorum, and its values may be old. `info` shows how old: `local_reads_behind_ms`. With several
        addresses the next call may go to another node, whose values may be older. Writes do not change, nor do reads of
        stores that are not replicated.
        Closing the returned store closes this store.
        """
        return self._view(memory=False, local=True)

    def _view(self, *, memory: bool, local: bool) -> "AsyncKeyValue[K, V]":
        return _View(self, memory=memory, local=local) if memory or local else self

    # -- queues ---------------------------------------------------------------------------------------------

    @overload
    def queue(self, name: Key, *, codec: Literal["json", "msgpack"] = "json") -> "AsyncQueue[Any]": ...
    @overload
    def queue(self, name: Key, *, codec: Literal["text"]) -> "AsyncQueue[str]": ...
    @overload
    def queue(self, name: Key, *, codec: Literal["bytes"]) -> "AsyncQueue[bytes]": ...
    @overload
    def queue(self, name: Key, *, codec: Codec[D]) -> "AsyncQueue[D]": ...
    def queue(self, name: Key, *, codec: CodecName | Codec[Any] = "json") -> "AsyncQueue[Any]":
        """Return the queue with a name. Queues have names of their own, apart from keys.

        codec: the type of bodies: "json", "text", "bytes", "msgpack", or an object with encode and decode.
        """
        from cairnkv.client.aio.queue.queues import AsyncQueue  # with slow imports that only queues need

        return AsyncQueue(self, name, value_codec(codec), value_max=self._calls.value_max)

    def together(self) -> "AsyncTogether[K, V]":
        """Return commands on keys and queues that the store executes as one. Use it in an `async with` statement.

        The store executes all commands, or none: if it refuses one, none has an effect. Other clients see all effects,
        or none. See `Job.together` for commands together with the ack of a job.
        """
        from cairnkv.client.aio.together import AsyncTogether  # with slow imports that only queues need
        from cairnkv.client.queue.calls import together

        async def execute(calls: list[Call[Any]]) -> Replies:
            return await self._do(together(calls)) if calls else Replies(())

        return AsyncTogether(self._calls, execute)

    async def queues(self) -> AsyncIterator[str]:
        """Iterate over the names of all queues, in the order of their creation."""
        from cairnkv.client.queue.calls import queues_slice

        cursor = 0
        while True:
            cursor, names = await self._do(queues_slice(cursor))
            for name in names:
                yield name
            if cursor == 0:
                return

    # -- as a dict ------------------------------------------------------------------------------------------

    @overload
    async def pop(self, key: Key) -> V: ...
    @overload
    async def pop(self, key: Key, default: D) -> V | D: ...
    async def pop(self, key: Key, default: D | Unset = UNSET) -> V | D:
        """Delete a key and return its value. If the key is absent, return the default or raise KeyError."""
        value = await self._do(self._calls.get(key, default, clear=True))
        if isinstance(value, Unset):
            raise KeyError(key)
        return value

    async def popitem(self) -> tuple[K, V]:
        """Delete any key and return it with its value. Raises KeyError if the store is empty."""
        async for key in self.scan():
            value = await self._do(self._calls.get(cast("Key", key), UNSET, clear=True))
            if not isinstance(value, Unset):
                return key, value
        raise KeyError("the store is empty")

    async def setdefault(self, key: Key, default: V) -> V:
        """Return the value of a key. If the key is absent, store and return the default. Atomic."""
        return await self._do(self._calls.setdefault(key, default))

    async def update(self, values: Values[V] | Iterable[tuple[Key, V]] = (), /, **named: V) -> None:
        """Store many values: a mapping, pairs or keywords, as `dict.update`. Not atomic; `set_many` is atomic."""
        for call in self._calls.set_slices(pairs_of(values, named)):
            await self._do(call)

    # -- in a with statement --------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _View(AsyncKeyValue[K, V]):
    """A store with another durability of its writes, with local reads, or both."""

    def __init__(self, store: AsyncKeyValue[K, V], *, memory: bool, local: bool) -> None:
        self._calls = store._calls
        self._store = store
        self._memory, self._local = memory, local
        self._survives_forks = store._survives_forks

    def __repr__(self) -> str:
        durability = ".durability('memory')" if self._memory else ""
        return f"{self._store!r}{durability}{'.local()' if self._local else ''}"

    def _end_takes(self) -> None:
        self._store._end_takes()

    async def _do(self, call: Call[T]) -> T:
        return await self._store._do(with_leeway(call, memory=self._memory, local=self._local))

    def pipeline(self) -> AsyncPipeline[K, V]:
        """Return a pipeline with the durability and the reads of this store."""
        pipeline = self._store.pipeline()
        if self._memory:
            pipeline = pipeline.durability("memory")
        return pipeline.local() if self._local else pipeline

    def durability(self, how: Durability) -> AsyncKeyValue[K, V]:
        return self._view(memory=memory_is_enough(how), local=self._local)

    def local(self) -> AsyncKeyValue[K, V]:
        return self if self._store.local() is self._store else self._view(memory=self._memory, local=True)

    def _view(self, *, memory: bool, local: bool) -> AsyncKeyValue[K, V]:
        return self if (memory, local) == (self._memory, self._local) else self._store._view(memory=memory, local=local)

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()
