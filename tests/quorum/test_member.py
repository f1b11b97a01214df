"""Nodes of a cluster on a real NATS: they join, fall behind, come back, and say what they cannot get over."""

import shutil
import time
from pathlib import Path

import pytest

import cairnkv
from cairnkv.errors import OptionError
from cairnkv.server import member
from tests.quorum.nodes import PATIENCE, Nodes, client, told, until
from tests.support.nats import Nats


def test_nodes_agree(node: Nodes) -> None:
    with node("a") as first, node("b") as second, client(first) as one, client(second) as other:
        one.set("k", "1")
        assert other.incr("k") == 2
        assert one.get("k") == "2"
        until(lambda: told(first)["stream_position"] == told(second)["stream_position"])
        assert told(first)["state_digest"] == told(second)["state_digest"]
        assert told(first)["nats_sync"] == "proven"


def test_a_node_that_was_away_replays_what_it_missed(node: Nodes) -> None:
    with node("a") as first, client(first) as one:
        with node("b") as second, client(second) as other:
            other.set("k", "old")
        one.set("k", "new")
        with node("b") as second, client(second) as other:
            assert other.get("k") == "new"


def test_a_wiped_node_begins_from_a_snapshot(node: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "SNAPSHOT_ENTRIES", 20)
    monkeypatch.setattr(member, "SNAPSHOT_LOOK_SECONDS", 0.1)
    with node("a") as first, client(first) as one:
        with node("b") as second, client(second) as other:
            other.set("of b", "1")
        shutil.rmtree(tmp_path / "b")

        def write_until_truncated() -> bool:
            for number in range(30):
                one.set(f"key {number}", "value" * 100)
            return bool(first.call(lambda: first.server.member.stream.first > 20))  # type: ignore[union-attr]

        until(write_until_truncated)
        with node("b") as second, client(second) as other:
            assert other.get("key 7") == "value" * 100
            assert other.get("of b") == "1"
            assert other.count() == 31
            other.set("k", "v")
            assert one.get("k") == "v"
            until(lambda: told(first)["stream_position"] == told(second)["stream_position"])
            assert told(first)["state_digest"] == told(second)["state_digest"]


def test_another_stream_is_refused(node: Nodes, nats: Nats, tmp_path: Path) -> None:
    with node("a") as first, client(first) as one:
        one.set("k", "v")
    name = nats.fresh_name()
    with pytest.raises(OptionError, match="cairn cluster repair"), node("a", name=name):
        pass
    nats.forget(name)


def test_a_node_without_a_majority_refuses_and_comes_back(node: Nodes, nats: Nats) -> None:
    with node("a") as first, cairnkv.connect(first.url, timeout=PATIENCE) as one:
        one.set("k", "v")
        for server in nats.servers[:2]:
            server.pause()
        with pytest.raises((cairnkv.OutcomeUnknown, cairnkv.Unavailable)):
            one.set("k", "w")
        until(lambda: not told(first)["quorum"])
        assert one.local().get("k") == "v"
        for server in nats.servers[:2]:
            server.resume()
        until(lambda: bool(told(first)["quorum"]))
        assert one.get("k") in ("v", "w")
        one.set("k", "x")
        assert one.get("k") == "x"


def test_a_node_that_differs_stops(node: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "DIGEST_ENTRIES", 20)
    monkeypatch.setattr("cairnkv.store.replicated.DIGEST_ENTRIES", 20)
    with (
        node("a") as first,
        node("b") as second,
        node("c") as third,
        client(first) as one,
        client(third) as other,
    ):
        one.set("n", "1")
        assert other.get("n") == "1"
        third.call(lambda: third.server.store.keyspace.put(b"n", b"7", None))  # what no bug should do

        def goes_on() -> bool:
            one.incr("n")
            return bool(told(third)["stopped"])

        until(goes_on)
        assert not told(first)["stopped"]
        assert not told(second)["stopped"]
        with pytest.raises(cairnkv.CairnError, match="STOPPED"):
            other.get("n")


def test_what_is_said_on_channels_reaches_all_nodes(node: Nodes) -> None:
    redis = pytest.importorskip("redis")
    with node("a") as first, node("b") as second:
        assert first.address is not None
        assert second.address is not None
        listener = redis.Redis(*second.address).pubsub(ignore_subscribe_messages=True)
        listener.subscribe("news")
        until(lambda: listener.get_message(timeout=0.1) is None)
        redis.Redis(*first.address).publish("news", "hello")
        message = None
        end = time.monotonic() + PATIENCE
        while message is None and time.monotonic() < end:
            message = listener.get_message(timeout=1.0)
        assert message is not None
        assert message["data"] == b"hello"
        listener.close()


def test_the_full_log_takes_no_growth(node: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "FILL_MAX", 0.0)
    with node("a") as first, client(first) as one:
        with pytest.raises(cairnkv.CairnError, match="LOGFULL"):
            one.set("k", "v")
        assert one.get("k") is None
        one.clear_all()
