"""Replies that may not leave yet: what a session gets in their place, and what becomes of them.

Not for when that is (the store). Replies that the compiled hot path has made are held by `pending_native.PendingBatch`.
"""

from collections.abc import Callable
from typing import ClassVar, Final

from cairnkv.commands import Failure, InMemory, Items, Replies, Reply

ITEM_BYTES: Final = 32
"""Bytes of memory that one of several values takes besides its own."""


def _nobody_waits() -> None:
    pass


def _nobody_asks(_outcome: Reply) -> None:
    pass


class PendingReply:
    """A reply that may not leave yet.

    reply: None until it may leave; then what to send, which is a failure if its commit failed.
    on_ready: called once, when it may.
    executed: whether the command was carried out, or never will be.
    blocks: whether its client's next commands wait until it was.
    """

    __slots__ = ("_outcome", "on_ready", "reply")

    executed: bool = True
    blocks: ClassVar[bool] = False

    def __init__(self, outcome: Reply) -> None:
        self._outcome = outcome
        self.reply: Reply | None = None
        self.on_ready: Callable[[], None] = _nobody_waits

    @property
    def outcome(self) -> Reply:
        """What the reply will be unless the commit fails: to go on from, as with a cursor, not to be shown."""
        return self._outcome

    @property
    def size(self) -> int:
        """Bytes that the reply keeps in memory, near enough."""
        return size_of(self._outcome)

    def from_memory(self) -> "Reply | PendingReply":
        """The reply to a write whose client finds memory safe enough, which need not wait for the log.

        It says that it has not waited. All that was executed stays as it is: others wait for the commit, and are undone
        with it.
        """
        if self.reply is not None:
            return self.reply
        outcome = self.outcome
        return outcome if isinstance(outcome, Failure) else InMemory(outcome)

    def release(self) -> None:
        """The commit that it waited for is safe."""
        self.reply = self._outcome

    def fail(self, failure: Failure) -> None:
        """The commit that it waited for has failed."""
        self.reply = failure


class PendingCommand(PendingReply):
    """A reply to a command that was not carried out yet; it may have to wait for longer than that, as any.

    on_executed: called once, after the execution, or when the command can no longer execute. on_outcome: called before
    that with the outcome: the reply, unless the commit fails.
    """

    __slots__ = ("_executed", "on_executed", "on_outcome")

    blocks = True

    def __init__(self) -> None:
        super().__init__(0)
        self._executed = False
        self.on_executed: Callable[[], None] = _nobody_waits
        self.on_outcome: Callable[[Reply], None] = _nobody_asks

    @property
    def executed(self) -> bool:  # type: ignore[override]  # of others it is known beforehand
        """Whether it was carried out, or never will be."""
        return self._executed


def size_of(reply: Reply) -> int:
    """Bytes that a reply keeps in memory, near enough."""
    if isinstance(reply, bytes):
        return len(reply)
    if isinstance(reply, Items):
        return sum(ITEM_BYTES + len(value or b"") for value in reply.values)
    if isinstance(reply, Replies):
        return sum(ITEM_BYTES + size_of(value) for value in reply.values)
    if isinstance(reply, InMemory):
        return size_of(reply.reply)
    return 0
