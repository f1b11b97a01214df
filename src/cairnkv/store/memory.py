"""Memory admission: what happens to a write when the memory limit is reached.

It looks at memory use and at who was used when, neither of which may enter the keyspace, so it stands before
the log: a write that is refused never gets there, and an eviction gets there as a CLEAR.
"""

from collections import OrderedDict
from collections.abc import Container
from typing import Final

from cairnkv.keyspace import position

SHARD_BITS: Final = 8
"""The order of use is kept in 2**8 shards by position, so that none gets so large that growing stalls."""

SAMPLED_SHARDS: Final = 16
"""Shards whose oldest key is looked at for each eviction; the oldest of them goes. With every shard in exact
order, the evicted key is among the least recently used few per cent."""


class UseOrder:
    """Which keys were used when, roughly: enough to name one of the least recently used."""

    def __init__(self) -> None:
        self._shards: list[OrderedDict[bytes, int]] = [OrderedDict() for _ in range(1 << SHARD_BITS)]
        self._gone: list[OrderedDict[bytes, int]] = []  # what `forget_all` left
        self._uses = 0
        self._sampled = 0

    def used(self, key: bytes) -> None:
        """This key is the most recently used now."""
        shard = self._shard(key)
        self._uses += 1
        shard[key] = self._uses
        shard.move_to_end(key)

    def forget(self, key: bytes) -> None:
        """This key is not there any more."""
        self._shard(key).pop(key, None)

    def forget_all(self) -> None:
        """No key is there any more. What was known of them is freed by `free_some`."""
        self._gone += self._shards
        self._shards = [OrderedDict() for _ in self._shards]

    def free_some(self) -> bool:
        """Free a shard of what `forget_all` left; whether there is more."""
        if self._gone:
            self._gone.pop()
        return bool(self._gone)

    def oldest(self, spared: Container[bytes]) -> bytes | None:
        """One of the least recently used keys, none of those that are spared; None when none is known."""
        oldest: tuple[int, bytes] | None = None
        looked = 0
        for _ in self._shards:
            shard = self._shards[self._sampled]
            self._sampled = (self._sampled + 1) % len(self._shards)
            found = next((item for item in shard.items() if item[0] not in spared), None)
            if found is not None:
                key, use = found
                oldest = min(oldest or (use, key), (use, key))
                looked += 1
                if looked == SAMPLED_SHARDS:
                    break
        return oldest[1] if oldest else None

    def _shard(self, key: bytes) -> OrderedDict[bytes, int]:
        return self._shards[position(key) >> (32 - SHARD_BITS)]
