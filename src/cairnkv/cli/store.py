"""The subcommands about a whole store: scan, count, ping, info."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from cairnkv.cli.arguments import client, client_parser, octets
from cairnkv.cli.main import FOUND, NOT_FOUND
from cairnkv.cli.output import BOLD, named, put_bytes, put_json, styled


def run(name: str, arguments: Sequence[str]) -> int:
    """Run one of these subcommands."""
    return _SUBCOMMANDS[name](name, arguments)


def _scan(name: str, arguments: Sequence[str]) -> int:
    parser = client_parser(
        name,
        description="List the keys, one on each line, in no particular order. Exit code 1 if there are none.\n"
        "A key that contains a newline takes several lines; with --json, each key is one line.",
        example="cairn scan\ncairn scan user: | wc -l\ncairn scan --json user:",
    )
    parser.add_argument("prefix", nargs="?", type=octets, default=b"", help="list only keys that begin with this")
    options = parser.parse_args(arguments)
    found = False
    with client(options) as kv:
        for key in kv.scan(options.prefix):
            found = True
            if options.json:
                put_json(named("key", key))
            else:
                put_bytes(key)
    return FOUND if found else NOT_FOUND


def _count(name: str, arguments: Sequence[str]) -> int:
    parser = client_parser(name, description="Print the exact number of keys.", example="cairn count")
    options = parser.parse_args(arguments)
    with client(options) as kv:
        number = kv.count()
    if options.json:
        put_json({"count": number})
    else:
        print(number)
    return FOUND


def _ping(name: str, arguments: Sequence[str]) -> int:
    parser = client_parser(
        name,
        description="Send a PING and print the reply. The round-trip time goes to standard error.",
        example="cairn ping\ncairn ping --url cairn://db1:6555 'are you there'",
    )
    parser.add_argument("text", nargs="?", default="", help="text that the server sends back (default: PONG)")
    options = parser.parse_args(arguments)
    with client(options) as kv:
        kv.ping()  # connects
        began = time.perf_counter()
        answer = kv.ping(options.text)
        took = time.perf_counter() - began
    if options.json:
        put_json({"reply": answer, "milliseconds": round(took * 1000, 3)})
    else:
        put_bytes(answer.encode())
        print(f"{took * 1000:.2f} ms", file=sys.stderr)
    return FOUND


def _info(name: str, arguments: Sequence[str]) -> int:
    parser = client_parser(
        name,
        description="Print the state and statistics of a server, one name and value on each line.",
        example="cairn info\ncairn info --json | jq .keys",
    )
    options = parser.parse_args(arguments)
    with client(options) as kv:
        facts = kv.info()
    if options.json:
        put_json(facts)
        return FOUND
    width = max(map(len, facts), default=0)
    for fact, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) and sys.stdout.isatty() else str(value)
        print(f"{styled(fact.ljust(width), BOLD)}  {shown}")
    return FOUND


_SUBCOMMANDS: Final[dict[str, Callable[[str, Sequence[str]], int]]] = {
    "scan": _scan,
    "count": _count,
    "ping": _ping,
    "info": _info,
}
