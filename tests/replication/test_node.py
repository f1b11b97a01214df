"""Nodes on a real NATS: they join, lag, recover, and report permanent errors."""

import asyncio
import contextlib
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nats as nats_client
import pytest
from nats.js.errors import Error as JetStreamError

import cairnkv
from cairnkv.errors import OptionError, Unavailable
from cairnkv.limits import MIB
from cairnkv.replication import node as node_module
from cairnkv.replication import node_health, node_snapshots
from cairnkv.replication.clocks import Clocks
from cairnkv.replication.nats.stream import Purged
from cairnkv.replication.nats.stream_config import log_subject
from cairnkv.replication.node_directory import NodeDirectory
from cairnkv.store import wall_clock
from cairnkv.testing import RunningServer
from tests.replication.nodes import PATIENCE, Nodes, client, told, until
from tests.replication.reading import api
from tests.support.nats import STREAM_LIMIT, Nats


def test_nodes_agree(node: Nodes) -> None:
    with node("a") as first, node("b") as second, client(first) as one, client(second) as other:
        one.set("k", "1")
        assert other.incr("k") == 2
        assert one.get("k") == "2"
        until(lambda: told(first)["stream_position"] == told(second)["stream_position"])
        assert told(first)["state_digest"] == told(second)["state_digest"]
        assert told(first)["nats_sync"] == "proven"


def test_restarted_node_replays_missed_entries(node: Nodes) -> None:
    with node("a") as first, client(first) as one:
        with node("b") as second, client(second) as other:
            other.set("k", "old")
        one.set("k", "new")
        with node("b") as second, client(second) as other:
            assert other.get("k") == "new"


def test_wiped_node_starts_from_a_snapshot(node: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_snapshots, "SNAPSHOT_ENTRIES", 20)
    monkeypatch.setattr(node_snapshots, "SNAPSHOT_LOOK_SECONDS", 0.1)
    with node("a") as first, client(first) as one:
        with node("b") as second, client(second) as other:
            other.set("of b", "1")
        shutil.rmtree(tmp_path / "b")

        def write_until_truncated() -> bool:
            for number in range(30):
                one.set(f"key {number}", "value" * 100)
            return bool(first.call(lambda: first.server.node.stream.first > 20))  # type: ignore[union-attr]

        until(write_until_truncated)
        with node("b") as second, client(second) as other:
            assert other.get("key 7") == "value" * 100
            assert other.get("of b") == "1"
            assert other.count() == 31
            other.set("k", "v")
            assert one.get("k") == "v"
            until(lambda: told(first)["stream_position"] == told(second)["stream_position"])
            assert told(first)["state_digest"] == told(second)["state_digest"]


def test_recreated_stream_is_refused(node: Nodes, nats: Nats, tmp_path: Path) -> None:
    with node("a") as first, client(first) as one:
        one.set("k", "v")
    name = nats.fresh_name()
    (tmp_path / "a" / "cluster").unlink()  # as releases left it that did not keep the name
    with pytest.raises(OptionError, match="cairn cluster repair"), node("a", name=name):
        pass
    nats.forget(name)


