"""What a session asks of a wire: bytes in, and what is due for each command.

One implementation for each wire: `article` and `redis.conversation`. Which one a client speaks is told by its first
byte, since no command of one can begin with a byte that a command of the other begins with.

Not for the order of replies, nor for bounds: those are the session's, and the same for all wires.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from cairnkv.commands import Command, Failure, Reply, Scan, Scope, Step
from cairnkv.limits import BYTES_PER_COST
from cairnkv.store import Held, size_of

if TYPE_CHECKING:
    from cairnkv.session.accelerator import Accelerator
    from cairnkv.store.hot_held import HeldRun

WHOLE_TABLE_COST: Final = 64
"""Commands of one key that a command about the whole table counts as, in a turn. A slice of a scan is some
milliseconds of work in a frame of 40 bytes: a turn of nothing else would hold the loop for seconds."""

KEYS_PER_COST: Final = 20
"""Keys that a slice of a scan looks at which are as much work as a command of one key."""

WORDS_PER_COST: Final = 8
"""Words of a command, such as keys, that are about as much work as a command of one key."""

TOLD_PER_COST: Final = 256
"""Bytes of a reply of many small parts (replies about the server) that are as much work as a command of one key."""

AHEAD_COMMANDS: Final = 64
"""Commands that are looked at behind one that waits for the disk, to have read what they need as well."""

AHEAD_BYTES: Final = 16_384
"""Bytes of input that are looked at for that."""

Encode: TypeAlias = Callable[[Reply], Sequence[bytes]]
"""Turns a reply into the bytes to send, in pieces; there may be none."""

Acceleration: TypeAlias = tuple["Accelerator", int, tuple[int, int], int, int, bool]
"""An accelerator; the width of command numbers, or the version of Redis' protocol; the statuses, the longest string and
the longest frame of a conversation; and whether all its reads may show what was true a moment ago."""


def cost_of(command: Command, outcome: Reply | Held, made: int) -> int:
    """Return the work of a command without that of its keys, in commands of one key. The same for both protocols.

    made: bytes of values that the command made or copied (`Store.bytes_made`), without those of its outcome.
    """
    cost = WHOLE_TABLE_COST if command.word.scope is Scope.TABLE or command.word.by_store else 1
    if isinstance(command, Scan):
        cost = max(cost, command.count // KEYS_PER_COST)
    return cost + (made + bytes_of_outcome(outcome)) // BYTES_PER_COST


def bytes_of_outcome(outcome: Reply | Held) -> int:
    """Return the bytes of a reply or a pending reply."""
    return outcome.size if isinstance(outcome, Held) else size_of(outcome)


@dataclasses.dataclass(slots=True)
class Due:
    """What is due for one command: its outcome, and how that is said.

    cost: how many commands of one key this was as much work as. closes: whether the conversation ends behind it.
    size: bytes that it keeps in memory until it is said, besides those of its outcome.
    """

    outcome: Reply | Held
    encode: Encode
    cost: int = 1
    closes: bool = False
    size: int = 0


@dataclasses.dataclass(slots=True, frozen=True)
class Unfinished:
    """In the place of what is due: a command takes several turns, and has had one.

    until: it gets no other before this was carried out; None: when it is its turn.
    """

    until: Held | None = None


UNFINISHED: Final = Unfinished()
"""One that waits for nothing but its turn."""


class OwnWrites:
    """Whether all that a client has written is there to be read, so that a local read cannot miss it."""

    def __init__(self) -> None:
        # In their order; not only the newest: it may have failed while one before it is on its way.
        self._waiting: deque[Held | HeldRun] = deque()

    def note(self, outcome: Reply | Held) -> None:
        """The client has written something, with this outcome."""
        if isinstance(outcome, Held):
            self._forget_executed()
            self._waiting.append(outcome)

    def note_run(self, run: "HeldRun") -> None:
        """The client has said several commands."""
        if run.writes:
            self._forget_executed()
            self._waiting.append(run)

    @property
    def are_there(self) -> bool:
        """Whether they are; an outcome that nobody knows will not be waited for."""
        self._forget_executed()
        return not self._waiting

    def _forget_executed(self) -> None:
        while self._waiting and self._waiting[0].executed:
            self._waiting.popleft()


class Conversation(Protocol):
    """One wire's part of a session."""

    def feed(self, data: bytes | memoryview) -> None:
        """Take bytes of the client."""

    def next(self) -> Due | Unfinished | None:
        """Carry out the next command that is there whole, or a part of it; None when more bytes are needed."""

    def upcoming(self) -> tuple[list[Step], int]:
        """Some of the commands that come next, as far as is known without carrying them out, and in how many bytes."""

    def failure(self, failure: Failure) -> Due:
        """How a failure is said that no command has asked for."""

    def said(self, run: "HeldRun") -> None:
        """An accelerator holds the replies to commands of the client, which may not have been carried out yet."""

    def carry_out(self) -> "Accelerator | None":
        """Let an accelerator carry out what it can of the bytes that were fed; it, with the replies, if it could."""

    @property
    def acceleration(self) -> Acceleration | None:
        """What a transport may let an accelerator do with the bytes that come next; None: nothing."""

    @property
    def authenticated(self) -> bool:
        """Whether the client may execute commands."""

    @property
    def pending(self) -> int:
        """Bytes that were fed and belong to no command that was carried out."""

    @property
    def kept(self) -> int:
        """Bytes that the client makes the server keep besides: what it queued, watches and listens to, near enough."""

    @property
    def missing(self) -> int:
        """Bytes that a long string lacks; 0 if no long string is partial."""

    @property
    def consumed(self) -> int:
        """Bytes of all commands that came whole."""

    def end(self) -> None:
        """The client has gone, or nothing more will be read of it. May be told more than once."""
