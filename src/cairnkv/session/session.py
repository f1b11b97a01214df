"""A session: one client's conversation. Bytes in, bytes out. Sans-IO.

Which wire the client speaks is told by its first byte; the `Conversation` of that wire turns bytes into what is due.

What always holds: replies leave in the order of their commands, whatever each of them waits for. While a command was
not carried out yet, because what it needs is being read from the disk, none behind it is. What a
client may have pending is bounded, in replies that wait and in bytes of replies; at a bound the session
executes no further until `advance` finds room. Behind a failure that ends the conversation nothing is executed
and nothing more is said.

Not for sockets, clocks or the event loop: a connection owns a session, brings it bytes, and is told through
`wake` that there is something to send or to go on with.
"""

import enum
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from cairnkv.commands import OK, Failure, Reply
from cairnkv.limits import (
    BYTES_PER_COST,
    COMMANDS_PER_TURN,
    HELD_REPLIES_MAX,
    NATIVE_COMMANDS_PER_COST,
    PUSHES_MAX,
    UNSENT_PAUSE,
)
from cairnkv.session.article import ArticleConversation
from cairnkv.session.conversation import WHOLE_TABLE_COST, Acceleration, Conversation, Due, Unfinished
from cairnkv.session.redis import words as _words  # noqa: F401  (declares what conversations understand)
from cairnkv.session.redis.conversation import RedisConversation
from cairnkv.session.redis.surroundings import Peer, Surroundings
from cairnkv.store import Deferred, Held, Store, size_of
from cairnkv.wire.article import DEFAULT_LIMITS, Dialect, Limits, Width
from cairnkv.wire.redis.requests import speaks_redis

if TYPE_CHECKING:
    from cairnkv.session.accelerator import Accelerator
    from cairnkv.store.hot_held import HeldRun

TLS_HELLO: Final = b"\x16\x03"
"""How a client begins that expects TLS: a handshake record, and the first byte of its version (RFC 8446, 5.1)."""


class State(enum.Enum):
    """Where a conversation is. `TRANSITIONS` says how it gets from one to another."""

    OPEN = "commands are read and answered"
    HALF_CLOSED = "the client will say no more; it still gets its replies"
    FAILED = "a failure that ends the conversation is said; the client's bytes are thrown away"
    DRAINING = "the server is stopping: what was read is answered, the rest is thrown away"
    DONE = "everything is said"


class Event(enum.Enum):
    """What moves a conversation on."""

    END_OF_INPUT = "the client closed its sending side"
    FAILURE = "a failure whose code closes"
    DRAIN = "the server is told to stop"
    ALL_SAID = "no reply is due any more"


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.OPEN, Event.END_OF_INPUT): State.HALF_CLOSED,
    (State.OPEN, Event.FAILURE): State.FAILED,
    (State.OPEN, Event.DRAIN): State.DRAINING,
    (State.HALF_CLOSED, Event.FAILURE): State.FAILED,
    (State.HALF_CLOSED, Event.ALL_SAID): State.DONE,
    (State.DRAINING, Event.FAILURE): State.FAILED,
    (State.DRAINING, Event.ALL_SAID): State.DONE,
    (State.FAILED, Event.ALL_SAID): State.DONE,
}
"""Every transition there is; an event that is not here leaves the state as it is."""


