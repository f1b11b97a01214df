# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The native twin of `Changes.count_in`, for the effects of a batch. A test compares the two."""

import zlib

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from cpython.long cimport PyLong_AsLongLong
from libc.stdint cimport int64_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy
from operator import itemgetter

cdef extern from "crc32.h":
    uint32_t cairn_crc32(const unsigned char *data, size_t length) nogil

cdef enum:
    BUFFER_BYTES = 65536  # for one call of zlib
    NUMBERS_MAX = 80  # characters of three numbers
    VERSION_SLOTS = 65536  # as in `cairnkv.engine.database`; a test compares them

cdef object _crc32 = zlib.crc32
cdef object _by_key = itemgetter(1)


cdef class _Digest:
    """A digest with a buffer, so that zlib is called seldom."""

    cdef object digest
    cdef bytes _buffer
    cdef Py_ssize_t _size

    def __init__(self, digest):
        self.digest = digest
        self._buffer = PyBytes_FromStringAndSize(NULL, BUFFER_BYTES)
        self._size = 0

    cdef int add(self, const char *data, Py_ssize_t size) except -1:
        if self._size + size > BUFFER_BYTES:
            self.finish()
        memcpy(PyBytes_AS_STRING(self._buffer) + self._size, data, size)
        self._size += size
        return 0

    cdef int add_object(self, bytes data) except -1:
        if PyBytes_GET_SIZE(data) > BUFFER_BYTES // 4:
            self.finish()
            self.digest = _crc32(data, self.digest)
            return 0
        return self.add(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef int finish(self) except -1:
        if self._size:
            self.digest = _crc32(memoryview(self._buffer)[: self._size], self.digest)
            self._size = 0
        return 0


def digest_of(digest, list effects, list groups):
    """Return the digest after these effects, each of one key.

    groups: begin and end of the effects of each command with several; these are sorted by key.
    """
    cdef _Digest counted = _Digest(digest)
    cdef Py_ssize_t at = 0, group = 0, end
    while at < PyList_GET_SIZE(effects):
        if group < PyList_GET_SIZE(groups) and groups[group] == at:
            end = groups[group + 1]
            for effect in sorted(effects[at:end], key=_by_key):
                _count(counted, effect)
            at = end
            group += 2
        else:
            _count(counted, <tuple>effects[at])
            at += 1
    counted.finish()
    return counted.digest


cdef int _count(_Digest counted, tuple effect) except -1:
    cdef char numbers[NUMBERS_MAX]
    cdef bytes key = effect[1], value = effect[2]
    cdef int64_t expiry = 0 if effect[3] is None else PyLong_AsLongLong(effect[3])
    cdef int db = effect[0]
    counted.add(
        numbers,
        snprintf(numbers, NUMBERS_MAX, b"%d %zd %lld", db, PyBytes_GET_SIZE(key), <long long>expiry),
    )
    counted.add_object(key)
    if value is None:
        return counted.add(b"-", 1)
    counted.add(b"+", 1)
    return counted.add_object(value)


def slots_changed(list effects, set tracked):
    """Return the tracked slots that have a key of the effects."""
    cdef tuple effect
    cdef bytes key
    cdef set found = set()
    cdef int db
    for effect in effects:
        db, key = effect[0], effect[1]
        slot = (cairn_crc32(<const unsigned char *>PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)) + db) % VERSION_SLOTS
        if slot in tracked:
            found.add(slot)
    return found
