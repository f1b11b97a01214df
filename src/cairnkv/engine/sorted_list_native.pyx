# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Sorted lists of numbers, or of pairs of numbers: twins of `SortedList` in arrays of C.

Invariants: those of `sorted_list`. Both ends of a chunk have free room, so that a queue moves no items there.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memmove

from cairnkv.engine.sorted_list import CHUNK as _CHUNK

cdef Py_ssize_t CHUNK = _CHUNK


cdef inline bint _is_less(const Pair *one, const Pair *other) noexcept:
    return one.first < other.first or (one.first == other.first and one.second < other.second)


cdef Py_ssize_t _bisect(const Pair *items, Py_ssize_t high, const Pair *item) noexcept:
    """`bisect_left`. Most items come at the end, or leave at the beginning."""
    cdef Py_ssize_t low = 0, middle
    if high == 0 or not _is_less(items, item):
        return 0
    if _is_less(items + high - 1, item):
        return high
    while low < high:
        middle = (low + high) // 2
        if _is_less(items + middle, item):
            low = middle + 1
        else:
            high = middle
    return low


cdef class SortedPairs:
    """Pairs of numbers in order; see `SortedList`."""

    def __cinit__(self):
        self._chunks = NULL
        self._lasts = NULL
        self._count = self._room = self.length = 0
        self._are_numbers = False

    def __dealloc__(self):
        cdef Py_ssize_t at
        for at in range(self._count):
            PyMem_Free(self._chunks[at].items)
        PyMem_Free(self._chunks)
        PyMem_Free(self._lasts)

    def __len__(self):
        return self.length

    def __iter__(self):
        cdef Py_ssize_t chunk = 0, place = 0
        cdef Pair *pair = self.at(&chunk, &place)
        while pair is not NULL:
            yield self._item(pair)
            pair = self.at(&chunk, &place)

    def __contains__(self, item):
        return next(self.since(item), None) == item

    def add(self, item):
        """Add an item, which must not be there."""
        cdef Pair pair = self._pair(item)
        self.insert(pair.first, pair.second)

    def remove(self, item):
        """Remove an item. Raises `KeyError` if it is not there."""
        cdef Pair pair = self._pair(item)
        self.delete(pair.first, pair.second)

    def first(self):
        """Return the first item, or None."""
        cdef Pair *pair = self.head()
        return None if pair is NULL else self._item(pair)

    def from_end(self, Py_ssize_t place):
        """Return the item at a place counted from the end: 1 is the last one."""
        cdef Py_ssize_t at = self._count
        cdef Chunk *chunk
        while at and place > 0:
            at -= 1
            chunk = self._chunks + at
            if place <= chunk.count:
                return self._item(chunk.items + chunk.begin + chunk.count - place)
            place -= chunk.count
        raise IndexError(place)

    def count_before(self, item):
        """Return the number of items that are less than this one."""
        cdef Pair pair = self._pair(item)
        cdef Py_ssize_t at = _bisect(self._lasts, self._count, &pair), before, count = 0
        if at == self._count:
            return self.length
        for before in range(at):
            count += self._chunks[before].count
        return count + _bisect(self._chunks[at].items + self._chunks[at].begin, self._chunks[at].count, &pair)

    def since(self, item):
        """Yield the items that are not less than this one. The list must not change meanwhile."""
        cdef Pair probe = self._pair(item)
        cdef Pair *pair
        cdef Py_ssize_t place = 0, chunk = _bisect(self._lasts, self._count, &probe)
        if chunk < self._count:
            place = _bisect(self._chunks[chunk].items + self._chunks[chunk].begin, self._chunks[chunk].count, &probe)
        pair = self.at(&chunk, &place)
        while pair is not NULL:
            yield self._item(pair)
            pair = self.at(&chunk, &place)

    cdef Pair _pair(self, object item) except *:
        cdef Pair pair
        pair.second = 0
        if self._are_numbers:
            pair.first = item
        else:
            pair.first, pair.second = item
        return pair

    cdef object _item(self, const Pair *pair):
        if self._are_numbers:
            return pair.first
        return pair.first, pair.second

    cdef Pair *head(self) noexcept:
        """Return the first item, or NULL."""
        return self._chunks[0].items + self._chunks[0].begin if self._count else NULL

    cdef Pair *at(self, Py_ssize_t *chunk, Py_ssize_t *place) noexcept:
        """Return the item at a place in a chunk, and go to the next place. Return NULL at the end."""
        while chunk[0] < self._count and place[0] >= self._chunks[chunk[0]].count:
            chunk[0] += 1
            place[0] = 0
        if chunk[0] >= self._count:
            return NULL
        place[0] += 1
        return self._chunks[chunk[0]].items + self._chunks[chunk[0]].begin + place[0] - 1

    cdef int insert(self, int64_t first, int64_t second) except -1:
        """`add`."""
        cdef Pair pair
        cdef Chunk *chunk
        cdef Chunk *upper
        cdef Pair *items
        cdef Py_ssize_t at, place, half
        pair.first, pair.second = first, second
        at = _bisect(self._lasts, self._count, &pair)
        if at == self._count:
            if at == 0 or self._chunks[at - 1].count == CHUNK:
                self._add_chunk(at, 4 if at == 0 else CHUNK)
            else:
                at -= 1
            place = self._chunks[at].count
        else:
            chunk = self._chunks + at
            place = _bisect(chunk.items + chunk.begin, chunk.count, &pair)
            if chunk.count == CHUNK:
                half = CHUNK // 2
                self._add_chunk(at + 1, CHUNK)
                chunk, upper = self._chunks + at, self._chunks + at + 1
                upper.count = chunk.count - half
                memcpy(upper.items, chunk.items + chunk.begin + half, upper.count * sizeof(Pair))
                self._lasts[at + 1] = self._lasts[at]
                chunk.count = half
                self._lasts[at] = chunk.items[chunk.begin + half - 1]
                if place > half:
                    place -= half
                    at += 1
        chunk = self._chunks + at
        if chunk.begin + chunk.count == chunk.room:
            self._make_room(chunk)
        items = chunk.items + chunk.begin
        memmove(items + place + 1, items + place, (chunk.count - place) * sizeof(Pair))
        items[place] = pair
        chunk.count += 1
        self._lasts[at] = items[chunk.count - 1]
        self.length += 1
        return 0

    cdef int delete(self, int64_t first, int64_t second) except -1:
        """`remove`."""
        cdef Pair pair
        cdef Chunk *chunk
        cdef Chunk *upper
        cdef Pair *items
        cdef Py_ssize_t at, place
        pair.first, pair.second = first, second
        at = _bisect(self._lasts, self._count, &pair)
        if at == self._count:
            raise KeyError(self._item(&pair))
        chunk = self._chunks + at
        items = chunk.items + chunk.begin
        place = _bisect(items, chunk.count, &pair)
        if items[place].first != first or items[place].second != second:
            raise KeyError(self._item(&pair))
        self.length -= 1
        chunk.count -= 1
        if chunk.count == 0:
            return self._drop_chunk(at)
        if place < chunk.count - place:
            memmove(items + 1, items, place * sizeof(Pair))
            chunk.begin += 1
        else:
            memmove(items + place, items + place + 1, (chunk.count - place) * sizeof(Pair))
        self._lasts[at] = chunk.items[chunk.begin + chunk.count - 1]
        if at + 1 < self._count and chunk.count + self._chunks[at + 1].count <= CHUNK // 2:
            upper = self._chunks + at + 1
            while chunk.begin + chunk.count + upper.count > chunk.room:
                self._make_room(chunk)
            memcpy(chunk.items + chunk.begin + chunk.count, upper.items + upper.begin, upper.count * sizeof(Pair))
            chunk.count += upper.count
            self._lasts[at] = self._lasts[at + 1]
            self._drop_chunk(at + 1)
        return 0

    cdef int _make_room(self, Chunk *chunk) except -1:
        """Make room behind the items of a chunk: at its beginning, if half of its room is free there."""
        cdef Pair *items
        if chunk.begin * 2 >= chunk.room:
            memmove(chunk.items, chunk.items + chunk.begin, chunk.count * sizeof(Pair))
            chunk.begin = 0
            return 0
        items = <Pair *>PyMem_Realloc(chunk.items, 2 * chunk.room * sizeof(Pair))
        if items is NULL:
            raise MemoryError
        chunk.items = items
        chunk.room *= 2
        return 0

    cdef int _add_chunk(self, Py_ssize_t at, Py_ssize_t room) except -1:
        """Add an empty chunk."""
        cdef Chunk *chunks
        cdef Pair *lasts
        cdef Pair *items
        if self._count == self._room:
            lasts = <Pair *>PyMem_Realloc(self._lasts, (2 * self._room + 1) * sizeof(Pair))
            if lasts is NULL:
                raise MemoryError
            self._lasts = lasts
            chunks = <Chunk *>PyMem_Realloc(self._chunks, (2 * self._room + 1) * sizeof(Chunk))
            if chunks is NULL:
                raise MemoryError
            self._chunks = chunks
            self._room = 2 * self._room + 1
        items = <Pair *>PyMem_Malloc(room * sizeof(Pair))
        if items is NULL:
            raise MemoryError
        memmove(self._chunks + at + 1, self._chunks + at, (self._count - at) * sizeof(Chunk))
        memmove(self._lasts + at + 1, self._lasts + at, (self._count - at) * sizeof(Pair))
        self._chunks[at].items = items
        self._chunks[at].begin = self._chunks[at].count = 0
        self._chunks[at].room = room
        self._count += 1
        return 0

    cdef int _drop_chunk(self, Py_ssize_t at) except -1:
        """Remove a chunk."""
        PyMem_Free(self._chunks[at].items)
        self._count -= 1
        memmove(self._chunks + at, self._chunks + at + 1, (self._count - at) * sizeof(Chunk))
        memmove(self._lasts + at, self._lasts + at + 1, (self._count - at) * sizeof(Pair))
        return 0


cdef class SortedNumbers(SortedPairs):
    """Numbers in order; see `SortedList`."""

    def __cinit__(self):
        self._are_numbers = True
