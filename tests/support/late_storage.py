"""Storage that commits when a test says so: late, in batches, or never.

It keeps the contract of `cairnkv.storage.base` and shows what it was given, so that a test can play the disk or
the majority that a reply waits for.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from cairnkv.commands import Command, Step
from cairnkv.engine import Database
from cairnkv.storage import CommitListener, Deliver, Effect, MakeBackup, StorageRefused


@dataclasses.dataclass(frozen=True)
class Entry:
    """One write, as the log was given it."""

    sequence: int
    steps: tuple[Step, ...]
    now: int
    effects: tuple[Effect, ...] = ()

    @property
    def command(self) -> Command:
        """The only command of it."""
        (step,) = self.steps
        assert step.db == 0
        return step.command


class LateStorage:
    """Keeps entries pending until `commit` or `fail` is called.

    reuse_sequences: count on from the last commit after a failure, as a log does that cuts its end off;
    otherwise from the last append, as one does that never gives a sequence twice. The contract allows both.
    keeps_effects: take what entries come to as well, as a disk does; then the native path may collect entries.
    """

    mode = "late"
    commits_at_once = False
    back_up: MakeBackup | None = None

    def __init__(self, *, reuse_sequences: bool = False, keeps_effects: bool = False) -> None:
        self.keeps_effects = keeps_effects
        self.committed: list[Entry] = []
        self.pending: list[Entry] = []
        self.refusal: str | None = None
        """Set to a reason, the log takes no entries."""
        self.surprise: str | None = None
        """The same, but it does not say so before: as a log that breaks between a look at it and the entry."""
        self.closed = False
        self.deliver: Deliver = lambda call: call()
        """Calls a function when the store may be called."""
        self._reuse_sequences = reuse_sequences
        self._last = 0
        self._listener: CommitListener | None = None

    # -- the contract ---------------------------------------------------------------------------------------

    def listen(self, listener: CommitListener) -> None:
        """Tell this listener."""
        assert self._listener is None, "listen is called once"
        self._listener = listener

    def restore(self, databases: Mapping[int, Database], memory_limit: int | None = None) -> int:
        """It begins empty."""
        return 0

    def deliver_by(self, deliver: Deliver) -> None:
        """A test calls it in the thread that uses the store, or through this."""
        self.deliver = deliver

    def expired(self, db: int, keys: Sequence[bytes], now: int) -> None:
        """It keeps commands."""

    def about(self) -> Iterable[tuple[str, str | int]]:
        """Nothing."""
        return ()

    @property
    def accepts_writes(self) -> bool:
        """Whether it refuses at present."""
        return self.refusal is None

    @property
    def is_behind(self) -> bool:
        """Never."""
        return False

    @property
    def memory_bytes(self) -> int:
        """None."""
        return 0

    @property
    def sequence(self) -> int:
        """That of the newest entry."""
        return self._last

    def append(self, steps: Sequence[Step], now: int, effects: Sequence[Effect] = (), size: int | None = None) -> int:
        """Keep an entry pending."""
        assert not self.closed
        if (reason := self.refusal or self.surprise) is not None:
            raise StorageRefused(reason)
        self._last += 1
        self.pending.append(Entry(self._last, tuple(steps), now, tuple(effects)))
        return self._last

    def fetch(self, db: int, key: bytes, length: int, told: Callable[[bytes | Exception], None]) -> None:
        """It keeps commands."""
        raise NotImplementedError

    def close(self, now: int) -> None:
        """Commit what is under way."""
        self.commit()
        self.closed = True

    # -- what a test says -----------------------------------------------------------------------------------

    def commit(self, count: int | None = None) -> None:
        """Commit the oldest `count` pending entries as one batch; all of them by default."""
        assert self._listener is not None
        batch = self.pending[:count]
        if batch:
            self.pending = self.pending[len(batch) :]
            self.committed += batch
            self._listener.committed(batch[-1].sequence)

    def fail(self, reason: str = "the disk is gone", *, unknown: bool = False) -> None:
        """Fail everything that is pending."""
        assert self._listener is not None
        self.pending.clear()
        if self._reuse_sequences:
            self._last = self.committed[-1].sequence if self.committed else 0
        self._listener.failed(reason, unknown=unknown)
