"""The log of the disk size: what entries change, in RocksDB; `rocksdict` is imported when one is opened."""

from cairnkv.log.disk.engine import Engine, open_engine
from cairnkv.log.disk.log import DiskLog, Progress
from cairnkv.log.disk.space import LIMIT_LEAST as DISK_LIMIT_LEAST
from cairnkv.log.disk.sync import Sync

__all__ = ["DISK_LIMIT_LEAST", "DiskLog", "Engine", "Progress", "Sync", "open_engine"]
