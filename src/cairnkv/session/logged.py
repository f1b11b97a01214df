"""Execution of commands that the native path has left, at their place in the log."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cairnkv.commands import Command, Reply, Step, Take
from cairnkv.protocol.native import CommandDecoder, DecoderLimits, Request, StatusByte, Width, reply_parts
from cairnkv.protocol.resp import RequestDecoder, Resp
from cairnkv.session.conversation import QueuedReply, within_frame
from cairnkv.session.resp.command_spec import RESP_COMMANDS, Arguments, Call
from cairnkv.session.resp.values import bytes_of, shown
from cairnkv.store import NO_MESSAGES, returns_of

if TYPE_CHECKING:
    from cairnkv.replication.proposals import Changes
    from cairnkv.replication.store import ReplicatedStore


def execute_native_frame(
    store: "ReplicatedStore",
    changes: "Changes",
    frame: bytes,
    width: Width,
    statuses: tuple[int, int],
    limits: DecoderLimits,
    *,
    abandoned: bool = False,
) -> QueuedReply:
    """Execute a frame of the native protocol. Return its queued reply.

    abandoned: whether its client has disconnected: a TAKE gives its leases back.
    """
    decoder = CommandDecoder(width=width, limits=limits)
    decoder.feed(frame)
    request = decoder.next()
    assert isinstance(request, Request), "the native path has scanned it"
    command = request.command
    outcome = store.execute_logged(Step(0, command), changes)
    if abandoned:
        outcome = _given_back(store, command, outcome)

    def encode(reply: Reply) -> Sequence[bytes]:
        if isinstance(command, Take):
            reply = within_frame(store, limits.frame, command, reply)
        return reply_parts(reply, StatusByte(statuses), frame_limit=limits.frame)

    return QueuedReply(outcome, encode)


def execute_resp_request(
    store: "ReplicatedStore",
    changes: "Changes",
    command: bytes,
    db: int,
    protocol: Resp,
    limits: DecoderLimits,
    *,
    abandoned: bool = False,
) -> QueuedReply:
    """Execute a request of the Redis protocol. Return its queued reply. abandoned: see above."""
    decoder = RequestDecoder(limits)
    decoder.feed(command)
    request = decoder.next()
    assert isinstance(request, list), "the native path has scanned it"
    spec = RESP_COMMANDS[request[0].upper()]
    assert spec.on_keys is not None
    call = spec.on_keys(Arguments(spec.name, request[1:], db))
    assert isinstance(call, Call)
    outcome = store.execute_logged(Step(db, call.command), changes)
    if abandoned:
        outcome = _given_back(store, call.command, outcome)

    def encode(reply: Reply) -> Sequence[bytes]:
        if isinstance(call.command, Take):
            reply = within_frame(store, limits.frame, call.command, reply)
        return bytes_of(shown(call.show, reply, call.errors), protocol, limits.frame)

    return QueuedReply(outcome, encode)


def _given_back(store: "ReplicatedStore", command: Command, reply: Reply) -> Reply:
    """Return the reply to a command whose client has disconnected. A TAKE gives its leases back."""
    if not isinstance(command, Take):
        return reply
    store.give_back(returns_of(command, reply))
    return NO_MESSAGES
