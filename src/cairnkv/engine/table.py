"""The table: keys to values and deadlines, in many small dicts.

One large dict stops everything while it grows: doubling it moves every entry. So the keys are spread over
buckets by the leading bits of the CRC-32 of the key, and a bucket that gets too large is split in two by one
bit more (extendible hashing: Fagin, Nievergelt, Pippenger, Strong, ACM TODS 4(3), 1979). Each step moves one
bucket, or doubles the directory, a plain array of references.

What always holds: a key's CRC-32 depends on the key alone, and buckets stand in the order of
positions. So a scan's cursor begins with a position, and means the same after any change, a restart, or elsewhere.

In the place of a value may stand its length alone, where the log has the value: it is cold then, and the table never
finds out by itself what it is. Nothing here decides which values those are.

Not for: time (whether a deadline is over is the keyspace's business), undoing, or expiry in the background.
"""

import hashlib
import itertools
import zlib
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias, cast

from cairnkv.engine.key_order import KeyOrder
from cairnkv.limits import PLACE_KEYS_MAX

POSITION_BITS: Final = 32

TIE_BITS: Final = 21
"""A cursor is a position, and behind it so many bits that order the keys of one position, so that keys made to
share one cannot make a slice large. 53 bits in all: a cursor is exact as a number of JavaScript."""

CURSORS: Final = 1 << (POSITION_BITS + TIE_BITS)

BUCKET_KEYS: Final = 170
"""Keys in a bucket before it is split: what a dict of 256 slots holds, whose index takes a byte a slot."""

HOPELESS_KEYS: Final = 8 * BUCKET_KEYS
"""Keys in a bucket that is no longer split at each new key: only keys made to share leading bits get it there,
and splitting would cost more the longer they go on. Such a bucket works as a plain dict does, and keeps the order of
its keys for scans. It splits once each time the number of its keys doubles, so that unrelated keys leave it."""

MOVED_KEYS_MAX: Final = 10_000
"""Maximum number of keys that a split of such a bucket moves, in some milliseconds. If both halves have more, it does
not split."""

KEYS_PER_DIRECTORY_ENTRY: Final = 16
"""Keys that the table must hold per entry of the directory before it doubles, so that such keys cannot
make it large. Keys that are not made on purpose need one entry for some forty keys."""

ENTRY_BYTES: Final = 134
"""Bytes of memory that an entry takes besides the bytes of its key and its value: the headers of two bytes
objects (33 each), a dict's share for it, and what the allocator rounds up. Measured with a million keys of
16 bytes and values of 100: 249 bytes of resident memory each, 250 by this estimate."""

EXPIRY_BYTES: Final = 150
"""Bytes of memory that a deadline takes: an int, a dict's share, a set's share."""

USE_BYTES: Final = 190
"""Bytes of memory of the LRU order for a key: an entry in an OrderedDict, and the number of its last use. Measured with
300,000 keys of 9 bytes: 109 bytes, and 200 bytes if clients also delete keys."""

Stored: TypeAlias = bytes | int
"""What stands under a key: a value, or the length of one that is cold, in bytes."""


def memory_of(value: Stored) -> int:
    """Bytes of memory that it takes besides what every entry takes."""
    return len(value) if isinstance(value, bytes) else 0


def length_of(value: Stored) -> int:
    """Bytes of the value, wherever they are."""
    return len(value) if isinstance(value, bytes) else value


def crc(key: bytes) -> int:
    """Which bucket holds a key, by the leading bits: its CRC-32, from 0 to 2**32 - 1."""
    return zlib.crc32(key)


def place(key: bytes) -> int:
    """Return the place of a key in the order of scans, from 0 to 2**53 - 1: its position and its tie-breaker."""
    return zlib.crc32(key) << TIE_BITS | _tie(key)


