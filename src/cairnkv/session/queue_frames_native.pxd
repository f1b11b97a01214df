from libc.stdint cimport int64_t

from cairnkv.session.executor_native cimport FrameExecutor, Scanned

cdef enum:
    MESSAGES_MAX = 1000  # of a command, as TAKE_MAX; the module checks it
    STRINGS_MAX = 2 * MESSAGES_MAX + 1  # of a command; the pure path executes longer ones
    TAKEN_BYTES = 168  # maximum bytes of a message in a reply, besides its group and its body

cdef struct Strings:
    # The arguments of a command, in the memory of its frame. any_case: whether its keywords may have any case.
    Py_ssize_t count
    const unsigned char **at
    const Py_ssize_t *size
    bint any_case

cdef int64_t put_message(FrameExecutor self, const Strings *strings) except -1
cdef int64_t put_messages(FrameExecutor self, const Strings *strings) except -1
cdef bint take_messages(FrameExecutor self, const Strings *strings, Py_ssize_t room) except -1
cdef Py_ssize_t ack_messages(FrameExecutor self, const Strings *strings, char *replies) except -1

cdef bint scan_put(FrameExecutor self, const Strings *strings, Scanned *found) except -1
cdef bint scan_put_many(FrameExecutor self, const Strings *strings, Scanned *found) except -1
cdef bint scan_take(FrameExecutor self, const Strings *strings, Scanned *found) except -1
cdef bint scan_ack(FrameExecutor self, const Strings *strings, Scanned *found) except -1
