"""A network of this machine's own, in which each machine of a cluster has a namespace, so that it can be cut off.

    this machine: cairn0 ── host ──┐
                                   │ switch0, a bridge in the namespace cairn-TOKEN
      cairn-TOKEN-1: eth0 ── m1 ───┤
      cairn-TOKEN-2: eth0 ── m2 ───┘

What always holds: nothing of it is reached from beyond this machine; addresses are from 198.18.0.0/15, the range that
is set aside for trying out networks (RFC 2544), a /24 for each cluster. The bridge is in a namespace of its own, where
this machine's packet filters do not see it. Who is cut off is not told: its port of the bridge drops every packet,
either way, while all links stay up and all know each other's Ethernet addresses; nothing is refused or reset.

Needs Linux, root, and iproute2's `ip` and `bridge`. Not for slow or lossy networks.
"""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from cairnkv.errors import OptionError
from cairnkv.lab.cluster.child import end_processes, identity
from cairnkv.lab.cluster.machines import ClusterError

NETWORKS_MAX: Final = 100
"""Clusters with namespaces on one machine, at once."""

COMMAND_PATIENCE: Final = 10.0
"""Seconds that a command which sets up the network may take."""

_HOST: Final = 254
"""This machine's number in each network."""

_DISABLED: Final = "0"
_FORWARDING: Final = "3"


def lacking() -> str:
    """What namespaces need that is not here; nothing when all is."""
    if sys.platform != "linux":
        return "network namespaces are Linux', and this is another system"
    if os.geteuid() != 0:
        return "network namespaces are made by root, and this is not root"
    missing = [program for program in ("ip", "bridge") if shutil.which(program) is None]
    if missing:
        return f"network namespaces are made with {' and '.join(missing)}; on Debian: apt-get install iproute2"
    return ""


class Network:
    """The network of one cluster."""

    def __init__(self, number: int, token: str, machines: int) -> None:
        """One that is there, or was. token: no other network has it, at any time. See `made`."""
        self.number = number
        self.token = token
        self._machines = machines
        self._name = f"cairn-{token}"

    @classmethod
    def made(cls, machines: int) -> "Network":
        """A new one. Raises `OptionError` where something is lacking for it, `ClusterError` when it cannot be made."""
        if lack := lacking():
            raise OptionError(lack)
        network = cls(0, secrets.token_hex(4), machines)
        try:
            network._make()
        except BaseException:
            network.remove()
            raise
        return network

    def host(self, machine: int) -> str:
        """The address of a machine."""
        return f"198.18.{self.number}.{machine}"

    def prefix(self, machine: int) -> tuple[str, ...]:
        """The command that runs a program on a machine."""
        return ("ip", "netns", "exec", self._namespace(machine))

    def cut(self, machine: int) -> None:
        """Have every packet to and from a machine lost."""
        self._port(machine, _DISABLED)

    def heal(self, machine: int) -> None:
        """Let packets through again."""
        self._port(machine, _FORWARDING)

    def remove(self) -> None:
        """Remove it, and end whatever runs in it still. What is not there is no error."""
        _ask("ip", "-n", self._name, "link", "delete", "host")  # and with it the other end, at once
        names = [*map(self._namespace, range(1, self._machines + 1)), self._name]
        pids = [int(pid) for name in names for pid in _ask("ip", "netns", "pids", name).stdout.split()]
        end_processes([whom for whom in map(identity, pids) if whom is not None])
        for name in names:
            _ask("ip", "netns", "delete", name)

    # -- its parts ------------------------------------------------------------------------------------------------

    def _namespace(self, machine: int) -> str:
        return f"{self._name}-{machine}"

    def _make(self) -> None:
        inside = ("ip", "-n", self._name)
        _run("ip", "netns", "add", self._name)
        _run(*inside, "link", "add", "switch0", "type", "bridge")
        _run(*inside, "link", "set", "switch0", "up")
        self._plug_in((), self._number_taken(), _HOST, "host")
        for machine in range(1, self._machines + 1):
            namespace = self._namespace(machine)
            _run("ip", "netns", "add", namespace)
            there = ("-n", namespace)
            _run("ip", *there, "link", "set", "lo", "up")
            _run(
                *(*inside, "link", "add", f"m{machine}", "type", "veth"),
                *("peer", "name", "eth0", "address", self._ethernet(machine), "netns", namespace),
            )
            self._plug_in(there, "eth0", machine, f"m{machine}")

    def _number_taken(self) -> str:
        """Make this machine's interface, whose name nobody else has; gives it."""
        for self.number in range(NETWORKS_MAX):
            peer = ("type", "veth", "peer", "name", "host", "netns", self._name)
            name = f"cairn{self.number}"
            done = _ask("ip", "link", "add", name, "address", self._ethernet(_HOST), *peer)
            if not done.returncode:
                return name
            if "File exists" not in done.stderr:
                raise ClusterError(f"network namespaces cannot be connected: {done.stderr.strip()}")
        raise ClusterError(f"there are {NETWORKS_MAX} networks of clusters already; `ip link` lists them")

    def _plug_in(self, there: Sequence[str], interface: str, machine: int, port: str) -> None:
        """Connect an interface with a port of the bridge, and tell it all that it would have to ask others for."""
        _run("ip", "-n", self._name, "link", "set", port, "master", "switch0", "up")
        _run("ip", *there, "address", "add", f"{self.host(machine)}/24", "dev", interface)
        _run("ip", *there, "link", "set", interface, "up")
        for other in (*range(1, self._machines + 1), _HOST):
            if other != machine:
                neighbour = (self.host(other), "lladdr", self._ethernet(other), "dev", interface, "nud", "permanent")
                _run("ip", *there, "neighbour", "replace", *neighbour)

    def _ethernet(self, machine: int) -> str:
        """A locally administered address."""
        return f"02:63:61:69:{self.number:02x}:{machine:02x}"

    def _port(self, machine: int, state: str) -> None:
        _run("bridge", "-n", self._name, "link", "set", "dev", f"m{machine}", "state", state)


def _run(*command: str) -> None:
    """Run a command. Raises `ClusterError` when it fails."""
    done = _ask(*command)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")


def _ask(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command, whatever it comes to. Raises `ClusterError` when there is none."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"{' '.join(command)}: {error}") from None
