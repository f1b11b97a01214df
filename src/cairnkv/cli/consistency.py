"""`cairn check consistency` and `cairn check queue`: run concurrent clients on a store, and check their replies.

Invariants: the verdict is one paragraph on standard output. Exit codes: 0 consistent; 1 not consistent, with the
operations that prove it; 2 an error, or undecided.

Out of scope: the checks (`cairnkv.lab.consistency`), and `cairn check DIR`, which reads the files of a store
(`backup`)."""

import abc
import argparse
import asyncio
import contextlib
import secrets
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from cairnkv.cli.arguments import Parser, duration, number, parsed, path
from cairnkv.cli.main import ERROR, FOUND, complain
from cairnkv.cli.output import BOLD, GREEN, RED, YELLOW, note, on_terminal, put_json, styled
from cairnkv.cli.progress import progress
from cairnkv.records import record

if TYPE_CHECKING:
    from cairnkv.lab.consistency import keys, queues
    from cairnkv.lab.consistency.history import History
    from cairnkv.lab.consistency.nemesis import FaultKind, Nemesis
    from cairnkv.lab.consistency.run import AnyRun
    from cairnkv.lab.consistency.verdict import AnyViolation

_S = TypeVar("_S")

_STYLES: Final = {True: GREEN, False: RED, None: YELLOW}

