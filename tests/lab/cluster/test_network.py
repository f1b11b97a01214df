"""Machines in network namespaces: a partition drops packets silently, and removal leaves nothing behind."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cairnkv
from cairnkv.errors import OptionError
from cairnkv.lab.cluster import LocalCluster, end_left_over
from cairnkv.lab.cluster.hosts import ClusterError
from cairnkv.lab.cluster.network import Network, missing_requirement
from cairnkv.lab.cluster.state import load

pytestmark = pytest.mark.skipif(bool(missing_requirement()), reason=f"NOT TESTED HERE: {missing_requirement()}")

PORT = 7000
ECHO = """
import socketserver, sys
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(100):
            self.request.sendall(data)
socketserver.ThreadingTCPServer((sys.argv[1], int(sys.argv[2])), Echo).serve_forever()
"""
ASK = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.5) as connection:
        connection.sendall(b"hello")
        print(connection.recv(100).decode())
except OSError as error:
    print(type(error).__name__)
"""


def there(network: Network) -> list[str]:
    """Return the parts of a network that exist in the system."""
    listed = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout.split()
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout.split()
    return [name for name in listed if network.token in name] + [
        name for name in links if name.startswith(f"cairn{network.number}@")
    ]


def ask(network: Network, whom: int, who: int | None = None) -> str:
    """Return the reply of a host's echo server to another host or to this computer."""
    prefix = network.prefix(who) if who is not None else ()
    command = [*prefix, sys.executable, "-c", ASK, network.address(whom), str(PORT)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def network() -> Iterator[Network]:
    """A network of two hosts, with an echo server on the first."""
    network = Network.create(2)
    try:
        with subprocess.Popen([*network.prefix(1), sys.executable, "-c", ECHO, network.address(1), str(PORT)]) as echo:
            until = time.monotonic() + 10
            while ask(network, 1) != "hello":
                assert time.monotonic() < until
            yield network
            echo.kill()
    finally:
        network.remove()


def test_hosts_reach_each_other_and_the_computer_reaches_them(network: Network) -> None:
    assert ask(network, 1, 2) == "hello"
    assert ask(network, 1, 1) == "hello"


def test_partition_drops_packets_silently_until_it_is_healed(network: Network) -> None:
    with socket.create_connection((network.address(1), PORT), 1.0) as connection:
        network.cut(1)
        connection.settimeout(0.5)
        connection.sendall(b"still there?")
        with pytest.raises(TimeoutError):
            connection.recv(100)
        assert ask(network, 1) == ask(network, 1, 2) == "TimeoutError", "refused, reset or unreachable would be a word"
        assert ask(network, 1, 1) == "hello", "it reaches itself"
        network.heal(1)
        connection.settimeout(10.0)
        assert connection.recv(100) == b"still there?", "connections outlive it"
    assert ask(network, 1, 2) == "hello"


def test_partition_of_one_host_leaves_the_others_connected(network: Network) -> None:
    network.cut(2)
    assert ask(network, 1) == "hello"
    assert ask(network, 1, 2) == "TimeoutError"


def test_removal_ends_all_processes_in_the_network() -> None:
    network = Network.create(2)
    with subprocess.Popen([*network.prefix(2), "sleep", "60"]) as sleeper:
        first = there(network)
        assert len(first) == 4
        network.remove()
        assert there(network) == []
        assert sleeper.wait(5.0) != 0
    network.remove()  # nothing is there: no error


def test_networks_are_separate() -> None:
    first, second = Network.create(2), Network.create(2)
    try:
        assert first.address(1) != second.address(1)
        assert not set(there(first)) & set(there(second))
    finally:
        first.remove()
        second.remove()


def test_half_created_network_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Network] = []
    whole = Network._plug_in

    def plug_in(self: Network, there: tuple[str, ...], interface: str, host: int, port: str) -> None:
        made.append(self)
        if host == 2:
            raise ClusterError("no more of that")
        whole(self, there, interface, host, port)

    monkeypatch.setattr(Network, "_plug_in", plug_in)
    with pytest.raises(ClusterError, match="no more of that"):
        Network.create(2)
    assert len(made) == 3
    assert there(made[0]) == []


def test_error_without_root_says_that_root_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(OptionError, match="namespaces need root"):
        Network.create(3)
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert missing_requirement().endswith("apt-get install iproute2")


def test_stop_removes_a_partitioned_cluster_after_a_crash(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom cairnkv.lab.cluster import LocalCluster\nfrom tests.lab.cluster.stand_in import stand_in\n"
        "LocalCluster.up(sys.argv[1], namespaces=True, command=stand_in)\nprint('up', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as crashing:
        assert crashing.stdout is not None
        assert crashing.stdout.readline() == b"up\n"
        cluster = LocalCluster.at(tmp_path)
        assert cluster.can_cut
        assert all(address.startswith("cairn://198.18.") for address in cluster.addresses)
        with cairnkv.connect(cluster.addresses[1], timeout=0.5, attempts=1) as kv:
            kv.ping()
            cluster.cut(2)
            assert [host.cut for host in cluster.hosts] == [False, True, False]
            with pytest.raises(cairnkv.TimedOut):
                kv.ping()
            cluster.wait_ready()
            cluster.heal(2)
            assert not any(host.cut for host in cluster.hosts)
        with cairnkv.connect(cluster.addresses[1], timeout=5) as kv:
            assert kv.ping() == "PONG"
        with pytest.raises(OptionError, match="needs a whole host"):
            cluster.cut("nats-1")
        crashing.kill()
    saved = saved_network(tmp_path)
    assert len(there(saved)) == 5
    assert len(end_left_over(tmp_path)) == 6
    assert there(saved) == []


def saved_network(directory: Path) -> Network:
    """The network that a state file names."""
    saved = load(directory)
    assert saved is not None
    assert saved.run is not None
    assert saved.run.network is not None
    return Network(*saved.run.network, saved.plan.nodes)
