"""The keyspace: the table in memory, in log time, and what each command does to it.

`apply(keyspace, command, now)` is deterministic, which is what lets several machines agree on a state by
agreeing on the order of commands. Nothing here does I/O, reads a clock, or draws a random number.
"""

from cairnkv.keyspace.keyspace import Journal, Keyspace
from cairnkv.keyspace.operations import apply, can_apply
from cairnkv.keyspace.table import position

__all__ = ["Journal", "Keyspace", "apply", "can_apply", "position"]
