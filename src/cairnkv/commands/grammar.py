"""How a command is declared, and how its arguments become strings and back.

A command is a small frozen dataclass whose fields say what they are: `argument` (positional), `rest` (all
that follow), `option` (a word and its value) and `switch` (a word alone). The declaration is the grammar:
`Command.arguments` writes it, `Command.from_arguments` reads it, `Word.usage` shows it.

What always holds: for every command c, `type(c).from_arguments(c.arguments()) == c`.

Not for execution: what a command does is in `cairnkv.keyspace.operations`.
"""

import dataclasses
import enum
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, NamedTuple, Self, TypeVar, dataclass_transform

from cairnkv.commands.failures import BADARGS, BADKEY, Code
from cairnkv.limits import KEY_MAX

# -- kinds: what one string of a frame may be ----------------------------------------------------------


class ArgumentFault(ValueError):
    """Arguments that do not fit; `code` says which failure that is."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """The kind of one argument, and how it is called in a grammar."""

    placeholder: str

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


@dataclasses.dataclass(frozen=True, slots=True)
class NumberKind(Kind):
    """An integer as decimal text, from `lowest` to `highest`."""

    lowest: int
    highest: int

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


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """What a field's declaration says: its place, the kinds of its strings, and its word if it has one."""

    place: Place
    kinds: tuple[Kind, ...]
    word: bytes = b""


_SLOT: Final = "cairnkv slot"


def argument(kind: Kind) -> Any:
    """A positional argument."""
    return dataclasses.field(metadata={_SLOT: Slot(Place.ARGUMENT, (kind,))})


def rest(*kinds: Kind) -> Any:
    """All arguments that follow, at least one: a tuple of values, or of tuples where there are two kinds."""
    return dataclasses.field(metadata={_SLOT: Slot(Place.REST, kinds)})


def option(word: str, kind: Kind, *, default: None) -> Any:
    """`WORD value`, in any order behind the positional arguments; None where it is left out."""
    return dataclasses.field(default=default, metadata={_SLOT: Slot(Place.OPTION, (kind,), word.encode())})


def switch(word: str, *, default: bool) -> Any:
    """`WORD` alone, likewise; False where it is left out."""
    return dataclasses.field(default=default, metadata={_SLOT: Slot(Place.SWITCH, (), word.encode())})


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


@dataclasses.dataclass(frozen=True, slots=True)
class Word:
    """One entry of the vocabulary.

    writes: whether it may change the keyspace.
    grows: whether it may make the keyspace larger; refused when memory is full.
    exclusive: groups of fields; of each group at most one may be given.
    key_fields: the fields that hold a key, keys, or pairs of key and value.
    by_store: answered by the store about itself; never applied to a keyspace and never logged.
    """

    name: str
    number: int
    command: type["Command"]
    scope: Scope
    writes: bool
    grows: bool
    answer: Answer
    exclusive: tuple[tuple[str, ...], ...]
    by_store: bool
    fields: tuple[tuple[str, Slot], ...]
    key_fields: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The first sentence of the command's docstring."""
        return (self.command.__doc__ or "").split("\n", 1)[0].strip()

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
                    shown.append(f"[{slot.word.decode()} {kinds}]")
                case Place.SWITCH:
                    shown.append(f"[{slot.word.decode()}]")
        return " ".join(shown)


