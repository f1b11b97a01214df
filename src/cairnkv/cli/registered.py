"""The subcommands that the registry of commands adds: `cairn append`, `cairn rename`, `cairn get-many`.

A command on keys without a subcommand of its own gets one from its declaration (`cairnkv.commands`): positional fields
become arguments, other fields become options. The command line prints the reply.
"""

import argparse
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from cairnkv.cli.arguments import Parser, StoreCommand, durability_option, duration, octets, run_store_command
from cairnkv.cli.main import FOUND, NOT_FOUND, SUBCOMMANDS
from cairnkv.cli.output import named, negative, put_bytes, put_json
from cairnkv.client.calls import Call
from cairnkv.commands import BY_NAME, MISSING, OK, ArgumentFault, Command, CommandSpec, Deadline, Items, Reply, Scope
from cairnkv.commands.grammar import Kind, NumberKind, Place, Slot
from cairnkv.commands.vocabulary import MILLISECONDS, MILLISECONDS_OR_NONE, NO_TTL, TIME, UNIX_MILLISECONDS

if TYPE_CHECKING:
    from cairnkv.cli.arguments import Store

COVERED: Final = ("CLEAR_MANY", "CLEAR_IF_EQUALS", "CLEAR_ALL", "CLEAR_PREFIX", "AUTH")
"""Commands of the subcommand `clear`, and AUTH: a client logs in as the user of its address."""

TIMES: Final = (MILLISECONDS, MILLISECONDS_OR_NONE, TIME, UNIX_MILLISECONDS)
"""Kinds of arguments in milliseconds. Users write them with a unit."""

TIME_HELP: Final = "TIME is 500ms, 30s, 5m, 1h or 7d; a number alone is in seconds."


def run(name: str, arguments: Sequence[str]) -> int:
    """Run one of these subcommands."""
    return run_store_command(name, arguments, commands()[name])


def summaries() -> dict[str, str]:
    """Return the names of these subcommands, each with a summary.

    >>> summaries()["append"]
    'append a string to the value of a key'
    """
    return {name: _summary(spec) for name, spec in _specs().items()}


def _summary(spec: CommandSpec) -> str:
    sentence = re.split(r"[.:](?: |$)", _description(spec).split("\n", 1)[0])[0]
    return f"{sentence[0].lower()}{sentence[1:]}"


def _description(spec: CommandSpec) -> str:
    """Return a command's description in terms of the command line: times with units, replies as it prints them."""
    text = spec.description.replace("`MISSING`", "(not found)")
    if spec.command is Deadline:
        return text.replace("milliseconds", "seconds").replace("-1 if", "`never` if")
    return text.replace("in milliseconds since", "as TIME since").replace("milliseconds", "TIME")


@functools.cache
def commands() -> Mapping[str, StoreCommand]:
    """Return these subcommands."""
    return {name: _command(spec) for name, spec in _specs().items()}


def _specs() -> dict[str, CommandSpec]:
    registered = (spec for spec in BY_NAME.values() if spec.name not in COVERED and spec.scope is not Scope.QUEUES)
    specs = {spec.name.lower().replace("_", "-"): spec for spec in registered}
    return {name: spec for name, spec in specs.items() if name not in SUBCOMMANDS}


def _command(spec: CommandSpec) -> StoreCommand:
    description = _description(spec)
    if any(kind in TIMES for _, slot in spec.fields for kind in slot.kinds):
        description += f"\n\n{TIME_HELP}"
    return StoreCommand(description, "", functools.partial(_add_arguments, spec), functools.partial(_execute, spec))


# -- arguments -----------------------------------------------------------------------------------------------


def _add_arguments(spec: CommandSpec, parser: Parser) -> None:
    for name, slot in spec.fields:
        _add_argument(parser, name, slot)
    if spec.writes:
        durability_option(parser)


