"""The part of a dict's interface that asyncio code can use: iteration over keys, values and items.

`client/mapping.py` has the part of sync code. Python cannot await `kv[k]` and `k in kv`.
"""

import abc
from collections.abc import AsyncIterator

from cairnkv.client.aio.methods import AsyncMethods
from cairnkv.client.calls import K, Key, V
from cairnkv.limits import SCAN_COUNT


class AsyncMappingSyntax(AsyncMethods[K, V]):
    """`async for key in kv`, and `keys`, `values` and `items`."""

    @abc.abstractmethod
    def scan(self, prefix: Key = "", *, count: int = SCAN_COUNT) -> AsyncIterator[K]: ...

    @abc.abstractmethod
    def _pairs(self) -> AsyncIterator[tuple[K, V]]: ...

    def __aiter__(self) -> AsyncIterator[K]:
        """Iterate over the keys with `scan`."""
        return self.scan()

    def keys(self) -> AsyncIterator[K]:
        """Iterate over the keys: `async for key in kv.keys()`."""
        return self.scan()

    async def values(self) -> AsyncIterator[V]:
        """Iterate over the values: `async for value in kv.values()`."""
        async for pair in self._pairs():
            yield pair[1]

    def items(self) -> AsyncIterator[tuple[K, V]]:
        """Iterate over the keys with their values, slice by slice: `async for key, value in kv.items()`."""
        return self._pairs()