def _tie(key: bytes) -> int:
    """Return the order of a key among those of its position. To forge a given order takes 2**21 attempts."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest()) >> (32 - TIE_BITS)


def _cut(keys: list[bytes], cursor: int, room: int, end: int) -> tuple[list[bytes], int]:
    """Return up to `room` of a bucket's keys from a cursor on, and the cursor after them.

    Keys of one place stay together, so a slice may have more than `room` keys.
    """
    at, tie = cursor >> TIE_BITS, cursor & ((1 << TIE_BITS) - 1)
    placed = sorted((zlib.crc32(key), key) for key in keys)
    kept = [item for item in placed if item[0] > at or (item[0] == at and (not tie or _tie(item[1]) >= tie))]
    if len(kept) <= room:
        return [key for _, key in kept], end
    edge = kept[room][0]
    whole = [key for crc, key in kept if crc < edge]
    if len(whole) == room:
        return whole, edge << TIE_BITS
    parted = sorted((_tie(key), key) for crc, key in kept if crc == edge)
    last = parted[room - len(whole) - 1][0]
    return whole + [key for tie, key in parted if tie <= last], (edge << TIE_BITS) + last + 1


class Bucket:
    """The keys whose position begins with the same `depth` bits. order: the order of the keys of a crowded bucket."""

    __slots__ = ("depth", "expiries", "order", "values")

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.values: dict[bytes, Stored] = {}
        self.expiries: dict[bytes, int] | None = None
        self.order: KeyOrder | None = None

    def set(self, key: bytes, entry: tuple[Stored, int | None] | None) -> None:
        """Replace the entry of a key; None deletes it."""
        self.values.pop(key, None)
        if self.expiries is not None:
            self.expiries.pop(key, None)
        if entry is not None:
            self.values[key], expiry = entry
            if expiry is not None:
                self.expiries = {**(self.expiries or {}), key: expiry}

    def copy(self, begin: int, width: int) -> "Bucket":
        """Return a copy of the bucket."""
        copy = Bucket(POSITION_BITS + 1 - width.bit_length())
        copy.values = self.values.copy()
        copy.expiries = None if self.expiries is None else self.expiries.copy()
        if self.order is not None:  # it may be in the middle of `Table._part`
            for key in self.values:
                if not begin <= zlib.crc32(key) < begin + width:
                    copy.set(key, None)
        return copy


class Table:
    """Keys with their values and deadlines (milliseconds of log time; None: never)."""

    __slots__ = ("_depth", "_directory", "_shift", "cold_bytes", "cold_keys", "crowded", "keys", "used_bytes")

    def __init__(self) -> None:
        self._depth = 0
        self._shift = POSITION_BITS
        self._directory = [Bucket(0)]
        self.keys = 0
        """How many keys there are, those whose deadline is over included."""
        self.used_bytes = 0
        """An estimate of the memory that the entries take."""
        self.cold_keys = 0
        """How many of the values are cold."""
        self.cold_bytes = 0
        """Bytes that these have, wherever they are."""
        self.crowded = 0
        """The number of crowded buckets, which keep the order of their keys."""

    def bucket(self, key: bytes) -> Bucket:
        """The bucket that holds the key if the table does."""
        return self._directory[zlib.crc32(key) >> self._shift]

    def get(self, key: bytes) -> tuple[Stored, int | None] | None:
        """The value and deadline of a key, or None."""
        bucket = self._directory[zlib.crc32(key) >> self._shift]
        value = bucket.values.get(key)
        if value is None:
            return None
        return value, bucket.expiries.get(key) if bucket.expiries else None

    def put(self, key: bytes, value: Stored, expiry: int | None) -> None:
        """Store an entry, whatever was there."""
        bucket = self._directory[zlib.crc32(key) >> self._shift]
        old = bucket.values.get(key)
        bucket.values[key] = value  # first: it may raise `MemoryError`
        if old is None:
            self.keys += 1
            self.used_bytes += ENTRY_BYTES + len(key)
        elif isinstance(old, bytes):
            self.used_bytes -= len(old)
        else:
            self._count_cold(-1, old)
        if isinstance(value, bytes):
            self.used_bytes += len(value)
        else:
            self._count_cold(1, value)
        if bucket.expiries is not None and bucket.expiries.pop(key, None) is not None:
            self.used_bytes -= EXPIRY_BYTES
        if expiry is not None:
            if bucket.expiries is None:
                bucket.expiries = {}
            bucket.expiries[key] = expiry
            self.used_bytes += EXPIRY_BYTES
        if len(bucket.values) > BUCKET_KEYS and old is None:
            if bucket.order is not None:
                bucket.order.add(key)
            self._split(bucket, zlib.crc32(key))

    def drop(self, key: bytes) -> bool:
        """Take an entry out; whether there was one."""
        bucket = self._directory[zlib.crc32(key) >> self._shift]
        value = bucket.values.pop(key, None)
        if value is None:
            return False
        self.keys -= 1
        self.used_bytes -= ENTRY_BYTES + len(key)
        if isinstance(value, bytes):
            self.used_bytes -= len(value)
        else:
            self._count_cold(-1, value)
        if bucket.expiries is not None and bucket.expiries.pop(key, None) is not None:
            self.used_bytes -= EXPIRY_BYTES
        if bucket.order is not None:
            bucket.order.remove(key)
            if len(bucket.values) <= HOPELESS_KEYS // 2:
                self._set_order(bucket, None)
        if not bucket.values:
            # A dict keeps the room it once had; an emptied one gives it back.
            bucket.values = {}
            bucket.expiries = None
        return True

    def cool(self, key: bytes) -> None:
        """Let the length stand for the value of a key, which is in memory."""
        values = self._directory[zlib.crc32(key) >> self._shift].values
        value = values[key]
        assert isinstance(value, bytes), "only what is hot gets cold"
        self.used_bytes -= len(value)
        self._count_cold(1, len(value))
        values[key] = len(value)

    def warm(self, key: bytes, value: bytes) -> None:
        """Let the value of a key, which is cold, stand there again."""
        values = self._directory[zlib.crc32(key) >> self._shift].values
        assert values[key] == len(value), "only what is cold gets hot, and as long as it was"
        self.used_bytes += len(value)
        self._count_cold(-1, len(value))
        values[key] = value

    def _count_cold(self, keys: int, length: int) -> None:
        self.cold_keys += keys
        self.cold_bytes += keys * length

    def _split(self, bucket: Bucket, at: int) -> None:
        """Split the bucket that holds a position, and its half again if all its keys fell into one."""
        keys = len(bucket.values)
        if keys > HOPELESS_KEYS:
            if bucket.order is None:
                self._set_order(bucket, KeyOrder(bucket.values, place))
            if keys & (keys - 1) == 0:
                self._part(bucket, at)
            return
        while len(bucket.values) > BUCKET_KEYS:
            if bucket.depth == self._depth and not self._double():
                return
            low, high = Bucket(bucket.depth + 1), Bucket(bucket.depth + 1)
            bit = 1 << (POSITION_BITS - low.depth)
            if bucket.order is not None:
                self._set_order(bucket, None)
            for key, value in bucket.values.items():
                (high if zlib.crc32(key) & bit else low).values[key] = value
            for key, expiry in (bucket.expiries or {}).items():
                half = high if zlib.crc32(key) & bit else low
                if half.expiries is None:
                    half.expiries = {}
                half.expiries[key] = expiry
            self._point(bucket, low, high, at)
            bucket = high if at & bit else low

    def _part(self, bucket: Bucket, at: int) -> None:
        """Split the crowded bucket of a position. Moves the keys of the smaller half."""
        assert bucket.order is not None
        if bucket.depth == self._depth and not self._double():
            return
        depth = bucket.depth + 1
        middle = ((at >> (POSITION_BITS - depth) | 1) << (POSITION_BITS - depth)) << TIE_BITS
        before = bucket.order.count_before(middle)
        if min(before, len(bucket.values) - before) > MOVED_KEYS_MAX:
            return
        above = bucket.order.cut(middle)
        smaller = Bucket(depth)
        moves_low = before <= len(bucket.values) - before
        moved, bucket.order = (bucket.order, above) if moves_low else (above, bucket.order)
        halves = (smaller, bucket) if moves_low else (bucket, smaller)
        values, expiries = bucket.values, bucket.expiries
        for key in moved:
            smaller.values[key] = values[key]
            if expiries is not None and (expiry := expiries.get(key)) is not None:
                if smaller.expiries is None:
                    smaller.expiries = {}
                smaller.expiries[key] = expiry
        self._point(bucket, *halves, at)
        bucket.depth = depth
        for key in moved:  # last, so that `copy` finds each key after an interruption
            del values[key]
            if expiries is not None:
                expiries.pop(key, None)
        if len(smaller.values) > HOPELESS_KEYS:
            self._set_order(smaller, moved)
        if len(bucket.values) <= HOPELESS_KEYS // 2:
            self._set_order(bucket, None)

    def _point(self, bucket: Bucket, low: Bucket, high: Bucket, at: int) -> None:
        """Point the directory's entries for a split bucket to its halves."""
        entries = 1 << (self._depth - bucket.depth - 1)  # of the directory, for each half
        first = (at >> (POSITION_BITS - bucket.depth) if bucket.depth else 0) * 2 * entries
        self._directory[first : first + 2 * entries] = [low] * entries + [high] * entries

    def _set_order(self, bucket: Bucket, order: KeyOrder | None) -> None:
        self.crowded += (order is not None) - (bucket.order is not None)
        bucket.order = order

    def _double(self) -> bool:
        """Give the directory one bit more; False when there are too few keys to deserve it."""
        if self._depth == POSITION_BITS or self.keys < KEYS_PER_DIRECTORY_ENTRY << (self._depth + 1):
            return False
        doubled = self._directory * 2
        doubled[0::2] = self._directory
        doubled[1::2] = self._directory
        self._directory = doubled
        self._depth += 1
        self._shift = POSITION_BITS - self._depth
        return True

    def copy(self, before: Iterable[tuple[bytes, tuple[Stored, int | None] | None]]) -> "Table":
        """Return a copy of the table, even if a change of this table was interrupted between two steps.

        before: keys with the entries that replace this table's entries in the copy; None: no entry.
        """
        # Only the directory and the dicts of the buckets are reliable; all other state may be a step behind or ahead.
        directory = self._directory.copy()
        copy = Table()
        copy._depth = len(directory).bit_length() - 1
        copy._shift = POSITION_BITS - copy._depth
        copy._directory = []
        for _, entries in itertools.groupby(directory, key=id):
            first, count = len(copy._directory), len(list(entries))
            copy._directory += [directory[first].copy(first << copy._shift, count << copy._shift)] * count
        for key, entry in before:
            copy.bucket(key).set(key, entry)
        for bucket in copy._buckets():
            for key in (bucket.expiries or {}).keys() - bucket.values.keys():
                bucket.set(key, None)
            if len(bucket.values) > HOPELESS_KEYS:
                copy._set_order(bucket, KeyOrder(bucket.values, place))
            copy.keys += len(bucket.values)
            copy.used_bytes += ENTRY_BYTES * len(bucket.values) + sum(map(len, bucket.values))
            copy.used_bytes += EXPIRY_BYTES * len(bucket.expiries or ())
            for value in bucket.values.values():
                if isinstance(value, bytes):
                    copy.used_bytes += len(value)
                else:
                    copy._count_cold(1, value)
        return copy

    def slice(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """Some keys from a cursor on, in no particular order, and the cursor behind them (0: the end).

        Examines `count` keys, and all others that share the place of the last one. A bucket counts as at least one key,
        so a slice over empty buckets is bounded too.
        """
        found: list[bytes] = []
        looked = 0
        while looked < count and cursor < CURSORS:
            at = cursor >> TIE_BITS
            bucket = self._directory[at >> self._shift if self._depth else 0]
            width = POSITION_BITS - bucket.depth
            begin = (at >> width) << width
            end = begin + (1 << width)
            if bucket.order is not None:
                keys, end = bucket.order.slice(cursor, count - looked, end << TIE_BITS)
            elif begin << TIE_BITS < cursor or len(bucket.values) > count - looked:
                keys, end = _cut(list(bucket.values), cursor, count - looked, end << TIE_BITS)
            else:
                keys, end = list(bucket.values), end << TIE_BITS
            found += keys
            looked += max(1, len(keys))
            cursor = end
        return cursor if cursor < CURSORS else 0, found

    def takes(self, key: bytes, now: int) -> bool:
        """Return whether a key may be stored: False for a new key whose place has the maximum number of keys.

        Keys that have expired by `now` do not count, removed or not: nodes of a cluster remove them at different times.
        """
        bucket = self.bucket(key)
        if bucket.order is None:
            return True
        expiries = bucket.expiries or {}
        if key in bucket.values and expiries.get(key, now + 1) > now:
            return True
        at = place(key)
        count = bucket.order.count_at(at)
        if expiries and count >= PLACE_KEYS_MAX:
            count -= sum(expiries.get(other, now + 1) <= now for other in bucket.order.keys_at(at))
        return count < PLACE_KEYS_MAX

    def free_buckets(self, count: int) -> bool:
        """Free some buckets of an unused table, or a part of a crowded one. Returns whether more is left."""
        entries = len(self._directory)
        for _ in range(min(count, entries)):
            bucket = self._directory[-1]
            if bucket.order is not None:
                if not bucket.order.free_some(count * BUCKET_KEYS):
                    bucket.order = None
                break
            if len(bucket.values) > HOPELESS_KEYS:
                for _ in range(min(count * BUCKET_KEYS, len(bucket.values))):
                    bucket.values.popitem()
                for _ in range(min(count * BUCKET_KEYS, len(bucket.expiries or ()))):
                    cast("dict[bytes, int]", bucket.expiries).popitem()
                break
            del self._directory[-1]
        self.used_bytes = self.used_bytes * len(self._directory) // entries
        return bool(self._directory)

    def expiries(self) -> Iterator[tuple[bytes, int]]:
        """All keys that have a deadline, with it. The table must not change meanwhile."""
        for bucket in self._buckets():
            yield from (bucket.expiries or {}).items()

    def __iter__(self) -> Iterator[tuple[bytes, Stored, int | None]]:
        """All entries; for checks and tests. The table must not change meanwhile."""
        for bucket in self._buckets():
            for key, value in bucket.values.items():
                yield key, value, bucket.expiries.get(key) if bucket.expiries else None

    def _buckets(self) -> Iterator[Bucket]:
        for at, bucket in enumerate(self._directory):
            if at == 0 or bucket is not self._directory[at - 1]:
                yield bucket
