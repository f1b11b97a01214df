"""The supervisor of a cluster: starts, watches and ends its processes, and executes requests.

    topology ─→ the processes of a cluster              watch  ─→ restarts of processes, and their health
    state    ─→ the state file and the lock             faults ─→ fault injection by request
    control  ─→ requests from other processes
                        all of them change processes under the lock of one ProcessTable

Invariants: a directory has at most one supervisor. When it stops, it ends all processes. If it crashes, its processes
continue, and the state file names them; the next supervisor ends them before it starts its own.

Out of scope: output for the user (`cairnkv.cli.cluster`).
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cairnkv.errors import CairnError, OptionError
from cairnkv.lab.cluster import state, topology
from cairnkv.lab.cluster.child import STOP_TIMEOUT
from cairnkv.lab.cluster.control import ControlServer
from cairnkv.lab.cluster.faults import VERBS, Faults
from cairnkv.lab.cluster.hosts import ClusterError, Host, Role, State, Target, parsed_target
from cairnkv.lab.cluster.nats import NatsConfig, find_program
from cairnkv.lab.cluster.network import Network
from cairnkv.lab.cluster.node import check_packages, serve_command
from cairnkv.lab.cluster.supervised import POLL_INTERVAL, Notes, ProcessTable, Shutdown, Supervised
from cairnkv.lab.cluster.topology import ClusterSpec
from cairnkv.lab.cluster.watch import NatsProbe, NodeProbe, Restarts
from cairnkv.server.settings import BREAK_VARIABLE, ENVIRONMENT_PREFIX, broken_on_purpose

START_TIMEOUT: Final = 60.0
"""Seconds until all processes of one role are ready. A start usually takes about four in all."""

_LOG_LINES: Final = 5
"""Lines of a process's log in an error."""


