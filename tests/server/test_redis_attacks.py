"""Attacks over the Redis protocol: each affects at most its own connection."""

import contextlib
import socket
import time
from typing import Any

import pytest

from cairnkv.limits import KIB, LOGIN_FAILURES_MAX, MIB
from cairnkv.protocol.resp import OK, Error, Simple
from cairnkv.server import server as server_module
from cairnkv.server.connection import Connection
from cairnkv.session.access import attempts
from cairnkv.testing import RunningServer
from tests.server.conftest import Start
from tests.server.test_redis import RedisClient
from tests.support.patience import AT_ONCE
from tests.support.raw import all_of, eventually
from tests.support.resp import request

QUEUED = Simple("QUEUED")
PONG = Simple("PONG")
SMALL = {"max_value": 100 * KIB, "max_frame": 1 * MIB, "max_unfinished": 4 * MIB}


def known(server: RunningServer, name: str) -> int:
    """A number that the server tells of itself."""
    return int(dict(server.call(server.server.store.info))[name])


def is_closed(client: RedisClient) -> bool:
    """Whether the server closes the connection; waits for it."""
    try:
        while client.socket.recv(64 * KIB):
            pass
    except ConnectionError:
        pass
    return True


# -- what clients make the server keep -----------------------------------------------------------------------------


class Greedy(RedisClient):
    """A client that makes the server keep about half a megabyte by one of several means."""

    def hear_of(self, *words: bytes) -> Any:
        """The reply to a command."""
        self.send(*words)
        return self.hear()

    def keep(self, how: str, number: int) -> None:
        """Half a megabyte more; ConnectionError, or an error, when that is too much."""
        match how:
            case "queue":
                if self.hear_of(b"MULTI") == OK:
                    for _ in range(10):
                        assert self.hear_of(b"SET", b"k", bytes(50 * KIB)) == QUEUED
            case "watch":
                keys = [b"%d of %d " % (n, number) + bytes(50 * KIB) for n in range(10)]
                assert self.hear_of(b"WATCH", *keys) == OK
            case "subscribe":
                self.send(b"SUBSCRIBE", *[b"%d of %d " % (n, number) + bytes(500) for n in range(500)])
                for _ in range(500):
                    self.hear()


@pytest.mark.parametrize("how", ["queue", "watch", "subscribe"])
def test_memory_of_all_clients_together_is_bounded(start_on_both: Start, how: str) -> None:
    """A hundred clients within their own limits: the one with the most memory gets an error and is closed."""
    server = start_on_both(**SMALL)
    gone = 0
    with all_of(Greedy(server.address) for _ in range(20)) as clients, RedisClient(server.address) as other:
        for number, client in enumerate(clients):
            try:
                client.keep(how, number)
            except (ConnectionError, AssertionError):
                gone += 1
        assert known(server, "unfinished_bytes") <= 4 * MIB
        eventually(lambda: known(server, "connections") <= 10)
        assert other("PING") == PONG
    eventually(lambda: known(server, "unfinished_bytes") == 0)


def test_queued_transaction_does_not_time_out(start: Start) -> None:
    """Queued commands are no unfinished frame."""
    server = start(frame_timeout=0.2)
    with RedisClient(server.address) as client:
        assert client("MULTI") == OK
        assert client("SET k v") == QUEUED
        time.sleep(0.6)
        assert client("EXEC") == [OK]


# -- what clients do not take ----------------------------------------------------------------------------------------


def test_unread_messages_of_all_subscribers_are_bounded(start_on_both: Start) -> None:
    """Each subscriber stays below its own limit."""
    server = start_on_both(max_unsent=8 * MIB)
    with (
        all_of(RedisClient(server.address, receive_buffer=4 * KIB) for _ in range(20)) as listeners,
        RedisClient(server.address) as speaker,
    ):
        for listener in listeners:
            listener("SUBSCRIBE c")
        text = bytes(512 * KIB)
        for _ in range(20):
            speaker.send(b"PUBLISH", b"c", text)
            speaker.hear()

        def kept() -> int:
            connections = server.server._connections
            return int(server.call(lambda: sum(connection.unsent for connection in connections)))

        eventually(lambda: kept() <= 8 * MIB)
        eventually(lambda: known(server, "connections") < 21)
        assert speaker("PING") == PONG


