"""Requests to a supervisor: describe the cluster, inject or undo a fault, stop.

Invariants: requests and results are JSON values. Requests are executed one by one, under the lock of the process table,
and the state file has the result.

Out of scope: the transport of requests (`control`), and their senders (`local`).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cairnkv.errors import OptionError
from cairnkv.lab.cluster.faults import VERBS, Faults
from cairnkv.lab.cluster.health import remedy
from cairnkv.lab.cluster.hosts import ClusterError, Host, Process, Role, Target, parsed_target
from cairnkv.lab.cluster.nats import NatsConfig
from cairnkv.lab.cluster.process_table import ProcessTable, Shutdown
from cairnkv.lab.cluster.state import Plan
from cairnkv.lab.cluster.supervised import Supervised
from cairnkv.records import replace


class Requests:
    """Executes requests, from any thread."""

    def __init__(self, directory: Path, plan: Plan, table: ProcessTable, faults: Faults, shutdown: Shutdown) -> None:
        """directory: of the cluster. shutdown: set by a request to stop."""
        self._directory = directory
        self._plan = plan
        self._table = table
        self._faults = faults
        self._shutdown = shutdown

    def execute(self, request: Mapping[str, Any]) -> Any:
        """Execute a request such as `{"do": "kill", "target": "2"}`. Raises `OptionError`, `ClusterError`."""
        match request:
            case {"do": "describe"}:
                return self._described()
            case {"do": "stop"}:
                self._shutdown.requested = True
                return None
            case {"do": str(verb), "target": str(target)} if verb in VERBS:
                self._do(verb, parsed_target(target, self._plan.nodes))
                return None
        raise OptionError(f"unknown request: {request!r}")

    def _do(self, verb: str, target: Target) -> None:
        with self._table.lock:
            if self._shutdown.requested:
                raise ClusterError("the cluster is stopping")
            try:
                VERBS[verb](self._faults, target)
            except OSError as error:
                raise ClusterError(f"{verb} {target}: {error}") from None
            self._table.save()

    def _described(self) -> dict[str, Any]:
        with self._table.lock:
            hosts = [self._host(number).as_json() for number in range(1, self._plan.nodes + 1)]
        servers = [one.child.config for one in self._table.of(Role.NATS) if isinstance(one.child.config, NatsConfig)]
        return {
            "directory": str(self._directory),
            "name": self._plan.name,
            "log_limit": self._plan.log_limit,
            "namespaces": self._faults.can_cut,
            "supervisor": os.getpid(),
            "nats_urls": [server.url for server in servers],
            "nats_system": servers[0].system,
            "hosts": hosts,
        }

    def _host(self, number: int) -> Host:
        nats, node = self._table.selected(Target(number))
        return Host(number, nats.described(), self._node(node), number in self._faults.cut_off)

    def _node(self, one: Supervised) -> Process:
        node = one.described()
        advice = remedy(one.name, one.health.why, self._directory) if one.stopped_itself else ""
        return replace(node, why=f"{node.why}{advice}")
