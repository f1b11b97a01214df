from libc.stdint cimport int64_t

cdef struct Mark:
    # A reply that may have to wait.
    int64_t end  # its end in the output
    int64_t wait  # the entry that it waits for
    int64_t wrote  # whether its command is a write

cdef class PendingBatch:
    cdef public object on_ready
    cdef readonly object reply
    cdef bytes _replies
    cdef bytes _marks
    cdef int64_t _start, _waiting
    cdef Py_ssize_t _charged  # bytes that it counts as while it waits
    cdef bint _awaits_execution  # whether the commands are not executed yet
    cdef readonly bint writes  # whether these include writes
    cdef public bint abandoned
    cdef list _parts
    cdef Py_ssize_t kept  # bytes of replies that were added
    cdef int64_t _refused_from  # the entry that was refused
    cdef object _refusal  # and why; None: no entry was
    cdef list _split(self, int64_t committed, write_failure, read_failure)

    cdef int add(self, replies, Py_ssize_t size) except -1

cdef PendingBatch awaited_batch(Py_ssize_t charged, bint writes)
cdef PendingBatch pending_batch(const char *output, int64_t start, int64_t waiting, int64_t end, const Mark *marks, int count)
