"""The conversation of one client in the native protocol.

Out of scope: frames (`cairnkv.protocol.native`), and the effects of commands (the store).
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from cairnkv.commands import (
    NO_MEMORY,
    OK,
    Auth,
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
from cairnkv.session.access.users import DEFAULT_USER
from cairnkv.session.auth import Authentication
from cairnkv.session.conversation import (
    AHEAD_BYTES,
    AHEAD_COMMANDS,
    ARGUMENTS_PER_COST,
    Conversation,
    QueuedReply,
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
        auth: Authentication,
    ) -> None:
        super().__init__(store, auth=auth, limits=limits)
        self._logged_in = False
        self._statuses = status_byte.value
        self._status_byte = status_byte
        self._decoder: CommandDecoder = CommandDecoder(width=width, limits=limits, trusted=self.authenticated)
        self._frame_executor = frame_executor

    def next(self) -> QueuedReply | None:
        """Execute the next command."""
        self._decoder.trusted = self.authenticated
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
        if isinstance(command, Take | TakeAny):
            return QueuedReply(outcome, partial(self._encode_taken, command), cost, take=command)
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
        if isinstance(request.command, Auth):
            return self._log_in(request.command)
        if not self.authenticated:
            return Failure(failures.NOAUTH, "log in first: AUTH user secret")
        if isinstance(request.command, Whoami):
            return DEFAULT_USER
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

    def _log_in(self, command: Auth) -> Reply:
        accepted = self._auth.authenticate(command.user, command.secret)
        self._logged_in = self._logged_in or accepted
        return OK if accepted else Failure(failures.WRONGPASS, "wrong user or secret, or the user is disabled")

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
        return None if executor is None or executor.off or not self.authenticated else executor

    @property
    def _width(self) -> int:
        return self._decoder.width or 2

    @property
    def authenticated(self) -> bool:
        """Whether the client may execute commands."""
        return self._logged_in or not self._auth.authenticator.required

    def end(self) -> None:
        """Free the buffered bytes."""
        self._decoder = CommandDecoder(limits=self.limits)
