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


class PendingExecution(PendingReply):
    """The reply to a command that is not executed yet.

    on_executed: called once, after the execution, or when the command can no longer execute.
    on_outcome: called before that with the outcome: the reply, unless the commit fails.
    """

    __slots__ = ("_executed", "_inner", "_memory_is_enough", "on_executed", "on_outcome")

    blocks = True

    def __init__(self) -> None:
        super().__init__(0)
        self.on_executed: Callable[[], None] = do_nothing
        self.on_outcome: Callable[[Reply], None] = lambda _: None
        self._executed = False
        self._inner: PendingReply | None = None
        self._memory_is_enough = False

    @property
    def executed(self) -> bool:  # type: ignore[override]  # True for any other `PendingReply`
        """Whether the command is executed, or never will be."""
        return self._executed

    @property
    def outcome(self) -> Reply:
        """The reply unless the commit fails. Only after the execution."""
        assert self._executed, "the command is not executed"
        return self._outcome if self._inner is None else self._inner.outcome

    def reply_before_commit(self) -> "Reply | PendingReply":
        """Return the reply for durability `memory`, which waits for the execution. Another thread may execute."""
        self._memory_is_enough = True
        return self._inner.reply_before_commit() if self._executed and self._inner is not None else self

    def complete(self, outcome: "Reply | PendingReply") -> None:
        """Set the outcome of the execution."""
        self._inner = outcome if isinstance(outcome, PendingReply) else None
        self._executed = True
        if self._inner is not None and self._memory_is_enough:
            outcome = self._inner.reply_before_commit()
        if isinstance(outcome, PendingReply) and outcome.reply is None:
            outcome.on_ready = self._ready
            self.on_outcome(outcome.outcome)
            self.on_executed()
            return
        reply = outcome.reply if isinstance(outcome, PendingReply) else outcome
        assert reply is not None
        self._outcome = self.reply = reply
        self.on_outcome(reply)
        self.on_executed()
        self.on_ready()

    def _ready(self) -> None:
        assert self._inner is not None
        self.reply = self._inner.reply
        self.on_ready()


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
