"""The conversation of one client in the native protocol.

Out of scope: frames (`cairnkv.protocol.native`), and the effects of commands (the store).
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from cairnkv.commands import NO_MEMORY, Failure, Reply, Step, failures
from cairnkv.protocol.native import CommandDecoder, CommandFlag, Limits, Request, StatusByte, Width, reply_parts
from cairnkv.session.auth import Authentication
from cairnkv.session.conversation import (
    AHEAD_BYTES,
    AHEAD_COMMANDS,
    ARGUMENTS_PER_COST,
    Conversation,
    NativePathSettings,
    QueuedReply,
    cost_of,
)
from cairnkv.store import PendingReply, Store, bytes_made

if TYPE_CHECKING:
    from cairnkv.session.executor_native import FrameExecutor

logger: Final = logging.getLogger("cairnkv.session")

_LOCAL_READ: Final = int(CommandFlag.LOCAL_READ)
_MEMORY_IS_ENOUGH: Final = int(CommandFlag.MEMORY_IS_ENOUGH)


class NativeConversation(Conversation):
    """The conversation of one client. Each frame is a command and gets one reply."""

    def __init__(
        self,
        store: Store,
        *,
        status_byte: StatusByte,
        width: Width | None,
        limits: Limits,
        frame_executor: "FrameExecutor | None",
        auth: Authentication,
    ) -> None:
        """auth: if the server has a password, no command executes here: the protocol has no command to send one."""
        super().__init__(store, auth=auth, limits=limits)
        self._status_byte = status_byte
        self._decoder: CommandDecoder = CommandDecoder(width=width, limits=limits)
        self._frame_executor = frame_executor
        self._native_path_settings: NativePathSettings | None = None  # once the width is known

    def next(self) -> QueuedReply | None:
        """Execute the next command."""
        request = self._decoder.next()
        if request is None:
            return None
        if isinstance(request, Failure):
            return self.failure(request)
        command = request.command
        made = bytes_made(self.store.databases[0], command)
        outcome = self._execute(request)
        if isinstance(outcome, Failure):
            return self.failure(outcome)
        cost = cost_of(command, outcome, made) + len(command.named_keys()) // ARGUMENTS_PER_COST
        return QueuedReply(outcome, self._encode, cost)

    def upcoming(self) -> tuple[list[Step], int]:
        """Return some of the commands that come next, and their bytes."""
        ahead = self._decoder.copy(AHEAD_BYTES)
        steps: list[Step] = []
        while len(steps) < AHEAD_COMMANDS and isinstance(request := ahead.next(), Request):
            steps.append(Step(0, request.command))
        return steps, ahead.consumed

    def failure(self, failure: Failure) -> QueuedReply:
        """Return the reply for a failure, which may end the conversation."""
        return QueuedReply(failure, self._encode, closes=failure.code.closes)

    def _execute(self, request: Request) -> Reply | PendingReply:
        if not self.authenticated:
            return Failure(failures.NOAUTH, "this server requires a password, and only the Redis protocol can send one")
        try:
            if request.flags & _LOCAL_READ and not request.command.spec.writes:
                return self.store.execute(request.command, local=self.own_writes.are_executed)
            outcome = self.store.execute(request.command)
            if request.command.spec.writes:
                self.own_writes.note(outcome)
            if request.flags & _MEMORY_IS_ENOUGH and isinstance(outcome, PendingReply) and request.command.spec.writes:
                return outcome.from_memory()
            return outcome
        except MemoryError:
            return NO_MEMORY
        except Exception:
            logger.exception("%s failed", request.command.spec.name)
            return Failure(failures.INTERNAL, "the server's log has the details")

    def _encode(self, reply: Reply) -> Sequence[bytes]:
        head, payload = reply_parts(reply, self._status_byte, frame_limit=self.limits.frame)
        return (head, payload) if payload else (head,)

    def execute_natively(self) -> "FrameExecutor | None":
        """Let the native path execute the first frames. Returns its executor, which has the replies, or None."""
        frame_executor = self._usable_frame_executor
        if frame_executor is None:
            return None
        there = self.own_writes.are_executed
        carried = self._decoder.execute_batch(frame_executor, self._status_byte, own_writes_there=there)
        return frame_executor if carried else None

    @property
    def _usable_frame_executor(self) -> "FrameExecutor | None":
        if self._frame_executor is None or self._frame_executor.off or not self.authenticated:
            return None
        return self._frame_executor

    @property
    def native_path_settings(self) -> NativePathSettings | None:
        """The settings for the native path, between two frames, once the width is known."""
        frame_executor = self._usable_frame_executor
        if frame_executor is None or not self._decoder.at_frame or self._decoder.pending:
            return None
        if self._native_path_settings is None:
            limits = self.limits
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
        """Whether the client may execute commands: the server has no password."""
        return not self._auth.authenticator.required

    def end(self) -> None:
        """Free the buffered bytes."""
        self._decoder = CommandDecoder(limits=self.limits)
