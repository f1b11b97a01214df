"""Executes frames of the native protocol that the native path has left, at their place in the log."""

from functools import partial
from typing import TYPE_CHECKING

from cairnkv.commands import Step
from cairnkv.protocol.native import CommandDecoder, Limits, Request, StatusByte, Width, reply_parts
from cairnkv.session.conversation import QueuedReply

if TYPE_CHECKING:
    from cairnkv.replication.proposals import Changes
    from cairnkv.replication.store import ReplicatedStore


def execute_logged(
    store: "ReplicatedStore",
    changes: "Changes",
    frame: bytes,
    *,
    width: Width,
    statuses: tuple[int, int],
    string_max: int,
    frame_max: int,
) -> QueuedReply:
    """Execute a frame that the native path has left. Return its queued reply."""
    decoder = CommandDecoder(width=width, limits=Limits(value=string_max, frame=frame_max))
    decoder.feed(frame)
    request = decoder.next()
    assert isinstance(request, Request), "the native path has scanned it"
    reply = store.execute_logged(Step(0, request.command), changes)
    return QueuedReply(reply, partial(reply_parts, status_byte=StatusByte(statuses), frame_limit=frame_max))
