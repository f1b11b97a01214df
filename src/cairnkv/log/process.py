"""The log of the process size: a write is as safe as this process is, so it is safe at once."""

from collections.abc import Sequence

from cairnkv.commands import Step
from cairnkv.log.base import LogListener


class ProcessLog:
    """Commits each entry as it is appended, and keeps none."""

    size = "process"
    commits_at_once = True

    def __init__(self) -> None:
        self._position = 0

    def listen(self, listener: LogListener) -> None:
        """Nothing is ever told: entries are committed when `append` returns."""

    def append(self, steps: Sequence[Step], now: int) -> int:
        """Count the entry."""
        self._position += 1
        return self._position

    def close(self) -> None:
        """There is nothing under way."""
