from libc.stdint cimport int64_t

cdef class HotClock:
    cdef object _clock
    cdef bint _wall  # whether that is the system's clock
    cdef int64_t milliseconds(self) except? -1
