"""`cairn cluster`: a cluster on this machine, run in the foreground; shown, hurt and healed from another terminal.

What always holds: only `up` starts and watches processes; the others ask it, through its directory. Exit codes: 0 done;
1 for `status` where no cluster runs; 2 for anything that could not be done.

Not for clusters of several machines (docs/cluster.md), but for `repair`, which is for any node (`cluster_repair`).
"""

import argparse
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cairnkv.cli.arguments import Parser, duration, path
from cairnkv.cli.main import FOUND, NOT_FOUND, complain
from cairnkv.cli.output import BOLD, DIM, GREEN, RED, YELLOW, put_json, styled
from cairnkv.limits import PORT

if TYPE_CHECKING:
    from cairnkv.lab.cluster import LocalCluster, Machine, Process

REPEATED_SIGNAL_SECONDS: Final = 1.0
"""Signals within this time are one; a later one means that whoever sends it will not wait."""

_COLUMNS: Final = ("machine", "process", "address", "pid")

_STYLES: Final = {
    "ready": GREEN,
    "starting": YELLOW,
    "joining": YELLOW,
    "catching up": YELLOW,
    "paused": YELLOW,
    "no quorum": RED,
    "silent": RED,
    "killed": RED,
    "failed": RED,
    "stopped": RED,
}


def run(name: str, arguments: Sequence[str]) -> int:
    """Run one of the actions."""
    if arguments and arguments[0] in _ACTIONS:
        action = _ACTIONS[arguments[0]][0]
        before = os.umask(0o077)  # data, logs and passwords are their owner's
        try:
            return action(f"{name} {arguments[0]}", arguments[1:])
        finally:
            os.umask(before)
    width = max(map(len, _ACTIONS))
    actions = "\n".join(f"  {action:<{width}}  {summary}" for action, (_, summary) in _ACTIONS.items())
    parser = Parser(
        name,
        description="A cluster on this machine. Each of its machines is played by two processes: a NATS server, which\n"
        "keeps the log, and a store node, which clients talk to.\n\n"
        f"{actions}\n\n`cairn {name} ACTION --help` explains an action.",
        example=f"cairn {name} up --nodes 3 --dir cluster/\ncairn {name} status --dir cluster/\n"
        f"cairn {name} kill 2 --dir cluster/\ncairn {name} start 2 --dir cluster/",
    )
    parser.add_argument("action", metavar="ACTION", choices=list(_ACTIONS), help="what to do")
    parser.parse_args(arguments)
    raise AssertionError("an action that there is was found before")


def _parser(name: str, description: str, example: str) -> Parser:
    parser = Parser(name, description=description, example=example)
    parser.add_argument("--dir", type=path, required=True, metavar="DIR", help="the cluster's directory")
    return parser


# -- up ----------------------------------------------------------------------------------------------------------


