"""A cluster on this machine, for tests and for those who try it: started here, or found by its directory.

    with LocalCluster.up("DIR", nodes=3) as cluster:         # this process supervises it, and stops it at the end
        kv = cairnkv.connect(cluster.url)
        cluster.kill(2)
    cluster = LocalCluster.at("DIR")                         # one that `cairn cluster up --dir DIR` supervises

What always holds: both are asked in the same way, by the same requests, and from any thread.

Not for a cluster of several machines: systemd or a container engine looks after that (docs/cluster.md).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from cairnkv.cluster.machines import Machine


class LocalCluster:
    """Three or five machines, each a NATS server and a store node, as processes of this machine.

    A machine is named by its number, 1 and up; one of its processes by name, `"nats-1"` or `"node-1"`. All methods
    raise `OptionError` when what is asked makes no sense, and `ClusterError` when it could not be done. As a context
    manager it ends with `close`.
    """

    @classmethod
    def up(
        cls,
        directory: str | Path,
        *,
        nodes: int | None = None,
        name: str | None = None,
        port: int = 0,
        namespaces: bool = False,
        log_limit: int | None = None,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """Start a cluster, supervised by a thread of this process, and wait until every node serves.

        directory: of its data; where there are any, it goes on with them. nodes: 3 or 5; None: as many as there
        are data of, else 3. name: of the cluster; None: what the data say, else "cairn".
        port: of the first node, the others' follow; 0: free ones. In namespaces: of each node.
        namespaces: a network namespace for each machine, so that it can be cut off (needs root, and Linux).
        log_limit: bytes of its log; None: what the data say, else what the disk has room for, at most `LOG_LIMIT`.
        flags: of `cairn serve`, for every node, besides. environment: variables of every node, besides this process'.
        """
        raise NotImplementedError

    @classmethod
    def at(cls, directory: str | Path) -> Self:
        """A cluster that runs already, by its directory. Raises `ClusterError` when none does."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop the cluster if this process supervises it; leave it alone if it was found by its directory."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop the cluster, whoever supervises it, in good order: nodes first, then NATS. Its data stay."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what there is --------------------------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        """Where its data and logs are: `node-1/node.log`, `nats-1/nats.log`."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The cluster's name, which its stream has."""
        raise NotImplementedError

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of the nodes, in the order of the machines: cairn://HOST:PORT."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """All of them, as clients take them: cairn://HOST:PORT,HOST:PORT,HOST:PORT."""
        raise NotImplementedError

    @property
    def nats_urls(self) -> tuple[str, ...]:
        """Of the NATS servers, in the order of the machines."""
        raise NotImplementedError

    @property
    def nats_system(self) -> str:
        """USER:PASSWORD of NATS' system account."""
        raise NotImplementedError

    @property
    def can_cut(self) -> bool:
        """Whether machines have network namespaces, so that `cut` works."""
        raise NotImplementedError

    @property
    def machines(self) -> tuple[Machine, ...]:
        """What is running, as it is now; machine 1 first."""
        raise NotImplementedError

    # -- what can be done to it -----------------------------------------------------------------------------------

    def kill(self, what: int | str) -> None:
        """SIGKILL, to a machine or a process. It stays down until `start`."""
        raise NotImplementedError

    def start(self, what: int | str, *, wait: float = 30.0) -> None:
        """Start what was killed, and wait until it is ready, at most `wait` seconds; 0: do not wait.

        Raises `ClusterError` when it is not ready by then; it goes on starting.
        """
        raise NotImplementedError

    def pause(self, what: int | str) -> None:
        """SIGSTOP: it does nothing at all, and its connections stay. Until `resume`."""
        raise NotImplementedError

    def resume(self, what: int | str) -> None:
        """SIGCONT, to what was paused."""
        raise NotImplementedError

    def cut(self, what: int | str) -> None:
        """Take a machine off the network: every packet to and from it is lost without a word, until `heal`.

        Raises `OptionError` for one process alone, and when there are no namespaces.
        """
        raise NotImplementedError

    def heal(self, what: int | str) -> None:
        """Undo `cut`."""
        raise NotImplementedError

    def wipe(self, what: int | str) -> None:
        """Kill it and remove its data, as if its disk were new; `start` starts it with none."""
        raise NotImplementedError

    def wait_ready(self, seconds: float = 30.0) -> None:
        """Wait until all that was not killed, paused or cut off is ready. Raises `ClusterError` when the time is up."""
        raise NotImplementedError
