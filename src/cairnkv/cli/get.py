"""`cairn get`. A script may start thousands of these processes, so this module imports as little as it can."""

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from cairnkv.cli import fast_get
from cairnkv.cli.arguments import Parser, StoreCommand, client, duration, execute, octets, store_parser
from cairnkv.cli.main import FOUND, NOT_FOUND
from cairnkv.cli.output import named, negative, put_bytes, put_json
from cairnkv.limits import DEFAULT_URL

if TYPE_CHECKING:
    from cairnkv.cli.arguments import Store


def run(name: str, arguments: Sequence[str]) -> int:
    """Print the value of a key."""
    command = COMMANDS[name]
    parser = store_parser(name, command)
    options = parser.parse_args(arguments)
    if not _changes(options) and options.timeout is None:
        url = options.url or os.environ.get("CAIRNKV_URL")
        if not url and not os.environ.get("CAIRNKV__URL"):  # the client complains about this name of the variable
            url = DEFAULT_URL
        try:
            if url:
                credentials = os.environ.get("CAIRNKV__CREDENTIALS")
                return _show(options, fast_get.get(url, options.key, local=options.local, credentials=credentials))
        except fast_get.NeedsClient:
            pass
    with client(options) as kv:
        return execute(command, kv, options, parser)


def _arguments(parser: Parser) -> None:
    parser.add_argument("key", type=octets, help="the key")
    parser.switch("--raw", "print the exact bytes, without a newline")
    parser.switch("--local", "read the local state of the node, which may be outdated")
    also = parser.add_mutually_exclusive_group()
    also.add_argument("--clear", action="store_true", help="also delete the key, in one atomic step")
    also.add_argument("--ttl", type=duration, metavar="TIME", help="also set the time to live of the key")
    also.add_argument("--persist", action="store_true", help="also remove the time to live of the key")


def _get(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    if options.local and _changes(options):
        parser.error("--local reads only; do not combine it with --clear, --ttl or --persist")
    store = kv.local() if options.local else kv
    return _show(options, store.get(options.key, clear=options.clear, ttl=options.ttl, persist=options.persist))


def _show(options: argparse.Namespace, value: bytes | None) -> int:
    """Print a value, and return the exit code."""
    if options.json:
        found = value is not None
        put_json({**named("key", options.key), "found": found, **(named("value", value) if value is not None else {})})
    elif value is not None:
        put_bytes(value, raw=options.raw)
    else:
        negative("not found", in_shell=options.in_shell)
    return FOUND if value is not None else NOT_FOUND


def _changes(options: argparse.Namespace) -> bool:
    """Return whether the command changes the key."""
    return options.clear or options.ttl is not None or options.persist


COMMANDS: Final = {
    "get": StoreCommand(
        "Print the value of a key and a newline. Exit code 1 if the key does not exist.",
        "cairn get greeting\ncairn get --raw picture > picture.png\n"
        "cairn get --clear job:17        # also delete the key, so that no other client gets it\n"
        "cairn get --ttl 30m session:9   # also expire the key in half an hour\n"
        "cairn get --local greeting      # read the state of one node of a cluster, which may be outdated",
        _arguments,
        _get,
    )
}
