"""`cairn cluster`: runs a local test cluster in the foreground, and controls it from other terminals.

Invariants: only `up` starts and watches processes; the other actions send requests to it. Exit codes: 0 success; 1 if
`status` finds no cluster; 2 error.

Out of scope: clusters of several computers (docs/cluster.md). Only `repair` is for every node (`cluster_repair`).
"""

import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cairnkv.cli.arguments import Parser, duration, number, parsed, path
from cairnkv.cli.main import FOUND, NOT_FOUND, complain
from cairnkv.cli.output import BOLD, DIM, GREEN, RED, YELLOW, put_json, styled
from cairnkv.limits import PORT
from cairnkv.units import counted

if TYPE_CHECKING:
    from cairnkv.lab.cluster import Host, LocalCluster, Process

REPEATED_SIGNAL_SECONDS: Final = 1.0
"""Seconds after the first signal, after which another one kills the processes without a wait."""

_COLUMNS: Final = ("host", "process", "address", "pid")

_STYLES: Final = {"ready": GREEN} | dict.fromkeys(("starting", "joining", "catching up", "paused"), YELLOW)
"""The colours of states. Others are red."""


def run(name: str, arguments: Sequence[str]) -> int:
    """Run one of the actions."""
    if arguments and arguments[0] in _ACTIONS:
        action = _ACTIONS[arguments[0]][0]
        before = os.umask(0o077)  # only the owner can read data, logs and passwords
        try:
            return action(f"{name} {arguments[0]}", arguments[1:])
        finally:
            os.umask(before)
    width = max(map(len, _ACTIONS))
    actions = "\n".join(f"  {action:<{width}}  {summary}" for action, (_, summary) in _ACTIONS.items())
    parser = Parser(
        name,
        description="Run a test cluster on this computer and inject faults. The cluster has simulated hosts; each is\n"
        "two processes: a NATS server, which stores the log, and a node, which serves clients.\n\n"
        f"{actions}\n\n`cairn {name} ACTION --help` explains an action.",
        example=f"cairn {name} up --nodes 3 --dir cluster/\ncairn {name} status --dir cluster/\n"
        f"cairn {name} kill 2 --dir cluster/\ncairn {name} start 2 --dir cluster/",
    )
    parser.add_argument("action", metavar="ACTION", choices=list(_ACTIONS), help="one of the actions above")
    parser.parse_args(arguments)
    raise AssertionError("a known action is executed above")


def _parser(name: str, description: str, example: str) -> Parser:
    parser = Parser(name, description=description, example=example)
    parser.add_argument("--dir", type=path, required=True, metavar="DIR", help="the cluster's directory")
    return parser


# -- up ----------------------------------------------------------------------------------------------------------


def _up(name: str, arguments: Sequence[str]) -> int:
    parser = _parser(
        name,
        "Start a cluster, print its addresses, and supervise it until Ctrl-C or SIGTERM; then stop it. A process that\n"
        "ends by itself restarts. If the directory has the data of a cluster, the cluster continues with them.\n\n"
        "Set other options of the nodes in the environment, as for `cairn serve`: CAIRNKV__MAX_VALUE=4MiB.\n"
        "cairn uses the `nats-server` on the PATH, else the one that pip install 'cairnkv[cluster]' installs.",
        "cairn cluster up --nodes 3 --dir cluster/\ncairn cluster up --dir cluster/ --port 7000 --name shop\n"
        "sudo cairn cluster up --dir cluster/ --namespaces",
    )
    parser.option("--nodes", int, "N", "3 or 5 (default: as in DIR, else 3)")
    parser.option(
        "--port",
        number(0, 65_535),
        "BASE",
        "port of the first node; the other nodes have the next ports, and the NATS servers the ports from BASE + "
        f"100, + 200 and + 300; 0: free ports (default: {PORT})",
        PORT,
    )
    parser.add_argument("--name", metavar="NAME", help="the cluster's name (default: as in DIR, else cairn)")
    parser.option(
        "--log-limit",
        _size,
        "SIZE",
        "maximum size of the log (default: as in DIR, else 4096MiB, or less on a small disk)",
    )
    parser.switch(
        "--namespaces",
        "give each host a network namespace, so that `cut` can cut it off from the network (root, Linux)",
    )
    parser.add_argument(
        "--allow-broken",
        action="store_const",
        const=("--allow-broken",),
        default=(),
        help="allow the faults that the variable CAIRNKV__BREAK names (`cairn serve --help`)",
    )
    options = parser.parse_args(arguments)
    from cairnkv.lab.cluster import ClusterError, LocalCluster
    from cairnkv.lab.cluster.supervisor import Supervisor
    from cairnkv.lab.cluster.topology import ClusterSpec
    from cairnkv.server.run import called
    from cairnkv.server.settings import ignored_variables

    if (ignored := ignored_variables(os.environ)) is not None:
        complain(f"warning: {ignored}")
    spec = ClusterSpec(
        options.nodes, options.name, options.port, options.namespaces, options.log_limit, options.allow_broken
    )
    supervisor = Supervisor(Path(options.dir), spec, notify=_print_event)
    first_signal: list[float] = []

    def on_signal(*_: object) -> None:
        if not first_signal:
            first_signal.append(time.monotonic())
            supervisor.shutdown.requested = True
        elif time.monotonic() - first_signal[0] > REPEATED_SIGNAL_SECONDS:
            supervisor.shutdown.immediate = True

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # `nohup` ignores a closed terminal
        numbers.append(signal.SIGHUP)
    before = {one: signal.signal(one, on_signal) for one in numbers}
    began = time.monotonic()
    try:
        supervisor.start()
        cluster = LocalCluster(supervisor.execute, supervisor)
        _show(cluster)
        print(
            f"\ncluster {cluster.name} ready in {time.monotonic() - began:.1f} s, pid {os.getpid()}, on {cluster.url}; "
            f"try: {called()} set greeting hello --url {cluster.url}",
            flush=True,
        )
        while not supervisor.shutdown.wait():
            pass
        _print_event("stopping")
    except ClusterError as error:
        return complain("interrupted" if first_signal else str(error))
    finally:
        supervisor.stop()
        for one, handler in before.items():
            signal.signal(one, handler)
    _print_event("stopped")
    return FOUND


