from libc.stdint cimport int64_t

from cairnkv.session.hot_table cimport HotTable

cdef enum:
    SHARED_OUTPUT = 65536  # bytes of replies to several clients before they are sent

cdef struct Conversation:
    # What a client's conversation has settled.
    int width
    int success
    int failure
    Py_ssize_t string_max
    Py_ssize_t frame_max

cdef struct Piece:
    # What a client has sent, and what came of it.
    const unsigned char *data
    Py_ssize_t length
    Conversation *conversation
    Py_ssize_t done  # bytes that were executed
    Py_ssize_t commands  # that these were
    Py_ssize_t replies_at  # in the accelerator's output
    Py_ssize_t replies_size

cdef class Accelerator:
    cdef HotTable _table
    cdef char *_out
    cdef Py_ssize_t _size
    cdef int at_piece  # the one at hand, also when something has failed
    cdef readonly int64_t commands
    cdef readonly int64_t writes
    # Of the run at hand:
    cdef Conversation *_conversation
    cdef Py_ssize_t _room_end  # where the replies to this piece have to end
    cdef int execute(self, Piece *pieces, int count) except -1
