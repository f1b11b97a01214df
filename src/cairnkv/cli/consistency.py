"""`cairn check consistency`: runs concurrent clients on a store, and checks their replies.

Invariants: the verdict is one paragraph on standard output. Exit codes: 0 consistent; 1 not consistent, with the
operations that prove it; 2 an error, or undecided.

Out of scope: the checks (`cairnkv.lab.consistency`), and `cairn check DIR`, which reads the files of a store
(`backup`)."""

import argparse
import asyncio
import contextlib
import secrets
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cairnkv.cli.arguments import Parser, duration, number, parsed, path
from cairnkv.cli.main import ERROR, FOUND, complain
from cairnkv.cli.output import BOLD, GREEN, RED, YELLOW, note, on_terminal, put_json, styled
from cairnkv.cli.progress import progress

if TYPE_CHECKING:
    from cairnkv.lab.consistency.checks import Report
    from cairnkv.lab.consistency.history import History
    from cairnkv.lab.consistency.nemesis import FaultKind, Nemesis
    from cairnkv.lab.consistency.workload import Run

_STYLES: Final = {True: GREEN, False: RED, None: YELLOW}

PIPE_COLUMNS: Final = 100
"""Width of the verdict in a pipe or a file."""

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a run early with a verdict."""

VIOLATED: Final = 1
"""The exit code for a store that is not consistent."""


def run(arguments: Sequence[str]) -> int:
    """Run a check, or check a saved history, and print the verdict."""
    parser = _parser()
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
        from cairnkv.lab.consistency.history import load

        history = load(Path(options.replay))
    else:
        history = _run_history(options, problems)
    return _check(history, problems, options)


def _parser() -> Parser:
    parser = Parser(
        "check consistency",
        description="Run concurrent clients on a few new keys of a store, and check their replies: every key must be\n"
        "linearizable, so that no acknowledged write is lost or applied twice, and no read is stale.\n"
        "With --cluster and --nemesis, cairn also injects faults into a local cluster.\n\n"
        "To check a store in a directory named `consistency`, use `cairn check ./consistency`.",
        example="cairn check consistency 127.0.0.1:6555\n"
        "cairn check consistency db1:6555,db2:6555,db3:6555 --seconds 5m --save history.jsonl\n"
        "cairn check consistency --cluster DIR --nemesis kill,pause\n"
        "cairn check consistency --replay history.jsonl --timeline violation.html",
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
    parser.option("--keys", number(1, 1_000), "N", "keys that all clients use (default: 8)", 8)
    parser.option(
        "--rate", _rate, "N", "operations per second of all clients together, or max (default: 1000)", 1_000.0
    )
    parser.option("--timeout", duration, "TIME", "timeout of an operation (default: 3s)", 3.0)
    parser.option("--seed", number(0, 10**19 - 1), "N", "seed of the random operations and faults (default: a new one)")
    parser.option("--save", path, "FILE", "write the history to this file during the run")
    parser.option("--replay", path, "FILE", "check a saved history")
    parser.option("--timeline", path, "FILE.html", "draw the run and its violations in this file")
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
    """Return each address of a list as a URL. Raises `AddressError`."""
    from cairnkv.client.address import parse, shown

    text = text if "://" in text else f"cairn://{text}"
    return tuple(
        text if isinstance(endpoint, str) else f"cairn://{shown(endpoint)}" for endpoint in parse(text).endpoints
    )


def _run_history(options: argparse.Namespace, problems: list[str]) -> "History":
    """Run the clients and the nemesis, and return the history. problems: gets the errors of the cluster."""
    from cairnkv.lab.consistency import workload
    from cairnkv.lab.consistency.history import Saver

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
        faults = tuple(fault.value for fault in options.nemesis)
        given = (options.seconds, options.clients, options.keys, options.rate, seed, options.timeout, faults)
        wanted = workload.Options(addresses, *given)
        note(f"seed {seed}, {', '.join(addresses)}")
        saver = None
        if options.save is not None:
            saver = stack.enter_context(Saver(Path(options.save), workload.about(wanted)))
        bar = stack.enter_context(progress("running", None, "operations"))
        this_run = workload.Run(wanted, saver=saver)
        history = asyncio.run(_until_stopped(this_run, nemesis, bar.at))
        if this_run.left_behind is not None:
            complain(f"failed to delete the keys of this run, which begin with {this_run.left_behind}")
        if nemesis is not None:
            problems += nemesis.problems
        return history


async def _until_stopped(this_run: "Run", nemesis: "Nemesis | None", show: Callable[[int], None]) -> "History":
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


def _check(history: "History", problems: list[str], options: argparse.Namespace) -> int:
    """Check a history and print the verdict."""
    from cairnkv.lab.consistency import checks
    from cairnkv.lab.consistency.verdict import details, verdict

    with progress("checking", len(history.operations), "operations") as bar:
        report = checks.check(history, progress=bar.at)
    text = verdict(history, report)
    if options.timeline is not None:
        from cairnkv.lab.consistency.timeline import draw

        Path(options.timeline).write_text(draw(history, report, text), encoding="utf-8")
        note(f"timeline: {options.timeline}")
    if options.json:
        put_json(_as_json(history, report, problems))
    else:
        columns = shutil.get_terminal_size().columns - 1 if on_terminal(sys.stdout) else PIPE_COLUMNS
        text = textwrap.fill(text, columns)
        finding, _, rest = text.partition(":")
        print(f"{styled(finding, _STYLES[report.consistent])}:{rest}")
        for violation in details(report):
            what, *operations = violation.splitlines()
            print("\n".join([styled(what, BOLD) if operations else what, *operations]))
    if report.violations:
        _print_hint(options, history.about.get("seed"))
        return VIOLATED
    for problem in problems:
        complain(f"the cluster: {problem}")
    return FOUND if report.consistent and not problems else ERROR


def _print_hint(options: argparse.Namespace, seed: object) -> None:
    """Print how to examine a violation, unless the user has a drawing."""
    if options.timeline is not None:
        return
    if options.save is not None:
        note(f"`cairn check consistency --replay {options.save} --timeline FILE.html` draws the violations")
    elif options.replay is None:
        note(f"--seed {seed} repeats the operations; --save keeps the history, and --timeline draws the violations")


def _as_json(history: "History", report: "Report", problems: list[str]) -> dict[str, object]:
    return {
        "consistent": report.consistent,
        "operations": len(history.operations),
        "keys": report.keys,
        **{outcome.name.lower(): count for outcome, count in report.outcomes.items()},
        "configurations": report.configurations,
        "actions": len(history.actions),
        "faults_not_injected": list(history.not_injected),
        "longest_without_reply_ms": report.gap // 1_000_000,
        "longest_recovery_ms": report.recovery // 1_000_000,
        "wrong_keys": list(report.wrong_keys),
        "undecided_keys": list(report.undecided),
        "unread_addresses": list(report.unread),
        "problems": problems,
        "seed": history.about.get("seed"),
        "violations": [
            {
                "kind": violation.kind.name.lower(),
                "key": violation.key,
                "text": violation.text,
                "operations": [str(one) for one in violation.operations],
            }
            for violation in report.violations
        ],
    }