def _add_argument(parser: Parser, name: str, slot: Slot) -> None:
    option = f"--{name.replace('_', '-')}"
    metavar = " ".join("TIME" if kind in TIMES else kind.placeholder.upper() for kind in slot.kinds)
    match slot.place:
        case Place.SWITCH:
            parser.add_argument(option, action="store_true")
        case Place.OPTION:
            parser.add_argument(option, type=_reader(slot.kinds[0]), metavar=metavar)
        case Place.ARGUMENT if slot.kinds[0] is MILLISECONDS_OR_NONE:
            parser.add_argument(option, type=_reader(slot.kinds[0]), metavar=metavar, default=NO_TTL)
        case Place.ARGUMENT:
            parser.add_argument(name, type=_reader(slot.kinds[0]), metavar=metavar)
        case Place.REST:
            parser.add_argument(name, type=octets, metavar=metavar, nargs="+")


def _reader(kind: Kind) -> Callable[[str], Any]:
    """Return the function that reads an argument of a kind."""
    if isinstance(kind, NumberKind) and kind in TIMES:
        return functools.partial(_time, kind)
    return functools.partial(_value, kind)


def _value(kind: Kind, text: str) -> Any:
    try:
        return kind.read(octets(text))
    except ArgumentFault as fault:
        raise argparse.ArgumentTypeError(fault.text) from None


def _time(kind: NumberKind, text: str) -> int:
    """Return the milliseconds of a time with a unit."""
    milliseconds = round(duration(text.removeprefix("-")) * 1000) * (-1 if text.startswith("-") else 1)
    if not kind.lowest <= milliseconds <= kind.highest:
        raise argparse.ArgumentTypeError(f"it takes a time from {kind.lowest}ms to {kind.highest}ms, not {text!r}")
    return milliseconds


def command_of(spec: CommandSpec, options: argparse.Namespace, parser: Parser) -> Command:
    """Return the command that parsed options describe."""
    values = {name: getattr(options, name) for name, _ in spec.fields}
    for group in spec.exclusive:
        given = [f"--{name.replace('_', '-')}" for name in group if values[name] not in (None, False)]
        if len(given) > 1:
            parser.error(f"{' and '.join(given)} exclude each other")
    for name, slot in spec.fields:
        if slot.place is Place.REST:
            strings, width = values[name], len(slot.kinds)
            if len(strings) % width:
                parser.error("the last key has no value")
            values[name] = tuple(
                strings if width == 1 else zip(*(strings[at::width] for at in range(width)), strict=True)
            )
    command = spec.command(**values)
    try:
        return type(command).from_arguments(command.arguments())
    except ArgumentFault as fault:
        parser.error(fault.text)


# -- execution -----------------------------------------------------------------------------------------------


def _execute(spec: CommandSpec, kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    reply = kv._do(Call(command_of(spec, options, parser), lambda reply: reply))
    if options.json:
        put_json(_json(reply))
    elif reply is MISSING:
        negative("not found", in_shell=options.in_shell)
    else:
        for line in lines(spec, reply):
            if isinstance(line, bytes):
                put_bytes(line)
            else:
                print(line)
    return NOT_FOUND if reply is MISSING else FOUND


def lines(spec: CommandSpec, reply: Reply) -> Iterator[bytes | str]:
    """Yield the lines of a reply that is not `MISSING`: stored bytes, and text of the command line."""
    match reply:
        case bytes():
            yield reply
        case int() if spec.command is Deadline:
            yield "never" if reply < 0 else f"{reply / 1000:.3f}"
        case int():
            yield str(reply)
        case Items():
            yield from ("(not found)" if value is None else value for value in reply.values)
        case _:
            yield "OK"


def _json(reply: Reply) -> dict[str, Any]:
    match reply:
        case bytes():
            return named("reply", reply)
        case int():
            return {"reply": reply}
        case Items():
            return {"replies": [None if value is None else named("value", value) for value in reply.values]}
        case _:
            return {"reply": "OK" if reply is OK else None}
