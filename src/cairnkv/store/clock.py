"""What time it is: the system's clock, and the log time that follows it. The keyspace only ever sees an argument.

Invariants: log time never goes back, whatever the clock does. Where log time is ahead of the clock, which was wrong and
was put right, log time advances by elapsed time at half speed until they meet, so that expiry never stands still. How
far it is ahead (`Shared.lead`) is given with it: times to live count elapsed time by that (`Shared.after`).

Out of scope: what expires (`keyspace`), and whether nodes' clocks agree (`server.clocks`).
"""

import logging
import time
from collections.abc import Callable
from typing import Final, TypeAlias

from cairnkv.keyspace import Shared

_log: Final = logging.getLogger("cairnkv.store")

Clock: TypeAlias = Callable[[], int]
"""Gives the time in milliseconds since 1970, UTC. It may go back; log time will not."""

JUMP_MS: Final = 3_600_000
"""By how much the clock has to go forward at once, beside elapsed time, to be worth a warning."""

LEAD_MS: Final = 60_000
"""How far log time has to be ahead of the clock to be worth a warning."""

IN_STEP_MS: Final = 1_000
"""How far the clock may be ahead of log time without a look at elapsed time; for the native path."""


def wall_clock() -> int:
    """The system's clock."""
    return time.time_ns() // 1_000_000


class LogClock:
    """Log time as a clock says it. A call lets a store's log time go on, and returns it."""

    def __init__(self, wall: Clock, shared: Shared, tolerance: int = 0) -> None:
        """wall: may be set. Elapsed time is the system's monotonic clock, or how far another clock has gone forward.

        shared: whose log time it is. tolerance: by how many ms log time may be ahead and just wait for the clock.
        """
        self.wall: Final = wall
        self.shared: Final = shared
        self._tolerance = tolerance
        self._is_system = wall is wall_clock
        self._last_wall: int | None = None
        self._forward = 0  # how far a clock that is not the system's has gone forward
        self._offset: int | None = None  # the clock minus elapsed time, when both were looked at last
        self._base: tuple[int, int] | None = None  # while log time is ahead: a log time, and elapsed time then

    def __call__(self) -> int:
        """Let the store's log time go on to what it is now."""
        self.shared.now, self.shared.lead = self.read(self.shared.now)
        return self.shared.now

    def go_on_from(self, other: "LogClock") -> None:
        """Know what another one of the same clock does."""
        self._last_wall, self._forward = other._last_wall, other._forward
        self._offset, self._base = other._offset, other._base

    def read(self, past: int) -> tuple[int, int]:
        """Log time, and how far it is ahead of the clock. It is no less than `past`, but for the tolerance."""
        wall = self.wall()
        elapsed = self._elapsed(wall)
        offset, self._offset = self._offset, wall - elapsed
        now = past
        if self._base is not None:
            since, at = self._base
            now = since + (elapsed - at) // 2
            if now < past:  # others have let it go on further
                self._base = past, elapsed
                now = past
        if wall + self._tolerance >= now:
            if offset is not None and self._offset - offset >= JUMP_MS:
                _log.warning(
                    "the system clock went forward by %s beside elapsed time: keys whose time to live ended before are "
                    "expired. If the clock is wrong now, set it right: times to live go on to count elapsed time",
                    _spelled(self._offset - offset),
                )
            self._base = None
            return wall, 0
        if self._base is None:
            # Had the clock not been set, it would have been at `past` when so much time had elapsed.
            self._base = past, elapsed if offset is None else min(elapsed, past - offset)
            if past - wall >= LEAD_MS:
                _log.warning(
                    "log time is %s ahead of the system clock, which was ahead before: log time runs at half speed "
                    "until they meet, and times to live count elapsed time",
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
