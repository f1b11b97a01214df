"""The registry of the commands, and their grammar: how a command is declared, parsed and written.

A command is a record whose fields declare its arguments: `argument` (positional), `rest` (all that follow), `option`
(a keyword with a value) and `switch` (a keyword alone). `Command.arguments` writes them, `Command.from_arguments` reads
them, `CommandSpec.usage` shows them. The decorator `command_spec` registers the command.

Invariants: `type(c).from_arguments(c.arguments()) == c` for every command c. No two commands share a number or a name.

Out of scope: the effect of a command (`cairnkv.engine.operations`).
"""

import enum
import itertools
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Self, TypeVar, dataclass_transform

from cairnkv.commands.failures import BADARGS, BADKEY, Code
from cairnkv.docstrings import docstring
from cairnkv.escapes import quoted
from cairnkv.limits import KEY_MAX
from cairnkv.records import record

__all__ = [
    "BY_NAME",
    "BY_NUMBER",
    "Access",
    "Answer",
    "ArgumentFault",
    "Command",
    "CommandSpec",
    "Scope",
    "Step",
]

# -- kinds of arguments ----------------------------------------------------------


class ArgumentFault(ValueError):
    """The arguments do not fit the grammar. `code` is the failure code of the reply."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@record
class Kind:
    """The kind of one argument. The grammar shows it as `placeholder`."""

    placeholder: str
    as_it_is: ClassVar[bool] = True
    """Whether the value is the string of the frame, so that `write` changes nothing."""

    def read(self, text: bytes) -> Any:
        """Return the Python value of one string of a frame. Raise `ArgumentFault` if it is not of this kind."""
        return text

    def write(self, value: Any) -> bytes:
        """Return the string for a Python value: the inverse of `read`."""
        text: bytes = value
        return text


class KeyKind(Kind):
    """A key: 1 to 65,535 bytes."""

    def read(self, text: bytes) -> bytes:
        if not 1 <= len(text) <= KEY_MAX:
            raise ArgumentFault(BADKEY, f"a key has 1 to {KEY_MAX:,} bytes, this one {len(text):,}")
        return text


@record
class NumberKind(Kind):
    """An integer as decimal text, from `lowest` to `highest`."""

    lowest: int
    highest: int
    as_it_is: ClassVar[bool] = False

    # No plus sign, leading zeros or blanks: every number has one text. Its length bounds the work of int().
    TEXT: ClassVar[re.Pattern[bytes]] = re.compile(rb"0|-?[1-9][0-9]{0,18}")

    def read(self, text: bytes) -> int:
        number = int(text) if self.TEXT.fullmatch(text) else None
        if number is None or not self.lowest <= number <= self.highest:
            raise ArgumentFault(
                BADARGS,
                f"{self.placeholder} is a decimal number from {self.lowest} to {self.highest}, not {quoted(text[:24])}",
            )
        return number

    def write(self, value: int) -> bytes:
        try:
            return b"%d" % operator.index(value)
        except TypeError:
            raise ArgumentFault(BADARGS, f"{self.placeholder} is an integer, not {value!r:.40}") from None


# -- fields: the places of arguments ------------------------------------------------------------------


class Place(enum.Enum):
    ARGUMENT = "positional"
    REST = "all that follow"
    OPTION = "a keyword with a value"
    SWITCH = "a keyword alone"


@record
class Slot:
    """The declaration of a field: its place, the kinds of its strings, and its keyword if it has one.

    most: maximum number of values of arguments that follow; 0: the limit of the protocol.
    """

    place: Place
    kinds: tuple[Kind, ...]
    keyword: bytes = b""
    most: int = 0


def argument(kind: Kind) -> Any:
    """Declare a positional argument."""
    return Slot(Place.ARGUMENT, (kind,))


def rest(*kinds: Kind, most: int = 0) -> Any:
    """Declare the arguments that follow, at least one: a tuple of values, or of tuples if there are two kinds."""
    return Slot(Place.REST, kinds, most=most)


def option(keyword: str, kind: Kind, *, default: None) -> Any:
    """Declare `KEYWORD value`, in any order behind the positional arguments. None if it is absent."""
    return Slot(Place.OPTION, (kind,), keyword.encode())


def switch(keyword: str, *, default: bool) -> Any:
    """Declare `KEYWORD` alone, in any order behind the positional arguments. False if it is absent."""
    return Slot(Place.SWITCH, (), keyword.encode())


# -- specs ------------------------------------------------------------------------------------------


class Scope(enum.Enum):
    """The keys that a command touches: they decide which pending commits its reply waits for."""

    NOTHING = "nothing"
    KEYS = "the keys it names"
    TABLE = "the whole table"
    QUEUES = "the records of queues that `Command.places` returns"


class Access(enum.Flag):
    """The access of a command to a key, for which its client needs a right."""

    EXISTENCE = 0
    """Whether the key exists: the right to read it or to write it is enough."""
    READ = enum.auto()
    WRITE = enum.auto()


class Answer(enum.Enum):
    """The type of a successful reply. Clients decode replies by it."""

    OK = "OK"
    BYTES = "a string"
    NUMBER = "a number as decimal text"
    ITEMS = "several strings"


@record
class CommandSpec:
    """One entry of the registry. `command_spec` fills it from the declaration.

    scope: the keys that the command touches.
    writes: whether it may change the database.
    grows: whether it may make the database larger. A full store refuses it.
    reads: whether it may need the values of its keys, and not only their existence and expiry.
    redis: the names of the commands of Redis for which a client needs the right, in lower case.
    access: its access to the keys or queues that it names, or to all keys.
    exclusive: groups of fields; a command may have at most one field of each group.
    key_fields: the fields that hold a key, keys, or pairs of key and value.
    resizes: whether it changes a part of its key's value, so that `Command.length_after` is its new length.
    stores_several: whether it may store more than one key. Such a command is undone if memory runs out in between.
    by_store: whether the store executes it itself. Then no database applies it, and no log has it.
    shape: its fields by their places, which parse and write arguments.
    """

    name: str
    number: int
    command: type["Command"]
    scope: Scope
    writes: bool
    grows: bool
    reads: bool
    redis: tuple[str, ...]
    access: Access
    answer: Answer
    exclusive: tuple[tuple[str, ...], ...]
    by_store: bool
    fields: tuple[tuple[str, Slot], ...]
    key_fields: tuple[str, ...]
    resizes: bool
    stores_several: bool
    shape: "_Shape"

    @property
    def summary(self) -> str:
        """Return the first line of the command's docstring."""
        return self.description.split("\n", 1)[0]

    @property
    def description(self) -> str:
        """Return the command's docstring without indentation."""
        return "\n".join(line.strip() for line in docstring(self.command).strip().splitlines())

    @property
    def usage(self) -> str:
        """Return the grammar in one line, e.g. `SET_WITH key value [TTL milliseconds]`."""
        shown = [self.name]
        for _, slot in self.fields:
            kinds = " ".join(kind.placeholder for kind in slot.kinds)
            match slot.place:
                case Place.ARGUMENT:
                    shown.append(kinds)
                case Place.REST:
                    shown.append(f"{kinds} [{kinds} ...]")
                case Place.OPTION:
                    shown.append(f"[{slot.keyword.decode()} {kinds}]")
                case Place.SWITCH:
                    shown.append(f"[{slot.keyword.decode()}]")
        return " ".join(shown)


