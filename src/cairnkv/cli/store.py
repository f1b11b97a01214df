"""The subcommands for one store: set, clear, exists, incr, ttl, expire, persist, scan, count, ping, info."""

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from cairnkv.cli.arguments import Parser, StoreCommand, durability_option, duration, octets, run_store_command
from cairnkv.cli.main import FOUND, NOT_FOUND
from cairnkv.cli.output import BOLD, named, negative, on_terminal, put_bytes, put_json, styled
from cairnkv.errors import CallerError
from cairnkv.escapes import escaped

if TYPE_CHECKING:
    from cairnkv.cli.arguments import Store

STDIN: Final = b"-"
"""The value that stands for standard input on the command line. In the shell it is a plain value."""

TTL_HELP: Final = "time until the key expires, e.g. 500ms, 30s, 5m, 1h, 7d"


def run(name: str, arguments: Sequence[str]) -> int:
    """Run one of these subcommands."""
    return run_store_command(name, arguments, COMMANDS[name])


# -- keys ----------------------------------------------------------------------------------------------------


def _set_arguments(parser: Parser) -> None:
    _key_argument(parser)
    parser.add_argument("value", type=octets, help="the value; on the command line - reads it from standard input")
    expiry = parser.add_mutually_exclusive_group()
    expiry.add_argument("--ttl", type=duration, metavar="TIME", help=TTL_HELP)
    expiry.add_argument("--keep-ttl", action="store_true", help="keep the TTL of the key")
    condition = parser.add_mutually_exclusive_group()
    condition.add_argument("--if-absent", action="store_true", help="only if the key does not exist")
    condition.add_argument("--if-present", action="store_true", help="only if the key exists")
    condition.add_argument("--if-equals", type=octets, metavar="VALUE", help="only if the key has this value")
    durability_option(parser)


