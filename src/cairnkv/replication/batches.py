"""Runs of an entry that the compiled hot path carries out: what they change is committed already.

The log has come first, on every node alike: so there is nothing to wait for and nothing to undo, log time stands where
the entry has put it, and what a run changes is a part of what its entry does. `ReplicatedStore` has the readable way of
all of it; a property test holds the two equal, in effects, digest, versions and keyspaces.

What always holds: what the hot path leaves of a run is carried out the readable way in its place, and then it goes on.

Not for what a command does (`cairnkv.session.executor_native`), nor for how runs come into the log.
"""

from collections.abc import Callable
from typing import ClassVar, Final, TypeAlias

from cairnkv.storage import Effect

Gathered: TypeAlias = Callable[[list[Effect], list[int], int], None]
"""Takes what a run has come to: effects, in order; of each command that has several of them where those begin and end;
and the bytes of their keys and values, or some more."""


def log_time() -> int:
    """The clock of whoever carries out runs: never later than log time, which entries alone let go on."""
    return 0


class EffectCollector:
    """Where the hot path hands over what a run of an entry has come to: a `BatchUndo` without a log behind it."""

    undoes: ClassVar[bool] = False
    only_reads: ClassVar[bool] = False

    def __init__(self, gathered: Gathered) -> None:
        self.pending: Final[dict[bytes, int]] = {}
        """Nothing is uncommitted here, ever."""
        self._gathered = gathered

    def begin(self, now: int) -> tuple[int, int]:
        """A run begins; nothing waits for a position."""
        return 0, 0

    def end(self, effects: list[Effect], groups: list[int], size: int) -> None:
        """A run that has changed something ends."""
        self._gathered(effects, groups, size)
