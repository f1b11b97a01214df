"""Histories of operations on queues.

Invariants: no queue existed at the beginning of the run. Each put has a body that no other put has, so that a body
identifies its put. A client uses only leases that a TAKE of the run has returned.
See `cairnkv.lab.consistency.history`.

Out of scope: the evaluation of a history (`checks`).
"""

import enum
from pathlib import Path
from typing import Any, Final

from cairnkv.lab.consistency import history
from cairnkv.lab.consistency.history import BadHistory, Format, Outcome, check_types, read_into, span, types_of
from cairnkv.records import record


class Verb(enum.Enum):
    """The kind of an operation."""

    PUT = "put"
    TAKE = "take"
    ACK = "ack"
    NACK = "nack"
    EXTEND = "extend"
    REMOVE = "remove"
    TOGETHER = "together"
    """Ack a message, put another message, and set the effect of the first one to the body of the other, as one."""
    STATS = "stats"
    LIST = "list"
    """Peek at the messages in all states, in slices: first leased, then delayed, ready and dead."""
    READ = "read"
    """Read the effect of a message, which TOGETHER has set."""

    @property
    def writes(self) -> bool:
        """Whether the operation may change the store."""
        return self not in (Verb.STATS, Verb.LIST, Verb.READ)

    @property
    def settles(self) -> bool:
        """Whether the operation ends a lease."""
        return self in (Verb.ACK, Verb.NACK, Verb.TOGETHER)


@record
class Delivery:
    """A message as TAKE returns it. lease: milliseconds."""

    message: int
    token: int
    attempt: int
    lease: int
    group: str
    body: str


@record
class Found:
    """A message as PEEK returns it. token: of its newest lease, or 0."""

    message: int
    state: str
    attempts: int
    token: int
    group: str
    unique: str
    body: str

    @property
    def dead(self) -> bool:
        """Whether the message is dead."""
        return self.state == "dead"


@record
class Counts:
    """The counts and totals of a queue."""

    ready: int
    delayed: int
    leased: int
    dead: int
    put: int
    taken: int
    acked: int
    nacked: int
    expired: int
    died: int
    removed: int
    dropped: int


