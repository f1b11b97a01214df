"""Fair shares: slices of clients run in order, and the server reads from its sockets between long ones.

Limits on all clients together apply to unauthenticated clients first, then to the address that uses most.
"""

import asyncio
import dataclasses
import logging
import random
import socket
import time
from collections.abc import Callable

import pytest

from cairnkv.limits import KIB, MIB, SLICES_SECONDS
from cairnkv.server.fair_share import UNIX, Scheduler, first_to_pay, network_of
from cairnkv.testing import RunningServer
from tests.server.conftest import Start
from tests.support.raw import SECONDS, RawClient, all_of, eventually
from tests.support.resp import request


@pytest.fixture(scope="module")
def path_in_use() -> None:
    """Replace the fixture for both paths: these tests do not depend on the path."""


@dataclasses.dataclass(frozen=True)
class Client:
    """A client without a connection."""

    name: str
    network: str
    authenticated: bool = True


def test_limit_applies_to_unauthenticated_clients_first() -> None:
    shares = {Client("a", "1"): 1_000, Client("b", "1"): 500, Client("c", "2", False): 1, Client("d", "3", False): 2}
    assert [client.name for client in first_to_pay(shares)] == ["d", "c", "a", "b"]


def test_limit_applies_to_the_largest_address_before_the_largest_client() -> None:
    shares = {Client("large", "1"): 90} | {Client(f"small {number}", "2"): 10 + number for number in range(10)}
    order = [client.name for client in first_to_pay(shares)]
    assert order[:5] == ["small 9", "small 8", "small 7", "small 6", "large"]
    assert sorted(order) == sorted(client.name for client in shares)


@pytest.mark.parametrize("seed", range(20))
def test_each_next_client_is_the_largest_of_the_largest_address(seed: int) -> None:
    chance = random.Random(seed)
    shares = {
        Client(str(number), str(chance.randrange(5)), chance.random() < 0.7): chance.randrange(1, 50)
        for number in range(60)
    }
    order = list(first_to_pay(shares))
    left = dict(shares)
    for client in order:
        class_ = [one for one in left if not one.authenticated] or list(left)
        totals: dict[str, int] = {}
        for one in class_:
            totals[one.network] = totals.get(one.network, 0) + left[one]
        assert client in class_
        assert totals[client.network] == max(totals.values())
        assert left[client] == max(left[one] for one in class_ if one.network == client.network)
        del left[client]
    assert not left


@pytest.mark.parametrize(
    ("host", "network"),
    [
        (None, UNIX),
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("elsewhere", "elsewhere"),
    ],
)
def test_network_of_an_address(host: str | None, network: str) -> None:
    assert network_of(host) == network


# -- on a server -------------------------------------------------------------------------------------------------

PASSWORD = "sesame"


def authenticated(server: RunningServer) -> RawClient:
    client = RawClient(server.address)
    client.send(request(b"AUTH", PASSWORD.encode()))
    assert client.socket.recv(100) == b"+OK\r\n"
    return client


def from_host(server: RunningServer, host: str) -> RawClient:
    """Return a client that connects from another address of this computer."""
    client = RawClient(server.address)
    client.socket.close()
    client.socket = socket.create_connection(server.address or ("", 0), SECONDS, source_address=(host, 0))
    return client