def _up(name: str, arguments: Sequence[str]) -> int:
    parser = _parser(
        name,
        "Start a cluster, print where it is, and watch it until Ctrl-C or SIGTERM; then stop it in good order. What\n"
        "dies by itself is started again. With a directory that has a cluster's data already it goes on with them.\n\n"
        "Set other options of the nodes in the environment, as for `cairn serve`: CAIRNKV__MAX_VALUE=4MiB.\n"
        "A `nats-server` on the PATH is used before the one that pip install 'cairnkv[cluster]' brings.",
        "cairn cluster up --nodes 3 --dir cluster/\ncairn cluster up --dir cluster/ --port 7000 --name shop\n"
        "sudo cairn cluster up --dir cluster/ --namespaces",
    )
    parser.add_argument("--nodes", type=int, metavar="N", help="3 or 5 (default: as many as DIR has, else 3)")
    parser.add_argument(
        "--port",
        type=_port,
        default=PORT,
        metavar="BASE",
        help="port of the first node; the others' follow, NATS' are 100 to 300 above; 0 takes free ones "
        f"(default: {PORT})",
    )
    parser.add_argument("--name", metavar="NAME", help="the cluster's name (default: what DIR has, else cairn)")
    parser.add_argument(
        "--log-limit",
        type=_size,
        metavar="SIZE",
        help="what its log may have (default: what DIR has, else 4096MiB, or less on a small disk)",
    )
    parser.add_argument(
        "--namespaces",
        action="store_true",
        help="each machine in a network namespace of its own, so that `cut` can take it off the network (root, Linux)",
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
    supervisor = Supervisor(Path(options.dir), spec, tell=_tell)
    first_signal: list[float] = []

    def on_signal(*_: object) -> None:
        if not first_signal:
            first_signal.append(time.monotonic())
            supervisor.tell_to_stop()
        elif time.monotonic() - first_signal[0] > REPEATED_SIGNAL_SECONDS:
            supervisor.hurry()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # the terminal is closed; `nohup` has that ignored
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    began = time.monotonic()
    try:
        supervisor.start()
        cluster = LocalCluster(supervisor.ask, supervisor)
        _show(cluster)
        print(
            f"\ncluster {cluster.name} ready in {time.monotonic() - began:.1f} s, pid {os.getpid()}, on {cluster.url}; "
            f"try: {called()} set greeting hello --url {cluster.url}",
            flush=True,
        )
        supervisor.told_to_stop()
        _tell("stopping")
    except ClusterError as error:
        return complain("interrupted" if first_signal else str(error))
    finally:
        supervisor.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
    _tell("stopped")
    return FOUND


def _tell(text: str) -> None:
    """What happens, with the time, on standard error, which may have gone with its terminal."""
    try:
        print(f"{styled(time.strftime('%H:%M:%S'), DIM, sys.stderr)} {text}", file=sys.stderr, flush=True)
    except OSError:  # what Python keeps of it would fail once more as it ends, and be its exit code
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not int(text) < 65_536:
        raise argparse.ArgumentTypeError(f"it takes a number from 0 to 65535, not {text!r}")
    return int(text)


def _size(text: str) -> int:
    from cairnkv.units import size

    try:
        return size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"it takes {error}") from None


# -- status ------------------------------------------------------------------------------------------------------


