"""`cairn queue`: puts, takes and shows messages of queues, and runs workers.

A body is bytes, as typed or read: the Python clients decode it by the codec of their queue, JSON by default. A lease is
ID:TOKEN on this command line.

Invariants: exit code 1 means that there is no message, that the name of a message is taken, or that a lease is lost.

Out of scope: the program of a worker, and its exit code (`queue_work`).
"""

import argparse
import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from cairnkv.cli.arguments import Parser, StoreCommand, duration, number, octets, run_store_command
from cairnkv.cli.main import FOUND, NOT_FOUND
from cairnkv.cli.output import BOLD, DIM, RED, named, negative, note, on_terminal, put_bytes, put_json, styled
from cairnkv.errors import CallerError
from cairnkv.escapes import escaped
from cairnkv.limits import INTEGER_MAX, PRIORITY_MAX, TAKE_MAX
from cairnkv.units import counted

if TYPE_CHECKING:
    from cairnkv.cli.arguments import Store
    from cairnkv.client.queue.calls import Message
    from cairnkv.client.queue.jobs import Job
    from cairnkv.client.queue.queues import Queue

STDIN: Final = b"-"
"""The body that stands for standard input."""

STATES: Final = ("ready", "delayed", "leased", "dead")

COUNTS: Final = (*STATES, "bytes")
"""The columns of `list` and `watch`."""

OLDEST: Final = "oldest s"
"""The column of the seconds for which a message has been ready, at most."""

LEASE: Final = re.compile(r"([0-9]{1,19}):([0-9]{1,19})")

TIME: Final = "TIME is 500ms, 30s, 5m, 1h or 7d; a number alone is in seconds."


def run(name: str, arguments: Sequence[str]) -> int:
    """Run one of the actions."""
    if arguments and arguments[0] == "work":
        from cairnkv.cli.queue_work import work

        return work(f"{name} work", arguments[1:])
    if arguments and arguments[0] in ACTIONS:
        return run_store_command(f"{name} {arguments[0]}", arguments[1:], ACTIONS[arguments[0]][1])
    known = {**{action: summary for action, (summary, _) in ACTIONS.items()}, "work": WORK_SUMMARY}
    width = max(map(len, known))
    actions = "\n".join(f"  {action:<{width}}  {summary}" for action, summary in known.items())
    parser = Parser(
        name,
        description="Put messages into queues, take them, and run workers. A worker leases the messages that it\n"
        "takes. A message returns to its queue if the worker does not ack it before the lease ends.\n\n"
        f"{actions}\n\n`cairn {name} ACTION --help` explains an action.",
        example='cairn queue put emails \'{"to": "anna"}\'\ncairn queue work emails -j 4 -- ./send.sh\n'
        "cairn queue watch",
    )
    parser.add_argument("action", metavar="ACTION", choices=list(known), help="one of the actions above")
    parser.parse_args(arguments)
    raise AssertionError("a known action is executed above")


def _queue(kv: "Store", name: bytes) -> "Queue[bytes]":
    return kv.queue(name, codec="bytes")


def _queue_argument(parser: Parser) -> None:
    parser.add_argument("queue", type=octets, help="the name of the queue")


def _count_option(parser: Parser, help: str, default: int) -> None:
    parser.option("--count", number(1, TAKE_MAX), "N", f"{help} (default: {default})", default)


def _lease(text: str) -> tuple[int, int]:
    """Return the id and the token of a lease."""
    match = LEASE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"it takes a lease as `take` prints it, ID:TOKEN, not {text!r}")
    return int(match[1]), int(match[2])


