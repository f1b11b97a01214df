"""The protocol-specific part of a session: bytes in, queued replies out.

`native.conversation` and `resp.conversation` implement it. The first byte of a client selects one of them, since no
command of one protocol begins with a byte that begins a command of the other.

Out of scope: the order of replies and the limits, which are the same for both protocols (`session`).
"""

import abc
import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from cairnkv.commands import (
    Command,
    Failure,
    Items,
    Nack,
    Purge,
    Reply,
    Scan,
    Scope,
    Step,
    Take,
    TakeAny,
    failures,
)
from cairnkv.commands.queue_vocabulary import TAKE_STRINGS
from cairnkv.limits import BYTES_PER_COST, MESSAGE_HEAD_MAX, TAKE_BYTES, TAKE_MAX
from cairnkv.protocol.native import CommandDecoder, DecoderLimits
from cairnkv.protocol.resp import RequestDecoder
from cairnkv.records import replace
from cairnkv.session.access.checks import Denial, denial_of
from cairnkv.session.access.login import Login
from cairnkv.store import ITEM_BYTES, PendingReply, Store, Waiter, returns_of, size_of

if TYPE_CHECKING:
    from cairnkv.session.access.rights import Rights
    from cairnkv.session.access.rights_native import NativeRights
    from cairnkv.session.executor_native import FrameExecutor
    from cairnkv.store.pending_native import PendingBatch

WHOLE_TABLE_COST: Final = 64
"""Work of a command about a whole database, in commands of one key. A slice of a scan takes milliseconds for a frame of
40 bytes: many of them in one slice of a client would hold the loop for seconds."""

KEYS_PER_COST: Final = 20
"""Keys that a slice of a scan passes, as work of one command of one key."""

ARGUMENTS_PER_COST: Final = 8
"""Arguments of a command, such as keys, as work of one command of one key."""

MESSAGES_PER_COST: Final = 2
"""Messages of a command, as work of one command of one key."""

REPORT_BYTES_PER_COST: Final = 256
"""Bytes of a reply with many small parts (reports about the server), as work of one command of one key."""

AHEAD_COMMANDS: Final = 64
"""Commands behind one that waits for the disk, whose values are read ahead."""

AHEAD_BYTES: Final = 16_384
"""Bytes of input that are decoded for that."""

Encode: TypeAlias = Callable[[Reply], Sequence[bytes]]
"""Returns the bytes of a reply in pieces. There may be none."""

NativePathSettings: TypeAlias = tuple["FrameExecutor", int, tuple[int, int], int, int, bool, "NativeRights | None"]
"""The executor; the width of command numbers, or the version of the Redis protocol; the status bytes; the maximum bytes
of a value and of a frame; whether all reads may return a value that is not the newest; the client's rights (None: all
rights)."""


