"""A node's table: files of it while it is in use, a table made of them, and what those say who find one elsewhere."""

import random
import threading
from pathlib import Path

import pytest

import cairnkv
from cairnkv.cli.main import main
from cairnkv.commands import Get, Set
from cairnkv.errors import OptionError
from cairnkv.keyspace import Keyspace, Shared
from cairnkv.log.base import LogListener
from cairnkv.log.disk import DiskLog, Sync
from cairnkv.log.disk.check import look_at
from cairnkv.log.disk.records import NODE_SPACE
from cairnkv.log.disk.repair import repair
from cairnkv.log.quorum.table import install, node_record, staged

PATIENCE = 20.0
LARGE = random.Random(5).randbytes(700_000)
"""A value that stands in parts."""


class Listener:
    """Knows what is committed."""

    def __init__(self) -> None:
        self.position = 0
        self.reached = threading.Condition()

    def committed(self, position: int) -> None:
        with self.reached:
            self.position = position
            self.reached.notify_all()

    def failed(self, reason: str, *, unknown: bool, unsettled: object = ()) -> None:
        raise AssertionError(reason)

    def settled(self, happened: object) -> None:
        raise AssertionError("nothing has failed")


class Table:
    """A node's table, written to as a node would: all effects of an entry and its position together."""

    def __init__(self, directory: Path) -> None:
        self.log = DiskLog(directory, sync=Sync.parsed("none"))
        self._shared = Shared()
        self.spaces = tuple(Keyspace(self._shared) for _ in range(NODE_SPACE + 1))
        self.log.restore(self.spaces)
        self._listener: LogListener = Listener()
        self.log.deliver_by(lambda told: told())
        self.log.listen(self._listener)

    def apply(self, position: int, keys: dict[bytes, bytes]) -> None:
        effects = [(0, key, value, None) for key, value in keys.items()]
        self.log.append((), 1, [*effects, (NODE_SPACE, b"position", b"%d" % position, None)])

    def get(self, key: bytes) -> object:
        return self.spaces[0].apply(Get(key), 1)

    def close(self) -> None:
        self.log.close(1)
