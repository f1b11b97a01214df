"""`cairn cluster repair`: what is wrong with a node whose table and stream do not belong together, and to mend it.

What always holds: without a word of what to do nothing is changed; before anything is, a person has said yes, or
--yes. Exit codes: 0 they belong together, or it is done; 1 they do not; 2 it could not be done.

Not for what is done (`cairnkv.replication.cluster_repair`).
"""

import argparse
import asyncio
import contextlib
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cairnkv.cli.arguments import Parser, path
from cairnkv.cli.main import FOUND, NOT_FOUND, complain
from cairnkv.cli.output import on_terminal, put_json
from cairnkv.cli.progress import counted, progress

if TYPE_CHECKING:
    from cairnkv.replication.cluster_repair import Log, Repair, Table

_WANTED: Final = ("cluster", "name", "log_limit", "nats_creds", "nats_ca", "nats_cert", "nats_key", "nats_system")
"""Options of `cairn serve` that say where the stream is."""


def run(name: str, arguments: Sequence[str]) -> int:
    """Look at a node, or repair it."""
    from cairnkv.server.settings import OPTIONS

    parser = Parser(
        name,
        description="Say what the table of a node that is stopped has, what the stream in NATS has, whether they\n"
        "belong together, and what can be done. Nothing is done unless one of two options says so, and then nothing\n"
        "is removed: a table is renamed. --config FILE takes the options from a node's file.",
        example="cairn cluster repair DIR --cluster nats://10.0.0.1:4222 --name prod\n"
        "cairn cluster repair DIR --config /etc/cairnkv/node.toml --begin-from\n"
        "cairn cluster repair DIR --config /etc/cairnkv/node.toml --rejoin --yes",
    )
    parser.add_argument("directory", type=path, metavar="DIR", help="the node's directory (its --data)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--rejoin", action="store_true", help="set this node's table aside, so that it joins anew from the others' data"
    )
    what.add_argument(
        "--begin-from",
        action="store_true",
        help="have the stream go on from this node's table; every other node has to --rejoin then, and what they have "
        "that it has not is lost",
    )
    parser.add_argument("--force", action="store_true", help="begin although a node is alive, or nothing is wrong")
    parser.add_argument("--yes", action="store_true", help="do not ask whether that is meant")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--config", metavar="FILE", help="TOML file with options of a node (default: $CAIRNKV__CONFIG)")
    for option in _WANTED:
        known = OPTIONS[option]
        text = f"{known.help} (default: {known.shown})".replace("%", "%%")
        parser.add_argument(f"--{option.replace('_', '-')}", dest=option, metavar=known.metavar, help=text)
    options = parser.parse_args(arguments)
    return _repair(parser, options)


def _repair(parser: Parser, options: argparse.Namespace) -> int:
    from cairnkv.replication.cluster_repair import Repair
    from cairnkv.replication.node_directory import NodeDirectory
    from cairnkv.server.cluster import cluster_options
    from cairnkv.server.settings import ignored_variables, load

    flags = {option: text for option in _WANTED if (text := getattr(options, option)) is not None}
    if (ignored := ignored_variables(os.environ)) is not None:
        complain(f"warning: {ignored}")
    settings = load({**flags, "data": options.directory}, environment=os.environ, file=options.config)
    if settings.cluster is None:
        parser.error("it needs --cluster URLS, or --config with the node's options, to find the stream")
    # Whether NATS syncs is for a node to see, which serves.
    trusting = dataclasses.replace(settings, nats_system=None, trust_nats_sync=True)
    repair = Repair(cluster_options(trusting), NodeDirectory(Path(options.directory)))
    with progress("reading the table", None, "records") as show:
        seen = 0

        def more(count: int) -> None:
            nonlocal seen
            seen += count
            show(seen)

        own = repair.own(more)
    log = asyncio.run(repair.log())
    if options.rejoin:
        return _rejoin(repair, own, log, options)
    if options.begin_from:
        return _begin_from(repair, own, log, options)
    return _say(own, log, options)


# -- what there is -----------------------------------------------------------------------------------------------


