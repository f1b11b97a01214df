"""The log's contract: where a write becomes safe before it is acknowledged.

What always holds: sequences count up from 1 without gaps, but those of entries that failed may be given again.
Commits are in order, so that sequence n committed means all before n are. An appended entry either commits or
fails, and with it all appended behind it.

Not for the state: a log puts what it kept into the keyspaces once, as the store begins, and does not look at them
afterwards; the store knows nothing of how a log keeps its word.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeAlias

from cairnkv.commands import Step, failures
from cairnkv.commands.failures import Code
from cairnkv.engine import Database

Deliver: TypeAlias = Callable[[Callable[[], None]], object]
"""Has a function called in the thread that uses the store, soon; any thread may ask for that. One that raises
`RuntimeError` has no such thread any more."""


Effect: TypeAlias = tuple[int, bytes | None, bytes | None, int | None]
"""What stands in a keyspace after an entry: keyspace, key, value and deadline. No value: the key is not there. No key:
nothing is there. A plain tuple, since the hot path makes one for each write."""


LARGE_VALUE_BYTES: Final = 64 * 1024
"""Length in bytes above which a change of the expiry alone does not rewrite the value."""


class Redated(NamedTuple):
    """An effect that changes only the expiry of a large value."""

    db: int
    key: bytes
    value: bytes
    expiry: int | None


def size_of_effects(effects: Sequence[Effect]) -> int:
    """Return the bytes of the effects' keys and written values."""
    return sum(
        len(effect[1] or b"") + (0 if isinstance(effect, Redated) else len(effect[2] or b"")) for effect in effects
    )


def nobody(_: int) -> None:
    """Progress that nobody looks at."""


class Made(NamedTuple):
    """A backup that was made.

    size: bytes of its files; new: of those that no earlier backup beside it has.
    began_ms, ended_ms: when, in milliseconds since 1970.
    """

    path: Path
    size: int
    new: int
    began_ms: int
    ended_ms: int


class BackUp(Protocol):
    """Makes a backup; see `Storage.back_up`."""

    def __call__(
        self,
        directory: Path,
        *,
        keep: int | None = None,
        expect: Callable[[int], None] = nobody,
        progress: Callable[[int], None] = nobody,
    ) -> Made:
        """Make one."""


class CommitListener(Protocol):
    """What a log tells its store. Called in the thread that uses the store."""

    def committed(self, sequence: int) -> None:
        """Everything up to this sequence is safe."""

    def failed(self, reason: str, *, unknown: bool, unresolved: Sequence[Effect] = ()) -> None:
        """Everything appended and not committed is off.

        unknown: False when none of it can appear later, True when nobody can tell.
        unresolved: what may appear later after all; `resolved` will say. Nothing is taken before that.
        """

    def resolved(self, happened: Sequence[Effect]) -> None:
        """Of what was unresolved this is there, in this order, and nothing else."""


class Storage(Protocol):
    """Where writes go before they are acknowledged."""

    mode: str
    """The mode of a store with this storage: in-memory, durable or replicated."""
    commits_at_once: bool
    """Whether an entry is committed when `append` returns; such a log never calls its listener."""
    keeps_effects: bool
    """Whether it keeps what entries change, not their commands: only then is `append` told, and `restore` of use."""

    def restore(self, databases: Sequence[Database], memory_limit: int | None = None) -> int:
        """Put what was kept into the keyspaces, log time included, and return the sequence of its newest entry.

        memory_limit: bytes that entries may take, by the table's estimate; values beyond it are left cold.
        Called once, before anything but `deliver_by`, `about` and `close`, and maybe in a thread of its own, while the
        store's goes on to ask for these two. Raises `LoadingStopped` where `close` comes before the end.
        """

    def deliver_by(self, deliver: Deliver) -> None:
        """How to reach the thread that uses the store. Until it is told, the log tells its listener nothing."""

    def listen(self, listener: CommitListener) -> None:
        """Tell this listener from now on. Called once, before the first append."""

    @property
    def takes(self) -> bool:
        """Whether it takes an entry now, however large."""

    @property
    def is_behind(self) -> bool:
        """Whether half of what may wait for it does."""

    @property
    def memory_bytes(self) -> int:
        """Bytes of the memory limit that the log uses itself."""

    @property
    def sequence(self) -> int:
        """That of the newest entry."""

    def append(self, steps: Sequence[Step], now: int, effects: Sequence[Effect] = (), size: int | None = None) -> int:
        """Take an entry, writes that are applied together at log time `now` (ms), and return its sequence.

        effects: what that comes to, in order, for a log that keeps effects; such a log needs no steps. size: bytes of
        their keys and values, if they are known.
        An entry without steps says that log time was shown up to `now`.
        Raises `StorageRefused` when it takes none at present; nothing has happened then.
        """

    def expired(self, db: int, keys: Sequence[bytes], now: int) -> None:
        """The time of these keys was over at log time `now`, and nobody waits for what the log makes of that."""

    def fetch(self, db: int, key: bytes, length: int, told: Callable[[bytes | Exception], None]) -> None:
        """Begin to read the value of an entry that is committed, of so many bytes. Only of a log that keeps effects.

        told: called in the thread that uses the store, with the value, or with what was wrong; later, or at once when
        it cannot be asked for. The entry may have changed meanwhile, and then either may be told.
        """

    def close(self, now: int) -> None:
        """Commit or fail what is under way, and take no more.

        now: log time as it was shown; an entry without steps may have spoken of later.
        """

    def about(self) -> Iterable[tuple[str, str | int]]:
        """What INFO tells of the log besides its size."""

    @property
    def back_up(self) -> BackUp | None:
        """Makes a backup of what is kept, among those in a directory; None: nothing is kept.

        Everything appended before it is called is in the backup, and what comes later up to some commit. It takes as
        long as the disk does, so it is called in a thread of its own, while the store goes on.
        keep: so many of the newest backups are kept, this one included; None: all. expect: told how many bytes it will
        have; progress: how many more are done. What that raises ends the backup, of which nothing is left then.
        Raises `OptionError` where one is made already, `StorageRefused` when the log is broken, `OSError`.
        """


class StorageRefused(Exception):
    """The log takes no entries at present; the text says why.

    code: of the failure that the command ends with, which was not executed.
    """

    def __init__(self, text: str, code: Code = failures.UNDONE) -> None:
        super().__init__(text)
        self.code = code


class LoadingStopped(Exception):
    """The log was closed while it was read."""
