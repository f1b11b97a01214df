"""The keys of one crowded bucket in scan order. The cost of a slice depends on its length, not on the bucket's.

Invariants: keys are sorted by their place, keys of one place by their bytes. An operation costs a binary search and a
change of one chunk, or time proportional to the number of returned keys.

Out of scope: the choice of buckets that keep an order, and values (`table`).
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import Final

CHUNK_KEYS: Final = 512
"""Keys in a new chunk. A chunk with twice as many keys splits."""

PlaceOf = Callable[[bytes], int]


class _Chunk:
    """Consecutive keys and their places. Never empty."""

    __slots__ = ("keys", "places")

    def __init__(self, places: Iterable[int], keys: Iterable[bytes]) -> None:
        self.places = array("Q", places)
        self.keys = list(keys)

    def find(self, place: int, key: bytes) -> int:
        """Return the index of a key in the chunk, or the index at which to insert it."""
        low = bisect_left(self.places, place)
        return bisect_left(self.keys, key, low, bisect_right(self.places, place, low))

    def cut(self, at: int) -> "_Chunk":
        """Split the chunk: keep the keys before an index, and return a chunk of the rest."""
        rest = _Chunk(self.places[at:], self.keys[at:])
        del self.places[at:], self.keys[at:]
        return rest


class KeyOrder:
    """A sorted list of keys, in chunks."""

    def __init__(self, keys: Iterable[bytes], place_of: PlaceOf) -> None:
        """place_of: returns the place of a key in the scan order."""
        self._place_of = place_of
        placed = sorted((place_of(key), key) for key in keys)
        parts = (placed[at : at + CHUNK_KEYS] for at in range(0, len(placed), CHUNK_KEYS))
        self._chunks = [_Chunk((at for at, _ in part), (key for _, key in part)) for part in parts]

    def __len__(self) -> int:
        return sum(len(chunk.keys) for chunk in self._chunks)

    def add(self, key: bytes) -> None:
        """Add an absent key."""
        place = self._place_of(key)
        if not self._chunks:
            self._chunks.append(_Chunk((place,), (key,)))
            return
        number = max(0, self._chunk_behind(place, key) - 1)
        chunk = self._chunks[number]
        at = chunk.find(place, key)
        chunk.places.insert(at, place)
        chunk.keys.insert(at, key)
        if len(chunk.keys) >= 2 * CHUNK_KEYS:
            self._chunks.insert(number + 1, chunk.cut(CHUNK_KEYS))

    def remove(self, key: bytes) -> None:
        """Remove an existing key."""
        place = self._place_of(key)
        number = self._chunk_behind(place, key) - 1
        chunk = self._chunks[number]
        at = chunk.find(place, key)
        assert chunk.keys[at] == key
        del chunk.places[at], chunk.keys[at]
        if not chunk.keys:
            del self._chunks[number]

    def slice(self, cursor: int, room: int, end: int) -> tuple[list[bytes], int]:
        """Return up to `room` keys from a cursor on, and the cursor after them; `end` if no key is left.

        Keys of one place stay together, so a slice may have more than `room` keys.
        """
        found: list[bytes] = []
        number, at = self._find(cursor)
        last = -1
        for chunk in self._chunks[number:]:
            until = at + room - len(found)
            if until < at + 1:  # no room left: only keys with the place of the last key
                until = at
            elif until < len(chunk.keys):
                last = chunk.places[until - 1]
            else:
                until, last = len(chunk.keys), chunk.places[-1]
            until = bisect_right(chunk.places, last, until)
            found += chunk.keys[at:until]
            if until < len(chunk.keys):
                return found, last + 1
            at = 0
        return found, end

    def count_at(self, place: int) -> int:
        """Return the number of keys with this place."""
        return sum(behind - at for _, at, behind in self._at(place))

    def keys_at(self, place: int) -> Iterator[bytes]:
        """Yield the keys with this place."""
        for chunk, at, behind in self._at(place):
            yield from chunk.keys[at:behind]

    def _at(self, place: int) -> Iterator[tuple[_Chunk, int, int]]:
        """Yield each chunk that may have keys with this place, and the range of their indexes."""
        number, at = self._find(place)
        for chunk in self._chunks[number:]:
            behind = bisect_right(chunk.places, place, at)
            yield chunk, at, behind
            if behind < len(chunk.keys):
                break
            at = 0

    def cut(self, place: int) -> "KeyOrder":
        """Split the order: keep the keys before a place, and return an order of the others."""
        number, at = self._find(place)
        rest = KeyOrder((), self._place_of)
        if number < len(self._chunks):
            rest._chunks = [self._chunks[number].cut(at), *self._chunks[number + 1 :]]
            del self._chunks[number + 1 :]
            if not at:
                del self._chunks[number]
        return rest

    def count_before(self, place: int) -> int:
        """Return the number of keys before a place."""
        number, at = self._find(place)
        return sum(len(chunk.keys) for chunk in self._chunks[:number]) + at

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            yield from chunk.keys

    def free_some(self, count: int) -> bool:
        """Free chunks of about `count` keys of an unused order. Returns whether more chunks are left."""
        del self._chunks[-max(1, count // CHUNK_KEYS) :]
        return bool(self._chunks)

    def _chunk_behind(self, place: int, key: bytes) -> int:
        """Return the index of the first chunk whose first key is after this one."""
        return bisect_right(self._chunks, (place, key), key=lambda chunk: (chunk.places[0], chunk.keys[0]))

    def _find(self, place: int) -> tuple[int, int]:
        """Return the chunk, and the index in it, of the first key at or after a place."""
        number = bisect_left(self._chunks, place, key=lambda chunk: chunk.places[-1])
        return number, bisect_left(self._chunks[number].places, place) if number < len(self._chunks) else 0
