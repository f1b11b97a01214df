"""Histories: the operations of clients with their replies and times, and the actions of the nemesis.

The checks need only the history, so it can be saved and checked again later. A saved history is JSON lines: a header,
then one line for each operation and each action.

Invariants: times are nanoseconds of one monotonic clock since the beginning of the run; no operation was completed
before it was invoked. For an unknown outcome, "completed" is the time when the client gave up: the operation may take
effect at any time after its invocation, or never.

Out of scope: the operations themselves (`keys.history`, `queues.history`).
"""

import enum
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Generic, Protocol, Self, TextIO, TypeVar, get_args, get_type_hints

from cairnkv.errors import CallerError
from cairnkv.records import record
from cairnkv.version import VERSION

VERSION_OF_FORMAT: Final = 1
"""The version of the formats. `load` refuses other versions."""

LINE_MAX: Final = 16 * 1024 * 1024
"""Maximum characters of a line. A `Saver` writes shorter ones."""

MAJORITY: Final = "majority"
"""The action of the nemesis that leaves no majority."""


class BadHistory(CallerError):
    """A file that is not a history of this version's format."""


class Outcome(enum.Enum):
    """The outcome of an operation, as far as its client knows."""

    OK = "ok"
    NOT_EXECUTED = "not executed"
    """The operation never takes effect."""
    UNKNOWN = "unknown"
    """The operation has taken effect, or will do so, or never does."""


class AnyOperation(Protocol):
    """One operation of one client, on keys or on queues."""

    @property
    def client(self) -> int: ...
    @property
    def invoked(self) -> int: ...
    @property
    def completed(self) -> int: ...
    @property
    def outcome(self) -> Outcome: ...
    @property
    def node(self) -> str: ...
    @property
    def note(self) -> str: ...
    @property
    def final(self) -> bool: ...


OperationT = TypeVar("OperationT", bound=AnyOperation)


def span(one: AnyOperation) -> str:
    """Return the times and the address of an operation as text."""
    return f"{one.invoked / 1e6:.3f}–{one.completed / 1e6:.3f} ms{one.node and f', at {one.node}'}"


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


class History(Generic[OperationT]):
    """A history in memory.

    about: the header: the addresses, the seed, the options of the run. operations, actions: in no order.
    """

    def __init__(
        self,
        operations: Iterable[OperationT] = (),
        actions: Iterable[Action] = (),
        about: dict[str, Any] | None = None,
    ) -> None:
        self.operations = list(operations)
        self.actions = list(actions)
        self.about: dict[str, Any] = about or {}

    @property
    def not_injected(self) -> tuple[str, ...]:
        """The requested kinds of fault that the nemesis did not inject, for lack of time or by chance."""
        done = {action.what for action in self.actions}
        return tuple(str(fault) for fault in self.about.get("nemesis", ()) if fault not in done)


# -- files ---------------------------------------------------------------------------------------------------------


@record
class Format(Generic[OperationT]):
    """The format of the files of one kind of history.

    name: the name in the header. omitted: an operation with the default values, which a line omits, apart from those
    of its first fields. parsed: makes an operation of the fields of a line; raises `ValueError` and `KeyError`.
    """

    name: str
    omitted: OperationT
    parsed: Callable[[dict[str, Any]], OperationT]


ALWAYS: Final = 5
"""The number of fields that each line has: the client, the verb, the key or queue, and the two times."""


class Saver(Generic[OperationT]):
    """Writes a history to a file during the run. The context manager closes the file."""

    def __init__(self, path: Path, about: dict[str, Any], format_: Format[OperationT]) -> None:
        self._format = format_
        self._file: TextIO = path.open("w", encoding="utf-8")
        self._put({format_.name: VERSION_OF_FORMAT, "version": VERSION, **about})

    def operation(self, one: OperationT) -> None:
        """Write an operation."""
        fields: dict[str, Any] = {}
        for number, name in enumerate(type(one).__match_args__):  # type: ignore[attr-defined]  # a record
            value, omitted = getattr(one, name), getattr(self._format.omitted, name)
            # False and 0 are different results.
            if number < ALWAYS or type(value) is not type(omitted) or value != omitted:
                fields[name] = _as_json(value)
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


def _as_json(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [_as_json(one) for one in value]
    fields = getattr(value, "__match_args__", None)
    return value if fields is None else [_as_json(getattr(value, name)) for name in fields]


def read_into(history: History[OperationT], path: Path, format_: Format[OperationT]) -> None:
    """Read a history from a file. Raises `BadHistory`, which names the line, and `OSError`."""
    lines = _lines(path)
    history.about = next(lines, (0, {}))[1]
    if history.about.pop(format_.name, None) != VERSION_OF_FORMAT:
        raise BadHistory(f"{path} is not a {format_.name.removeprefix('cairnkv ')} of format {VERSION_OF_FORMAT}")
    for number, line in lines:
        try:
            if "nemesis" in line:
                history.actions.append(_action(line))
                continue
            one = format_.parsed(line)
            if one.completed < one.invoked:
                raise ValueError("the operation was completed before it was invoked")
            history.operations.append(one)
        except KeyError as error:
            raise BadHistory(f"{path}, line {number}: {error} is missing") from None
        except (ValueError, TypeError) as error:
            raise BadHistory(f"{path}, line {number}: {error}") from None


def types_of(operation: type[AnyOperation], **others: Collection[type]) -> dict[str, Collection[type]]:
    """Return the types of the fields of a line. others: those that differ from the fields of the operation."""
    hints = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(operation).items()}
    return {**hints, "verb": (str,), "outcome": (str,), **others}


def check_types(line: dict[str, Any], types: dict[str, Collection[type]]) -> None:
    """Raise `ValueError` for a field that is unknown or has a wrong type."""
    for name, value in line.items():
        if name not in types or type(value) not in types[name]:
            raise ValueError(f"{name!r} cannot be {value!r:.40}")


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


def _action(line: dict[str, Any]) -> Action:
    what, target, began, ended = (line[name] for name in ("nemesis", "target", "began", "ended"))
    if not (isinstance(what, str) and isinstance(target, str) and type(began) is int and type(ended) is int):
        raise ValueError("a field has a wrong type")
    return Action(what, target, began, ended)
