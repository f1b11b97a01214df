"""The words of Redis that are served, each in one place: how it is said, what it means here, what it answers.

`strings`, `numbers`, `bits`, `keys`, `expiry` and `scanning` speak of keys; the others of the conversation, or of the
server. Importing this declares all of them in `cairnkv.session.redis.grammar.WORDS`.
"""

from cairnkv.session.redis.words import (
    administration,
    backups,
    bits,
    clients,
    commands,
    configuration,
    connection,
    expiry,
    information,
    keys,
    numbers,
    pubsub,
    scanning,
    strings,
    transactions,
)

__all__ = [
    "administration",
    "backups",
    "bits",
    "clients",
    "commands",
    "configuration",
    "connection",
    "expiry",
    "information",
    "keys",
    "numbers",
    "pubsub",
    "scanning",
    "strings",
    "transactions",
]
