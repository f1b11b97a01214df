"""TCP keepalive of accepted connections: a client on a vanished computer does not stay connected."""

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnkv import sockets
from cairnkv.limits import KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, KEEPALIVE_TIMEOUT
from cairnkv.server import connection
from cairnkv.testing import RunningServer
from tests.server.conftest import Start
from tests.support.raw import PING, SECONDS, RawClient, eventually
from tests.support.resp import request

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: the options have other names elsewhere")

_OPTIONS = {
    (socket.IPPROTO_TCP, socket.TCP_NODELAY): 1,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): KEEPALIVE_IDLE,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): KEEPALIVE_INTERVAL,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): KEEPALIVE_PROBES,
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): KEEPALIVE_TIMEOUT * 1000,
}


def accepted_options(server: RunningServer) -> dict[tuple[int, int], int]:
    """The options of the server's only connection."""

    def read() -> dict[tuple[int, int], int]:
        (only,) = server.server._connections
        descriptor = os.dup(only.descriptor)
        with socket.socket(fileno=descriptor) as copy:
            return {option: copy.getsockopt(*option) for option in _OPTIONS}

    return server.call(read)


@pytest.mark.parametrize("command", [b"PING\r\n", request(b"SUBSCRIBE", b"c"), PING])
def test_server_probes_quiet_clients(start_on_both: Start, command: bytes) -> None:
    server = start_on_both()
    with RawClient(server.address) as client:
        client.send(command)
        client.socket.recv(1)
        assert accepted_options(server) == _OPTIONS


def test_stall_timeout_may_be_longer_than_the_keepalive_timeout(start_on_both: Start) -> None:
    """With a stall timeout longer than KEEPALIVE_TIMEOUT, the system does not close a slow client."""
    server = start_on_both(stall_timeout=KEEPALIVE_TIMEOUT)
    with RawClient(server.address) as client:
        client.send(b"PING\r\n")
        client.socket.recv(1)
        assert accepted_options(server) == _OPTIONS | {(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): 0}


def test_unix_socket_clients_are_served(start_on_both: Start, tmp_path_unix: str) -> None:
    start_on_both(unix=tmp_path_unix)
    with RawClient(tmp_path_unix) as client:
        client.send(b"PING\r\n")
        assert client.socket.recv(100) == b"+PONG\r\n"


# -- a network that drops all packets --------------------------------------------------------------------------

HERE, THERE = (f"10.93.{os.getpid() % 250}.{number}" for number in (1, 2))
_numbers = itertools.count()


@contextlib.contextmanager
def other_network() -> Iterator[str]:
    """A network namespace with the address `THERE`, from which `HERE` is reached."""
    if shutil.which("ip") is None or subprocess.run(["ip", "netns"], capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED: network namespaces need root and iproute2")
    name = f"cairn-{os.getpid()}-{next(_numbers)}"
    near, far = f"ck{os.getpid() % 10**6}a", f"ck{os.getpid() % 10**6}b"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED: this process may make no network namespace")
    try:
        for command in (
            f"ip link add {near} type veth peer name {far} netns {name}",
            f"ip addr add {HERE}/30 dev {near}",
            f"ip link set {near} up",
            f"ip -n {name} addr add {THERE}/30 dev {far}",
            f"ip -n {name} link set {far} up",
        ):
            subprocess.run(command.split(), check=True, timeout=SECONDS)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True, timeout=SECONDS)


SUBSCRIBER = f"""
import socket, sys
with socket.create_connection(("{HERE}", int(sys.argv[1]))) as s:
    s.sendall(b"SUBSCRIBE news\\r\\n")
    s.recv(100)
    print("subscribed", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("publishing", [False, True], ids=["quiet", "with data under way"])
def test_vanished_subscriber_is_detected(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, publishing: bool
) -> None:
    """The network drops all packets, so neither FIN nor RST arrives. The test shortens the times to seconds."""
    short = {"TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 2}
    monkeypatch.setattr(sockets, "_KEEPALIVE", tuple((getattr(socket, name), time) for name, time in short.items()))
    monkeypatch.setattr(connection, "KEEPALIVE_TIMEOUT", 3)
    with other_network() as name:
        server = start(host=HERE, insecure="yes", stall_timeout=2.0)
        assert server.address is not None
        code = ["ip", "netns", "exec", name, sys.executable, "-c", SUBSCRIBER, str(server.address[1])]
        subscriber = subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert subscriber.stdin is not None
        assert subscriber.stdout is not None
        killer = threading.Timer(SECONDS, subscriber.kill)
        killer.start()
        try:
            assert subscriber.stdout.readline() == b"subscribed\n"
            subprocess.run(["ip", "-n", name, "route", "add", "blackhole", f"{HERE}/32"], check=True, timeout=SECONDS)
            if publishing:
                with RawClient(server.address) as publisher:
                    publisher.send(b"PUBLISH news flash\r\n")
                    assert publisher.socket.recv(100) == b":1\r\n"
            eventually(lambda: server.call(lambda: len(server.server._connections)) == 0)
        finally:
            killer.cancel()
            subscriber.stdin.close()
            subscriber.kill()
            subscriber.wait()
            subscriber.stdout.close()
