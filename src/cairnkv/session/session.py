"""A session: one client's conversation. Bytes in, bytes out. Sans-IO.

What always holds: replies leave in the order of their commands, whatever each of them waits for. What a
client may have pending is bounded, in replies that wait and in bytes of replies; at a bound the session
executes no further until `advance` finds room. Behind a failure that ends the conversation nothing is executed
and nothing more is said.

Not for sockets, clocks or the event loop: a connection owns a session, brings it bytes, and is told through
`wake` that there is something to send or to go on with.
"""

import enum
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from cairnkv.commands import Failure, Reply, Scope, failures
from cairnkv.limits import COMMANDS_PER_TURN, HELD_REPLIES_MAX, UNSENT_PAUSE
from cairnkv.store import Held, Store, size_of
from cairnkv.wire.article import DEFAULT_LIMITS, CommandDecoder, Dialect, Limits, Request, Width, reply_parts

if TYPE_CHECKING:
    from cairnkv.session.accelerator import Accelerator

_log: Final = logging.getLogger("cairnkv.session")

WHOLE_TABLE_COST: Final = 64
"""Commands of one key that a command about the whole table counts as, in a turn. A slice of a scan is some
milliseconds of work in a frame of 40 bytes: a turn of nothing else would hold the loop for seconds."""


Acceleration: TypeAlias = tuple["Accelerator", int, tuple[int, int], int, int]
"""An accelerator; the width, the statuses, the longest string and the longest frame of a conversation."""


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
    ) -> None:
        """wake: called when replies that were held may leave; call `advance` then, or soon.

        accelerator: of this store; None: everything goes the readable way.
        """
        self._store = store
        self._accelerator = accelerator
        self._acceleration: Acceleration | None = None  # once the width is settled
        self._wake = wake
        self._dialect = dialect
        self._limits = limits
        self._decoder = CommandDecoder(width=width, limits=limits)
        self._held: deque[tuple[Reply | Held, int]] = deque()  # replies in order, with their sizes
        self._held_size = 0
        self._output: list[bytes] = []
        self._output_size = 0
        self._more = False  # whole commands may be waiting in the decoder
        self.state = State.OPEN
        self.paused = False
        """Set by the connection while its client does not take what was sent."""

    # -- what the connection brings -------------------------------------------------------------------------

    def receive(self, data: bytes | memoryview) -> None:
        """Take bytes from the client. Call `advance` behind it."""
        if self.state is State.OPEN:
            self._decoder.feed(data)
            self._more = True

    def end_of_input(self) -> None:
        """The client closed its sending side; whatever it said is still answered."""
        self._on(Event.END_OF_INPUT)

    def drain(self) -> None:
        """The server is told to stop: answer what was read, and take no more."""
        self._on(Event.DRAIN)

    def fail(self, failure: Failure) -> None:
        """End the conversation with a failure, behind the replies that are due."""
        if self.state in (State.OPEN, State.HALF_CLOSED, State.DRAINING):
            self._say(failure)

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
        return self.paused or due >= UNSENT_PAUSE or len(self._held) >= HELD_REPLIES_MAX

    @property
    def runnable(self) -> bool:
        """Whether `advance` could go on now: with a command that has been read, or a reply that was held."""
        return self._can_execute or self._can_release

    @property
    def waiting(self) -> bool:
        """Whether replies wait for the log."""
        return bool(self._held)

    @property
    def buffered(self) -> int:
        """Bytes that were read and not yet executed."""
        return self._decoder.pending

    @property
    def unfinished(self) -> bool:
        """Whether a frame was begun and is not finished, through no delay of ours."""
        return not self._more and self._decoder.pending > 0

    @property
    def missing(self) -> int:
        """Bytes that have to come before anything can be done; with more than these, it is not this frame's."""
        return self._decoder.missing

    @property
    def consumed(self) -> int:
        """Bytes of all frames that were finished: tells whether an unfinished frame is still the same one."""
        return self._decoder.consumed

    # -- what happens in between ----------------------------------------------------------------------------

    def advance(self) -> None:
        """Execute what was read, up to a turn's number of commands or until the session is blocked."""
        self._release()
        left = COMMANDS_PER_TURN
        while left > 0 and self._can_execute:
            if self._accelerator is not None and not self._held:
                self._accelerate(self._accelerator)
                if self.blocked:
                    break
            request = self._decoder.next()
            left -= 1
            if request is None:
                self._more = False
            elif isinstance(request, Failure):
                self._say(request)
            else:
                self._say(self._execute(request))
                word = request.command.word
                if word.scope is Scope.TABLE or word.by_store:
                    left -= WHOLE_TABLE_COST - 1
        if not self._more and not self._held:
            self._on(Event.ALL_SAID)
        if self.state is State.DONE:
            self._forget_input()  # nobody will finish the frame that was begun, if one was

    @property
    def _can_execute(self) -> bool:
        return self._more and not self.blocked

    @property
    def _can_release(self) -> bool:
        if not self._held or self.paused or self._output_size >= UNSENT_PAUSE:
            return False
        first, _ = self._held[0]
        return not isinstance(first, Held) or first.reply is not None

    def _accelerate(self, accelerator: "Accelerator") -> None:
        """Let the compiled hot path have the first look; what it leaves is for `next`."""
        responses = self._decoder.carry_out(accelerator, self._dialect)
        if responses:
            self._output.append(responses)
            self._output_size += len(responses)

    @property
    def acceleration(self) -> Acceleration | None:
        """What the connection's transport may let the accelerator do before this session sees anything.

        None while something is under way that only the session knows of.
        """
        idle = self.state is State.OPEN and not self._held and not self.blocked and not self._decoder.pending
        if self._accelerator is None or not idle or not self._decoder.at_frame:
            return None
        if self._acceleration is None:
            limits = self._limits
            width = self._decoder.width or 2
            self._acceleration = self._accelerator, width, self._dialect.value, limits.value, limits.frame
        return self._acceleration

    def _execute(self, request: Request) -> Reply | Held:
        try:
            return self._store.execute(request.command)
        except Exception:
            _log.exception("%s failed", request.command.word.name)
            return Failure(failures.INTERNAL, "the server's log has the details")

    def _say(self, reply: Reply | Held) -> None:
        """Put a reply behind those that are due."""
        if isinstance(reply, Held):
            reply.on_ready = self._wake
            self._hold(reply, reply.size)
        elif self._held:
            self._hold(reply, size_of(reply))
        else:
            self._write(reply)
        if isinstance(reply, Failure) and reply.code.closes:
            self._stop_reading()

    def _hold(self, reply: Reply | Held, size: int) -> None:
        self._held.append((reply, size))
        self._held_size += size

    def _stop_reading(self) -> None:
        self._more = False
        self._forget_input()
        self._on(Event.FAILURE)

    def _forget_input(self) -> None:
        self._decoder = CommandDecoder(limits=self._limits)  # frees what was read

    def _release(self) -> None:
        """Write the replies that are ready, up to the first that is not, as far as there is room."""
        while self._can_release:
            first, size = self._held.popleft()
            self._held_size -= size
            reply = first.reply if isinstance(first, Held) else first
            assert reply is not None
            self._write(reply)

    def _write(self, reply: Reply) -> None:
        head, payload = reply_parts(reply, self._dialect, frame_limit=self._limits.frame)
        self._output.append(head)
        if payload:
            self._output.append(payload)
        self._output_size += len(head) + len(payload)

    def _on(self, event: Event) -> None:
        self.state = TRANSITIONS.get((self.state, event), self.state)
