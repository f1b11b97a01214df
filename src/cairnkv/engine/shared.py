"""What the keyspaces of one store share: log time, the journal, the versions of keys, and each other.

A store has several keyspaces, each with a number, as Redis has databases. A command speaks of one of them, a few of
two, a transaction of as many as it likes; so one journal takes all of it back, and one time goes on for all.

What always holds: `now` never decreases. A key whose visible entry was changed, or changed back, has another version
than before; only what befalls all keys of a keyspace at once, or time, shows in no version. Keys share versions, so
one may seem to have changed that has not; the other way round never.

Not for what stands under a key (the keyspace).
"""

import zlib
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from cairnkv.records import record

if TYPE_CHECKING:
    from cairnkv.engine.database import Database

VERSION_SLOTS: Final = 1 << 16
"""Versions that are kept: a key has the one of its slot, see `version_slot`. Half a megabyte for all keyspaces;
with more slots fewer transactions would be given up for a change of some other key."""


def version_slot(db: int, key: bytes) -> int:
    """Which version a key has: never that of a key with the same name in another keyspace."""
    return (zlib.crc32(key) + db) % VERSION_SLOTS


class Change(Protocol):
    """One entry of a journal: something that was changed, and how to take that back."""

    @property
    def database(self) -> "Database":
        """Where that was."""

    @property
    def keys(self) -> Sequence[bytes]:
        """The single keys that were."""

    def settle(self, pending: dict[bytes, int], position: int) -> None:
        """Take out the keys whose newest uncommitted change this was: `pending` says which position that has."""

    def undo(self) -> None:
        """Restore what was there before. Only what came later may have been undone before it."""

    def forget(self) -> None:
        """Let go of what was kept for that."""


Journal: TypeAlias = list[Change]


def undo(journal: Journal) -> None:
    """Take the changes of a journal back, newest first."""
    for change in reversed(journal):
        change.undo()


def forget(journal: Journal) -> None:
    """Let go of a journal that will not be undone."""
    for change in journal:
        change.forget()


@record
class Watched:
    """What a key was like when somebody began to watch it; `Database.is_unchanged` compares."""

    key: bytes
    version: int
    cleared: int  # how often its keyspace had been cleared
    restored: int  # ... and how often that had been undone
    there: bool
    expiry: int | None


class Shared:
    """What keyspaces share. Each that is made with it adds itself to `databases`."""

    def __init__(self) -> None:
        self.now = 0
        """Log time in milliseconds: the greatest that `advance` was told."""
        self.lead = 0
        """Milliseconds by which log time is ahead of the proposer's clock. While it is ahead, log time advances at half
        speed."""
        self.journal: Journal | None = None
        """Where changes leave what they replaced; None when nothing will be undone."""
        self.expiring = False
        """Whether a key has ever had a deadline: only then does a reply show what time it is."""
        self.versions = array("Q", bytes(8 * VERSION_SLOTS))
        self.databases: list[Database] = []

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

    def version(self, db: int, key: bytes) -> int:
        """A number that is another one after every change of the key."""
        return self.versions[version_slot(db, key)]

    def changed(self, db: int, key: bytes) -> None:
        """The key has another value, deadline, or none any more."""
        self.versions[version_slot(db, key)] += 1
