"""What is asked of a supervisor, by its own process or another: to describe the cluster, to hurt or heal it, to stop.

What always holds: a request is a dictionary as JSON has it, and so is what comes of it; one is done as a whole before
the next, under the table's lock, and the state file says what came of it.

Not for how requests arrive (`control`), nor for how they are made (`local`).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cairnkv.errors import OptionError
from cairnkv.lab.cluster.faults import VERBS, Faults
from cairnkv.lab.cluster.health import remedy
from cairnkv.lab.cluster.machines import ClusterError, Machine, Process, Role, Target, parsed_target
from cairnkv.lab.cluster.nats import NatsConfig
from cairnkv.lab.cluster.process_table import ProcessTable
from cairnkv.lab.cluster.shutdown import Shutdown
from cairnkv.lab.cluster.state import Plan
from cairnkv.lab.cluster.supervised import Supervised
from cairnkv.records import replace


class Requests:
    """Does what is asked, from any thread."""

    def __init__(self, directory: Path, plan: Plan, table: ProcessTable, faults: Faults, shutdown: Shutdown) -> None:
        """directory: of the cluster. shutdown: asked for by a request to stop."""
        self._directory = directory
        self._plan = plan
        self._table = table
        self._faults = faults
        self._shutdown = shutdown

    def ask(self, request: Mapping[str, Any]) -> Any:
        """Do what is asked: `{"do": "kill", "what": "2"}`. Raises `OptionError`, `ClusterError`."""
        match request:
            case {"do": "describe"}:
                return self._described()
            case {"do": "stop"}:
                self._shutdown.asked = True
                return None
            case {"do": str(verb), "what": str(what)} if verb in VERBS:
                self._do(verb, parsed_target(what, self._plan.nodes))
                return None
        raise OptionError(f"there is no such request: {request!r}")

    def _do(self, verb: str, target: Target) -> None:
        with self._table.lock:
            if self._shutdown.asked:
                raise ClusterError("the cluster is stopping")
            try:
                VERBS[verb](self._faults, target)
            except OSError as error:
                raise ClusterError(f"{verb} {target}: {error}") from None
            self._table.save()

    def _described(self) -> dict[str, Any]:
        """Everything that others may know."""
        with self._table.lock:
            machines = [self._machine(number).as_json() for number in range(1, self._plan.nodes + 1)]
        servers = [one.child.config for one in self._table.of(Role.NATS) if isinstance(one.child.config, NatsConfig)]
        return {
            "directory": str(self._directory),
            "name": self._plan.name,
            "log_limit": self._plan.log_limit,
            "namespaces": self._faults.can_cut,
            "supervisor": os.getpid(),
            "nats_urls": [server.url for server in servers],
            "nats_system": servers[0].system,
            "machines": machines,
        }

    def _machine(self, number: int) -> Machine:
        nats, node = self._table.meant(Target(number))
        return Machine(number, nats.described(), self._node(node), number in self._faults.cut_off)

    def _node(self, one: Supervised) -> Process:
        node = one.described()
        what_to_do = remedy(one.name, one.health.why, self._directory) if one.stopped_itself else ""
        return replace(node, why=f"{node.why}{what_to_do}")
