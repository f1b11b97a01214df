"""The machines of a cluster on this machine, as others see them: what runs where, and in what state it is.

What always holds: these are values; they go into JSON and come back equal. A process is called `node-1` or `nats-1`, a
machine by its number; machine 1 is those two.

Not for the processes themselves (`supervised`, `child`).
"""

import enum
import re
from typing import Any, Final

from cairnkv.commands.failures import Fault
from cairnkv.errors import CairnError, OptionError
from cairnkv.records import record, replace

NODES: Final = (3, 5)
"""How many machines a cluster may have here. The log has 3 replicas; an even number of machines survives no more
failures than one fewer; and more than two failures at once is not what one machine can play."""


class ClusterError(CairnError):
    """Something that a cluster on this machine was asked for could not be done; the text says what and why."""

    fault = Fault.SERVER


class Role(enum.Enum):
    """What a process is."""

    NATS = "nats"
    NODE = "node"


class State(enum.Enum):
    """What is known of a process.

    STARTING: it runs, and did not yet say that it is ready. READY: it did. PAUSED: somebody paused it. KILLED: somebody
    killed it, so that it stays down. FAILED: it ended by itself, and is started again soon. STOPPED: with the cluster;
    or, of a node that runs, it takes no part any more.

    Of those that run besides, by what they say themselves (`health`): JOINING: a node does not serve yet. NO_QUORUM:
    its entries do not come back. CATCHING_UP: they come late; or a NATS server has not all of the log. SILENT: it says
    nothing.
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
    SILENT = "silent"


@record
class Process:
    """A store node or a NATS server. address: cairn://HOST:PORT or nats://HOST:PORT. restarts: how often the supervisor
    has started it again by itself. why: of the last of these; or of the state, where that is one of trouble."""

    name: str
    role: Role
    machine: int
    address: str
    state: State
    pid: int | None = None
    restarts: int = 0
    why: str = ""

    @property
    def runs(self) -> bool:
        """Whether there is a process."""
        return self.pid is not None

    def as_json(self) -> dict[str, Any]:
        """The fields, as JSON has them."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in type(self).__match_args__}
        return fields | {"role": self.role.value, "state": self.state.value}

    @classmethod
    def of_json(cls, fields: dict[str, Any]) -> "Process":
        """What `as_json` gave."""
        return replace(cls(**fields), role=Role(fields["role"]), state=State(fields["state"]))


@record
class Machine:
    """A NATS server and a store node, which fail together. cut: whether it is off the network."""

    number: int
    nats: Process
    node: Process
    cut: bool = False

    @property
    def processes(self) -> tuple[Process, Process]:
        """Both."""
        return self.nats, self.node

    def as_json(self) -> dict[str, Any]:
        """The fields, as JSON has them."""
        return {"number": self.number, "cut": self.cut, "nats": self.nats.as_json(), "node": self.node.as_json()}

    @classmethod
    def of_json(cls, fields: dict[str, Any]) -> "Machine":
        """What `as_json` gave."""
        nats, node = Process.of_json(fields["nats"]), Process.of_json(fields["node"])
        return cls(fields["number"], nats, node, fields["cut"])


@record
class Target:
    """Which of a cluster somebody means: a machine, or one of its processes."""

    machine: int
    roles: tuple[Role, ...] = (Role.NATS, Role.NODE)

    @property
    def whole(self) -> bool:
        """Whether the machine is meant."""
        return len(self.roles) > 1

    def __str__(self) -> str:
        return f"machine {self.machine}" if self.whole else f"{self.roles[0].value}-{self.machine}"


def parsed_target(text: str, machines: int) -> Target:
    """A machine by its number, or a process by its name. Raises `OptionError`.

    >>> parsed_target("2", 3).whole, parsed_target("nats-3", 3)
    (True, Target(machine=3, roles=(<Role.NATS: 'nats'>,)))
    """
    match = re.fullmatch(r"(?:(nats|node)-)?([1-9])", text)
    if match is None or int(match[2]) > machines:
        raise OptionError(
            f"a machine is a number from 1 to {machines}, and its processes are node-1 and nats-1 and so on; "
            f"there is no {text!r}"
        )
    return Target(int(match[2]), (Role(match[1]),)) if match[1] else Target(int(match[2]))
