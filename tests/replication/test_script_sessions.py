"""Clients of the Redis protocol that execute Lua scripts at nodes of a cluster."""

import pytest

from cairnkv.protocol.resp import NULL_ARRAY, OK, Error
from tests.replication.test_scripts import log_items
from tests.replication.test_sessions import QUEUED, hear, settled
from tests.replication.test_transactions import changed_elsewhere, published, say
from tests.session.resp.chat import Chat

pytest.importorskip("lupa")

ADD = "local sum = (redis.call('GET', KEYS[1]) or 0) + 1 redis.call('SET', KEYS[1], sum) return sum"


def add(chat: Chat, key: str = "n") -> None:
    chat.send(b"EVAL", ADD.encode(), b"1", key.encode())


def test_commands_of_a_client_execute_in_order_around_scripts() -> None:
    cluster = settled()
    chat, other = (published(node)[0] for node in cluster.nodes[:2])
    for one in (chat, other):
        say(one, "INCR n")
        add(one)
        say(one, "INCR n", "GET n")
        add(one)
        say(one, "GET n")
    heard = [hear(cluster, chat), hear(cluster, other)]
    assert [len(replies) for replies in heard] == [6, 6]
    sums = [reply for replies in heard for reply in (replies[0], replies[1], replies[2], replies[4])]
    assert sorted(sums) == list(range(1, 9)), "each addition has a sum of its own"
    for first, second, third, read, fourth, last in heard:
        assert first < second < third <= int(read) < fourth <= int(last)


def test_transaction_with_a_script_is_one_entry() -> None:
    cluster = settled()
    chat, said = published(cluster.nodes[0])
    add(chat)
    assert hear(cluster, chat) == [1]
    at = len(cluster.stream)
    say(chat, "MULTI", "SET n 5")
    add(chat)
    say(chat, "PUBLISH news hello", "GET n", "EXEC", "GET n")
    assert said == []
    assert hear(cluster, chat) == [OK, *[QUEUED] * 4, [OK, 6, 0, b"6"], b"6"]
    assert [kind for kind in log_items(cluster, at) if kind == "TRANSACTION"] == ["TRANSACTION"]
    assert said == [b"hello"]


def test_watched_change_aborts_a_transaction_with_a_script() -> None:
    cluster = settled()
    chat, said = published(cluster.nodes[0])
    say(chat, "WATCH k")
    assert hear(cluster, chat) == [OK]
    changed_elsewhere(cluster)
    say(chat, "MULTI")
    add(chat)
    say(chat, "PUBLISH news hello", "EXEC", "GET n")
    assert hear(cluster, chat) == [OK, QUEUED, QUEUED, NULL_ARRAY, None]
    assert said == []


def test_script_publishes_once_and_after_its_commit() -> None:
    """Its first run has a conflict."""
    cluster = settled()
    chat, said = published(cluster.nodes[0])
    source = b"redis.call('PUBLISH', 'news', redis.call('GET', 'k') or 'none') return redis.call('INCR', KEYS[1])"
    for _ in range(2):
        chat.send(b"EVAL", source, b"1", b"n")
        say(chat, "DEL k")
    assert hear(cluster, chat) == [1, 0, 2, 0]
    assert said == [b"none", b"none"]
    chat.send(b"EVAL", source, b"1", b"n")
    assert chat.hear() == []
    changed_elsewhere(cluster)
    assert hear(cluster, chat) == [3]
    assert said == [b"none", b"none", b"theirs"]


def test_script_of_a_client_that_leaves_is_executed_or_not() -> None:
    cluster = settled()
    chat, _ = published(cluster.nodes[0])
    staying, _ = published(cluster.nodes[0])
    add(staying)
    hear(cluster, staying)
    for one in (chat, chat, staying):
        add(one)
    chat.session.disconnected()
    for _ in range(3):
        cluster.settle()
        cluster.nodes[0].running.housekeep()
    (total,) = hear(cluster, staying)
    assert total in (2, 3)


def test_nothing_is_executed_without_a_quorum() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    chat, said = published(node)
    node.cut_off = True
    chat.send(b"EVAL", b"redis.call('PUBLISH', 'news', 'hello') return redis.call('INCR', KEYS[1])", b"1", b"n")
    say(chat, "PING")
    for _ in range(20):
        cluster.now += 1
        node.tick()
    failed, pong = chat.hear()
    assert isinstance(failed, Error)
    assert failed.text.startswith("CLUSTERDOWN")
    assert pong
    assert said == []
