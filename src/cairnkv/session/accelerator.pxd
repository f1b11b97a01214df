from cpython.object cimport PyObject
from libc.stdint cimport int64_t

cdef struct Conversation:
    # What a client's conversation has settled.
    int width
    int success
    int failure
    Py_ssize_t string_max
    Py_ssize_t frame_max

cdef enum:
    AHEAD_MAX = 16  # frames whose keys are looked at before the first of them is executed

cdef struct Ahead:
    # A key that was met while looking ahead.
    const unsigned char *at  # where it stands
    PyObject *key  # a reference of our own, until it is taken
    PyObject *bucket  # borrowed
    PyObject *values  # borrowed

cdef class Accelerator:
    cdef object _keyspace
    cdef object _clock
    cdef bint _wall  # whether that is the system's clock
    cdef char *_out
    cdef Py_ssize_t _size
    cdef readonly int64_t commands
    cdef readonly int64_t writes
    # From `begin` to `end`:
    cdef object _table
    cdef list _directory
    cdef int _shift
    cdef int64_t _now
    cdef int64_t _keys
    cdef int64_t _used
    # Of the run at hand:
    cdef Conversation *_conversation
    cdef Ahead _ahead[AHEAD_MAX]
    cdef int _ahead_count
    cdef int _ahead_next
    cdef int begin(self) except -1
    cdef int end(self) except -1
    cdef int64_t time(self) except? -1
    cdef PyObject *value_of(self, bytes key) except? NULL
    cdef bint store(self, bytes key, bytes value) except -1
    cdef Py_ssize_t execute(self, const unsigned char *data, Py_ssize_t length, Conversation *conversation) except -1