def _status(name: str, arguments: Sequence[str]) -> int:
    parser = _parser(
        name,
        "Print what runs in a cluster on this machine, and whether it serves: `ready`, or why not, as nodes said it\n"
        "themselves within the last second or so. Exit code 1 when none runs there.",
        "cairn cluster status --dir cluster/\ncairn cluster status --dir cluster/ --json | jq .machines",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    from cairnkv.lab.cluster import ClusterError, LocalCluster

    try:
        cluster = LocalCluster.at(options.dir)
    except ClusterError as error:
        complain(str(error))
        return NOT_FOUND
    if options.json:
        put_json(_described(cluster))
        return FOUND
    _show(cluster)
    return FOUND


def _described(cluster: "LocalCluster") -> dict[str, Any]:
    return {
        "name": cluster.name,
        "directory": str(cluster.directory),
        "supervisor": cluster.supervisor,
        "url": cluster.url,
        "namespaces": cluster.can_cut,
        "log_limit": cluster.log_limit,
        "machines": [machine.as_json() for machine in cluster.machines],
    }


def _show(cluster: "LocalCluster") -> None:
    """The table: a line for each process."""
    shown = [(machine, process) for machine in cluster.machines for process in machine.processes]
    rows = [_COLUMNS] + [
        (str(machine.number), process.name, process.address, str(process.pid or "-")) for machine, process in shown
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    heading, *lines = ["  ".join(map(str.ljust, row, widths)) for row in rows]
    print(styled(f"{heading}  state", BOLD))
    for line, (machine, process) in zip(lines, shown, strict=True):
        print(f"{line}  {_state(machine, process)}")


def _state(machine: "Machine", process: "Process") -> str:
    """A process' state, and why it was started again if it was."""
    state = styled(process.state.value, _STYLES[process.state.value])
    if machine.cut:
        state += f", {styled('cut off', RED)}"
    if process.restarts:
        state += f", started again {process.restarts} time{'' if process.restarts == 1 else 's'}"
    return f"{state}: {process.why}" if process.why else state


# -- stop --------------------------------------------------------------------------------------------------------


def _stop(name: str, arguments: Sequence[str]) -> int:
    parser = _parser(
        name,
        "Stop a cluster on this machine in good order, as Ctrl-C does where it runs; or end what one has left that\n"
        "crashed. Its data stay.",
        "cairn cluster stop --dir cluster/",
    )
    options = parser.parse_args(arguments)
    from cairnkv.lab.cluster import LocalCluster, end_left_over
    from cairnkv.lab.cluster.state import load, runs

    saved = load(Path(options.dir))
    if saved is not None and saved.run is not None and not runs(saved.run):
        left = end_left_over(options.dir)
        print(f"ended what a crashed cluster had left: {', '.join(left) or 'nothing that runs'}")
        return FOUND
    LocalCluster.at(options.dir).stop()
    print("stopped")
    return FOUND


# -- what is done to one -----------------------------------------------------------------------------------------

_TARGET: Final = "a machine by its number, 1 and up; or one of its two processes by name: node-1, nats-1"

_HURT: Final = {
    "kill": ("killed", "End it with SIGKILL. It stays down until `start`."),
    "pause": ("paused", "Stop it as it is (SIGSTOP): it does nothing, and its connections stay. Until `resume`."),
    "resume": ("resumed", "Let go on what was paused."),
    "cut": (
        "cut off",
        "Take a machine off the network: every packet to and from it is lost without a word, until `heal`.\n"
        "For clusters that were started with --namespaces.",
    ),
    "heal": ("on the network again", "Bring a machine back to the network."),
    "wipe": (
        "wiped",
        "Kill it and remove its data, as if its disk were new. It stays down until `start`, and begins with nothing:\n"
        "a node takes a snapshot and the log behind it. Of the NATS servers wipe one at a time, and start it before\n"
        "the next: what was logged is on two of three disks.",
    ),
}


def _hurt(verb: str, name: str, arguments: Sequence[str]) -> int:
    done, description = _HURT[verb]
    parser = _parser(name, description, f"cairn cluster {verb} 2 --dir cluster/")
    parser.add_argument("node", metavar="NODE", help=_TARGET)
    options = parser.parse_args(arguments)
    from cairnkv.lab.cluster import LocalCluster
    from cairnkv.lab.cluster.machines import parsed_target

    cluster = LocalCluster.at(options.dir)
    getattr(cluster, verb)(options.node)
    print(f"{parsed_target(options.node, len(cluster.addresses))}: {done}")
    return FOUND


def _start(name: str, arguments: Sequence[str]) -> int:
    parser = _parser(
        name,
        "Start what was killed, or a node that has stopped by itself, and wait until it is ready.",
        "cairn cluster start 2 --dir cluster/\ncairn cluster start nats-2 --dir cluster/ --wait 0",
    )
    parser.add_argument("node", metavar="NODE", help=_TARGET)
    parser.add_argument(
        "--wait", type=duration, default=60.0, metavar="TIME", help="how long; 0: not at all (default: 60s)"
    )
    options = parser.parse_args(arguments)
    from cairnkv.lab.cluster import LocalCluster
    from cairnkv.lab.cluster.machines import parsed_target

    cluster = LocalCluster.at(options.dir)
    cluster.start(options.node, wait=options.wait)
    print(f"{parsed_target(options.node, len(cluster.addresses))}: {'ready' if options.wait else 'started'}")
    return FOUND


def _repair(name: str, arguments: Sequence[str]) -> int:
    from cairnkv.cli import cluster_repair

    return cluster_repair.run(name, arguments)


_ACTIONS: Final[dict[str, tuple[Callable[[str, Sequence[str]], int], str]]] = {
    "up": (_up, "start a cluster, and watch it until Ctrl-C"),
    "status": (_status, "print what runs, and where"),
    "stop": (_stop, "stop it"),
    "kill": (functools.partial(_hurt, "kill"), "kill a machine or a process"),
    "start": (_start, "start what was killed"),
    "pause": (functools.partial(_hurt, "pause"), "pause a machine or a process"),
    "resume": (functools.partial(_hurt, "resume"), "let it go on"),
    "cut": (functools.partial(_hurt, "cut"), "take a machine off the network"),
    "heal": (functools.partial(_hurt, "heal"), "bring it back"),
    "wipe": (functools.partial(_hurt, "wipe"), "kill a machine or a process, and remove its data"),
    "repair": (_repair, "say what is wrong with a node that does not start, here or on any machine, and mend it"),
}
"""Each action: what does it, and what that is."""
