"""Tables of nodes without nodes: the effects of an entry are written together with its position."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from cairnkv.commands import Get, Reply
from cairnkv.engine import Database, apply
from cairnkv.storage.disk import DiskStorage
from cairnkv.storage.record_format import NODE_DB
from cairnkv.storage.writer import Sync

POSITION = b"position"


class _Listener:
    def committed(self, position: int) -> None:
        pass

    def failed(self, reason: str, *, unknown: bool, unresolved: object = ()) -> None:
        raise AssertionError(reason)

    def resolved(self, happened: object) -> None:
        raise AssertionError("nothing has failed")


class Table:
    """An open table. Use as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.storage = DiskStorage(directory, sync=Sync(None))
        self.databases = [Database()]
        self.databases += [Database(self.databases[0].shared) for _ in range(NODE_DB)]
        self.storage.restore(self.databases[0].shared.databases)
        self.storage.deliver_by(lambda tell: tell())
        self.storage.listen(_Listener())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.storage.close(1)

    def write(self, position: int, values: Mapping[bytes, bytes], **own: bytes) -> None:
        """Write the effects of the entry at a log index. own: the node's other records."""
        effects = [(0, key, value, None) for key, value in values.items()]
        effects += [(NODE_DB, key.encode(), value, None) for key, value in own.items()]
        self.storage.append((), 1, [*effects, (NODE_DB, POSITION, b"%d" % position, None)])

    def read(self, key: bytes, db: int = 0) -> Reply:
        """Return the value that a key had when the table was opened."""
        return apply(self.databases[db], Get(key), 1)
