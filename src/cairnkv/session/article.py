"""A conversation on the article's wire.

Not for frames (`cairnkv.wire.article`), and not for what a command does (the store).
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from cairnkv.commands import NO_MEMORY, Failure, Reply, Step, failures
from cairnkv.session.conversation import (
    AHEAD_BYTES,
    AHEAD_COMMANDS,
    WORDS_PER_COST,
    Acceleration,
    Due,
    OwnWrites,
    cost_of,
)
from cairnkv.session.redis.surroundings import Surroundings
from cairnkv.store import Held, Store
from cairnkv.wire.article import CommandDecoder, CommandFlag, Dialect, Limits, Request, Width, reply_parts

if TYPE_CHECKING:
    from cairnkv.session.accelerator import Accelerator
    from cairnkv.store.hot_held import HeldRun
    from cairnkv.store.replicated import ReplicatedStore
    from cairnkv.store.turns import Changes

_log: Final = logging.getLogger("cairnkv.session")

_LOCAL_READ: Final = int(CommandFlag.LOCAL_READ)
_MEMORY_IS_ENOUGH: Final = int(CommandFlag.MEMORY_IS_ENOUGH)


def said_in_turn(
    store: "ReplicatedStore",
    changes: "Changes",
    frame: bytes,
    *,
    width: Width,
    statuses: tuple[int, int],
    string_max: int,
    frame_max: int,
) -> Due:
    """What is due for a frame whose turn in the log it is: the compiled hot path has left it."""
    decoder = CommandDecoder(width=width, limits=Limits(value=string_max, frame=frame_max))
    decoder.feed(frame)
    request = decoder.next()
    assert isinstance(request, Request), "it was scanned"
    reply = store.take_turn(Step(0, request.command), changes)
    return Due(reply, partial(reply_parts, dialect=Dialect(statuses), frame_limit=frame_max))


class ArticleConversation:
    """Frames of the article: each is a command, and gets one reply."""

    def __init__(
        self,
        store: Store,
        *,
        dialect: Dialect,
        width: Width | None,
        limits: Limits,
        accelerator: "Accelerator | None",
        surroundings: Surroundings,
    ) -> None:
        """surroundings: while they want a password nothing is executed here, where none can be said."""
        self._store = store
        self._dialect = dialect
        self._limits = limits
        self._decoder = CommandDecoder(width=width, limits=limits)
        self._accelerator = accelerator
        self._surroundings = surroundings
        self._own_writes = OwnWrites()
        self._acceleration: Acceleration | None = None  # once the width is settled

    def feed(self, data: bytes | memoryview) -> None:
        """Take bytes of the client."""
        self._decoder.feed(data)

    def next(self) -> Due | None:
        """Carry out the next command."""
        request = self._decoder.next()
        if request is None:
            return None
        if isinstance(request, Failure):
            return self.failure(request)
        command = request.command
        made = self._store.bytes_made(command)
        outcome = self._execute(request)
        if isinstance(outcome, Failure):
            return self.failure(outcome)
        cost = cost_of(command, outcome, made) + len(command.named_keys()) // WORDS_PER_COST
        return Due(outcome, self._encode, cost)

    def upcoming(self) -> tuple[list[Step], int]:
        """Some of the commands that come next."""
        ahead = self._decoder.copy(AHEAD_BYTES)
        steps: list[Step] = []
        while len(steps) < AHEAD_COMMANDS and isinstance(request := ahead.next(), Request):
            steps.append(Step(0, request.command))
        return steps, ahead.consumed

    def failure(self, failure: Failure) -> Due:
        """A failure, which may be one that ends the conversation."""
        return Due(failure, self._encode, closes=failure.code.closes)

    def _execute(self, request: Request) -> Reply | Held:
        if self._surroundings.wants_password:
            return Failure(failures.NOAUTH, "this server wants a password, which only the Redis wire can say so far")
        try:
            if request.flags & _LOCAL_READ and not request.command.word.writes:
                return self._store.execute(request.command, local=self._own_writes.are_there)
            outcome = self._store.execute(request.command)
            if request.command.word.writes:
                self._own_writes.note(outcome)
            if request.flags & _MEMORY_IS_ENOUGH and isinstance(outcome, Held) and request.command.word.writes:
                return outcome.from_memory()
            return outcome
        except MemoryError:
            return NO_MEMORY
        except Exception:
            _log.exception("%s failed", request.command.word.name)
            return Failure(failures.INTERNAL, "the server's log has the details")

    def _encode(self, reply: Reply) -> Sequence[bytes]:
        head, payload = reply_parts(reply, self._dialect, frame_limit=self._limits.frame)
        return (head, payload) if payload else (head,)

    def said(self, run: "HeldRun") -> None:
        """Commands of the client are on their way past this."""
        self._own_writes.note_run(run)

    def carry_out(self) -> "Accelerator | None":
        """Let the compiled hot path have the first look; what it leaves is for `next`."""
        accelerator = self._usable_accelerator
        if accelerator is None:
            return None
        there = self._own_writes.are_there
        carried = self._decoder.carry_out(accelerator, self._dialect, own_writes_there=there)
        return accelerator if carried else None

    @property
    def _usable_accelerator(self) -> "Accelerator | None":
        """The accelerator, where nothing has to be asked before a command is executed."""
        if self._accelerator is None or self._accelerator.off or self._surroundings.wants_password:
            return None
        return self._accelerator

    @property
    def acceleration(self) -> Acceleration | None:
        """What the accelerator has to know, once the width is settled and between two frames."""
        accelerator = self._usable_accelerator
        if accelerator is None or not self._decoder.at_frame or self._decoder.pending:
            return None
        if self._acceleration is None:
            limits = self._limits
            width = self._decoder.width or 2
            self._acceleration = accelerator, width, self._dialect.value, limits.value, limits.frame, False
        return self._acceleration

    @property
    def authenticated(self) -> bool:
        """Whether the native protocol executes commands: the server has no password."""
        return not self._surroundings.wants_password

    @property
    def pending(self) -> int:
        """Bytes of frames that are not whole, or not carried out."""
        return self._decoder.pending

    @property
    def kept(self) -> int:
        """Nothing is queued on this wire."""
        return 0

    @property
    def missing(self) -> int:
        """Bytes that a long string lacks; 0 if no long string is partial."""
        return self._decoder.missing

    @property
    def consumed(self) -> int:
        """Bytes of frames that came whole."""
        return self._decoder.consumed

    def end(self) -> None:
        """Free what was read; nothing else depends on this conversation."""
        self._decoder = CommandDecoder(limits=self._limits)
