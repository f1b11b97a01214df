"""The keyspace: the table in memory, in log time, and what each command does to it.

`apply(database, command, now)` is deterministic, which is what lets several machines agree on a state by
agreeing on the order of commands. Nothing here does I/O, reads a clock, or draws a random number.
"""

from cairnkv.engine.database import Database, Journal, Shared, Watched, forget, undo
from cairnkv.engine.native_changes import Staged
from cairnkv.engine.operations import apply, can_apply
from cairnkv.engine.table import crc

__all__ = ["Database", "Journal", "Shared", "Staged", "Watched", "apply", "can_apply", "crc", "forget", "undo"]
