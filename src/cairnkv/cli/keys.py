"""The subcommands about keys: set, clear, exists, incr, ttl, expire, persist.

Each is a parser and a call of the client; what the call means is said there.
"""

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cairnkv.cli.arguments import Parser, client, client_parser, durability_option, duration, octets, store
from cairnkv.cli.main import FOUND, NOT_FOUND
from cairnkv.cli.output import named, note, on_terminal, put_json
from cairnkv.errors import CallerError
from cairnkv.escapes import escaped

STDIN: Final = b"-"
"""What stands for standard input where a value is expected."""


def run(name: str, arguments: Sequence[str]) -> int:
    """Run one of these subcommands."""
    return _SUBCOMMANDS[name](name, arguments)


def _set(name: str, arguments: Sequence[str]) -> int:
    parser = client_parser(
        name,
        description="Store a value under a key. Exit code 1 when a condition kept it from being stored.",
        example="cairn set greeting hello\ncairn set session:9 anna --ttl 30m\n"
        "cairn set lock me --if-absent --ttl 10s\ncairn set picture - < picture.png\n"
        "cairn set seen 12:00 --durability memory",
    )
    parser.add_argument("key", type=octets, help="the key")
    parser.add_argument("value", type=octets, help="the value; - reads it from standard input, byte by byte")
    life = parser.add_mutually_exclusive_group()
    life.add_argument("--ttl", type=duration, metavar="TIME", help="time to live, e.g. 500ms, 30s, 5m, 1h, 7d")
    life.add_argument("--keep-ttl", action="store_true", help="keep the time to live that the key has")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--if-absent", action="store_true", help="only if the key is not there")
    only.add_argument("--if-present", action="store_true", help="only if the key is there")
    only.add_argument("--if-equals", type=octets, metavar="VALUE", help="only if the key has this value")
    durability_option(parser)
    options = parser.parse_args(arguments)
    value = sys.stdin.buffer.read() if options.value == STDIN else options.value
    with store(options) as kv:
        if options.if_equals is not None:
            stored = kv.set(options.key, value, ttl=options.ttl, keep_ttl=options.keep_ttl, if_equals=options.if_equals)
        else:
            stored = kv.set(
                options.key,
                value,
                ttl=options.ttl,
                keep_ttl=options.keep_ttl,
                if_absent=options.if_absent,
                if_present=options.if_present,
            )
    return _say(options, stored, {"stored": stored}, "OK" if stored else "not stored")


def _clear(name: str, arguments: Sequence[str]) -> int:
    parser = client_parser(
        name,
        description="Clear keys: one (prints OK whether or not it was there), several (prints how many were there), "
        "all that\nbegin with a prefix, or all.",
        example="cairn clear greeting\ncairn clear --prefix session:\ncairn clear --all --yes",
    )
    parser.add_argument("keys", nargs="*", type=octets, metavar="KEY", help="a key")
    parser.add_argument("--if-equals", type=octets, metavar="VALUE", help="only if a single key has this value")
    parser.add_argument("--prefix", type=octets, help="clear the keys that begin with this")
    parser.add_argument("--all", action="store_true", help="clear every key")
    parser.add_argument("--yes", action="store_true", help="do not ask before clearing by prefix, or all")
    durability_option(parser)
    options = parser.parse_args(arguments)
    if sum((bool(options.keys), options.prefix is not None, options.all)) != 1:
        parser.error("name keys, or --prefix PREFIX, or --all")
    if options.if_equals is not None and len(options.keys) != 1:
        parser.error("--if-equals is for a single key")
    if options.keys:
        return _clear_keys(options)
    return _clear_many(options, parser)


def _clear_keys(options: argparse.Namespace) -> int:
    keys: list[bytes] = options.keys
    with store(options) as kv:
        if options.if_equals is not None:
            cleared = kv.clear_if_equals(keys[0], options.if_equals)
            return _say(options, cleared, {"cleared": cleared}, "OK" if cleared else "not cleared", key=keys[0])
        if len(keys) == 1:
            kv.clear(keys[0])
            return _say(options, True, {}, "OK", key=keys[0])
        number = kv.clear_many(keys)
    if options.json:
        put_json({"cleared": number})
    else:
        print(number)
    return FOUND if number else NOT_FOUND


