"""Logs: where a write becomes safe before its reply leaves.

`process` is nowhere but this process; `disk` is RocksDB, which is imported where a store is opened on it. A majority
of machines (NATS JetStream) comes with its size, behind the same contract.
"""

from cairnkv.storage.base import BackUp, CommitListener, Deliver, Effect, LoadingStopped, Made, Storage, StorageRefused
from cairnkv.storage.in_memory import InMemoryStorage

__all__ = [
    "BackUp",
    "CommitListener",
    "Deliver",
    "Effect",
    "InMemoryStorage",
    "LoadingStopped",
    "Made",
    "Storage",
    "StorageRefused",
]
