"""Memory admission: what happens to a write when the memory limit is reached.

It looks at memory use and at who was used when, neither of which may enter the keyspace, so it stands before
the log: a write that is refused never gets there, and an eviction gets there as a CLEAR.
"""

from collections import OrderedDict
from collections.abc import Container
from typing import Final, TypeAlias

from cairnkv.keyspace import position

Place: TypeAlias = tuple[int, bytes]
"""A keyspace, by its number, and a key in it."""

SHARD_BITS: Final = 8
"""The order of use in a keyspace is kept in 2**8 shards by position, so that none gets so large that growing stalls."""

SAMPLED_SHARDS: Final = 16
"""Shards whose oldest key is looked at for each eviction; the oldest of them goes. With every shard in exact
order, the evicted key is among the least recently used few per cent."""

_Shard: TypeAlias = OrderedDict[Place, int]


class UseOrder:
    """Which keys were used when, roughly: enough to name one of the least recently used."""

    def __init__(self) -> None:
        self._shards: dict[int, list[_Shard]] = {}  # by keyspace
        self._ring: list[_Shard] = []  # all of them
        self._gone: list[_Shard] = []  # what `forget_all` left
        self._uses = 0
        self._sampled = 0

    def used(self, place: Place) -> None:
        """This key is the most recently used now."""
        shard = self._shard(place)
        self._uses += 1
        shard[place] = self._uses
        shard.move_to_end(place)

    def forget(self, place: Place) -> None:
        """This key is not there any more."""
        self._shard(place).pop(place, None)

    def forget_all(self, space: int) -> None:
        """No key of this keyspace is there any more. What was known of them is freed by `free_some`."""
        self._gone += self._shards.pop(space, [])
        self._ring = [shard for shards in self._shards.values() for shard in shards]

    def free_some(self) -> bool:
        """Free a shard of what `forget_all` left; whether there is more."""
        if self._gone:
            self._gone.pop()
        return bool(self._gone)

    def knows(self, place: Place) -> bool:
        """Whether this key has been used."""
        return place in self._shard(place)

    def oldest(self, spared: Container[Place], sampled: int = SAMPLED_SHARDS) -> Place | None:
        """One of the least recently used keys, none of those that are spared; None when none is known.

        sampled: how many shards are looked at.
        """
        oldest: tuple[int, Place] | None = None
        looked = 0
        for _ in self._ring:
            self._sampled = (self._sampled + 1) % len(self._ring)
            shard = self._ring[self._sampled]
            found = next((item for item in shard.items() if item[0] not in spared), None)
            if found is not None:
                place, use = found
                oldest = min(oldest or (use, place), (use, place))
                looked += 1
                if looked == sampled:
                    break
        return oldest[1] if oldest else None

    def _shard(self, place: Place) -> _Shard:
        space, key = place
        if space not in self._shards:
            self._shards[space] = [OrderedDict() for _ in range(1 << SHARD_BITS)]
            self._ring += self._shards[space]
        return self._shards[space][position(key) >> (32 - SHARD_BITS)]