def _print_event(text: str) -> None:
    """Print an event with the time on standard error."""
    try:
        print(f"{styled(time.strftime('%H:%M:%S'), DIM, sys.stderr)} {text}", file=sys.stderr, flush=True)
    except OSError:  # a closed terminal. At exit, Python would write the buffered rest, fail, and change the exit code
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _size(text: str) -> int:
    from cairnkv.units import size

    return parsed(size, text)


# -- status ------------------------------------------------------------------------------------------------------


def _status(name: str, arguments: Sequence[str]) -> int:
    parser = Parser(
        name,
        "Print the processes of a local cluster and their states: `ready`, or the reason why not. The states are up\n"
        "to two seconds old. Exit code 1 if no cluster runs in the directory. With --url, ask the nodes of any\n"
        "cluster instead; exit code 1 if one of them is not ready. Nodes with different users are shown.",
        "cairn cluster status --dir cluster/\ncairn cluster status --dir cluster/ --json | jq .hosts\n"
        "cairn cluster status --url cairn://db1,db2,db3",
    )
    parser.option("--dir", path, "DIR", "the local cluster's directory")
    parser.option("--url", str, "URL", "addresses of the nodes: cairn://HOST,HOST,HOST")
    parser.switch("--json", "print JSON")
    options = parser.parse_args(arguments)
    if (options.dir is None) == (options.url is None):
        parser.error("name a local cluster by --dir DIR, or nodes by --url URL")
    if options.url is not None:
        return _status_of_nodes(options.url, as_json=options.json)
    from cairnkv.lab.cluster import ClusterError, LocalCluster

    try:
        cluster = LocalCluster.at(options.dir)
    except ClusterError as error:
        complain(str(error))
        return NOT_FOUND
    if options.json:
        put_json(_described(cluster))
    else:
        _show(cluster)
    return FOUND


def _status_of_nodes(url: str, *, as_json: bool) -> int:
    from cairnkv.client.address import parse
    from cairnkv.lab.cluster.health import probe_all
    from cairnkv.lab.cluster.hosts import State

    found = list(probe_all(parse(url)))
    if as_json:
        put_json(
            {
                "nodes": [
                    {"address": address, "state": node.state.value, "why": node.why, "users": node.users}
                    for address, node in found
                ]
            }
        )
    else:
        width = max(len(address) for address, _ in found)
        for address, node in found:
            state = styled(node.state.value, _STYLES.get(node.state.value, RED))
            print(f"{address:<{width}}  {state}{f': {node.why}' if node.why else ''}")
        _print_differing_users((address, node.users) for address, node in found)
    return FOUND if all(node.state is State.READY for _, node in found) else NOT_FOUND


def _described(cluster: "LocalCluster") -> dict[str, Any]:
    return {
        "name": cluster.name,
        "directory": str(cluster.directory),
        "supervisor": cluster.supervisor,
        "url": cluster.url,
        "namespaces": cluster.can_cut,
        "log_limit": cluster.log_limit,
        "hosts": [host.as_json() for host in cluster.hosts],
    }


