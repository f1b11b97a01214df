"""The log of the process size: a write is as safe as this process is, so it is safe at once."""

from collections.abc import Callable, Iterable, Sequence

from cairnkv.commands import Step
from cairnkv.engine import Database
from cairnkv.storage.base import BackUp, CommitListener, Deliver, Effect


class InMemoryStorage:
    """Commits each entry as it is appended, and keeps none."""

    mode = "in-memory"
    commits_at_once = True
    keeps_effects = False
    back_up: BackUp | None = None

    def __init__(self) -> None:
        self.sequence = 0

    def listen(self, listener: CommitListener) -> None:
        """Nothing is ever told: entries are committed when `append` returns."""

    def restore(self, databases: Sequence[Database], memory_limit: int | None = None) -> int:
        """There is nothing to restore."""
        return self.sequence

    def deliver_by(self, deliver: Deliver) -> None:
        """Nothing is ever told."""

    @property
    def takes(self) -> bool:
        """It always does."""
        return True

    @property
    def is_behind(self) -> bool:
        """Return False: no write waits."""
        return False

    @property
    def memory_bytes(self) -> int:
        """None."""
        return 0

    def append(self, steps: Sequence[Step], now: int, effects: Sequence[Effect] = (), size: int | None = None) -> int:
        """Count the entry."""
        self.sequence += 1
        return self.sequence

    def expired(self, db: int, keys: Sequence[bytes], now: int) -> None:
        """Nothing is kept of them."""

    def fetch(self, db: int, key: bytes, length: int, told: Callable[[bytes | Exception], None]) -> None:
        """No value is anywhere else."""
        raise NotImplementedError

    def close(self, now: int) -> None:
        """There is nothing under way."""

    def about(self) -> Iterable[tuple[str, str | int]]:
        """There is nothing to tell."""
        return ()
