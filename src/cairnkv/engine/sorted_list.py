"""A sorted list in chunks: items in order, with insertion and removal in about the time of a copy of one chunk.

Invariants: no item occurs twice. All chunks have items, and at most `CHUNK` of them.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any, Final, Generic, TypeVar

CHUNK: Final = 512
"""Maximum items of a chunk. A list of a million items has some thousands of chunks; both are quick to copy."""

T = TypeVar("T", bound=Any)


class SortedList(Generic[T]):
    """Items in order."""

    __slots__ = ("_chunks", "_lasts", "_length")

    def __init__(self) -> None:
        self._chunks: list[list[T]] = []
        self._lasts: list[T] = []  # the last item of each chunk
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        for chunk in self._chunks:
            yield from chunk

    def __contains__(self, item: T) -> bool:
        return next(self.since(item), None) == item

    def add(self, item: T) -> None:
        """Add an item, which must not be there."""
        at = bisect_left(self._lasts, item)
        if at == len(self._lasts):  # the last of all
            if not at:
                self._chunks.append([item])
                self._lasts.append(item)
                self._length = 1
                return
            at -= 1
            self._lasts[at] = item
            self._chunks[at].append(item)
        else:
            insort(self._chunks[at], item)
        self._length += 1
        if len(self._chunks[at]) > CHUNK:
            self._split(at)

    def _split(self, at: int) -> None:
        """Split a chunk that has too many items."""
        chunk = self._chunks[at]
        # At the end of the list, items come in order: a full chunk stays full.
        middle = CHUNK if at + 1 == len(self._chunks) else CHUNK // 2
        self._chunks[at : at + 1] = [chunk[:middle], chunk[middle:]]
        self._lasts.insert(at, chunk[middle - 1])

    def remove(self, item: T) -> None:
        """Remove an item. Raises `KeyError` if it is not there."""
        at = bisect_left(self._lasts, item)
        chunk = self._chunks[at] if at < len(self._chunks) else []
        place = bisect_left(chunk, item)
        if place == len(chunk) or chunk[place] != item:
            raise KeyError(item)
        del chunk[place]
        self._length -= 1
        if not chunk:
            del self._chunks[at], self._lasts[at]
            return
        self._lasts[at] = chunk[-1]
        if at + 1 < len(self._chunks) and len(chunk) + len(self._chunks[at + 1]) <= CHUNK // 2:
            self._join(at)

    def _join(self, at: int) -> None:
        """Join a chunk and the next one."""
        chunk = self._chunks[at]
        chunk += self._chunks[at + 1]
        self._lasts[at] = chunk[-1]
        del self._chunks[at + 1], self._lasts[at + 1]

    def first(self) -> T | None:
        """Return the first item, or None."""
        return self._chunks[0][0] if self._chunks else None

    def from_end(self, place: int) -> T:
        """Return the item at a place counted from the end: 1 is the last one."""
        for chunk in reversed(self._chunks):
            if place <= len(chunk):
                item: T = chunk[-place]
                return item
            place -= len(chunk)
        raise IndexError(place)

    def count_before(self, item: T) -> int:
        """Return the number of items that are less than this one."""
        at = bisect_left(self._lasts, item)
        if at == len(self._chunks):
            return self._length
        return sum(map(len, self._chunks[:at])) + bisect_left(self._chunks[at], item)

    def since(self, item: T) -> Iterator[T]:
        """Yield the items that are not less than this one. The list must not change meanwhile."""
        at = bisect_left(self._lasts, item)
        if at < len(self._chunks):
            yield from self._chunks[at][bisect_left(self._chunks[at], item) :]
            for chunk in self._chunks[at + 1 :]:
                yield from chunk
