"""BGSAVE, LASTSAVE and SAVE: backups, for those who know them as Redis' snapshots.

They are made beside those of the article's wire, under a name of their own (`cairnkv.commands.vocabulary.Backup`).
"""

from typing import Final

from cairnkv.commands import Backup, Reply, failures
from cairnkv.protocol.resp import Simple
from cairnkv.session.resp.command_spec import SYNTAX, Arguments, Call, Refusal, Value, in_conversation, on_keys
from cairnkv.session.resp.conversation import RespConversation

NAME: Final = b"bgsave"
"""What these backups are called."""

KEEP: Final = 1
"""How many of them are kept: Redis too replaces its snapshot when the next one is whole."""

_NO_BACKUPS: Final = (
    "ERR this server makes no backups: it needs --data and --backup-dir; "
    "and a node of a cluster has its snapshots in NATS"
)


@on_keys(
    "BGSAVE [SCHEDULE]",
    "admin noscript",
    group="server",
    since="1.0.0",
    summary="Begin a backup, which takes the place of the one before when it is whole; INFO tells how far it is.",
)
def bgsave(arguments: Arguments) -> Call:
    if len(arguments) and arguments.keyword() != b"SCHEDULE":
        raise Refusal(SYNTAX)
    arguments.end()

    def show(_: Reply) -> Value:
        return Simple("Background saving started")

    errors = {failures.UNDERWAY: "ERR Background save already in progress", failures.NOBACKUP: _NO_BACKUPS}
    return Call(Backup(NAME, KEEP), show, errors)


@in_conversation(
    "LASTSAVE",
    "fast",
    group="server",
    since="1.0.0",
    summary="The end of this server's newest backup, in seconds since 1970; an error before the first backup.",
)
def lastsave(talk: RespConversation, arguments: Arguments) -> Value:
    facts = dict(talk.store.info())
    if "backup_last_ms" not in facts:
        raise Refusal(_NO_BACKUPS)
    if not (last := int(facts["backup_last_ms"])):
        raise Refusal("ERR there is no backup yet; BGSAVE makes one")
    return last // 1000


@in_conversation(
    "SAVE",
    "admin noscript no-multi",
    group="server",
    since="1.0.0",
    summary="Refused, since the others would have to wait: BGSAVE does the same while they are served.",
)
def save(talk: RespConversation, arguments: Arguments) -> Value:
    raise Refusal(
        "ERR SAVE would have everybody wait; BGSAVE makes a backup meanwhile, and INFO tells when it is there"
    )
