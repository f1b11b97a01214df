"""How a command is declared, and how its arguments become strings and back.

A command is a small record whose fields say what they are: `argument` (positional), `rest` (all
that follow), `option` (a word and its value) and `switch` (a word alone). The declaration is the grammar:
`Command.arguments` writes it, `Command.from_arguments` reads it, `CommandSpec.usage` shows it.

What always holds: for every command c, `type(c).from_arguments(c.arguments()) == c`.

Not for execution: what a command does is in `cairnkv.engine.operations`.
"""

import enum
import itertools
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeVar, dataclass_transform

from cairnkv.commands.failures import BADARGS, BADKEY, Code
from cairnkv.docstrings import docstring
from cairnkv.limits import KEY_MAX
from cairnkv.records import record

# -- kinds: what one string of a frame may be ----------------------------------------------------------


class ArgumentFault(ValueError):
    """Arguments that do not fit; `code` says which failure that is."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@record
class Kind:
    """The kind of one argument, and how it is called in a grammar."""

    placeholder: str
    as_it_is: ClassVar[bool] = True
    """Whether the value is the string itself, so that `write` changes nothing."""

    def read(self, text: bytes) -> Any:
        """The Python value of one string of a frame; `ArgumentFault` when it is not of this kind."""
        return text

    def write(self, value: Any) -> bytes:
        """The string that stands for a Python value, the inverse of `read`."""
        text: bytes = value
        return text


class KeyKind(Kind):
    """Bytes, at least 1 and at most 65,535 of them."""

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

    # No plus sign, no leading zeros, no blanks, so that every number has one text; the longest in use
    # has 20 characters, which bounds what is handed to int().
    TEXT: ClassVar[re.Pattern[bytes]] = re.compile(rb"0|-?[1-9][0-9]{0,18}")

    def read(self, text: bytes) -> int:
        number = int(text) if self.TEXT.fullmatch(text) else None
        if number is None or not self.lowest <= number <= self.highest:
            shown = repr(text[:24])[1:]
            raise ArgumentFault(
                BADARGS,
                f"{self.placeholder} is a decimal number from {self.lowest} to {self.highest}, not {shown}",
            )
        return number

    def write(self, value: int) -> bytes:
        try:
            return b"%d" % operator.index(value)
        except TypeError:
            raise ArgumentFault(BADARGS, f"{self.placeholder} is an integer, not {value!r:.40}") from None


# -- fields: where an argument stands ------------------------------------------------------------------


class Place(enum.Enum):
    ARGUMENT = "positional"
    REST = "all that follow"
    OPTION = "a word and its value"
    SWITCH = "a word alone"


@record
class Slot:
    """What a field's declaration says: its place, the kinds of its strings, and its word if it has one."""

    place: Place
    kinds: tuple[Kind, ...]
    keyword: bytes = b""


def argument(kind: Kind) -> Any:
    """A positional argument."""
    return Slot(Place.ARGUMENT, (kind,))


def rest(*kinds: Kind) -> Any:
    """All arguments that follow, at least one: a tuple of values, or of tuples where there are two kinds."""
    return Slot(Place.REST, kinds)


def option(word: str, kind: Kind, *, default: None) -> Any:
    """`WORD value`, in any order behind the positional arguments; None where it is left out."""
    return Slot(Place.OPTION, (kind,), word.encode())


def switch(word: str, *, default: bool) -> Any:
    """`WORD` alone, likewise; False where it is left out."""
    return Slot(Place.SWITCH, (), word.encode())


# -- words: what the vocabulary says of a command ------------------------------------------------------


class Scope(enum.Enum):
    """What a command touches: decides which pending commits its reply waits for."""

    NOTHING = "nothing"
    KEYS = "the keys it names"
    TABLE = "the whole table"


class Answer(enum.Enum):
    """What a success carries, so that a client can read it back from a wire."""

    OK = "OK"
    BYTES = "a string"
    NUMBER = "a number as decimal text"
    ITEMS = "several strings"


@record
class CommandSpec:
    """One entry of the vocabulary.

    writes: whether it may change the keyspace.
    grows: whether it may make the keyspace larger; refused when memory is full.
    reads: whether it may need the values that its keys have, and not only to know that they are there and for how long.
    exclusive: groups of fields; of each group at most one may be given.
    key_fields: the fields that hold a key, keys, or pairs of key and value.
    by_store: answered by the store about itself; never applied to a keyspace and never logged.
    shape: its fields by their places, as its commands read and write them.
    """

    name: str
    number: int
    command: type["Command"]
    scope: Scope
    writes: bool
    grows: bool
    reads: bool
    answer: Answer
    exclusive: tuple[tuple[str, ...], ...]
    by_store: bool
    fields: tuple[tuple[str, Slot], ...]
    key_fields: tuple[str, ...]
    shape: "_Shape"

    @property
    def summary(self) -> str:
        """The first sentence of the command's docstring."""
        return self.description.split("\n", 1)[0]

    @property
    def description(self) -> str:
        """The command's docstring, without indentation."""
        return "\n".join(line.strip() for line in docstring(self.command).strip().splitlines())

    @property
    def usage(self) -> str:
        """The grammar in one line, e.g. `SET_WITH key value [TTL milliseconds]`."""
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
    """The fields of a command by their places: worked out once, since every frame is read with it."""

    readers: tuple[Callable[[bytes], Any], ...]
    """The `read` of each positional argument."""
    writers: tuple[tuple[str, Callable[[Any], bytes] | None], ...]
    """The field of each positional argument, and its `write`; None where the value is the string."""
    rest: tuple[str, tuple[Kind, ...]] | None
    """The field of all that follow, and its kinds."""
    options: dict[bytes, tuple[str, Kind | None]]
    """The fields of options and switches, by their words; a switch has no kind."""

    @classmethod
    def of(cls, fields: tuple[tuple[str, Slot], ...]) -> Self:
        """The shape of these fields."""
        positional = [(name, slot.kinds[0]) for name, slot in fields if slot.place is Place.ARGUMENT]
        rest = [(name, slot.kinds) for name, slot in fields if slot.place is Place.REST]
        return cls(
            readers=tuple(kind.read for _, kind in positional),
            writers=tuple((name, None if kind.as_it_is else kind.write) for name, kind in positional),
            rest=rest[0] if rest else None,
            options={
                slot.keyword: (name, slot.kinds[0] if slot.kinds else None) for name, slot in fields if slot.keyword
            },
        )


