"""MULTI and EXEC at nodes of a cluster: other effects wait for the log, and one command may fail."""

from typing import Any

import pytest

from cairnkv.commands import Failure, Get, Incr, Replies, Set, Step, failures
from cairnkv.engine import Database
from cairnkv.protocol.resp import NULL_ARRAY, OK, Error
from cairnkv.store import PendingReply
from tests.replication.test_sessions import QUEUED, chat_with, hear, settled
from tests.session.resp.chat import Chat
from tests.support.simulated import Cluster, Node


def published(node: Node) -> tuple[Chat, list[bytes]]:
    """Return a session, and the messages on channels that it receives."""
    chat = chat_with(node)
    said: list[bytes] = []
    chat.context.pubsub.relay = lambda channel, message: said.append(message)
    return chat, said


def say(chat: Chat, *lines: str) -> None:
    for line in lines:
        chat.send(*line.encode().split())


def changed_elsewhere(cluster: Cluster) -> None:
    """Another node has changed k. The entry is in the log, and the first node has not applied it."""
    other = chat_with(cluster.nodes[1])
    other.send(b"SET", b"k", b"theirs")
    cluster.nodes[1].pump()
    cluster.arrive()
    cluster.nodes[1].follow(9)
    assert other.hear() == [OK]


def test_aborted_transaction_publishes_nothing() -> None:
    cluster = settled()
    chat, said = published(cluster.nodes[0])
    say(chat, "WATCH k")
    assert hear(cluster, chat) == [OK]
    changed_elsewhere(cluster)
    say(chat, "MULTI", "SET k mine", "PUBLISH news hello", "SELECT 3", "EXEC", "GET k", "CLIENT GETNAME")
    assert hear(cluster, chat) == [OK, QUEUED, QUEUED, QUEUED, NULL_ARRAY, b"theirs", None]
    assert said == []


def test_transaction_publishes_after_its_commit_and_before_later_ones() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    chat, said = published(node)
    say(chat, "MULTI", "SET k 0", "SELECT 3", "SET k 3", "PUBLISH news hello", "CLIENT SETNAME me", "EXEC")
    say(chat, "GET k", "CLIENT GETNAME", "SELECT 0", "GET k")
    assert chat.hear() == [OK, *[QUEUED] * 5]
    assert said == []
    assert hear(cluster, chat) == [[OK, OK, OK, 0, OK], b"3", b"me", OK, b"0"]
    assert said == [b"hello"]


def test_transaction_of_a_client_without_replies_publishes_too() -> None:
    cluster = settled()
    chat, said = published(cluster.nodes[0])
    say(chat, "CLIENT REPLY OFF", "MULTI", "SET k v", "PUBLISH news hello", "EXEC", "CLIENT REPLY ON", "GET k")
    assert hear(cluster, chat) == [OK, b"v"]
    assert said == [b"hello"]


def test_nothing_is_published_without_a_quorum() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    chat, said = published(node)
    node.cut_off = True
    say(chat, "MULTI", "SET k v", "SELECT 3", "PUBLISH news hello", "EXEC", "PING")
    node.pump()
    for _ in range(20):
        cluster.now += 1
        node.tick()
    *_, failed, pong = chat.hear()
    assert isinstance(failed, Error)
    assert pong
    assert said == []
    assert chat.session._conversation.db == 0  # type: ignore[union-attr]


def test_command_without_memory_fails_and_the_others_succeed() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    node.running.memory.value_max = 1_000
    node.running.memory.limit = node.running.memory.used_bytes + 3_000
    chat = chat_with(node)
    chat.send(b"SET", b"l", b"x" * 900)
    assert hear(cluster, chat) == [OK]
    say(chat, "MULTI", "SET k v")
    chat.send(b"APPEND", b"l", b"y" * 200)
    chat.send(b"MSET", *[word for number in range(9) for word in (b"m%d" % number, b"z" * 999)])
    say(chat, "INCR n", "EXEC", "GET k")
    *_, replies, value = hear(cluster, chat)
    assert value == b"v"
    done, too_long, full, number = replies
    assert (done, number) == (OK, 1)
    assert "exceeds maximum allowed size" in too_long.text
    assert full.text.startswith("OOM")
    for other in cluster.nodes[1:]:
        assert other.running.databases[0].get(b"l") == b"x" * 900


def outcome(held: Any) -> Any:
    assert isinstance(held, PendingReply)
    assert held.reply is not None
    return held.reply


@pytest.mark.parametrize("at", [0, 1])
def test_node_without_memory_stops_and_applies_the_entry_on_restart(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Only this node fails, so it must not differ from the others. at: 0: its own entry; 1: another's."""
    cluster = settled()
    node, proposing = cluster.nodes[0], cluster.nodes[at]
    first, second = proposing.execute(Set(b"k", b"v")), proposing.execute(Incr(b"n", 1))
    both = proposing.running.execute_all([Step(0, Set(b"a", b"b")), Step(0, Get(b"k"))])
    proposing.pump()
    cluster.arrive()
    put = Database.put

    def fails(database: Database, key: bytes, *rest: Any) -> Any:
        if database is node.running.databases[0] and key == b"n":
            raise MemoryError
        return put(database, key, *rest)

    with monkeypatch.context() as poor:
        poor.setattr(Database, "put", fails)
        before = node.running.position
        node.follow()
    assert node.running.stopped is not None
    assert "memory" in node.running.stopped
    assert node.running.position == before
    if at == 0:
        assert outcome(first) == 0 or not isinstance(outcome(first), Failure)
        for held in (second, both):
            failure = outcome(held)
            assert isinstance(failure, Failure)
            assert failure.code is failures.UNKNOWN
    node.crash()
    node.start()
    cluster.settle()
    assert node.running.databases[0].get(b"n") == b"1"
    if at == 1:
        assert outcome(second) == 1
        assert isinstance(outcome(both), Replies)
