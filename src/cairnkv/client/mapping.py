"""The syntax of a dict for stores: `kv[k]`, `in`, `del`, `len`, iteration and views.

`client/aio/mapping.py` has the part that asyncio code can use.
"""

import abc
from collections.abc import ItemsView, Iterable, Iterator, KeysView, ValuesView
from typing import Any, Generic, Self

from cairnkv.client.calls import UNSET, K, Key, Unset, V, Values
from cairnkv.client.methods import Methods
from cairnkv.limits import SCAN_COUNT


class MappingSyntax(Methods[K, V]):
    """The interface of a dict except `copy`, and `clear`, which deletes one key here."""

    @abc.abstractmethod
    def scan(self, prefix: Key = "", *, count: int = SCAN_COUNT) -> Iterator[K]: ...

    @abc.abstractmethod
    def _pairs(self) -> Iterator[tuple[K, V]]: ...

    @abc.abstractmethod
    def update(self, values: Values[V] | Iterable[tuple[Key, V]] = (), /, **named: V) -> None: ...

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

    def __ior__(self, values: Values[V] | Iterable[tuple[Key, V]]) -> Self:
        """Store many values with `update`: `kv |= {"a": "1"}`."""
        self.update(values)
        return self

    def __bool__(self) -> bool:
        return True  # an empty store is a store; asking for its length would cost a round trip


# -- views: they read slice by slice, as `scan` does, and omit keys that another client deletes meanwhile -----------


class _Keys(KeysView[K], Generic[K]):
    """The keys of a store; `in` and `len` ask the store."""


class _Values(ValuesView[V], Generic[V]):
    """The values of a store."""

    def __init__(self, store: MappingSyntax[K, V]) -> None:
        super().__init__(store)
        self._pairs = store._pairs

    def __iter__(self) -> Iterator[V]:
        return (value for _, value in self._pairs())

    def __contains__(self, value: object) -> bool:
        return any(value == stored for stored in self)


class _Items(ItemsView[K, V], Generic[K, V]):
    """The keys of a store with their values."""

    def __init__(self, store: MappingSyntax[K, V]) -> None:
        mapping: Any = store  # a Mapping except that `__getitem__` takes text and bytes
        super().__init__(mapping)
        self._pairs = store._pairs

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return self._pairs()
