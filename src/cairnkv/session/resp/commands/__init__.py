"""The words of Redis that are served, each in one place: how it is said, what it means here, what it answers.

`strings`, `numbers`, `bits`, `keys`, `expiry` and `scan` speak of keys; the others of the conversation, or of the
server. Importing this declares all of them in `cairnkv.session.resp.command_spec.RESP_COMMANDS`.
"""

from cairnkv.session.resp.commands import (
    administration,
    backups,
    bits,
    clients,
    command,
    config,
    connection,
    expiry,
    info,
    keys,
    numbers,
    pubsub,
    scan,
    strings,
    transactions,
)

__all__ = [
    "administration",
    "backups",
    "bits",
    "clients",
    "command",
    "config",
    "connection",
    "expiry",
    "info",
    "keys",
    "numbers",
    "pubsub",
    "scan",
    "strings",
    "transactions",
]
