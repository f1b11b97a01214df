"""The processes of a cluster: their addresses, ports, passwords and configurations.

Invariants: a cluster keeps its plan while its directory has data; each start chooses new addresses, ports and
passwords, except a port that the user names. All servers listen on loopback, or inside network namespaces.

Out of scope: starting processes (`supervisor`), and the text of configurations (`nats`, `node`).
"""

import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from cairnkv.errors import OptionError
from cairnkv.lab.cluster.hosts import NODES, Role
from cairnkv.lab.cluster.nats import NatsConfig, NatsServer, authority, file_share, free_ports
from cairnkv.lab.cluster.network import Network
from cairnkv.lab.cluster.node import Command, Node, NodeConfig, serve_command
from cairnkv.lab.cluster.state import Plan
from cairnkv.lab.cluster.supervised import Supervised
from cairnkv.limits import MIB, PORT, REPLICAS
from cairnkv.records import record
from cairnkv.replication.nats.options import LOG_LIMIT, LOG_LIMIT_LEAST, parsed_name

LOOPBACK: Final = "127.0.0.1"

SNAPSHOT_PART: Final = 2
"""Disk space of a NATS server, as a multiple of the log limit: for the log, snapshots and entries to be compacted."""

PORT_STEP: Final = 100
"""Distance of the first ports, with --port BASE: of nodes, and of NATS for clients, servers and health."""

NATS_PORTS: Final = (4222, 6222, 8222)
"""NATS' own ports for clients, servers and health, which are free in a new namespace."""

_Ports: TypeAlias = tuple[int, int, int, int]
"""The ports of a host: of its node, and of NATS for clients, servers and health."""


@record
class ClusterSpec:
    """The wanted properties of a cluster. `LocalCluster.up` explains the fields."""

    nodes: int | None = None
    name: str | None = None
    port: int = 0
    namespaces: bool = False
    log_limit: int | None = None
    flags: Sequence[str] = ()
    environment: Mapping[str, str] | None = None
    command: Command = serve_command
    sync: str | None = "always"


def check_count(nodes: int | None) -> None:
    """Raise `OptionError` for a number of nodes that is not allowed."""
    if nodes not in (None, *NODES):
        raise OptionError(
            f"a local cluster has {' or '.join(map(str, NODES))} nodes, not {nodes}: {REPLICAS} hosts store the log, "
            "and an even number tolerates no more failures than one less. For a single node use "
            "`cairn serve --data DIR`"
        )


def plan_for(spec: ClusterSpec, existing: Plan | None, directory: Path) -> Plan:
    """Return the existing plan, or a new one. Raises `OptionError` if the existing plan differs from the spec."""
    if existing is not None:
        pairs = ((spec.nodes, existing.nodes), (spec.name, existing.name), (spec.log_limit, existing.log_limit))
        if any(wanted not in (None, value) for wanted, value in pairs):
            raise OptionError(
                f"{directory} has a cluster of {existing.nodes} nodes named {existing.name}, with a log of "
                f"{existing.log_limit // MIB} MiB; name no other values, or choose another directory"
            )
        return existing
    nodes = spec.nodes or NODES[0]
    room = file_share(directory, nodes) // SNAPSHOT_PART
    limit = min(LOG_LIMIT, room) if spec.log_limit is None else spec.log_limit
    if limit > room or limit < LOG_LIMIT_LEAST:
        raise OptionError(
            f"cannot have a log of {limit // MIB} MiB: the minimum is {LOG_LIMIT_LEAST // MIB} MiB, and the disk of "
            f"{directory} has room for {room // MIB} MiB, with snapshots, on each of {nodes} hosts"
        )
    try:
        return Plan(nodes, parsed_name(spec.name or "cairn"), limit)
    except ValueError as error:
        raise OptionError(f"the cluster's name is {error}") from None


def processes(spec: ClusterSpec, plan: Plan, directory: Path, network: Network | None) -> list[Supervised]:
    """Return all processes, not started. Raises `OptionError` for ports that are not free."""
    addresses, ports = _addresses(spec.port, plan.nodes, network)
    numbers = range(1, plan.nodes + 1)
    # At least the room of an existing log, also on a disk that is full by now: NATS would not open the log otherwise.
    share = max(file_share(directory, plan.nodes), SNAPSHOT_PART * plan.log_limit)
    password, system_password = secrets.token_hex(16), secrets.token_hex(16)
    servers = [
        NatsConfig(
            name=f"nats-{number}",
            directory=directory / f"nats-{number}",
            host=address,
            port=port,
            route_port=route_port,
            monitor_port=monitor_port,
            routes=tuple((address, ports[2]) for address, ports in zip(addresses, ports, strict=True)),
            password=password,
            system_password=system_password,
            file_max=share,
            sync=spec.sync,
        )
        for number, address, (_, port, route_port, monitor_port) in zip(numbers, addresses, ports, strict=True)
    ]
    made = []
    for number, server, (port, *_) in zip(numbers, servers, ports, strict=True):
        prefix = network.prefix(number) if network is not None else ()
        url = f"nats://{authority(server.host, server.port)}"
        made.append(Supervised(NatsServer(server, prefix=prefix), Role.NATS, number, url))
        node = NodeConfig(
            name=f"node-{number}",
            directory=directory / f"node-{number}",
            host=server.host,
            port=port,
            cluster=plan.name,
            # The server of its own host first.
            nats=(server.url, *(other.url for other in servers if other is not server)),
            system=server.system,
            log_limit=plan.log_limit,
            flags=("--insecure", *spec.flags) if network is not None else tuple(spec.flags),
            environment=spec.environment or {},
        )
        made.append(Supervised(Node(node, command=spec.command, prefix=prefix), Role.NODE, number, node.address))
    return made


def _addresses(port: int, nodes: int, network: Network | None) -> tuple[list[str], list[_Ports]]:
    """Return the IP address and the ports of each host. port: of the first node; 0: free ports."""
    if network is not None:
        return [network.address(number) for number in range(1, nodes + 1)], [(port or PORT, *NATS_PORTS)] * nodes
    addresses = [LOOPBACK] * nodes
    if not port:
        free = iter(free_ports(4 * nodes))
        return addresses, [(next(free), next(free), next(free), next(free)) for _ in addresses]
    node, nats, routes, monitor = (range(port + step * PORT_STEP, 65_536)[:nodes] for step in range(4))
    if len(monitor) < nodes:
        raise OptionError(f"port {port} is too high: the cluster needs ports up to {3 * PORT_STEP + nodes} above it")
    for one in (*node, *nats, *routes, *monitor):
        _check_free(one)
    return addresses, [*zip(node, nats, routes, monitor, strict=True)]


def _check_free(port: int) -> None:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore connections in TIME_WAIT
        try:
            trial.bind((LOOPBACK, port))
        except OSError as error:
            raise OptionError(
                f"cannot use port {port}: {os.strerror(error.errno or 0)}; choose other ports with --port, or free "
                "ones with --port 0"
            ) from None
