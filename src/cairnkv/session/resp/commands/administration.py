"""SHUTDOWN and WAIT.

Out of scope: options (`config`), information (`info`, `command`).
"""

from typing import Final

from cairnkv.limits import REPLICAS
from cairnkv.session.resp.command_spec import SYNTAX, Arguments, Refusal, Value, in_conversation
from cairnkv.session.resp.conversation import RespConversation
from cairnkv.session.resp.values import NOTHING

_WAYS: Final = frozenset({b"NOSAVE", b"SAVE", b"NOW", b"FORCE", b"ABORT"})


@in_conversation(
    "SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE] [ABORT]", "admin noscript loading no-multi", group="server", since="1.0.0"
)
def shutdown(conversation: RespConversation, arguments: Arguments) -> Value:
    """Stop the server. It answers the commands that it has read, and closes all connections."""
    ways = {text.upper() for text in arguments.rest()}
    if not ways <= _WAYS or {b"SAVE", b"NOSAVE"} <= ways or (b"ABORT" in ways and len(ways) > 1):
        raise Refusal(SYNTAX)
    if b"ABORT" in ways:
        raise Refusal("ERR No shutdown in progress.")
    is_kept = dict(conversation.store.info())["mode"] != "in-memory"  # then all acknowledged writes are saved already
    if b"SAVE" in ways and b"FORCE" not in ways and not is_kept:
        raise Refusal("ERR this server keeps everything in memory and has nowhere to save it; SHUTDOWN NOSAVE stops it")
    if conversation.context.shut_down is None:
        raise Refusal("ERR there is no server to stop around this store")
    conversation.context.shut_down()
    conversation.closing = True
    return NOTHING


@in_conversation("WAIT numreplicas timeout", "", group="generic", since="3.0.0")
def wait(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the number of replicas that have this client's writes: 0, or those of a majority of a cluster."""
    arguments.integer()
    if arguments.integer("ERR timeout is not an integer or out of range") < 0:
        raise Refusal("ERR timeout is negative")
    # The replies to this client's earlier writes leave first, so a majority has these writes on disk.
    return REPLICAS // 2 if dict(conversation.store.info())["mode"] == "replicated" else 0
