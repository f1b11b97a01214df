"""Fault injection: what is done to a cluster's processes by request, and undone.

What always holds: a request names a machine or one process, and changes something or says why it makes no sense; what
is killed or wiped stays down until a request starts it. All of it is done under the table's lock.

Not for what ends or falls ill by itself (`restarts`, `probes`).
"""

import contextlib
import shutil
import time
from collections.abc import Callable
from typing import Final

from cairnkv.errors import OptionError
from cairnkv.lab.cluster.machines import ClusterError, State, Target
from cairnkv.lab.cluster.network import Network
from cairnkv.lab.cluster.probes import EVERY
from cairnkv.lab.cluster.process_table import ProcessTable


class Faults:
    """What can be done to the processes of a table. Each method raises `OptionError`, `ClusterError`, `OSError`."""

    def __init__(self, table: ProcessTable, network: Network | None) -> None:
        """network: of the machines; None: they have none of their own."""
        self.cut_off: set[int] = set()
        """Machines that are off the network."""
        self._table = table
        self._network = network

    @property
    def can_cut(self) -> bool:
        """Whether machines can be taken off the network."""
        return self._network is not None

    def kill(self, target: Target) -> None:
        """SIGKILL; it stays down."""
        meant = self._table.meant(target)
        if all(one.state is State.KILLED for one in meant):
            raise OptionError(f"{target} cannot be killed: it is so already")
        for one in meant:
            one.kill()

    def start(self, target: Target) -> None:
        """Start what was killed, has failed, or has stopped by itself."""
        meant = self._table.meant(target)
        down = [one for one in meant if one.state in (State.KILLED, State.FAILED) or one.stopped_itself]
        if not down:
            raise OptionError(f"{target} runs already")
        for one in down:
            if one.child.running:  # it is about to end, or has stopped and does nothing more
                one.child.kill()
            one.forgive()
            self._table.launch(one)

    def pause(self, target: Target) -> None:
        """SIGSTOP."""
        meant = self._table.meant(target)
        running = [one for one in meant if one.state in (State.STARTING, State.READY) and one.child.running]
        if not running:
            raise OptionError(f"{target} cannot be paused: it is {meant[0].described().state.value}")
        for one in running:
            one.pause()

    def resume(self, target: Target) -> None:
        """SIGCONT."""
        paused = [one for one in self._table.meant(target) if one.state is State.PAUSED]
        if not paused:
            raise OptionError(f"{target} is not paused")
        for one in paused:
            one.resume(time.monotonic() + EVERY)

    def cut(self, target: Target) -> None:
        """Take a machine off the network."""
        network = self._networked(target, "cut")
        if target.machine in self.cut_off:
            raise OptionError(f"{target} cannot be cut off: it is so already")
        self.cut_off.add(target.machine)  # before it is done: what is half done can be healed
        network.cut(target.machine)

    def heal(self, target: Target) -> None:
        """Bring it back."""
        network = self._networked(target, "heal")
        if target.machine not in self.cut_off:
            raise OptionError(f"{target} is not cut off")
        network.heal(target.machine)
        self.cut_off.discard(target.machine)
        for one in self._table.meant(target):
            one.come_back()

    def heal_all(self) -> None:
        """Bring all back, as far as that can be done."""
        for machine in sorted(self.cut_off):
            with contextlib.suppress(ClusterError):
                self.heal(Target(machine))

    def wipe(self, target: Target) -> None:
        """Kill it and remove its data."""
        meant = self._table.meant(target)
        for one in meant:
            one.kill()
        for one in meant:
            data = one.child.config.directory / "data"
            if data.exists():
                shutil.rmtree(data)

    def _networked(self, target: Target, verb: str) -> Network:
        if not target.whole:
            raise OptionError(f"a whole machine is taken off the network, not one process: {verb} {target.machine}")
        if self._network is None:
            raise OptionError(
                f"{verb} needs a cluster whose machines have network namespaces: start it with --namespaces (as root, "
                "on Linux). `pause` works everywhere, and is much like it to the others"
            )
        return self._network


VERBS: Final[dict[str, Callable[[Faults, Target], None]]] = {
    "kill": Faults.kill,
    "start": Faults.start,
    "pause": Faults.pause,
    "resume": Faults.resume,
    "cut": Faults.cut,
    "heal": Faults.heal,
    "wipe": Faults.wipe,
}
"""Each by the word that requests have for it."""
