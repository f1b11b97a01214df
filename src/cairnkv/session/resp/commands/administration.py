"""SHUTDOWN and WAIT; BGSAVE, LASTSAVE and SAVE: backups with Redis' commands for snapshots.

Out of scope: options (`config`), information (`info`, `command`).
"""

from typing import Final

from cairnkv.commands import Backup, Reply, failures
from cairnkv.limits import REPLICAS
from cairnkv.protocol.resp import Simple
from cairnkv.session.resp.command_spec import SYNTAX, Arguments, Call, Refusal, Value, in_conversation, on_keys
from cairnkv.session.resp.conversation import RespConversation
from cairnkv.session.resp.values import NOTHING

_WAYS: Final = frozenset({b"NOSAVE", b"SAVE", b"NOW", b"FORCE", b"ABORT"})


@in_conversation(
    "SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE] [ABORT]",
    "admin noscript loading no-multi allow-busy",
    group="server",
    since="1.0.0",
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


@in_conversation("WAIT numreplicas timeout", "noscript", group="generic", since="3.0.0")
def wait(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the number of replicas that have this client's writes: 0, or those of a majority of a cluster."""
    arguments.integer()
    if arguments.integer("ERR timeout is not an integer or out of range") < 0:
        raise Refusal("ERR timeout is negative")
    # The replies to this client's earlier writes leave first, so a majority has these writes on disk.
    return REPLICAS // 2 if dict(conversation.store.info())["mode"] == "replicated" else 0


# -- backups: apart from those of the native protocol (`cairnkv.commands.vocabulary.Backup`) ---------------------

BACKUP_NAME: Final = b"bgsave"
"""The name of these backups."""

BACKUPS_KEPT: Final = 1
"""Number of backups to keep. Redis, too, replaces its snapshot by the next one."""

_NO_BACKUPS: Final = (
    "ERR this server makes no backups: it needs --data and --backup-dir; "
    "and a node of a cluster has its snapshots in NATS"
)


@on_keys("BGSAVE [SCHEDULE]", "admin noscript", group="server", since="1.0.0")
def bgsave(arguments: Arguments) -> Call:
    """Begin a backup. When it is complete, it replaces the previous one. INFO shows its progress."""
    if len(arguments) and arguments.keyword() != b"SCHEDULE":
        raise Refusal(SYNTAX)
    arguments.end()

    def show(_: Reply) -> Value:
        return Simple("Background saving started")

    errors = {failures.UNDERWAY: "ERR Background save already in progress", failures.NOBACKUP: _NO_BACKUPS}
    return Call(Backup(BACKUP_NAME, BACKUPS_KEPT), show, errors)


@in_conversation("LASTSAVE", "fast", group="server", since="1.0.0")
def lastsave(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the end of the newest backup in seconds since 1970; 0: there is no backup."""
    return int(dict(conversation.store.info()).get("backup_last_ms", 0)) // 1000


@in_conversation("SAVE", "admin noscript no-multi", group="server", since="1.0.0")
def save(conversation: RespConversation, arguments: Arguments) -> Value:
    """Always an error, because other clients would have to wait. Use BGSAVE."""
    raise Refusal("ERR SAVE would stop the service of other clients; use BGSAVE, whose progress INFO shows")