def _clear_many(options: argparse.Namespace, parser: Parser) -> int:
    with store(options) as kv:
        if not options.yes and on_terminal(sys.stdin):
            what = (
                f"the keys that begin with {escaped(options.prefix)!r}" if options.prefix is not None else "every key"
            )
            print(f"Clear {what} of {kv.count():,} keys in the store? [y/N] ", end="", file=sys.stderr, flush=True)
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                raise CallerError("nothing was cleared")
        elif not options.yes and not options.prefix:
            parser.error("clearing every key without being asked needs --yes")
        if options.all:
            number = kv.count()
            kv.clear_all()
        else:
            number = kv.clear_prefix(options.prefix)
    if options.json:
        put_json({"cleared": number})
    else:
        print(number)
    return FOUND


def _exists(name: str, arguments: Sequence[str]) -> int:
    parser = client_parser(
        name,
        description="Say whether a key is there: yes and exit code 0, or no and exit code 1.",
        example="cairn exists greeting && echo it is there",
    )
    options = _of_one_key(parser, arguments)
    with client(options) as kv:
        found = kv.exists(options.key)
    return _say(options, found, {"found": found}, "yes" if found else "no")


def _incr(name: str, arguments: Sequence[str]) -> int:
    parser = client_parser(
        name,
        description="Add n to a number that is kept as decimal text, and print the sum. A key that is not there "
        "counts as 0.",
        example="cairn incr hits\ncairn incr stock -3",
    )
    parser.add_argument("key", type=octets, help="the key")
    parser.add_argument("n", type=int, nargs="?", default=1, help="what to add; may be negative (default: 1)")
    durability_option(parser)
    options = parser.parse_args(arguments)
    with store(options) as kv:
        total = kv.incr(options.key, options.n)
    return _say(options, True, {"value": total}, str(total))


def _ttl(name: str, arguments: Sequence[str]) -> int:
    parser = client_parser(
        name,
        description="Print the seconds until a key expires, or never. Exit code 1 when the key is not there.",
        example="cairn ttl session:9",
    )
    options = _of_one_key(parser, arguments)
    with client(options) as kv:
        ttl = kv.ttl(options.key)
    finite = ttl is not None and math.isfinite(ttl)
    answer = {"found": ttl is not None} | ({"ttl": ttl if finite else None} if ttl is not None else {})
    return _say(options, ttl is not None, answer, None if ttl is None else f"{ttl:.3f}" if finite else "never")


def _expire(name: str, arguments: Sequence[str]) -> int:
    parser = client_parser(
        name,
        description="Give a key a new time to live. Exit code 1 when the key is not there.",
        example="cairn expire session:9 30m",
    )
    durability_option(parser)
    options = _of_one_key(parser, arguments, also_ttl=True)
    with store(options) as kv:
        found = kv.expire(options.key, options.ttl)
    return _say(options, found, {"found": found}, "OK" if found else None)


def _persist(name: str, arguments: Sequence[str]) -> int:
    parser = client_parser(
        name,
        description="Take a key's time to live away, so that it stays. Exit code 1 when it had none or is not there.",
        example="cairn persist session:9",
    )
    durability_option(parser)
    options = _of_one_key(parser, arguments)
    with store(options) as kv:
        changed = kv.persist(options.key)
    return _say(options, changed, {"changed": changed}, "OK" if changed else "had no time to live, or is not there")


def _of_one_key(parser: Parser, arguments: Sequence[str], *, also_ttl: bool = False) -> argparse.Namespace:
    parser.add_argument("key", type=octets, help="the key")
    if also_ttl:
        parser.add_argument("ttl", type=duration, metavar="time", help="time to live, e.g. 500ms, 30s, 5m, 1h, 7d")
    return parser.parse_args(arguments)


def _say(
    options: argparse.Namespace, good: bool, answer: Mapping[str, object], text: str | None, *, key: bytes | None = None
) -> int:
    """Print an answer about a key, and give the exit code. text: None is a key that is not there."""
    if options.json:
        put_json({**named("key", options.key if key is None else key), **answer})
    elif good:
        print(text)
    else:
        note(text or "not found")
    return FOUND if good else NOT_FOUND


_SUBCOMMANDS: Final[dict[str, Callable[[str, Sequence[str]], int]]] = {
    "set": _set,
    "clear": _clear,
    "exists": _exists,
    "incr": _incr,
    "ttl": _ttl,
    "expire": _expire,
    "persist": _persist,
}
