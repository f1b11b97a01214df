"""The log's contract: where a write becomes safe before it is acknowledged.

What always holds: positions count up from 1 without gaps, but those of entries that failed may be given again.
Commits are in order, so that position n committed means all before n are. An appended entry either commits or
fails, and with it all appended behind it.

Not for the state: a log knows nothing of keyspaces, and the store nothing of how a log keeps its word.
"""

from collections.abc import Sequence
from typing import Protocol

from cairnkv.commands import Step


class LogListener(Protocol):
    """What a log tells its store. Called in the thread that uses the store."""

    def committed(self, position: int) -> None:
        """Everything up to this position is safe."""

    def failed(self, reason: str, *, unknown: bool) -> None:
        """Everything appended and not committed is off.

        unknown: False when none of it can appear later, True when nobody can tell.
        """


class Log(Protocol):
    """Where writes go before they are acknowledged."""

    size: str
    """What a store with this log is called: process, disk or quorum."""
    commits_at_once: bool
    """Whether an entry is committed when `append` returns; such a log never calls its listener."""

    def listen(self, listener: LogListener) -> None:
        """Tell this listener from now on. Called once, before the first append."""

    def append(self, steps: Sequence[Step], now: int) -> int:
        """Take an entry, writes that are applied together at log time `now` (ms), and return its position.

        Raises `LogRefused` when it takes none at present; nothing has happened then.
        """

    def close(self) -> None:
        """Commit or fail what is under way, and take no more."""


class LogRefused(Exception):
    """The log takes no entries at present; the text says why."""
