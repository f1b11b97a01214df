"""Stores: they execute commands on databases and decide when each reply may leave."""

from cairnkv.store.admission import bytes_made
from cairnkv.store.base import Store, WhenFull
from cairnkv.store.clock import Clock, checked_clock, wall_clock
from cairnkv.store.direct_script import DirectScript
from cairnkv.store.local import LocalStore
from cairnkv.store.pending import ITEM_BYTES, PendingExecution, PendingReply, size_of
from cairnkv.store.script import RUN_ANEW, Execute, Script
from cairnkv.store.value_cache import PendingRead
from cairnkv.store.waiters import NO_MESSAGES, Waiter, returns_of

__all__ = [
    "ITEM_BYTES",
    "NO_MESSAGES",
    "RUN_ANEW",
    "Clock",
    "DirectScript",
    "Execute",
    "LocalStore",
    "PendingExecution",
    "PendingRead",
    "PendingReply",
    "Script",
    "Store",
    "Waiter",
    "WhenFull",
    "bytes_made",
    "checked_clock",
    "returns_of",
    "size_of",
    "wall_clock",
]
