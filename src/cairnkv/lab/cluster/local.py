"""A handle of a local test cluster.

    with LocalCluster.up("DIR", nodes=3) as cluster:         # starts a cluster that this process supervises
        kv = cairnkv.connect(cluster.url)
        cluster.kill(2)
    cluster = LocalCluster.at("DIR")                         # a cluster that `cairn cluster up --dir DIR` supervises

Invariants: both kinds execute the same requests, from any thread.

Out of scope: clusters of several computers, which systemd or a container engine supervises (docs/cluster.md).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from cairnkv.client.address import Seconds
from cairnkv.errors import OptionError
from cairnkv.lab.cluster import state
from cairnkv.lab.cluster.control import send_request
from cairnkv.lab.cluster.hosts import ClusterError, Host, Process, State, parsed_target
from cairnkv.lab.cluster.node import Command, serve_command
from cairnkv.lab.cluster.supervisor import Supervisor
from cairnkv.lab.cluster.topology import ClusterSpec
from cairnkv.paths import user_path
from cairnkv.units import duration

START_WAIT: Final = 60.0
"""Default seconds to wait for a started process. An election takes about six; a NATS server that led without a majority
may need most of a minute to remove its uncommitted entries (`replication.nats.leadership`)."""

STOP_WAIT: Final = 45.0
"""Seconds that the supervisor in another process may take to stop all processes; see `STOP_TIMEOUT`."""

_POLL_INTERVAL: Final = 0.05

_SETTLED: Final = (State.READY, State.KILLED, State.PAUSED, State.STOPPED)
"""States that do not change by themselves."""


class LocalCluster:
    """Three or five hosts, each a NATS server and a store node, as processes of this computer.

    The target of a method is the number of a host, from 1, or the name of a process, `"nats-1"` or `"node-1"`. All
    methods raise `OptionError` for an invalid request, and `ClusterError` for a failed one. The context manager closes.
    """

    def __init__(self, execute: Callable[[Mapping[str, Any]], Any], supervisor: Supervisor | None = None) -> None:
        """Use `up` or `at` instead."""
        self._execute = execute
        self._supervisor = supervisor
        described = execute({"do": "describe"})
        self.directory: Final = Path(described["directory"])
        """The directory of its data and log files: `node-1/node.log`, `nats-1/nats.log`."""
        self.name: Final[str] = described["name"]
        """The cluster's name, which is also the name of its stream."""
        self.supervisor: Final[int] = described["supervisor"]
        """The process ID of its supervisor."""
        self.addresses: Final[tuple[str, ...]] = tuple(host["node"]["address"] for host in described["hosts"])
        """The addresses of the nodes, in the order of the hosts: cairn://HOST:PORT."""
        self.url: Final = "cairn://" + ",".join(address.removeprefix("cairn://") for address in self.addresses)
        """The URL of all nodes for clients: cairn://HOST:PORT,HOST:PORT,HOST:PORT."""
        self.nats_urls: Final[tuple[str, ...]] = tuple(described["nats_urls"])
        """The URLs of the NATS servers, in the order of the hosts, with user and password."""
        self.nats_system: Final[str] = described["nats_system"]
        """USER:PASSWORD of NATS' system account."""
        self.log_limit: Final[int] = described["log_limit"]
        """Maximum bytes of the cluster's log."""
        self.can_cut: Final[bool] = described["namespaces"]
        """Whether hosts have network namespaces, so that `cut` works."""

    @classmethod
    def up(
        cls,
        directory: str | Path,
        *,
        nodes: int | None = None,
        name: str | None = None,
        port: int = 0,
        namespaces: bool = False,
        log_limit: int | None = None,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        command: Command = serve_command,
        sync: str | None = "always",
        notify: Callable[[str], None] = lambda text: None,
    ) -> Self:
        """Start a cluster that threads of this process supervise, and wait until every node serves.

        directory: for its data; the cluster continues with existing data. nodes: 3 or 5; None: as in the existing data,
        else 3. name: of the cluster; None: as in the existing data, else "cairn".
        port: of the first node, and the next ports for the others; 0: free ports. With namespaces: of each node.
        namespaces: give each host a network namespace, so that `cut` works (needs root and Linux).
        log_limit: bytes of the log; None: as in the existing data, else what the disk has room for, up to `LOG_LIMIT`.
        flags: more options of `cairn serve` for every node. environment: more variables for every node.
        command: starts a node. sync: JetStream's sync_interval; only tests use another than "always".
        notify: called with a line for each event, in any thread.
        """
        spec = ClusterSpec(nodes, name, port, namespaces, log_limit, flags, environment, command, sync)
        supervisor = Supervisor(user_path(directory, "directory"), spec, notify=notify)
        supervisor.start()
        return cls(supervisor.execute, supervisor)

    @classmethod
    def at(cls, directory: str | Path) -> Self:
        """Return the cluster that runs in a directory. Raises `ClusterError` if none runs."""
        directory = user_path(directory, "directory")
        saved = state.load(directory)
        if saved is None or saved.run is None:
            raise ClusterError(f"no cluster runs in {directory}; `cairn cluster up --dir {directory}` starts one")
        run = saved.run
        if not state.runs(run):
            left = ", ".join(f"{name} (pid {process.pid})" for name, process in state.left_over(saved).items())
            raise ClusterError(
                f"no cluster runs in {directory}: its supervisor crashed"
                + (f" and left {left}; `cairn cluster stop --dir {directory}` ends them" if left else "")
            )
        return cls(lambda request: send_request(Path(run.socket), request))

    def close(self) -> None:
        """Stop the cluster if this process supervises it."""
        if self._supervisor is not None:
            self._supervisor.stop()

    def stop(self) -> None:
        """Stop the cluster: the nodes first, then NATS. Its data remain."""
        if self._supervisor is not None:
            self._supervisor.stop()
            return
        self._execute({"do": "stop"})
        until = time.monotonic() + STOP_WAIT
        while (saved := state.load(self.directory)) is not None and saved.run is not None:
            if time.monotonic() > until:
                raise ClusterError(f"the cluster in {self.directory} does not stop; see the output of its supervisor")
            time.sleep(_POLL_INTERVAL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The current state of all hosts, in order."""
        return tuple(map(Host.of_json, self._execute({"do": "describe"})["hosts"]))

    # -- faults ---------------------------------------------------------------------------------------------------

    def kill(self, target: int | str) -> None:
        """Kill a host or a process with SIGKILL. It stays down until `start`."""
        self._do("kill", target)

    def start(self, target: int | str, *, wait: Seconds = START_WAIT) -> None:
        """Start killed processes, and wait until they are ready. wait: 5, "5s" or a timedelta; 0: do not wait.

        Raises `ClusterError` if they are not ready in time; they continue to start.
        """
        limit = _seconds("wait", wait)
        self._do("start", target)
        if limit:
            parsed = parsed_target(str(target), len(self.addresses))
            self._wait(lambda host, process: host.number == parsed.host and process.role in parsed.roles, limit)

    def pause(self, target: int | str) -> None:
        """Stop a host or a process with SIGSTOP until `resume`. Its connections stay open."""
        self._do("pause", target)

    def resume(self, target: int | str) -> None:
        """Continue a paused host or process with SIGCONT."""
        self._do("resume", target)

    def cut(self, target: int | str) -> None:
        """Cut a host off from the network until `heal`: all packets to and from it are dropped.

        Raises `OptionError` for a single process, and for a cluster without namespaces.
        """
        self._do("cut", target)

    def heal(self, target: int | str) -> None:
        """Undo `cut`."""
        self._do("heal", target)

    def wipe(self, target: int | str) -> None:
        """Kill a host or a process and remove its data. It stays down until `start`."""
        self._do("wipe", target)

    def wait_ready(self, seconds: Seconds = START_WAIT) -> None:
        """Wait until all processes that are not killed, paused or cut off are ready and have the whole log.

        Raises `ClusterError` after the time.
        """
        self._wait(lambda host, _: not host.cut, _seconds("seconds", seconds))

    def log_of(self, process: Process) -> Path:
        """Return the log file of a process."""
        return self.directory / process.name / f"{process.role.value}.log"

    def _do(self, verb: str, target: int | str) -> None:
        self._execute({"do": verb, "target": str(target)})

    def _wait(self, which: Callable[[Host, Process], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            late = [
                process
                for host in self.hosts
                for process in host.processes
                if which(host, process) and process.state not in _SETTLED
            ]
            if not late:
                return
            if time.monotonic() > until:
                names = " and ".join(f"{one.name} ({one.state.value}; see {self.log_of(one)})" for one in late)
                raise ClusterError(f"after {seconds:g} s not ready: {names}")
            time.sleep(_POLL_INTERVAL)


def end_left_over(directory: str | Path) -> tuple[str, ...]:
    """End the processes that a crashed supervisor left, and return their names.

    Raises `ClusterError` while a supervisor runs.
    """
    directory = user_path(directory, "directory")
    saved = state.load(directory)
    if saved is None or saved.run is None:
        return ()
    lock = state.Lock(directory)
    try:
        left = tuple(state.left_over(saved))
        state.clean_up(directory, saved)
        return left
    finally:
        lock.release()


def _seconds(name: str, given: Seconds) -> float:
    try:
        return duration(given)
    except ValueError as error:
        raise OptionError(f"{name} is {error}") from None
