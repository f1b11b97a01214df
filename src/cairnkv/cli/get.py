"""`cairn get`: the one command of which a script may start thousands, so it imports as little as it can."""

import argparse
import os
from collections.abc import Sequence

from cairnkv.cli import fast_get
from cairnkv.cli.arguments import client, client_parser, duration, octets
from cairnkv.cli.main import FOUND, NOT_FOUND
from cairnkv.cli.output import named, note, put_bytes, put_json
from cairnkv.limits import DEFAULT_URL


def run(name: str, arguments: Sequence[str]) -> int:
    """Print a value."""
    parser = client_parser(
        name,
        description="Print the value of a key and a newline. Exit code 1 when the key is not there.",
        example="cairn get greeting\ncairn get --raw picture > picture.png\n"
        "cairn get --clear job:17        # take it: no one else gets it\n"
        "cairn get --ttl 30m session:9   # and let it live for another half an hour\n"
        "cairn get --local greeting      # what this node of a cluster has, which may be behind the others",
    )
    parser.add_argument("key", type=octets, help="the key")
    parser.add_argument("--raw", action="store_true", help="print the exact bytes, without a newline")
    parser.add_argument(
        "--local", action="store_true", help="be content with what the node that is asked has: it may be behind"
    )
    also = parser.add_mutually_exclusive_group()
    also.add_argument("--clear", action="store_true", help="clear the key as well, in one step")
    also.add_argument("--ttl", type=duration, metavar="TIME", help="give the key a new time to live as well")
    also.add_argument("--persist", action="store_true", help="take the key's time to live away as well")
    options = parser.parse_args(arguments)
    if options.local and _changes(options):
        parser.error("--local is for what only reads: not with --clear, --ttl or --persist")
    value = _value(options)
    if options.json:
        found = value is not None
        put_json({**named("key", options.key), "found": found, **(named("value", value) if value is not None else {})})
    elif value is not None:
        put_bytes(value, raw=options.raw)
    else:
        note("not found")
    return FOUND if value is not None else NOT_FOUND


def _changes(options: argparse.Namespace) -> bool:
    """Whether the key is not only read."""
    return options.clear or options.ttl is not None or options.persist


def _value(options: argparse.Namespace) -> bytes | None:
    if not _changes(options) and options.timeout is None:
        url = options.url or os.environ.get("CAIRNKV_URL")
        if not url and not os.environ.get("CAIRNKV__URL"):  # the client complains about this name of the variable
            url = DEFAULT_URL
        try:
            if url:
                return fast_get.get(url, options.key, local=options.local)
        except fast_get.NotQuick:
            pass
    with client(options) as kv:
        store = kv.local() if options.local else kv
        return store.get(options.key, clear=options.clear, ttl=options.ttl, persist=options.persist)
