"""A conversation on the article's wire.

Not for frames (`cairnkv.protocol.native`), and not for what a command does (the store).
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from cairnkv.commands import NO_MEMORY, Failure, Reply, Step, failures
from cairnkv.protocol.native import CommandDecoder, CommandFlag, Limits, Request, StatusByte, Width, reply_parts
from cairnkv.session.context import ServerContext
from cairnkv.session.conversation import (
    AHEAD_BYTES,
    AHEAD_COMMANDS,
    WORDS_PER_COST,
    NativePathSettings,
    OwnWrites,
    QueuedReply,
    cost_of,
)
from cairnkv.store import PendingReply, Store

if TYPE_CHECKING:
    from cairnkv.session.executor_native import FrameExecutor
    from cairnkv.store.pending_native import PendingBatch

logger: Final = logging.getLogger("cairnkv.session")

_LOCAL_READ: Final = int(CommandFlag.LOCAL_READ)
_MEMORY_IS_ENOUGH: Final = int(CommandFlag.MEMORY_IS_ENOUGH)


class NativeConversation:
    """Frames of the article: each is a command, and gets one reply."""

    def __init__(
        self,
        store: Store,
        *,
        status_byte: StatusByte,
        width: Width | None,
        limits: Limits,
        frame_executor: "FrameExecutor | None",
        context: ServerContext[Any],
    ) -> None:
        """context: while they want a password nothing is executed here, where none can be said."""
        self._store = store
        self._status_byte = status_byte
        self._limits = limits
        self._decoder = CommandDecoder(width=width, limits=limits)
        self._frame_executor = frame_executor
        self._context = context
        self._own_writes = OwnWrites()
        self._native_path_settings: NativePathSettings | None = None  # once the width is settled

    def feed(self, data: bytes | memoryview) -> None:
        """Take bytes of the client."""
        self._decoder.feed(data)

    def next(self) -> QueuedReply | None:
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
        return QueuedReply(outcome, self._encode, cost)

    def upcoming(self) -> tuple[list[Step], int]:
        """Some of the commands that come next."""
        ahead = self._decoder.copy(AHEAD_BYTES)
        steps: list[Step] = []
        while len(steps) < AHEAD_COMMANDS and isinstance(request := ahead.next(), Request):
            steps.append(Step(0, request.command))
        return steps, ahead.consumed

    def failure(self, failure: Failure) -> QueuedReply:
        """A failure, which may be one that ends the conversation."""
        return QueuedReply(failure, self._encode, closes=failure.code.closes)

    def _execute(self, request: Request) -> Reply | PendingReply:
        if self._context.wants_password:
            return Failure(failures.NOAUTH, "this server wants a password, which only the Redis wire can say so far")
        try:
            if request.flags & _LOCAL_READ and not request.command.spec.writes:
                return self._store.execute(request.command, local=self._own_writes.are_there)
            outcome = self._store.execute(request.command)
            if request.command.spec.writes:
                self._own_writes.note(outcome)
            if request.flags & _MEMORY_IS_ENOUGH and isinstance(outcome, PendingReply) and request.command.spec.writes:
                return outcome.from_memory()
            return outcome
        except MemoryError:
            return NO_MEMORY
        except Exception:
            logger.exception("%s failed", request.command.spec.name)
            return Failure(failures.INTERNAL, "the server's log has the details")

    def _encode(self, reply: Reply) -> Sequence[bytes]:
        head, payload = reply_parts(reply, self._status_byte, frame_limit=self._limits.frame)
        return (head, payload) if payload else (head,)

    def said(self, run: "PendingBatch") -> None:
        """Commands of the client are on their way past this."""
        self._own_writes.note_batch(run)

    def carry_out(self) -> "FrameExecutor | None":
        """Let the compiled hot path have the first look; what it leaves is for `next`."""
        frame_executor = self._usable_frame_executor
        if frame_executor is None:
            return None
        there = self._own_writes.are_there
        carried = self._decoder.carry_out(frame_executor, self._status_byte, own_writes_there=there)
        return frame_executor if carried else None

    @property
    def _usable_frame_executor(self) -> "FrameExecutor | None":
        """The accelerator, where nothing has to be asked before a command is executed."""
        if self._frame_executor is None or self._frame_executor.off or self._context.wants_password:
            return None
        return self._frame_executor

    @property
    def native_path_settings(self) -> NativePathSettings | None:
        """What the accelerator has to know, once the width is settled and between two frames."""
        frame_executor = self._usable_frame_executor
        if frame_executor is None or not self._decoder.at_frame or self._decoder.pending:
            return None
        if self._native_path_settings is None:
            limits = self._limits
            width = self._decoder.width or 2
            self._native_path_settings = (
                frame_executor,
                width,
                self._status_byte.value,
                limits.value,
                limits.frame,
                False,
            )
        return self._native_path_settings

    @property
    def authenticated(self) -> bool:
        """Whether the native protocol executes commands: the server has no password."""
        return not self._context.wants_password

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
