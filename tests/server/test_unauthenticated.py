"""Clients that must log in and do not: bounded, and never at the cost of others."""

import contextlib
import dataclasses
import logging
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from cairnkv.commands import Set, failures
from cairnkv.limits import (
    KIB,
    MIB,
    UNAUTHENTICATED_BYTES_MAX,
    UNAUTHENTICATED_FRAME_MAX,
    UNAUTHENTICATED_PER_ADDRESS_MAX,
    UNAUTHENTICATED_SHARE,
)
from cairnkv.protocol.native import write_command
from cairnkv.server import connection as connection_module
from cairnkv.server.unauthenticated import BYTES_LEFT, UnauthenticatedClients
from cairnkv.testing import RunningServer
from tests.server.conftest import Start
from tests.server.test_fair_share import PASSWORD, authenticated, from_host
from tests.support.raw import RawClient, ServerProcess, all_of, eventually
from tests.support.resp import request


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give clients time to log in on a busy computer."""
    monkeypatch.setattr(connection_module, "LOGIN_TIMEOUT", 600.0)


PLACES = 80
QUARTER = PLACES // UNAUTHENTICATED_SHARE


@dataclasses.dataclass(frozen=True)
class Client:
    """A client without a connection."""

    number: int
    network: str = "1"
    authenticated: bool = False


# -- who pays ------------------------------------------------------------------------------------------------------


def test_oldest_client_of_the_same_address_pays_for_a_new_one() -> None:
    unauthenticated: UnauthenticatedClients[Client] = UnauthenticatedClients()
    for number in range(QUARTER):
        assert unauthenticated.add(Client(number, str(number % 2)), PLACES) is None
    assert unauthenticated.add(Client(100, "1"), PLACES) == Client(1, "1")
    assert unauthenticated.add(Client(101, "1"), PLACES) == Client(3, "1")
    assert unauthenticated.add(Client(102, "new"), PLACES) == Client(0, "0"), "the oldest: its address has no other"
    assert len(unauthenticated) == QUARTER


def test_each_address_has_a_maximum() -> None:
    unauthenticated: UnauthenticatedClients[Client] = UnauthenticatedClients()
    for number in range(UNAUTHENTICATED_PER_ADDRESS_MAX):
        assert unauthenticated.add(Client(number), 10_000) is None
    assert unauthenticated.add(Client(1_000), 10_000) == Client(0)
    assert unauthenticated.add(Client(1_001, "2"), 10_000) is None


def test_login_frees_a_place() -> None:
    unauthenticated: UnauthenticatedClients[Client] = UnauthenticatedClients()
    assert unauthenticated.add(Client(1), 4) is None
    unauthenticated.remove(Client(1))
    unauthenticated.remove(Client(1))
    assert Client(1) not in unauthenticated
    assert unauthenticated.add(Client(2), 4) is None
    assert unauthenticated.pop_oldest() == Client(2)
    assert unauthenticated.pop_oldest() is None


def test_largest_clients_of_the_largest_address_pay_for_memory() -> None:
    unauthenticated: UnauthenticatedClients[Client] = UnauthenticatedClients()
    clients = [Client(number, str(number % 20)) for number in range(1_200)]
    failed: list[Client] = []
    for client in clients:
        unauthenticated.add(client, 10_000)
        failed += unauthenticated.use(client, KIB * (1 + client.number % 7))
        assert unauthenticated.bytes <= UNAUTHENTICATED_BYTES_MAX
    assert {client.number % 7 for client in failed[:3]} == {6}
    left = sum(KIB * (1 + client.number % 7) for client in clients if client not in failed)
    assert unauthenticated.bytes == left
    assert unauthenticated.use(Client(0, "0"), 0) == []


def test_memory_that_one_client_frees_is_free_for_others() -> None:
    unauthenticated: UnauthenticatedClients[Client] = UnauthenticatedClients()
    for number in (1, 2):
        unauthenticated.add(Client(number), 100)
    for _ in range(5):
        assert unauthenticated.use(Client(1), UNAUTHENTICATED_BYTES_MAX) == []
        assert unauthenticated.use(Client(1), 0) == []
        assert unauthenticated.use(Client(2), UNAUTHENTICATED_BYTES_MAX) == []
        unauthenticated.remove(Client(2))
        unauthenticated.add(Client(2), 100)
    assert unauthenticated.use(Client(1), BYTES_LEFT) == []
    assert unauthenticated.use(Client(2), UNAUTHENTICATED_BYTES_MAX) == [Client(2)]
    assert unauthenticated.use(Client(3), UNAUTHENTICATED_BYTES_MAX) == [], "a client that has logged in"


# -- on a server ---------------------------------------------------------------------------------------------------


def number_of(server: RunningServer, attribute: str) -> Callable[[], int]:
    return lambda: int(server.call(lambda: len(getattr(server.server, attribute))))


@pytest.mark.parametrize(
    ("begin", "reply"),
    [
        (write_command(Set(b"k", bytes(2 * KIB)))[:100], failures.TOOBIG.name.encode()),
        (b"\0\x00\x10\x00\x00\x00\x02\x00\x00\x04\x01", failures.TOOBIG.name.encode()),
        (b"*2\r\n$4\r\nAUTH\r\n$1025\r\n", b"unauthenticated bulk length"),
        (b"*3\r\n" + b"$600\r\n" + bytes(600) + b"\r\n$600\r\n", b"too big request"),
        (b"A" * UNAUTHENTICATED_FRAME_MAX, b"too big request"),
    ],
    ids=["native", "native, counted", "string", "request", "line"],
)
def test_long_frame_is_refused_from_its_declared_length(start_on_both: Start, begin: bytes, reply: bytes) -> None:
    """The server keeps none of the frame."""
    server = start_on_both(password=PASSWORD)
    with RawClient(server.address) as client:
        client.send(begin)
        assert reply in client.socket.recv(KIB)
        assert client.is_closed()


def test_logged_in_client_may_send_long_frames_at_once(start_on_both: Start) -> None:
    server = start_on_both(password=PASSWORD)
    with RawClient(server.address) as client:
        client.send(request(b"AUTH", PASSWORD.encode()) + request(b"SET", b"k", bytes(MIB)))
        eventually(lambda: server.call(lambda: server.server.store.databases[0].count()) == 1)


def test_unauthenticated_memory_is_bounded_and_clients_go_on(start_on_both: Start) -> None:
    """A thousand unauthenticated clients send as much as they may, and read nothing."""
    server = start_on_both(password=PASSWORD)
    with authenticated(server) as owner:
        owner.send(request(b"SET", b"k", bytes(10 * MIB)))
        assert owner.socket.recv(100) == b"+OK\r\n"
        with contextlib.ExitStack() as stack:
            for number in range(1_000):
                client = stack.enter_context(from_host(server, f"127.0.0.{2 + number % 5}"))
                with contextlib.suppress(OSError):
                    client.send(b"PING\r\n" * 1_000 + b"*2\r\n$4\r\nAUTH\r\n$900\r\n" + bytes(890))
            used = server.server._unauthenticated
            eventually(lambda: server.call(lambda: used.bytes) <= UNAUTHENTICATED_BYTES_MAX)
            owner.send(request(b"SET", b"k", bytes(40 * MIB)))
            assert owner.socket.recv(100) == b"+OK\r\n"


def test_unread_replies_of_unauthenticated_clients_are_bounded(start_on_both: Start) -> None:
    server = start_on_both(password=PASSWORD)
    with (
        authenticated(server) as owner,
        all_of(RawClient(server.address, receive_buffer=4 * KIB) for _ in range(12)) as many,
    ):
        for client in many:
            client.socket.setblocking(False)
        for _ in range(20):
            for client in many:
                with contextlib.suppress(OSError):
                    client.socket.send(b"PING\r\n" * 20_000)
            owner.send(b"PING\r\n")
            assert owner.socket.recv(100) == b"+PONG\r\n"
            assert server.call(lambda: server.server._unauthenticated.bytes) <= UNAUTHENTICATED_BYTES_MAX


def test_unauthenticated_have_a_quarter_of_the_places(start_on_both: Start) -> None:
    """Newcomers log in while others try to hold all places."""
    server = start_on_both(password=PASSWORD, max_connections=PLACES)
    with all_of(RawClient(server.address) for _ in range(PLACES)) as unauthenticated:
        for client in unauthenticated:
            with contextlib.suppress(OSError):
                client.send(b"PING\r\n")
        eventually(lambda: number_of(server, "_admitted")() == QUARTER)
        assert b"max number of clients" in unauthenticated[0].socket.recv(KIB)
        with all_of(authenticated(server) for _ in range(PLACES - QUARTER)) as owners:
            for owner in owners:
                owner.send(b"PING\r\n")
                assert owner.socket.recv(100) == b"+PONG\r\n"
            assert number_of(server, "_unauthenticated")() <= QUARTER


def test_each_address_holds_a_bounded_number_of_places(start_on_both: Start) -> None:
    server = start_on_both(password=PASSWORD)
    with all_of(from_host(server, "127.0.0.2") for _ in range(UNAUTHENTICATED_PER_ADDRESS_MAX + 10)):
        eventually(lambda: number_of(server, "_unauthenticated")() == UNAUTHENTICATED_PER_ADDRESS_MAX)
        with from_host(server, "127.0.0.3"):
            eventually(lambda: number_of(server, "_unauthenticated")() == UNAUTHENTICATED_PER_ADDRESS_MAX + 1)


@pytest.mark.parametrize("said", [b"", b"PING\r\n", write_command(Set(b"k", b"v")), b"*2\r\n$4\r\nAUTH\r\n"])
def test_client_that_does_not_log_in_is_closed(
    start_on_both: Start, said: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also a client that sends commands all the time."""
    caplog.set_level(logging.INFO)
    server = start_on_both(password=PASSWORD)
    with authenticated(server) as owner, RawClient(server.address) as client:
        client.send(said)
        monkeypatch.setattr(connection_module, "LOGIN_TIMEOUT", 1.0)
        received = b""
        with contextlib.suppress(ConnectionError):
            while data := client.socket.recv(KIB):
                received += data
        assert b"TIMEOUT" in received
        owner.send(b"PING\r\n")
        assert owner.socket.recv(100) == b"+PONG\r\n"
    assert "did not log in within 1 s" in caplog.text