def _settings(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


# -- put ---------------------------------------------------------------------------------------------------------


def _put_arguments(parser: Parser) -> None:
    _queue_argument(parser)
    parser.add_argument("body", type=octets, nargs="?", help="the body; - reads it from standard input")
    parser.switch("--lines", "put a message for each line of standard input")
    parser.option("--delay", duration, "TIME", "time until the message is ready")
    parser.option("--priority", number(0, PRIORITY_MAX), "N", "lower numbers are taken first (default: 1000)")
    parser.option("--group", octets, "NAME", "group of the message; groups take turns")
    parser.option("--unique", octets, "NAME", "name that only one message can have; exit code 1 if it is taken")
    parser.option("--unique-for", duration, "TIME", "minimum time for which the name stays taken")
    parser.switch("--until-taken", "free the name at the first delivery")
    parser.option("--expires", duration, "TIME", "time after which the message is deleted")
    parser.option("--lease", duration, "TIME", "duration of its leases")


def _put(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    queue = _queue(kv, options.queue)
    if options.lines:
        if options.in_shell:
            parser.error("the shell itself reads standard input; put each message")
        if options.body is not None or _settings(options, "group", "unique", "unique_for", "expires", "lease"):
            parser.error("--lines takes no body, and only the options --delay and --priority")
        total = 0
        lines = (line.removesuffix(b"\n") for line in sys.stdin.buffer)
        for bodies in _slices(lines, TAKE_MAX):
            total += len(queue.put_many(bodies, delay=options.delay, priority=options.priority))
        if options.json:
            put_json({"put": total})
        else:
            print(total)
        return FOUND
    if options.body is None:
        parser.error("the body is missing; - reads it from standard input")
    body = sys.stdin.buffer.read() if options.body == STDIN and not options.in_shell else options.body
    given = _settings(options, "delay", "priority", "group", "unique", "unique_for", "expires", "lease")
    result = queue.put(body, until_taken=options.until_taken, **given)
    if options.json:
        put_json({"id": result.id, "new": result.new})
    else:
        print(result.id)
        if not result.new:
            note("not put: this message has the unique name")
    return FOUND if result.new else NOT_FOUND


def _slices(lines: Iterable[bytes], length: int) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    for line in lines:
        part.append(line)
        if len(part) == length:
            yield part
            part = []
    if part:
        yield part


# -- take, ack, nack, extend -------------------------------------------------------------------------------------


def _take_arguments(parser: Parser) -> None:
    _queue_argument(parser)
    _count_option(parser, "maximum number of messages", 1)
    parser.option("--lease", duration, "TIME", "time after which the message is ready again")
    parser.option("--wait", duration, "TIME", "maximum time to wait for a message (default: do not wait)", 0)
    parser.switch("--ack", "delete the messages at once, and print only bodies")
    parser.switch("--raw", "with --ack: print the exact bytes, without a newline")


def _take(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    if options.raw and not options.ack:
        parser.error("--raw needs --ack")
    jobs = _queue(kv, options.queue).take_many(options.count, lease=options.lease, wait=options.wait)
    for job in jobs:
        if options.ack:
            job.ack()
        if options.json:
            put_json({**_facts_of_job(job), **named("body", job.data)})
        elif options.ack:
            put_bytes(job.data, raw=options.raw)
        else:
            put_bytes(f"{job.id}:{job.token}\t".encode() + job.data)
    if not jobs:
        if not options.json:
            negative("no message is ready", in_shell=options.in_shell)
        return NOT_FOUND
    return FOUND


def _facts_of_job(job: "Job[bytes]") -> dict[str, Any]:
    facts = {"id": job.id, "token": job.token, "attempt": job.attempt, "lease": job.lease, "put_at": job.put_at}
    return facts if job.group is None else {**facts, "group": job.group}


def _leases_argument(parser: Parser) -> None:
    parser.add_argument("leases", type=_lease, nargs="+", metavar="ID:TOKEN", help="a lease, as `take` prints it")


def _ack(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    from cairnkv.client.queue.calls import ack

    return _show_held(options, options.leases, kv._do(ack(options.leases)), "acked")


def _extend_arguments(parser: Parser) -> None:
    _leases_argument(parser)
    parser.option("--lease", duration, "TIME", "time from now until the leases end (default: 60s)", 60.0)


def _extend(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    from cairnkv.client.queue.calls import extend, lease_milliseconds

    held = kv._do(extend(options.leases, lease_milliseconds(options.lease)))
    return _show_held(options, options.leases, held, "extended")


def _nack_arguments(parser: Parser) -> None:
    _leases_argument(parser)
    parser.add_argument("--reason", metavar="TEXT", help="text that `peek` and `dead` show")
    parser.option("--delay", duration, "TIME", "time until the message is ready (default: the backoff of the queue)")
    parser.option("--priority", number(0, PRIORITY_MAX), "N", "new priority of the message")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--uncounted", action="store_true", help="do not count the attempt; there is no backoff")
    how.add_argument("--dead", action="store_true", help="make the message dead")


def _nack(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    from cairnkv.client.queue.calls import nack

    if options.dead and options.delay is not None:
        parser.error("--delay and --dead exclude each other")
    given = {"delay": options.delay, "priority": options.priority, "dead": options.dead}
    held = [kv._do(nack(lease, options.reason, counted=not options.uncounted, **given)) for lease in options.leases]
    return _show_held(options, options.leases, held, "nacked")


def _show_held(options: argparse.Namespace, leases: Sequence[tuple[int, int]], held: Sequence[bool], what: str) -> int:
    """Print each lease that was not the newest one of its message. Returns exit code 1 if there is one."""
    for (message, token), good in zip(leases, held, strict=True):
        if options.json:
            put_json({"id": message, "token": token, what: good})
        elif not good:
            negative(f"{message}:{token} is not the newest lease of a message", in_shell=options.in_shell)
    if not options.json and any(held):
        print("OK" if all(held) else sum(held))
    return FOUND if all(held) else NOT_FOUND


# -- looking -----------------------------------------------------------------------------------------------------


def _peek_arguments(parser: Parser) -> None:
    _queue_argument(parser)
    parser.add_argument("--state", choices=STATES, default="ready", help="state of the messages (default: ready)")
    _count_option(parser, "maximum number of messages", 10)
    parser.set_defaults(with_reason=False)


def _dead_arguments(parser: Parser) -> None:
    _queue_argument(parser)
    _count_option(parser, "maximum number of messages", 10)
    parser.set_defaults(state="dead", with_reason=True)


def _peek(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    messages = _queue(kv, options.queue).peek(options.state, count=options.count)
    for message in messages:
        if options.json:
            put_json(_facts_of_message(message))
        elif on_terminal(sys.stdout):
            print(_shown(message))
        else:
            reason = f"\t{escaped((message.reason or '').encode())}" if options.with_reason else ""
            put_bytes(f"{message.id}\t".encode() + message.data + reason.encode())
    if not messages and not options.json:
        negative(f"no message is {options.state}", in_shell=options.in_shell)
    return FOUND if messages else NOT_FOUND


def _shown(message: "Message[bytes]") -> str:
    """Return a message as lines for a terminal."""
    facts = [
        styled(str(message.id), BOLD),
        counted(message.attempts, "attempt"),
        *(f"{name} {value}" for name, value in (("group", message.group), ("name", message.unique)) if value),
    ]
    if message.state in ("delayed", "leased"):
        facts.append(f"until {time.strftime('%H:%M:%S', time.localtime(message.due))}")
    lines = [styled(", ", DIM).join(escaped(fact.encode()) if "\x1b" not in fact else fact for fact in facts)]
    if message.reason:
        lines.append(f"    {styled(escaped(message.reason.encode()), RED)}")
    return "\n".join([*lines, f"    {escaped(message.data)}"])


def _facts_of_message(message: "Message[bytes]") -> dict[str, Any]:
    names = ("id", "queue", "state", "priority", "due", "attempts", "put_at", "expires", "group", "unique", "reason")
    return {**{name: getattr(message, name) for name in names}, **named("body", message.data)}


def _look_arguments(parser: Parser) -> None:
    _ids_argument(parser, nargs=None)


def _ids_argument(parser: Parser, *, nargs: str | None) -> None:
    parser.add_argument("ids", type=number(1, INTEGER_MAX), nargs=nargs, metavar="ID", help="the id of a message")


def _stats(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    queue = _queue(kv, options.queue)
    facts: dict[str, Any] = {**queue.stats(), **queue.settings()}
    if options.json:
        put_json(facts)
        return FOUND
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{styled(name.ljust(width), BOLD)}  {_value(value)}")
    return FOUND


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g} s"
    return f"{value:,}" if isinstance(value, int) and on_terminal(sys.stdout) else str(value)


def _list(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    found = False
    rows = _rows(kv, ())
    if not options.json and on_terminal(sys.stdout):
        table = list(rows)
        for line in _table([("queue", *COUNTS), *((name, *map(str, counts.values())) for name, counts in table)]):
            print(line)
        return FOUND if table else NOT_FOUND
    for name, counts in rows:
        found = True
        if options.json:
            put_json({"queue": name, **counts})
        else:
            print("\t".join([name, *map(str, counts.values())]))
    return FOUND if found else NOT_FOUND


def _rows(kv: "Store", names: Sequence[str]) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield queues with their counts: those with these names, or all."""
    for name in names or kv.queues():
        try:
            stats = kv.queue(name).stats()
        except CallerError:  # it was dropped meanwhile, or has no message yet
            if not names:
                continue
            stats = dict.fromkeys(COUNTS, 0)
        yield name, {column: stats[column] for column in COUNTS}


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table; its first row is the header."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for at, (name, *cells) in enumerate(rows):
        line = "  ".join(
            [name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))]
        )
        yield styled(line, BOLD) if at == 0 else line


# -- watch -------------------------------------------------------------------------------------------------------


def _watch_arguments(parser: Parser) -> None:
    parser.add_argument("queues", nargs="*", metavar="QUEUE", help="the name of a queue (default: all)")
    parser.option("--interval", duration, "TIME", "time between two updates (default: 1s)", 1.0)


def _watch(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    if not options.interval > 0:
        parser.error("--interval must be above 0")
    rates = _Rates(kv, options.queues)
    with contextlib.suppress(KeyboardInterrupt):
        if options.json or not on_terminal(sys.stdout):
            while True:
                _print_rates(rates, as_json=options.json)
                time.sleep(options.interval)
        from rich.live import Live

        with Live(_live_table([]), auto_refresh=False) as live:
            while True:
                live.update(_live_table(list(rates.rows())), refresh=True)
                time.sleep(options.interval)
    return FOUND


def _print_rates(rates: "_Rates", *, as_json: bool) -> None:
    for name, facts in rates.rows():
        if as_json:
            put_json({"queue": name, **facts})
        else:
            print("\t".join([name, *map(_cell, facts.values())]))
    sys.stdout.flush()


class _Rates:
    """The counts of queues, and the puts, acks and nacks per second since the previous call of `rows`."""

    def __init__(self, kv: "Store", names: Sequence[str]) -> None:
        self._kv = kv
        self._names = names
        self._before: dict[str, tuple[float, dict[str, int]]] = {}

    def rows(self) -> Iterator[tuple[str, dict[str, float]]]:
        """Yield the names of the queues, and their numbers."""
        for name in self._names or self._kv.queues():
            try:
                stats = self._kv.queue(name).stats()
            except CallerError:
                continue
            now = time.monotonic()
            when, before = self._before.get(name, (now, stats))
            self._before[name] = now, stats
            passed = max(now - when, 1e-3)
            rates = {f"{total}/s": (stats[total] - before[total]) / passed for total in ("put", "acked", "nacked")}
            oldest = {OLDEST: stats["oldest_ready_ms"] / 1000}
            yield name, {**{column: stats[column] for column in COUNTS}, **oldest, **rates}


def _cell(value: Any) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def _live_table(rows: Sequence[tuple[str, Mapping[str, float]]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table("queue", caption="Ctrl-C ends")
    for column in (*COUNTS, OLDEST, "put/s", "acked/s", "nacked/s"):
        table.add_column(column, justify="right")
    for name, facts in rows:
        cells = [Text(escaped(name.encode()))]
        for column, value in facts.items():
            bad = value and column in ("dead", "nacked/s")
            cells.append(Text(_cell(value), style="red" if bad else ""))
        table.add_row(*cells)
    return table


# -- maintenance -------------------------------------------------------------------------------------------------


def _set_arguments(parser: Parser) -> None:
    _queue_argument(parser)
    parser.option("--lease", duration, "TIME", "duration of a lease")
    parser.option("--attempts", number(1, INTEGER_MAX), "N", "attempts after which a message is dead")
    parser.option("--backoff", duration, "TIME", "time before the second attempt")
    parser.option("--factor", number(1, INTEGER_MAX), "N", "factor of the backoff for each further attempt")
    parser.option("--backoff-max", duration, "TIME", "maximum backoff")
    parser.option("--per-group", number(0, INTEGER_MAX), "N", "maximum leases of a group; 1: strict order; 0: no limit")
    parser.option("--max-messages", number(0, INTEGER_MAX), "N", "maximum messages, without dead ones; 0: no limit")
    parser.option("--max-bytes", number(0, INTEGER_MAX), "N", "maximum bytes of all bodies; 0: no limit")
    parser.option("--max-age", duration, "TIME", "time after which messages expire; 0: never")
    parser.option("--dead-max", number(0, INTEGER_MAX), "N", "maximum dead messages; 0: no limit")
    parser.option("--dead-age", duration, "TIME", "time after which dead messages are deleted; 0: never")
    parser.add_argument(
        "--when-full",
        choices=("refuse", "drop"),
        help="what a put to a full queue does: fail, or delete the oldest message that is not leased",
    )


_SETTINGS: Final = (
    *("lease", "attempts", "backoff", "factor", "backoff_max", "per_group"),
    *("max_messages", "max_bytes", "max_age", "dead_max", "dead_age", "when_full"),
)


def _set(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    given = _settings(options, *_SETTINGS)
    if not given:
        parser.error("no setting is given; use one, such as --lease 5m")
    _queue(kv, options.queue).set(**given)
    return _ok(options)


def _ok(options: argparse.Namespace) -> int:
    if options.json:
        put_json({"ok": True})
    else:
        print("OK")
    return FOUND


def _pause(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    _queue(kv, options.queue).pause()
    return _ok(options)


def _resume(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    _queue(kv, options.queue).resume()
    return _ok(options)


def _requeue_arguments(parser: Parser) -> None:
    _queue_argument(parser)
    _ids_argument(parser, nargs="*")
    parser.add_argument(
        "--state",
        choices=("dead", "delayed"),
        default="dead",
        help="without ids: state of the messages (default: dead)",
    )


def _requeue(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    return _show_number(options, "requeued", _queue(kv, options.queue).requeue(*options.ids, state=options.state))


def _remove(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    return _show_number(options, "removed", _queue(kv, options.queue).remove(*options.ids))


def _remove_arguments(parser: Parser) -> None:
    _queue_argument(parser)
    _ids_argument(parser, nargs="+")


def _purge_arguments(parser: Parser) -> None:
    _queue_argument(parser)
    parser.add_argument("--state", choices=(*STATES, "all"), default="all", help="state of the messages (default: all)")
    parser.switch("--yes", "do not ask for confirmation")


def _purge(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    queue = _queue(kv, options.queue)
    if not options.yes:
        if not on_terminal(sys.stdin):
            parser.error("--yes is missing: without it, messages are deleted only after confirmation on a terminal")
        stats = queue.stats()
        total = sum(stats[state] for state in (STATES if options.state == "all" else (options.state,)))
        question = f"Delete {counted(total, 'message')} of the queue {escaped(options.queue)!r}? [y/N] "
        print(question, end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise CallerError("nothing was deleted")
    return _show_number(options, "deleted", queue.purge(options.state))


def _drop(kv: "Store", options: argparse.Namespace, parser: Parser) -> int:
    _queue(kv, options.queue).drop()
    return _ok(options)


def _show_number(options: argparse.Namespace, what: str, total: int) -> int:
    if options.json:
        put_json({what: total})
    else:
        print(total)
    return FOUND if total else NOT_FOUND


def _no_arguments(parser: Parser) -> None:
    pass


_Execute = Callable[["Store", argparse.Namespace, Parser], int]


def _action(
    summary: str, example: str, add_arguments: Callable[[Parser], None], execute: _Execute, more: str = ""
) -> tuple[str, StoreCommand]:
    """Return an action: its summary, and its subcommand. more: further sentences of its description."""
    description = f"{summary[0].upper()}{summary[1:]}." + (f"\n{more}" if more else "")
    return summary, StoreCommand(description, example, add_arguments, execute)


WORK_SUMMARY: Final = "run a program for each message"

ACTIONS: Final[dict[str, tuple[str, StoreCommand]]] = {
    "put": _action(
        "put a message, and print its id",
        'cairn queue put emails \'{"to": "anna"}\'\ncairn queue put emails - < mail.json\n'
        "cairn queue put emails '\"hi\"' --delay 10m --unique welcome:42\n"
        "cairn queue put urls --lines < urls.txt          # prints the number of messages",
        _put_arguments,
        _put,
        f'Python clients expect a body in JSON; for raw bytes, they use kv.queue(name, codec="bytes"). {TIME}',
    ),
    "take": _action(
        "lease messages, and print each as ID:TOKEN, a tab and the body",
        "cairn queue take emails --wait 20s\ncairn queue take emails --count 10 --lease 5m --json\n"
        "cairn queue take emails --ack                    # delete it at once, and print only the body",
        _take_arguments,
        _take,
        "Ack each message before its lease ends. Exit code 1 if no message is ready.",
    ),
    "ack": _action(
        "delete messages whose work is done",
        "cairn queue ack 17:42",
        _leases_argument,
        _ack,
        "Exit code 1 if a lease is not the newest one of its message.",
    ),
    "nack": _action(
        "return messages to their queue",
        "cairn queue nack 17:42 --reason 'no route to host'\ncairn queue nack 17:42 --dead",
        _nack_arguments,
        _nack,
        "Exit code 1 if a lease is not the newest one of its message.",
    ),
    "extend": _action(
        "extend leases",
        "cairn queue extend 17:42 --lease 5m",
        _extend_arguments,
        _extend,
        "Exit code 1 if a lease has ended.",
    ),
    "peek": _action(
        "print messages without taking them",
        "cairn queue peek emails\ncairn queue peek emails --state delayed --count 100 --json",
        _peek_arguments,
        _peek,
        "Exit code 1 if there are none. Into a pipe, each line has the id, a tab and the body.",
    ),
    "dead": _action(
        "print the dead messages, with the reason of the last failure",
        "cairn queue dead emails\ncairn queue requeue emails",
        _dead_arguments,
        _peek,
        "Exit code 1 if there are none. Into a pipe, each line has the id, the body and the reason, with tabs between.",
    ),
    "stats": _action(
        "print the counts, totals and settings of a queue", "cairn queue stats emails", _queue_argument, _stats
    ),
    "list": _action(
        "list all queues with their counts",
        "cairn queue list",
        _no_arguments,
        _list,
        f"The columns are the name, {', '.join(COUNTS)}. Exit code 1 if there are no queues.",
    ),
    "watch": _action(
        "show a live table of queues",
        "cairn queue watch\ncairn queue watch emails --interval 5s",
        _watch_arguments,
        _watch,
        "Into a pipe, it prints a line for each queue at each interval.",
    ),
    "set": _action(
        "change settings of a queue",
        "cairn queue set emails --lease 5m --attempts 5\ncairn queue set orders --per-group 1",
        _set_arguments,
        _set,
        TIME,
    ),
    "pause": _action(
        "pause deliveries: `take` returns no message", "cairn queue pause emails", _queue_argument, _pause
    ),
    "resume": _action("resume the deliveries of a paused queue", "cairn queue resume emails", _queue_argument, _resume),
    "requeue": _action(
        "make dead messages ready, and print their number",
        "cairn queue requeue emails\ncairn queue requeue emails 17 18",
        _requeue_arguments,
        _requeue,
        "They have all their attempts again. Exit code 1 if no message was dead or delayed.",
    ),
    "remove": _action(
        "delete messages by their ids, and print how many existed",
        "cairn queue remove emails 17 18",
        _remove_arguments,
        _remove,
        "Exit code 1 if none existed.",
    ),
    "purge": _action(
        "delete the messages of a queue, and print their number",
        "cairn queue purge emails --state dead --yes",
        _purge_arguments,
        _purge,
        "Exit code 1 if there were none.",
    ),
    "drop": _action("delete an empty queue with its settings", "cairn queue drop emails", _queue_argument, _drop),
}
"""Each action, except `work`: its summary, and its subcommand."""
