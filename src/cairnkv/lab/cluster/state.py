"""What stands in the directory of a cluster on this machine: `cluster.json`, and the lock of who supervises it.

What always holds: the file is replaced as a whole, and only its owner can read it, since passwords are in it; one
process at most supervises, which the lock says, and the system takes the lock from a process that ends.

Not for data of the cluster, which are in `nats-1/data`, `node-1/data` and so on.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cairnkv.errors import OptionError
from cairnkv.lab.cluster.child import Identity, end_processes, identity
from cairnkv.lab.cluster.machines import ClusterError
from cairnkv.lab.cluster.network import Network
from cairnkv.records import record, replace
from cairnkv.storage.files import draft_of, rewrite

FILE: Final = "cluster.json"
LOCK: Final = "cluster.lock"
FORMAT: Final = 1


@record
class Plan:
    """What stays as it is from one run of a cluster to the next. log_limit: bytes of its log."""

    nodes: int
    name: str
    log_limit: int


@record
class Run:
    """What is running: written by the supervisor, and left by one that crashed.

    socket: where it takes requests. network: number and token of its `Network`, if it has one. processes: all, by
    name.
    """

    supervisor: Identity
    socket: str
    network: tuple[int, str] | None
    processes: dict[str, Identity]


@record
class Saved:
    """The file. run: None when the cluster was stopped."""

    plan: Plan
    run: Run | None


def load(directory: Path) -> Saved | None:
    """What is saved; None: nothing. Raises `OptionError` when it cannot be read."""
    path = directory / FILE
    try:
        fields = json.loads(path.read_text())
        if fields["format"] != FORMAT:
            raise OptionError(f"{path} is of format {fields['format']}, which this version does not know")
        run = fields["run"]
        return Saved(Plan(**fields["plan"]), None if run is None else _run(run))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"{path} cannot be read: {error!r}") from None


def _run(fields: dict[str, Any]) -> Run:
    processes = {name: Identity(**whom) for name, whom in fields["processes"].items()}
    network = fields["network"]
    supervisor = Identity(**fields["supervisor"])
    return Run(supervisor, fields["socket"], None if network is None else (network[0], network[1]), processes)


def save(directory: Path, saved: Saved) -> None:
    """Replace what is saved. Raises `OSError`."""
    fields: dict[str, Any] = {"format": FORMAT, "plan": _fields(saved.plan), "run": None}
    if saved.run is not None:
        processes = {name: _fields(whom) for name, whom in saved.run.processes.items()}
        fields["run"] = _fields(saved.run) | {"supervisor": _fields(saved.run.supervisor), "processes": processes}
    rewrite(directory / FILE, json.dumps(fields, indent=1))


def is_empty(directory: Path) -> bool:
    """Whether there is nothing but what a supervisor leaves that ended before it had saved anything."""
    ours = {LOCK, draft_of(directory / FILE).name}
    return all(entry.name in ours for entry in directory.iterdir())


class StateFile:
    """The file of a cluster that runs: its supervisor keeps it in step with the processes."""

    def __init__(self, directory: Path, plan: Plan, socket: Path, network: Network | None) -> None:
        """For who has the lock, of a plan that is being carried out. Nothing is written yet."""
        supervisor = identity(os.getpid())
        assert supervisor is not None, "this process exists"
        self.path = directory / FILE
        self._plan = plan
        self._idle = Run(supervisor, str(socket), None if network is None else (network.number, network.token), {})

    def write(self, pids: Mapping[str, int | None]) -> None:
        """Say which processes run: numbers by name. Raises `OSError`."""
        found = {name: identity(pid) for name, pid in pids.items() if pid is not None}
        processes = {name: whom for name, whom in found.items() if whom is not None}
        save(self.path.parent, Saved(self._plan, replace(self._idle, processes=processes)))

    def close(self) -> None:
        """Say that nothing runs. Raises `OSError`."""
        save(self.path.parent, Saved(self._plan, None))


def _fields(one: Any) -> dict[str, Any]:
    return {name: getattr(one, name) for name in type(one).__match_args__}


class Lock:
    """Who has it supervises the cluster."""

    def __init__(self, directory: Path) -> None:
        """Take it. Raises `ClusterError` when somebody has it, `OSError`."""
        self._descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise ClusterError(
                f"a cluster runs in {directory} already; `cairn cluster status --dir {directory}` shows it"
            ) from None

    def free(self) -> None:
        """Give it back."""
        os.close(self._descriptor)


def runs(run: Run) -> bool:
    """Whether its supervisor still does."""
    return identity(run.supervisor.pid) == run.supervisor


def left_over(saved: Saved | None) -> dict[str, Identity]:
    """The processes that run still, by name, of a supervisor that does not."""
    if saved is None or saved.run is None:
        return {}
    return {name: whom for name, whom in saved.run.processes.items() if identity(whom.pid) == whom}


def clean_up(directory: Path, saved: Saved) -> None:
    """End what a crashed supervisor has left. Only for who has the lock. Raises `OSError`, `ClusterError`."""
    if saved.run is None:
        return
    end_processes([*left_over(saved).values()])
    if saved.run.network is not None:
        Network(*saved.run.network, saved.plan.nodes).remove()
    save(directory, Saved(saved.plan, None))
