"""Changes that the native path has made, as an entry of a journal."""

from collections.abc import Sequence
from typing import cast

from cairnkv.engine.database import Database
from cairnkv.records import record


@record
class Staged:
    """Changes that the compiled hot path has made: of each the key, and the value and deadline before, in a row."""

    database: Database
    undos: list[bytes | int | None]

    @property
    def keys(self) -> Sequence[bytes]:
        """The keys."""
        return cast("list[bytes]", self.undos[::3])

    def undo(self) -> None:
        """Let everything stand there again, newest first."""
        for at in range(len(self.undos) - 3, -1, -3):
            key, value, expiry = cast("tuple[bytes, bytes | None, int | None]", self.undos[at : at + 3])
            self.database.restore(key, None if value is None else (value, expiry))

    def forget(self) -> None:
        """Nothing is kept besides this."""

    def remove_pending(self, pending: dict[bytes, int], sequence: int) -> None:
        """See `Change`."""
        from cairnkv.engine.table_native import remove_pending  # there is one: it has made this

        remove_pending(pending, self.undos, sequence)
