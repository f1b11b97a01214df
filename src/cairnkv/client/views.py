"""The views of a store's mapping: `keys()`, `values()` and `items()`.

A view reads slice by slice, as `scan` does, with one call for the values of a slice. A view omits a key that another
client deletes during the iteration; `dict(kv)` would raise KeyError.
"""

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import TYPE_CHECKING, Any, Generic

from cairnkv.client.calls import K, V

if TYPE_CHECKING:
    from cairnkv.client.keyvalue import KeyValue


class Keys(KeysView[K], Generic[K]):
    """The keys of a store; `in` and `len` ask the store."""


class Values(ValuesView[V], Generic[V]):
    """The values of a store."""

    def __init__(self, store: "KeyValue[K, V]") -> None:
        super().__init__(store)
        self._pairs = store._pairs

    def __iter__(self) -> Iterator[V]:
        return (value for _, value in self._pairs())

    def __contains__(self, value: object) -> bool:
        return any(value == stored for stored in self)


class Items(ItemsView[K, V], Generic[K, V]):
    """The keys of a store with their values."""

    def __init__(self, store: "KeyValue[K, V]") -> None:
        mapping: Any = store  # a Mapping except that `__getitem__` takes text and bytes
        super().__init__(mapping)
        self._pairs = store._pairs

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return self._pairs()