@record
class _Shape:
    """The fields of a command by their places. Computed once, because every frame needs them."""

    readers: tuple[Callable[[bytes], Any], ...]
    """The `read` of each positional argument."""
    writers: tuple[tuple[str, Callable[[Any], bytes] | None], ...]
    """The field of each positional argument, and its `write`. None if the value is the string."""
    rest: tuple[str, Slot] | None
    """The field of the arguments that follow."""
    options: dict[bytes, tuple[str, Kind | None]]
    """The fields of options and switches by their keywords. A switch has no kind."""

    @classmethod
    def of(cls, fields: tuple[tuple[str, Slot], ...]) -> Self:
        """Return the shape of these fields."""
        positional = [(name, slot.kinds[0]) for name, slot in fields if slot.place is Place.ARGUMENT]
        rest = [(name, slot) for name, slot in fields if slot.place is Place.REST]
        return cls(
            readers=tuple(kind.read for _, kind in positional),
            writers=tuple((name, None if kind.as_it_is else kind.write) for name, kind in positional),
            rest=rest[0] if rest else None,
            options={
                slot.keyword: (name, slot.kinds[0] if slot.kinds else None) for name, slot in fields if slot.keyword
            },
        )


class Command:
    """The base class of commands. Instances are immutable, and equal if their fields are equal."""

    __slots__ = ()
    spec: ClassVar[CommandSpec]

    if TYPE_CHECKING:

        def __init__(self, *values: Any, **named: Any) -> None: ...  # each command has its own

    def arguments(self) -> list[bytes]:
        """Return the command's strings in the order of the grammar, without absent options."""
        shape = self.spec.shape
        strings: list[bytes] = []
        for name, write in shape.writers:
            value = getattr(self, name)
            strings.append(value if write is None else write(value))
        if shape.rest is not None:
            name, slot = shape.rest
            strings += _ungrouped(getattr(self, name), slot.kinds)
        for keyword, (name, kind) in shape.options.items():
            value = getattr(self, name)
            if kind is None:
                if value:
                    strings.append(keyword)
            elif value is not None:
                strings += (keyword, kind.write(value))
        return strings

    @classmethod
    def from_arguments(cls, strings: Sequence[bytes]) -> Self:
        """Parse the strings of a frame. Raise `ArgumentFault` if they do not fit the grammar."""
        shape = cls.spec.shape
        values: list[Any] = list(map(operator.call, shape.readers, strings))
        positional = len(shape.readers)
        if len(values) < positional:
            raise _too_few(cls.spec, strings)
        if shape.rest is not None:
            return cls(*values, _grouped(cls.spec, strings, positional, shape.rest[1]))
        if len(strings) > positional:
            return cls(*values, **_options(cls.spec, strings, positional))
        return cls(*values)

    def named_keys(self) -> tuple[bytes, ...]:
        """Return the keys of the command in its order. Empty unless its scope is `Scope.KEYS`."""
        fields = self.spec.key_fields
        if len(fields) == 1:
            return _keys_of(getattr(self, fields[0]))
        return tuple(key for field in fields for key in _keys_of(getattr(self, field)))

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        """Return the keys, each with the number of its database, if the command executes in database `db`."""
        return tuple([(db, key) for key in self.named_keys()])

    def places_read(self, db: int) -> tuple[tuple[int, bytes], ...]:
        """Return those of `places` whose values the command needs."""
        return self.places(db) if self.spec.reads else ()

    def redis_names(self) -> tuple[str, ...]:
        """Return `CommandSpec.redis`. Overridden by commands whose options need different rights."""
        return self.spec.redis

    def accesses(self) -> tuple[tuple[bytes, Access], ...]:
        """Return the keys, and the prefixes of keys, for which the client needs a right; the empty prefix: all keys.

        Names of queues are like keys.
        """
        if self.spec.scope is Scope.NOTHING:
            return ()
        return tuple([(key, self.spec.access) for key in self.named_keys() or (b"",)])

    def message_ids(self) -> tuple[int, ...]:
        """Return the messages to whose queues the command has `CommandSpec.access`."""
        return ()

    def length_after(self, length: int) -> int:
        """Return the new length of a value of this length. Overridden by commands that change a part of a value."""
        return 0

    def waiting_time(self) -> int:
        """Return the maximum milliseconds of its wait for messages. Overridden by commands that may wait."""
        return 0


