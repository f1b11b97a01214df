"""Histories: the operations of clients with their replies and times, and the actions of the nemesis.

The checks need only the history, so it can be saved and checked again later. A saved history is JSON lines: a header,
then one line for each operation and each action.

Invariants: times are nanoseconds of one monotonic clock since the beginning of the run; no key existed at the
beginning; no operation was completed before it was invoked. For an unknown outcome, "completed" is the time when the
client gave up: the operation may take effect at any time after its invocation, or never.

Out of scope: the evaluation of a history (`cairnkv.lab.consistency.checks`).
"""

import enum
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Self, TextIO, get_args, get_type_hints

from cairnkv.errors import CallerError
from cairnkv.records import record
from cairnkv.version import VERSION

FORMAT: Final = 1
"""The version of the format. `load` refuses other versions."""

LINE_MAX: Final = 1024 * 1024
"""Maximum characters of a line. A `Saver` writes shorter ones."""


class BadHistory(CallerError):
    """A file that is not a history of this version's format."""


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


class Outcome(enum.Enum):
    """The outcome of an operation, as far as its client knows."""

    OK = "ok"
    NOT_EXECUTED = "not executed"
    """The operation never takes effect."""
    UNKNOWN = "unknown"
    """The operation has taken effect, or will do so, or never does."""


@record
class Operation:
    """One operation of one client.

    client: its number; a client has one operation at a time.
    value: what SET, SWAP and SET_IF store. expected: what SET_IF and CLEAR_IF compare with. amount: what INCR adds.
    result: of an OK operation. GET and SWAP: the value, or None for an absent key; EXISTS, SET_IF and CLEAR_IF: a bool;
    INCR: the sum; others: None.
    invoked, completed: nanoseconds since the beginning of the run. node: its address. note: the text of the error.
    final: whether it is one of the reads at the end, after all writes and faults.
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

    def __str__(self) -> str:
        """Return the operation as text.

        >>> str(Operation(3, Verb.GET, "r1", 1_500_000, 2_750_000, result="c2-7", node="n1"))
        "client 3 get r1 → 'c2-7' (1.500–2.750 ms, at n1)"
        """
        span = f"{self.invoked / 1e6:.3f}–{self.completed / 1e6:.3f} ms{self.node and f', at {self.node}'}"
        return f"client {self.client} {self.call} → {self.reply} ({span})"

    @property
    def call(self) -> str:
        """The command and its arguments, as text."""
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


@record
class Action:
    """A fault that the nemesis injected.

    what: the kind, such as `kill`. target: the name of the host or process. began, ended: nanoseconds since the
    beginning of the run; at the end, the nemesis began to heal the cluster.
    """

    what: str
    target: str
    began: int
    ended: int

    def __str__(self) -> str:
        return f"{self.what} {self.target} ({self.began / 1e6:.0f}–{self.ended / 1e6:.0f} ms)"


class History:
    """A history in memory.

    about: the header: the addresses, the seed, the options of the run. operations, actions: in no order.
    """

    def __init__(
        self, operations: Iterable[Operation] = (), actions: Iterable[Action] = (), about: dict[str, Any] | None = None
    ) -> None:
        self.operations = list(operations)
        self.actions = list(actions)
        self.about: dict[str, Any] = about or {}

    @property
    def not_injected(self) -> tuple[str, ...]:
        """The requested kinds of fault that the nemesis did not inject, for lack of time or by chance."""
        done = {action.what for action in self.actions}
        return tuple(str(fault) for fault in self.about.get("nemesis", ()) if fault not in done)

    def by_key(self) -> dict[str, list[Operation]]:
        """Return the operations of each key, in the order of their invocations."""
        found: dict[str, list[Operation]] = {}
        for one in sorted(self.operations, key=lambda one: (one.invoked, one.completed)):
            found.setdefault(one.key, []).append(one)
        return found


# -- files ---------------------------------------------------------------------------------------------------------

_OMITTED: Final = Operation(0, Verb.GET, "", 0, 0)
"""An operation with the default values, which a line omits."""

_TYPES: Final = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(Operation).items()} | {
    "verb": (str,),
    "outcome": (str,),
}
"""The types of the fields of a line."""


class Saver:
    """Writes a history to a file during the run. The context manager closes the file."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8")
        self._put({"cairnkv history": FORMAT, "version": VERSION, **about})

    def operation(self, one: Operation) -> None:
        """Write an operation."""
        fields = {"client": one.client, "verb": one.verb.value, "key": one.key}
        fields |= {"invoked": one.invoked, "completed": one.completed}
        for name in Operation.__match_args__[len(fields) :]:
            value, omitted = getattr(one, name), getattr(_OMITTED, name)
            if type(value) is not type(omitted) or value != omitted:  # False and 0 are different results
                fields[name] = value.value if isinstance(value, Outcome) else value
        self._put(fields)

    def action(self, one: Action) -> None:
        """Write an action."""
        self._put({"nemesis": one.what, "target": one.target, "began": one.began, "ended": one.ended})

    def _put(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=True, separators=(",", ":")) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def load(path: Path) -> History:
    """Read a history from a file. Raises `BadHistory`, which names the line, and `OSError`."""
    lines = _lines(path)
    about = next(lines, (0, {}))[1]
    if about.pop("cairnkv history", None) != FORMAT:
        raise BadHistory(f"{path} is not a history of format {FORMAT}")
    history = History(about=about)
    for number, line in lines:
        try:
            if "nemesis" in line:
                history.actions.append(_action(line))
            else:
                history.operations.append(_operation(line))
        except KeyError as error:
            raise BadHistory(f"{path}, line {number}: {error} is missing") from None
        except (ValueError, TypeError) as error:
            raise BadHistory(f"{path}, line {number}: {error}") from None
    return history


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        number = 0
        while True:
            try:
                text = file.readline(LINE_MAX)
                if not text:
                    return
                number += 1
                line = json.loads(text)
            except ValueError as error:
                raise BadHistory(f"{path}, line {number}: not JSON: {error}") from None
            if not isinstance(line, dict):
                raise BadHistory(f"{path}, line {number}: not a JSON object")
            yield number, line


def _operation(line: dict[str, Any]) -> Operation:
    for name, value in line.items():
        if name not in _TYPES or type(value) not in _TYPES[name]:
            raise ValueError(f"{name!r} cannot be {value!r:.40}")
    fields = line | {"verb": Verb(line["verb"]), "outcome": Outcome(line.get("outcome", "ok"))}
    one = Operation(**fields)
    if one.completed < one.invoked:
        raise ValueError("the operation was completed before it was invoked")
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


def _action(line: dict[str, Any]) -> Action:
    what, target, began, ended = (line[name] for name in ("nemesis", "target", "began", "ended"))
    if not (isinstance(what, str) and isinstance(target, str) and type(began) is int and type(ended) is int):
        raise ValueError("a field has a wrong type")
    return Action(what, target, began, ended)
