"""Clients of a node that proposes their commands as batches: each gets its own replies, all of them, in order."""

import contextlib
import random
from collections.abc import Iterator

import pytest

from cairnkv.commands import Append, Command, Get, Incr, Ping, Set, SetMany, SetWith
from cairnkv.limits import MIB
from cairnkv.protocol.native import CommandFlag, Response, write_command
from cairnkv.replication import proposer
from cairnkv.testing import RunningServer
from tests.replication.nodes import PATIENCE, Nodes, told, until
from tests.support.nats import Nats
from tests.support.raw import OK, PONG, RawClient, all_of, failed_with


def local(command: Command) -> bytes:
    """Return the frame of a command with the flag for a local read."""
    return write_command(command, flags=CommandFlag.LOCAL_READ)


@pytest.fixture
def two(node: Nodes) -> Iterator[tuple[RunningServer, RunningServer]]:
    """Run two nodes of a cluster."""
    with node("a") as one, node("b") as other:
        yield one, other


def test_many_clients_with_mixed_pipelines(two: tuple[RunningServer, RunningServer]) -> None:
    server, follower = two
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with all_of(RawClient(server.address) for _ in range(40)) as clients:
        expected: list[list[Response]] = []
        for n, client in enumerate(clients):
            said, replies = b"", []
            value = b""
            for step in range(200):
                key = b"key %d" % n
                kinds: list[tuple[Command, Response, bytes]] = [
                    (Set(key, b"%d" % step), OK, b"%d" % step),
                    (SetWith(key, b"%d?" % step, ttl=1_000_000), Response(True, b"1"), b"%d?" % step),
                    (SetMany(0, ((key, b"%d!" % step), (b"all", b""))), OK, b"%d!" % step),
                    (Append(key, b"+"), Response(True, b"%d" % (len(value) + 1)), value + b"+"),
                    (Ping(b""), PONG, value),
                ]
                if step:
                    kinds += [(Get(key), Response(True, value), value)] * 3
                command, reply, value = chance.choice(kinds if step else kinds[:1])
                said += write_command(command, flags=chance.choice([0, CommandFlag.LOCAL_READ]))
                replies.append(reply)
            expected.append(replies)
            client.send_in_pieces(said, chance.choice([len(said), 1_000, 100]))
        for client, replies in zip(clients, expected, strict=True):
            assert [client.reply() for _ in replies] == replies
    until(lambda: told(follower)["stream_position"] == told(server)["stream_position"])
    assert told(follower)["state_digest"] == told(server)["state_digest"]


def test_single_commands_of_many_clients(two: tuple[RunningServer, RunningServer]) -> None:
    server, _ = two
    with all_of(RawClient(server.address) for _ in range(100)) as clients:
        for _ in range(5):
            for client in clients:
                client.send_commands([Incr(b"n", 1)])
            counts = [int(client.reply().payload) for client in clients]
        assert sorted(counts) == list(range(401, 501))
        for client in clients:
            client.send_commands([Get(b"n")])
        assert {client.reply() for client in clients} == {Response(True, b"500")}


def test_local_reads_of_many_clients(two: tuple[RunningServer, RunningServer]) -> None:
    """Alone, in pipelines longer than the output buffer, and around pending replies."""
    server, _ = two
    with all_of(RawClient(server.address) for _ in range(70)) as clients:
        values = [Response(True, bytes([n]) * 3_000) for n in range(70)]
        for n, client in enumerate(clients):
            client.send_commands([Set(b"%d" % n, values[n].payload)])
            assert client.reply() == OK
        for _ in range(3):
            for n, client in enumerate(clients):
                client.send(local(Get(b"%d" % n)))
            assert [client.reply() for client in clients] == values
        for n, client in enumerate(clients):
            client.send(local(Get(b"%d" % n)) * 1_000)
        for n, client in enumerate(clients):
            assert [client.reply() for _ in range(1_000)] == [values[n]] * 1_000
        for n, client in enumerate(clients):
            read, written = local(Get(b"%d" % n)), write_command(Set(b"%d" % n, b"new"))
            client.send(read + write_command(Get(b"%d" % n)) + read)
            client.send(read + written + read)
        new = Response(True, b"new")
        for n, client in enumerate(clients):
            assert [client.reply() for _ in range(6)] == [*[values[n]] * 4, OK, new]
            assert client.ask(Get(b"%d" % n)) == new


def test_replies_of_unpredictable_length(two: tuple[RunningServer, RunningServer]) -> None:
    """Values are often set after the read is proposed: the node makes no copies, and serves other clients."""
    server, _ = two
    value, count = Response(True, bytes(60_000)), 2_000
    with RawClient(server.address) as client, RawClient(server.address) as other:
        client.send(write_command(Set(b"k", value.payload)) + write_command(Get(b"k")) * count)
        assert other.ask(Incr(b"n", 1)) == Response(True, b"1")
        assert client.reply() == OK
        for _ in range(count):
            assert client.reply() == value
        assert client.ask(Incr(b"n", 1)) == Response(True, b"2")


