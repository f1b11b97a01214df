"""The system's clock, and the log time that follows it. The engine gets log time as an argument.

Invariants: log time never goes back, even if the clock does. If log time is ahead of the clock, because the clock was
wrong and is corrected, log time advances by elapsed time at half speed until the clock catches up, so expiry never
stops. `Shared.lead` says how far log time is ahead; with it, TTLs count elapsed time (`Shared.after`).

Out of scope: expiry of keys (`database`), and the difference between nodes' clocks (`replication.clocks`).
"""

import logging
import time
from collections.abc import Callable
from typing import Final, TypeAlias

from cairnkv.engine import Shared
from cairnkv.errors import OptionError
from cairnkv.limits import CLOCK_MAX

logger: Final = logging.getLogger("cairnkv.store")

Clock: TypeAlias = Callable[[], int]
"""Gives the time in milliseconds since 1970, UTC. It may go back; log time will not."""

JUMP_MS: Final = 3_600_000
"""Jump of the clock, relative to elapsed time, from which on the store warns."""

LEAD_MS: Final = 60_000
"""Lead of log time over the clock from which on the store warns."""

SKIP_MS: Final = 1_000
"""Forward jump of the clock, relative to elapsed time, from which on the store moves the ends of leases: a skip."""

IN_STEP_MS: Final = 1_000
"""Lead of the clock over log time up to which the native path does not check elapsed time."""


def wall_clock() -> int:
    """The system's clock."""
    return time.time_ns() // 1_000_000


def checked_clock(clock: Clock) -> Clock:
    """Return the clock; a caller's clock is wrapped, to return whole milliseconds or raise `OptionError`.

    Raises `OptionError` if it is not a function, or does not return a time now.
    """
    if clock is wall_clock:
        return clock
    if not callable(clock):
        raise OptionError(f"clock is a function that returns milliseconds since 1970, not {clock!r:.80}")

    def milliseconds() -> int:
        now: object = clock()  # whatever its annotation says
        if isinstance(now, int | float) and 0 <= now <= CLOCK_MAX:
            return int(now)
        raise OptionError(
            f"clock returned {now!r:.80}; it has to return milliseconds since 1970, at most {CLOCK_MAX:,}"
        )

    milliseconds()
    return milliseconds


class LogClock:
    """The log time of a store, by a clock. A call advances the store's log time and returns it."""

    def __init__(self, wall: Clock, shared: Shared, tolerance: int = 0) -> None:
        """wall: a clock that operators may set. For the system's clock, elapsed time is the system's monotonic clock;
        for other clocks, it is the sum of their forward steps.

        shared: the owner of log time. tolerance: milliseconds up to which log time only waits for the clock.
        """
        self.wall: Final = wall
        self.shared: Final = shared
        self._tolerance = tolerance
        self._is_system = wall is wall_clock
        self._last_wall: int | None = None
        self._forward = 0  # sum of the forward steps of a clock other than the system's
        self._offset: int | None = None  # clock minus elapsed time, at the last call
        self._base: tuple[int, int] | None = None  # while log time is ahead: a log time, and its elapsed time
        self.skip: tuple[int, int] | None = None
        """The skip: the two times of a jump of the clock without elapsed time, or of several. The owner removes it."""
        self.before_skip: Callable[[int], None] = lambda then: None
        """Called with the end of a skip, before log time goes forward to it."""

    def __call__(self) -> int:
        """Advance the store's log time and return it."""
        now, lead = self.read(self.shared.now)
        if self.skip is not None:
            (begin, end), self.skip = self.skip, None
            if (begin := max(self.shared.now, begin)) < end:
                self.shared.now, self.shared.lead = begin, 0
                self.before_skip(end)
        self.shared.now, self.shared.lead = now, lead
        return now

    def elapsed(self) -> int:
        """Return the elapsed time in milliseconds, for waits. With a clock other than the system's, it is the system's
        elapsed time, and the forward steps of the clock."""
        now = time.monotonic_ns() // 1_000_000
        return now if self._is_system else now + self._elapsed(self.wall())

    def go_on_from(self, other: "LogClock") -> None:
        """Copy the state of another `LogClock` of the same clock."""
        self._last_wall, self._forward = other._last_wall, other._forward
        self._offset, self._base = other._offset, other._base

    def read(self, past: int) -> tuple[int, int]:
        """Return log time, at least `past` less the tolerance, and its lead over the clock."""
        wall = self.wall()
        elapsed = self._elapsed(wall)
        offset, self._offset = self._offset, wall - elapsed
        jump = 0 if offset is None else self._offset - offset
        if jump >= SKIP_MS:
            skipped = jump if self.skip is None else jump + self.skip[1] - self.skip[0]
            self.skip = wall - skipped, wall
        elif self.skip is not None and wall < self.skip[1]:  # it was set back
            self.skip = None
        now = past
        if self._base is not None:
            since, at = self._base
            now = since + (elapsed - at) // 2
            if now < past:  # another caller advanced it further
                self._base = past, elapsed
                now = past
        if wall + self._tolerance >= now:
            if jump >= JUMP_MS:
                logger.warning(
                    "the system clock went forward by %s relative to elapsed time: keys with an earlier expiry time "
                    "have expired. If the clock is wrong now, correct it: TTLs will count elapsed time",
                    _spelled(jump),
                )
            self._base = None
            return wall, 0
        if self._base is None:
            # The elapsed time at which the uncorrected clock would have shown `past`.
            self._base = past, elapsed if offset is None else min(elapsed, past - offset)
            if past - wall >= LEAD_MS:
                logger.warning(
                    "log time is %s ahead of the system clock, which was ahead before: log time advances at half speed "
                    "until the clock catches up, and TTLs count elapsed time",
                    _spelled(past - wall),
                )
            now = past + (elapsed - self._base[1]) // 2
        return now, now - wall

    def _elapsed(self, wall: int) -> int:
        if self._is_system:
            return time.monotonic_ns() // 1_000_000
        if self._last_wall is not None:
            self._forward += max(0, wall - self._last_wall)
        self._last_wall = wall
        return self._forward


def _spelled(milliseconds: int) -> str:
    minutes, seconds = divmod(milliseconds // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min {seconds} s"
