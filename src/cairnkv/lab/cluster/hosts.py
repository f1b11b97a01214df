"""The simulated hosts and the processes of a cluster, as its users see them.

Invariants: these are values, which survive a conversion to JSON and back. Host 1 is the processes `node-1` and
`nats-1`.

Out of scope: the control of processes (`supervised`, `child`).
"""

import enum
import re
from typing import Any, Final

from cairnkv.commands.failures import Fault
from cairnkv.errors import CairnError, OptionError
from cairnkv.records import fields_of, record, replace

NODES: Final = (3, 5)
"""The allowed numbers of hosts. The log has 3 replicas, and an even number of hosts tolerates no more failures than the
next lower odd number."""


class ClusterError(CairnError):
    """A failed request to a local cluster."""

    fault = Fault.SERVER


class Role(enum.Enum):
    """The program of a process."""

    NATS = "nats"
    NODE = "node"


class State(enum.Enum):
    """The state of a process.

    STARTING: it runs and has not reported that it is ready. READY: it has. PAUSED, KILLED: by a request. FAILED: it
    ended by itself, and restarts after a backoff. STOPPED: the cluster stopped; or the node runs and takes no part any
    more.

    From the health of a running process (`health`): JOINING: the node does not serve yet. NO_QUORUM: the log does not
    commit the node's entries. CATCHING_UP: entries reach the node late, or the NATS server lacks a part of the log.
    UNRESPONSIVE: it does not reply.
    """

    STARTING = "starting"
    READY = "ready"
    PAUSED = "paused"
    KILLED = "killed"
    FAILED = "failed"
    STOPPED = "stopped"
    JOINING = "joining"
    NO_QUORUM = "no quorum"
    CATCHING_UP = "catching up"
    UNRESPONSIVE = "unresponsive"


@record
class Process:
    """A store node or a NATS server. address: cairn://HOST:PORT or nats://HOST:PORT. restarts: the number of automatic
    restarts. why: the reason for the state, or for the last restart. users: the digest of a node's users, or empty."""

    name: str
    role: Role
    host: int
    address: str
    state: State
    pid: int | None = None
    restarts: int = 0
    why: str = ""
    users: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return fields_of(self) | {"role": self.role.value, "state": self.state.value}

    @classmethod
    def of_json(cls, fields: dict[str, Any]) -> "Process":
        """Return the process of the result of `as_json`."""
        return replace(cls(**fields), role=Role(fields["role"]), state=State(fields["state"]))


@record
class Host:
    """A NATS server and a store node, which fail together. cut: whether the host is cut off from the network."""

    number: int
    nats: Process
    node: Process
    cut: bool = False

    @property
    def processes(self) -> tuple[Process, Process]:
        """Both processes."""
        return self.nats, self.node

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {"number": self.number, "cut": self.cut, "nats": self.nats.as_json(), "node": self.node.as_json()}

    @classmethod
    def of_json(cls, fields: dict[str, Any]) -> "Host":
        """Return the host of the result of `as_json`."""
        nats, node = Process.of_json(fields["nats"]), Process.of_json(fields["node"])
        return cls(fields["number"], nats, node, fields["cut"])


@record
class Target:
    """The target of a request: a host, or one of its processes."""

    host: int
    roles: tuple[Role, ...] = (Role.NATS, Role.NODE)

    @property
    def whole(self) -> bool:
        """Whether the target is a whole host."""
        return len(self.roles) > 1

    def __str__(self) -> str:
        return f"host {self.host}" if self.whole else f"{self.roles[0].value}-{self.host}"


def parsed_target(text: str, hosts: int) -> Target:
    """Return the host with a number, or the process with a name. Raises `OptionError`.

    >>> parsed_target("2", 3).whole, parsed_target("nats-3", 3)
    (True, Target(host=3, roles=(<Role.NATS: 'nats'>,)))
    """
    match = re.fullmatch(r"(?:(nats|node)-)?([1-9])", text)
    if match is None or int(match[2]) > hosts:
        raise OptionError(
            f"{text!r} is not in this cluster; use the number of a host, 1 to {hosts}, or the name of a process, such "
            "as node-1 or nats-1"
        )
    return Target(int(match[2]), (Role(match[1]),)) if match[1] else Target(int(match[2]))
