"""The store: a keyspace behind a log, and when each reply may leave."""

from cairnkv.store.clock import Clock, checked_clock, wall_clock
from cairnkv.store.cold import Postponed
from cairnkv.store.held import Deferred, Held, size_of
from cairnkv.store.store import Store, WhenFull

__all__ = ["Clock", "Deferred", "Held", "Postponed", "Store", "WhenFull", "checked_clock", "size_of", "wall_clock"]