def test_unfinished_frames_of_unauthenticated_clients_fail_first(start_on_both: Start) -> None:
    server = start_on_both(password=PASSWORD, max_value=MIB, max_frame=2 * MIB, max_unfinished=2 * MIB)
    piece = b"$90\r\n" + b"x" * 90 + b"\r\n"
    with authenticated(server) as honest, all_of(RawClient(server.address) for _ in range(24)) as strangers:
        for stranger in strangers:
            stranger.send(b"*10\r\n" + piece * 9)
        whole = request(b"SET", b"page", b"v" * (MIB - 100))
        honest.send(whole[: MIB // 2])
        eventually(lambda: server.call(lambda: server.server._buffered_total) > MIB // 2 + 24 * 800)
        honest.send(whole[MIB // 2 :])
        assert honest.socket.recv(100) == b"+OK\r\n"


def test_unfinished_frames_of_the_largest_address_fail_first(start_on_both: Start) -> None:
    """Many clients with short frames at one address do not make a client at another address fail."""
    server = start_on_both(max_value=MIB, max_frame=2 * MIB, max_unfinished=2 * MIB)
    with from_host(server, "127.0.0.2") as honest, all_of(RawClient(server.address) for _ in range(60)) as greedy:
        for client in greedy:
            client.send(request(b"SET", b"k", b"x" * 40_000)[:30_000])
        eventually(lambda: server.call(lambda: server.server._buffered_total) > MIB)
        whole = request(b"SET", b"page", b"v" * (MIB - 100))
        for at in range(0, len(whole), 50_000):
            honest.send(whole[at : at + 50_000])
        assert honest.socket.recv(100) == b"+OK\r\n"


def test_no_evict_closes_no_other_client(
    start_on_both: Start, tmp_path_unix: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_on_both(unix=tmp_path_unix, max_unsent=8 * MIB)
    with (
        RawClient(server.address) as other,
        RawClient(tmp_path_unix) as honest,
        all_of(RawClient(tmp_path_unix) for _ in range(5)) as greedy,
    ):
        other.send(request(b"SET", b"m", bytes(MIB)))
        assert other.socket.recv(100) == b"+OK\r\n"
        honest.send(request(b"GET", b"m"))
        for client in greedy:
            client.send(request(b"CLIENT", b"NO-EVICT", b"ON") + request(b"MGET", *[b"m"] * 4))
        eventually(lambda: "all replies not taken together" in caplog.text)
        received = 0
        while received < len(b"$1048576\r\n") + MIB + 2:
            data = honest.socket.recv(MIB)
            assert data, "closed"
            received += len(data)


def test_unauthenticated_client_is_closed_for_the_next_client(
    start_on_both: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """On a server with a password and the maximum number of clients. Authenticated clients stay connected."""
    caplog.set_level(logging.INFO)
    server = start_on_both(password=PASSWORD, max_connections=8)
    with (
        all_of(authenticated(server) for _ in range(6)) as first,
        RawClient(server.address) as stranger,
        RawClient(server.address),
    ):
        eventually(lambda: server.call(lambda: len(server.server._admitted)) == 8)
        with authenticated(server) as second:
            stranger.send(b"PING\r\n")
            assert b"max number of clients" in stranger.socket.recv(KIB)
            with authenticated(server) as third:
                for client in (*first, second, third):
                    client.send(b"PING\r\n")
                    assert client.socket.recv(100) == b"+PONG\r\n"
                with RawClient(server.address) as refused:
                    refused.send(b"PING\r\n")
                    assert b"max number of clients" in refused.socket.recv(KIB)


# -- the scheduler ---------------------------------------------------------------------------------------------


def slow(order: list[str], name: str) -> Callable[[], None]:
    def work() -> None:
        order.append(name)
        time.sleep(2 * SLICES_SECONDS)

    return work


async def iterations(order: list[str], count: int) -> list[str]:
    """Note each iteration of the loop, and return the notes."""
    for _ in range(count):
        await asyncio.sleep(0)
        order.append("loop")
    return order


async def test_loop_goes_on_between_long_slices() -> None:
    scheduler, order = Scheduler(), list[str]()
    for name in "abc":
        scheduler.add(slow(order, name))
    assert await iterations(order, 3) == ["a", "loop", "b", "loop", "c", "loop"]


async def test_slice_that_a_slice_adds_comes_after_an_iteration() -> None:
    scheduler, order = Scheduler(), list[str]()

    def again() -> None:
        order.append("again")
        if order.count("again") < 3:
            scheduler.add(again)

    scheduler.add(again)
    assert await iterations(order, 3) == ["again", "loop", "again", "loop", "again", "loop"]


async def test_slice_waits_behind_a_long_one_of_the_same_iteration() -> None:
    scheduler, order = Scheduler(), list[str]()
    scheduler.run(slow(order, "long"), lambda: order.append("never"))
    scheduler.run(lambda: order.append("never"), lambda: scheduler.add(lambda: order.append("later")))
    assert await iterations(order, 1) == ["long", "later", "loop"]
    scheduler.run(lambda: order.append("at once"), lambda: order.append("never"))
    assert order[-1] == "at once"


async def test_failed_slice_does_not_affect_other_slices() -> None:
    scheduler, order, failures = Scheduler(), list[str](), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))

    def fail() -> None:
        raise ValueError("a fault")

    scheduler.add(fail)
    scheduler.add(lambda: order.append("next"))
    assert await iterations(order, 2) == ["loop", "next", "loop"]
    assert [str(failure) for failure in failures] == ["a fault"]
