"""A store as sync code sees it: the methods, and the syntax of a mapping.

One vocabulary for the embedded store and the client over a network, so that moving from one to the other is a
change of one line. Not for how a call gets anywhere: that is what the two make of `_do`.
"""

import abc
from collections.abc import ItemsView, Iterable, Iterator, KeysView, ValuesView
from types import TracebackType
from typing import Any, Generic, Self, cast, overload

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
from cairnkv.client.pipeline import Commands, Pipeline
from cairnkv.errors import BadCommand
from cairnkv.limits import SCAN_COUNT


class KeyValue(NotCopied, abc.ABC, Generic[K, V]):
    """A store as sync code sees it: the methods, and the syntax of a mapping.

    Keys go in as text or bytes, and come back as K; values are V, as the codec makes them.
    """

    def __init__(self, keys: KeyCodec[K], values: Codec[V], *, value_max: int | None = None) -> None:
        self._calls = Calls(keys, values, value_max=value_max)

    @abc.abstractmethod
    def _do(self, call: Call[T]) -> T:
        """Carry a call out and give its result."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give back what the store holds. Using it afterwards is an error."""

    # -- one key --------------------------------------------------------------------------------------------

    @overload
    def get(
        self, key: Key, default: None = None, *, clear: bool = False, ttl: Seconds | None = None, persist: bool = False
    ) -> V | None: ...
    @overload
    def get(
        self, key: Key, default: D, *, clear: bool = False, ttl: Seconds | None = None, persist: bool = False
    ) -> V | D: ...
    def get(
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
        return self._do(self._calls.get(key, default, clear=clear, ttl=ttl, persist=persist))

    def set(
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
        return self._do(
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

    def swap(
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
        return self._do(
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

    def clear(self, key: Key) -> None:
        """Take a key out; of no effect when it is not there."""
        self._do(self._calls.clear(key))

    def clear_if_equals(self, key: Key, value: V) -> bool:
        """Take a key out if it has this value; whether it had."""
        return self._do(self._calls.clear_if_equals(key, value))

    def exists(self, key: Key) -> bool:
        """Whether a key is there."""
        return self._do(self._calls.exists(key))

    def incr(self, key: Key, n: int = 1) -> int:
        """Add n to a number kept as decimal text, and give the sum; a key that is not there counts as 0."""
        return self._do(self._calls.incr(key, n))

    def ttl(self, key: Key) -> float | None:
        """Seconds until a key expires; `math.inf` when it does not, None when it is not there."""
        return self._do(self._calls.ttl(key))

    def expire(self, key: Key, ttl: Seconds) -> bool:
        """Give a key a new time to live: seconds, a timedelta, or text such as "5s"; whether it is there."""
        return self._do(self._calls.expire(key, ttl))

    def persist(self, key: Key) -> bool:
        """Take a key's time to live away; whether it had one."""
        return self._do(self._calls.persist(key))

    # -- several keys ---------------------------------------------------------------------------------------

    def get_many(self, keys: Iterable[Key]) -> dict[K, V]:
        """The values of those keys that are there, all of one moment."""
        return self._do(self._calls.get_many(keys))

    def set_many(self, values: Values[V], *, ttl: Seconds | None = None) -> None:
        """Store several values at once: all or none."""
        self._do(self._calls.set_many(values, ttl=ttl))

    def clear_many(self, keys: Iterable[Key]) -> int:
        """Take several keys out at once; how many were there."""
        return self._do(self._calls.clear_many(keys))

    # -- the whole store ------------------------------------------------------------------------------------

    def scan(self, prefix: Key = "", *, count: int = SCAN_COUNT) -> Iterator[K]:
        """The keys that begin with a prefix, slice by slice, `count` looked at in each.

        What is there from beginning to end is given; what comes or goes meanwhile may be.
        """
        for keys in self._slices(prefix, count):
            yield from keys

    def _slices(self, prefix: Key = "", count: int = SCAN_COUNT) -> Iterator[list[K]]:
        cursor = 0
        while True:
            cursor, keys = self._do(self._calls.scan_slice(cursor, prefix, count))
            yield keys
            if cursor == 0:
                return

    def count(self) -> int:
        """How many keys there are, exactly."""
        return self._do(self._calls.count())

    def clear_all(self) -> None:
        """Take every key out at once."""
        self._do(self._calls.clear_all())

    def clear_prefix(self, prefix: Key) -> int:
        """Take out the keys that begin with a prefix, slice by slice; how many were there."""
        cursor, total = 0, 0
        while True:
            cursor, cleared = self._do(self._calls.clear_prefix_slice(cursor, prefix))
            total += cleared
            if cursor == 0:
                return total

    def ping(self, text: str = "") -> str:
        """PONG, or the text, from whoever answers."""
        return self._do(self._calls.ping(text))

    def info(self) -> dict[str, str | int]:
        """What the store says of itself."""
        return self._do(self._calls.info())

    @abc.abstractmethod
    def pipeline(self) -> Pipeline[K, V]:
        """Return a pipeline. Use it in a `with` statement; its commands execute at the end of the statement.

        Commands of other clients may execute in between. A pipeline takes one round trip to a server, or one fsync on
        disk.

        >>> import cairnkv
        >>> kv = cairnkv.open()
        >>> with kv.pipeline() as pipeline:
        ...     stored = pipeline.set("a", "1")
        ...     total = pipeline.incr("hits")
        >>> stored.result(), total.result()
        (True, 1)
        """

    def durability(self, how: Durability) -> "KeyValue[K, V]":
        """This store, whose writes return as soon as they are as safe as this says; for those that need not be safe.

        how: "memory", once they are applied: until they are committed, which follows, a crash or a failing disk takes
        them back, and no read shows them. "committed", once they are committed, as here.
        Closing what is given closes this store. Raises `OptionError` for anything else.

        >>> import cairnkv
        >>> kv = cairnkv.open()
        >>> quick = kv.durability("memory")
        >>> quick["seen"] = "1"
        >>> kv["seen"]
        '1'
        """
        return _FromMemory(self) if memory_is_enough(how) else self

    def local(self) -> "KeyValue[K, V]":
        """This store, whose reads may be behind in a cluster; for those to which soon matters more than latest.

        In a cluster reads are linearizable: they show every write that had returned before they began, whichever node
        is asked, and cost a round through the cluster's log. These are answered from the table of the node that is
        asked, at once and also where it has no quorum; what it has may be old. How far behind it may be it says
        itself: `local_reads_behind_ms` of its `info`. With several addresses, the next call may ask another node,
        which may be further behind. Writes, and stores of other sizes, are as ever.
        Closing what is given closes this store.

        >>> import cairnkv
        >>> kv = cairnkv.open()
        >>> kv["seen"] = "1"
        >>> kv.local()["seen"]
        '1'
        """
        return _Local(self)

    # -- as a mapping ---------------------------------------------------------------------------------------
    # All methods of a dict except `copy`, and `clear`, which deletes one key here.

    def __getitem__(self, key: Key) -> V:
        """Return the value of a key. Raises KeyError if the key is absent."""
        value = self._do(self._calls.get(key, UNSET))
        if isinstance(value, Unset):
            raise KeyError(key)
        return value

    def __setitem__(self, key: Key, value: V) -> None:
        """Store a value, which does not expire."""
        self._do(self._calls.set(key, value))

    def __delitem__(self, key: Key) -> None:
        """Delete a key. Raises KeyError if the key is absent."""
        if not self._do(self._calls.clear_many((key,))):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        """Return whether a key exists."""
        return isinstance(key, str | bytes) and self.exists(key)

    def __iter__(self) -> Iterator[K]:
        """Iterate over the keys with `scan`. Keys may be stored and deleted during the iteration."""
        return self.scan()

    def __len__(self) -> int:
        """Return the number of keys."""
        return self.count()

    def keys(self) -> KeysView[K]:
        """Return a view of the keys, as of a dict. The view reads slice by slice."""
        return _Keys(self)

    def values(self) -> ValuesView[V]:
        """Return a view of the values, as of a dict. The view reads slice by slice."""
        return _Values(self)

    def items(self) -> ItemsView[K, V]:
        """Return a view of the keys with their values, as of a dict. The view reads slice by slice.

        `dict(kv.items())` copies a store that other clients use. `dict(kv)` reads each value with a separate request,
        and raises KeyError if a key expires or another client deletes it during the copy.
        """
        return _Items(self)

    def _pairs(self) -> Iterator[tuple[K, V]]:
        for keys in self._slices():
            yield from self._pairs_of(keys)

    def _pairs_of(self, keys: list[K]) -> Iterator[tuple[K, V]]:
        try:
            found = self._do(self._calls.get_many(cast("list[Key]", keys)))
        except BadCommand as error:
            if not too_large_together(error, keys):
                raise
            half = len(keys) // 2
            yield from self._pairs_of(keys[:half])
            yield from self._pairs_of(keys[half:])
        else:
            yield from found.items()

    @overload
    def pop(self, key: Key) -> V: ...
    @overload
    def pop(self, key: Key, default: D) -> V | D: ...
    def pop(self, key: Key, default: D | Unset = UNSET) -> V | D:
        """Delete a key and return its value. If the key is absent, return the default or raise KeyError."""
        value = self._do(self._calls.get(key, default, clear=True))
        if isinstance(value, Unset):
            raise KeyError(key)
        return value

    def popitem(self) -> tuple[K, V]:
        """Delete any key and return it with its value. Raises KeyError if the store is empty."""
        for key in self.scan():
            value = self._do(self._calls.get(cast("Key", key), UNSET, clear=True))
            if not isinstance(value, Unset):
                return key, value
        raise KeyError("the store is empty")

    def setdefault(self, key: Key, default: V) -> V:
        """Return the value of a key. If the key is absent, store and return the default. Atomic."""
        return self._do(self._calls.setdefault(key, default))

    def update(self, values: Values[V] | Iterable[tuple[Key, V]] = (), /, **named: V) -> None:
        """Store many values: a mapping, pairs or keywords, as `dict.update`. Not atomic; `set_many` is atomic."""
        for call in self._calls.set_slices(pairs_of(values, named)):
            self._do(call)

    def __ior__(self, values: Values[V] | Iterable[tuple[Key, V]]) -> Self:
        """Store many values with `update`: `kv |= {"a": "1"}`."""
        self.update(values)
        return self

    def __bool__(self) -> bool:
        return True  # an empty store is a store; asking for its length would cost a round trip

    # -- in a with statement --------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _FromMemory(KeyValue[K, V]):
    """A store whose writes return once they are in memory."""

    def __init__(self, store: KeyValue[K, V]) -> None:
        self._calls = store._calls
        self._store = store

    def __repr__(self) -> str:
        return f"{self._store!r}.durability('memory')"

    def _do(self, call: Call[T]) -> T:
        return self._store._do(from_memory(call))

    def pipeline(self) -> Pipeline[K, V]:
        """Return a pipeline whose writes return before they are committed."""
        return self._store.pipeline().durability("memory")

    def durability(self, how: Durability) -> KeyValue[K, V]:
        return self if memory_is_enough(how) else self._store

    def local(self) -> KeyValue[K, V]:
        return self if self._store.local() is self._store else _Local(self)

    def close(self) -> None:
        """Close the store."""
        self._store.close()


class _Local(KeyValue[K, V]):
    """A store whose reads are answered by the node that is asked."""

    def __init__(self, store: KeyValue[K, V]) -> None:
        self._calls = store._calls
        self._store = store

    def __repr__(self) -> str:
        return f"{self._store!r}.local()"

    def _do(self, call: Call[T]) -> T:
        return self._store._do(locally(call))

    def pipeline(self) -> Pipeline[K, V]:
        """Return a pipeline of local reads."""
        return self._store.pipeline().local()

    def durability(self, how: Durability) -> KeyValue[K, V]:
        store = self._store.durability(how)
        return self if store is self._store else _Local(store)

    def local(self) -> KeyValue[K, V]:
        return self

    def close(self) -> None:
        """Close the store."""
        self._store.close()


def _take_docstrings() -> None:
    """Copy the docstrings of calls to the methods of pipelines."""
    for name, method in vars(Commands).items():
        call = getattr(KeyValue, name, None)
        if not name.startswith("_") and call is not None and call.__doc__:
            method.__doc__ = f"{call.__doc__.rstrip()}\n\n        Returns a `Pending` with that result."


_take_docstrings()


# -- views: they read slice by slice, as `scan` does, and omit keys that another client deletes meanwhile -----------


class _Keys(KeysView[K], Generic[K]):
    """The keys of a store; `in` and `len` ask the store."""


class _Values(ValuesView[V], Generic[V]):
    """The values of a store."""

    def __init__(self, store: "KeyValue[K, V]") -> None:
        super().__init__(store)
        self._pairs = store._pairs

    def __iter__(self) -> Iterator[V]:
        return (value for _, value in self._pairs())

    def __contains__(self, value: object) -> bool:
        return any(value == stored for stored in self)


class _Items(ItemsView[K, V], Generic[K, V]):
    """The keys of a store with their values."""

    def __init__(self, store: "KeyValue[K, V]") -> None:
        mapping: Any = store  # a Mapping except that `__getitem__` takes text and bytes
        super().__init__(mapping)
        self._pairs = store._pairs

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return self._pairs()