def test_node_without_a_quorum_refuses_and_recovers(node: Nodes, nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairnkv.replication.proposer.UNSEEN_SECONDS", 1.5)
    monkeypatch.setattr("cairnkv.replication.proposer.OUTCOME_SECONDS", 3.0)
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

        def recovered() -> bool:  # what was held in a paused server may come before an election that it has caused
            try:
                assert one.get("k") in ("v", "w", "x")
                one.set("k", "x")
                assert one.get("k") == "x"
            except (cairnkv.OutcomeUnknown, cairnkv.Unavailable, cairnkv.errors.Refused):
                return False
            return True

        until(recovered)


def test_node_leaves_a_nats_server_that_acknowledges_nothing(node: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one that was paused as leader: it claims to lead, answers, and logs nothing."""
    monkeypatch.setattr("cairnkv.replication.proposer.UNSEEN_SECONDS", 1.0)
    monkeypatch.setattr(node_health, "LEAVE_SECONDS", 0.5)
    with node("a") as first, client(first) as one:
        one.set("k", "v")
        nc = node_of(first).stream.nc
        send, bad = nc.send, nc.connected_url

        def swallowed(subject: str, data: bytes, reply: str = "") -> None:
            if nc.connected_url != bad or subject != log_subject(node.name):
                send(subject, data, reply)

        monkeypatch.setattr(nc, "send", swallowed)
        until(lambda: not told(first)["quorum"])
        until(lambda: bool(told(first)["quorum"]))
        assert nc.connected_url != bad
        one.set("k", "w")
        assert one.get("k") == "w"


def test_isolated_leader_gets_no_new_proposals(node: Nodes, nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its uncommitted entries are removed one by one, and until then it lags."""
    monkeypatch.setattr("cairnkv.replication.proposer.UNSEEN_SECONDS", 1.5)
    monkeypatch.setattr("cairnkv.replication.proposer.OUTCOME_SECONDS", 3.0)
    monkeypatch.setattr(node_health, "LEAVE_SECONDS", PATIENCE)
    with node("a") as first, client(first) as one, contextlib.ExitStack() as stack:
        one.set("k", "v")
        there = node_of(first)
        asked = api(there.stream, f"STREAM.INFO.{there.stream.identity.stream}")
        leader = asyncio.run_coroutine_threadsafe(asked, first.loop).result(PATIENCE)["cluster"]["leader"]
        said: list[str] = []
        send = there.stream.nc.send

        def counted(subject: str, data: bytes, reply: str = "") -> None:
            said.append(subject)
            send(subject, data, reply)

        for server in nats.servers:
            if server.config.name != leader:
                server.pause()
                stack.callback(server.resume)
        with pytest.raises((cairnkv.OutcomeUnknown, cairnkv.Unavailable)):
            one.set("k", "w")
        until(lambda: not told(first)["quorum"] and there.stream.led_alone and there.stream.connected)
        monkeypatch.setattr(there.stream.nc, "send", counted)
        time.sleep(2.0)
        assert there.stream.connected
        assert not said
        stack.close()
        until(lambda: bool(told(first)["quorum"]))
        assert one.get("k") in ("v", "w")


def test_node_with_a_different_digest_stops(node: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "DIGEST_ENTRIES", 20)
    monkeypatch.setattr("cairnkv.replication.store.DIGEST_ENTRIES", 20)
    with (
        node("a") as first,
        node("b") as second,
        node("c") as third,
        client(first) as one,
        client(third) as other,
    ):
        one.set("n", "1")
        assert other.get("n") == "1"
        third.call(lambda: third.server.store.databases[0].put(b"n", b"7", None))  # what no bug should do

        def goes_on() -> bool:
            one.incr("n")
            return bool(told(third)["stopped"])

        until(goes_on)
        assert not told(first)["stopped"]
        assert not told(second)["stopped"]
        with pytest.raises(cairnkv.CairnError, match="STOPPED"):
            other.get("n")


def test_published_messages_reach_all_nodes(node: Nodes) -> None:
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


def test_full_log_refuses_growing_writes(node: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_snapshots, "FILL_MAX", 0.0)
    with node("a") as first, client(first) as one:
        with pytest.raises(cairnkv.CairnError, match="LOGFULL"):
            one.set("k", "v")
        assert one.get("k") is None
        one.clear_all()


def test_local_reads_report_a_lag_while_entries_wait(node: Nodes) -> None:
    with node("a") as first, client(first) as one:
        one.set("k", "v")
        there = first.server.node
        assert there is not None
        apply = there._apply

        async def later(batch: list[tuple[int, bytes]]) -> bool:
            await asyncio.sleep(1.5)
            return await apply(batch)

        first.call(lambda: setattr(there, "_apply", later))
        end = time.monotonic() + 4.0
        one.set("k", "w")  # and so something has come back
        behind = []
        while time.monotonic() < end:
            behind.append(told(first)["local_reads_behind_ms"])
        assert min(behind[len(behind) // 2 :]) >= 1_000


def test_replayed_entries_do_not_affect_the_clock_check(node: Nodes) -> None:
    with node("a"):
        pass
    with node("b") as second, client(second) as other:
        other.set("k", "v")
    time.sleep(1.5)
    with node("a") as first, client(first) as one:
        one.set("k", "w")
        assert told(first)["clock_off_ms"] == 0
        time.sleep(2 * node_module.TICK_SECONDS)
        assert told(first)["clock_off_ms"] == 0


def test_write_too_large_for_the_log_is_refused_without_retries(node: Nodes) -> None:
    with node("a") as first:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(client(first)) for _ in range(8)]

            def fill(number: int) -> str:
                try:
                    for count in range(STREAM_LIMIT):
                        clients[number].set(f"{number} {count}", "v" * 900_000)
                except cairnkv.CairnError as error:
                    return str(error)
                return ""

            with ThreadPoolExecutor(len(clients)) as threads:
                for said in threads.map(fill, range(len(clients))):
                    assert "LOGFULL" in said
            clients[0].clear("0 0")
            assert clients[0].get("0 0") is None
        assert told(first)["stream_position"] < 200


def test_full_log_is_truncated_without_many_more_entries(node: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_snapshots, "SNAPSHOT_LOOK_SECONDS", 0.2)
    monkeypatch.setattr(node_snapshots, "SNAPSHOT_FILL", 0.0)
    monkeypatch.setattr(node_snapshots, "FILL_MAX", 0.0)
    with node("a") as first, client(first) as one:
        for number in range(node_snapshots.SNAPSHOT_LEAST + 10):
            one.clear(f"{number}")
        until(lambda: first.call(lambda: node_of(first).stream.first) > node_snapshots.SNAPSHOT_LEAST)
        assert told(first)["stream_position"] < 2 * node_snapshots.SNAPSHOT_LEAST


def test_completely_full_log_is_truncated(node: Nodes, nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_snapshots, "SNAPSHOT_LOOK_SECONDS", 0.5)
    monkeypatch.setattr(node_snapshots, "SNAPSHOT_LEAST", 10_000)  # none while there is quorum
    monkeypatch.setattr("cairnkv.replication.proposer.UNSEEN_SECONDS", 1.5)
    with node("a") as first, client(first) as one:
        one.set("k", "v")
        asyncio.run(filled(nats, first.server.settings.name))
        until(lambda: not told(first)["quorum"])
        until(lambda: bool(told(first)["quorum"]))
        one.set("k", "w")
        assert one.get("k") == "w"


async def filled(nats: Nats, name: str) -> None:
    """Fill the log with entries of no proposer until it refuses them."""
    connection = await nats_client.connect(list(nats.urls))
    stream = connection.jetstream(timeout=PATIENCE)
    size = MIB // 2
    while size:
        try:
            await stream.publish(log_subject(name), bytes(size))
        except JetStreamError:
            size //= 2
    await connection.close()


@pytest.mark.parametrize("others", [("a",), ("a", "c")])
def test_joining_node_with_a_wrong_clock_does_not_move_log_time(node: Nodes, others: tuple[str, ...]) -> None:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(node(name)) for name in others]
        one = stack.enter_context(client(servers[0]))
        with node("b"):
            one.set("k", "v")
        with node("b", clock=lambda: wall_clock() + 300_000) as off:
            with (
                pytest.raises(cairnkv.CairnError, match="CLOCK"),
                cairnkv.connect(off.url, timeout=5.0, attempts=1) as other,
            ):
                other.set("k", "w")
            one.set("k", "x")
            assert told(off)["clock_off_ms"] > 299_000
            assert servers[0].call(lambda: servers[0].server.store.databases[0].now) < wall_clock() + 1_000


def test_removed_buckets_and_snapshots_are_created_again(
    node: Nodes, nats: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_snapshots, "SNAPSHOT_LOOK_SECONDS", 0.2)
    monkeypatch.setattr(node_snapshots, "SNAPSHOT_FILL", 0.0)
    with node("a") as first, client(first) as one:
        one.set("k", "v")

        def truncated() -> bool:
            for number in range(30):
                one.clear(f"{number}")
            return bool(first.call(lambda: node_of(first).stream.first) > 1)

        until(truncated)
        monkeypatch.setattr(node_snapshots, "SNAPSHOT_FILL", 2.0)  # there is no other reason for one
        before = told(first)
        assert before["snapshot_position"] > 0
        asyncio.run(without_buckets(nats, first.server.settings.name))
        until(lambda: told(first)["snapshot_made"] > before["snapshot_made"])
        until(lambda: told(first)["snapshot_trouble"] == "")
        with node("b") as second, client(second) as other:
            assert other.get("k") == "v"


async def without_buckets(nats: Nats, name: str) -> None:
    """Delete the buckets of snapshots and leases."""
    connection = await nats_client.connect(list(nats.urls))
    stream = connection.jetstream(timeout=PATIENCE)
    for bucket in (f"OBJ_CAIRN_{name}_snapshots", f"KV_CAIRN_{name}_leases"):
        await stream.delete_stream(bucket)
    await connection.close()


def test_wrong_name_creates_no_stream(node: Nodes, nats: Nats) -> None:
    with node("a") as first, client(first) as one:
        one.set("k", "v")
    other = nats.fresh_name()
    with pytest.raises(OptionError, match=f"of cluster {node.name}, not {other}: use --name"), node("a", name=other):
        pass

    async def streams() -> list[str]:
        connection = await nats_client.connect(list(nats.urls))
        try:
            return [one.config.name or "" for one in await connection.jetstream(timeout=PATIENCE).streams_info()]
        finally:
            await connection.close()

    assert not [name for name in asyncio.run(streams()) if other in name]


def test_node_with_a_full_disk_reports_it_and_recovers(
    node: Nodes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cairnkv.replication.proposer.UNSEEN_SECONDS", 1.5)
    with node("a") as first, client(first) as one, node("b") as second, client(second) as other:
        one.set("k", "v")
        until(lambda: other.get("k") == "v")
        db = node_of(first).store.own_table._space  # type: ignore[attr-defined]
        measure, db.measure = db.measure, lambda: None
        db.full = "its file system of 3 bytes is 99 % used"
        other.set("k", "w")
        until(lambda: told(first)["quorum"] == 0)
        assert told(first)["table_trouble"] == "the disk of this node's own table is full"
        assert told(first)["stopped"] == ""
        with (
            cairnkv.connect(first.url, attempts=1) as refused,
            pytest.raises(cairnkv.CairnError, match=r"NOQUORUM.*the disk of this node's own table is full"),
        ):
            refused.set("k", "x")
        assert [one.levelname for one in caplog.records if "own table is full: its file" in one.getMessage()] == [
            "ERROR"
        ]
        db.measure, db.full = measure, None
        until(lambda: told(first)["quorum"] == 1)
        assert told(first)["table_trouble"] == ""
        assert one.get("k") == "w"


class TestClocks:
    """The clock check of two or three nodes. Times are in ms, but the monotonic clock is in seconds."""

    def test_entry_from_the_future_shows_that_the_own_clock_is_behind(self) -> None:
        clocks = Clocks()
        clocks.note(1, 105_000, math.inf, 100.0)
        assert clocks.off(100_000, 100.0) == -5_000

    def test_old_entry_shows_that_the_own_clock_is_ahead(self) -> None:
        clocks = Clocks()
        clocks.note(1, 95_000, 200.0, 100.0)
        assert clocks.off(100_000, 100.0) == 4_800
        assert clocks.off(95_100, 100.0) == 0

    @pytest.mark.parametrize("late", [12_000.0, math.inf])
    def test_delayed_entries_show_nothing(self, late: float) -> None:
        clocks = Clocks()
        for second in range(100, 115):
            clocks.note(1, 1000 * second - 12_000, late, float(second))
            clocks.note(2, 1000 * second - 4_000, late, float(second))
            assert clocks.off(1000 * second, float(second)) == 0

    def test_least_delayed_recent_entry_decides(self) -> None:
        clocks = Clocks()
        clocks.note(1, 96_950, 60.0, 100.0)  # it is 3 s behind us
        clocks.note(1, 92_000, 9_000.0, 101.0)
        clocks.note(1, 97_000, 9_000.0, 102.0)
        assert clocks.off(102_000, 102.0) == 2_990
        assert clocks.off(111_500, 111.5) == 0, "what is known from before is too old by now"

    def test_clock_that_agrees_with_one_node_is_right(self) -> None:
        clocks = Clocks()
        clocks.note(1, 40_000, 60.0, 100.0)
        clocks.note(2, 99_990, 60.0, 100.0)
        assert clocks.off(100_000, 100.0) == 0

    def test_node_with_delayed_entries_does_not_count_as_agreeing(self) -> None:
        clocks = Clocks()
        clocks.note(1, 40_000, 60.0, 100.0)
        clocks.note(2, 40_000, math.inf, 100.0)
        assert clocks.off(100_000, 100.0) == 59_940

    def test_step_of_the_own_clock_shows_at_once(self) -> None:
        clocks = Clocks()
        clocks.note(1, 99_990, 60.0, 100.0)
        assert clocks.off(100_000, 100.0) == 0
        assert clocks.off(400_000, 100.0) == 299_950


def test_late_applied_entries_do_not_affect_the_clock_check(node: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairnkv.replication.clocks.CLOCK_SECONDS", 3.0)  # so that what came in time is forgotten soon
    with node("a") as first, client(first) as one, node("b") as second, client(second) as other:
        other.set("k", "v")
        there = node_of(first)
        apply = there._apply

        async def later(batch: list[tuple[int, bytes]]) -> bool:
            await asyncio.sleep(2.5)
            return await apply(batch)

        first.call(lambda: setattr(there, "_apply", later))
        end = time.monotonic() + 8.0
        seen = set()
        while time.monotonic() < end:
            other.set("k", "w")
            seen.add(told(first)["clock_off_ms"])
        assert seen == {0}
        first.call(lambda: setattr(there, "_apply", apply))
        one.set("k", "x")


def test_clock_step_does_not_move_log_time(node: Nodes) -> None:
    off = [0]
    with (
        node("a") as first,
        node("b", clock=lambda: wall_clock() + off[0]) as second,
        cairnkv.connect(second.url, timeout=PATIENCE, attempts=1) as other,
    ):
        other.set("k", "v")
        until(lambda: bool(second.call(lambda: node_of(second)._health._clocks._seen)))
        off[0] = 300_000

        def is_refused() -> bool:
            try:
                other.set("k", "w")
            except cairnkv.CairnError as refused:
                return "CLOCK" in str(refused)
            return False

        until(is_refused)
        assert other.get("k") in ("v", "w")
        assert first.call(lambda: first.server.store.databases[0].now) < wall_clock() + 1_000
        assert told(first)["clock_off_ms"] == 0
        off[0] = 0
        until(lambda: not is_refused())


def node_of(server: RunningServer) -> node_module.Node:
    """Return the node of a running server."""
    assert server.server.node is not None
    return server.server.node


def test_node_before_the_log_waits_for_a_missing_snapshot(node: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_snapshots, "SNAPSHOT_LOOK_SECONDS", 0.1)
    with node("a") as first, client(first) as one:
        there = node_of(first)
        apply = there._apply
        attempts: list[int] = []

        async def purged(batch: list[tuple[int, bytes]]) -> bool:
            if len(attempts) == 2:
                monkeypatch.setattr(there, "_apply", apply)
            raise Purged(7)

        async def taken() -> None:
            attempts.append(1)
            if len(attempts) < 3:
                raise Unavailable("no leader")

        monkeypatch.setattr(there, "_apply", purged)
        monkeypatch.setattr(there._snapshots, "begin_from_newest", taken)
        with contextlib.suppress(cairnkv.CairnError):
            one.set("k", "v")
        one.set("k", "w")
        assert one.get("k") == "w"
        assert len(attempts) == 3


def test_lagging_node_serves_once_it_has_caught_up(node: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    with node("a") as first, client(first) as one:
        one.set("k", "v")
        there = node_of(first)
        apply, taken = there._apply, asyncio.Event()
        loading: list[bool] = []  # as each list of entries came behind the snapshot

        async def looked_at(batch: list[tuple[int, bytes]]) -> bool:
            if not taken.is_set():
                raise Purged(7)
            loading.append(there.store.loading)
            return await apply(batch)

        async def take() -> None:  # as another table in the place of this node's leaves it
            there.store.loading = True
            there.store.proposer.interrupt(there.store._loads())
            taken.set()

        monkeypatch.setattr(there, "_apply", looked_at)
        monkeypatch.setattr(there._snapshots, "begin_from_newest", take)
        until(lambda: bool(loading) and not there.store.loading)
        assert loading[0]
        one.set("k", "w")
        assert one.get("k") == "w"


def test_node_that_has_not_joined_makes_no_snapshot(node: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_snapshots, "SNAPSHOT_FILL", 0.0)
    monkeypatch.setattr(node_snapshots, "SNAPSHOT_LEAST", 1)
    with node("a") as first, client(first) as one:
        there = node_of(first)
        one.set("k", "v")
        first.call(lambda: there.store.leave("its state is not that of others"))
        for work in (there._snapshots.make_if_due(), there._snapshots._snapshots.newest()):
            assert asyncio.run_coroutine_threadsafe(work, first.loop).result(PATIENCE) is None


def test_node_reports_a_fault_of_its_publisher(node: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    with node("a") as first, client(first) as one:
        one.set("k", "v")
        monkeypatch.setattr(node_of(first).stream.nc, "send", None)
        with pytest.raises(cairnkv.OutcomeUnknown):
            one.set("k", "w")
        assert "fault" in told(first)["stopped"]
        assert one.local().get("k") == "v"


def test_node_that_fails_to_join_releases_its_directory(node: Nodes, nats: Nats) -> None:
    with node("a") as first, client(first) as one:
        one.set("k", "v")
    name = nats.fresh_name()
    (node.directory / "a" / "cluster").unlink()
    with pytest.raises(OptionError, match="repair"), node("a", name=name):
        pass
    nats.forget(name)
    with node("a") as first, client(first) as one:
        assert one.get("k") == "v"


def test_crash_during_removal_of_the_store_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = NodeDirectory(tmp_path)
    for _ in range(2):
        directory.table.mkdir()
        (directory.table / "CURRENT").touch()
        with monkeypatch.context() as crash:
            crash.setattr(shutil, "rmtree", lambda path, **_: (path / "CURRENT").unlink(missing_ok=True))
            with contextlib.suppress(OSError):
                directory.remove_table()
        assert not directory.table.exists()
        directory.remove_table()
        assert not list(tmp_path.iterdir())
