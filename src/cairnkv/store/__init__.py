"""The store: a keyspace behind a log, and when each reply may leave."""

from cairnkv.store.clock import Clock, wall_clock
from cairnkv.store.store import Held, Store, WhenFull, size_of

__all__ = ["Clock", "Held", "Store", "WhenFull", "size_of", "wall_clock"]
