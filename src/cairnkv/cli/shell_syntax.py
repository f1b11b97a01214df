"""What is typed at `cairn shell`: a line to a command, and a reply to lines. Sans-IO.

    set greeting 'hello world' ttl=30s ifabsent
    scan user: count=100

The words of a line are split as a Unix shell splits them. The first is a command's name in small letters; what
follows are its arguments, then its options, as `name=value` or a word alone. Times have units: 500ms, 30s, 5m.
All of it is read off the vocabulary (`cairnkv.commands`): a command that is added there is understood here,
completed and explained. A command X_WITH is X with options, and has its arguments in the same order. What a scan's
slices need, `cursor` and `count`, need not be said: without a cursor the whole is answered, slice by slice.

Not for terminals (`shell`), and not for what a command does.
"""

import dataclasses
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Final

from cairnkv.cli.main import suggestion
from cairnkv.commands import (
    BY_NAME,
    MISSING,
    OK,
    ArgumentFault,
    Command,
    CommandSpec,
    Deadline,
    Info,
    Items,
    Reply,
    Ttl,
)
from cairnkv.commands.grammar import Kind, Place, Slot
from cairnkv.commands.vocabulary import (
    AMOUNT,
    COUNT,
    CURSOR,
    MILLISECONDS,
    MILLISECONDS_OR_NONE,
    NO_TTL,
    PREFIX,
    TEXT,
    TIME,
    UNIX_MILLISECONDS,
)
from cairnkv.errors import CallerError
from cairnkv.limits import SCAN_COUNT
from cairnkv.units import seconds

WITH: Final = "_WITH"
"""How the name of a command with options ends."""

_TIMES: Final = (MILLISECONDS, MILLISECONDS_OR_NONE, TIME, UNIX_MILLISECONDS)

_LEFT_OUT: Final[Mapping[Kind, bytes]] = {PREFIX: b"", TEXT: b"", AMOUNT: b"1"}
"""Positional arguments that may be left out, and what they then are."""

_BY_NAME_ONLY: Final[Mapping[Kind, bytes]] = {
    CURSOR: b"0",
    COUNT: b"%d" % SCAN_COUNT,
    MILLISECONDS_OR_NONE: b"%d" % NO_TTL,
}
"""Positional arguments of a frame that a line gives by name, if at all, and what they are if not."""


_IN_MILLISECONDS: Final = re.compile(r"[\w-]*milliseconds[\w-]* is a decimal number from (-?\d+) to (\d+), not '.*'")
"""An error message of the protocol about milliseconds, a unit that shell users do not type."""

TIME_HELP: Final = "TIME is 500ms, 30s, 5m, 1h or 7d; a number alone is in seconds. With `at`, TIME counts from 1970."


class NotUnderstood(CallerError):
    """A line that is no command."""


@dataclasses.dataclass(frozen=True, slots=True)
class Statement:
    """A command that was typed.

    slices: whether it is to be repeated with the next cursor until the end.
    """

    command: Command
    slices: bool = False


# -- names -------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """The commands there are, as they are typed."""
    return [name.lower() for name in BY_NAME if not name.endswith(WITH)]


def spec_of(name: str) -> CommandSpec:
    """The vocabulary's entry for a name as it is typed."""
    spec = BY_NAME.get(name.upper().replace("-", "_"))
    if spec is None:
        hint = suggestion(name.lower(), names()) or "; `help` lists the commands"
        raise NotUnderstood(f"there is no command {name!r}{hint}")
    return spec


def _fullest(spec: CommandSpec) -> CommandSpec:
    """The form of a command that has all its options."""
    return BY_NAME.get(spec.name + WITH, spec)


def options(spec: CommandSpec) -> list[str]:
    """What may stand behind a command's arguments, as far as it can be completed: `ttl=`, `ifabsent`."""
    return [_option(name, slot) for name, slot in _fullest(spec).fields if _is_named(slot)]


def _is_named(slot: Slot) -> bool:
    return slot.place in (Place.OPTION, Place.SWITCH) or (
        slot.place is Place.ARGUMENT and slot.kinds[0] in _BY_NAME_ONLY
    )


def _is_optional(spec: CommandSpec, slot: Slot) -> bool:
    """Whether a positional argument may be left out; never the prefix of what is to be cleared."""
    kind = slot.kinds[0]
    return kind in _LEFT_OUT and not (kind is PREFIX and spec.writes)


