"""The LRU order of keys, approximately.

Out of scope: memory limits (`memory`), eviction (`eviction`), and values that leave memory (`value_cache`).
"""

from collections import OrderedDict
from collections.abc import Container
from typing import Final, TypeAlias

from cairnkv.engine import crc
from cairnkv.engine.table import USE_BYTES

Place: TypeAlias = tuple[int, bytes]
"""The number of a database, and a key."""

SHARD_BITS: Final = 8
"""A database has 2**8 shards of the order, by the CRC of keys, so that no shard takes long to grow."""

SAMPLED_SHARDS: Final = 16
"""Shards whose oldest keys are compared for each eviction. Since each shard is in exact order, the evicted key is among
the few per cent that are least recently used."""

_Shard: TypeAlias = OrderedDict[bytes, int]


class Lru:
    """An approximate order of keys by their last use."""

    def __init__(self) -> None:
        self._shards: dict[int, list[_Shard]] = {}  # by database
        self._ring: list[tuple[int, _Shard]] = []  # all shards, with their databases
        self._keys = 0
        self._gone: list[_Shard] = []  # shards that `forget_all` has removed
        self._uses = 0
        self._sampled = 0

    def used(self, place: Place) -> None:
        """Note that a key is used."""
        shard, key = self._shard(place), place[1]
        self._uses += 1
        self._keys += key not in shard
        shard[key] = self._uses
        shard.move_to_end(key)

    def forget(self, place: Place) -> None:
        """Remove a key."""
        self._keys -= self._shard(place).pop(place[1], None) is not None

    def forget_all(self, db: int) -> None:
        """Remove all keys of a database. `free_some` frees their memory."""
        gone = self._shards.pop(db, [])
        self._keys -= sum(map(len, gone))
        self._gone += gone
        self._ring = [(db, shard) for db, shards in self._shards.items() for shard in shards]

    def free_some(self) -> bool:
        """Free a shard that `forget_all` has removed. Returns whether there are more."""
        if self._gone:
            self._gone.pop()
        return bool(self._gone)

    def knows(self, place: Place) -> bool:
        """Whether a key is in the order."""
        return place[1] in self._shard(place)

    @property
    def used_bytes(self) -> int:
        """The estimated memory of all shards, without the memory that `free_some` frees."""
        return USE_BYTES * self._keys

    def oldest(self, spared: Container[Place], sampled: int = SAMPLED_SHARDS) -> Place | None:
        """Return one of the least recently used keys, which is none of `spared`; None if there is no other key.

        sampled: number of shards whose oldest keys are compared.
        """
        oldest: tuple[int, Place] | None = None
        looked = 0
        for _ in self._ring:
            self._sampled = (self._sampled + 1) % len(self._ring)
            db, shard = self._ring[self._sampled]
            found = next((item for item in shard.items() if (db, item[0]) not in spared), None)
            if found is not None:
                key, use = found
                oldest = min(oldest or (use, (db, key)), (use, (db, key)))
                looked += 1
                if looked == sampled:
                    break
        return oldest[1] if oldest else None

    def _shard(self, place: Place) -> _Shard:
        db, key = place
        if db not in self._shards:
            self._shards[db] = [OrderedDict() for _ in range(1 << SHARD_BITS)]
            self._ring += [(db, shard) for shard in self._shards[db]]
        return self._shards[db][crc(key) >> (32 - SHARD_BITS)]