PIPE_COLUMNS: Final = 100
"""Width of the verdict in a pipe or a file."""

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a run early with a verdict."""

VIOLATED: Final = 1
"""The exit code for a store that is not consistent."""


@record
class _Result:
    """The result of the checks of a history.

    consistent: None: undecided. violations: each with its kind, text and operations. text: the verdict.
    facts: more fields of the JSON output. draw: returns a page with a drawing, or None.
    """

    consistent: bool | None
    violations: "Sequence[AnyViolation]"
    text: str
    facts: dict[str, object]
    draw: Callable[[], str] | None = None


class _Subject(abc.ABC):
    """The keys or the queues of a store. part: their singular. draws: whether this module can draw a timeline."""

    name: ClassVar[str]
    part: ClassVar[str]
    draws: ClassVar[bool] = False
    description: ClassVar[str]
    example: ClassVar[str]

    @abc.abstractmethod
    def add_options(self, parser: Parser) -> None:
        """Add the options of this subject."""

    @abc.abstractmethod
    def load(self, path: Path) -> "History[Any]":
        """Read a saved history."""

    @abc.abstractmethod
    def new_run(self, common: Mapping[str, Any], options: argparse.Namespace, stack: contextlib.ExitStack) -> "AnyRun":
        """Return a new run. common: the fields of its options that all subjects have. stack: closes its file."""

    @abc.abstractmethod
    def check(self, history: Any, show: Callable[[int], None]) -> _Result:
        """Check a history. show: called with the number of checked operations."""


class _Keys(_Subject):
    name = "consistency"
    part = "key"
    draws = True
    description = (
        "Run concurrent clients on a few new keys of a store, and check their replies: every key must be\n"
        "linearizable, so that no acknowledged write is lost or applied twice, and no read is stale.\n"
    )
    example = "cairn check consistency --replay history.jsonl --timeline violation.html"

    def add_options(self, parser: Parser) -> None:
        parser.option("--keys", number(1, 1_000), "N", "keys that all clients use (default: 8)", 8)
        parser.switch("--scripts", "execute most operations as Lua scripts, on the Redis protocol")

    def load(self, path: Path) -> "keys.history.History":
        from cairnkv.lab.consistency.keys.history import load

        return load(path)

    def new_run(
        self, common: Mapping[str, Any], options: argparse.Namespace, stack: contextlib.ExitStack
    ) -> "keys.workload.Run":
        from cairnkv.lab.consistency.keys import history, workload

        wanted = workload.Options(**common, keys=options.keys, scripts=options.scripts)
        saver = _saver(options, stack, lambda path: history.Saver(path, wanted.about()))
        return workload.Run(wanted, saver=saver)

    def check(self, history: "keys.history.History", show: Callable[[int], None]) -> _Result:
        from cairnkv.lab.consistency.keys import checks
        from cairnkv.lab.consistency.keys.timeline import draw
        from cairnkv.lab.consistency.keys.verdict import verdict

        report = checks.check(history, progress=show)
        text = verdict(history, report)
        facts: dict[str, object] = {
            "keys": report.keys,
            "configurations": report.configurations,
            "wrong_keys": list(report.wrong_keys),
            "undecided_keys": list(report.undecided),
            "unread_addresses": list(report.unread),
        }
        return _Result(report.consistent, report.violations, text, facts, lambda: draw(history, report, text))


class _Queues(_Subject):
    name = "queue"
    part = "queue"
    description = (
        "Run concurrent producers and workers on new queues of a store, and check their replies: no acknowledged\n"
        "message is lost or put twice, no message has two leases at the same time, tokens rise, no stale lease is\n"
        "accepted, groups keep their order and their limit, and the counts are exact.\n"
    )
    example = "cairn check queue --replay history.jsonl --json"

    def add_options(self, parser: Parser) -> None:
        parser.option("--queues", number(1, 100), "N", "queues that all clients use (default: 3)", 3)

    def load(self, path: Path) -> "queues.history.History":
        from cairnkv.lab.consistency.queues.history import load

        return load(path)

    def new_run(
        self, common: Mapping[str, Any], options: argparse.Namespace, stack: contextlib.ExitStack
    ) -> "queues.workload.Run":
        from cairnkv.lab.consistency.queues import history, workload

        wanted = workload.Options(**common, queues=options.queues)
        saver = _saver(options, stack, lambda path: history.Saver(path, wanted.about()))
        return workload.Run(wanted, saver=saver)

    def check(self, history: "queues.history.History", show: Callable[[int], None]) -> _Result:
        from cairnkv.lab.consistency.queues import checks
        from cairnkv.lab.consistency.queues.verdict import verdict

        report = checks.check(history, progress=show)
        facts: dict[str, object] = {
            "queues": report.queues,
            "messages": report.messages,
            "leases": report.deliveries,
            "dead": report.dead,
            "unfinished": list(report.unfinished),
        }
        return _Result(report.consistent, report.violations, verdict(history, report), facts)


SUBJECTS: Final[dict[str, type[_Subject]]] = {subject.name: subject for subject in (_Keys, _Queues)}
"""The checks of running stores, by their names: `cairn check NAME`."""


def run(name: str, arguments: Sequence[str]) -> int:
    """Run a check, or check a saved history, and print the verdict."""
    subject = SUBJECTS[name]()
    parser = _parser(subject)
    options = parser.parse_args(arguments)
    sources = [options.addresses, options.cluster, options.replay]
    if sum(source is not None for source in sources) != 1:
        parser.error("name one of ADDRESS, --cluster and --replay")
    if options.nemesis and options.cluster is None:
        parser.error("--nemesis needs a local cluster; name its directory with --cluster")
    if options.replay is not None and options.save is not None:
        parser.error("--replay reads a saved history; remove --save")
    problems: list[str] = []
    if options.replay is not None:
        history = subject.load(Path(options.replay))
    else:
        history = _run_history(subject, options, problems)
    return _check(subject, history, problems, options)


def _parser(subject: _Subject) -> Parser:
    name = f"check {subject.name}"
    parser = Parser(
        name,
        description=f"{subject.description}"
        "With --cluster and --nemesis, cairn also injects faults into a local cluster.\n"
        "Exit code 0: consistent. 1: not consistent. 2: an error, or undecided.\n\n"
        f"To check a store in a directory named `{subject.name}`, use `cairn check ./{subject.name}`.",
        example=f"cairn {name} 127.0.0.1:6555\n"
        f"cairn {name} db1:6555,db2:6555,db3:6555 --seconds 5m --save history.jsonl\n"
        f"cairn {name} --cluster DIR --nemesis kill,pause\n"
        f"{subject.example}",
    )
    parser.add_argument(
        "addresses", metavar="ADDRESS[,ADDRESS...]", nargs="?", help="the store's nodes, e.g. cairn://db1:6555,db2:6555"
    )
    parser.add_argument("--cluster", metavar="DIR", help="instead: directory of a cluster that `cairn cluster up` runs")
    parser.option(
        "--nemesis",
        _faults,
        "KINDS",
        "faults to inject, separated by commas: kill, pause, cut, wipe, majority (default: none)",
        (),
    )
    parser.option("--seconds", duration, "TIME", "duration (default: 30s)", 30.0)
    parser.option("--clients", number(1, 1_000), "N", "concurrent clients (default: 10)", 10)
    subject.add_options(parser)
    parser.option(
        "--rate", _rate, "N", "operations per second of all clients together, or max (default: 1000)", 1_000.0
    )
    parser.option("--timeout", duration, "TIME", "timeout of an operation (default: 3s)", 3.0)
    parser.option("--seed", number(0, 10**19 - 1), "N", "seed of the random operations and faults (default: a new one)")
    parser.option("--save", path, "FILE", "write the history to this file during the run")
    parser.option("--replay", path, "FILE", "check a saved history")
    if subject.draws:
        parser.option("--timeline", path, "FILE.html", "draw the run and its violations in this file")
    else:
        parser.set_defaults(timeline=None)
    parser.switch("--json", "print JSON")
    return parser


def _faults(text: str) -> "tuple[FaultKind, ...]":
    from cairnkv.lab.consistency.nemesis import parsed_faults

    return parsed(parsed_faults, text)


def _rate(text: str) -> float | None:
    if text == "max":
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 8 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"it takes a number of operations per second, or max, not {text!r}")
    return float(text)


def _addresses(text: str) -> tuple[str, ...]:
    """Return each address of a list as a URL. Raises `AddressError`, also for a secret: histories contain the URLs."""
    from urllib.parse import quote

    from cairnkv.client.address import parse, shown
    from cairnkv.errors import AddressError
    from cairnkv.records import fields_of

    text = text if "://" in text else f"cairn://{text}"
    scheme, _, rest = text.partition("://")
    address = parse(text)
    if "@" in rest.partition("/")[0]:
        raise AddressError("a history contains the addresses; set CAIRNKV__CREDENTIALS instead of user and secret")
    files = fields_of(address.tls) if address.tls is not None else {}
    options = "&".join(f"{name}={quote(path)}" for name, path in files.items() if path is not None)
    return tuple(
        text if isinstance(endpoint, str) else f"{scheme}://{shown(endpoint)}{'/?' if options else ''}{options}"
        for endpoint in address.endpoints
    )


def _saver(
    options: argparse.Namespace,
    stack: contextlib.ExitStack,
    make: Callable[[Path], contextlib.AbstractContextManager[_S]],
) -> _S | None:
    """Return the writer of the history to the file that the user named, or None."""
    return None if options.save is None else stack.enter_context(make(Path(options.save)))


def _run_history(subject: _Subject, options: argparse.Namespace, problems: list[str]) -> "History[Any]":
    """Run the clients and the nemesis, and return the history. Adds the errors of the cluster to `problems`."""
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    with contextlib.ExitStack() as stack:
        nemesis: Nemesis | None = None
        if options.cluster is not None:
            from cairnkv.lab.cluster import LocalCluster
            from cairnkv.lab.consistency.nemesis import Nemesis as NemesisClass

            cluster = stack.enter_context(LocalCluster.at(options.cluster))
            addresses = cluster.addresses
            if options.nemesis:
                nemesis = NemesisClass(cluster, options.nemesis, seconds=options.seconds, seed=seed)
        else:
            addresses = _addresses(options.addresses)
        common = {name: getattr(options, name) for name in ("seconds", "clients", "rate", "timeout")}
        common |= {"addresses": addresses, "seed": seed, "faults": tuple(fault.value for fault in options.nemesis)}
        note(f"seed {seed}, {', '.join(addresses)}")
        this_run = subject.new_run(common, options, stack)
        bar = stack.enter_context(progress("running", None, "operations"))
        history = asyncio.run(_until_stopped(this_run, nemesis, bar.at))
        if this_run.left_behind is not None:
            complain(f"failed to delete the {subject.part}s of this run, which begin with {this_run.left_behind}")
        if nemesis is not None:
            problems += nemesis.problems
        return history


async def _until_stopped(this_run: "AnyRun", nemesis: "Nemesis | None", show: Callable[[int], None]) -> "History[Any]":
    """Execute a run. A signal of `STOPPING` ends it early with a verdict, a second SIGINT or SIGTERM without one."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    interrupted = False

    def stop(number: signal.Signals) -> None:
        nonlocal interrupted
        if this_run.stopped:
            if number is not signal.SIGHUP:  # when a terminal closes, the system and the shell may both send it
                interrupted = True
                task.cancel()
            return
        this_run.stop()
        seconds, wanted = this_run.now() / 1e9, this_run.options.seconds
        with contextlib.suppress(OSError):  # a closed terminal sends SIGHUP
            note(f"stopping after {seconds:.1f} s of {wanted:g} s for a verdict; Ctrl-C again ends without a verdict")

    # The event loop calls these handlers between the steps of tasks. Python's would raise KeyboardInterrupt in a step.
    before = {number: signal.getsignal(number) for number in STOPPING}
    handled = []
    try:
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):  # not all loops can handle signals
            for number in STOPPING:
                if before[number] is not signal.SIG_IGN:  # nohup ignores SIGHUP
                    loop.add_signal_handler(number, stop, number)
                    handled.append(number)
        return await this_run.run(nemesis, show)
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])