class Command:
    """What all commands share. Instances are immutable and equal when their fields are."""

    __slots__ = ()
    word: ClassVar[Word]

    def arguments(self) -> list[bytes]:
        """The command's strings in the order of the grammar; options that were left out are left out."""
        strings: list[bytes] = []
        for name, slot in self.word.fields:
            value = getattr(self, name)
            match slot.place:
                case Place.ARGUMENT:
                    strings.append(slot.kinds[0].write(value))
                case Place.REST:
                    if len(slot.kinds) == 1:
                        strings.extend(map(slot.kinds[0].write, value))
                    else:
                        strings.extend(
                            kind.write(part) for group in value for kind, part in zip(slot.kinds, group, strict=True)
                        )
                case Place.OPTION:
                    if value is not None:
                        strings += (slot.word, slot.kinds[0].write(value))
                case Place.SWITCH:
                    if value:
                        strings.append(slot.word)
        return strings

    @classmethod
    def from_arguments(cls, strings: Sequence[bytes]) -> Self:
        """The command that these strings stand for; `ArgumentFault` says what does not fit."""
        values: dict[str, Any] = {}
        reader = _Reader(cls.word, strings)
        words = {slot.word: (name, slot) for name, slot in cls.word.fields if slot.word}
        for name, slot in cls.word.fields:
            if slot.place is Place.ARGUMENT:
                values[name] = slot.kinds[0].read(reader.take())
            elif slot.place is Place.REST:
                values[name] = tuple(reader.groups(slot.kinds))
        while reader.more():
            given = reader.take()
            if given not in words:
                raise reader.misfit(f"it has no option {given[:24]!r}")
            name, slot = words[given]
            if name in values:
                raise reader.misfit(f"the option {given.decode()} stands there twice")
            values[name] = slot.kinds[0].read(reader.take()) if slot.kinds else True
        for group in cls.word.exclusive:
            given_together = [slot.word.decode() for name, slot in cls.word.fields if name in group and name in values]
            if len(given_together) > 1:
                raise reader.misfit(f"{' and '.join(given_together)} exclude each other")
        return cls(**values)

    def named_keys(self) -> tuple[bytes, ...]:
        """The keys that the command names, in its order; empty unless its scope is `Scope.KEYS`."""
        keys: list[bytes] = []
        for field in self.word.key_fields:
            value = getattr(self, field)
            if isinstance(value, bytes):
                keys.append(value)
            else:
                keys += (item if isinstance(item, bytes) else item[0] for item in value)
        return tuple(keys)

    def places(self, space: int) -> tuple[tuple[int, bytes], ...]:
        """The same, each with its keyspace, when the command is said to keyspace `space`."""
        return tuple((space, key) for key in self.named_keys())


class Step(NamedTuple):
    """A command, and the number of the keyspace that it is said to."""

    space: int
    command: Command


class _Reader:
    """The strings of one command, taken one after the other."""

    def __init__(self, word: Word, strings: Sequence[bytes]) -> None:
        self._word = word
        self._strings = strings
        self._next = 0

    def more(self) -> bool:
        return self._next < len(self._strings)

    def take(self) -> bytes:
        if not self.more():
            raise self.misfit(f"{len(self._strings)} arguments are too few")
        self._next += 1
        return self._strings[self._next - 1]

    def groups(self, kinds: tuple[Kind, ...]) -> list[Any]:
        left = self._strings[self._next :]
        if not left or len(left) % len(kinds):
            raise self.misfit(f"{len(self._strings)} is not a number of arguments it can have")
        self._next = len(self._strings)
        if len(kinds) == 1:
            return [kinds[0].read(text) for text in left]
        columns = [[kind.read(text) for text in left[at :: len(kinds)]] for at, kind in enumerate(kinds)]
        return list(zip(*columns, strict=True))

    def misfit(self, why: str) -> ArgumentFault:
        return ArgumentFault(BADARGS, f"usage: {self._word.usage}; {why}")


_C = TypeVar("_C", bound=Command)


@dataclass_transform(frozen_default=True, field_specifiers=(argument, rest, option, switch))
def word(
    number: int,
    *,
    scope: Scope,
    answer: Answer,
    writes: bool = False,
    grows: bool = False,
    exclusive: tuple[tuple[str, ...], ...] = (),
    by_store: bool = False,
) -> Callable[[type[_C]], type[_C]]:
    """Declare a command: make its class a frozen dataclass and give it its entry of the vocabulary.

    The command's name on wires and in documents is its class' name in capitals: SetWith is SET_WITH.
    """

    def declare(plain: type[_C]) -> type[_C]:
        command = dataclasses.dataclass(frozen=True, slots=True)(plain)
        declared: Any = command
        fields = tuple((field.name, field.metadata[_SLOT]) for field in dataclasses.fields(declared))
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", command.__name__).upper()
        of_keys = [name for name, slot in fields if slot.kinds and isinstance(slot.kinds[0], KeyKind)]
        command.word = Word(
            name=name,
            number=number,
            command=command,
            scope=scope,
            writes=writes,
            grows=grows,
            answer=answer,
            exclusive=exclusive,
            by_store=by_store,
            fields=fields,
            key_fields=tuple(of_keys),
        )
        return command

    return declare
