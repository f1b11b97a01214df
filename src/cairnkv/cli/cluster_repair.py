"""`cairn cluster repair`: diagnoses and repairs a stopped node whose table does not match the cluster's stream.

Invariants: without --rejoin or --begin-from the command changes nothing; with one of them it asks first, except with
--yes. Exit codes: 0 table and stream match, or the repair is done; 1 they do not match; 2 error.

Out of scope: the diagnosis and the repair themselves (`cairnkv.replication.cluster_repair`).
"""

import argparse
import asyncio
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cairnkv.cli.arguments import Parser, path
from cairnkv.cli.main import FOUND, NOT_FOUND, complain
from cairnkv.cli.output import on_terminal, put_json
from cairnkv.cli.progress import progress
from cairnkv.records import fields_of
from cairnkv.units import counted

if TYPE_CHECKING:
    from cairnkv.replication.cluster_repair import Log, Repair, Table

_WANTED: Final = ("cluster", "name", "log_limit", "nats_creds", "nats_ca", "nats_cert", "nats_key", "nats_system")
"""The options of `cairn serve` that locate the stream."""


def run(name: str, arguments: Sequence[str]) -> int:
    """Diagnose or repair a node."""
    from cairnkv.server.settings import OPTIONS

    parser = Parser(
        name,
        description="Compare the table of a stopped node with the cluster's stream in NATS, and print the problem and\n"
        "the possible repairs. Without --rejoin or --begin-from, cairn changes nothing. It never removes data: it\n"
        "renames an old table. --config FILE reads the options from a node's file.",
        example="cairn cluster repair DIR --cluster nats://10.0.0.1:4222 --name prod\n"
        "cairn cluster repair DIR --config /etc/cairnkv/node.toml --begin-from\n"
        "cairn cluster repair DIR --config /etc/cairnkv/node.toml --rejoin --yes",
    )
    parser.add_argument("directory", type=path, metavar="DIR", help="the node's directory (its --data)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--rejoin",
        action="store_true",
        help="rename this node's table; at its next start, the node gets its data from the other nodes",
    )
    what.add_argument(
        "--begin-from",
        action="store_true",
        help="continue the stream from this node's table; every other node must then --rejoin, and loses the data that "
        "this node does not have",
    )
    parser.switch("--force", "allow --begin-from while a node runs, or without a problem")
    parser.switch("--yes", "do not ask for confirmation")
    parser.switch("--json", "print JSON")
    parser.add_argument("--config", metavar="FILE", help="TOML file with options of a node (default: $CAIRNKV__CONFIG)")
    for option in _WANTED:
        parser.setting(option, OPTIONS[option])
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
        parser.error("--cluster URLS, or --config with the node's options, is required to find the stream")
    # Only a node that serves checks that NATS syncs its writes.
    trusting = dataclasses.replace(settings, nats_system=None, trust_nats_sync=True)
    repair = Repair(cluster_options(trusting), NodeDirectory(Path(options.directory)))
    with progress("reading the table", None, "records") as bar:
        own = repair.own(bar.add)
    log = asyncio.run(repair.log())
    if options.rejoin:
        return _rejoin(repair, own, log, options)
    if options.begin_from:
        return _begin_from(repair, own, log, options)
    return _diagnose(own, log, options)


# -- diagnosis ---------------------------------------------------------------------------------------------------


def _diagnose(own: "Table", log: "Log", options: argparse.Namespace) -> int:
    from cairnkv.replication.cluster_repair import advice, problem

    wrong = problem(own, log)
    if options.json:
        table = fields_of(own) | {"node": f"{own.node:016x}", "digest": f"{own.digest:08x}"}
        stream = fields_of(log) | {"snapshots": [one.position for one in log.snapshots], "alive": log.alive}
        del stream["silent"]
        put_json(
            {"table": table, "stream": stream, "problem": wrong, "advice": advice(own, log) if wrong else []},
        )
        return NOT_FOUND if wrong else FOUND
    _show(own, log, options)
    if wrong is None:
        print("\nno problem: the table matches the stream, and the node can start")
        return FOUND
    print(f"\nproblem: {wrong}\npossible repairs:")
    for line in advice(own, log):
        print(f"- {line}")
    return NOT_FOUND


def _show(own: "Table", log: "Log", options: argparse.Namespace) -> None:
    from cairnkv.replication.cluster_repair import when

    print(f"table in {options.directory}")
    print(f"  node       {own.node:016x}")
    if not own.there:
        print("  none       at its next start, the node gets its data from the other nodes")
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
        print("  none       NATS does not have this stream")
        return
    print(f"  stream     made {when(log.identity)}")
    if log.first > log.last:
        print(f"  entries    none; the next one is {log.first:,}")
    else:
        print(f"  entries    {log.first:,} to {log.last:,}")
    if log.alive:
        print(f"  alive      a node wrote an entry {log.silent:.1f} s ago")
    for snapshot in log.snapshots:
        print(f"  snapshot   of position {snapshot.position:,}, made {snapshot.made} by node {snapshot.node}")


# -- repairs -----------------------------------------------------------------------------------------------------


def _confirmed(question: str, options: argparse.Namespace) -> bool:
    from cairnkv.errors import OptionError

    if options.yes:
        return True
    if not on_terminal(sys.stdin):
        raise OptionError("cannot ask for confirmation, because standard input is not a terminal; confirm with --yes")
    return input(f"{question} Type yes: ").strip().lower() == "yes"


def _rejoin(repair: "Repair", own: "Table", log: "Log", options: argparse.Namespace) -> int:
    if not own.there:
        return complain(f"{options.directory} has no table; start the node, and it gets its data from the other nodes")
    _show(own, log, options)
    loses = ""
    if log.identity is None or log.empty:
        loses = (
            "There is no snapshot, and the stream was never compacted: the node will have only the entries of the "
            "stream. If NATS lost all its data, use --begin-from first, at the node that has the most. "
        )
    question = f"Rename the table with {counted(own.keys, 'key')}, and get the data from the other nodes?"
    if not _confirmed(f"\n{loses}{question}", options):
        return complain("nothing was changed")
    print(f"\nrenamed the table to {repair.rejoin()}; start the node")
    return FOUND


def _begin_from(repair: "Repair", own: "Table", log: "Log", options: argparse.Namespace) -> int:
    from cairnkv.replication.cluster_repair import problem

    if not options.force:
        if log.alive:
            return complain(
                f"a node wrote to stream {log.name} {log.silent:.1f} s ago: stop all nodes, and try again after some "
                "seconds; or use --force"
            )
        if problem(own, log) is None:
            return complain("the table matches the stream: start the node; or use --force")
    _show(own, log, options)
    if not _confirmed(
        f"\nContinue stream {log.name} from this table, with {counted(own.keys, 'key')}? All other data of the stream "
        "and of the other nodes will be lost.",
        options,
    ):
        return complain("nothing was changed")
    with progress("writing the snapshot", None, "bytes") as bar:
        position = asyncio.run(repair.begin_from(own, expect=bar.expect, progress=bar.add))
    print(
        f"\nstream {log.name} continues from this table, after position {position:,}. Start this node first. Then, for "
        "each other node, while it is stopped: cairn cluster repair ITS_DIR ... --rejoin"
    )
    return FOUND
