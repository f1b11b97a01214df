"""Log time, and the index of keys by expiry.

Invariants:
- `LogTime.now` never decreases.
- The index has exactly the (key, expiry) pairs of the table's entries that have an expiry. So COUNT is exact without
  reading every key, and housekeeping finds expired keys directly.

Out of scope: the clock that log time follows (`store.clock`), and visibility: the database compares expiries with log
time.
"""

import heapq
import itertools
from collections.abc import Iterator
from typing import Final

TICK_BITS: Final = 10
"""Expiries are grouped into ticks by this many low bits: 1,024 ms. Shorter ticks would need a dict per key if expiries
are spread out; longer ticks would make reading the current tick slower."""

TICK_BYTES: Final = 250
"""Bytes of memory of a tick without its expiries: a dict, and entries in another dict and a heap. Measured with one
expiry in each of 300,000 ticks: about 240 bytes."""

SPARE_TICKS: Final = 64
"""Empty ticks that the heap may hold beyond the number of ticks with keys."""


class LogTime:
    """Log time of a store, in milliseconds, and its conversions."""

    def __init__(self) -> None:
        self.now = 0
        """Log time: the greatest time given to `advance`."""
        self.lead = 0
        """Milliseconds by which log time is ahead of the proposer's clock. If it is ahead, it advances at half
        speed."""
        self.expiring = False
        """Whether a key has ever had an expiry. If not, no reply depends on log time."""

    def advance(self, now: int) -> None:
        """Advance log time to `now`, if that is later."""
        if now > self.now:
            self.now = now

    def after(self, ttl: int) -> int:
        """Return the log time after `ttl` milliseconds of elapsed time."""
        if not self.lead:
            return self.now + ttl
        return max(self.now - -ttl // 2, self.now - self.lead + ttl)

    def at(self, unix: int) -> int:
        """Return the log time at which the clock shows `unix` milliseconds since 1970."""
        return self.after(unix - self.now + self.lead) if self.lead else unix

    def left(self, expiry: int) -> int:
        """Return the milliseconds of elapsed time until a log time."""
        return min(2 * (expiry - self.now), expiry - self.now + self.lead) if self.lead else expiry - self.now

    def unix(self, expiry: int) -> int:
        """Return the time of the clock, in milliseconds since 1970, at a log time."""
        return self.now - self.lead + self.left(expiry) if self.lead else expiry


class ExpiryIndex:
    """Keys by expiry, in milliseconds of log time."""

    __slots__ = ("_heap", "_shared", "_ticks")

    def __init__(self, shared: LogTime) -> None:
        self._shared = shared
        self._ticks: dict[int, dict[bytes, int]] = {}
        self._heap: list[int] = []  # all ticks with keys, and a bounded number of empty ones

    def belong_to(self, shared: LogTime) -> None:
        """Use another shared log time: the index moves to another database."""
        self._shared = shared
        shared.expiring = shared.expiring or bool(self._ticks)

    def add(self, key: bytes, expiry: int) -> None:
        """Add the expiry of a key that has none in the index."""
        tick = expiry >> TICK_BITS
        keys = self._ticks.get(tick)
        if keys is None:
            keys = self._ticks[tick] = {}
            heapq.heappush(self._heap, tick)
            self._shared.expiring = True
        keys[key] = expiry

    def remove(self, key: bytes, expiry: int) -> None:
        """Remove the expiry of a key."""
        tick = expiry >> TICK_BITS
        keys = self._ticks[tick]
        del keys[key]
        if not keys:
            del self._ticks[tick]
            if len(self._heap) > 2 * len(self._ticks) + SPARE_TICKS:
                self._heap = sorted(self._ticks)

    def __len__(self) -> int:
        """The number of keys with an expiry, expired ones included. Reads all ticks."""
        return sum(map(len, self._ticks.values()))

    @property
    def used_bytes(self) -> int:
        """The estimated memory of ticks. The table estimates the memory of expiries."""
        return TICK_BYTES * len(self._ticks)

    @property
    def empty(self) -> bool:
        """Whether no key has an expiry."""
        return not self._ticks

    def expired(self, now: int) -> int:
        """Return the number of expired keys: all of the past ticks, and some of the current tick."""
        this = now >> TICK_BITS
        past = sum(len(self._ticks.get(tick, ())) for tick in self._ticks_before(this))
        return past + sum(expiry <= now for expiry in self._ticks.get(this, {}).values())

    def some_expired(self, now: int, limit: int) -> list[bytes]:
        """Return up to `limit` keys of past ticks, the earliest tick first."""
        found: list[bytes] = []
        visited: list[int] = []
        while len(found) < limit and self._heap and self._heap[0] < now >> TICK_BITS:
            tick = heapq.heappop(self._heap)
            if tick in self._ticks and tick not in visited[-1:]:
                found += itertools.islice(self._ticks[tick], limit - len(found))
                visited.append(tick)
        for tick in visited:
            heapq.heappush(self._heap, tick)
        return found

    def free_some(self, count: int) -> bool:
        """Free `count` keys of an unused index. Returns whether more are left."""
        while self._ticks and count > 0:
            tick, keys = self._ticks.popitem()
            if len(keys) > count:
                self._ticks[tick] = keys
                for _ in range(count):
                    keys.popitem()
            count -= len(keys)
        return bool(self._ticks)

    def _ticks_before(self, this: int) -> set[int]:
        """Return the heap's ticks before this one.

        In a heap, no child is smaller than its parent. So the walk stops at each later tick, and its cost is
        proportional to its result.
        """
        found: set[int] = set()
        ahead = [0]
        while ahead:
            at = ahead.pop()
            if at < len(self._heap) and self._heap[at] < this:
                found.add(self._heap[at])
                ahead += (2 * at + 1, 2 * at + 2)
        return found

    def pairs(self) -> Iterator[tuple[bytes, int]]:
        """Yield all keys with their expiries, for checks and tests."""
        for keys in self._ticks.values():
            yield from keys.items()