class Command:
    """What all commands share. Instances are immutable and equal when their fields are."""

    __slots__ = ()
    spec: ClassVar[CommandSpec]

    if TYPE_CHECKING:

        def __init__(self, *values: Any, **named: Any) -> None: ...  # each declares its own

    def arguments(self) -> list[bytes]:
        """The command's strings in the order of the grammar; options that were left out are left out."""
        shape = self.spec.shape
        strings: list[bytes] = []
        for name, write in shape.writers:
            value = getattr(self, name)
            strings.append(value if write is None else write(value))
        if shape.rest is not None:
            name, kinds = shape.rest
            strings += _ungrouped(getattr(self, name), kinds)
        for word, (name, kind) in shape.options.items():
            value = getattr(self, name)
            if kind is None:
                if value:
                    strings.append(word)
            elif value is not None:
                strings += (word, kind.write(value))
        return strings

    @classmethod
    def from_arguments(cls, strings: Sequence[bytes]) -> Self:
        """The command that these strings stand for; `ArgumentFault` says what does not fit."""
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
        """The keys that the command names, in its order; empty unless its scope is `Scope.KEYS`."""
        fields = self.spec.key_fields
        if len(fields) == 1:
            return _keys_of(getattr(self, fields[0]))
        return tuple(key for field in fields for key in _keys_of(getattr(self, field)))

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        """The same, each with its keyspace, when the command is said to keyspace `db`."""
        return tuple([(db, key) for key in self.named_keys()])

    def places_read(self, db: int) -> tuple[tuple[int, bytes], ...]:
        """Those whose values the command needs, each with its keyspace; of a word that reads."""
        return self.places(db) if self.spec.reads else ()


class Step(NamedTuple):
    """A command, and the number of the keyspace that it is said to."""

    db: int
    command: Command


def _keys_of(value: Any) -> tuple[bytes, ...]:
    """The keys in the value of a field: a key, several, or pairs of key and value."""
    if isinstance(value, bytes):
        return (value,)
    return tuple([item if isinstance(item, bytes) else item[0] for item in value])


def _ungrouped(values: tuple[Any, ...], kinds: tuple[Kind, ...]) -> Iterable[bytes]:
    """The strings of all that follow."""
    if all(kind.as_it_is for kind in kinds):
        return values if len(kinds) == 1 else itertools.chain.from_iterable(values)
    if len(kinds) == 1:
        return map(kinds[0].write, values)
    return (kind.write(part) for group in values for kind, part in zip(kinds, group, strict=True))


def _grouped(spec: CommandSpec, strings: Sequence[bytes], begin: int, kinds: tuple[Kind, ...]) -> tuple[Any, ...]:
    """All that follow, as values or groups of values; at least one."""
    left = strings[begin:]
    if not left or len(left) % len(kinds):
        raise _misfit(spec, f"{len(strings)} is not a number of arguments it can have")
    if len(kinds) == 1:
        return tuple(map(kinds[0].read, left))
    columns = [map(kind.read, left[at :: len(kinds)]) for at, kind in enumerate(kinds)]
    return tuple(zip(*columns, strict=True))


def _options(spec: CommandSpec, strings: Sequence[bytes], begin: int) -> dict[str, Any]:
    """The fields that the strings behind the positional ones give."""
    given: dict[str, Any] = {}
    left = iter(strings[begin:])
    for string in left:
        if string not in spec.shape.options:
            raise _misfit(spec, f"it has no option {string[:24]!r}")
        name, kind = spec.shape.options[string]
        if name in given:
            raise _misfit(spec, f"the option {string.decode()} stands there twice")
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


@dataclass_transform(frozen_default=True, field_specifiers=(argument, rest, option, switch))
def command_spec(
    number: int,
    *,
    scope: Scope,
    answer: Answer,
    writes: bool = False,
    grows: bool = False,
    reads: bool = False,
    exclusive: tuple[tuple[str, ...], ...] = (),
    by_store: bool = False,
) -> Callable[[type[_C]], type[_C]]:
    """Declare a command: make its class a record and give it its entry of the vocabulary.

    The command's name on wires and in documents is its class' name in capitals: SetWith is SET_WITH.
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
        of_keys = [name for name, slot in fields if slot.kinds and isinstance(slot.kinds[0], KeyKind)]
        command.spec = CommandSpec(
            name=re.sub(r"(?<!^)(?=[A-Z])", "_", command.__name__).upper(),
            number=number,
            command=command,
            scope=scope,
            writes=writes,
            grows=grows,
            reads=reads,
            answer=answer,
            exclusive=exclusive,
            by_store=by_store,
            fields=fields,
            key_fields=tuple(of_keys),
            shape=_Shape.of(fields),
        )
        return command

    return declare
