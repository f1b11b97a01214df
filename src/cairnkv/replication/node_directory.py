"""What a node of a cluster keeps on its disk, besides what its table has.

What always holds: a file here has what it had, or all that it is to have; there is a whole table, or none.

Not for what stands in the table (`log.disk`).
"""

import contextlib
import secrets
import shutil
from pathlib import Path
from typing import Final

from cairnkv.errors import OptionError
from cairnkv.storage.files import rewrite


class NodeDirectory:
    """What a node keeps on its disk: its number, its cluster's name, and its table.

    node        the node's number, 16 hexadecimal digits
    cluster     the name of the cluster that the table is of
    table/      what RocksDB has of the state
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self.table: Final = path / "table"

    def node(self) -> int:
        """The node's number, drawn when it is asked for the first time. Raises `OptionError`."""
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
        """See that the table, if there is one, is not another cluster's, as far as it is known. Raises `OptionError`.

        It is for before anything is asked of NATS, where a stream of a wrong name would be made, and take its room.
        """
        with contextlib.suppress(FileNotFoundError):
            try:
                name = (self.path / "cluster").read_text().strip()
            except (OSError, ValueError) as error:
                if isinstance(error, FileNotFoundError):
                    raise
                raise OptionError(f"{self.path / 'cluster'}: {error}") from None
            if name != cluster and self.table.exists():
                raise OptionError(
                    f"{self.path} is of a node of cluster {name}, not {cluster}: take --name {name}, or another "
                    "--data. To make another cluster of what it has, see `cairn cluster repair`"
                )

    def keep_cluster(self, name: str) -> None:
        """The table is of this cluster. Raises `OptionError`."""
        file = self.path / "cluster"
        try:
            if not file.exists() or file.read_text().strip() != name:
                rewrite(file, f"{name}\n")
        except (OSError, ValueError) as error:
            raise OptionError(f"{file}: {error}") from None

    def set_aside(self, why: str = "damaged") -> Path:
        """Put the table somewhere else, where nothing uses it; where. why: a word of its new name."""
        number = 1
        while (aside := self.path / f"table.{why}-{number}").exists():
            number += 1
        self.table.rename(aside)
        return aside

    def remove_table(self) -> None:
        """Have no table. A crash meanwhile leaves all of it or none: a part of one could not be opened."""
        removed = self.path / "table.removed"
        shutil.rmtree(removed, ignore_errors=True)  # what a crash has left
        with contextlib.suppress(FileNotFoundError):
            self.table.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)
