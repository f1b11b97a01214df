"""Pending replies: they may not leave yet.

Out of scope: when they may leave (the store), and replies of the native path (`pending_native.PendingBatch`).
"""

from collections.abc import Callable
from typing import ClassVar, Final

from cairnkv.commands import Failure, InMemory, Items, Replies, Reply

ITEM_BYTES: Final = 32
"""Overhead in bytes of one of several values."""


def do_nothing() -> None:
    pass


class PendingReply:
    """A reply that may not leave yet.

    reply: None until it may leave; then the reply to send, which is a failure if its commit failed.
    on_ready: called once, when it may leave.
    executed: whether the command is executed, or never will be.
    blocks: whether the client's next commands wait until then.
    """

    __slots__ = ("_outcome", "on_ready", "reply")

    executed: bool = True
    blocks: ClassVar[bool] = False

    def __init__(self, outcome: Reply) -> None:
        self._outcome = outcome
        self.reply: Reply | None = None
        self.on_ready: Callable[[], None] = do_nothing

    @property
    def outcome(self) -> Reply:
        """The reply unless the commit fails. The server may use it, such as a cursor, but must not send it."""
        return self._outcome

    @property
    def size(self) -> int:
        """Estimated bytes that the reply keeps in memory."""
        return size_of(self._outcome)

    def reply_before_commit(self) -> "Reply | PendingReply":
        """Return the reply for durability `memory`, which does not wait for the commit.

        It is an `InMemory`. The write itself stays uncommitted: other replies wait for its commit.
        """
        if self.reply is not None:
            return self.reply
        outcome = self.outcome
        return outcome if isinstance(outcome, Failure) else InMemory(outcome)

    def release(self) -> None:
        """The commit has succeeded."""
        self.reply = self._outcome

    def fail(self, failure: Failure) -> None:
        """The commit has failed."""
        self.reply = failure


class CommittedReply(PendingReply):
    """A pending reply with ids of messages or numbers of leases, which must not be used again after a crash.

    It waits for its commit, also with durability `memory`.
    """

    __slots__ = ()

    def reply_before_commit(self) -> "Reply | PendingReply":
        """Return this reply, or the released one."""
        return self if self.reply is None else self.reply


def size_of(reply: Reply) -> int:
    """Return the estimated bytes that a reply keeps in memory."""
    if isinstance(reply, bytes):
        return len(reply)
    if isinstance(reply, Items):
        return sum(ITEM_BYTES + len(value or b"") for value in reply.values)
    if isinstance(reply, Replies):
        return sum(ITEM_BYTES + size_of(value) for value in reply.values)
    if isinstance(reply, InMemory):
        return size_of(reply.reply)
    return 0
