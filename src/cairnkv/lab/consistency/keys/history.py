"""Histories of operations on keys.

Invariants: no key existed at the beginning of the run. See `cairnkv.lab.consistency.history`.

Out of scope: the evaluation of a history (`checks`).
"""

import enum
from pathlib import Path
from typing import Any, Final

from cairnkv.lab.consistency import history
from cairnkv.lab.consistency.history import Format, Outcome, check_types, read_into, span, types_of
from cairnkv.records import record


class Verb(enum.Enum):
    """The kind of an operation."""

    GET = "get"
    EXISTS = "exists"
    SET = "set"
    CLEAR = "clear"
    INCR = "incr"
    SWAP = "swap"
    """Set, and return the value before."""
    SET_IF = "set_if"
    """Set if the key has the value `expected`."""
    CLEAR_IF = "clear_if"
    """Delete the key if it has the value `expected`."""

    @property
    def writes(self) -> bool:
        """Whether the operation may change the store."""
        return self is not Verb.GET and self is not Verb.EXISTS


@record
class Operation:
    """One operation of one client.

    client: its number; a client has one operation at a time.
    value: what SET, SWAP and SET_IF store. expected: what SET_IF and CLEAR_IF compare with. amount: what INCR adds.
    result: of an OK operation. GET and SWAP: the value, or None for an absent key; EXISTS, SET_IF and CLEAR_IF: a bool;
    INCR: the sum; others: None.
    invoked, completed: nanoseconds since the beginning of the run. node: its address. note: the text of the error.
    final: whether it is one of the reads at the end, after all writes and faults.
    in_script: whether the store executed it as a script.
    """

    client: int
    verb: Verb
    key: str
    invoked: int
    completed: int
    outcome: Outcome = Outcome.OK
    result: str | int | bool | None = None
    value: str | None = None
    expected: str | None = None
    amount: int = 0
    node: str = ""
    note: str = ""
    final: bool = False
    in_script: bool = False

    def __str__(self) -> str:
        """Return the operation as text.

        >>> str(Operation(3, Verb.GET, "r1", 1_500_000, 2_750_000, result="c2-7", node="n1"))
        "client 3 get r1 → 'c2-7' (1.500–2.750 ms, at n1)"
        """
        return f"client {self.client} {self.call} → {self.reply} ({span(self)})"

    @property
    def call(self) -> str:
        """The command and its arguments, as text."""
        return f"{self._command} in a script" if self.in_script else self._command

    @property
    def _command(self) -> str:
        verb, key = self.verb, self.key
        if verb is Verb.SET_IF:
            return f"set {key} {self.value!r} if it is {self.expected!r}"
        if verb is Verb.CLEAR_IF:
            return f"clear {key} if it is {self.expected!r}"
        if verb is Verb.INCR:
            return f"incr {key} by {self.amount}"
        if verb in (Verb.SET, Verb.SWAP):
            return f"{verb.value} {key} {self.value!r}"
        return f"{verb.value} {key}"

    @property
    def reply(self) -> str:
        """The reply, as text."""
        if self.outcome is not Outcome.OK:
            return str(self.outcome.value)
        if self.verb in (Verb.SET, Verb.CLEAR):
            return "ok"
        if self.result is None:
            return "missing"
        if isinstance(self.result, bool):
            return "yes" if self.result else "no"
        return repr(self.result)


class History(history.History[Operation]):
    """A history of operations on keys."""

    def by_key(self) -> dict[str, list[Operation]]:
        """Return the operations of each key, in the order of their invocations."""
        found: dict[str, list[Operation]] = {}
        for one in sorted(self.operations, key=lambda one: (one.invoked, one.completed)):
            found.setdefault(one.key, []).append(one)
        return found


# -- files ---------------------------------------------------------------------------------------------------------

_TYPES: Final = types_of(Operation)


def _parsed(line: dict[str, Any]) -> Operation:
    check_types(line, _TYPES)
    fields = line | {"verb": Verb(line["verb"]), "outcome": Outcome(line.get("outcome", "ok"))}
    one = Operation(**fields)
    if one.verb in (Verb.SET, Verb.SWAP, Verb.SET_IF) and one.value is None:
        raise ValueError(f"{one.verb.value} needs a value")
    if one.verb in (Verb.SET_IF, Verb.CLEAR_IF) and one.expected is None:
        raise ValueError(f"{one.verb.value} needs an expected value")
    if one.outcome is Outcome.OK and not _may_return(one.verb, one.result):
        raise ValueError(f"{one.verb.value} cannot return {one.result!r:.40}")
    return one


def _may_return(verb: Verb, result: str | int | bool | None) -> bool:
    if verb in (Verb.GET, Verb.SWAP):
        return result is None or isinstance(result, str)
    if verb is Verb.INCR:
        return type(result) is int
    if verb in (Verb.SET, Verb.CLEAR):
        return result is None
    return isinstance(result, bool)


FORMAT: Final = Format("cairnkv history", Operation(0, Verb.GET, "", 0, 0), _parsed)


class Saver(history.Saver[Operation]):
    """Writes a history of operations on keys to a file."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        super().__init__(path, about, FORMAT)


def load(path: Path) -> History:
    """Read a history from a file. Raises `BadHistory`, which names the line, and `OSError`."""
    loaded = History()
    read_into(loaded, path, FORMAT)
    return loaded
