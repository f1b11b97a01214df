"""A session: one client's conversation. Bytes in, bytes out. Sans-IO.

The client's first byte selects the protocol. The `Conversation` of that protocol makes queued replies from bytes.

Invariants: replies leave in the order of their commands. While a command waits for values from the disk, no command
behind it executes. Limits bound a client's pending replies and their bytes: at a limit the session executes nothing
until `advance` finds room. After a failure that ends the conversation the session executes and sends nothing.

Out of scope: sockets, clocks and the event loop. A connection owns a session, gives it bytes, and learns from `wake`
that the session has output or can go on.
"""

import enum
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from cairnkv.commands import OK, Command, Failure, Reply
from cairnkv.limits import (
    BYTES_PER_COST,
    COMMANDS_PER_SLICE,
    NATIVE_COMMANDS_PER_COST,
    PENDING_REPLIES_MAX,
    PUSHES_MAX,
    UNSENT_PAUSE,
)
from cairnkv.protocol.native import DEFAULT_LIMITS, DecoderLimits, StatusByte, Width
from cairnkv.protocol.resp.requests import speaks_redis
from cairnkv.session.access.login import Login
from cairnkv.session.context import Peer, ServerContext
from cairnkv.session.conversation import WHOLE_TABLE_COST, Conversation, NativePathSettings, QueuedReply, Unfinished
from cairnkv.session.native.conversation import NativeConversation
from cairnkv.session.resp import commands as _commands  # noqa: F401  (registers them)
from cairnkv.session.resp.conversation import RespConversation
from cairnkv.store import NO_MESSAGES, PendingExecution, PendingReply, Store, Waiter, returns_of, size_of

if TYPE_CHECKING:
    from cairnkv.session.executor_native import FrameExecutor
    from cairnkv.store.pending_native import PendingBatch

TLS_HELLO: Final = b"\x16\x03"
"""The first bytes of a client that expects TLS: a handshake record and its version (RFC 8446, 5.1)."""


class State(enum.Enum):
    """The state of a session. `TRANSITIONS` has all transitions."""

    OPEN = "the session executes commands"
    HALF_CLOSED = "the client sends no more; it still gets its replies"
    FAILED = "a failure ends the session, which discards the client's bytes"
    DRAINING = "the server stops: the session executes the commands that it has, and discards further bytes"
    DONE = "the session has returned all output"


class Event(enum.Enum):
    """An event that changes the state."""

    END_OF_INPUT = "the client closed its sending side"
    FAILURE = "a failure that ends the session"
    DRAIN = "the server stops"
    ALL_SENT = "no reply is queued"


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.OPEN, Event.END_OF_INPUT): State.HALF_CLOSED,
    (State.OPEN, Event.FAILURE): State.FAILED,
    (State.OPEN, Event.DRAIN): State.DRAINING,
    (State.HALF_CLOSED, Event.FAILURE): State.FAILED,
    (State.HALF_CLOSED, Event.ALL_SENT): State.DONE,
    (State.DRAINING, Event.FAILURE): State.FAILED,
    (State.DRAINING, Event.ALL_SENT): State.DONE,
    (State.FAILED, Event.ALL_SENT): State.DONE,
}
"""All transitions. Any other event leaves the state as it is."""


class BatchReply(PendingReply):
    """In the place of a pending reply: a batch of the native path."""

    __slots__ = ("batch",)

    def __init__(self, batch: "PendingBatch") -> None:
        super().__init__(OK)
        self.batch = batch


