"""A store as asyncio code sees it: the methods of the sync `KeyValue`, to be awaited.

The store has `async for key in kv`, but neither `kv[k]` nor `in`, which Python cannot await.
"""

import abc
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Generic, Self, cast, overload

from cairnkv.client.aio.pipeline import AsyncPipeline
from cairnkv.client.calls import (
    UNSET,
    Call,
    Calls,
    D,
    Durability,
    K,
    Key,
    NotCopied,
    Seconds,
    T,
    Unset,
    V,
    Values,
    from_memory,
    locally,
    memory_is_enough,
    pairs_of,
    too_large_together,
)
from cairnkv.client.codec import Codec, KeyCodec
from cairnkv.errors import BadCommand
from cairnkv.limits import SCAN_COUNT


class AsyncKeyValue(NotCopied, abc.ABC, Generic[K, V]):
    """A store as asyncio code sees it: the methods of `KeyValue`, to be awaited.

    Keys go in as text or bytes, and come back as K; values are V, as the codec makes them.
    """

    def __init__(self, keys: KeyCodec[K], values: Codec[V], *, value_max: int | None = None) -> None:
        self._calls = Calls(keys, values, value_max=value_max)

    @abc.abstractmethod
    async def _do(self, call: Call[T]) -> T:
        """Carry a call out and give its result."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Give back what the store holds. Using it afterwards is an error."""

    # -- one key --------------------------------------------------------------------------------------------

    @overload
    async def get(
        self, key: Key, default: None = None, *, clear: bool = False, ttl: Seconds | None = None, persist: bool = False
    ) -> V | None: ...
    @overload
    async def get(
        self, key: Key, default: D, *, clear: bool = False, ttl: Seconds | None = None, persist: bool = False
    ) -> V | D: ...
    async def get(
        self,
        key: Key,
        default: D | None = None,
        *,
        clear: bool = False,
        ttl: Seconds | None = None,
        persist: bool = False,
    ) -> V | D | None:
        """The value of a key, or the default when it is not there.

        clear: take it out as well. ttl: give it a new time to live. persist: let it stay for good.
        """
        return await self._do(self._calls.get(key, default, clear=clear, ttl=ttl, persist=persist))

    async def set(
        self,
        key: Key,
        value: V,
        *,
        ttl: Seconds | None = None,
        keep_ttl: bool = False,
        if_absent: bool = False,
        if_present: bool = False,
        if_equals: V | Unset = UNSET,
    ) -> bool:
        """Store a value; whether it was stored, which only the three conditions can prevent.

        ttl: the time until it expires, in seconds, as a timedelta, or as text such as "5s" or "1h"; without it, or
        `keep_ttl`, it does not expire.
        if_absent, if_present, if_equals: store only if the key is not there, is there, has this value.
        """
        return await self._do(
            self._calls.set(
                key,
                value,
                ttl=ttl,
                keep_ttl=keep_ttl,
                if_absent=if_absent,
                if_present=if_present,
                if_equals=if_equals,
            )
        )

    async def swap(
        self,
        key: Key,
        value: V,
        *,
        ttl: Seconds | None = None,
        keep_ttl: bool = False,
        if_absent: bool = False,
        if_present: bool = False,
        if_equals: V | Unset = UNSET,
    ) -> V | None:
        """As `set`, but gives the value that was there before, or None, whether or not the new one was stored."""
        return await self._do(
            self._calls.swap(
                key,
                value,
                ttl=ttl,
                keep_ttl=keep_ttl,
                if_absent=if_absent,
                if_present=if_present,
                if_equals=if_equals,
            )
        )

    async def clear(self, key: Key) -> None:
        """Take a key out; of no effect when it is not there."""
        await self._do(self._calls.clear(key))

    async def clear_if_equals(self, key: Key, value: V) -> bool:
        """Take a key out if it has this value; whether it had."""
        return await self._do(self._calls.clear_if_equals(key, value))

    async def exists(self, key: Key) -> bool:
        """Whether a key is there."""
        return await self._do(self._calls.exists(key))

    async def incr(self, key: Key, n: int = 1) -> int:
        """Add n to a number kept as decimal text, and give the sum; a key that is not there counts as 0."""
        return await self._do(self._calls.incr(key, n))

    async def ttl(self, key: Key) -> float | None:
        """Seconds until a key expires; `math.inf` when it does not, None when it is not there."""
        return await self._do(self._calls.ttl(key))

    async def expire(self, key: Key, ttl: Seconds) -> bool:
        """Give a key a new time to live: seconds, a timedelta, or text such as "5s"; whether it is there."""
        return await self._do(self._calls.expire(key, ttl))

    async def persist(self, key: Key) -> bool:
        """Take a key's time to live away; whether it had one."""
        return await self._do(self._calls.persist(key))

    # -- several keys ---------------------------------------------------------------------------------------

    async def get_many(self, keys: Iterable[Key]) -> dict[K, V]:
        """The values of those keys that are there, all of one moment."""
        return await self._do(self._calls.get_many(keys))

    async def set_many(self, values: Values[V], *, ttl: Seconds | None = None) -> None:
        """Store several values at once: all or none."""
        await self._do(self._calls.set_many(values, ttl=ttl))

    async def clear_many(self, keys: Iterable[Key]) -> int:
        """Take several keys out at once; how many were there."""
        return await self._do(self._calls.clear_many(keys))

    # -- the whole store ------------------------------------------------------------------------------------

    async def scan(self, prefix: Key = "", *, count: int = SCAN_COUNT) -> AsyncIterator[K]:
        """The keys that begin with a prefix, slice by slice, `count` looked at in each.

        What is there from beginning to end is given; what comes or goes meanwhile may be.
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

    async def count(self) -> int:
        """How many keys there are, exactly."""
        return await self._do(self._calls.count())

    async def clear_all(self) -> None:
        """Take every key out at once."""
        await self._do(self._calls.clear_all())

    async def clear_prefix(self, prefix: Key) -> int:
        """Take out the keys that begin with a prefix, slice by slice; how many were there."""
        cursor, total = 0, 0
        while True:
            cursor, cleared = await self._do(self._calls.clear_prefix_slice(cursor, prefix))
            total += cleared
            if cursor == 0:
                return total

    async def ping(self, text: str = "") -> str:
        """PONG, or the text, from whoever answers."""
        return await self._do(self._calls.ping(text))

    async def info(self) -> dict[str, str | int]:
        """What the store says of itself."""
        return await self._do(self._calls.info())

    @abc.abstractmethod
    def pipeline(self) -> AsyncPipeline[K, V]:
        """Return a pipeline. Use it in an `async with` statement; its commands execute at the end of the statement.

        Commands of other clients may execute in between. A pipeline repeats no command, so its commands execute in
        order. If the order does not matter, `asyncio.gather` is as fast.
        """

    def durability(self, how: Durability) -> "AsyncKeyValue[K, V]":
        """This store, whose writes are done as soon as they are as safe as this says; for those that need not be safe.

        how: "memory", once they are applied: until they are committed, which follows, a crash or a failing disk takes
        them back, and no read shows them. "committed", once they are committed, as here.
        Closing what is given closes this store. Raises `OptionError` for anything else.
        """
        return _FromMemory(self) if memory_is_enough(how) else self

    def local(self) -> "AsyncKeyValue[K, V]":
        """This store, whose reads may be behind in a cluster; for those to which soon matters more than latest.

        In a cluster reads are linearizable: they show every write that had returned before they began, whichever node
        is asked, and cost a round through the cluster's log. These are answered from the table of the node that is
        asked, at once and also where it has no quorum; what it has may be old. How far behind it may be it says
        itself: `local_reads_behind_ms` of its `info`. With several addresses, the next call may ask another node,
        which may be further behind. Writes, and stores of other sizes, are as ever.
        Closing what is given closes this store.
        """
        return _Local(self)

    # -- the methods of a mapping that can be awaited ----------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[K]:
        """Iterate over the keys with `scan`."""
        return self.scan()

    def keys(self) -> AsyncIterator[K]:
        """Iterate over the keys: `async for key in kv.keys()`."""
        return self.scan()

    async def values(self) -> AsyncIterator[V]:
        """Iterate over the values: `async for value in kv.values()`."""
        async for pair in self.items():
            yield pair[1]

    async def items(self) -> AsyncIterator[tuple[K, V]]:
        """Iterate over the keys with their values, slice by slice: `async for key, value in kv.items()`."""
        async for keys in self._slices():
            for pair in await self._pairs_of(keys):
                yield pair

    async def _pairs_of(self, keys: list[K]) -> list[tuple[K, V]]:
        try:
            found = await self._do(self._calls.get_many(cast("list[Key]", keys)))
        except BadCommand as error:
            if not too_large_together(error, keys):
                raise
            half = len(keys) // 2
            return [*await self._pairs_of(keys[:half]), *await self._pairs_of(keys[half:])]
        return list(found.items())

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


class _FromMemory(AsyncKeyValue[K, V]):
    """A store whose writes are done once they are in memory."""

    def __init__(self, store: AsyncKeyValue[K, V]) -> None:
        self._calls = store._calls
        self._store = store

    def __repr__(self) -> str:
        return f"{self._store!r}.durability('memory')"

    async def _do(self, call: Call[T]) -> T:
        return await self._store._do(from_memory(call))

    def pipeline(self) -> AsyncPipeline[K, V]:
        """Return a pipeline whose writes return before they are committed."""
        return self._store.pipeline().durability("memory")

    def durability(self, how: Durability) -> AsyncKeyValue[K, V]:
        return self if memory_is_enough(how) else self._store

    def local(self) -> AsyncKeyValue[K, V]:
        return self if self._store.local() is self._store else _Local(self)

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()


class _Local(AsyncKeyValue[K, V]):
    """A store whose reads are answered by the node that is asked."""

    def __init__(self, store: AsyncKeyValue[K, V]) -> None:
        self._calls = store._calls
        self._store = store

    def __repr__(self) -> str:
        return f"{self._store!r}.local()"

    async def _do(self, call: Call[T]) -> T:
        return await self._store._do(locally(call))

    def pipeline(self) -> AsyncPipeline[K, V]:
        """Return a pipeline of local reads."""
        return self._store.pipeline().local()

    def durability(self, how: Durability) -> AsyncKeyValue[K, V]:
        store = self._store.durability(how)
        return self if store is self._store else _Local(store)

    def local(self) -> AsyncKeyValue[K, V]:
        return self

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()
