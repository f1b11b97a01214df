"""The hash table: values and expiries of keys, in many small dicts.

A large dict blocks the process while it grows, since it moves every entry. So keys are spread over buckets by the
leading bits of their CRC-32, and a bucket that gets too large is split in two by one more bit (extendible hashing:
Fagin, Nievergelt, Pippenger, Strong, ACM TODS 4(3), 1979). Each step moves one bucket, or doubles the directory, an
array of references.

Invariants: buckets are in the order of CRC-32s. A scan cursor begins with a CRC-32, so it stays valid after any change
and restart, and on other nodes.

A cold value is represented by its length; storage has the value. Other modules decide which values are cold.

Out of scope: time and visibility, undoing, and active expiry.
"""

import hashlib
import itertools
import zlib
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias, cast

from cairnkv.engine.key_order import KeyOrder
from cairnkv.limits import PLACE_KEYS_MAX

CRC_BITS: Final = 32

TIE_BITS: Final = 21
"""A cursor is a CRC-32 and this many bits of a tie-breaker, so that forged keys with one CRC-32 cannot make a slice
large. In total 53 bits: JavaScript can represent every cursor exactly."""

CURSORS: Final = 1 << (CRC_BITS + TIE_BITS)

BUCKET_KEYS: Final = 170
"""Maximum keys of a bucket before it splits: the capacity of a dict with 256 slots, whose index has a byte per slot."""

CROWDED_KEYS: Final = 8 * BUCKET_KEYS
"""Keys from which on a bucket is crowded and no longer splits at each new key. Only keys forged to share leading bits
make a bucket crowded, and splitting them gets more expensive with each key. A crowded bucket works as a plain dict, and
keeps its keys in scan order. It splits each time the number of its keys doubles, so that unrelated keys leave it."""

MOVED_KEYS_MAX: Final = 10_000
"""Maximum number of keys that a split of a crowded bucket moves; this takes some milliseconds. If both halves have more
keys, the bucket does not split."""

KEYS_PER_DIRECTORY_ENTRY: Final = 16
"""Keys that the table must have per directory entry before the directory doubles, so that forged keys cannot make it
large. Other keys need one entry for about forty keys."""

ENTRY_BYTES: Final = 134
"""Bytes of memory of an entry besides its key and its value: the headers of two bytes objects (33 each), its share of a
dict, and rounding by the allocator. Measured with a million keys of 16 bytes and values of 100: 249 bytes of resident
memory each, and 250 by this estimate."""

EXPIRY_BYTES: Final = 150
"""Bytes of memory of an expiry: an int, and its shares of two dicts."""

USE_BYTES: Final = 190
"""Bytes of memory of the LRU order for a key: an entry in an OrderedDict, and the number of its last use. Measured with
300,000 keys of 9 bytes: 109 bytes, and 200 bytes if clients also delete keys."""

Stored: TypeAlias = bytes | int
"""A value, or the length of a cold value in bytes."""


def memory_of(value: Stored) -> int:
    """Return the bytes of memory of a value besides `ENTRY_BYTES`."""
    return len(value) if isinstance(value, bytes) else 0


def length_of(value: Stored) -> int:
    """Return the length of a value in bytes, cold or not."""
    return len(value) if isinstance(value, bytes) else value


def crc(key: bytes) -> int:
    """Return the CRC-32 of a key. Its leading bits select the bucket."""
    return zlib.crc32(key)


def place(key: bytes) -> int:
    """Return the place of a key in the scan order, from 0 to 2**53 - 1: its CRC-32 and its tie-breaker."""
    return zlib.crc32(key) << TIE_BITS | _tie(key)


def _tie(key: bytes) -> int:
    """Return the tie-breaker of a key among keys of one CRC-32. To forge a given one takes 2**21 attempts."""
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
    """The keys whose CRC-32 begins with the same `depth` bits. order: the keys of a crowded bucket in scan order."""

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
                self.set_expiry(key, expiry)

    def set_expiry(self, key: bytes, expiry: int) -> None:
        """Set the expiry of a key."""
        if self.expiries is None:
            self.expiries = {}
        self.expiries[key] = expiry

    def copy(self, begin: int, width: int) -> "Bucket":
        """Return a copy of the bucket."""
        copy = Bucket(CRC_BITS + 1 - width.bit_length())
        copy.values = self.values.copy()
        copy.expiries = None if self.expiries is None else self.expiries.copy()
        if self.order is not None:  # it may be in the middle of `Table._part`
            for key in self.values:
                if not begin <= zlib.crc32(key) < begin + width:
                    copy.set(key, None)
        return copy


