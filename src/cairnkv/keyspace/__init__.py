"""The keyspace: the table in memory, in log time, and what each command does to it.

`apply(keyspace, command, now)` is deterministic, which is what lets several machines agree on a state by
agreeing on the order of commands. Nothing here does I/O, reads a clock, or draws a random number.
"""

from cairnkv.keyspace.keyspace import Keyspace, Staged
from cairnkv.keyspace.operations import apply, can_apply
from cairnkv.keyspace.shared import Journal, Shared, Watched, forget, undo
from cairnkv.keyspace.table import position

__all__ = ["Journal", "Keyspace", "Shared", "Staged", "Watched", "apply", "can_apply", "forget", "position", "undo"]