def test_reading_subscriber_gets_all_messages_beside_stalled_ones(start_on_both: Start) -> None:
    server = start_on_both(max_unsent=8 * MIB)
    with (
        RedisClient(server.address) as listener,
        all_of(RedisClient(server.address, receive_buffer=4 * KIB) for _ in range(10)) as deaf,
        RedisClient(server.address) as speaker,
    ):
        for client in (listener, *deaf):
            client("SUBSCRIBE c")
        for n in range(40):
            speaker.send(b"PUBLISH", b"c", b"%d" % n + bytes(256 * KIB))
            assert listener.hear()[2] == b"%d" % n + bytes(256 * KIB)
            speaker.hear()


# -- what takes long -----------------------------------------------------------------------------------------------


STORMS = {
    "line ends": b"\r\n" * (512 * KIB),
    "empty arrays": b"*0\r\n" * (256 * KIB),
    "long commands": request(b"EXISTS", *[b"k"] * 30_000) * 20,
    "the manual": request(b"COMMAND", b"DOCS") * 300,
    "bits": request(b"SETRANGE", b"bits", b"%d" % (8 * MIB), b"x") + request(b"BITCOUNT", b"bits") * 300,
    "a long transaction": request(b"MULTI") + request(b"SCAN", b"0") * 20_000 + request(b"EXEC"),
}


@pytest.mark.parametrize("storm", STORMS.values(), ids=STORMS.keys())
def test_other_clients_are_served_during_an_attack(start: Start, storm: bytes) -> None:
    server = start()
    with RedisClient(server.address) as enemy, RedisClient(server.address) as other:
        other("PING")
        enemy.socket.setblocking(False)
        sent = 0
        longest = 0.0
        until = time.monotonic() + 2
        while sent < len(storm) and time.monotonic() < until:
            with contextlib.suppress(BlockingIOError):
                sent += enemy.socket.send(storm[sent : sent + 256 * KIB])
            begun = time.process_time()  # of the server too, which is a thread here: others' load does not count
            assert other("PING") == PONG
            longest = max(longest, time.process_time() - begun)
        assert longest < 1, "some tens of milliseconds where nothing else runs"


# -- the door ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", [b"", b"*", b"G", b"\x16", b"*1\r\n$4\r\nPI", b"PING"])
def test_client_that_stops_within_a_request_times_out(start_on_both: Start, begin: bytes) -> None:
    server = start_on_both(frame_timeout=0.2)
    with RedisClient(server.address) as client:
        client.socket.sendall(begin)
        assert is_closed(client)


@pytest.mark.parametrize("begin", [b"*", b"\x16", b"*2\r\n$3\r\nGET\r\n$5\r\nab", b"PING\r\nPI"])
def test_client_that_half_closes_within_a_request_is_closed(start_on_both: Start, begin: bytes) -> None:
    with RedisClient(start_on_both().address) as client:
        client.socket.sendall(begin)
        client.socket.shutdown(socket.SHUT_WR)
        assert is_closed(client)


def test_half_closed_subscriber_is_closed(start_on_both: Start) -> None:
    server = start_on_both()
    with RedisClient(server.address) as client, RedisClient(server.address) as other:
        client("SUBSCRIBE c")
        client.socket.shutdown(socket.SHUT_WR)
        assert is_closed(client)
        assert other("PUBLISH c x") == 0


def test_many_wrong_passwords_are_refused(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "LOGIN_DELAY", 0.001)
    server = start(password="right")
    for _ in range(10):
        with RedisClient(server.address) as client:
            for n in range(LOGIN_FAILURES_MAX - 1):
                assert client(f"AUTH wrong{n}").code == "WRONGPASS"
            assert client("GET k").code == "NOAUTH"
            assert client("AUTH right") == OK
            assert client("PING") == PONG


def test_password_set_later_spares_connected_clients(start_on_both: Start) -> None:
    """As in Redis, authenticated clients stay so; new and reset connections need the password."""
    server = start_on_both()
    with RedisClient(server.address) as one, RedisClient(server.address) as silent:
        assert one("SET k v") == OK
        assert one("CONFIG SET requirepass secret") == OK
        assert one("GET k") == b"v"
        assert silent("GET k").code == "NOAUTH"
        assert one("RESET") == Simple("RESET")
        assert one("GET k").code == "NOAUTH"
        assert one("AUTH secret") == OK
        assert one("GET k") == b"v"


