"""Who starts a cluster's processes, has them watched, takes requests, and ends them.

    topology ─→ the processes that there are to be      restarts ─→ start again what has ended
    state    ─→ what is on disk, and the lock           probes   ─→ see whether what runs is of use
    control  ─→ requests from other processes           faults   ─→ hurt processes by request
                        all of them change processes under the lock of one ProcessTable

What always holds: one supervisor for a directory. Where it ends in order, no process is left. Where it crashes, its
processes run on, unsupervised, and the state file names them, so that the next one ends them before it starts its own.

Not for telling people (`cairnkv.cli.cluster`).
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
from cairnkv.lab.cluster.child import STOP_PATIENCE
from cairnkv.lab.cluster.control import ControlServer
from cairnkv.lab.cluster.faults import Faults
from cairnkv.lab.cluster.machines import ClusterError, Role, State
from cairnkv.lab.cluster.nats import find_program
from cairnkv.lab.cluster.network import Network
from cairnkv.lab.cluster.node import check_packages, serve_command
from cairnkv.lab.cluster.notes import Notes
from cairnkv.lab.cluster.probes import NatsProbe, NodeProbe
from cairnkv.lab.cluster.process_table import ProcessTable
from cairnkv.lab.cluster.requests import Requests
from cairnkv.lab.cluster.restarts import Restarts
from cairnkv.lab.cluster.shutdown import LOOK_EVERY, Shutdown
from cairnkv.lab.cluster.supervised import Supervised
from cairnkv.lab.cluster.topology import ClusterSpec
from cairnkv.server.settings import BREAK_VARIABLE, ENVIRONMENT_PREFIX, broken_on_purpose

START_PATIENCE: Final = 60.0
"""Seconds that a cluster may take until all of it is ready; it takes about four."""

_LINES: Final = 5
"""Of a log that are shown."""


class Supervisor:
    """Of one cluster. `start` once, `stop` once; requests from any thread."""

    def __init__(
        self, directory: Path, spec: ClusterSpec | None = None, *, tell: Callable[[str], None] = lambda text: None
    ) -> None:
        """directory, spec, tell: see `LocalCluster.up`."""
        self.directory = directory.absolute()
        self._spec = spec or ClusterSpec()
        self._tell = tell
        self._notes = Notes(tell)
        self._shutdown = Shutdown()
        self._ended = False
        # What there is of these is ended by `stop`, however far `start` came.
        self._lock: state.Lock | None = None
        self._network: Network | None = None
        self._control: ControlServer | None = None
        self._file: state.StateFile | None = None
        self._table: ProcessTable | None = None
        self._faults: Faults | None = None
        self._requests: Requests | None = None
        self._threads: list[threading.Thread] = []

    # -- the beginning --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it all, and wait until it is ready. After an error nothing is left running.

        Raises `OptionError`, `ClusterError`.
        """
        topology.check_count(self._spec.nodes)
        find_program()
        environment = {**os.environ, **(self._spec.environment or {})}
        allowed = "--allow-broken" in self._spec.flags or f"{ENVIRONMENT_PREFIX}ALLOW_BROKEN" in environment
        if broken := broken_on_purpose(environment, allowed=allowed):
            self._tell(f"BROKEN ON PURPOSE, by the variable {BREAK_VARIABLE}: {', '.join(broken)}")
        if self._spec.command is serve_command:
            check_packages()
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            saved = state.load(self.directory)
            if saved is None and not state.is_empty(self.directory):
                raise OptionError(f"{self.directory} has no cluster in it, but other things: choose another directory")
            self._lock = state.Lock(self.directory)
        except OSError as error:
            raise OptionError(f"{self.directory} cannot be used: {error}") from None
        try:
            self._start(state.load(self.directory))
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError) and not isinstance(error, CairnError):
                raise ClusterError(f"the cluster cannot be started: {error}") from error
            raise

    def _start(self, saved: state.Saved | None) -> None:
        if saved is not None:
            if left := state.left_over(saved):
                self._tell(f"ending what a supervisor that crashed has left: {', '.join(left)}")
            state.clean_up(self.directory, saved)
        plan = topology.planned(self._spec, None if saved is None else saved.plan, self.directory)
        self._network = Network.made(plan.nodes) if self._spec.namespaces else None
        processes = topology.processes(self._spec, plan, self.directory, self._network)
        self._control = ControlServer(self.directory)
        self._file = state.StateFile(self.directory, plan, self._control.path, self._network)
        table = self._table = ProcessTable(processes, self._file, self._notes)
        table.save()
        faults = self._faults = Faults(table, self._network)
        requests = self._requests = Requests(self.directory, plan, table, faults, self._shutdown)
        self._control.open(requests.ask)
        restarts = Restarts(table, self._notes, self._shutdown)
        nats_probe = NatsProbe(table, self._shutdown)
        node_probe = NodeProbe(table, self._notes, self._shutdown, self.directory)
        for target in (restarts.run, nats_probe.run, node_probe.run):
            thread = threading.Thread(target=target, name=f"cairn-cluster-{target.__qualname__}", daemon=True)
            thread.start()
            self._threads.append(thread)
        for role in (Role.NATS, Role.NODE):  # a node that comes before its NATS would only wait for it
            with table.lock:
                for one in table.of(role):
                    table.launch(one)
            self._await_ready(table, role, restarts)
        with table.lock:
            restarts.for_ever = True

    def _await_ready(self, table: ProcessTable, role: Role, restarts: Restarts) -> None:
        """Wait until all of a role are ready. Raises `ClusterError`."""
        until = time.monotonic() + START_PATIENCE
        while True:
            with table.lock:
                if self._shutdown.asked:
                    raise ClusterError("the cluster was stopped while it started")
                late = [one for one in table.of(role) if one.state is not State.READY]
                given_up = [one for one in late if restarts.hopeless(one)]
            if not late:
                return
            if given_up or time.monotonic() > until:
                one = (given_up or late)[0]
                said = "\n".join(one.child.log_tail().splitlines()[-_LINES:])
                what = one.why if given_up else f"was not ready after {START_PATIENCE:g} s"
                raise ClusterError(f"{one.name} {what}; it said, in {one.child.log}:\n{said}")
            time.sleep(LOOK_EVERY)

    # -- while it runs --------------------------------------------------------------------------------------------

    def ask(self, request: Mapping[str, Any]) -> Any:
        """Do what is asked, see `Requests.ask`."""
        assert self._requests is not None, "it was started"
        return self._requests.ask(request)

    def tell_to_stop(self) -> None:
        """Have `told_to_stop` return, or `start` give up. May be called in a signal handler."""
        self._shutdown.asked = True

    def hurry(self) -> None:
        """Have `stop` wait for nobody. May be called in a signal handler."""
        self._shutdown.hurried = True

    def told_to_stop(self) -> None:
        """Wait until it was told to stop."""
        while not self._shutdown.wait():
            pass

    # -- the end --------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End all in good order: nodes first, then NATS. Then nothing runs, and the directory is free."""
        self._shutdown.asked = True
        if self._lock is None or self._ended:
            return
        for thread in self._threads:
            thread.join()
        if self._table is not None and self._faults is not None:
            with self._table.lock:  # whatever is being done is done; from here on requests change nothing
                self._faults.heal_all()
            for role in (Role.NODE, Role.NATS):
                self._end(self._table.of(role))
        self._notes.tell()
        if self._network is not None:
            self._network.remove()
        if self._control is not None:
            self._control.close()
        if self._file is not None:
            with contextlib.suppress(OSError):  # who comes next finds that none of the processes is there
                self._file.close()
        self._ended = True
        self._lock.free()

    def _end(self, processes: Sequence[Supervised]) -> None:
        for one in processes:
            one.child.tell_to_stop()
        until = time.monotonic() + STOP_PATIENCE
        for one in processes:
            while not one.child.wait(LOOK_EVERY):
                if time.monotonic() > until or self._shutdown.hurried:
                    self._notes.add(f"{one.name} is killed, since it does not end")
                    try:
                        one.child.kill()
                    except TimeoutError as error:
                        self._notes.add(str(error))
                        break
            one.state = State.STOPPED
