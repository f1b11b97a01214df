"""Histories: what clients asked of a store, when, and what they were told; and what was done to the store meanwhile.

A history is what the checks judge; it knows nothing of how it came about, so it can be saved, sent to somebody and
judged again. Saved it is JSON lines: a header, then one line for each operation and each of the nemesis' actions.

What always holds: times are nanoseconds of one monotonic clock, counted from the beginning of the run; every key was
missing at the beginning; an operation was invoked no later than it was completed. For an unknown outcome "completed"
is when the client gave up: the operation may take effect at any time after it was invoked, or never.

Not for what a history means (`cairnkv.lab.consistency.checks`).
"""

import enum
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TextIO

from cairnkv.errors import CallerError
from cairnkv.records import record
from cairnkv.version import VERSION

FORMAT: Final = 1
"""The number of the format; what is of another one is refused."""

LINE_MAX: Final = 1024 * 1024
"""Characters in a line. Values are small; what is longer was not written here."""


class BadHistory(CallerError):
    """A file that is no history, or one of a format that this version does not know."""


class Verb(enum.Enum):
    """What an operation does. Those from SET on write."""

    GET = "get"
    EXISTS = "exists"
    SET = "set"
    CLEAR = "clear"
    INCR = "incr"
    SWAP = "swap"
    """Set, and tell what was there before."""
    SET_IF = "set_if"
    """Set if the key has the value `expected`."""
    CLEAR_IF = "clear_if"
    """Clear if the key has the value `expected`."""

    @property
    def writes(self) -> bool:
        """Whether it may change the store."""
        return self is not Verb.GET and self is not Verb.EXISTS


class Outcome(enum.Enum):
    """What is known of an operation."""

    OK = "ok"
    NOT_EXECUTED = "not executed"
    """It never took effect and never will."""
    UNKNOWN = "unknown"
    """It took effect, or will, or never will."""


@record
class Operation:
    """One operation of one client.

    client: its number; one client has one operation under way at a time.
    value: what SET, SWAP and SET_IF store. expected: what SET_IF and CLEAR_IF compare with. amount: what INCR adds.
    result: of an operation that is OK. GET and SWAP: the value or None where the key was missing; EXISTS, SET_IF and
    CLEAR_IF: whether; INCR: the sum; None for others.
    invoked, completed: nanoseconds since the run began. node: the address that it was sent to. note: the error's text.
    final: whether it is a read of the end, when all was healed and nobody wrote any more.
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
        """In words, as verdicts say it.

        >>> str(Operation(3, Verb.GET, "r1", 1_500_000, 2_750_000, result="c2-7", node="n1"))
        "client 3 get r1 → 'c2-7' (1.500–2.750 ms, at n1)"
        """
        return f"client {self.client} {self.called} → {self.answer} ({_span(self)}{self.node and f', at {self.node}'})"

    @property
    def called(self) -> str:
        """What was asked."""
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
    def answer(self) -> str:
        """What came back."""
        if self.outcome is not Outcome.OK:
            return str(self.outcome.value)
        if self.verb in (Verb.SET, Verb.CLEAR):
            return "ok"
        if self.result is None:
            return "missing"
        if isinstance(self.result, bool):
            return "yes" if self.result else "no"
        return repr(self.result)


def _span(one: Operation) -> str:
    return f"{one.invoked / 1e6:.3f}–{one.completed / 1e6:.3f} ms"


@record
class Action:
    """Something that the nemesis did to a part of the cluster.

    what: `kill`, `pause`, ... target: the part's name. began, ended: nanoseconds since the run began; it lasted from
    the one to the other, and was healed then.
    """

    what: str
    target: str
    began: int
    ended: int

    def __str__(self) -> str:
        return f"{self.what} {self.target} ({self.began / 1e6:.0f}–{self.ended / 1e6:.0f} ms)"


class History:
    """A history in memory.

    about: what the header says: the addresses, the seed, the options of the run. operations, actions: in no order.
    """

    def __init__(
        self, operations: Iterable[Operation] = (), actions: Iterable[Action] = (), about: dict[str, Any] | None = None
    ) -> None:
        self.operations = list(operations)
        self.actions = list(actions)
        self.about: dict[str, Any] = about or {}

    @property
    def not_done(self) -> tuple[str, ...]:
        """Kinds of harm that a nemesis was asked for, and did not do: the time was too short, or chance had it so."""
        done = {action.what for action in self.actions}
        return tuple(str(harm) for harm in self.about.get("nemesis", ()) if harm not in done)

    def by_key(self) -> dict[str, list[Operation]]:
        """The operations of each key, in the order of their invocations."""
        found: dict[str, list[Operation]] = {}
        for one in sorted(self.operations, key=lambda one: (one.invoked, one.completed)):
            found.setdefault(one.key, []).append(one)
        return found


# -- saved ---------------------------------------------------------------------------------------------------------

_DEFAULTS: Final = {
    "outcome": "ok",
    "result": None,
    "value": None,
    "expected": None,
    "amount": 0,
    "node": "",
    "note": "",
    "final": False,
}
"""Fields of an operation that are left out of a line where they say this."""

_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "client": (int,),
    "verb": (str,),
    "key": (str,),
    "invoked": (int,),
    "completed": (int,),
    "outcome": (str,),
    "result": (str, int, bool, type(None)),
    "value": (str, type(None)),
    "expected": (str, type(None)),
    "amount": (int,),
    "node": (str,),
    "note": (str,),
    "final": (bool,),
}


class Saver:
    """Writes a history to a file as it comes. Use as a context manager, which closes the file."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8")
        self._put({"cairnkv history": FORMAT, "version": VERSION, **about})

    def operation(self, one: Operation) -> None:
        """Write an operation."""
        fields = {name: getattr(one, name) for name in Operation.__match_args__}
        fields |= {"verb": one.verb.value, "outcome": one.outcome.value}
        # `is` and the type: False, 0 and None are different results.
        self._put(
            {
                name: value
                for name, value in fields.items()
                if not (name in _DEFAULTS and type(value) is type(_DEFAULTS[name]) and value == _DEFAULTS[name])
            }
        )

    def action(self, one: Action) -> None:
        """Write an action."""
        self._put({"nemesis": one.what, "target": one.target, "began": one.began, "ended": one.ended})

    def _put(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=True, separators=(",", ":")) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def save(history: History, path: Path) -> None:
    """Write a whole history to a file. Raises `OSError`."""
    with Saver(path, history.about) as saver:
        for action in history.actions:
            saver.action(action)
        for one in history.operations:
            saver.operation(one)