# -- odd places ----------------------------------------------------------------------------------------------------


def test_connections_end_anywhere_in_a_request(start_on_both: Start) -> None:
    server = start_on_both()
    for said in (
        ["MULTI", "QUIT"],
        ["MULTI", "SET k v", "QUIT"],
        ["SUBSCRIBE c", "QUIT"],
        ["WATCH k", "MULTI", "QUIT"],
    ):
        with RedisClient(server.address) as client:
            client.socket.sendall(b"".join(request(*text.encode().split()) for text in [*said, "SET after 1"]))
            assert client.rest()[-1] == OK
    with RedisClient(server.address) as client:
        assert client("EXISTS k after") == 0
        assert client("MULTI") == OK
        assert client("CLIENT KILL ID 5000") == QUEUED
        assert client("RESET") == Simple("RESET")
        assert client("EXEC").code == "ERR"


def test_client_that_kills_itself_in_a_transaction_gets_its_reply(start_on_both: Start) -> None:
    server = start_on_both()
    with RedisClient(server.address) as client, RedisClient(server.address) as other:
        number = client("CLIENT ID")
        assert other("MULTI") == OK
        assert other("SET queued 1") == QUEUED
        assert client("MULTI") == OK
        client(f"CLIENT KILL ID {number} SKIPME no")
        client("CLIENT KILL TYPE normal")
        client("SET k v")
        killed_itself, killed_others, done = client("EXEC")
        assert (killed_itself, done) == (1, OK)
        assert killed_others == 1
        assert is_closed(client)
        assert is_closed(other)
    with RedisClient(server.address) as client:
        assert client("MGET k queued") == [b"v", None]


def test_protocol_version_changes_within_a_pipeline(start_on_both: Start) -> None:
    """Each reply has the version at its time; the native path follows at once."""
    with RedisClient(start_on_both().address) as client:
        said = b"".join(
            request(*text.encode().split()) for text in ["GET no", "HELLO 3", "GET no", "HELLO 2", "GET no"]
        )
        client.socket.sendall(said)
        came = b""
        while came.count(b"$-1\r\n") < 2:
            came += client.socket.recv(64 * KIB)
        assert came.startswith(b"$-1\r\n%")
        assert b"\r\n_\r\n*" in came
        assert came.endswith(b"$-1\r\n")


def test_transaction_selects_a_database(start_on_both: Start) -> None:
    with RedisClient(start_on_both().address) as client:
        client("SET k zero")
        said = ["MULTI", "SELECT 3", "SET k three", "EXEC", "GET k", "SELECT 0", "GET k"]
        client.socket.sendall(b"".join(request(*text.encode().split()) for text in said))
        assert [client.hear() for _ in said][4:] == [b"three", OK, b"zero"]
        client("MULTI")
        client("SELECT 5")
        client("DISCARD")
        assert client("GET k") == b"zero"


def test_errors_while_replies_are_off(start_on_both: Start) -> None:
    with RedisClient(start_on_both().address) as client:
        for text in ("CLIENT REPLY OFF", "NONSENSE", "MULTI", "NONSENSE", "EXEC", "GET", "SET k v", "CLIENT REPLY ON"):
            client.send(*text.encode().split())
        assert client.hear() == OK
        assert client("GET k") == b"v"
        assert isinstance(client("EXEC"), Error)


# -- the sweep -----------------------------------------------------------------------------------------------------


def test_timeouts_are_checked_in_bounded_steps(start_on_both: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """All clients within the period, for any number of them."""
    monkeypatch.setattr(server_module, "SWEPT_TOGETHER", 3)
    checked: list[tuple[float, Connection]] = []
    check_times = Connection.check_times

    def noted(connection: Connection, now: float) -> None:
        checked.append((now, connection))
        check_times(connection, now)

    monkeypatch.setattr(Connection, "check_times", noted)
    server = start_on_both(idle_timeout=0.4)
    with all_of(RedisClient(server.address) for _ in range(20)) as clients:
        for client in clients:
            assert client("PING") == PONG
        begun = time.monotonic()
        assert all(is_closed(client) for client in clients)
        assert time.monotonic() - begun < AT_ONCE
    together: dict[float, int] = {}
    for now, _ in checked:
        together[now] = together.get(now, 0) + 1
    assert max(together.values()) <= 3
    assert len({connection for _, connection in checked}) == 20