class Session:
    """One client's conversation with a store."""

    def __init__(
        self,
        store: Store,
        *,
        wake: Callable[[], None],
        status_byte: StatusByte = StatusByte.ASCII,
        width: Width | None = None,
        limits: DecoderLimits = DEFAULT_LIMITS,
        frame_executor: "FrameExecutor | None" = None,
        context: ServerContext[RespConversation] | None = None,
        peer: Peer | None = None,
    ) -> None:
        """wake: called when pending replies may leave. Call `advance` then, or soon.

        frame_executor: the native path of the store for the native protocol; None: the pure path executes all frames.
        context: the shared state of the server's conversations; None: a new one.
        peer: the client.
        """
        self._store = store
        self._wake = wake
        self._limits = limits
        self._context = context or ServerContext(store)
        self._peer = peer or Peer()
        self.login: Final = Login(self._context.logins, self._peer)
        self._new_native = partial(
            NativeConversation,
            store,
            status_byte=status_byte,
            width=width,
            limits=limits,
            frame_executor=frame_executor,
            login=self.login,
        )
        self._conversation: Conversation | None = None  # None before the first byte
        self._begin = b""  # a first byte that may begin a TLS handshake
        self._refusal: Failure | None = None  # to be sent in the protocol that the first byte selects
        self._queued: deque[tuple[QueuedReply, int]] = deque()  # each with its size
        self._queued_size = 0
        self._output: list[bytes] = []
        self._output_size = 0
        self._more = False  # whether the conversation may have complete commands
        # Bytes that arrived while `_more`, in pieces: to move or extend one buffer of `READ_AHEAD_MAX` takes
        # milliseconds.
        self._ahead: deque[bytes] = deque()
        self._ahead_size = 0
        self._awaited: PendingReply | None = None  # a command that must execute before any other
        self._looked_at = 0  # the end of the input whose commands were decoded for `read_ahead`
        self.state = State.OPEN
        self.paused = False
        """Set by the connection while the client does not read its replies."""
        self.expects_tls = False
        """Whether the client has begun a TLS handshake."""
        self.overrun = False
        """Whether the client has left more messages unread than it may: the connection must close."""

    # -- input ----------------------------------------------------------------------------------------------

    def receive(self, data: bytes | memoryview) -> None:
        """Add bytes from the client. Call `advance` after this."""
        if self.state is not State.OPEN:
            return
        if self._conversation is None:
            data = self._begin + bytes(data)
            if not data or data == TLS_HELLO[:1]:
                self._begin = data
                return
            self._select_protocol(data)
        self._feed(data)

    def _feed(self, data: bytes | memoryview) -> None:
        if self._conversation is None or self.state is not State.OPEN:
            return
        if self._more:
            self._ahead.append(bytes(data))
            self._ahead_size += len(data)
        else:
            self._conversation.feed(data)
            self._more = True

    def _feed_next(self) -> None:
        """Give the conversation, which needs more bytes, the next piece."""
        assert self._conversation is not None
        if self._ahead:
            data = self._ahead.popleft()
            self._ahead_size -= len(data)
            self._conversation.feed(data)
        else:
            self._more = False

    def _select_protocol(self, begin: bytes) -> None:
        """Make the conversation of the protocol that these first bytes belong to."""
        self._begin = b""
        if begin.startswith(TLS_HELLO):
            self.expects_tls = True
            self._conversation = self._new_native()
            self._stop_reading()
        elif speaks_redis(begin[0]):
            self._conversation = RespConversation(
                self._store, self._context, self._peer, login=self.login, push=self._push, limits=self._limits
            )
        else:
            self._conversation = self._new_native()
        if self._refusal is not None:
            self.fail(self._refusal)

    def end_of_input(self) -> None:
        """The client closed its sending side. Its commands still get their replies."""
        if self._conversation is None and self._begin:
            self._any_conversation()
        self._on(Event.END_OF_INPUT)

    def drain(self) -> None:
        """The server stops: execute the commands that were read, and take no more bytes."""
        self._on(Event.DRAIN)

    def fail(self, failure: Failure) -> None:
        """End the session with a failure, behind the queued replies."""
        if self.state in (State.OPEN, State.HALF_CLOSED, State.DRAINING):
            self._queue(self._any_conversation().failure(failure))
            if not failure.code.closes:
                self._stop_reading()

    def refuse(self, failure: Failure) -> None:
        """End the session with a failure, in the protocol that the client's first byte selects."""
        if self._conversation is None:
            self._refusal = failure
        else:
            self.fail(failure)

    @property
    def refused(self) -> bool:
        """Whether a refusal waits for the client's first byte."""
        return self._conversation is None and self._refusal is not None

    def send_refusal(self) -> None:
        """Send the refusal without the client's first byte: the client may wait for the server."""
        if self._refusal is not None:
            self.fail(self._refusal)

    def rights_changed(self) -> None:
        """End the wait for messages, and the subscriptions, that the client's rights no longer allow.

        Each command checks the rights itself.
        """
        if self._conversation is None:
            return
        waiter = self._awaited
        if isinstance(waiter, Waiter) and not waiter.executed and not self._conversation.may_wait_for(waiter.command):
            self._store.end_take(waiter, gives_back=True)
        if isinstance(self._conversation, RespConversation):
            self._conversation.end_forbidden_subscriptions()

    def disconnected(self) -> None:
        """The client has disconnected."""
        self.login.end()
        self._end_waits(gives_back=True)
        self.paused = True
        if self._conversation is not None:
            self._conversation.end()

    def _any_conversation(self) -> Conversation:
        """Return the conversation; one in the native protocol if the client has sent no byte."""
        if self._conversation is None:
            self._conversation = self._new_native()
            if self._begin:
                self._conversation.feed(self._begin)
                self._begin = b""
                self._more = True
        return self._conversation

    # -- output and state -----------------------------------------------------------------------------------

    def output(self) -> list[bytes]:
        """Return the bytes to send, in pieces. Each is returned once."""
        output, self._output = self._output, []
        self._output_size = 0
        return output

    @property
    def blocked(self) -> bool:
        """Whether the session executes nothing until replies are sent or released. Read no more bytes for it."""
        queued = self._output_size + self._queued_size
        if self.paused or queued >= UNSENT_PAUSE or len(self._queued) >= PENDING_REPLIES_MAX or self._awaits:
            return True
        return bool(self._queued) and self._store.is_behind

    @property
    def _awaits(self) -> bool:
        return self._awaited is not None and not self._awaited.executed

    @property
    def waits_for_messages(self) -> bool:
        """Whether a TAKE waits. Read on, though the session is blocked: the client may disconnect."""
        return self._awaits and isinstance(self._awaited, Waiter)

    @property
    def runnable(self) -> bool:
        """Whether `advance` can go on now: with a complete command, or a released reply."""
        return self._can_execute or self._can_release

    @property
    def has_commands(self) -> bool:
        """Whether the input may hold complete commands that are not executed yet."""
        return self._more

    @property
    def only_sends(self) -> bool:
        """Whether only output is left to send, such as a message to a subscriber."""
        return self.state is State.OPEN and not self._more and not self._queued and not self.overrun

    @property
    def authenticated(self) -> bool:
        """Whether the client need not log in, or has done so."""
        return self.login.authenticated

    @property
    def waiting(self) -> bool:
        """Whether replies are queued."""
        return bool(self._queued)

    @property
    def may_idle(self) -> bool:
        """Whether the client may be idle because it waits for a reply or for messages."""
        waits = self.waiting or self._awaits
        return waits or (isinstance(self._conversation, RespConversation) and self._conversation.is_subscribed)

    @property
    def buffered(self) -> int:
        """The bytes of commands that are not executed, and of other state that the session keeps for the client."""
        if self._conversation is None:
            return len(self._begin)
        return self._conversation.pending + self._conversation.kept + self._ahead_size

    @property
    def unsent(self) -> int:
        """The bytes that the client could read now. Replies that wait for a commit are not among them."""
        return (self._queued_size if self.paused else 0) + self._output_size

    @property
    def unfinished(self) -> bool:
        """Whether the server waits for the rest of a frame, or for the first byte."""
        if self._conversation is None:
            return self._refusal is None
        return not self._more and self._conversation.pending > 0

    @property
    def missing(self) -> int:
        """The bytes that a long string lacks; 0 if no long string is partial."""
        return self._conversation.missing if self._conversation is not None and not self._ahead else 0

    @property
    def consumed(self) -> int:
        """The bytes of all complete frames. While it is the same, an incomplete frame is the same one."""
        return self._conversation.consumed if self._conversation is not None else 0

    # -- execution ------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Execute commands, up to the work of one slice or until the session is blocked."""
        self._release()
        left = COMMANDS_PER_SLICE
        while left > 0 and self._can_execute:
            assert self._conversation is not None
            before = self._conversation.consumed
            if (frame_executor := self._conversation.execute_natively()) is not None:
                replies = frame_executor.output()
                executed_bytes = self._conversation.consumed - before
                left -= (
                    frame_executor.work // NATIVE_COMMANDS_PER_COST + (executed_bytes + len(replies)) // BYTES_PER_COST
                )
                self._queue_native(replies, frame_executor.pending())
                continue  # it may have stopped between two frames only because it has executed enough bytes
            queued = self._conversation.next()
            left -= 1
            if queued is None:
                self._feed_next()
            elif isinstance(queued, Unfinished):
                left -= WHOLE_TABLE_COST - 1
                if queued.until is not None:
                    self._wait_for(queued.until)
            else:
                self._queue(queued)
                left -= queued.cost - 1
        if self._awaits and not self.waits_for_messages:
            self._look_ahead()
        if not self._more and not self._queued:
            self._on(Event.ALL_SENT)
        if self.state is State.DONE and self._conversation is not None:
            self._conversation.end()  # frees an incomplete frame

    def _look_ahead(self) -> None:
        """Begin to read the values of commands behind the one that waits for the disk."""
        assert self._conversation is not None
        begin = self._conversation.consumed
        if begin < self._looked_at:
            return
        steps, length = self._conversation.upcoming()
        self._looked_at = begin + max(length, 1)
        for step in steps:
            if not self._store.read_ahead(step):
                break

    @property
    def _can_execute(self) -> bool:
        return self._more and not self.blocked

    @property
    def _can_release(self) -> bool:
        if not self._queued or self.paused or self._output_size >= UNSENT_PAUSE:
            return False
        outcome = self._queued[0][0].outcome
        return not isinstance(outcome, PendingReply) or outcome.reply is not None

    @property
    def native_path_settings(self) -> NativePathSettings | None:
        """The settings with which the transport may use the native path without this session.

        None while the session has state that the native path does not know.
        """
        if self._conversation is None or self.state is not State.OPEN or self._queued or self._ahead or self.blocked:
            return None
        return self._conversation.native_path_settings

    def _queue(self, queued: QueuedReply) -> None:
        """Write a reply, or queue it behind those that wait."""
        if isinstance(queued.outcome, PendingReply):
            if isinstance(queued.outcome, Waiter) and self.state is not State.OPEN:
                self._store.end_take(queued.outcome, gives_back=False)
            queued.outcome.on_ready = self._wake
            if queued.outcome.blocks:
                self._wait_for(queued.outcome)
            self._hold(queued, queued.outcome.size + queued.size)
        elif self._queued:
            self._hold(queued, size_of(queued.outcome) + queued.size)
        else:
            self._write(queued.encode(queued.outcome))
        if queued.closes:
            self._stop_reading()

    def _wait_for(self, pending: PendingReply) -> None:
        """Execute no other command before this one is executed."""
        self._awaited = pending
        if isinstance(pending, PendingExecution):
            pending.on_executed = self._wake
        else:
            pending.on_ready = self._wake

    def _queue_native(self, replies: bytes, behind: "PendingBatch | None") -> None:
        """Queue replies of the native path, and behind them a batch of replies that wait."""
        if self._queued and replies:
            self._hold(QueuedReply(replies, lambda _: (replies,)), len(replies))
        else:
            self._write([replies])
        if behind is not None:
            self.add_batches([behind])

    def add_batches(self, batches: "Iterable[PendingBatch]") -> None:
        """Queue batches that the transport's native path has executed and whose replies it could not send yet."""
        for batch in batches:
            if not batch.executed:
                self._any_conversation().own_writes.note_batch(batch)
            pending = BatchReply(batch)
            if batch.reply is not None:
                pending.release()
            batch.on_ready = partial(self._released, pending)
            self._hold(QueuedReply(pending, partial(self._encode_batch, batch)), batch.size)

    def _released(self, pending: PendingReply) -> None:
        pending.release()
        self._wake()

    def _encode_batch(self, batch: "PendingBatch", _: Reply) -> Sequence[bytes]:
        """Encode the first replies of a batch, and queue those behind them that are not encoded yet."""
        pieces: list[bytes] = []
        for at, part in enumerate(batch.parts):
            if isinstance(part, QueuedReply):
                rest = [(queued, size_of(queued.outcome)) for queued in batch.parts[at:]]
                self._queued.extendleft(reversed(rest))
                self._queued_size += sum(size for _, size in rest)
                break
            if isinstance(part, Failure):
                pieces += self._any_conversation().failure(part).encode(part)
            else:
                pieces.append(part)
        return pieces

    def _push(self, queued: QueuedReply, size: int) -> None:
        """Send a message that answers no command."""
        if self.state is not State.OPEN or self.overrun:
            return
        if self.paused or self._queued or self._output_size >= UNSENT_PAUSE:
            self._hold(queued, size)
            if self._queued_size > PUSHES_MAX:
                self.overrun = True
        else:
            self._queue(queued)
        self._wake()

    def _hold(self, queued: QueuedReply, size: int) -> None:
        self._queued.append((queued, size))
        self._queued_size += size

    def _stop_reading(self) -> None:
        self._more = False
        self._ahead.clear()
        self._ahead_size = 0
        if self._conversation is not None:
            self._conversation.end()
        self._on(Event.FAILURE)

    def _release(self) -> None:
        """Write replies up to the first one that still waits, as far as there is room."""
        while self._can_release:
            queued, size = self._queued.popleft()
            self._queued_size -= size
            reply = queued.outcome.reply if isinstance(queued.outcome, PendingReply) else queued.outcome
            assert reply is not None
            self._write(queued.encode(reply))

    def _write(self, pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            if piece:
                self._output.append(piece)
                self._output_size += len(piece)

    def _end_waits(self, *, gives_back: bool) -> None:
        """End the waits of the client's TAKE commands. gives_back: also the leases whose replies are not sent yet."""
        for queued, _ in self._queued:
            outcome = queued.outcome
            if isinstance(outcome, Waiter):
                self._store.end_take(outcome, gives_back=gives_back)
            elif gives_back and isinstance(outcome, BatchReply):
                outcome.batch.abandoned = True
            elif gives_back and queued.take is not None and isinstance(outcome, PendingReply) and not outcome.executed:
                outcome.on_ready = partial(self._give_back, queued.take, outcome)
                queued.outcome = NO_MESSAGES

    def _give_back(self, take: Command, pending: PendingReply) -> None:
        """Give back the leases in the reply to a TAKE that was not executed when its client left."""
        assert pending.reply is not None
        self._store.give_back(returns_of(take, pending.reply))
        self._wake()

    def _on(self, event: Event) -> None:
        self.state = TRANSITIONS.get((self.state, event), self.state)
        if self.state is not State.OPEN:
            # A client that sends no more cannot acknowledge messages, and has disconnected in most cases.
            self._end_waits(gives_back=event is Event.END_OF_INPUT)