def load(path: Path) -> History:
    """The history in a file. Raises `BadHistory`, which names the line, and `OSError`."""
    lines = _lines(path)
    about = next(lines, (0, {}))[1]
    if about.pop("cairnkv history", None) != FORMAT:
        raise BadHistory(f"{path} does not begin as a history of format {FORMAT} does")
    history = History(about=about)
    for number, line in lines:
        try:
            if "nemesis" in line:
                history.actions.append(_action(line))
            else:
                history.operations.append(_operation(line))
        except KeyError as error:
            raise BadHistory(f"{path}, line {number}: it has no {error}") from None
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
                raise BadHistory(f"{path}, line {number}: no JSON: {error}") from None
            if not isinstance(line, dict):
                raise BadHistory(f"{path}, line {number}: no JSON object")
            yield number, line


def _operation(line: dict[str, Any]) -> Operation:
    for name, value in line.items():
        if name not in _KINDS or type(value) not in _KINDS[name]:
            raise ValueError(f"{name!r} cannot be {value!r:.40}")
    fields = line | {"verb": Verb(line["verb"]), "outcome": Outcome(line.get("outcome", "ok"))}
    one = Operation(**fields)
    if one.completed < one.invoked:
        raise ValueError("it was completed before it was invoked")
    if one.verb in (Verb.SET, Verb.SWAP, Verb.SET_IF) and one.value is None:
        raise ValueError(f"{one.verb.value} takes a value")
    if one.verb in (Verb.SET_IF, Verb.CLEAR_IF) and one.expected is None:
        raise ValueError(f"{one.verb.value} compares with something")
    if one.outcome is Outcome.OK and not _answers(one.verb, one.result):
        raise ValueError(f"{one.verb.value} does not answer {one.result!r:.40}")
    return one


def _answers(verb: Verb, result: str | int | bool | None) -> bool:
    """Whether a result is of the kind that a verb answers with."""
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
        raise ValueError("its fields are of other kinds")
    return Action(what, target, began, ended)