class Table:
    """Keys with their values and expiries (milliseconds of log time; None: never)."""

    __slots__ = ("_depth", "_directory", "_shift", "cold_bytes", "cold_keys", "crowded", "keys", "used_bytes")

    def __init__(self) -> None:
        self._depth = 0
        self._shift = CRC_BITS
        self._directory = [Bucket(0)]
        self.keys = 0
        """The number of keys, expired ones included."""
        self.used_bytes = 0
        """The estimated memory of all entries."""
        self.cold_keys = 0
        """The number of cold values."""
        self.cold_bytes = 0
        """The total length of cold values in bytes."""
        self.crowded = 0
        """The number of crowded buckets, which keep the order of their keys."""

    def bucket(self, key: bytes) -> Bucket:
        """Return the bucket of a key, present or not."""
        return self._directory[zlib.crc32(key) >> self._shift]

    def get(self, key: bytes) -> tuple[Stored, int | None] | None:
        """Return the value and the expiry of a key, or None if it is absent."""
        bucket = self._directory[zlib.crc32(key) >> self._shift]
        value = bucket.values.get(key)
        if value is None:
            return None
        return value, bucket.expiries.get(key) if bucket.expiries else None

    def put(self, key: bytes, value: Stored, expiry: int | None) -> None:
        """Set the entry of a key."""
        bucket = self._directory[zlib.crc32(key) >> self._shift]
        old = bucket.values.get(key)
        bucket.values[key] = value  # first, since it may raise `MemoryError`
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
            bucket.set_expiry(key, expiry)
            self.used_bytes += EXPIRY_BYTES
        if len(bucket.values) > BUCKET_KEYS and old is None:
            if bucket.order is not None:
                bucket.order.add(key)
            self._split(bucket, zlib.crc32(key))

    def delete(self, key: bytes) -> bool:
        """Delete an entry. Returns whether it existed."""
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
            if len(bucket.values) <= CROWDED_KEYS // 2:
                self._set_order(bucket, None)
        if not bucket.values:
            # An empty dict keeps its memory; a new one does not have it.
            bucket.values = {}
            bucket.expiries = None
        return True

    def evict_value(self, key: bytes) -> None:
        """Replace a value in memory by its length."""
        values = self._directory[zlib.crc32(key) >> self._shift].values
        value = values[key]
        assert isinstance(value, bytes), "the value is cold already"
        self.used_bytes -= len(value)
        self._count_cold(1, len(value))
        values[key] = len(value)

    def load_value(self, key: bytes, value: bytes) -> None:
        """Put a cold value back into memory."""
        values = self._directory[zlib.crc32(key) >> self._shift].values
        assert values[key] == len(value), "the value is not cold, or has another length"
        self.used_bytes += len(value)
        self._count_cold(-1, len(value))
        values[key] = value

    def _count_cold(self, keys: int, length: int) -> None:
        self.cold_keys += keys
        self.cold_bytes += keys * length

    def _split(self, bucket: Bucket, at: int) -> None:
        """Split the bucket of a CRC-32, and split again if all keys fell into one half."""
        keys = len(bucket.values)
        if keys > CROWDED_KEYS:
            if bucket.order is None:
                self._set_order(bucket, KeyOrder(bucket.values, place))
            if keys & (keys - 1) == 0:
                self._part(bucket, at)
            return
        while len(bucket.values) > BUCKET_KEYS:
            if bucket.depth == self._depth and not self._double():
                return
            low, high = Bucket(bucket.depth + 1), Bucket(bucket.depth + 1)
            bit = 1 << (CRC_BITS - low.depth)
            if bucket.order is not None:
                self._set_order(bucket, None)
            for key, value in bucket.values.items():
                (high if zlib.crc32(key) & bit else low).values[key] = value
            for key, expiry in (bucket.expiries or {}).items():
                (high if zlib.crc32(key) & bit else low).set_expiry(key, expiry)
            self._point(bucket, low, high, at)
            bucket = high if at & bit else low

    def _part(self, bucket: Bucket, at: int) -> None:
        """Split the crowded bucket of a CRC-32, by moving the keys of the smaller half."""
        assert bucket.order is not None
        if bucket.depth == self._depth and not self._double():
            return
        depth = bucket.depth + 1
        middle = ((at >> (CRC_BITS - depth) | 1) << (CRC_BITS - depth)) << TIE_BITS
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
                smaller.set_expiry(key, expiry)
        self._point(bucket, *halves, at)
        bucket.depth = depth
        for key in moved:  # last, so that `copy` finds each key after an interruption
            del values[key]
            if expiries is not None:
                expiries.pop(key, None)
        if len(smaller.values) > CROWDED_KEYS:
            self._set_order(smaller, moved)
        if len(bucket.values) <= CROWDED_KEYS // 2:
            self._set_order(bucket, None)

    def _point(self, bucket: Bucket, low: Bucket, high: Bucket, at: int) -> None:
        """Set the directory entries of a split bucket to its halves."""
        entries = 1 << (self._depth - bucket.depth - 1)  # of the directory, for each half
        first = (at >> (CRC_BITS - bucket.depth) if bucket.depth else 0) * 2 * entries
        self._directory[first : first + 2 * entries] = [low] * entries + [high] * entries

    def _set_order(self, bucket: Bucket, order: KeyOrder | None) -> None:
        self.crowded += (order is not None) - (bucket.order is not None)
        bucket.order = order

    def _double(self) -> bool:
        """Double the directory. Returns False if the table has too few keys for that."""
        if self._depth == CRC_BITS or self.keys < KEYS_PER_DIRECTORY_ENTRY << (self._depth + 1):
            return False
        doubled = self._directory * 2
        doubled[0::2] = self._directory
        doubled[1::2] = self._directory
        self._directory = doubled
        self._depth += 1
        self._shift = CRC_BITS - self._depth
        return True

    def copy(self, before: Iterable[tuple[bytes, tuple[Stored, int | None] | None]]) -> "Table":
        """Return a copy of the table, valid even if a change of the table was interrupted.

        before: keys with the entries that replace this table's entries in the copy; None: no entry.
        """
        # Only the directory and the dicts of the buckets are reliable; all other state may be a step behind or ahead.
        directory = self._directory.copy()
        copy = Table()
        copy._depth = len(directory).bit_length() - 1
        copy._shift = CRC_BITS - copy._depth
        copy._directory = []
        for _, entries in itertools.groupby(directory, key=id):
            first, count = len(copy._directory), len(list(entries))
            copy._directory += [directory[first].copy(first << copy._shift, count << copy._shift)] * count
        for key, entry in before:
            copy.bucket(key).set(key, entry)
        for bucket in copy._buckets():
            for key in (bucket.expiries or {}).keys() - bucket.values.keys():
                bucket.set(key, None)
            if len(bucket.values) > CROWDED_KEYS:
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
        """Return the next cursor (0: the end), and keys from a cursor on, in no particular order.

        Examines `count` keys, and all keys that share the place of the last one. A bucket counts as at least one key,
        which bounds a slice over empty buckets.
        """
        found: list[bytes] = []
        looked = 0
        while looked < count and cursor < CURSORS:
            at = cursor >> TIE_BITS
            bucket = self._directory[at >> self._shift if self._depth else 0]
            width = CRC_BITS - bucket.depth
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

    def has_room_for(self, key: bytes, now: int) -> bool:
        """Return False for a new key if `PLACE_KEYS_MAX` keys share its place in the scan order.

        Keys that have expired by `now` do not count, removed or not, since nodes of a cluster remove them at different
        times.
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
        """Free `count` buckets of an unused table, or a part of a crowded one. Returns whether any are left."""
        entries = len(self._directory)
        for _ in range(min(count, entries)):
            bucket = self._directory[-1]
            if bucket.order is not None:
                if not bucket.order.free_some(count * BUCKET_KEYS):
                    bucket.order = None
                break
            if len(bucket.values) > CROWDED_KEYS:
                for _ in range(min(count * BUCKET_KEYS, len(bucket.values))):
                    bucket.values.popitem()
                for _ in range(min(count * BUCKET_KEYS, len(bucket.expiries or ()))):
                    cast("dict[bytes, int]", bucket.expiries).popitem()
                break
            del self._directory[-1]
        self.used_bytes = self.used_bytes * len(self._directory) // entries
        return bool(self._directory)

    def expiries(self) -> Iterator[tuple[bytes, int]]:
        """Yield all keys that have an expiry, with it. The table must not change meanwhile."""
        for bucket in self._buckets():
            yield from (bucket.expiries or {}).items()

    def __iter__(self) -> Iterator[tuple[bytes, Stored, int | None]]:
        """Yield all entries, for checks and tests. The table must not change meanwhile."""
        for bucket in self._buckets():
            for key, value in bucket.values.items():
                yield key, value, bucket.expiries.get(key) if bucket.expiries else None

    def _buckets(self) -> Iterator[Bucket]:
        for at, bucket in enumerate(self._directory):
            if at == 0 or bucket is not self._directory[at - 1]:
                yield bucket
