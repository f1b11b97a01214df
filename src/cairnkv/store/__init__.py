"""The store: a keyspace behind a log, and when each reply may leave."""

from cairnkv.store.clock import Clock, checked_clock, wall_clock
from cairnkv.store.local import Store, WhenFull
from cairnkv.store.pending import Deferred, Held, size_of
from cairnkv.store.value_cache import Postponed

__all__ = ["Clock", "Deferred", "Held", "Postponed", "Store", "WhenFull", "checked_clock", "size_of", "wall_clock"]
