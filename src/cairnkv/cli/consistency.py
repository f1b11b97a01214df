"""`cairn check consistency`: use a store with many clients at once, and judge what they were told.

What always holds: the verdict is one paragraph on standard output. Exit codes: 0 consistent; 1 not, and the operations
that show it are told; 2 it could not be done, or not be decided.

Not for how it is judged (`cairnkv.lab.consistency`), nor for `cairn check DIR`, which reads a store's files (`backup`).
"""

import argparse
import asyncio
import contextlib
import re
import secrets
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cairnkv.cli.arguments import Parser, duration, path
from cairnkv.cli.main import ERROR, FOUND, complain
from cairnkv.cli.output import BOLD, GREEN, RED, YELLOW, note, on_terminal, put_json, styled
from cairnkv.cli.progress import progress

if TYPE_CHECKING:
    from cairnkv.lab.consistency.checks import Report
    from cairnkv.lab.consistency.history import History
    from cairnkv.lab.consistency.nemesis import Harm, Nemesis
    from cairnkv.lab.consistency.workload import Run

_STYLES: Final = {True: GREEN, False: RED, None: YELLOW}

PIPE_COLUMNS: Final = 100
"""Column at which the verdict wraps in a pipe or a file."""

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a run early with a verdict."""

VIOLATED: Final = 1
"""The exit code when the store is not consistent."""


def run(arguments: Sequence[str]) -> int:
    """Drive a run or replay one, judge it, and say so."""
    parser = _parser()
    options = parser.parse_args(arguments)
    sources = [options.addresses, options.cluster, options.replay]
    if sum(source is not None for source in sources) != 1:
        parser.error("one of ADDRESS, --cluster and --replay says what is checked")
    if options.nemesis and options.cluster is None:
        parser.error("--nemesis hurts a cluster on this machine: name its directory with --cluster")
    if options.replay is not None and options.save is not None:
        parser.error("--replay judges what was saved, so there is nothing to --save")
    problems: list[str] = []
    if options.replay is not None:
        from cairnkv.lab.consistency.history import load

        history = load(Path(options.replay))
    else:
        history = _driven(options, problems)
    return _judged(history, problems, options)


def _parser() -> Parser:
    parser = Parser(
        "check consistency",
        description="Use a store with many clients at once, on a few keys of its own, and judge what they were told:\n"
        "is every key linearizable, was anything lost that was acknowledged, done twice, or read stale?\n"
        "With --cluster and --nemesis, while machines of a cluster on this one are killed, paused and cut off.\n\n"
        "(A store's directory of the name `consistency` is checked by `cairn check ./consistency`.)",
        example="cairn check consistency 127.0.0.1:6555\n"
        "cairn check consistency db1:6555,db2:6555,db3:6555 --seconds 5m --save history.jsonl\n"
        "cairn check consistency --cluster DIR --nemesis kill,pause\n"
        "cairn check consistency --replay history.jsonl --timeline violation.html",
    )
    parser.add_argument(
        "addresses", metavar="ADDRESS[,ADDRESS...]", nargs="?", help="the store's nodes, e.g. cairn://db1:6555,db2:6555"
    )
    parser.add_argument(
        "--cluster", metavar="DIR", help="instead: the nodes of the cluster that `cairn cluster up` runs"
    )
    parser.add_argument(
        "--nemesis",
        type=_harms,
        default=(),
        metavar="KINDS",
        help="what is done to that cluster: some of kill, pause, cut, wipe, majority, with commas (default: none)",
    )
    parser.add_argument("--seconds", type=duration, default=30.0, metavar="TIME", help="how long (default: 30s)")
    parser.add_argument("--clients", type=_count, default=10, metavar="N", help="clients at once (default: 10)")
    parser.add_argument("--keys", type=_count, default=8, metavar="N", help="keys that they share (default: 8)")
    parser.add_argument(
        "--rate",
        type=_rate,
        default=1_000.0,
        metavar="N",
        help="operations per second of all together, or max (default: 1000)",
    )
    parser.add_argument(
        "--timeout", type=duration, default=3.0, metavar="TIME", help="how long an operation may take (default: 3s)"
    )
    parser.add_argument(
        "--seed", type=_seed, metavar="N", help="of all that is chosen; default: a new one, which is told"
    )
    parser.add_argument("--save", type=path, metavar="FILE", help="write the history to this file during the run")
    parser.add_argument("--replay", type=path, metavar="FILE", help="check a saved history")
    parser.add_argument(
        "--timeline", type=path, metavar="FILE.html", help="draw the run and its violations in this file"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _harms(text: str) -> "tuple[Harm, ...]":
    from cairnkv.lab.consistency.nemesis import parsed_harms

    try:
        return parsed_harms(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"it takes {error}") from None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 1 <= int(text) <= 1_000):
        raise argparse.ArgumentTypeError(f"it takes a number from 1 to 1,000, not {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise argparse.ArgumentTypeError(f"it takes a number of at most 19 digits, not {text!r}")
    return int(text)


def _rate(text: str) -> float | None:
    if text == "max":
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 8 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"it takes a number of operations per second, or max, not {text!r}")
    return float(text)


def _addresses(text: str) -> tuple[str, ...]:
    """Every address of a list as one of its own. Raises `AddressError`."""
    from cairnkv.client.address import parse, shown

    text = text if "://" in text else f"cairn://{text}"
    return tuple(
        text if isinstance(endpoint, str) else f"cairn://{shown(endpoint)}" for endpoint in parse(text).endpoints
    )


def _driven(options: argparse.Namespace, problems: list[str]) -> "History":
    """The history of a run, which is driven here. problems: gets what went wrong with the cluster."""
    from cairnkv.lab.consistency import workload
    from cairnkv.lab.consistency.history import Saver

    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    with contextlib.ExitStack() as stack:
        nemesis: Nemesis | None = None
        if options.cluster is not None:
            from cairnkv.lab.cluster import LocalCluster
            from cairnkv.lab.consistency.nemesis import Nemesis as Hurting

            cluster = stack.enter_context(LocalCluster.at(options.cluster))
            addresses = cluster.addresses
            if options.nemesis:
                nemesis = Hurting(cluster, options.nemesis, seconds=options.seconds, seed=seed)
        else:
            addresses = _addresses(options.addresses)
        wanted = workload.Options(
            addresses,
            options.seconds,
            options.clients,
            options.keys,
            options.rate,
            seed,
            options.timeout,
            tuple(harm.value for harm in options.nemesis or ()),
        )
        note(f"seed {seed}, {', '.join(addresses)}")
        saver = None
        if options.save is not None:
            saver = stack.enter_context(Saver(Path(options.save), workload.about(wanted)))
        bar = stack.enter_context(progress("using the store", None, "operations"))
        driven = workload.Run(wanted, saver=saver)
        history = asyncio.run(_until_stopped(driven, nemesis, bar.at))
        if driven.left_behind is not None:
            complain(f"nobody cleared the keys of this run, which begin with {driven.left_behind}")
        if nemesis is not None:
            problems += nemesis.problems
        return history


async def _until_stopped(driven: "Run", nemesis: "Nemesis | None", show: Callable[[int], None]) -> "History":
    """Drive a run. A signal of `STOPPING` ends it early with a verdict; a second SIGINT or SIGTERM at once without."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    interrupted = False

    def stop(number: signal.Signals) -> None:
        nonlocal interrupted
        if driven.stopped:
            if number is not signal.SIGHUP:  # a closed terminal may send it twice: the system and the shell do
                interrupted = True
                task.cancel()
            return
        driven.stop()
        seconds, wanted = driven.now() / 1e9, driven.options.seconds
        with contextlib.suppress(OSError):  # a closed terminal sends SIGHUP
            note(f"stopping after {seconds:.1f} s of {wanted:g} s for a verdict; Ctrl-C again ends without a verdict")

    # These handlers run between the steps of tasks. Python's would raise KeyboardInterrupt in the middle of one.
    before = {number: signal.getsignal(number) for number in STOPPING}
    handled = []
    try:
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):  # not all loops can handle signals
            for number in STOPPING:
                if before[number] is not signal.SIG_IGN:  # nohup ignores SIGHUP
                    loop.add_signal_handler(number, stop, number)
                    handled.append(number)
        return await driven.run(nemesis, show)
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])