def test_local_reads_of_readonly_connections(two: tuple[RunningServer, RunningServer]) -> None:
    redis = pytest.importorskip("redis")
    server, follower = two
    assert server.address is not None
    with redis.Redis(*server.address, socket_timeout=PATIENCE) as one:
        one.set("k", "0", px=1_000_000)
        one.mset({"l": "2", "m": "3"})
        one.execute_command("READONLY")
        for n in range(1, 50):
            assert one.mget("k", "l", "no") == [b"%d" % (n - 1), b"2", None]
            assert one.set("k", "x", nx=True) is None
            assert one.set("k", str(n), px=1_000_000, xx=True)
            assert one.get("k") == b"%d" % n
            assert one.exists("k", "l", "no") == 2
    until(lambda: told(follower)["stream_position"] == told(server)["stream_position"])
    assert told(follower)["state_digest"] == told(server)["state_digest"]


def test_clients_that_disconnect_while_replies_are_pending(two: tuple[RunningServer, RunningServer]) -> None:
    server, _ = two
    with RawClient(server.address) as other:
        for _ in range(50):
            client = RawClient(server.address)
            client.send_commands([Incr(b"n", 1), Get(b"n")])
            client.reset()
        other.send_commands([Get(b"missing")])
        assert not other.reply().ok
        assert other.ask(Set(b"k", b"1")) == OK


def test_client_that_exceeds_its_limit_of_pending_replies(two: tuple[RunningServer, RunningServer]) -> None:
    server, _ = two
    with RawClient(server.address) as client:
        assert client.ask(Set(b"k", b"x" * 100_000)) == OK
        client.send(write_command(Get(b"k")) * 200 + write_command(Incr(b"n", 1)) * 10_000)
        assert [len(client.reply().payload) for _ in range(200)] == [100_000] * 200
        assert [client.reply().payload for _ in range(10_000)] == [b"%d" % n for n in range(1, 10_001)]


def test_bytes_of_pending_reads_are_bounded(node: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Further reads fail as not executed, and pending reads are answered in the end."""
    with node() as server, all_of(RawClient(server.address) for _ in range(40)) as clients:
        assert clients[0].ask(Set(b"k", b"1")) == OK
        monkeypatch.setattr(proposer, "QUEUED_BYTES_MAX", 2 * MIB)
        monkeypatch.setattr(proposer, "IN_FLIGHT_MAX", 0)  # nothing is published
        for client in clients:
            client.send_commands([Get(bytes(1_000))] * 60)
        until(lambda: told(server)["commands"] >= 40 * 60)
        monkeypatch.undo()
        replies = [client.reply() for client in clients for _ in range(60)]
        refused = [reply for reply in replies if failed_with(reply, "UNDONE")]
        assert 0 < len(refused) < len(replies)
        assert all(reply.missing or reply in refused for reply in replies)
        assert clients[0].ask(Get(b"k")) == Response(True, b"1")


def test_each_client_gets_its_own_failures_without_a_quorum(
    nats: Nats, node: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads fail at once, writes after the timeout, as unknown."""
    with node() as server, all_of(RawClient(server.address) for _ in range(3)) as (reads, writes, both):
        for client in (reads, writes, both):
            assert client.ask(Set(b"k", b"1")) == OK
        monkeypatch.setattr(proposer, "UNSEEN_SECONDS", 1.0)
        monkeypatch.setattr(proposer, "OUTCOME_SECONDS", 3.0)
        with contextlib.ExitStack() as stack:
            for paused in nats.servers[1:]:
                paused.pause()
                stack.callback(paused.resume)
            both.send_commands([Get(b"k"), Set(b"k", b"2"), Get(b"k")])
            writes.send_commands([Set(b"k", b"3")])
            reads.send_commands([Get(b"k"), Get(b"k")])
            assert [failed_with(client.reply(), "NOQUORUM") for client in (reads, reads)] == [True, True]
            assert failed_with(writes.reply(), "UNKNOWN")
            assert [both.reply().payload.split()[0] for _ in range(3)] == [b"NOQUORUM", b"UNKNOWN", b"NOQUORUM"]
            assert failed_with(both.ask(Set(b"k", b"4")), "NOQUORUM")
            both.send(local(Get(b"k")))
            assert both.reply() == Response(True, b"1")
        until(lambda: told(server)["quorum"] == 1)
        assert reads.ask(Set(b"k", b"5")) == OK
        assert writes.ask(Get(b"k")) == Response(True, b"5")
