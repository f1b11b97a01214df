"""The Redis protocol at two nodes of a cluster, with redis-py."""

import concurrent.futures
from collections.abc import Iterator
from typing import Any

import pytest

from tests.replication.nodes import PATIENCE, Nodes, until

redis = pytest.importorskip("redis")


@pytest.fixture
def two(node: Nodes) -> Iterator[tuple[Any, Any]]:
    """Yield clients of two nodes."""
    with node("a") as first, node("b") as second:
        assert first.address is not None
        assert second.address is not None
        with (
            redis.Redis(*first.address, socket_timeout=PATIENCE, decode_responses=True) as one,
            redis.Redis(*second.address, socket_timeout=PATIENCE, decode_responses=True) as other,
        ):
            yield one, other


def test_watched_key_changed_at_another_node_aborts_the_transaction(two: tuple[Any, Any]) -> None:
    one, other = two
    other.set("n", 1)
    with one.pipeline() as pipe:
        pipe.watch("n")
        assert pipe.get("n") == "1"
        other.incr("n")
        pipe.multi()
        pipe.set("n", 100)
        pipe.publish("news", "not said")
        with pytest.raises(redis.WatchError):
            pipe.execute()
        pipe.watch("n")
        pipe.multi()
        pipe.incr("n")
        pipe.get("n")
        assert pipe.execute() == [3, "3"]
        pipe.watch("n")
        other.incr("n")
        pipe.unwatch()
        pipe.multi()
        pipe.incr("n")
        assert pipe.execute() == [5]
    assert other.get("n") == "5"


def test_discard_does_nothing_and_ends_the_watch(two: tuple[Any, Any]) -> None:
    one, other = two
    with one.client() as connection:
        assert connection.execute_command("WATCH", "k")
        assert connection.execute_command("MULTI")
        assert connection.execute_command("APPEND", "k", "v") == "QUEUED"
        assert connection.execute_command("DISCARD")
        assert other.get("k") is None
        other.set("k", "theirs")
        connection.execute_command("MULTI")
        connection.execute_command("APPEND", "k", "!")
        assert connection.execute_command("EXEC") == [7]
    assert other.get("k") == "theirs!"


def test_keys_and_flushall_cover_all_nodes(two: tuple[Any, Any]) -> None:
    one, other = two
    one.mset({f"k{number}": number for number in range(500)})
    assert sorted(other.keys("k*")) == sorted(f"k{number}" for number in range(500))
    assert other.dbsize() == 500
    other.flushall()
    assert one.keys("*") == []
    assert one.dbsize() == 0


def test_subscriber_at_another_node_gets_the_message(two: tuple[Any, Any]) -> None:
    one, other = two
    with other.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("news")
        heard: list[str] = []

        def said() -> bool:
            message = listener.get_message(timeout=0.1)
            if message is not None:
                heard.append(message["data"])
            with one.pipeline() as pipe:
                pipe.set("k", "v")
                pipe.publish("news", "hello")
                pipe.execute()
            return bool(heard)

        until(said)
        assert set(heard) == {"hello"}


def test_queues_are_shared_by_all_nodes(two: tuple[Any, Any]) -> None:
    one, other = two
    assert one.execute_command("QUEUE.PUT", "q", "first") == [2, 1]
    assert one.execute_command("QUEUE.PUTMANY", "q", 0, 1_000, "second", "third") == [3, 2]
    ((message, lease, attempt, milliseconds, _, group, body),) = other.execute_command("QUEUE.TAKE", "q", 1)
    assert (message, attempt, milliseconds, group, body) == (2, 1, 60_000, "", "first")
    with other.pipeline() as pipe:
        pipe.execute_command("QUEUE.ACK", message, lease + 1)
        pipe.set("k", "v")
        with pytest.raises(redis.ResponseError, match="STALE"):
            pipe.execute()
    assert one.get("k") is None
    with one.pipeline() as pipe:
        pipe.execute_command("QUEUE.ACK", message, lease)
        pipe.set("k", "v")
        assert pipe.execute() == [[1], True]
    assert other.get("k") == "v"
    assert other.execute_command("QUEUE.LOOK", message) is None
    ((name, *_),) = one.execute_command("QUEUE.TAKEANY", 1, 0, 0, "none", "q")
    assert name == "q"
    stats = other.execute_command("QUEUE.STATS", "q")
    pairs = stats if isinstance(stats, dict) else dict(zip(stats[::2], stats[1::2], strict=True))
    assert (pairs["ready"], pairs["leased"], pairs["acked"]) == (1, 1, 1)
    assert other.execute_command("QUEUE.LIST", 0, 10) == ["0", ["q"]]
    one.flushall()
    assert other.execute_command("QUEUE.PURGE", "q", "all", 0) == ["0", 2]
    assert one.execute_command("QUEUE.DROP", "q") == "OK"


def test_waiting_take_gets_the_message_of_another_node(two: tuple[Any, Any]) -> None:
    one, other = two
    assert one.execute_command("QUEUE.TAKE", "q", 1, "WAIT", 10) == []
    with concurrent.futures.ThreadPoolExecutor() as pool:
        taken = pool.submit(one.execute_command, "QUEUE.TAKE", "q", 1, "WAIT", 20_000)
        until(lambda: bool(one.info("clients")["blocked_clients"] == 1))
        assert other.execute_command("QUEUE.PUT", "q", "work") == [2, 1]
        (message,) = taken.result(PATIENCE)
    assert message[6] == "work"
    assert other.execute_command("QUEUE.ACK", *message[:2]) == [1]


def test_info_describes_the_cluster(two: tuple[Any, Any]) -> None:
    one, other = two
    one.set("k", "v")
    told = one.info("everything")
    assert (told["mode"], told["cluster_enabled"], told["quorum"], told["stopped"]) == ("replicated", 0, 1, "")
    assert told["nats_sync"] == "proven"
    assert told["stream_position"] >= 1
    assert len(told["nodes"].split()) == 2
    assert told["node"] != other.info("cluster")["node"]
    assert "rdb_last_save_time" not in told
    assert one.wait(1, 0) == 1  # a majority of three has it: another disk beside one
    with pytest.raises(redis.ResponseError, match="a node of a cluster has its snapshots in NATS"):
        one.execute_command("BGSAVE")
    assert one.lastsave() is None  # the client makes that of 0


def test_nodes_refuse_changes_of_users_and_show_equal_digests(two: tuple[Any, Any]) -> None:
    for client in two:
        for words in (("SETUSER", "app", "on"), ("DELUSER", "app")):
            with pytest.raises(redis.ResponseError, match="a node of a cluster does not change its users"):
                client.execute_command("ACL", *words)
        assert client.acl_users() == ["default"]
    one, other = two
    assert one.info("server")["users_digest"] == other.info("server")["users_digest"]
