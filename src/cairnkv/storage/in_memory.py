"""Storage of the in-memory mode: it keeps nothing, so every entry is committed at once."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from cairnkv.commands import Step
from cairnkv.engine import Database
from cairnkv.storage.base import CommitListener, Deliver, Effect, MakeBackup


class InMemoryStorage:
    """Counts entries. See `Storage`."""

    mode = "in-memory"
    commits_at_once = True
    keeps_effects = False
    accepts_writes = True
    is_behind = False
    memory_bytes = 0
    back_up: MakeBackup | None = None

    def __init__(self) -> None:
        self.sequence = 0

    def listen(self, listener: CommitListener) -> None:
        """Do nothing: entries are committed when `append` returns."""

    def restore(self, databases: Mapping[int, Database], memory_limit: int | None = None) -> int:
        """Load nothing."""
        return self.sequence

    def deliver_by(self, deliver: Deliver) -> None:
        """Do nothing."""

    def append(self, steps: Sequence[Step], now: int, effects: Sequence[Effect] = (), size: int | None = None) -> int:
        """Count the entry."""
        self.sequence += 1
        return self.sequence

    def expired(self, db: int, keys: Sequence[bytes], now: int) -> None:
        """Do nothing."""

    def fetch(self, db: int, key: bytes, length: int, on_value: Callable[[bytes | Exception], None]) -> None:
        """Raise NotImplementedError: there are no cold values."""
        raise NotImplementedError

    def close(self, now: int) -> None:
        """Do nothing."""

    def about(self) -> Iterable[tuple[str, str | int]]:
        """Yield nothing."""
        return ()