def _say(own: "Table", log: "Log", options: argparse.Namespace) -> int:
    from cairnkv.replication.cluster_repair import advice, problem

    wrong = problem(own, log)
    if options.json:
        put_json(
            {
                "table": {**_fields(own), "node": f"{own.node:016x}", "digest": f"{own.digest:08x}"},
                "stream": {
                    **_fields(log),
                    "snapshots": [snapshot.position for snapshot in log.snapshots],
                    "alive": log.alive,
                },
                "problem": wrong,
                "advice": advice(own, log) if wrong else [],
            }
        )
        return NOT_FOUND if wrong else FOUND
    _show(own, log, options)
    if wrong is None:
        print("\nThey belong together: this node can take part.")
        return FOUND
    print(f"\nwrong: {wrong}\nwhat can be done:")
    for line in advice(own, log):
        print(f"- {line}")
    return NOT_FOUND


def _fields(of: object) -> dict[str, object]:
    return {name: getattr(of, name) for name in type(of).__match_args__ if name != "silent"}  # type: ignore[attr-defined]


def _show(own: "Table", log: "Log", options: argparse.Namespace) -> None:
    from cairnkv.replication.cluster_repair import when

    print(f"table in {options.directory}")
    print(f"  node       {own.node:016x}")
    if not own.there:
        print("  none       it joins anew when it is started")
    elif own.wrong:
        for wrong in own.wrong:
            print(f"  damaged    {' '.join(wrong.split())}")
    else:
        print(f"  stream     made {when(own.identity)}")
        print(f"  position   {own.position:,}")
        print(f"  digest     {own.digest:08x}")
        print(f"  keys       {own.keys:,}")
    print(f"stream {log.name}")
    if log.identity is None:
        print("  none       this NATS has no such stream")
        return
    print(f"  stream     made {when(log.identity)}")
    if log.first > log.last:
        print(f"  entries    none; the next one is {log.first:,}")
    else:
        print(f"  entries    {log.first:,} to {log.last:,}")
    if log.alive:
        print(f"  alive      a node has logged something {log.silent:.1f} s ago")
    for snapshot in log.snapshots:
        print(f"  snapshot   of position {snapshot.position:,}, made {snapshot.made} by node {snapshot.node}")


# -- what is done ------------------------------------------------------------------------------------------------


def _agreed(question: str, options: argparse.Namespace) -> bool:
    """Whether it is meant."""
    from cairnkv.errors import OptionError

    if options.yes:
        return True
    if not on_terminal(sys.stdin):
        raise OptionError("nobody can be asked here whether that is meant: say --yes")
    return input(f"{question} Type yes: ").strip().lower() == "yes"


def _rejoin(repair: "Repair", own: "Table", log: "Log", options: argparse.Namespace) -> int:
    if not own.there:
        return complain(f"{options.directory} has no table: the node joins anew when it is started")
    _show(own, log, options)
    loses = ""
    if log.identity is None or log.empty:
        loses = (
            "There is no snapshot, and nothing was cut off the stream: the node will have what is in the stream and "
            "nothing else. If all data of NATS were lost, --begin-from at the node that has the most comes first. "
        )
    if not _agreed(
        f"\n{loses}Set the table with {counted(own.keys, 'key')} aside, and have the node join anew?", options
    ):
        return complain("nothing was done")
    print(f"\nthe table is {repair.rejoin()} now; start the node")
    return FOUND


def _begin_from(repair: "Repair", own: "Table", log: "Log", options: argparse.Namespace) -> int:
    from cairnkv.replication.cluster_repair import problem

    if not options.force:
        if log.alive:
            return complain(
                f"a node is alive in stream {log.name}, which has logged something {log.silent:.1f} s ago: stop all "
                "nodes, and say it again in some seconds; or --force"
            )
        if problem(own, log) is None:
            return complain("the table and the stream belong together: start the node; or --force")
    _show(own, log, options)
    if not _agreed(
        f"\nHave stream {log.name} go on from this table, with {counted(own.keys, 'key')}? Whatever else it has, "
        "and what other nodes have, counts no more.",
        options,
    ):
        return complain("nothing was done")
    with contextlib.ExitStack() as stack:
        done = 0
        total = 0

        def expect(size: int) -> None:
            nonlocal total
            total = size

        show = None

        def more(count: int) -> None:
            nonlocal done, show
            if show is None:
                show = stack.enter_context(progress("beginning", total or None, "bytes"))
            done += count
            show(done)

        position = asyncio.run(repair.begin_from(own, expect=expect, progress=more))
    print(
        f"\nstream {log.name} goes on from this table, behind position {position:,}. Start this node first; then, with "
        "each of the others stopped: cairn cluster repair ITS_DIR ... --rejoin"
    )
    return FOUND
