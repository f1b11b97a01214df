"""Replies that wait for a commit, in the transport or in the session: each client gets its own, all, in order."""

import random
import threading

import pytest

from cairnkv.commands import Append, Clear, Command, Count, Get, Ping, Set, SetWith
from cairnkv.protocol.native import Response, write_command
from cairnkv.testing import RunningServer
from tests.server.conftest import Start
from tests.support.late_storage import LateStorage
from tests.support.raw import OK, PONG, RawClient, all_of, eventually, failed_with

MISS = Response(False, b"Key not found", 1)


@pytest.fixture
def storage() -> LateStorage:
    return LateStorage(keeps_effects=True)


def pending(server: RunningServer, storage: LateStorage) -> int:
    """How many entries wait, as the server's thread sees it."""
    return server.call(lambda: len(storage.pending))


def test_many_clients_with_mixed_pipelines(start_on_both: Start, storage: LateStorage) -> None:
    server = start_on_both(storage=storage)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    done = threading.Event()

    def commit_now_and_then() -> None:
        while not done.wait(0.003):
            server.call(lambda: storage.commit(chance.randrange(1, 20)))

    committing = threading.Thread(target=commit_now_and_then)
    with all_of(RawClient(server.address) for _ in range(40)) as clients:
        expected: list[list[Response]] = []
        committing.start()
        try:
            for n, client in enumerate(clients):
                said, replies = b"", []
                value = b""
                for step in range(200):
                    key = b"key %d" % n
                    kinds: list[tuple[Command, Response, bytes]] = [
                        (Set(key, b"%d" % step), OK, b"%d" % step),
                        (SetWith(key, b"%d!" % step, ttl=1_000_000), Response(True, b"1"), b"%d!" % step),
                        (Append(key, b"+"), Response(True, b"%d" % (len(value) + 1)), value + b"+"),
                        (Ping(b""), PONG, value),
                    ]
                    if step:
                        kinds += [(Get(key), Response(True, value), value)] * 3
                    command, reply, value = chance.choice(kinds if step else kinds[:1])
                    said += write_command(command)
                    replies.append(reply)
                expected.append(replies)
                client.send_in_pieces(said, chance.choice([len(said), 1_000, 100]))
            for client, replies in zip(clients, expected, strict=True):
                assert [client.reply() for _ in replies] == replies
        finally:
            done.set()
            committing.join()


def test_each_client_gets_its_own_failures_when_a_commit_fails(start_on_both: Start, storage: LateStorage) -> None:
    server = start_on_both(storage=storage)
    with all_of(RawClient(server.address) for _ in range(3)) as (one, other, third):
        for client in (one, other, third):
            client.send_commands([Ping(b"")])
            assert client.reply() == PONG
        one.send_commands([Set(b"a", b"1")])
        eventually(lambda: pending(server, storage) == 1)
        server.call(storage.commit)
        assert one.reply() == OK
        one.send_commands([Ping(b""), Set(b"a", b"2"), Get(b"a")])
        other.send_commands([Get(b"b"), Get(b"a"), Set(b"b", b"1")])
        values = server.server.store.databases[0].get
        eventually(lambda: server.call(lambda: (values(b"a"), values(b"b"))) == (b"2", b"1"))
        third.send_commands([Get(b"b"), Get(b"c")])
        server.call(lambda: storage.fail("the disk is gone", unknown=True))
        assert one.reply() == PONG
        assert failed_with(one.reply(), "UNKNOWN")
        assert failed_with(one.reply(), "UNDONE")
        assert other.reply() == MISS
        assert failed_with(other.reply(), "UNDONE")
        assert failed_with(other.reply(), "UNKNOWN")
        third.replies(2)
        assert third.ask(Get(b"a")) == Response(True, b"1")
        assert other.ask(Get(b"b")) == MISS


def test_half_closed_client_gets_its_pending_replies(start_on_both: Start, storage: LateStorage) -> None:
    server = start_on_both(storage=storage)
    with RawClient(server.address) as client:
        client.send_commands([Ping(b"")])
        assert client.reply() == PONG
        client.send_commands([Set(b"a", b"1"), Get(b"a")])
        eventually(lambda: pending(server, storage) == 1)
        client.half_close()
        server.call(storage.commit)
        assert [client.reply(), client.reply()] == [OK, Response(True, b"1")]
        assert client.is_closed()


def test_stopping_server_sends_pending_replies(start_on_both: Start, storage: LateStorage) -> None:
    server = start_on_both(storage=storage)
    with RawClient(server.address) as client:
        client.send_commands([Ping(b"")])
        assert client.reply() == PONG
        client.send_commands([Set(b"a", b"1"), Clear(b"b")])
        eventually(lambda: pending(server, storage) == 1)
        server.call(server.server.request_stop)
        server.call(storage.commit)
        assert [client.reply(), client.reply()] == [OK, OK]


def test_more_pending_replies_than_a_transport_holds(start_on_both: Start, storage: LateStorage) -> None:
    server = start_on_both(storage=storage)
    with RawClient(server.address) as client:
        client.send_commands([Ping(b"")])
        assert client.reply() == PONG
        for number in range(600):
            client.send_commands([Set(b"%d" % number, b"x" * 1_000), Get(b"%d" % number)])
            server.call(lambda: None)  # one turn of its loop, so that each is a run of its own
        client.send_commands([Count()])
        done = threading.Event()
        committing = threading.Thread(
            target=lambda: [server.call(storage.commit) for _ in iter(lambda: done.wait(0.01), True)]
        )
        committing.start()
        try:
            for _ in range(600):
                assert [client.reply(), client.reply()] == [OK, Response(True, b"x" * 1_000)]
            assert client.reply() == Response(True, b"600")
        finally:
            done.set()
            committing.join()


def test_replies_after_a_failure_follow_it(start_on_both: Start, storage: LateStorage) -> None:
    """Also if they are ready first, because the busy loop gets both at once."""
    server = start_on_both(storage=storage)
    with RawClient(server.address) as client:
        client.send_commands([Ping(b"")])
        assert client.reply() == PONG
        client.send_commands([Set(b"a", b"1")])
        eventually(lambda: pending(server, storage) == 1)

        def fail_late() -> None:
            client.send_commands([Ping(b"second")])
            storage.fail("the disk is gone", unknown=True)

        server.call(fail_late)
        assert failed_with(client.reply(), "UNKNOWN")
        assert client.reply() == Response(True, b"second")
