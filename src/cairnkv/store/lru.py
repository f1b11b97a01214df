"""Memory admission: what happens to a write when the memory limit is reached.

It looks at memory use and at who was used when, neither of which may enter the keyspace, so it stands before
the log: a write that is refused never gets there, and an eviction gets there as a CLEAR.
"""

from collections import OrderedDict
from collections.abc import Container
from typing import Final, TypeAlias

from cairnkv.engine import crc
from cairnkv.engine.table import USE_BYTES

Place: TypeAlias = tuple[int, bytes]
"""A keyspace, by its number, and a key in it."""

SHARD_BITS: Final = 8
"""The order of use in a keyspace is kept in 2**8 shards by position, so that none gets so large that growing stalls."""

SAMPLED_SHARDS: Final = 16
"""Shards whose oldest key is looked at for each eviction; the oldest of them goes. With every shard in exact
order, the evicted key is among the least recently used few per cent."""

_Shard: TypeAlias = OrderedDict[bytes, int]


class Lru:
    """Which keys were used when, roughly: enough to name one of the least recently used."""

    def __init__(self) -> None:
        self._shards: dict[int, list[_Shard]] = {}  # by keyspace
        self._ring: list[tuple[int, _Shard]] = []  # all shards, with their databases
        self._keys = 0
        self._gone: list[_Shard] = []  # what `forget_all` left
        self._uses = 0
        self._sampled = 0

    def used(self, place: Place) -> None:
        """This key is the most recently used now."""
        shard, key = self._shard(place), place[1]
        self._uses += 1
        self._keys += key not in shard
        shard[key] = self._uses
        shard.move_to_end(key)

    def forget(self, place: Place) -> None:
        """This key is not there any more."""
        self._keys -= self._shard(place).pop(place[1], None) is not None

    def forget_all(self, db: int) -> None:
        """No key of this keyspace is there any more. What was known of them is freed by `free_some`."""
        gone = self._shards.pop(db, [])
        self._keys -= sum(map(len, gone))
        self._gone += gone
        self._ring = [(db, shard) for db, shards in self._shards.items() for shard in shards]

    def free_some(self) -> bool:
        """Free a shard of what `forget_all` left; whether there is more."""
        if self._gone:
            self._gone.pop()
        return bool(self._gone)

    def knows(self, place: Place) -> bool:
        """Whether this key has been used."""
        return place[1] in self._shard(place)

    @property
    def used_bytes(self) -> int:
        """The estimated memory of all shards, without the memory that `free_some` frees."""
        return USE_BYTES * self._keys

    def oldest(self, spared: Container[Place], sampled: int = SAMPLED_SHARDS) -> Place | None:
        """One of the least recently used keys, none of those that are spared; None when none is known.

        sampled: how many shards are looked at.
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
