"""The store: a keyspace behind a log, and when each reply may leave."""

from cairnkv.store.clock import Clock, checked_clock, wall_clock
from cairnkv.store.local import Store, WhenFull
from cairnkv.store.pending import PendingCommand, PendingReply, size_of
from cairnkv.store.value_cache import PendingRead

__all__ = [
    "Clock",
    "PendingCommand",
    "PendingRead",
    "PendingReply",
    "Store",
    "WhenFull",
    "checked_clock",
    "size_of",
    "wall_clock",
]