class Supervisor:
    """The supervisor of one cluster. Call `start` once and `stop` once; `execute` from any thread."""

    def __init__(
        self, directory: Path, spec: ClusterSpec | None = None, *, notify: Callable[[str], None] = lambda text: None
    ) -> None:
        """directory, spec, notify: see `LocalCluster.up`."""
        self.directory = directory.absolute()
        self._spec = spec or ClusterSpec()
        self._notify = notify
        self._notes = Notes(notify)
        self.shutdown: Final = Shutdown()
        """The request to stop, which ends `start` too. Signal handlers may change it."""
        self._ended = False
        # `stop` ends those that `start` has created, also after an error.
        self._lock: state.Lock | None = None
        self._network: Network | None = None
        self._control: ControlServer | None = None
        self._file: state.StateFile | None = None
        self._table: ProcessTable | None = None
        self._faults: Faults | None = None
        self._threads: list[threading.Thread] = []

    # -- start ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all processes and wait until they are ready. After an error no process runs.

        Raises `OptionError`, `ClusterError`.
        """
        topology.check_count(self._spec.nodes)
        find_program()
        environment = {**os.environ, **(self._spec.environment or {})}
        allowed = "--allow-broken" in self._spec.flags or f"{ENVIRONMENT_PREFIX}ALLOW_BROKEN" in environment
        if broken := broken_on_purpose(environment, allowed=allowed):
            self._notify(f"BROKEN ON PURPOSE, by the variable {BREAK_VARIABLE}: {', '.join(broken)}")
        if self._spec.command is serve_command:
            check_packages()
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            saved = state.load(self.directory)
            if saved is None and not state.is_empty(self.directory):
                raise OptionError(f"{self.directory} has other files, and no cluster; choose another directory")
            self._lock = state.Lock(self.directory)
        except OSError as error:
            raise OptionError(f"cannot use {self.directory}: {error}") from None
        try:
            self._start(state.load(self.directory))
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError) and not isinstance(error, CairnError):
                raise ClusterError(f"cannot start the cluster: {error}") from error
            raise

    def _start(self, saved: state.Saved | None) -> None:
        if saved is not None:
            if left := state.left_over(saved):
                self._notify(f"ending processes that a crashed supervisor left: {', '.join(left)}")
            state.clean_up(self.directory, saved)
        plan = topology.plan_for(self._spec, None if saved is None else saved.plan, self.directory)
        self._network = Network.create(plan.nodes) if self._spec.namespaces else None
        processes = topology.processes(self._spec, plan, self.directory, self._network)
        self._control = ControlServer(self.directory)
        self._file = state.StateFile(self.directory, plan, self._control.path, self._network)
        table = self._table = ProcessTable(processes, self._file, self._notes, self.shutdown)
        table.save()
        self._name, self._log_limit = plan.name, plan.log_limit
        self._faults = Faults(table, self._network)
        self._control.open(self.execute)
        restarts = Restarts(table)
        for target in (restarts.run, NatsProbe(table).run, NodeProbe(table).run):
            thread = threading.Thread(target=target, name=f"cairn-cluster-{target.__qualname__}", daemon=True)
            thread.start()
            self._threads.append(thread)
        for role in (Role.NATS, Role.NODE):  # nodes need NATS
            with table.lock:
                for one in table.of(role):
                    table.launch(one)
            self._await_ready(table, role, restarts)
        with table.lock:
            restarts.unlimited = True

    def _await_ready(self, table: ProcessTable, role: Role, restarts: Restarts) -> None:
        """Wait until all processes of a role are ready. Raises `ClusterError`."""
        until = time.monotonic() + START_TIMEOUT
        while True:
            with table.lock:
                if self.shutdown.requested:
                    raise ClusterError("the cluster was stopped during its start")
                late = [one for one in table.of(role) if one.state is not State.READY]
                given_up = [one for one in late if restarts.has_given_up(one)]
            if not late:
                return
            if given_up or time.monotonic() > until:
                one = (given_up or late)[0]
                log = "\n".join(one.child.log_tail().splitlines()[-_LOG_LINES:])
                what = one.why if given_up else f"was not ready after {START_TIMEOUT:g} s"
                raise ClusterError(f"{one.name} {what}; the end of {one.child.log}:\n{log}")
            time.sleep(POLL_INTERVAL)

    # -- requests -------------------------------------------------------------------------------------------------

    def execute(self, request: Mapping[str, Any]) -> Any:
        """Execute a request such as `{"do": "kill", "target": "2"}`. Request and result are JSON values.

        Requests are executed one by one, under the lock of the process table. Raises `OptionError`, `ClusterError`.
        """
        table, faults = self._table, self._faults
        assert table is not None, "the supervisor is not started"
        assert faults is not None
        match request:
            case {"do": "describe"}:
                return self._described(table, faults)
            case {"do": "stop"}:
                self.shutdown.requested = True
                return None
            case {"do": str(verb), "target": str(text)} if verb in VERBS:
                target = parsed_target(text, len(table.of(Role.NODE)))
                with table.lock:
                    if self.shutdown.requested:
                        raise ClusterError("the cluster is stopping")
                    try:
                        getattr(faults, verb)(target)
                    except OSError as error:
                        raise ClusterError(f"{verb} {target}: {error}") from None
                    table.save()
                return None
        raise OptionError(f"unknown request: {request!r}")

    def _described(self, table: ProcessTable, faults: Faults) -> dict[str, Any]:
        servers = [one.child.config for one in table.of(Role.NATS) if isinstance(one.child.config, NatsConfig)]
        with table.lock:
            hosts = [self._host(number, table, faults).as_json() for number in range(1, len(servers) + 1)]
        return {
            "directory": str(self.directory),
            "name": self._name,
            "log_limit": self._log_limit,
            "namespaces": faults.can_cut,
            "supervisor": os.getpid(),
            "nats_urls": [server.url for server in servers],
            "nats_system": servers[0].system,
            "hosts": hosts,
        }

    def _host(self, number: int, table: ProcessTable, faults: Faults) -> Host:
        nats, node = table.selected(Target(number))
        return Host(number, nats.described(), node.described(), number in faults.cut_off)

    # -- stop -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End all processes: nodes first, then NATS. Then release the directory."""
        self.shutdown.requested = True
        if self._lock is None or self._ended:
            return
        for thread in self._threads:
            thread.join()
        if self._table is not None and self._faults is not None:
            with self._table.lock:  # after the current request; later ones fail
                self._faults.heal_all()
            for role in (Role.NODE, Role.NATS):
                self._end(self._table.of(role))
        self._notes.flush()
        if self._network is not None:
            self._network.remove()
        if self._control is not None:
            self._control.close()
        if self._file is not None:
            with contextlib.suppress(OSError):  # the next supervisor sees that the processes have ended
                self._file.close()
        self._ended = True
        self._lock.release()

    def _end(self, processes: Sequence[Supervised]) -> None:
        for one in processes:
            one.child.terminate()
        until = time.monotonic() + STOP_TIMEOUT
        for one in processes:
            while not one.child.wait(POLL_INTERVAL):
                if time.monotonic() > until or self.shutdown.immediate:
                    self._notes.add(f"killing {one.name}, which does not end")
                    try:
                        one.child.kill()
                    except TimeoutError as error:
                        self._notes.add(str(error))
                        break
            one.state = State.STOPPED
