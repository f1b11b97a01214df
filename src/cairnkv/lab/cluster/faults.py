"""Fault injection: kills, pauses, cuts off and wipes processes of a cluster on request, and undoes it.

Invariants: each request names a host or one process; it has an effect or raises an error. A killed or wiped process
stays down until a request starts it. Callers hold the lock of the process table.

Out of scope: processes that fail by themselves (`watch`).
"""

import contextlib
import shutil
import time
from typing import Final

from cairnkv.errors import OptionError
from cairnkv.lab.cluster.hosts import ClusterError, State, Target
from cairnkv.lab.cluster.network import Network
from cairnkv.lab.cluster.supervised import ProcessTable
from cairnkv.lab.cluster.watch import PROBE_INTERVAL


class Faults:
    """The faults for the processes of a table. Each method raises `OptionError`, `ClusterError`, `OSError`."""

    def __init__(self, table: ProcessTable, network: Network | None) -> None:
        """network: of the hosts; None: the hosts have no network namespaces."""
        self.cut_off: set[int] = set()
        """Hosts without network."""
        self._table = table
        self._network = network

    @property
    def can_cut(self) -> bool:
        """Whether hosts have network namespaces."""
        return self._network is not None

    def kill(self, target: Target) -> None:
        """End processes with SIGKILL."""
        selected = self._table.selected(target)
        if all(one.state is State.KILLED for one in selected):
            raise OptionError(f"cannot kill {target}: it is killed already")
        for one in selected:
            one.kill()

    def start(self, target: Target) -> None:
        """Start processes that were killed, have failed, or take no part any more."""
        selected = self._table.selected(target)
        down = [one for one in selected if one.state in (State.KILLED, State.FAILED) or one.stopped_itself]
        if not down:
            raise OptionError(f"{target} runs already")
        for one in down:
            if one.child.running:  # a node that takes no part any more, or a NATS server that is ending
                one.child.kill()
            one.reset_backoff()
            self._table.launch(one)

    def pause(self, target: Target) -> None:
        """Stop processes with SIGSTOP."""
        selected = self._table.selected(target)
        running = [one for one in selected if one.state in (State.STARTING, State.READY) and one.child.running]
        if not running:
            raise OptionError(f"cannot pause {target}: it is {selected[0].described().state.value}")
        for one in running:
            one.pause()

    def resume(self, target: Target) -> None:
        """Continue paused processes with SIGCONT."""
        paused = [one for one in self._table.selected(target) if one.state is State.PAUSED]
        if not paused:
            raise OptionError(f"{target} is not paused")
        for one in paused:
            one.resume(time.monotonic() + PROBE_INTERVAL)

    def cut(self, target: Target) -> None:
        """Drop all packets to and from a host."""
        network = self._network_for(target, "cut")
        if target.host in self.cut_off:
            raise OptionError(f"cannot cut off {target}: it is cut off already")
        self.cut_off.add(target.host)  # first, so that `heal` can undo a cut that fails halfway
        network.cut(target.host)

    def heal(self, target: Target) -> None:
        """Undo `cut`."""
        network = self._network_for(target, "heal")
        if target.host not in self.cut_off:
            raise OptionError(f"{target} is not cut off")
        network.heal(target.host)
        self.cut_off.discard(target.host)
        for one in self._table.selected(target):
            one.reset_health()

    def heal_all(self) -> None:
        """Undo each `cut`, as far as possible."""
        for host in sorted(self.cut_off):
            with contextlib.suppress(ClusterError):
                self.heal(Target(host))

    def wipe(self, target: Target) -> None:
        """Kill processes and remove their data."""
        selected = self._table.selected(target)
        for one in selected:
            one.kill()
        for one in selected:
            data = one.child.config.directory / "data"
            if data.exists():
                shutil.rmtree(data)

    def _network_for(self, target: Target, verb: str) -> Network:
        if not target.whole:
            raise OptionError(f"{verb} needs a whole host, not one process: {verb} {target.host}")
        if self._network is None:
            raise OptionError(
                f"{verb} needs a cluster whose hosts have network namespaces: start it with --namespaces (as root, on "
                "Linux). `pause` has a similar effect on the other hosts, on every system"
            )
        return self._network


VERBS: Final = ("kill", "start", "pause", "resume", "cut", "heal", "wipe")
"""The verbs of requests, which are methods of `Faults`."""
