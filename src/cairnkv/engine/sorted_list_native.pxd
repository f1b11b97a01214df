"""Sorted lists of pairs of numbers, for `queue_native`."""

from libc.stdint cimport int64_t

cdef struct Pair:
    int64_t first
    int64_t second

cdef struct Chunk:
    # The items at `begin` and after it. room: items that the memory has room for.
    Pair *items
    Py_ssize_t begin
    Py_ssize_t count
    Py_ssize_t room

cdef class SortedPairs:
    cdef Chunk *_chunks
    cdef Pair *_lasts  # the last item of each chunk
    cdef Py_ssize_t _count, _room  # of chunks
    cdef Py_ssize_t length
    cdef bint _are_numbers  # whether the items are numbers, not pairs
    cdef int insert(self, int64_t first, int64_t second) except -1
    cdef int delete(self, int64_t first, int64_t second) except -1
    cdef Pair *head(self) noexcept
    cdef Pair *at(self, Py_ssize_t *chunk, Py_ssize_t *place) noexcept
    cdef Pair _pair(self, object item) except *
    cdef object _item(self, const Pair *pair)
    cdef int _add_chunk(self, Py_ssize_t at, Py_ssize_t room) except -1
    cdef int _drop_chunk(self, Py_ssize_t at) except -1
    cdef int _make_room(self, Chunk *chunk) except -1

cdef class SortedNumbers(SortedPairs):
    pass
