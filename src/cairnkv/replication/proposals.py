"""Proposals of a node: pending replies that wait for their entry of the log, and the changes that an entry makes.

Invariants: a pending reply is completed once, with a reply or a failure. When an entry comes back, its commands execute
on every node, also if the client has already received a failure.

Out of scope: when an entry has come back (`store`), and batches of the native path
(`cairnkv.session.proposals_native`).
"""

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Final, Protocol

from cairnkv.commands import Failure, Reply
from cairnkv.replication.entries import Item
from cairnkv.replication.proposer import Proposal
from cairnkv.storage import Effect
from cairnkv.storage.base import size_of_effects
from cairnkv.store.pending import PendingReply


class Changes:
    """The changes of an entry: effects for the node's table, and the digest of the state.

    size: bytes of the effects' keys and values; more if a command of the native path names a key twice.
    before: log time before the entry.
    """

    __slots__ = ("before", "digest", "effects", "position", "size")

    def __init__(self, position: int, digest: int) -> None:
        self.position = position
        self.digest = digest
        self.effects: list[Effect] = []
        self.size = self.before = 0

    def keep(self, effects: Sequence[Effect], size: int | None = None) -> None:
        """Add effects for the node's table. size: bytes of their keys and values, if they are known."""
        self.effects += effects
        self.size += size_of_effects(effects) if size is None else size

    def count_in(self, effects: Iterable[Effect]) -> None:
        """Add effects to the digest."""
        digest = self.digest
        for db, key, value, expiry in effects:
            digest = zlib.crc32(b"%d %d %d" % (db, -1 if key is None else len(key), expiry or 0), digest)
            digest = zlib.crc32(key or b"", digest)
            digest = zlib.crc32(b"-" if value is None else b"+" + value, digest)
        self.digest = digest


class EffectCollector:
    """Collects the effects of commands that the native path executes from an entry: a `BatchUndo` that needs no commit.

    The log has ordered the commands already. So no reply waits, and no change is undone.
    """

    undoes: ClassVar[bool] = False
    only_reads: ClassVar[bool] = False

    def __init__(
        self, collect: Callable[[list[Effect], list[int], int], None], serves_queues: Callable[[], bool]
    ) -> None:
        """collect: called with effects in their order, the begin and the end of the effects of each command that has
        several, and the maximum bytes of all keys and values. serves_queues: returns whether the semantics in force
        include commands on queues."""
        self.pending: Final[dict[bytes, int]] = {}
        """Empty: no change is uncommitted."""
        self.pending_of_queues: Final[dict[bytes, int]] = {}
        self._collect = collect
        self.serves_queues: Final = serves_queues

    def begin(self, now: int) -> tuple[int, int]:
        """Begin a batch. No reply waits for a commit."""
        return 0, 0

    def end(self, effects: list[Effect], groups: list[int], size: int) -> None:
        """End a batch that has changed a database."""
        self._collect(effects, groups, size)


def no_clock() -> int:
    """Return 0, which is never later than log time: for the native path, because only entries advance log time."""
    return 0


class ExecutableProposal(Proposal, Protocol):
    """A proposal that a replicated store can execute.

    reply: None until it is executed, or has failed.
    """

    reply: Reply | None

    def execute_logged(self, changes: Changes) -> None:
        """Execute it: its entry has come back."""


class PendingProposal(PendingReply):
    """The reply to a command that waits for its entry of the log."""

    __slots__ = ("_execute", "_length", "cost", "given_up", "items", "weight")

    def __init__(
        self,
        items: Sequence[Item],
        execute: Callable[[Changes], Reply],
        length: int = 0,
        weight: int = 0,
        *,
        cost: int = 1,
    ) -> None:
        """items: for the log; a read has none. length: bytes of the reply, as far as they are known.

        execute: executes the command and returns its reply. weight: bytes that it keeps besides the items.
        cost: its work, in commands of one key.
        """
        super().__init__(0)
        self.items = items
        self.weight = weight + sum(len(item.payload) for item in items)
        self.given_up = False
        self._execute = execute
        self._length = length
        self.cost = cost

    @property
    def executed(self) -> bool:  # type: ignore[override]  # True for any other `PendingReply`
        """Whether it is executed, or never will be."""
        return self.reply is not None

    @property
    def outcome(self) -> Reply:
        """The reply. Only after the execution."""
        assert self.reply is not None, "the command is not executed"
        return self.reply

    @property
    def size(self) -> int:
        """Estimated bytes that the reply will keep in memory."""
        return self._length

    def reply_before_commit(self) -> Reply | PendingReply:
        """Return this reply: a change enters memory when its entry comes back."""
        return self

    def execute_logged(self, changes: Changes) -> None:
        """Execute it. If the client has already received a failure, discard the reply."""
        if self.given_up and not self.items:
            return
        reply = self._execute(changes)
        if not self.given_up:
            self.complete(reply)

    def complete(self, reply: Reply) -> None:
        """Set the reply."""
        self.reply = reply
        self.on_ready()

    def fail(self, failure: Failure, of_reads: Failure | None = None) -> None:
        """Fail it: it will not execute, or its outcome is unknown."""
        self.given_up = True
        self.complete(failure)

    def fail_reads(self, failure: Failure) -> None:
        """Fail it if it is a read."""
        if not self.items:
            self.fail(failure)


class BlockingProposal(PendingProposal):
    """A proposal for whose execution the client's next commands wait."""

    __slots__ = ()

    blocks = True
