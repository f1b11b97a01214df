"""Replies that may not leave yet: what a session gets in their place, and what becomes of them.

Not for when that is (the store).
"""

import struct
from collections.abc import Callable
from typing import Final

from cairnkv.commands import OK, Failure, Items, Replies, Reply

ITEM_BYTES: Final = 32
"""Bytes of memory that one of several values takes besides its own."""

MARK: Final = struct.Struct("=qqq")
"""Of each reply of a run: where it ends, the position that it waits for, and whether its command wrote."""


class Held:
    """A reply that may not leave yet.

    reply: None until it may leave; then what to send, which is a failure if its commit failed.
    on_ready: called once, when it may.
    """

    __slots__ = ("_outcome", "on_ready", "reply")

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

    def release(self) -> None:
        """The commit that it waited for is safe."""
        self.reply = self._outcome

    def fail(self, failure: Failure) -> None:
        """The commit that it waited for has failed."""
        self.reply = failure


class HeldRun(Held):
    """Replies of one client that the compiled hot path has made, in the bytes of its wire; all are held for the newest
    commit that any of them waits for."""

    __slots__ = ("_marks", "_replies", "_start", "_waiting", "parts")

    def __init__(self, replies: bytes, marks: bytes, start: int, waiting: int) -> None:
        """marks: a `MARK` for each reply that waits. start: where the replies begin, as the marks count; waiting: where
        those begin that wait."""
        super().__init__(OK)
        self._replies = replies
        self._marks = marks
        self._start = start
        self._waiting = waiting
        self.parts: list[bytes | Failure] = [replies]
        """What is to be said, once it may be: bytes, or a failure in the place of a reply."""

    @property
    def size(self) -> int:
        """Bytes that the replies have."""
        return len(self._replies)

    def fail_above(self, committed: int, write_failure: Failure, read_failure: Failure) -> None:
        """The commits behind a position have failed."""
        begin = self._waiting
        self.parts = [self._replies[: begin - self._start]]
        for end, wait, wrote in MARK.iter_unpack(self._marks):
            if wait > committed:
                self.parts.append(write_failure if wrote else read_failure)
            else:
                self.parts.append(self._replies[begin - self._start : end - self._start])
            begin = end
        self.fail(read_failure)


def size_of(reply: Reply) -> int:
    """Bytes that a reply keeps in memory, near enough."""
    if isinstance(reply, bytes):
        return len(reply)
    if isinstance(reply, Items):
        return sum(ITEM_BYTES + len(value or b"") for value in reply.values)
    if isinstance(reply, Replies):
        return sum(ITEM_BYTES + size_of(value) for value in reply.values)
    return 0


def _nobody_waits() -> None:
    pass
