"""The state file of a local cluster, `cluster.json`, and the lock of its supervisor.

Invariants: a write replaces the whole file, and only its owner can read it. At most one process has the lock; the
system releases the lock when the process ends.

Out of scope: the data of the cluster, in `nats-1/data`, `node-1/data` and so on.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cairnkv.errors import OptionError
from cairnkv.lab.cluster.child import Identity, end_processes, identity
from cairnkv.lab.cluster.hosts import ClusterError
from cairnkv.lab.cluster.network import Network
from cairnkv.records import fields_of, record, replace
from cairnkv.storage.files import draft_of, rewrite

FILE: Final = "cluster.json"
LOCK: Final = "cluster.lock"
FORMAT: Final = 1


@record
class Plan:
    """The properties that a cluster keeps between its runs. log_limit: bytes of its log."""

    nodes: int
    name: str
    log_limit: int


@record
class Run:
    """The running processes. A supervisor that crashed leaves this record.

    socket: for requests. network: number and token of the `Network`, if any. processes: by name.
    """

    supervisor: Identity
    socket: str
    network: tuple[int, str] | None
    processes: dict[str, Identity]


@record
class Saved:
    """The content of the file. run: None if the cluster is stopped."""

    plan: Plan
    run: Run | None


def load(directory: Path) -> Saved | None:
    """Return the content of the state file, or None without a file. Raises `OptionError` if it is not readable."""
    path = directory / FILE
    try:
        fields = json.loads(path.read_text())
        if fields["format"] != FORMAT:
            raise OptionError(f"{path} has format {fields['format']}, but this version of cairnkv needs {FORMAT}")
        run = fields["run"]
        return Saved(Plan(**fields["plan"]), None if run is None else _run(run))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"cannot read {path}: {error!r}") from None


def _run(fields: dict[str, Any]) -> Run:
    processes = {name: Identity(**process) for name, process in fields["processes"].items()}
    network = fields["network"]
    supervisor = Identity(**fields["supervisor"])
    return Run(supervisor, fields["socket"], None if network is None else (network[0], network[1]), processes)


def save(directory: Path, saved: Saved) -> None:
    """Replace the state file. Raises `OSError`."""
    fields = {"format": FORMAT, **fields_of(saved)}
    rewrite(directory / FILE, json.dumps(fields, default=fields_of, indent=1))


def is_empty(directory: Path) -> bool:
    """Return whether a directory has no files, except those of a supervisor that ended before its first save."""
    ours = {LOCK, draft_of(directory / FILE).name}
    return all(entry.name in ours for entry in directory.iterdir())


class StateFile:
    """Writes the running processes of a cluster to its state file."""

    def __init__(self, directory: Path, plan: Plan, socket: Path, network: Network | None) -> None:
        """Write nothing yet. The caller has the lock."""
        supervisor = identity(os.getpid())
        assert supervisor is not None, "this process exists"
        self.path = directory / FILE
        self._plan = plan
        self._idle = Run(supervisor, str(socket), None if network is None else (network.number, network.token), {})

    def write(self, pids: Mapping[str, int | None]) -> None:
        """Write the running processes. pids: process IDs by name. Raises `OSError`."""
        found = {name: identity(pid) for name, pid in pids.items() if pid is not None}
        processes = {name: process for name, process in found.items() if process is not None}
        save(self.path.parent, Saved(self._plan, replace(self._idle, processes=processes)))

    def close(self) -> None:
        """Write that no process runs. Raises `OSError`."""
        save(self.path.parent, Saved(self._plan, None))


class Lock:
    """The lock of a cluster's supervisor."""

    def __init__(self, directory: Path) -> None:
        """Acquire the lock. Raises `ClusterError` if another process has it, `OSError`."""
        self._descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise ClusterError(
                f"a cluster runs in {directory} already; `cairn cluster status --dir {directory}` shows it"
            ) from None

    def release(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)


def runs(run: Run) -> bool:
    """Return whether the supervisor of a run is still running."""
    return identity(run.supervisor.pid) == run.supervisor


def left_over(saved: Saved | None) -> dict[str, Identity]:
    """Return the processes in a state file that are still running, by name."""
    if saved is None or saved.run is None:
        return {}
    return {name: process for name, process in saved.run.processes.items() if identity(process.pid) == process}


def clean_up(directory: Path, saved: Saved) -> None:
    """End the processes that a crashed supervisor left. The caller has the lock. Raises `OSError`, `ClusterError`."""
    if saved.run is None:
        return
    end_processes([*left_over(saved).values()])
    if saved.run.network is not None:
        Network(*saved.run.network, saved.plan.nodes).remove()
    save(directory, Saved(saved.plan, None))
