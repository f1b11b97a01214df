"""Replies of the store as values, and values as bytes within the limit of a reply."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

from cairnkv.commands import NO_MEMORY, Failure, Reply, failures
from cairnkv.protocol.resp import Resp, TooLong, array_head, encode_parts
from cairnkv.session.resp.command_spec import Errors, Value, error_of

Said: TypeAlias = Callable[[Resp], Sequence[bytes]]
"""The bytes of something, in a version of the protocol."""


@dataclasses.dataclass(slots=True)
class Several:
    """In the place of a value: several replies to one command, one behind the other."""

    values: list[Value]


@dataclasses.dataclass(slots=True)
class Prepared:
    """In the place of a value: its bytes, which are the same in both versions of the protocol."""

    pieces: list[bytes]


@dataclasses.dataclass(slots=True)
class Together:
    """In the place of a value: an array of values, of which one that the reply has no room for becomes an error."""

    values: list[Value]


def bytes_of(value: Value, protocol: Resp, limit: int) -> list[bytes]:
    """The bytes of a reply, which are no more than a frame may have; of any other, those of an error."""
    if isinstance(value, Several):
        return [piece for one in value.values for piece in bytes_of(one, protocol, limit)]
    if not isinstance(value, Together):
        return _bytes_within(value, protocol, limit, limit)
    room = limit
    pieces = [array_head(len(value.values))]
    for one in value.values:
        said = _bytes_within(one, protocol, room, limit)
        room -= sum(map(len, said))
        pieces += said
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
    """A reply as a value."""
    try:
        return error_of(reply, errors) if isinstance(reply, Failure) else show(reply)
    except MemoryError:
        return error_of(NO_MEMORY)
