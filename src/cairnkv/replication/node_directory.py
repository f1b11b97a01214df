"""The directory of a node: its number, its cluster's name and its table.

Invariants: a crash leaves a file with its old content or its new content, and a whole table or none.

Out of scope: the content of the table (`cairnkv.storage`).
"""

import contextlib
import secrets
import shutil
from pathlib import Path
from typing import Final

from cairnkv.errors import OptionError
from cairnkv.storage.files import rewrite


class NodeDirectory:
    """The directory of one node.

    node        the node's number, 16 hexadecimal digits
    cluster     the name of the cluster that the table belongs to
    table/      the state, in RocksDB
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self.table: Final = path / "table"

    def node(self) -> int:
        """Return the node's number. The first call draws it at random. Raises `OptionError`."""
        file = self.path / "node"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                return int(file.read_text(), 16)
            number = secrets.randbits(64)
            rewrite(file, f"{number:016x}\n")
        except (OSError, ValueError) as error:
            raise OptionError(f"{file}: {error}") from None
        return number

    def refuse_other(self, cluster: str) -> None:
        """Raise `OptionError` if the table belongs to another cluster.

        Call this before the node connects to NATS, where it would make a stream with the wrong name.
        """
        try:
            name = (self.path / "cluster").read_text().strip()
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise OptionError(f"{self.path / 'cluster'}: {error}") from None
        if name != cluster and self.table.exists():
            raise OptionError(
                f"{self.path} belongs to a node of cluster {name}, not {cluster}: use --name {name}, or another "
                "--data. To make another cluster from it, see `cairn cluster repair`"
            )

    def keep_cluster(self, name: str) -> None:
        """Write the name of the cluster that the table belongs to. Raises `OptionError`."""
        file = self.path / "cluster"
        try:
            if not file.exists() or file.read_text().strip() != name:
                rewrite(file, f"{name}\n")
        except (OSError, ValueError) as error:
            raise OptionError(f"{file}: {error}") from None

    def set_aside(self, why: str = "damaged") -> Path:
        """Rename the table, and return its new path. why: a part of the new name."""
        number = 1
        while (aside := self.path / f"table.{why}-{number}").exists():
            number += 1
        self.table.rename(aside)
        return aside

    def remove_table(self) -> None:
        """Remove the table. A crash meanwhile leaves all of it or none, because a part of a table cannot be opened."""
        removed = self.path / "table.removed"
        shutil.rmtree(removed, ignore_errors=True)  # left by a crash
        with contextlib.suppress(FileNotFoundError):
            self.table.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)
