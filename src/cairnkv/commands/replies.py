"""What a command answers, before any wire has touched it.

A reply is one of: `OK`, `MISSING`, bytes, an int, `Items`, a `Failure`, one of these `InMemory`, or the `Replies` to
several commands.
The store makes them, a wire turns them into bytes, a client turns them into Python values. Nothing here knows how
either looks.
"""

import enum
from typing import Final, TypeAlias

from cairnkv.commands import failures
from cairnkv.commands.failures import Code
from cairnkv.records import record


class Mark(enum.Enum):
    """The two replies that carry nothing."""

    OK = "OK"
    MISSING = "Key not found"


OK: Final = Mark.OK
"""Done; there is nothing to give back."""

MISSING: Final = Mark.MISSING
"""The key is not there. An answer, not a fault."""


@record
class Items:
    """Several strings in an order that the command defines; None stands for a key that is not there."""

    values: tuple[bytes | None, ...]


@record
class Failure:
    """Why a command was not carried out: a code of the table, and a sentence for people."""

    code: Code
    text: str

    @property
    def message(self) -> str:
        """The code and the sentence, as they stand on a wire and in an error.

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
    """The reply to a write that is in memory only so far, which is safe enough to whoever asked; never a failure.

    It has not waited for the log, and a crash or a failing log may still take back what it says.
    """

    reply: "Reply"


@record
class Replies:
    """What the commands of a transaction answer, in their order. No wire but that of the transaction has it."""

    values: tuple["Reply", ...]


Reply: TypeAlias = Mark | bytes | int | Items | Failure | InMemory | Replies
