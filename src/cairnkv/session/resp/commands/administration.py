"""The words on the server as a whole: stopping it, and waiting for replicas, of which there are none.

What it is set to is in `config`, what it says of itself in `info` and `command`.
"""

from typing import Final

from cairnkv.replication.nats.options import REPLICAS
from cairnkv.session.resp.command_spec import SYNTAX, Arguments, Refusal, Value, in_conversation
from cairnkv.session.resp.conversation import NOTHING, RespConversation

_WAYS: Final = frozenset({b"NOSAVE", b"SAVE", b"NOW", b"FORCE", b"ABORT"})


@in_conversation(
    "SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE] [ABORT]",
    "admin noscript loading no-multi",
    group="server",
    since="1.0.0",
    summary="Stop the server: what it has read is answered, and clients are closed.",
)
def shutdown(talk: RespConversation, arguments: Arguments) -> Value:
    ways = {word.upper() for word in arguments.rest()}
    if not ways <= _WAYS or {b"SAVE", b"NOSAVE"} <= ways or (b"ABORT" in ways and len(ways) > 1):
        raise Refusal(SYNTAX)
    if b"ABORT" in ways:
        raise Refusal("ERR No shutdown in progress.")
    is_kept = dict(talk.store.info())["mode"] != "in-memory"  # then everything that was acknowledged is saved already
    if b"SAVE" in ways and b"FORCE" not in ways and not is_kept:
        raise Refusal("ERR this server keeps everything in memory and has nowhere to save it; SHUTDOWN NOSAVE stops it")
    if talk.context.shut_down is None:
        raise Refusal("ERR there is no server to stop around this store")
    talk.context.shut_down()
    talk.closing = True
    return NOTHING


@in_conversation(
    "WAIT numreplicas timeout",
    "",
    group="generic",
    since="3.0.0",
    summary="How many replicas have what this client has written: none; at a node of a cluster those of a majority.",
)
def wait(talk: RespConversation, arguments: Arguments) -> Value:
    arguments.integer()
    if arguments.integer("ERR timeout is not an integer or out of range") < 0:
        raise Refusal("ERR timeout is negative")
    # What this client wrote before is answered before this, and then a majority's disks have it.
    return REPLICAS // 2 if dict(talk.store.info())["mode"] == "replicated" else 0
