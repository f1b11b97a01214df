"""A cluster on this machine, for tests and for those who try it: started here, or found by its directory.

    with LocalCluster.up("DIR", nodes=3) as cluster:         # this process supervises it, and stops it at the end
        kv = cairnkv.connect(cluster.url)
        cluster.kill(2)
    cluster = LocalCluster.at("DIR")                         # one that `cairn cluster up --dir DIR` supervises

What always holds: both are asked in the same way, by the same requests, and from any thread.

Not for a cluster of several machines: systemd or a container engine looks after that (docs/cluster.md).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from cairnkv.client.address import Seconds
from cairnkv.errors import OptionError
from cairnkv.lab.cluster import state
from cairnkv.lab.cluster.control import ask_at
from cairnkv.lab.cluster.machines import ClusterError, Machine, Process, State, parsed_target
from cairnkv.lab.cluster.node import Command, serve_command
from cairnkv.lab.cluster.supervisor import Supervisor
from cairnkv.lab.cluster.topology import ClusterSpec
from cairnkv.paths import user_path
from cairnkv.units import duration

START_WAIT: Final = 60.0
"""Seconds to wait for what is started again, by default: an election takes about six, and what a NATS server that led
alone took into its log may take most of a minute to come off again (`replication.nats.leadership`)."""

STOP_WAIT: Final = 45.0
"""Seconds that another process' supervisor may take to stop all; see `STOP_PATIENCE`."""

_LOOK_EVERY: Final = 0.05

_SETTLED: Final = (State.READY, State.KILLED, State.PAUSED, State.STOPPED)
"""States that one does not wait for the end of."""


