"""A virtual network in which each host of a cluster has a network namespace, so that it can be cut off.

    this computer: cairn0 ── host ──┐
                                    │ switch0, a bridge in the namespace cairn-TOKEN
      cairn-TOKEN-1: eth0 ── m1 ────┤
      cairn-TOKEN-2: eth0 ── m2 ────┘

Invariants: only this computer reaches the network. Addresses are from 198.18.0.0/15, the range for benchmarks (RFC
2544), with a /24 for each cluster. The bridge has its own namespace, so that the packet filters of this computer do not
apply. For a host that is cut off, the bridge's port drops all packets in both directions, while the links stay up and
Ethernet addresses stay known. No connection is refused or reset.

The network needs Linux, root, and iproute2's `ip` and `bridge`.

Out of scope: slow or lossy networks.
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
from cairnkv.lab.cluster.hosts import ClusterError

NETWORKS_MAX: Final = 100
"""Maximum number of clusters with namespaces on this computer at once."""

COMMAND_TIMEOUT: Final = 10.0
"""Seconds that a command of iproute2 may take."""

_COMPUTER: Final = 254
"""The number of this computer in each network."""

_DISABLED: Final = "0"
_FORWARDING: Final = "3"


def missing_requirement() -> str:
    """Return the first unmet requirement of namespaces, as text; empty if all are met."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [program for program in ("ip", "bridge") if shutil.which(program) is None]
    if missing:
        return f"network namespaces need {' and '.join(missing)}; on Debian: apt-get install iproute2"
    return ""


class Network:
    """The network of one cluster."""

    def __init__(self, number: int, token: str, hosts: int) -> None:
        """A network that exists, or existed; `create` makes one. token: unique among all networks."""
        self.number = number
        self.token = token
        self._hosts = hosts
        self._name = f"cairn-{token}"

    @classmethod
    def create(cls, hosts: int) -> "Network":
        """Create a network. Raises `OptionError` for a missing requirement, `ClusterError`."""
        if missing := missing_requirement():
            raise OptionError(missing)
        network = cls(0, secrets.token_hex(4), hosts)
        try:
            network._make()
        except BaseException:
            network.remove()
            raise
        return network

    def address(self, host: int) -> str:
        """Return the IP address of a host."""
        return f"198.18.{self.number}.{host}"

    def prefix(self, host: int) -> tuple[str, ...]:
        """Return the command that executes a program on a host."""
        return ("ip", "netns", "exec", self._namespace(host))

    def cut(self, host: int) -> None:
        """Drop all packets to and from a host."""
        self._set_port(host, _DISABLED)

    def heal(self, host: int) -> None:
        """Forward packets again."""
        self._set_port(host, _FORWARDING)

    def remove(self) -> None:
        """Remove the network, as far as it exists, and end all processes in it."""
        _try("ip", "-n", self._name, "link", "delete", "host")  # also removes the other end
        names = [*map(self._namespace, range(1, self._hosts + 1)), self._name]
        pids = [int(pid) for name in names for pid in _try("ip", "netns", "pids", name).stdout.split()]
        end_processes([process for process in map(identity, pids) if process is not None])
        for name in names:
            _try("ip", "netns", "delete", name)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _namespace(self, host: int) -> str:
        return f"{self._name}-{host}"

    def _make(self) -> None:
        inside = ("ip", "-n", self._name)
        _run("ip", "netns", "add", self._name)
        _run(*inside, "link", "add", "switch0", "type", "bridge")
        _run(*inside, "link", "set", "switch0", "up")
        self._plug_in((), self._create_interface(), _COMPUTER, "host")
        for host in range(1, self._hosts + 1):
            namespace = self._namespace(host)
            _run("ip", "netns", "add", namespace)
            there = ("-n", namespace)
            _run("ip", *there, "link", "set", "lo", "up")
            _run(
                *(*inside, "link", "add", f"m{host}", "type", "veth"),
                *("peer", "name", "eth0", "address", self._ethernet(host), "netns", namespace),
            )
            self._plug_in(there, "eth0", host, f"m{host}")

    def _create_interface(self) -> str:
        """Create the interface of this computer with the first free number. Return its name."""
        for self.number in range(NETWORKS_MAX):
            peer = ("type", "veth", "peer", "name", "host", "netns", self._name)
            name = f"cairn{self.number}"
            done = _try("ip", "link", "add", name, "address", self._ethernet(_COMPUTER), *peer)
            if not done.returncode:
                return name
            if "File exists" not in done.stderr:
                raise ClusterError(f"cannot connect network namespaces: {done.stderr.strip()}")
        raise ClusterError(f"{NETWORKS_MAX} networks of clusters exist already; `ip link` lists them")

    def _plug_in(self, there: Sequence[str], interface: str, host: int, port: str) -> None:
        """Connect an interface with a port of the bridge, and set the Ethernet addresses of all other hosts."""
        _run("ip", "-n", self._name, "link", "set", port, "master", "switch0", "up")
        _run("ip", *there, "address", "add", f"{self.address(host)}/24", "dev", interface)
        _run("ip", *there, "link", "set", interface, "up")
        for other in (*range(1, self._hosts + 1), _COMPUTER):
            if other != host:
                neighbour = (self.address(other), "lladdr", self._ethernet(other), "dev", interface, "nud", "permanent")
                _run("ip", *there, "neighbour", "replace", *neighbour)

    def _ethernet(self, host: int) -> str:
        """Return a locally administered address."""
        return f"02:63:61:69:{self.number:02x}:{host:02x}"

    def _set_port(self, host: int, state: str) -> None:
        _run("bridge", "-n", self._name, "link", "set", "dev", f"m{host}", "state", state)


def _run(*command: str) -> None:
    """Execute a command. Raises `ClusterError` if it fails."""
    done = _try(*command)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")


def _try(*command: str) -> "subprocess.CompletedProcess[str]":
    """Execute a command that may fail. Raises `ClusterError` if it does not exist or takes too long."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"{' '.join(command)}: {error}") from None
