"""The conversation of one client in the native protocol.

Out of scope: frames (`cairnkv.protocol.native`), and the effects of commands (the store).
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from cairnkv.commands import (
    NO_MEMORY,
    Auth,
    Backup,
    ClearAll,
    Command,
    Failure,
    InMemory,
    Reply,
    Step,
    Take,
    TakeAny,
    Together,
    Whoami,
    failures,
)
from cairnkv.limits import VALUE_MAX
from cairnkv.protocol.native import CommandDecoder, CommandFlag, DecoderLimits, Request, StatusByte, Width, reply_parts
from cairnkv.session.access.login import Login
from cairnkv.session.conversation import (
    AHEAD_BYTES,
    AHEAD_COMMANDS,
    ARGUMENTS_PER_COST,
    Conversation,
    QueuedReply,
    Unfinished,
    cost_of,
    fitting,
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
        limits: DecoderLimits,
        frame_executor: "FrameExecutor | None",
        login: Login,
    ) -> None:
        super().__init__(store, login=login, limits=limits)
        login.reset()
        self._statuses = status_byte.value
        self._status_byte = status_byte
        self._decoder: CommandDecoder = CommandDecoder(width=width, limits=limits, trusted=login.authenticated)
        self._frame_executor = frame_executor
        self._login_outcome: PendingReply | None = None  # of an AUTH that takes time

    def next(self) -> QueuedReply | Unfinished | None:
        """Execute the next command."""
        if self._login_outcome is not None:
            return self._logged_in(self._login_outcome)
        self._decoder.trusted = self.login.authenticated
        request = self._decoder.next()
        if request is None:
            return None
        if isinstance(request, Failure):
            return self.failure(request)
        command = request.command
        if isinstance(command, Auth):
            return self._logged_in(self.login.log_in(command.user, command.secret))
        made = bytes_made(self.store.databases[0], command)
        outcome = self._execute(request)
        if isinstance(outcome, Failure):
            return self.failure(outcome)
        cost = cost_of(command, outcome, made) + len(command.named_keys()) // ARGUMENTS_PER_COST
        if isinstance(command, Take | TakeAny):
            return QueuedReply(outcome, partial(self._encode_taken, command), cost, take=command)
        return QueuedReply(outcome, self._encode, cost)

    def upcoming(self) -> tuple[list[Step], int]:
        """Return some of the commands that come next, and their bytes."""
        if not self.login.authenticated:
            return [], 0
        ahead = self._decoder.copy(AHEAD_BYTES)
        steps: list[Step] = []
        while len(steps) < AHEAD_COMMANDS and isinstance(request := ahead.next(), Request):
            if self.denial_of(request.command) is not None:
                break
            steps.append(Step(0, request.command))
        return steps, ahead.consumed

    def failure(self, failure: Failure) -> QueuedReply:
        """Return the reply for a failure, which may end the conversation."""
        return QueuedReply(failure, self._encode, closes=failure.code.closes)

    def _logged_in(self, outcome: Reply | PendingReply) -> QueuedReply | Unfinished:
        """Return the reply to AUTH, which may end the conversation, or wait for it."""
        if isinstance(outcome, PendingReply):
            self._login_outcome = outcome
            if outcome.reply is None:
                return Unfinished(outcome)
            outcome = outcome.reply
        self._login_outcome = None
        closes = self.login.exhausted or (isinstance(outcome, Failure) and outcome.code.closes)
        return QueuedReply(outcome, self._encode, closes=closes)

    def _execute(self, request: Request) -> Reply | PendingReply:
        user = self.login.user
        if user is None:
            return Failure(failures.NOAUTH, "log in first: AUTH user secret")
        if isinstance(request.command, Whoami):
            return user.name
        denial = self.denial_of(request.command)
        if denial is not None:
            return self.refused(denial)
        if isinstance(request.command, ClearAll | Backup):
            self.login.note("command", command=request.command.spec.name)
        try:
            if request.flags & _LOCAL_READ and not request.command.spec.writes:
                return self.store.execute(request.command, local=self.own_writes.are_executed)
            command = fitting(request.command, self.limits.frame)
            if command.waiting_time():
                outcome = self.begin_take(command)
            elif isinstance(command, Together):
                steps = [Step(0, part) for part in command.commands]
                outcome = self.store.execute_all(steps, bytes_max=min(VALUE_MAX, self.room_for(steps)), whole=True)
            else:
                outcome = self.store.execute(command)
            if request.command.spec.writes:
                self.own_writes.note(outcome)
            if request.flags & _MEMORY_IS_ENOUGH and isinstance(outcome, PendingReply) and request.command.spec.writes:
                return outcome.reply_before_commit()
            return outcome
        except MemoryError:
            return NO_MEMORY
        except Exception:
            logger.exception("%s failed", request.command.spec.name)
            return Failure(failures.INTERNAL, "the server's log has the details")

    def _encode(self, reply: Reply) -> Sequence[bytes]:
        head, payload = reply_parts(reply, self._status_byte, frame_limit=self.limits.frame)
        return (head, payload) if payload else (head,)

    def _encode_taken(self, take: Command, reply: Reply) -> Sequence[bytes]:
        if isinstance(reply, InMemory):
            inner = self.within_frame(take, reply.reply)
            return self._encode(inner if isinstance(inner, Failure) else reply)
        return self._encode(self.within_frame(take, reply))

    @property
    def _executor(self) -> "FrameExecutor | None":
        executor = self._frame_executor
        if executor is None or executor.off or self._login_outcome is not None or not self.login.authenticated:
            return None
        return executor

    @property
    def _width(self) -> int:
        return self._decoder.width or 2

    def end(self) -> None:
        """Free the buffered bytes."""
        self._decoder = CommandDecoder(limits=self.limits)
