"""The engine: databases in memory, queues, log time, and the effect of each command.

Invariants: `apply(database, command, now)` is deterministic, so nodes that apply the same commands in the same order
have the same state. The engine does no I/O, reads no clock and draws no random number.
"""

from cairnkv.engine.database import Database, Journal, Shared, Watched, discard, undo
from cairnkv.engine.operations import apply, can_apply
from cairnkv.engine.queue import QueueDatabase
from cairnkv.engine.queue_operations import keep_leases
from cairnkv.engine.table import crc

__all__ = [
    "Database",
    "Journal",
    "QueueDatabase",
    "Shared",
    "Watched",
    "apply",
    "can_apply",
    "crc",
    "discard",
    "keep_leases",
    "undo",
]