def _judged(history: "History", problems: list[str], options: argparse.Namespace) -> int:
    """Judge a history and say what was found."""
    from cairnkv.lab.consistency import checks
    from cairnkv.lab.consistency.verdict import details, verdict

    with progress("judging", len(history.operations), "operations") as bar:
        report = checks.check(history, progress=bar.at)
    text = verdict(history, report)
    if options.timeline is not None:
        from cairnkv.lab.consistency.timeline import drawn

        Path(options.timeline).write_text(drawn(history, report, text), encoding="utf-8")
        note(f"drawn in {options.timeline}")
    if options.json:
        put_json(_as_json(history, report, problems))
    else:
        columns = shutil.get_terminal_size().columns - 1 if on_terminal(sys.stdout) else PIPE_COLUMNS
        text = textwrap.fill(text, columns)
        finding, mark, rest = re.split("([,:])", text, maxsplit=1)
        print(f"{styled(finding, _STYLES[report.consistent])}{mark}{rest}")
        for told in details(report):
            what, *operations = told.splitlines()
            print("\n".join([styled(what, BOLD) if operations else what, *operations]))
    if report.violations:
        seed = history.about.get("seed")
        return _hinted(options, seed)
    for problem in problems:
        complain(f"the cluster: {problem}")
    return FOUND if report.consistent and not problems else ERROR


def _hinted(options: argparse.Namespace, seed: object) -> int:
    """After a violation: say how to look at it more closely."""
    if options.timeline is not None:
        return VIOLATED  # it has been drawn
    if options.save is not None:
        note(f"`cairn check consistency --replay {options.save} --timeline FILE.html` draws it")
    elif options.replay is None:
        note(f"--seed {seed} chooses the same again; --save keeps a history, --timeline draws what is wrong")
    return VIOLATED


def _as_json(history: "History", report: "Report", problems: list[str]) -> dict[str, object]:
    return {
        "consistent": report.consistent,
        "operations": len(history.operations),
        "keys": report.keys,
        **{outcome.name.lower(): count for outcome, count in report.outcomes.items()},
        "configurations": report.configurations,
        "actions": len(history.actions),
        "harms_not_done": list(history.not_done),
        "longest_without_answer_ms": report.gap // 1_000_000,
        "longest_recovery_ms": report.recovery // 1_000_000,
        "wrong_keys": list(report.wrong_keys),
        "undecided_keys": list(report.undecided),
        "silent": list(report.silent),
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
