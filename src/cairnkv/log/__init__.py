"""Logs: where a write becomes safe before its reply leaves.

`process` is nowhere but this process. The disk (RocksDB) and a majority of machines (NATS JetStream) come
with their sizes, behind the same contract.
"""

from cairnkv.log.base import Log, LogListener, LogRefused
from cairnkv.log.process import ProcessLog

__all__ = ["Log", "LogListener", "LogRefused", "ProcessLog"]