@record
class Operation:
    """One operation of one client.

    client: its number; a client has one operation at a time. queue: the name without the prefix of the run.
    invoked, completed: nanoseconds since the beginning of the run. node: its address. note: the text of the error.

    Arguments. body, group, unique, delay: of PUT; the delay in milliseconds, also of NACK, or None for the backoff.
    TOGETHER puts a body. count, lease, wait: of TAKE, in milliseconds; the lease also of EXTEND. message, token: of the
    operations on a lease; the message also of REMOVE and READ. counted, dead: of NACK.

    Results of an OK operation. message: of PUT. done: of PUT, whether it made a message; of the operations on a lease
    and REMOVE, whether they had an effect. deliveries: of TAKE. found: of LIST. counts: of STATS. effect: of READ;
    empty if there is none.

    final: whether it is an operation at the end, after those of all other clients, and after all faults.
    """

    client: int
    verb: Verb
    queue: str
    invoked: int
    completed: int
    outcome: Outcome = Outcome.OK
    body: str | None = None
    group: str = ""
    unique: str = ""
    delay: int | None = None
    count: int = 0
    lease: int = 0
    wait: int = 0
    message: int = 0
    token: int = 0
    counted: bool = True
    dead: bool = False
    done: bool = True
    deliveries: tuple[Delivery, ...] = ()
    found: tuple[Found, ...] = ()
    counts: Counts | None = None
    effect: str = ""
    node: str = ""
    note: str = ""
    final: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether the operation certainly had its effect."""
        return self.outcome is Outcome.OK and self.done

    @property
    def possible(self) -> bool:
        """Whether the operation had its effect, or may have had it, or may have it later."""
        return self.outcome is Outcome.UNKNOWN or self.succeeded

    def __str__(self) -> str:
        """Return the operation as text.

        >>> str(Operation(3, Verb.ACK, "q1", 1_500_000, 2_750_000, message=7, token=9, node="n1"))
        'client 3 ack q1 message 7 with lease 9 → yes (1.500–2.750 ms, at n1)'
        """
        return f"client {self.client} {self.call} → {self.reply} ({span(self)})"

    @property
    def call(self) -> str:
        """The command and its arguments, as text."""
        parts = [f"{self.verb.value} {self.queue}"]
        if self.verb is Verb.PUT:
            parts += [repr(self.body), *_named(group=self.group, unique=self.unique, delay=self.delay)]
        elif self.verb is Verb.TAKE:
            parts += _named(count=self.count, lease=self.lease, wait=self.wait)
        elif self.message:
            parts.append(f"message {self.message}")
            if self.verb.settles or self.verb is Verb.EXTEND:
                parts.append(f"with lease {self.token}")
            if self.verb is Verb.NACK:
                parts += _named(delay=self.delay, counted=self.counted, dead=self.dead)
            elif self.verb is Verb.EXTEND:
                parts += _named(by=self.lease)
            elif self.verb is Verb.TOGETHER:
                parts.append(f"and put {self.body!r}")
        return " ".join(parts)

    @property
    def reply(self) -> str:
        """The reply, as text."""
        if self.outcome is not Outcome.OK:
            return str(self.outcome.value)
        match self.verb:
            case Verb.PUT:
                return f"{'' if self.done else 'already '}message {self.message}"
            case Verb.TAKE:
                return (
                    ", ".join(
                        f"message {one.message} {one.body!r} with lease {one.token}, attempt {one.attempt}"
                        for one in self.deliveries
                    )
                    or "nothing"
                )
            case Verb.LIST:
                return f"{len(self.found):,} messages"
            case Verb.STATS:
                return str(self.counts)
            case Verb.READ:
                return repr(self.effect) if self.effect else "missing"
            case _:
                return "yes" if self.done else "no"


def _named(**values: object) -> list[str]:
    return [f"{name} {value}" for name, value in values.items() if value not in ("", None)]


@record
class Rules:
    """The settings of a queue. attempts: until a message is dead. per_group: maximum leases of a group; 0: no limit."""

    attempts: int
    per_group: int = 0


class History(history.History[Operation]):
    """A history of operations on queues. Its header has the rules of the queues, by their names."""

    def rules(self) -> dict[str, Rules]:
        """Return the rules of the queues."""
        return {name: Rules(*values) for name, values in self.about["queues"].items()}

    def by_time(self) -> list[Operation]:
        """Return the operations in the order of their invocations."""
        return sorted(self.operations, key=lambda one: (one.invoked, one.completed))


# -- files -------------------------------------------------------------------------------------------------------------

_TYPES: Final = types_of(Operation, deliveries=(list,), found=(list,), counts=(list, type(None)))


def _parsed(line: dict[str, Any]) -> Operation:
    check_types(line, _TYPES)
    fields = line | {"verb": Verb(line["verb"]), "outcome": Outcome(line.get("outcome", "ok"))}
    fields["deliveries"] = tuple(Delivery(*_values(Delivery, one)) for one in line.get("deliveries", ()))
    fields["found"] = tuple(Found(*_values(Found, one)) for one in line.get("found", ()))
    if line.get("counts") is not None:
        fields["counts"] = Counts(*_values(Counts, line["counts"]))
    return Operation(**fields)


def _values(kind: type[Delivery | Found | Counts], values: object) -> list[Any]:
    """Return the values of a record. Raises `ValueError` for wrong ones."""
    types = list(kind.__annotations__.values())
    if not isinstance(values, list) or [type(value) for value in values] != types:
        raise ValueError(f"{values!r:.40} is not a {kind.__name__}")
    return values


FORMAT: Final = Format("cairnkv history of queues", Operation(0, Verb.PUT, "", 0, 0), _parsed)


class Saver(history.Saver[Operation]):
    """Writes a history of operations on queues to a file."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        super().__init__(path, about, FORMAT)


def load(path: Path) -> History:
    """Read a history from a file. Raises `BadHistory`, which names the line, and `OSError`."""
    loaded = History()
    read_into(loaded, path, FORMAT)
    rules = loaded.about.get("queues")
    if not isinstance(rules, dict) or not all(_are_rules(values) for values in rules.values()):
        raise BadHistory(f"{path}: the header has no valid rules of queues")
    return loaded


def _are_rules(values: object) -> bool:
    return isinstance(values, list) and [type(value) for value in values] == [int, int]
