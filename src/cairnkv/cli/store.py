"""The subcommands about a whole store: scan, count, ping, info."""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from cairnkv.cli.arguments import Parser, StoreCommand, octets, run_store_command
from cairnkv.cli.main import FOUND, NOT_FOUND
from cairnkv.cli.output import BOLD, named, put_bytes, put_json, styled

if TYPE_CHECKING:
    from cairnkv.cli.arguments import Store


def run(name: str, arguments: Sequence[str]) -> int:
    """Run one of these subcommands."""
    return run_store_command(name, arguments, COMMANDS[name])


def _scan_arguments(parser: Parser) -> None:
    parser.add_argument("prefix", nargs="?", type=octets, default=b"", help="list only keys that begin with this")


def _scan(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    found = False
    for key in kv.scan(options.prefix):
        found = True
        if options.json:
            put_json(named("key", key))
        else:
            put_bytes(key)
    return FOUND if found else NOT_FOUND


def _count(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    number = kv.count()
    if options.json:
        put_json({"count": number})
    else:
        print(number)
    return FOUND


def _ping_arguments(parser: Parser) -> None:
    parser.add_argument("text", nargs="?", default="", help="text that the server sends back (default: PONG)")


def _ping(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    kv.ping()  # connects
    began = time.perf_counter()
    answer = kv.ping(options.text)
    took = time.perf_counter() - began
    if options.json:
        put_json({"reply": answer, "milliseconds": round(took * 1000, 3)})
    else:
        put_bytes(answer.encode())
        if not options.in_shell:
            print(f"{took * 1000:.2f} ms", file=sys.stderr)
    return FOUND


def _info(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    facts = kv.info()
    if options.json:
        put_json(facts)
        return FOUND
    width = max(map(len, facts), default=0)
    for fact, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) and sys.stdout.isatty() else str(value)
        print(f"{styled(fact.ljust(width), BOLD)}  {shown}")
    return FOUND


def _no_arguments(parser: Parser) -> None:
    pass


COMMANDS: Final = {
    "scan": StoreCommand(
        "List the keys, one on each line, in no particular order. Exit code 1 if there are none.\n"
        "A key that contains a newline takes several lines; with --json, each key is one line.",
        "cairn scan\ncairn scan user: | wc -l\ncairn scan --json user:",
        _scan_arguments,
        _scan,
    ),
    "count": StoreCommand("Print the exact number of keys.", "cairn count", _no_arguments, _count),
    "ping": StoreCommand(
        "Send a PING and print the reply. The round-trip time goes to standard error.",
        "cairn ping\ncairn ping --url cairn://db1:6555 'are you there'",
        _ping_arguments,
        _ping,
    ),
    "info": StoreCommand(
        "Print the state and statistics of a server, one name and value on each line.",
        "cairn info\ncairn info --json | jq .keys",
        _no_arguments,
        _info,
    ),
}