def _option(name: str, slot: Slot) -> str:
    """What is typed for an option."""
    typed = slot.keyword.decode().lower() or name
    return typed if slot.place is Place.SWITCH else f"{typed}="


# -- grammar -----------------------------------------------------------------------------------------------


def usage(spec: CommandSpec) -> str:
    """The grammar of a command in one line.

    >>> from cairnkv.commands import Incr, Set
    >>> usage(Incr.spec)
    'incr key [n]'
    >>> usage(Set.spec)
    'set key value [ttl=TIME] [keepttl] [ifabsent] [ifpresent] [ifequals=value] [at=TIME]'
    """
    positional, named = [], []
    for name, slot in _fullest(spec).fields:
        kinds = " ".join(_placeholder(kind) for kind in slot.kinds)
        if _is_named(slot):
            named.append(f"[{_option(name, slot)}{kinds}]")
        elif slot.place is Place.REST:
            positional.append(f"{kinds} [{kinds} ...]")
        else:
            positional.append(f"[{kinds}]" if _is_optional(spec, slot) else kinds)
    parts = [*named, *positional] if _has_rest(spec) else [*positional, *named]
    return " ".join((spec.name.lower(), *parts))


def _placeholder(kind: Kind) -> str:
    if kind in _TIMES:
        return "TIME"
    return "N" if kind in _BY_NAME_ONLY else kind.placeholder


def _has_rest(spec: CommandSpec) -> bool:
    return any(slot.place is Place.REST for _, slot in spec.fields)


def explain(spec: CommandSpec) -> str:
    """What `help NAME` prints."""
    forms = [spec] if _fullest(spec) is spec else [spec, _fullest(spec)]
    told = [f"{form.name}, number {form.number} on the wire:\n{_as_shown(spec, form.description)}" for form in forms]
    if any(kind in _TIMES for _, slot in _fullest(spec).fields for kind in slot.kinds):
        told.append(TIME_HELP)
    return "\n\n".join((usage(spec), *told))


def _as_shown(spec: CommandSpec, text: str) -> str:
    """Return a command's description in the terms of the shell: times with units, replies as the shell shows them."""
    text = text.replace("`MISSING`", "`(not found)`")
    if issubclass(spec.command, Ttl | Deadline):
        return text.replace("milliseconds", "seconds").replace("-1 if", "`never` if")
    return text.replace("in milliseconds since", "as TIME since").replace("milliseconds", "TIME")


def overview() -> str:
    """What `help` prints."""
    shown = {usage(spec): spec.summary for spec in map(spec_of, names())}
    lines = [f"  {grammar}\n      {summary}" for grammar, summary in shown.items()]
    return "\n".join(
        (
            *lines,
            "",
            f"`help NAME` says more. {TIME_HELP}",
            "Times are shown in seconds.",
            "Quote blanks as in a Unix shell: 'hello world'.",
            "A line that begins with # is passed over. `exit` or Ctrl-D ends the shell.",
        )
    )


# -- a line to a command -----------------------------------------------------------------------------------


def split(line: str) -> list[str]:
    """The words of a line; none for a blank line and for one that begins with #."""
    if line.lstrip().startswith("#"):
        return []
    try:
        return shlex.split(line)
    except ValueError as error:
        raise NotUnderstood(f"{str(error).lower()}: quotes and backslashes are those of a Unix shell") from None


def statement(words: list[str]) -> Statement:
    """The command that words stand for; `NotUnderstood` says what does not fit."""
    spec = spec_of(words[0])
    given = _Given(spec, words[1:])
    fullest = _fullest(spec)
    form = fullest if any(slot.keyword and name in given.named for name, slot in fullest.fields) else spec
    arguments = (given.named[name] for name, slot in fullest.fields if slot.place is Place.ARGUMENT)
    strings: list[bytes] = []
    for name, slot in form.fields:
        match slot.place:
            case Place.REST:
                strings += given.rest
            case Place.ARGUMENT:
                strings.append(next(arguments))
            case Place.OPTION:
                strings += (slot.keyword, given.named[name]) if name in given.named else ()
            case Place.SWITCH:
                strings += (slot.keyword,) if name in given.named else ()
    try:
        command = form.command.from_arguments(strings)
    except ArgumentFault as fault:
        why = _IN_MILLISECONDS.sub(r"TIME is from \1ms to \2ms", fault.text.removeprefix(f"usage: {form.usage}; "))
        raise NotUnderstood(f"{spec.name.lower()}: {why}; {usage(spec)}") from None
    return Statement(command, slices="cursor" in given.left_out)


