"""Values of Redis commands: what stands in the place of a value, and values as bytes within the limit of a reply."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from cairnkv.commands import NO_MEMORY, Command, Failure, Reply, failures
from cairnkv.protocol.resp import Resp, TooLong, array_head, encode_parts
from cairnkv.session.conversation import UNFINISHED
from cairnkv.session.resp.command_spec import Errors, Value, error_of
from cairnkv.store import PendingReply

PushEncoder: TypeAlias = Callable[[Resp], Sequence[bytes]]
"""Returns the bytes of a push message in a version of the protocol."""


NOTHING: Final = object()
"""In the place of a value: no reply."""


@dataclasses.dataclass(slots=True)
class Several:
    """In the place of a value: several replies to one command."""

    values: list[Value]


@dataclasses.dataclass(slots=True)
class Prepared:
    """In the place of a value: its bytes, which are the same in both versions of the protocol."""

    pieces: list[bytes]


@dataclasses.dataclass(slots=True)
class Together:
    """In the place of a value: an array of values. A value that the reply has no room for becomes an error."""

    values: list[Value]


@dataclasses.dataclass(slots=True)
class Later:
    """In the place of a value: the store's reply, which may be pending, and how it becomes a value."""

    outcome: Reply | PendingReply
    show: Callable[[Reply], Value]
    cost: int = 1  # its work, in commands of one key
    errors: Errors | None = None
    size: int = 0  # bytes that are kept for `show`, besides the outcome
    acts: bool = False  # whether `show` must be called even if the client wants no replies
    take: Command | None = None  # see `QueuedReply`


class Job(abc.ABC):
    """A command that takes several slices of work.

    kept: estimated bytes that it keeps in memory between slices.
    may_be_refused: whether the next slice needs the client's rights to the command.
    """

    kept = 0
    may_be_refused = True

    @abc.abstractmethod
    def step(self) -> Value:
        """Do one slice. Returns `UNFINISHED`, or the value of the command after the last slice."""

    def finish(self) -> Value:
        """Do all slices at once, within a transaction."""
        while (value := self.step()) is UNFINISHED:
            pass
        return value


def bytes_of(value: Value, protocol: Resp, limit: int) -> list[bytes]:
    """Return the bytes of a value; if they are more than `limit`, those of an error."""
    if isinstance(value, Several):
        return [piece for one in value.values for piece in bytes_of(one, protocol, limit)]
    if not isinstance(value, Together):
        return _bytes_within(value, protocol, limit, limit)
    room = limit
    pieces = [array_head(len(value.values))]
    for one in value.values:
        encoded = _bytes_within(one, protocol, room, limit)
        room -= sum(map(len, encoded))
        pieces += encoded
    return pieces


def _bytes_within(value: Value, protocol: Resp, room: int, limit: int) -> list[bytes]:
    try:
        if not isinstance(value, Prepared):
            return encode_parts(value, protocol, room)
        if sum(map(len, value.pieces)) <= room:
            return value.pieces
        raise TooLong
    except TooLong:
        text = f"the reply would be longer than the limit of {limit:,} bytes"
        return encode_parts(error_of(Failure(failures.BIGREPLY, text)), protocol)


def shown(show: Callable[[Reply], Value], reply: Reply, errors: Errors | None = None) -> Value:
    """Return the value of a reply."""
    try:
        return error_of(reply, errors) if isinstance(reply, Failure) else show(reply)
    except MemoryError:
        return error_of(NO_MEMORY)
