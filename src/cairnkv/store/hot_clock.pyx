# cython: language_level=3
"""A store's clock for the compiled parts: where it is the system's, it is read without asking Python."""

from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from cairnkv.store.clock import wall_clock


cdef class HotClock:
    """A clock, as `cairnkv.store.clock` defines one."""

    def __init__(self, clock):
        self._clock = clock
        self._wall = clock is wall_clock

    cdef int64_t milliseconds(self) except? -1:
        """The time in ms since 1970. Where the clock is not the system's, Python code runs."""
        cdef timespec now
        if not self._wall:
            return self._clock()
        clock_gettime(CLOCK_REALTIME, &now)
        return <int64_t>now.tv_sec * 1000 + now.tv_nsec // 1000000