class Session:
    """One client's conversation with a store."""

    def __init__(
        self,
        store: Store,
        *,
        wake: Callable[[], None],
        dialect: Dialect = Dialect.ARTICLE,
        width: Width | None = None,
        limits: Limits = DEFAULT_LIMITS,
        accelerator: "Accelerator | None" = None,
        surroundings: Surroundings | None = None,
        peer: Peer | None = None,
    ) -> None:
        """wake: called when replies that were held may leave; call `advance` then, or soon.

        accelerator: of this store; None: everything goes the readable way.
        surroundings: what the conversations of a server share; None: this one is alone.
        peer: who is at the other end.
        """
        self._store = store
        self._wake = wake
        self._limits = limits
        self._surroundings = surroundings or Surroundings(store)
        self._peer = peer or Peer()
        self._new_article = partial(
            ArticleConversation,
            store,
            dialect=dialect,
            width=width,
            limits=limits,
            accelerator=accelerator,
            surroundings=self._surroundings,
        )
        self._conversation: Conversation | None = None  # before the first byte has come
        self._begin = b""  # a first byte that does not tell enough
        self._refusal: Failure | None = None  # to be said on whatever wire the client turns out to speak
        self._held: deque[tuple[Due, int]] = deque()  # what is due, in order, with its size
        self._held_size = 0
        self._output: list[bytes] = []
        self._output_size = 0
        self._more = False  # whole commands may be waiting
        # What was read while `_more`, in pieces: to move or extend one buffer of `READ_AHEAD_MAX` takes milliseconds.
        self._ahead: deque[bytes] = deque()
        self._ahead_size = 0
        self._awaited: Held | None = None  # what has to be carried out before anything else is
        self._looked_at = 0  # up to where input was looked at for what else has to be read
        self.state = State.OPEN
        self.paused = False
        """Set by the connection while its client does not take what was sent."""
        self.expects_tls = False
        """Whether the client began as one does that expects TLS."""
        self.overrun = False
        """Whether more was pushed to the client than it may leave untaken: the connection is to be closed."""

    # -- what the connection brings -------------------------------------------------------------------------

    def receive(self, data: bytes | memoryview) -> None:
        """Take bytes from the client. Call `advance` behind it."""
        if self.state is not State.OPEN:
            return
        if self._conversation is None:
            data = self._begin + bytes(data)
            if not data or data == TLS_HELLO[:1]:
                self._begin = data
                return
            self._listen(data)
        self._take(data)

    def _take(self, data: bytes | memoryview) -> None:
        if self._conversation is None or self.state is not State.OPEN:
            return
        if self._more:
            self._ahead.append(bytes(data))
            self._ahead_size += len(data)
        else:
            self._conversation.feed(data)
            self._more = True

    def _take_next(self) -> None:
        """Give the conversation, which needs more bytes, the next ones that were read ahead."""
        assert self._conversation is not None
        if self._ahead:
            data = self._ahead.popleft()
            self._ahead_size -= len(data)
            self._conversation.feed(data)
        else:
            self._more = False

    def _listen(self, begin: bytes) -> None:
        """Tell the wire by how the client begins."""
        self._begin = b""
        if begin.startswith(TLS_HELLO):
            self.expects_tls = True
            self._conversation = self._new_article()
            self._stop_reading()
        elif speaks_redis(begin[0]):
            self._conversation = RedisConversation(
                self._store, self._surroundings, self._peer, push=self._push, limits=self._limits
            )
        else:
            self._conversation = self._new_article()
        if self._refusal is not None:
            self.fail(self._refusal)

    def end_of_input(self) -> None:
        """The client closed its sending side; whatever it said is still answered."""
        if self._conversation is None and self._begin:
            self._decide()
        self._on(Event.END_OF_INPUT)

    def drain(self) -> None:
        """The server is told to stop: answer what was read, and take no more."""
        self._on(Event.DRAIN)

    def fail(self, failure: Failure) -> None:
        """End the conversation with a failure, behind the replies that are due."""
        if self.state in (State.OPEN, State.HALF_CLOSED, State.DRAINING):
            self._say(self._decide().failure(failure))
            if not failure.code.closes:
                self._stop_reading()

    def refuse(self, failure: Failure) -> None:
        """End the conversation with a failure, but on the wire that the client speaks, once that is known."""
        if self._conversation is None:
            self._refusal = failure
        else:
            self.fail(failure)

    @property
    def refused(self) -> bool:
        """Whether there is a refusal that waits for the client's first byte."""
        return self._conversation is None and self._refusal is not None

    def tell_refusal(self) -> None:
        """Wait no longer for the client's first byte: it may wait for ours."""
        if self._refusal is not None:
            self.fail(self._refusal)

    def lost(self) -> None:
        """The client has gone."""
        self.paused = True  # nobody is there to take anything
        if self._conversation is not None:
            self._conversation.end()

    def _decide(self) -> Conversation:
        """The conversation; on the article's wire, if the client has not told another."""
        if self._conversation is None:
            self._conversation = self._new_article()
            if self._begin:
                self._conversation.feed(self._begin)
                self._begin = b""
                self._more = True
        return self._conversation

    # -- what the connection takes --------------------------------------------------------------------------

    def output(self) -> list[bytes]:
        """The bytes to send, in pieces; each is given once."""
        output, self._output = self._output, []
        self._output_size = 0
        return output

    @property
    def blocked(self) -> bool:
        """Whether the session executes nothing before replies are taken or released: read no more for it."""
        due = self._output_size + self._held_size
        if self.paused or due >= UNSENT_PAUSE or len(self._held) >= HELD_REPLIES_MAX or self._is_put_off:
            return True
        return bool(self._held) and self._store.is_behind

    @property
    def _is_put_off(self) -> bool:
        return self._awaited is not None and not self._awaited.executed

    @property
    def runnable(self) -> bool:
        """Whether `advance` could go on now: with a command that has been read, or a reply that was held."""
        return self._can_execute or self._can_release

    @property
    def has_commands(self) -> bool:
        """Whether the input may hold complete commands that are not executed yet."""
        return self._more

    @property
    def only_sends(self) -> bool:
        """Whether only output is left to send, such as a message to a subscriber."""
        return self.state is State.OPEN and not self._more and not self._held and not self.overrun

    @property
    def authenticated(self) -> bool:
        """Whether the client may execute commands: it has sent the password, or the server has none."""
        if self._conversation is None:
            return not self._surroundings.wants_password
        return self._conversation.authenticated

    @property
    def waiting(self) -> bool:
        """Whether replies wait for the log."""
        return bool(self._held)

    @property
    def silence_is_fine(self) -> bool:
        """Whether the client may well be silent because it waits: for the log, or for what others say."""
        return self.waiting or (isinstance(self._conversation, RedisConversation) and self._conversation.is_subscribed)

    @property
    def buffered(self) -> int:
        """Bytes that were read and not yet executed, and those that are kept for what comes later."""
        if self._conversation is None:
            return len(self._begin)
        return self._conversation.pending + self._conversation.kept + self._ahead_size

    @property
    def unsent(self) -> int:
        """Bytes of what would have left if the client took it: replies that wait for the log are not among them."""
        return (self._held_size if self.paused else 0) + self._output_size

    @property
    def unfinished(self) -> bool:
        """Whether a frame was begun and is not finished, or not even begun as the first, through no delay of ours."""
        if self._conversation is None:
            return self._refusal is None
        return not self._more and self._conversation.pending > 0

    @property
    def missing(self) -> int:
        """Bytes that a long string lacks; 0 if no long string is partial."""
        return self._conversation.missing if self._conversation is not None and not self._ahead else 0

    @property
    def consumed(self) -> int:
        """Bytes of all frames that were finished: tells whether an unfinished frame is still the same one."""
        return self._conversation.consumed if self._conversation is not None else 0

    # -- what happens in between ----------------------------------------------------------------------------

    def advance(self) -> None:
        """Execute what was read, up to a turn's number of commands or until the session is blocked."""
        self._release()
        left = COMMANDS_PER_TURN
        while left > 0 and self._can_execute:
            assert self._conversation is not None
            before = self._conversation.consumed
            if (accelerator := self._conversation.carry_out()) is not None:
                replies = accelerator.output()
                carried = self._conversation.consumed - before
                left -= accelerator.executed // NATIVE_COMMANDS_PER_COST + (carried + len(replies)) // BYTES_PER_COST
                self._say_all(replies, accelerator.held())
                continue  # it may have stopped between two frames only because it has executed enough bytes
            due = self._conversation.next()
            left -= 1
            if due is None:
                self._take_next()
            elif isinstance(due, Unfinished):
                left -= WHOLE_TABLE_COST - 1
                if due.until is not None:
                    self._wait_for(due.until)
            else:
                self._say(due)
                left -= due.cost - 1
        if self._is_put_off:
            self._look_ahead()
        if not self._more and not self._held:
            self._on(Event.ALL_SAID)
        if self.state is State.DONE and self._conversation is not None:
            self._conversation.end()  # nobody will finish the frame that was begun, if one was

    def _look_ahead(self) -> None:
        """Have read what the commands need that stand behind the one that was put off."""
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
        if not self._held or self.paused or self._output_size >= UNSENT_PAUSE:
            return False
        outcome = self._held[0][0].outcome
        return not isinstance(outcome, Held) or outcome.reply is not None

    @property
    def acceleration(self) -> Acceleration | None:
        """What the connection's transport may let the accelerator do before this session sees anything.

        None while something is under way that only the session knows of.
        """
        if self._conversation is None or self.state is not State.OPEN or self._held or self._ahead or self.blocked:
            return None
        return self._conversation.acceleration

    def _say(self, due: Due) -> None:
        """Put what is due behind what was due before."""
        if isinstance(due.outcome, Held):
            due.outcome.on_ready = self._wake
            if due.outcome.blocks:
                self._wait_for(due.outcome)
            self._hold(due, due.outcome.size + due.size)
        elif self._held:
            self._hold(due, size_of(due.outcome) + due.size)
        else:
            self._write(due.encode(due.outcome))
        if due.closes:
            self._stop_reading()

    def _wait_for(self, held: Held) -> None:
        """Execute nothing more before this was carried out."""
        self._awaited = held
        if isinstance(held, Deferred):
            held.on_executed = self._wake
        else:
            held.on_ready = self._wake

    def _say_all(self, replies: bytes, behind: "HeldRun | None") -> None:
        """Say what an accelerator has made: replies, and behind them some that wait."""
        if self._held and replies:
            self._hold(Due(replies, lambda _: (replies,)), len(replies))
        else:
            self._write([replies])
        if behind is not None:
            self.take_over([behind])

    def take_over(self, runs: "Iterable[HeldRun]") -> None:
        """Say what a transport's accelerator has made and could not send yet, before anything else is said."""
        for run in runs:
            if not run.executed:
                self._decide().said(run)
            held = Held(OK)
            if run.reply is not None:
                held.release()
            run.on_ready = partial(self._released, held)
            self._hold(Due(held, partial(self._parts, run)), run.size)

    def _released(self, held: Held) -> None:
        held.release()
        self._wake()

    def _parts(self, run: "HeldRun", _: Reply) -> Sequence[bytes]:
        """What is said for commands that an accelerator has brought to a log; what is due one by one is due next."""
        pieces: list[bytes] = []
        for at, part in enumerate(run.parts):
            if isinstance(part, Due):
                rest = [(due, size_of(due.outcome)) for due in run.parts[at:]]
                self._held.extendleft(reversed(rest))
                self._held_size += sum(size for _, size in rest)
                break
            if isinstance(part, Failure):
                pieces += self._decide().failure(part).encode(part)
            else:
                pieces.append(part)
        return pieces

    def _push(self, due: Due, size: int) -> None:
        """Say something that the client did not ask for just now."""
        if self.state is not State.OPEN or self.overrun:
            return
        if self.paused or self._held or self._output_size >= UNSENT_PAUSE:
            self._hold(due, size)
            if self._held_size > PUSHES_MAX:
                self.overrun = True
        else:
            self._say(due)
        self._wake()

    def _hold(self, due: Due, size: int) -> None:
        self._held.append((due, size))
        self._held_size += size

    def _stop_reading(self) -> None:
        self._more = False
        self._ahead.clear()
        self._ahead_size = 0
        if self._conversation is not None:
            self._conversation.end()
        self._on(Event.FAILURE)

    def _release(self) -> None:
        """Write the replies that are ready, up to the first that is not, as far as there is room."""
        while self._can_release:
            due, size = self._held.popleft()
            self._held_size -= size
            reply = due.outcome.reply if isinstance(due.outcome, Held) else due.outcome
            assert reply is not None
            self._write(due.encode(reply))

    def _write(self, pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            if piece:
                self._output.append(piece)
                self._output_size += len(piece)

    def _on(self, event: Event) -> None:
        self.state = TRANSITIONS.get((self.state, event), self.state)