class Step(NamedTuple):
    """A command, and the number of the database in which it executes."""

    db: int
    command: Command


def _keys_of(value: Any) -> tuple[bytes, ...]:
    """Return the keys in the value of a field, which is a key, keys, or pairs of key and value."""
    if isinstance(value, bytes):
        return (value,)
    return tuple([item if isinstance(item, bytes) else item[0] for item in value])


def _ungrouped(values: tuple[Any, ...], kinds: tuple[Kind, ...]) -> Iterable[bytes]:
    """Return the strings of a `rest` field."""
    if all(kind.as_it_is for kind in kinds):
        return values if len(kinds) == 1 else itertools.chain.from_iterable(values)
    if len(kinds) == 1:
        return map(kinds[0].write, values)
    return (kind.write(part) for group in values for kind, part in zip(kinds, group, strict=True))


def _grouped(spec: CommandSpec, strings: Sequence[bytes], begin: int, slot: Slot) -> tuple[Any, ...]:
    """Return the value of a `rest` field: at least one value, or group of values."""
    left, kinds = strings[begin:], slot.kinds
    if not left:
        raise _too_few(spec, strings)
    if len(left) % len(kinds):
        raise _misfit(spec, f"the last group of {' '.join(kind.placeholder for kind in kinds)} is incomplete")
    if slot.most and len(left) > slot.most * len(kinds):
        raise _misfit(spec, f"{len(left) // len(kinds):,} are too many; the limit is {slot.most:,}")
    if len(kinds) == 1:
        return tuple(map(kinds[0].read, left))
    columns = [map(kind.read, left[at :: len(kinds)]) for at, kind in enumerate(kinds)]
    return tuple(zip(*columns, strict=True))


