"""A clock that moves only when a test moves it."""


class HandClock:
    """Gives the milliseconds it was set to. May be set back, as a system's clock may."""

    def __init__(self, now: int = 1_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, milliseconds: int) -> None:
        """Let time pass; a negative number sets the clock back."""
        self.now += milliseconds
