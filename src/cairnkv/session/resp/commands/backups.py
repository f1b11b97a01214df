"""BGSAVE, LASTSAVE and SAVE: backups with Redis' commands for snapshots.

These backups have the name `NAME`, apart from those of the native protocol (`cairnkv.commands.vocabulary.Backup`).
"""

from typing import Final

from cairnkv.commands import Backup, Reply, failures
from cairnkv.protocol.resp import Simple
from cairnkv.session.resp.command_spec import SYNTAX, Arguments, Call, Refusal, Value, in_conversation, on_keys
from cairnkv.session.resp.conversation import RespConversation

NAME: Final = b"bgsave"
"""The name of these backups."""

KEEP: Final = 1
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
    return Call(Backup(NAME, KEEP), show, errors)


@in_conversation("LASTSAVE", "fast", group="server", since="1.0.0")
def lastsave(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the end of the newest backup in seconds since 1970; an error before the first backup."""
    facts = dict(conversation.store.info())
    if "backup_last_ms" not in facts:
        raise Refusal(_NO_BACKUPS)
    if not (last := int(facts["backup_last_ms"])):
        raise Refusal("ERR there is no backup yet; BGSAVE makes one")
    return last // 1000


@in_conversation("SAVE", "admin noscript no-multi", group="server", since="1.0.0")
def save(conversation: RespConversation, arguments: Arguments) -> Value:
    """Always an error, because other clients would have to wait. Use BGSAVE."""
    raise Refusal("ERR SAVE would stop the service of other clients; use BGSAVE, whose progress INFO shows")
