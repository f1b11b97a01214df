"""The parsers of subcommands: errors in one line, the server's address, types of arguments.

A subcommand that uses a store is a `StoreCommand`: on the command line it makes a client, in `cairn shell` it uses the
shell's client. Both use the same parser.

Invariants: this module imports only argparse, because every `get` imports it.

Out of scope: the options of a server (`cairnkv.server.settings`).
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from cairnkv.cli.main import complain, suggestion

_T = TypeVar("_T")

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    import cairnkv
    from cairnkv.server.settings import Option

    Store = cairnkv.KeyValue[bytes, bytes]


class _TwoDashes(str):
    """A value of two dashes, unequal to `--`: argparse removes `--` from values."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class Parser(argparse.ArgumentParser):
    """The parser of a subcommand. An error is one line, and --help ends with examples.

    in_shell: parse lines of `cairn shell`. Then an error raises `CallerError`. address: have options for the server's
    address. json: have an option --json.
    """

    def __init__(
        self,
        name: str,
        description: str,
        example: str = "",
        *,
        in_shell: bool = False,
        address: bool = False,
        json: bool = False,
    ) -> None:
        super().__init__(
            prog=name if in_shell else f"cairn {name}",
            description=description,
            epilog="\n  ".join(["examples:", *example.splitlines()]) if example else None,
            formatter_class=_formatter,
            allow_abbrev=False,
        )
        self._name = name
        self._in_shell = in_shell
        self._given: list[str] = []
        self.intermixed = False
        """Whether an argument with any number of values may continue behind an option."""
        if address:
            self.add_argument(
                "--url",
                help="address of the server, or of several nodes of a cluster: cairn://HOST,HOST; with TLS cairns://; "
                "user and secret as USER:SECRET@HOST, or in the file $CAIRNKV__CREDENTIALS (default: $CAIRNKV_URL, "
                "else cairn://127.0.0.1:6555)",
            )
            self.option("--timeout", duration, "TIME", "maximum time of a call, e.g. 500ms or 5s")
        if json:
            self.switch("--json", "print JSON")

    def parse_args(self, args: Sequence[str], namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        """Parse arguments. After the first `--`, all arguments are values, including `--`."""
        self._given = list(args)
        end = self._end_of_options()
        values = [_TwoDashes(text) if text == "--" else text for text in self._given[end + 1 :]]
        parse = self.parse_known_intermixed_args if self.intermixed else self.parse_known_args
        options, left = parse([*self._given[: end + 1], *values], namespace)
        if left:
            self.error(self._hint() or f"{left[0]!r} is one argument too many")
        return options

    def option(self, name: str, parse: Callable[[str], Any], metavar: str, help: str, default: Any = None) -> None:
        """Add an option with a value."""
        self.add_argument(name, type=parse, metavar=metavar, help=help, default=default)

    def switch(self, name: str, help: str) -> None:
        """Add an option without a value."""
        self.add_argument(name, action="store_true", help=help)

    def setting(self, name: str, known: "Option") -> None:
        """Add an option of the server."""
        flag = f"--{name.replace('_', '-')}"
        text = f"{known.help} (default: {known.shown})".replace("%", "%%")  # argparse formats the text with %
        if known.metavar:
            self.add_argument(flag, dest=name, metavar=known.metavar, help=text)
        else:
            self.add_argument(flag, dest=name, action="store_const", const="yes", help=text)

    def options(self) -> Iterator[tuple[str, str]]:
        """Yield the options, each with its help."""
        for option, action in self._option_string_actions.items():
            if option not in ("-h", "--help"):
                yield option, action.help or ""

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
        if self._in_shell:
            from cairnkv.errors import CallerError

            raise CallerError(f"{self._name}: {message}; `help {self._name}` explains it")
        raise SystemExit(complain(f"{self._name}: {message}; `cairn {self._name} --help` explains it"))


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Return a formatter as wide as the terminal.

    argparse makes a formatter for every argument. By default it imports shutil for the width, which takes a tenth of
    the time of a `get`.
    """
    try:
        width = os.get_terminal_size().columns - 2
    except OSError:
        width = 100
    return argparse.RawDescriptionHelpFormatter(prog, width=max(width, 40))


class StoreCommand(NamedTuple):
    """A subcommand that uses a store.

    add_arguments: adds its arguments to a parser.
    execute: executes it with a store and the parsed options, prints the result, and returns the exit code. The parser
    reports wrong options.
    """

    description: str
    example: str
    add_arguments: Callable[[Parser], None]
    execute: Callable[["Store", argparse.Namespace, Parser], int]


def run_store_command(name: str, arguments: Sequence[str], command: StoreCommand) -> int:
    """Run a subcommand with a client of its own."""
    parser = store_parser(name, command)
    options = parser.parse_args(arguments)
    with client(options) as kv:
        return execute(command, kv, options, parser)


def execute(command: StoreCommand, kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    """Execute a subcommand with a store, and with the durability that the options have."""
    return command.execute(kv.durability(options.durability), options, parser)


def store_parser(name: str, command: StoreCommand, *, in_shell: bool = False) -> Parser:
    """Return the parser of a subcommand that uses a store. A parser for the shell has no address."""
    parser = Parser(
        name,
        description=command.description,
        example="" if in_shell else command.example,
        in_shell=in_shell,
        address=not in_shell,
        json=True,
    )
    parser.set_defaults(in_shell=in_shell, durability="committed")
    command.add_arguments(parser)
    return parser


def durability_option(parser: Parser) -> None:
    """Add the option for the durability of writes."""
    parser.add_argument(
        "--durability",
        choices=("committed", "memory"),
        help="what the reply waits for: the commit (default), or only the execution in memory, which a crash may undo",
    )


def client(options: argparse.Namespace) -> "cairnkv.Client[bytes, bytes]":
    """Return a client with the address and timeout of the options. Keys and values are bytes."""
    import cairnkv

    return cairnkv.connect(options.url, codec="bytes", timeout=options.timeout)


def octets(text: str) -> bytes:
    """Return the bytes of an argument."""
    return os.fsencode(text)


def parsed(parse: Callable[[str], _T], text: str) -> _T:
    """Return a parsed argument. parse: raises `ValueError`, whose text follows "it takes"."""
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"it takes {error}") from None


def path(text: str) -> str:
    """Return a path that is not empty, with `~` expanded."""
    from cairnkv.paths import path_text

    return parsed(path_text, text)


def duration(text: str) -> float:
    """Return the seconds of text such as `30s`, `500ms` or `30`."""
    from cairnkv.units import seconds

    return parsed(seconds, text)


def number(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers in a range."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"it takes a number from {least:,} to {most:,}, not {text!r}")
        return int(text)

    return parse
