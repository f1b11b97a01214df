"""Storage: the data that survives a restart of this node.

`in_memory` keeps nothing; `disk` uses RocksDB, which is imported only when a store is opened on it.

Out of scope: the order of writes between nodes (`replication`).
"""

from cairnkv.storage.base import *  # noqa: F403
from cairnkv.storage.in_memory import InMemoryStorage as InMemoryStorage
