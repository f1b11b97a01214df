"""Log time, and the times of the clock and of TTLs as log time.

Invariants: `now` never decreases. Out of scope: the clock that log time follows (`store.clock`).
"""


class LogTime:
    """Log time of a store, in milliseconds."""

    def __init__(self) -> None:
        self.now = 0
        """Log time in milliseconds: the greatest that `advance` was told."""
        self.lead = 0
        """Milliseconds by which log time is ahead of the proposer's clock. While it is ahead, log time advances at half
        speed."""
        self.expiring = False
        """Whether a key has ever had a deadline: only then does a reply show what time it is."""

    def advance(self, now: int) -> None:
        """Let log time go on to `now`, if that is later than it is."""
        if now > self.now:
            self.now = now

    def after(self, ttl: int) -> int:
        """Return the log time after `ttl` milliseconds of elapsed time."""
        if not self.lead:
            return self.now + ttl
        return max(self.now - -ttl // 2, self.now - self.lead + ttl)

    def at(self, unix: int) -> int:
        """Return the log time at which the clock shows `unix` milliseconds since 1970."""
        return self.after(unix - self.now + self.lead) if self.lead else unix

    def left(self, expiry: int) -> int:
        """Return the milliseconds of elapsed time until a log time."""
        return min(2 * (expiry - self.now), expiry - self.now + self.lead) if self.lead else expiry - self.now

    def unix(self, expiry: int) -> int:
        """Return the time of the clock, in milliseconds since 1970, at a log time."""
        return self.now - self.lead + self.left(expiry) if self.lead else expiry