def _show(cluster: "LocalCluster") -> None:
    """Print a table with a line for each process."""
    shown = [(host, process) for host in cluster.hosts for process in host.processes]
    rows = [_COLUMNS] + [
        (str(host.number), process.name, process.address, str(process.pid or "-")) for host, process in shown
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    heading, *lines = ["  ".join(map(str.ljust, row, widths)) for row in rows]
    print(styled(f"{heading}  state", BOLD))
    for line, (host, process) in zip(lines, shown, strict=True):
        print(f"{line}  {_state(host, process)}")
    _print_differing_users((host.node.name, host.node.users) for host in cluster.hosts)


def _print_differing_users(digests: Iterable[tuple[str, str]]) -> None:
    """Print a line if nodes have different users. digests: each node with the digest of its users, if known."""
    nodes: dict[str, list[str]] = {}
    for name, digest in digests:
        if digest:
            nodes.setdefault(digest, []).append(name)
    if len(nodes) > 1:
        groups = "; ".join(f"{' and '.join(names)}: {digest}" for digest, names in nodes.items())
        text = f"the users of the nodes differ ({groups}): give all nodes the same users file, and send SIGHUP to each"
        print(styled(text, RED))


def _state(host: "Host", process: "Process") -> str:
    """Return the state of a process as text, with its restarts and the reason."""
    state = styled(process.state.value, _STYLES.get(process.state.value, RED))
    if host.cut:
        state += f", {styled('cut off', RED)}"
    if process.restarts:
        state += f", restarted {counted(process.restarts, 'time')}"
    return f"{state}: {process.why}" if process.why else state


# -- stop --------------------------------------------------------------------------------------------------------


def _stop(name: str, arguments: Sequence[str]) -> int:
    parser = _parser(
        name,
        "Stop a local cluster, as Ctrl-C in its terminal does; or end the processes that a crashed supervisor left.\n"
        "The data remain.",
        "cairn cluster stop --dir cluster/",
    )
    options = parser.parse_args(arguments)
    from cairnkv.lab.cluster import LocalCluster, end_left_over
    from cairnkv.lab.cluster.state import load, runs

    saved = load(Path(options.dir))
    if saved is not None and saved.run is not None and not runs(saved.run):
        left = end_left_over(options.dir)
        print(f"ended the processes of a crashed cluster: {', '.join(left) or 'none is running'}")
        return FOUND
    LocalCluster.at(options.dir).stop()
    print("stopped")
    return FOUND


# -- faults ------------------------------------------------------------------------------------------------------

_TARGET: Final = "the number of a host, from 1; or the name of one of its two processes, such as node-1 or nats-1"

_FAULTS: Final = {
    "kill": ("killed", "Kill a host or a process with SIGKILL. It stays down until `start`."),
    "pause": ("paused", "Stop a host or a process with SIGSTOP until `resume`. Its connections stay open."),
    "resume": ("resumed", "Continue a paused host or process."),
    "cut": (
        "cut off",
        "Cut a host off from the network until `heal`: all packets to and from it are dropped.\n"
        "The cluster must have been started with --namespaces.",
    ),
    "heal": ("on the network again", "Undo `cut`."),
    "wipe": (
        "wiped",
        "Kill a host or a process and remove its data, as if its disk were replaced. It stays down until `start`.\n"
        "A node then loads a snapshot and the entries after it. Wipe only one NATS server at a time, and start it\n"
        "before you wipe the next: an entry may be on only two of three disks.",
    ),
}


def _inject(verb: str, name: str, arguments: Sequence[str]) -> int:
    done, description = _FAULTS[verb]
    parser = _parser(name, description, f"cairn cluster {verb} 2 --dir cluster/")
    parser.add_argument("target", metavar="TARGET", help=_TARGET)
    options = parser.parse_args(arguments)
    from cairnkv.lab.cluster import LocalCluster
    from cairnkv.lab.cluster.hosts import parsed_target

    cluster = LocalCluster.at(options.dir)
    getattr(cluster, verb)(options.target)
    print(f"{parsed_target(options.target, len(cluster.addresses))}: {done}")
    return FOUND


def _start(name: str, arguments: Sequence[str]) -> int:
    parser = _parser(
        name,
        "Start a killed host or process, or a node that takes no part any more, and wait until it is ready.",
        "cairn cluster start 2 --dir cluster/\ncairn cluster start nats-2 --dir cluster/ --wait 0",
    )
    parser.add_argument("target", metavar="TARGET", help=_TARGET)
    parser.option("--wait", duration, "TIME", "time to wait; 0: do not wait (default: 60s)", 60.0)
    options = parser.parse_args(arguments)
    from cairnkv.lab.cluster import LocalCluster
    from cairnkv.lab.cluster.hosts import parsed_target

    cluster = LocalCluster.at(options.dir)
    cluster.start(options.target, wait=options.wait)
    print(f"{parsed_target(options.target, len(cluster.addresses))}: {'ready' if options.wait else 'started'}")
    return FOUND


def _repair(name: str, arguments: Sequence[str]) -> int:
    from cairnkv.cli import cluster_repair

    return cluster_repair.run(name, arguments)


_ACTIONS: Final[dict[str, tuple[Callable[[str, Sequence[str]], int], str]]] = {
    "up": (_up, "start a cluster, and supervise it until Ctrl-C"),
    "status": (_status, "print the processes and their states"),
    "stop": (_stop, "stop a cluster"),
    "kill": (functools.partial(_inject, "kill"), "kill a host or a process"),
    "start": (_start, "start a killed host or process"),
    "pause": (functools.partial(_inject, "pause"), "pause a host or a process"),
    "resume": (functools.partial(_inject, "resume"), "continue a paused host or process"),
    "cut": (functools.partial(_inject, "cut"), "cut a host off from the network"),
    "heal": (functools.partial(_inject, "heal"), "undo `cut`"),
    "wipe": (functools.partial(_inject, "wipe"), "kill a host or a process, and remove its data"),
    "repair": (_repair, "diagnose and repair any node that does not start, also of a production cluster"),
}
"""The function and the summary of each action."""