def _set(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    reads_stdin = options.value == STDIN and not options.in_shell
    value = sys.stdin.buffer.read() if reads_stdin else options.value
    stored = kv.set(
        options.key,
        value,
        ttl=options.ttl,
        keep_ttl=options.keep_ttl,
        if_absent=options.if_absent,
        if_present=options.if_present,
        **({} if options.if_equals is None else {"if_equals": options.if_equals}),
    )
    return _show(options, stored, {"stored": stored}, "OK" if stored else "not stored")


def _clear_arguments(parser: Parser) -> None:
    parser.add_argument("keys", nargs="*", type=octets, metavar="KEY", help="a key")
    parser.option("--if-equals", octets, "VALUE", "only if the key has this value; for one key")
    parser.add_argument("--prefix", type=octets, help="delete the keys that begin with this")
    parser.switch("--all", "delete all keys")
    parser.switch("--yes", "do not ask for confirmation of --prefix and --all")
    durability_option(parser)


def _clear(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    keys: list[bytes] = options.keys
    if sum((bool(keys), options.prefix is not None, options.all)) != 1:
        parser.error("name keys, or --prefix PREFIX, or --all")
    if options.if_equals is not None:
        if len(keys) != 1:
            parser.error("--if-equals needs exactly one key")
        cleared = kv.clear_if_equals(keys[0], options.if_equals)
        return _show(options, cleared, {"cleared": cleared}, "OK" if cleared else "not cleared", key=keys[0])
    if len(keys) == 1:
        kv.clear(keys[0])
        return _show(options, True, {}, "OK", key=keys[0])
    if keys:
        number = kv.clear_many(keys)
    else:
        _confirm(kv, options, parser)
        if options.all:
            number = kv.count()
            kv.clear_all()
        else:
            number = kv.clear_prefix(options.prefix)
    if options.json:
        put_json({"cleared": number})
    else:
        print(number)
    return FOUND if number or not keys else NOT_FOUND


def _confirm(kv: "Store", options: argparse.Namespace, parser: Parser) -> None:
    """On a terminal, ask whether to delete many keys. Raises `CallerError` if the answer is not yes."""
    if options.yes:
        return
    if not on_terminal(sys.stdin):
        if not options.prefix:
            parser.error("--yes is missing: without it, all keys are deleted only after confirmation on a terminal")
        return
    which = f"the keys that begin with {escaped(options.prefix)!r}" if options.prefix else "every key"
    question = f"Clear {which} of {kv.count():,} keys in the store? [y/N] "
    if options.in_shell and on_terminal(sys.stdout):
        from prompt_toolkit import prompt

        answer = prompt(question)  # has no history
    else:
        print(question, end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
    if answer.strip().lower() not in ("y", "yes"):
        raise CallerError("nothing was cleared")


def _exists(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    found = kv.exists(options.key)
    return _show(options, found, {"found": found}, "yes" if found else "no")


def _incr_arguments(parser: Parser) -> None:
    _key_argument(parser)
    parser.add_argument("n", type=int, nargs="?", default=1, help="the number to add; may be negative (default: 1)")
    durability_option(parser)


def _incr(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    total = kv.incr(options.key, options.n)
    return _show(options, True, {"value": total}, str(total))


def _ttl(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    ttl = kv.ttl(options.key)
    if ttl is None:
        return _show(options, False, {"found": False}, "not found")
    finite = math.isfinite(ttl)
    return _show(options, True, {"found": True, "ttl": ttl if finite else None}, f"{ttl:.3f}" if finite else "never")


def _expire_arguments(parser: Parser) -> None:
    _key_argument(parser)
    parser.add_argument("ttl", type=duration, metavar="time", help=TTL_HELP)
    durability_option(parser)


def _expire(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    found = kv.expire(options.key, options.ttl)
    return _show(options, found, {"found": found}, "OK" if found else "not found")


def _persist_arguments(parser: Parser) -> None:
    _key_argument(parser)
    durability_option(parser)


def _persist(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    changed = kv.persist(options.key)
    return _show(options, changed, {"changed": changed}, "OK" if changed else "had no TTL, or does not exist")


def _key_argument(parser: Parser) -> None:
    parser.add_argument("key", type=octets, help="the key")


def _show(
    options: argparse.Namespace, good: bool, answer: Mapping[str, object], text: str, *, key: bytes | None = None
) -> int:
    """Print the answer about a key, and return the exit code."""
    if options.json:
        put_json({**named("key", options.key if key is None else key), **answer})
    elif good:
        print(text)
    else:
        negative(text, in_shell=options.in_shell)
    return FOUND if good else NOT_FOUND


# -- a whole store -------------------------------------------------------------------------------------------


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


COMMANDS: Final = {
    "set": StoreCommand(
        "Store a value under a key. Exit code 1 if a condition prevents it.",
        "cairn set greeting hello\ncairn set session:9 anna --ttl 30m\ncairn set lock me --if-absent --ttl 10s\n"
        "cairn set picture - < picture.png\ncairn set seen 12:00 --durability memory",
        _set_arguments,
        _set,
    ),
    "clear": StoreCommand(
        "Delete keys. For one key this prints OK, whether or not the key existed; for several keys, a prefix or --all\n"
        "the number of deleted keys.",
        "cairn clear greeting\ncairn clear --prefix session:\ncairn clear --all --yes",
        _clear_arguments,
        _clear,
    ),
    "exists": StoreCommand(
        "Print whether a key exists: yes with exit code 0, or no with exit code 1.",
        "cairn exists greeting && echo it exists",
        _key_argument,
        _exists,
    ),
    "incr": StoreCommand(
        "Add n to a number that is stored as decimal text, and print the sum. An absent key counts as 0.",
        "cairn incr hits\ncairn incr stock -3",
        _incr_arguments,
        _incr,
    ),
    "ttl": StoreCommand(
        "Print the seconds until a key expires, or never. Exit code 1 if the key does not exist.",
        "cairn ttl session:9",
        _key_argument,
        _ttl,
    ),
    "expire": StoreCommand(
        "Set the TTL of a key. Exit code 1 if the key does not exist.",
        "cairn expire session:9 30m",
        _expire_arguments,
        _expire,
    ),
    "persist": StoreCommand(
        "Remove the TTL of a key. Exit code 1 if the key has none or does not exist.",
        "cairn persist session:9",
        _persist_arguments,
        _persist,
    ),
    "scan": StoreCommand(
        "List the keys, one on each line, in no particular order. Exit code 1 if there are none.\n"
        "A key that contains a newline takes several lines; with --json, each key is one line.",
        "cairn scan\ncairn scan user: | wc -l\ncairn scan --json user:",
        _scan_arguments,
        _scan,
    ),
    "count": StoreCommand("Print the exact number of keys.", "cairn count", lambda parser: None, _count),
    "ping": StoreCommand(
        "Send a PING and print the reply. The round-trip time goes to standard error.",
        "cairn ping\ncairn ping --url cairn://db1:6555 'are you there'",
        _ping_arguments,
        _ping,
    ),
    "info": StoreCommand(
        "Print the state and statistics of a server, one name and value on each line.",
        "cairn info\ncairn info --json | jq .keys",
        lambda parser: None,
        _info,
    ),
}
