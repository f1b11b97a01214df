"""What has its turn in the log of a cluster: a command that waits for it, with its reply, and what an entry changes.

What always holds: who waits is told once, what came of it or that nobody knows. What the log has of a command is
carried out in its turn whatever its client was told, as it is at all nodes.

Not for when the turn has come (`store`), nor for runs of commands (`cairnkv.session.proposals_native`).
"""

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from cairnkv.commands import Failure, Reply
from cairnkv.replication.entries import Item
from cairnkv.replication.proposer import Proposal
from cairnkv.storage import Effect
from cairnkv.storage.base import size_of_effects
from cairnkv.store.pending import PendingReply


class Changes:
    """What an entry changes: effects for the node's table, and what the digest of the state is made of.

    size: bytes of the effects' keys and values; more where a command of the hot path names a key twice.
    """

    __slots__ = ("digest", "effects", "position", "size")

    def __init__(self, position: int, digest: int) -> None:
        self.position = position
        self.digest = digest
        self.effects: list[Effect] = []
        self.size = 0

    def keep(self, effects: Sequence[Effect], size: int | None = None) -> None:
        """Have these in the node's table. size: bytes of their keys and values, if they are known."""
        self.effects += effects
        self.size += size_of_effects(effects) if size is None else size

    def count_in(self, effects: Iterable[Effect]) -> None:
        """Make these a part of the digest."""
        digest = self.digest
        for db, key, value, expiry in effects:
            digest = zlib.crc32(b"%d %d %d" % (db, -1 if key is None else len(key), expiry or 0), digest)
            digest = zlib.crc32(key or b"", digest)
            digest = zlib.crc32(b"-" if value is None else b"+" + value, digest)
        self.digest = digest


class ExecutableProposal(Proposal, Protocol):
    """A proposal that a replicated store can carry out.

    reply: None until it had its turn, or has failed.
    """

    reply: Reply | None

    def execute_logged(self, changes: Changes) -> None:
        """Carry it out."""


class PendingProposal(PendingReply):
    """The reply to a command that waits for its turn in the log."""

    __slots__ = ("_carry_out", "_length", "cost", "given_up", "items", "weight")

    def __init__(
        self,
        items: Sequence[Item],
        carry_out: Callable[[Changes], Reply],
        length: int = 0,
        weight: int = 0,
        *,
        cost: int = 1,
    ) -> None:
        """items: what the log has to have; none of a read. length: of the reply, in bytes, as far as is known.

        carry_out: does it, in its turn, and gives the reply. weight: bytes that it keeps besides the items.
        cost: its work, in commands of one key.
        """
        super().__init__(0)
        self.items = items
        self.weight = weight + sum(len(item.payload) for item in items)
        self.given_up = False
        self._carry_out = carry_out
        self._length = length
        self.cost = cost

    @property
    def executed(self) -> bool:  # type: ignore[override]  # of others it is known beforehand
        """Whether it had its turn, or gets none."""
        return self.reply is not None

    @property
    def outcome(self) -> Reply:
        """The reply. Only once there is one."""
        assert self.reply is not None, "nobody knows yet"
        return self.reply

    @property
    def size(self) -> int:
        """Bytes that the reply will keep in memory, near enough."""
        return self._length

    def from_memory(self) -> Reply | PendingReply:
        """In memory is what came back through the log."""
        return self

    def execute_logged(self, changes: Changes) -> None:
        """Carry it out. Whoever was told that nobody knows, is told nothing any more."""
        if self.given_up and not self.items:
            return
        reply = self._carry_out(changes)
        if not self.given_up:
            self.complete(reply)

    def complete(self, reply: Reply) -> None:
        """This is the reply."""
        self.reply = reply
        self.on_ready()

    def fail(self, failure: Failure, of_reads: Failure | None = None) -> None:
        """It will have no turn, or nobody knows."""
        self.given_up = True
        self.complete(failure)

    def fail_reads(self, failure: Failure) -> None:
        """If it only reads, it will have no turn."""
        if not self.items:
            self.fail(failure)


class BlockingProposal(PendingProposal):
    """One behind which its client's next commands wait."""

    __slots__ = ()

    blocks = True
