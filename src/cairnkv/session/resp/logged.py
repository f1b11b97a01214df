"""Executes Redis commands that the native path has left, at their place in the log."""

from typing import TYPE_CHECKING

from cairnkv.commands import Step
from cairnkv.protocol.native import Limits
from cairnkv.protocol.resp import RequestDecoder, Resp
from cairnkv.session.conversation import QueuedReply
from cairnkv.session.resp.command_spec import RESP_COMMANDS, Arguments, Call
from cairnkv.session.resp.encoding import bytes_of, shown

if TYPE_CHECKING:
    from cairnkv.replication.proposals import Changes
    from cairnkv.replication.store import ReplicatedStore


def execute_logged(
    store: "ReplicatedStore",
    changes: "Changes",
    command: bytes,
    *,
    db: int,
    protocol: Resp,
    string_max: int,
    frame_max: int,
) -> QueuedReply:
    """Execute a command that the native path has left. Return its queued reply."""
    decoder = RequestDecoder(Limits(value=string_max, frame=frame_max))
    decoder.trusted = True
    decoder.feed(command)
    words = decoder.next()
    assert isinstance(words, list), "the native path has scanned it"
    spec = RESP_COMMANDS[words[0].upper()]
    assert spec.on_keys is not None
    call = spec.on_keys(Arguments(spec.name, words[1:], db))
    assert isinstance(call, Call)
    reply = store.execute_logged(Step(db, call.command), changes)
    return QueuedReply(reply, lambda reply: bytes_of(shown(call.show, reply, call.errors), protocol, frame_max))