def _options(spec: CommandSpec, strings: Sequence[bytes], begin: int) -> dict[str, Any]:
    """Return the fields of the options, which stand behind the positional arguments."""
    given: dict[str, Any] = {}
    left = iter(strings[begin:])
    for string in left:
        if string not in spec.shape.options:
            raise _misfit(spec, f"there is no option {quoted(string[:24])}")
        name, kind = spec.shape.options[string]
        if name in given:
            raise _misfit(spec, f"the option {string.decode()} is given twice")
        if kind is None:
            given[name] = True
            continue
        value = next(left, None)
        if value is None:
            raise _too_few(spec, strings)
        given[name] = kind.read(value)
    for group in spec.exclusive:
        if len(given.keys() & group) > 1:
            together = [slot.keyword.decode() for name, slot in spec.fields if name in group and name in given]
            raise _misfit(spec, f"{' and '.join(together)} exclude each other")
    return given


def _too_few(spec: CommandSpec, strings: Sequence[bytes]) -> ArgumentFault:
    return _misfit(spec, f"{len(strings)} arguments are too few")


def _misfit(spec: CommandSpec, why: str) -> ArgumentFault:
    return ArgumentFault(BADARGS, f"usage: {spec.usage}; {why}")


_C = TypeVar("_C", bound=Command)


BY_NUMBER: Final[dict[int, CommandSpec]] = {}
BY_NAME: Final[dict[str, CommandSpec]] = {}
"""Every command that is declared."""


@dataclass_transform(frozen_default=True, field_specifiers=(argument, rest, option, switch))
def command_spec(
    number: int,
    *,
    answer: Answer,
    redis: tuple[str, ...],
    scope: Scope | None = None,
    reads: bool = True,
    writes: bool = True,
    grows: bool | None = None,
    access: Access | None = None,
    exclusive: tuple[tuple[str, ...], ...] = (),
    by_store: bool = False,
) -> Callable[[type[_C]], type[_C]]:
    """Declare a command: make its class a record, and register it.

    The name of the command is the name of the class in capitals: SetWith is SET_WITH. The defaults are safe for any
    command: it touches the keys among its fields, or the whole table if it has none; it reads and writes; it may make
    the database larger if it writes; it needs the right to read its keys if it reads, and to write them if it writes.
    """

    def declare(plain: type[_C]) -> type[_C]:
        slots = {name: thing for name, thing in vars(plain).items() if isinstance(thing, Slot)}
        for name, slot in slots.items():
            if slot.place is Place.OPTION:
                setattr(plain, name, None)
            elif slot.place is Place.SWITCH:
                setattr(plain, name, False)
            else:
                delattr(plain, name)  # it has no default
        command = record(plain)
        inherited: CommandSpec | None = getattr(plain, "spec", None)
        fields = (*(inherited.fields if inherited else ()), *slots.items())
        of_keys = [(name, slot) for name, slot in fields if slot.kinds and isinstance(slot.kinds[0], KeyKind)]
        larger = writes if grows is None else grows
        command.spec = spec = CommandSpec(
            name=re.sub(r"(?<!^)(?=[A-Z])", "_", command.__name__).upper(),
            number=number,
            command=command,
            scope=scope or (Scope.KEYS if of_keys else Scope.TABLE),
            writes=writes,
            grows=larger,
            reads=reads,
            redis=redis,
            access=Access(reads * Access.READ.value | writes * Access.WRITE.value) if access is None else access,
            answer=answer,
            exclusive=exclusive,
            by_store=by_store,
            fields=fields,
            key_fields=tuple(name for name, _ in of_keys),
            resizes=command.length_after is not Command.length_after,
            stores_several=(writes and scope is Scope.QUEUES)
            or (larger and (len(of_keys) > 1 or any(slot.place is Place.REST for _, slot in of_keys))),
            shape=_Shape.of(fields),
        )
        for taken in (BY_NUMBER.get(number), BY_NAME.get(spec.name)):
            if taken is not None:
                raise ValueError(f"{spec.name} has the number or the name of {taken.name}, number {taken.number}")
        BY_NUMBER[number] = BY_NAME[spec.name] = spec
        return command

    return declare