def cost_of(command: Command, outcome: Reply | PendingReply, made: int) -> int:
    """Return the work of a command without that of its keys, in commands of one key. The same for both protocols.

    made: bytes of values that the command made or copied (`bytes_made`), without those of its outcome.
    """
    cost = WHOLE_TABLE_COST if command.spec.scope is Scope.TABLE or command.spec.by_store else 1
    if isinstance(command, Scan):
        cost = max(cost, command.count // KEYS_PER_COST)
    elif command.spec.scope is Scope.QUEUES:
        cost = max(cost, _messages_of(command, outcome) // MESSAGES_PER_COST)
    return cost + (made + bytes_of_outcome(outcome)) // BYTES_PER_COST


def fitting(command: Command, frame_max: int) -> Command:
    """Return a TAKE of no more messages than a frame has room for; any other command as it is.

    A single message fits, as its PUT did.
    """
    if isinstance(command, Take | TakeAny) and command.count * MESSAGE_HEAD_MAX > frame_max - TAKE_BYTES:
        return replace(command, count=max(1, (frame_max - TAKE_BYTES) // MESSAGE_HEAD_MAX))
    return command


def within_frame(store: Store, frame_max: int, take: Command, reply: Reply) -> Reply:
    """Return the reply to a TAKE. If a frame has no room for it, give its leases back and return a failure.

    This happens only to a body that came with a larger limit, at another node or before a restart.
    """
    if not isinstance(reply, Items) or size_of(reply) <= frame_max:
        return reply
    steps = returns_of(take, reply)
    for step in steps:
        store.execute(step.command)
    numbers = ", ".join(str(step.command.message) for step in steps if isinstance(step.command, Nack))
    text = f"message {numbers} exceeds the frame limit of {frame_max:,} bytes, and was given back"
    return Failure(failures.BIGREPLY, text)


def _messages_of(command: Command, outcome: Reply | PendingReply) -> int:
    """Return the number of messages, or of commands, that a command on queues processes, approximately."""
    if isinstance(command, Purge):
        return TAKE_MAX
    reply = outcome.outcome if isinstance(outcome, PendingReply) and outcome.executed else outcome
    shown = len(reply.values) // TAKE_STRINGS if isinstance(reply, Items) else 0
    rest = command.spec.shape.rest
    return shown if rest is None else max(shown, len(getattr(command, rest[0])))


def bytes_of_outcome(outcome: Reply | PendingReply) -> int:
    """Return the bytes of a reply or a pending reply."""
    return outcome.size if isinstance(outcome, PendingReply) else size_of(outcome)


@dataclasses.dataclass(slots=True)
class QueuedReply:
    """The reply to one command, and its encoding.

    cost: the command's work, in commands of one key. closes: whether the conversation ends after this reply.
    size: bytes that it keeps in memory until it is encoded, besides those of its outcome.
    take: the command, if its reply may have leases. If the client disconnects before the execution, it gives them back.
    """

    outcome: Reply | PendingReply
    encode: Encode
    cost: int = 1
    closes: bool = False
    size: int = 0
    take: Command | None = None


@dataclasses.dataclass(slots=True, frozen=True)
class Unfinished:
    """In the place of a queued reply: one slice of a command that takes several.

    until: the next slice waits for the execution of this; None: it waits for the client's next slice only.
    """

    until: PendingReply | None = None


UNFINISHED: Final = Unfinished()
"""A slice that waits for no execution."""


class OwnWrites:
    """The writes of a client that are not executed yet. A local read must not miss them."""

    def __init__(self) -> None:
        # Oldest first. The newest is not enough: it may have failed while an earlier one is pending.
        self._waiting: deque[PendingReply | PendingBatch] = deque()

    def note(self, outcome: Reply | PendingReply) -> None:
        """Note the outcome of a write."""
        if isinstance(outcome, PendingReply):
            self._forget_executed()
            self._waiting.append(outcome)

    def note_batch(self, batch: "PendingBatch") -> None:
        """Note a batch of commands."""
        if batch.writes:
            self._forget_executed()
            self._waiting.append(batch)

    @property
    def are_executed(self) -> bool:
        """Whether all are executed. A write with an unknown outcome counts as executed."""
        self._forget_executed()
        return not self._waiting

    def _forget_executed(self) -> None:
        while self._waiting and self._waiting[0].executed:
            self._waiting.popleft()


class Conversation(abc.ABC):
    """The part of a session that depends on the protocol."""

    _decoder: CommandDecoder | RequestDecoder

    reads_locally = False
    """Whether all reads may return a value that is not the newest."""

    _statuses = (0, 0)
    """The status bytes of success and failure, in the native protocol."""

    def __init__(self, store: Store, *, login: Login, limits: DecoderLimits) -> None:
        self.store: Final = store
        self.limits: Final = limits
        self.own_writes: Final = OwnWrites()
        self.login: Final = login
        self._native_path_settings: NativePathSettings | None = None
        self._native_rights: tuple[FrameExecutor, Rights, NativeRights] | None = None

    def feed(self, data: bytes | memoryview) -> None:
        """Add bytes of the client."""
        self._decoder.feed(data)

    @abc.abstractmethod
    def next(self) -> QueuedReply | Unfinished | None:
        """Execute the next complete command, or a slice of it. Returns None if more bytes are needed."""

    @abc.abstractmethod
    def upcoming(self) -> tuple[list[Step], int]:
        """Return some of the commands that come next, as far as they can be decoded now, and their bytes."""

    @abc.abstractmethod
    def failure(self, failure: Failure) -> QueuedReply:
        """Return the reply for a failure of the connection."""

    def execute_natively(self) -> "FrameExecutor | None":
        """Let the native path execute the first commands. Returns its executor, which has the replies, or None."""
        executor = self._executor
        if executor is None:
            return None
        executed = self._decoder.execute_batch(
            executor,
            self._width,
            self._statuses,
            reads_locally=self.reads_locally,
            own_writes_there=self.own_writes.are_executed,
            rights=self._rights_for(executor),
        )
        return executor if executed else None

    @property
    @abc.abstractmethod
    def _executor(self) -> "FrameExecutor | None":
        """The executor of the native path; None in a state that the path does not know."""

    @property
    @abc.abstractmethod
    def _width(self) -> int:
        """The width of command numbers, or the version of the Redis protocol."""

    def begin_take(self, command: Command) -> Reply | PendingReply:
        """Execute a command that may wait for messages. Returns its reply, or the pending reply."""
        waiter = Waiter(command)
        self.store.begin_take(waiter)
        return waiter if waiter.reply is None else waiter.reply

    def within_frame(self, take: Command, reply: Reply) -> Reply:
        """Return the reply to a TAKE, or a failure if a frame has no room for it; see `within_frame`."""
        return within_frame(self.store, self.limits.frame, take, reply)

    def room_for(self, steps: Sequence[Step]) -> int:
        """Return the bytes of values for which the reply to several commands fits a frame."""
        return max(1, self.limits.frame - ITEM_BYTES * (len(steps) + 1))

    @property
    def native_path_settings(self) -> NativePathSettings | None:
        """The settings with which a transport may use the native path for the next bytes; None: it may not.

        One object until a setting changes.
        """
        executor, made = self._executor, self._native_path_settings
        if executor is None or self._decoder.pending or (made is None and not self._decoder.at_frame):
            return None
        width, local, rights = self._width, self.reads_locally, self._rights_for(executor)
        if made is None or made[0] is not executor or made[1] != width or made[5] != local or made[6] is not rights:
            made = executor, width, self._statuses, self.limits.value, self.limits.frame, local, rights
            self._native_path_settings = made
        return made

    def _rights_for(self, executor: "FrameExecutor") -> "NativeRights | None":
        """Return the client's rights for an executor, or None for all rights. One object until they change."""
        rights = self.rights
        if rights.unlimited:
            return None
        made = self._native_rights
        if made is None or made[0] is not executor or made[1] is not rights:
            self._native_rights = made = executor, rights, executor.native_rights(rights)
        return made[2]

    # -- rights -------------------------------------------------------------------------------------------------

    @property
    def rights(self) -> "Rights":
        """The rights of the client."""
        return self.login.rights

    def denial_of(self, command: Command) -> Denial | None:
        """Return why the client may not execute a command of the registry, or None."""
        rights = self.rights
        return None if rights.unlimited else denial_of(rights, command, self.store.databases[0])

    def refused(self, denial: Denial, context: str = "toplevel") -> Failure:
        """Record a denial; return the failure of its command. context: as in ACL LOG."""
        self.login.deny(denial.reason.value, denial.name, context)
        return denial.failure(b"" if self.login.user is None else self.login.user.name)

    def may_wait_for(self, take: Command) -> bool:
        """Whether the client may go on waiting for the messages of a TAKE."""
        return self.login.authenticated and self.denial_of(take) is None

    @property
    def pending(self) -> int:
        """The bytes of commands that are incomplete or not executed."""
        return self._decoder.pending

    @property
    def kept(self) -> int:
        """Estimated bytes that the server keeps for the client besides: queued commands, watched keys, channels."""
        return 0

    @property
    def missing(self) -> int:
        """The bytes that a long string lacks; 0 if no long string is partial."""
        return self._decoder.missing

    @property
    def consumed(self) -> int:
        """The bytes of all complete commands."""
        return self._decoder.consumed

    @abc.abstractmethod
    def end(self) -> None:
        """Free what the conversation keeps. May be called again."""
