"""Which keys expire when: an index of deadlines by the second.

What always holds: the index has exactly the (key, deadline) pairs of its table's entries that have a
deadline. That makes COUNT exact without a look at every key, and lets the background removal go straight to
what is due.

Not for deciding what is visible: that is a comparison of one deadline with log time, in the keyspace.
"""

import heapq
import itertools
from collections.abc import Iterator
from typing import Final

from cairnkv.engine.log_time import LogTime

TICK_BITS: Final = 10
"""Deadlines are grouped by this many low bits: 1,024 ms. Finer groups would cost a set per key where
deadlines are spread out; coarser ones a longer look at the one group that is partly due."""

TICK_BYTES: Final = 250
"""Bytes of memory of a tick without its deadlines: a dict, and entries in another dict and a heap. Measured: about 240
bytes, with one deadline in each of 300,000 ticks."""

SPARE_TICKS: Final = 64
"""Ticks without keys that the heap may hold beyond the number of those that have some."""


class ExpiryIndex:
    """Keys by deadline, in milliseconds of log time."""

    __slots__ = ("_heap", "_shared", "_ticks")

    def __init__(self, shared: LogTime) -> None:
        self._shared = shared
        self._ticks: dict[int, dict[bytes, int]] = {}
        self._heap: list[int] = []  # every tick that has keys, and a bounded number that no longer do

    def belong_to(self, shared: LogTime) -> None:
        """Be the index of a keyspace that shares this."""
        self._shared = shared
        shared.expiring = shared.expiring or bool(self._ticks)

    def add(self, key: bytes, expiry: int) -> None:
        """Remember a key's deadline. The key has none in the index."""
        tick = expiry >> TICK_BITS
        keys = self._ticks.get(tick)
        if keys is None:
            keys = self._ticks[tick] = {}
            heapq.heappush(self._heap, tick)
            self._shared.expiring = True
        keys[key] = expiry

    def remove(self, key: bytes, expiry: int) -> None:
        """Forget a key's deadline."""
        tick = expiry >> TICK_BITS
        keys = self._ticks[tick]
        del keys[key]
        if not keys:
            del self._ticks[tick]
            if len(self._heap) > 2 * len(self._ticks) + SPARE_TICKS:
                self._heap = sorted(self._ticks)

    def __len__(self) -> int:
        """How many keys have a deadline, those whose is over included. A look at every second that has some."""
        return sum(map(len, self._ticks.values()))

    @property
    def used_bytes(self) -> int:
        """The estimated memory of ticks. The table estimates that of deadlines."""
        return TICK_BYTES * len(self._ticks)

    @property
    def empty(self) -> bool:
        """Whether no key has a deadline."""
        return not self._ticks

    def due(self, now: int) -> int:
        """How many keys have a deadline that is over: the seconds gone by whole, and a look at this one."""
        this = now >> TICK_BITS
        gone = sum(len(self._ticks.get(tick, ())) for tick in self._ticks_before(this))
        return gone + sum(expiry <= now for expiry in self._ticks.get(this, {}).values())

    def some_due(self, now: int, limit: int) -> list[bytes]:
        """Up to `limit` keys of seconds that have gone by whole, the earliest second first."""
        found: list[bytes] = []
        looked_at: list[int] = []
        while len(found) < limit and self._heap and self._heap[0] < now >> TICK_BITS:
            tick = heapq.heappop(self._heap)
            if tick in self._ticks and tick not in looked_at[-1:]:
                found += itertools.islice(self._ticks[tick], limit - len(found))
                looked_at.append(tick)
        for tick in looked_at:
            heapq.heappush(self._heap, tick)
        return found

    def free_some(self, count: int) -> bool:
        """Free `count` keys of an index that is no longer in use; whether it has more."""
        while self._ticks and count > 0:
            tick, keys = self._ticks.popitem()
            if len(keys) > count:
                self._ticks[tick] = keys
                for _ in range(count):
                    keys.popitem()
            count -= len(keys)
        return bool(self._ticks)

    def _ticks_before(self, this: int) -> set[int]:
        """The heap's ticks before this one. A heap is a tree whose children are no smaller than their
        parent, so the walk ends where it meets a later tick, and costs as much as it finds."""
        found: set[int] = set()
        ahead = [0]
        while ahead:
            at = ahead.pop()
            if at < len(self._heap) and self._heap[at] < this:
                found.add(self._heap[at])
                ahead += (2 * at + 1, 2 * at + 2)
        return found

    def pairs(self) -> Iterator[tuple[bytes, int]]:
        """All keys with their deadlines, for checks and tests."""
        for keys in self._ticks.values():
            yield from keys.items()
