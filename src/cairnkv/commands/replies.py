"""The replies of commands, before a protocol encodes them.

A reply is `OK`, `MISSING`, bytes, an int, `Items`, a `Failure`, one of these `InMemory`, or the `Replies` to several
commands. The store makes replies, a protocol encodes them, a client decodes them to Python values.
"""

import enum
from typing import Final, TypeAlias

from cairnkv.commands import failures
from cairnkv.commands.failures import Code
from cairnkv.records import record

__all__ = ["MISSING", "NO_MEMORY", "OK", "Failure", "InMemory", "Items", "Mark", "Replies", "Reply"]


class Mark(enum.Enum):
    """The two replies without a value."""

    OK = "OK"
    MISSING = "Key not found"


OK: Final = Mark.OK
"""The command succeeded, and has no value to return."""

MISSING: Final = Mark.MISSING
"""The key does not exist. This is no failure."""


@record
class Items:
    """Several strings in an order that the command defines. None stands for a missing key."""

    values: tuple[bytes | None, ...]


@record
class Failure:
    """The failure of a command: a code, and an explanation for people."""

    code: Code
    text: str

    @property
    def message(self) -> str:
        """Return the code and the explanation, as protocols and errors show them.

        >>> from cairnkv.commands.failures import FULL
        >>> Failure(FULL, "no room").message
        'FULL no room'
        """
        return f"{self.code.name} {self.text}"


NO_MEMORY: Final = Failure(
    failures.FULL,
    "the system gave no memory for the command; send shorter values, or give the process more memory",
)
"""The failure of a command whose execution raised `MemoryError`."""


@record
class InMemory:
    """The reply to a write whose client accepts durability `memory`. Never a failure.

    The write is not committed yet. A crash or a failed commit may still undo it.
    """

    reply: "Reply"


@record
class Replies:
    """The replies to the commands of a transaction, in their order."""

    values: tuple["Reply", ...]


Reply: TypeAlias = Mark | bytes | int | Items | Failure | InMemory | Replies
