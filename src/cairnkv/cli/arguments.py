"""What the subcommands' parsers have in common: errors in one line, the server's address, kinds of arguments.

Not for the options of a server (`cairnkv.server.settings`). Imports only argparse, since every `get` does.
"""

import argparse
import os
from typing import TYPE_CHECKING, NoReturn

from cairnkv.cli.main import SUBCOMMANDS, complain

if TYPE_CHECKING:
    import cairnkv


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

    def error(self, message: str) -> NoReturn:
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


def durable_option(parser: Parser) -> None:
    """Let a subcommand that writes say how safe that has to be; `store` heeds it."""
    parser.add_argument(
        "--durable",
        choices=("size", "memory"),
        default="size",
        help="when it is done: as safe as the server promises (default), or in memory, from where a crash may take it",
    )


def client(options: argparse.Namespace) -> "cairnkv.Client[bytes, bytes]":
    """The client that --url and --timeout ask for. Keys and values are bytes."""
    import cairnkv

    return cairnkv.connect(options.url, codec="bytes", timeout=options.timeout)


def store(options: argparse.Namespace) -> "cairnkv.KeyValue[bytes, bytes]":
    """The same, with --durable heeded."""
    return client(options).durable(options.durable)


def octets(text: str) -> bytes:
    """The bytes of an argument, whatever they are."""
    return os.fsencode(text)


def duration(text: str) -> float:
    """Seconds, from text such as `30s`, `500ms` or `30`."""
    from cairnkv.units import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"it takes {error}") from None


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
