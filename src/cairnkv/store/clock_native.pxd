from libc.stdint cimport int64_t

cdef class NativeClock:
    cdef object _clock
    cdef object _log, _shared  # a `LogClock` and the owner of its log time; None: log time is the clock
    cdef bint _wall  # whether that is the system's clock
    cdef int64_t milliseconds(self) except? -1
    cdef bint in_step(self, int64_t now) except -1
    cdef int64_t log_time(self) except? -1