def test_client_that_logs_out_must_log_in_again(start_on_both: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_on_both(password=PASSWORD)
    with authenticated(server) as client:
        assert number_of(server, "_unauthenticated")() == 0
        client.send(b"RESET\r\n")
        assert client.socket.recv(100) == b"+RESET\r\n"
        assert number_of(server, "_unauthenticated")() == 1
        monkeypatch.setattr(connection_module, "LOGIN_TIMEOUT", 0.0)
        with contextlib.suppress(ConnectionError):
            assert b"TIMEOUT" in client.socket.recv(KIB)


def test_server_without_a_password_limits_no_client(start_on_both: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "LOGIN_TIMEOUT", 0.0)
    server = start_on_both(max_connections=4)
    with all_of(RawClient(server.address) for _ in range(4)) as clients:
        for client in clients * 2:
            client.send(request(b"SET", b"k", bytes(2 * KIB)))
            assert client.socket.recv(100) == b"+OK\r\n"


def test_garbage_of_many_connections_is_a_few_log_lines(tmp_path: Path) -> None:
    """Each kind of line that a client can cause is limited, also below the level of warnings."""
    with ServerProcess("--port", "0", log=tmp_path / "log") as process:
        for garbage in (b"*x\r\n", b"\x16\x03\x01", b"POST / HTTP/1.1\r\n"):
            for _ in range(50):
                with socket.create_connection(process.address, 30) as client:
                    client.sendall(garbage)
                    while client.recv(KIB):
                        pass
        process.signal(signal.SIGTERM)
        assert process.exit_code() == 0
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if "127.0.0.1" in line]
    assert 3 <= len(lines) < 30
    assert any("like this within" in line for line in lines)


def test_client_whose_rights_cannot_change_is_closed(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It must not go on with its former rights, and the others must get theirs."""
    server = start(password=PASSWORD)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(authenticated(server)) for _ in range(3)]
        broken = server.call(lambda: next(iter(server.server.connections)))
        applied: list[object] = []
        apply = connection_module.Connection.apply_users

        def apply_or_fail(connection: connection_module.Connection) -> None:
            applied.append(connection)
            if connection is broken:
                raise RuntimeError("a fault")
            apply(connection)

        monkeypatch.setattr(connection_module.Connection, "apply_users", apply_or_fail)
        clients[0].send(request(b"CONFIG", b"SET", b"requirepass", b"another"))
        eventually(lambda: server.call(lambda: len(server.server.connections)) == 2)
        assert len(applied) == 3
    assert "cannot change its rights" in caplog.text
