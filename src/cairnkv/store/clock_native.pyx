# cython: language_level=3
"""A store's clock for the compiled parts: where it is the system's, it is read without asking Python."""

from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from cairnkv.store.clock import IN_STEP_MS as _IN_STEP_MS
from cairnkv.store.clock import LogClock, wall_clock

cdef int64_t IN_STEP_MS = _IN_STEP_MS


cdef class NativeClock:
    """A clock, as `cairnkv.store.clock` defines one."""

    def __init__(self, clock):
        """clock: returns the time of the clock, or a `LogClock`."""
        self._log = self._shared = None
        if isinstance(clock, LogClock):
            self._log, self._shared, clock = clock, clock.shared, clock.wall
        self._clock = clock
        self._wall = clock is wall_clock

    cdef int64_t milliseconds(self) except? -1:
        """The time in ms since 1970. Where the clock is not the system's, Python code runs."""
        cdef timespec now
        if not self._wall:
            return self._clock()
        clock_gettime(CLOCK_REALTIME, &now)
        return <int64_t>now.tv_sec * 1000 + now.tv_nsec // 1000000

    cdef bint in_step(self, int64_t now) except -1:
        """Return whether log time follows the clock, which shows `now`. If not, ask `LogClock` for log time."""
        return self._log is None or (<int64_t>self._shared.lead == 0 and 0 <= now - <int64_t>self._shared.now < IN_STEP_MS)

    cdef int64_t log_time(self) except? -1:
        """Return the current log time. If log time follows the clock, the caller must store it."""
        cdef int64_t now = self.milliseconds()
        return now if self.in_step(now) else self._log()