class LocalCluster:
    """Three or five machines, each a NATS server and a store node, as processes of this machine.

    A machine is named by its number, 1 and up; one of its processes by name, `"nats-1"` or `"node-1"`. All methods
    raise `OptionError` when what is asked makes no sense, and `ClusterError` when it could not be done. As a context
    manager it ends with `close`.
    """

    def __init__(self, ask: Callable[[Mapping[str, Any]], Any], supervisor: Supervisor | None = None) -> None:
        """See `up` and `at`."""
        self._ask = ask
        self._supervisor = supervisor
        self._lasting: dict[str, Any] = ask({"do": "describe"})

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
        tell: Callable[[str], None] = lambda text: None,
    ) -> Self:
        """Start a cluster, supervised by threads of this process, and wait until every node serves.

        directory: of its data; where there are any, it goes on with them. nodes: 3 or 5; None: as many as there
        are data of, else 3. name: of the cluster; None: what the data say, else "cairn".
        port: of the first node, the others' follow; 0: free ones. In namespaces: of each node.
        namespaces: a network namespace for each machine, so that it can be cut off (needs root, and Linux).
        log_limit: bytes of its log; None: what the data say, else what the disk has room for, at most `LOG_LIMIT`.
        flags: of `cairn serve`, for every node, besides. environment: variables of every node, besides this process'.
        command: what a node is started by. sync: how NATS syncs; only a test takes anything but "always".
        tell: told what happens, line by line, from any thread.
        """
        spec = ClusterSpec(nodes, name, port, namespaces, log_limit, flags, environment, command, sync)
        supervisor = Supervisor(user_path(directory, "directory"), spec, tell=tell)
        supervisor.start()
        return cls(supervisor.ask, supervisor)

    @classmethod
    def at(cls, directory: str | Path) -> Self:
        """A cluster that runs already, by its directory. Raises `ClusterError` when none does."""
        directory = user_path(directory, "directory")
        saved = state.load(directory)
        if saved is None or saved.run is None:
            raise ClusterError(f"no cluster runs in {directory}; `cairn cluster up --dir {directory}` starts one")
        run = saved.run
        if not state.runs(run):
            left = ", ".join(f"{name} (pid {whom.pid})" for name, whom in state.left_over(saved).items())
            raise ClusterError(
                f"no cluster runs in {directory}: its supervisor ended without stopping it"
                + (f", and left {left}. `cairn cluster stop --dir {directory}` ends them" if left else "")
            )
        return cls(lambda request: ask_at(Path(run.socket), request))

    def close(self) -> None:
        """Stop the cluster if this process supervises it; leave it alone if it was found by its directory."""
        if self._supervisor is not None:
            self._supervisor.stop()

    def stop(self) -> None:
        """Stop the cluster, whoever supervises it, in good order: nodes first, then NATS. Its data stay."""
        if self._supervisor is not None:
            self._supervisor.stop()
            return
        self._ask({"do": "stop"})
        until = time.monotonic() + STOP_WAIT
        while (saved := state.load(self.directory)) is not None and saved.run is not None:
            if time.monotonic() > until:
                raise ClusterError(f"the cluster in {self.directory} does not stop; its supervisor says why")
            time.sleep(_LOOK_EVERY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what there is --------------------------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        """Where its data and logs are: `node-1/node.log`, `nats-1/nats.log`."""
        return Path(self._lasting["directory"])

    @property
    def name(self) -> str:
        """The cluster's name, which its stream has."""
        return str(self._lasting["name"])

    @property
    def supervisor(self) -> int:
        """The number of the process that supervises it."""
        return int(self._lasting["supervisor"])

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of the nodes, in the order of the machines: cairn://HOST:PORT."""
        return tuple(machine["node"]["address"] for machine in self._lasting["machines"])

    @property
    def url(self) -> str:
        """All of them, as clients take them: cairn://HOST:PORT,HOST:PORT,HOST:PORT."""
        return "cairn://" + ",".join(address.removeprefix("cairn://") for address in self.addresses)

    @property
    def nats_urls(self) -> tuple[str, ...]:
        """Of the NATS servers, in the order of the machines, with user and password."""
        return tuple(self._lasting["nats_urls"])

    @property
    def nats_system(self) -> str:
        """USER:PASSWORD of NATS' system account."""
        return str(self._lasting["nats_system"])

    @property
    def log_limit(self) -> int:
        """Bytes that the cluster's log may have."""
        return int(self._lasting["log_limit"])

    @property
    def can_cut(self) -> bool:
        """Whether machines have network namespaces, so that `cut` works."""
        return bool(self._lasting["namespaces"])

    @property
    def machines(self) -> tuple[Machine, ...]:
        """What is running, as it is now; machine 1 first."""
        return tuple(map(Machine.of_json, self._ask({"do": "describe"})["machines"]))

    # -- what can be done to it -----------------------------------------------------------------------------------

    def kill(self, what: int | str) -> None:
        """SIGKILL, to a machine or a process. It stays down until `start`."""
        self._do("kill", what)

    def start(self, what: int | str, *, wait: Seconds = START_WAIT) -> None:
        """Start killed processes, and wait until they are ready for at most `wait`: 5, "5s" or a timedelta; 0: do not
        wait.

        Raises `ClusterError` when it is not ready by then; it goes on starting.
        """
        limit = _seconds("wait", wait)
        self._do("start", what)
        if limit:
            target = parsed_target(str(what), len(self.addresses))
            self._wait(lambda one, process: one.number == target.machine and process.role in target.roles, limit)

    def pause(self, what: int | str) -> None:
        """SIGSTOP: it does nothing at all, and its connections stay. Until `resume`."""
        self._do("pause", what)

    def resume(self, what: int | str) -> None:
        """SIGCONT, to what was paused."""
        self._do("resume", what)

    def cut(self, what: int | str) -> None:
        """Take a machine off the network: every packet to and from it is lost without a word, until `heal`.

        Raises `OptionError` for one process alone, and when there are no namespaces.
        """
        self._do("cut", what)

    def heal(self, what: int | str) -> None:
        """Undo `cut`."""
        self._do("heal", what)

    def wipe(self, what: int | str) -> None:
        """Kill it and remove its data, as if its disk were new; `start` starts it with none."""
        self._do("wipe", what)

    def wait_ready(self, seconds: Seconds = START_WAIT) -> None:
        """Wait until all that was not killed, paused or cut off is ready, and has all of the log.

        Raises `ClusterError` when the time is up.
        """
        self._wait(lambda machine, _: not machine.cut, _seconds("seconds", seconds))

    def log_of(self, process: Process) -> Path:
        """The file that a process writes its log to."""
        return self.directory / process.name / f"{process.role.value}.log"

    def _do(self, verb: str, what: int | str) -> None:
        self._ask({"do": verb, "what": str(what)})

    def _wait(self, which: Callable[[Machine, Process], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            late = [
                process
                for machine in self.machines
                for process in machine.processes
                if which(machine, process) and process.state not in _SETTLED
            ]
            if not late:
                return
            if time.monotonic() > until:
                names = " and ".join(f"{one.name} ({one.state.value}; see {self.log_of(one)})" for one in late)
                raise ClusterError(f"after {seconds:g} s not ready: {names}")
            time.sleep(_LOOK_EVERY)


def end_left_over(directory: str | Path) -> tuple[str, ...]:
    """End the processes that a supervisor has left which ended without stopping them; gives their names.

    Raises `ClusterError` when a supervisor runs.
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
        lock.free()


def _seconds(name: str, given: Seconds) -> float:
    try:
        return duration(given)
    except ValueError as error:
        raise OptionError(f"{name} is {error}") from None
