"""What the subcommands' parsers have in common: errors in one line, the server's address, kinds of arguments.

Not for the options of a server (`cairnkv.server.settings`). Imports only argparse, since every `get` does.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from cairnkv.cli.main import SUBCOMMANDS, complain, suggestion

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    import cairnkv


class _TwoDashes(str):
    """A value of two dashes, unequal to `--`: argparse removes `--` from values."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class Parser(argparse.ArgumentParser):
    """A subcommand's parser: what is wrong is said in one line, and --help ends with an example."""

    def __init__(self, name: str, *, description: str, example: str = "") -> None:
        super().__init__(
            prog=f"cairn {name}",
            description=description,
            epilog=f"examples:\n{_indented(example)}" if example else None,
            formatter_class=_formatter,
            allow_abbrev=False,
        )
        self._name = name
        self._given: list[str] = []

    def parse_args(self, args: Sequence[str], namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        """Parse arguments. After the first `--`, all arguments are values, including `--`."""
        self._given = list(args)
        end = self._end_of_options()
        values = [_TwoDashes(text) if text == "--" else text for text in self._given[end + 1 :]]
        options, left = self.parse_known_args([*self._given[: end + 1], *values], namespace)
        if left:
            self.error(self._hint() or f"{left[0]!r} is one argument too many")
        return options

    def _end_of_options(self) -> int:
        return self._given.index("--") if "--" in self._given else len(self._given)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if action.option_strings:  # as in --if-equals=--
            arg_strings = [_TwoDashes(text) if text == "--" else text for text in arg_strings]
        return super()._get_values(action, arg_strings)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            text = f"there is no {str(value)!r}{suggestion(str(value), known)}; use one of {', '.join(known)}"
            raise argparse.ArgumentError(action, text)

    def _hint(self) -> str:
        """Return a hint for the first unknown option; empty if all options are known."""
        for text in self._given[: self._end_of_options()]:
            option = text.partition("=")[0]
            begins_with_a_dash = text.startswith("-") and text != "-" and not self._negative_number_matcher.match(text)
            if begins_with_a_dash and option not in self._option_string_actions:
                known = suggestion(option, self._option_string_actions)
                value = "; write a value that begins with a dash after '--', or after = as in --option=-x"
                return f"there is no option {option!r}{known or value}"
        return ""

    def _print_message(self, message: str, file: "SupportsWrite[str] | None" = None) -> None:
        (file or sys.stderr).write(message)  # argparse ignores errors of write, such as a full disk

    def error(self, message: str) -> NoReturn:
        if (hint := self._hint()) and hint != message:
            message = f"{message}; {hint}"
        raise SystemExit(complain(f"{self._name}: {message}; `cairn {self._name} --help` explains it"))


def _formatter(prog: str) -> argparse.HelpFormatter:
    """A formatter as wide as the terminal. argparse makes one for every argument, and left to itself imports
    shutil to learn the width, which alone costs a tenth of a `get`."""
    try:
        width = os.get_terminal_size().columns - 2
    except OSError:
        width = 100
    return argparse.RawDescriptionHelpFormatter(prog, width=max(width, 40))


def client_parser(name: str, *, example: str, description: str = "", json: bool = True) -> Parser:
    """The parser of a subcommand that talks to a server.

    description: None takes the summary of the table of subcommands.
    json: whether the subcommand has output that JSON could say.
    """
    summary = SUBCOMMANDS[name][1]
    parser = Parser(name, description=description or f"{summary[0].upper()}{summary[1:]}.", example=example)
    parser.add_argument(
        "--url",
        help="the server's address, or several of a cluster's nodes, cairn://HOST,HOST "
        "(default: $CAIRNKV_URL, else cairn://127.0.0.1:6555)",
    )
    parser.add_argument(
        "--timeout", type=duration, metavar="TIME", help="how long to wait for the server, e.g. 500ms or 5s"
    )
    if json:
        parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def durability_option(parser: Parser) -> None:
    """Let a subcommand that writes say how safe that has to be; `store` heeds it."""
    parser.add_argument(
        "--durability",
        choices=("committed", "memory"),
        default="committed",
        help="what the reply waits for: the commit (default), or only the execution in memory, which a crash may undo",
    )


def client(options: argparse.Namespace) -> "cairnkv.Client[bytes, bytes]":
    """The client that --url and --timeout ask for. Keys and values are bytes."""
    import cairnkv

    return cairnkv.connect(options.url, codec="bytes", timeout=options.timeout)


def store(options: argparse.Namespace) -> "cairnkv.KeyValue[bytes, bytes]":
    """The same, with --durability heeded."""
    return client(options).durability(options.durability)


def octets(text: str) -> bytes:
    """The bytes of an argument, whatever they are."""
    return os.fsencode(text)


def path(text: str) -> str:
    """A path, which may not be empty; `~` is expanded."""
    from cairnkv.errors import OptionError
    from cairnkv.paths import path_text

    try:
        return path_text(text)
    except OptionError as error:
        raise argparse.ArgumentTypeError(f"it takes {error}") from None


def duration(text: str) -> float:
    """Seconds, from text such as `30s`, `500ms` or `30`."""
    from cairnkv.units import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"it takes {error}") from None


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
