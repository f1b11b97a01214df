"""Which processes a cluster on this machine consists of, and where: hosts, ports, passwords, configurations.

What always holds: a cluster keeps its plan for as long as its directory has data; hosts, ports and passwords are new
with each start, unless ports are asked for. All of it listens on loopback, or inside network namespaces.

Not for starting anything (`supervisor`), nor for what a configuration file says (`nats`, `node`).
"""

import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from cairnkv.errors import OptionError
from cairnkv.lab.cluster.machines import NODES, Role
from cairnkv.lab.cluster.nats import NatsConfig, NatsServer, authority, file_share, free_ports
from cairnkv.lab.cluster.network import Network
from cairnkv.lab.cluster.node import Command, Node, NodeConfig, serve_command
from cairnkv.lab.cluster.state import Plan
from cairnkv.lab.cluster.supervised import Supervised
from cairnkv.limits import MIB, PORT
from cairnkv.records import record
from cairnkv.replication.nats.options import LOG_LIMIT, LOG_LIMIT_LEAST, REPLICAS, parsed_name

LOOPBACK: Final = "127.0.0.1"

SNAPSHOT_PART: Final = 2
"""How many times its log a NATS server has room for: snapshots and what has not been compacted yet are there, too."""

PORT_STEP: Final = 100
"""With --port BASE, nodes have BASE and up; NATS' ports for clients, servers and health begin this far from another."""

NATS_PORTS: Final = (4222, 6222, 8222)
"""Those of NATS itself, for clients, servers and health: in a namespace nothing else has them."""

_Ports: TypeAlias = tuple[int, int, int, int]
"""A machine's: of its node, and of its NATS for clients, servers and health."""


@record
class ClusterSpec:
    """What somebody wants of a cluster; None: as it is, or what is usual. The fields are those of `LocalCluster.up`."""

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
    """Raise `OptionError` where a cluster cannot have so many."""
    if nodes not in (None, *NODES):
        raise OptionError(
            f"a cluster has {' or '.join(map(str, NODES))} nodes here, not {nodes}: its log is kept by "
            f"{REPLICAS} machines, and an even number survives no more failures than one fewer. For a single node "
            "take `cairn serve --data DIR`"
        )


def planned(spec: ClusterSpec, had: Plan | None, directory: Path) -> Plan:
    """The plan: had, if the directory has data, and a new one else. Raises `OptionError` where it is another."""
    if had is not None:
        pairs = ((spec.nodes, had.nodes), (spec.name, had.name), (spec.log_limit, had.log_limit))
        if any(wanted not in (None, there) for wanted, there in pairs):
            raise OptionError(
                f"{directory} has a cluster of {had.nodes} nodes named {had.name}, with a log of "
                f"{had.log_limit // MIB} MiB: ask for no other, or choose another directory"
            )
        return had
    nodes = spec.nodes or NODES[0]
    room = file_share(directory, nodes) // SNAPSHOT_PART
    limit = min(LOG_LIMIT, room) if spec.log_limit is None else spec.log_limit
    if limit > room or limit < LOG_LIMIT_LEAST:
        raise OptionError(
            f"a log of {limit // MIB} MiB cannot be: it has at least {LOG_LIMIT_LEAST // MIB} MiB, and the disk of "
            f"{directory} has room for one of {room // MIB} MiB with its snapshots on each of {nodes} machines"
        )
    try:
        return Plan(nodes, parsed_name(spec.name or "cairn"), limit)
    except ValueError as error:
        raise OptionError(f"the cluster's name is {error}") from None


def processes(spec: ClusterSpec, plan: Plan, directory: Path, network: Network | None) -> list[Supervised]:
    """All processes, none of which is started yet. Raises `OptionError` for ports that cannot be had."""
    hosts, ports = _places(spec.port, plan.nodes, network)
    numbers = range(1, plan.nodes + 1)
    # A log that is there needs its room also when others have filled the disk since: NATS does not open it else.
    share = max(file_share(directory, plan.nodes), SNAPSHOT_PART * plan.log_limit)
    password, system_password = secrets.token_hex(16), secrets.token_hex(16)
    servers = [
        NatsConfig(
            name=f"nats-{number}",
            directory=directory / f"nats-{number}",
            host=host,
            port=port,
            route_port=route_port,
            monitor_port=monitor_port,
            routes=tuple((host, ports[2]) for host, ports in zip(hosts, ports, strict=True)),
            password=password,
            system_password=system_password,
            file_max=share,
            sync=spec.sync,
        )
        for number, host, (_, port, route_port, monitor_port) in zip(numbers, hosts, ports, strict=True)
    ]
    made = []
    for number, server, host, (port, *_) in zip(numbers, servers, hosts, ports, strict=True):
        prefix = network.prefix(number) if network is not None else ()
        address = f"nats://{authority(server.host, server.port)}"
        made.append(Supervised(NatsServer(server, prefix=prefix), Role.NATS, number, address))
        node = NodeConfig(
            name=f"node-{number}",
            directory=directory / f"node-{number}",
            host=host,
            port=port,
            cluster=plan.name,
            # Its own machine's first: it is the nearest, and fails with it.
            nats=(server.url, *(other.url for other in servers if other is not server)),
            system=server.system,
            log_limit=plan.log_limit,
            flags=(*(("--insecure",) if network is not None else ()), *spec.flags),
            environment=tuple((spec.environment or {}).items()),
        )
        made.append(Supervised(Node(node, command=spec.command, prefix=prefix), Role.NODE, number, node.address))
    return made


def _places(port: int, nodes: int, network: Network | None) -> tuple[list[str], list[_Ports]]:
    """Each machine's host, and its ports. port: of the first node; 0: any."""
    if network is not None:
        return [network.host(number) for number in range(1, nodes + 1)], [(port or PORT, *NATS_PORTS)] * nodes
    hosts = [LOOPBACK] * nodes
    if not port:
        free = iter(free_ports(4 * nodes))
        return hosts, [(next(free), next(free), next(free), next(free)) for _ in hosts]
    node, nats, routes, monitor = (range(port + step * PORT_STEP, 65_536)[:nodes] for step in range(4))
    if len(monitor) < nodes:
        raise OptionError(f"port {port} is too high: ports up to {3 * PORT_STEP + nodes} above it are needed")
    for one in (*node, *nats, *routes, *monitor):
        _check_free(one)
    return hosts, [*zip(node, nats, routes, monitor, strict=True)]


def _check_free(port: int) -> None:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended do not count
        try:
            trial.bind((LOOPBACK, port))
        except OSError as error:
            raise OptionError(
                f"port {port} cannot be had: {os.strerror(error.errno or 0)}; choose others with --port, or any that "
                "are free with --port 0"
            ) from None