class _Given:
    """The words behind a command's name, by the fields that they are for.

    Arguments that have to be there are taken first, whatever they look like; only then can `ttl=30s` be an
    option. Where arguments of any number follow, options come before them.
    """

    def __init__(self, spec: CommandSpec, words: list[str]) -> None:
        self._spec = spec
        self._fields = dict(_fullest(spec).fields)
        self.named: dict[str, bytes] = {}
        self.rest: list[bytes] = []
        self.left_out: set[str] = set()
        open_fields = [
            name for name, slot in self._fields.items() if slot.place is Place.ARGUMENT and not _is_named(slot)
        ]
        required = [name for name in open_fields if not _is_optional(spec, self._fields[name])]
        optional = [name for name in open_fields if name not in required]
        left = list(words)
        for name in required:
            if not left:
                raise self._misfit("too few arguments")
            self._take(name, left.pop(0))
        while left:
            option = self._option_in(left[0])
            if option is not None:
                left.pop(0)
                name, value = option
                if name in self.named:
                    raise self._misfit(f"{name} stands there twice")
                self._take(name, value)
            elif _has_rest(spec):
                self.rest = list(map(_encoded, left))
                left.clear()
            elif optional:
                self._take(optional.pop(0), left.pop(0))
            else:
                raise self._misfit(
                    f"{left[0]!r} is one argument too many, and no option{suggestion(left[0], options(spec))}"
                )
        if _has_rest(spec) and not self.rest:
            raise self._misfit("too few arguments")
        for name, slot in self._fields.items():
            if slot.place is Place.ARGUMENT and name not in self.named:
                kind = slot.kinds[0]
                self.named[name] = (_BY_NAME_ONLY if kind in _BY_NAME_ONLY else _LEFT_OUT)[kind]
                self.left_out.add(name)

    def _option_in(self, text: str) -> tuple[str, str] | None:
        """The field and the value of an option, if a word is one."""
        typed, equals, value = text.partition("=")
        for name, slot in self._fields.items():
            if slot.place is Place.REST or typed.lower() not in (name, slot.keyword.decode().lower()):
                continue
            if bool(equals) is not (slot.place is Place.SWITCH):
                return name, value
        return None

    def _take(self, name: str, text: str) -> None:
        slot = self._fields[name]
        if slot.kinds and slot.kinds[0] in _TIMES:
            try:
                negative = slot.kinds[0] is TIME and text.startswith("-")
                self.named[name] = b"%d" % (round(seconds(text[negative:]) * 1000) * (-1 if negative else 1))
            except ValueError as error:
                raise self._misfit(f"{name} takes {error}") from None
        else:
            self.named[name] = _encoded(text)

    def _misfit(self, text: str) -> NotUnderstood:
        return NotUnderstood(f"{self._spec.name.lower()}: {text}; {usage(self._spec)}")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# -- a reply to lines --------------------------------------------------------------------------------------


def lines(command: Command, reply: Reply) -> Iterator[bytes | str]:
    """What a reply looks like: bytes that a store holds as bytes, the shell's own words as text."""
    match reply:
        case _ if reply is OK:
            yield "OK"
        case _ if reply is MISSING:
            yield "(not found)"
        case bytes():
            yield reply
        case int():
            if isinstance(command, Ttl | Deadline):
                yield "never" if reply < 0 else f"{reply / 1000:.3f}"
            else:
                yield str(reply)
        case Items():
            yield from _items(command, reply)


def _items(command: Command, reply: Items) -> Iterator[bytes | str]:
    values = ["(not found)" if value is None else value for value in reply.values]
    if isinstance(command, Info):
        for name, value in zip(values[::2], values[1::2], strict=True):
            yield f"{_shown(name)}: {_shown(value)}"
    else:
        yield from values


def _shown(text: bytes | str) -> str:
    return text if isinstance(text, str) else text.decode("utf-8", "backslashreplace")