def _check(subject: _Subject, history: "History[Any]", problems: list[str], options: argparse.Namespace) -> int:
    """Check a history and print the verdict."""
    from cairnkv.lab.consistency.verdict import details

    with progress("checking", len(history.operations), "operations") as bar:
        result = subject.check(history, bar.at)
    if options.timeline is not None and result.draw is not None:
        Path(options.timeline).write_text(result.draw(), encoding="utf-8")
        note(f"timeline: {options.timeline}")
    if options.json:
        put_json(_as_json(subject.part, history, result, problems))
    else:
        columns = shutil.get_terminal_size().columns - 1 if on_terminal(sys.stdout) else PIPE_COLUMNS
        text = textwrap.fill(result.text, columns)
        finding, _, rest = text.partition(":")
        print(f"{styled(finding, _STYLES[result.consistent])}:{rest}")
        for violation in details(result.violations):
            what, *operations = violation.splitlines()
            print("\n".join([styled(what, BOLD) if operations else what, *operations]))
    if result.violations:
        _print_hint(subject, options, history.about.get("seed"))
        return VIOLATED
    for problem in problems:
        complain(f"the cluster: {problem}")
    return FOUND if result.consistent and not problems else ERROR


def _print_hint(subject: _Subject, options: argparse.Namespace, seed: object) -> None:
    """Print how to examine a violation, unless the user has a drawing."""
    if options.timeline is not None:
        return
    if options.save is not None:
        if subject.draws:
            note(f"`cairn check consistency --replay {options.save} --timeline FILE.html` draws the violations")
    elif options.replay is None:
        draws = ", and --timeline draws the violations" if subject.draws else ""
        note(f"--seed {seed} repeats the operations; --save keeps the history{draws}")


def _as_json(part: str, history: "History[Any]", result: _Result, problems: list[str]) -> dict[str, object]:
    from cairnkv.lab.consistency.verdict import gaps_of, outcomes_of

    gap, recovery = gaps_of(history)
    return {
        "consistent": result.consistent,
        "operations": len(history.operations),
        **{outcome.name.lower(): count for outcome, count in outcomes_of(history).items()},
        **result.facts,
        "actions": len(history.actions),
        "faults_not_injected": list(history.not_injected),
        "longest_without_reply_ms": gap // 1_000_000,
        "longest_recovery_ms": recovery // 1_000_000,
        "problems": problems,
        "seed": history.about.get("seed"),
        "violations": [
            {
                "kind": violation.kind.name.lower(),
                part: getattr(violation, part),
                "text": violation.text,
                "operations": [str(one) for one in violation.operations],
            }
            for violation in result.violations
        ],
    }
