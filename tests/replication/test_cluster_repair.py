"""`cairn cluster repair`: its report, its confirmation, and recovery after the loss of NATS data."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import nats as nats_client
import pytest

import cairnkv
from cairnkv.cli.main import main
from cairnkv.errors import OptionError
from cairnkv.lab.cluster import LocalCluster
from cairnkv.replication import node as node_module
from cairnkv.replication import snapshot_files
from cairnkv.replication.cluster_repair import GAP, Log, Repair, Table, advice, problem
from cairnkv.replication.nats.options import ClusterOptions
from cairnkv.replication.node_directory import NodeDirectory
from cairnkv.replication.node_table import POSITION, POSITION_KEY
from tests.replication.nodes import Nodes, client, told, until
from tests.support.nats import STREAM_LIMIT, Nats

PATIENCE = 30.0

WRITTEN = 25 * node_module.TABLE_GATHER
"""Seconds in which a node's table has what the log has had; a node that is killed before may lose it there."""


@pytest.fixture(autouse=True)
def sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the timeouts after which the stream and the nodes count as lost."""
    monkeypatch.setattr("cairnkv.replication.nats.stream.REFUSAL_TIMEOUT", 0.5)
    monkeypatch.setattr("cairnkv.replication.cluster_repair.ALIVE_SECONDS", 2.5)


def repair(node: Nodes, directory: str, *flags: str) -> int:
    """Run `cairn cluster repair` for a node."""
    where = ["--cluster", ",".join(node.nats.urls), "--name", node.name, "--log-limit", str(STREAM_LIMIT)]
    return main(["cluster", "repair", str(node.directory / directory), *where, *flags])


def looked(node: Nodes, directory: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the report as JSON."""
    capsys.readouterr()
    code = repair(node, directory, "--json")
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == (0 if said["problem"] is None else 1)
    return said


def lose_all(nats: Nats) -> None:
    """Delete all streams, as if NATS' disks were new."""

    async def delete() -> None:
        nc = await nats_client.connect(list(nats.urls))
        js = nc.jetstream(timeout=PATIENCE)
        for info in await js.streams_info():
            await js.delete_stream(str(info.config.name))
        await nc.close()

    asyncio.run(delete())


def files(directory: Path) -> dict[str, bytes]:
    """Return all files of a directory except RocksDB's logs and locks."""
    found = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


# -- what is said of it ------------------------------------------------------------------------------------------

LOG = Log("CAIRN_x", identity=5, first=1, last=100, silent=60.0)


@pytest.mark.parametrize(
    ("own", "log", "said"),
    [
        (Table(1, True, 5, 100), LOG, None),
        (Table(1, True, 5, 40), LOG, None),
        (Table(1, False), LOG, None),
        (Table(1, True, 4, 100), LOG, "belongs to a stream created"),
        (Table(1, True, 5, 101), LOG, "it has lost entries"),
        (Table(1, True, 5, 100), Log("CAIRN_x"), "no stream CAIRN_x"),
        (Table(1, True, 5, 100), Log("CAIRN_x", 5, 102, 101), "no snapshot has the entries"),
        (Table(1, True, 5, 101), Log("CAIRN_x", 5, 102, 101), None),
        (Table(1, True, wrong=("a block",)), LOG, "the table is damaged: a block"),
    ],
)
def test_report_names_the_problem(own: Table, log: Log, said: str | None) -> None:
    found = problem(own, log)
    if said is None:
        assert found is None
    else:
        assert found is not None
        assert said in found
        assert advice(own, log)


# -- on a real NATS ----------------------------------------------------------------------------------------------


def test_report_changes_nothing(node: Nodes, capsys: pytest.CaptureFixture[str]) -> None:
    with node("a") as first, client(first) as one:
        one.set("k", "v")
        position = told(first)["stream_position"]
        assert repair(node, "a") == 2
        assert "already open" in capsys.readouterr().err
    before = files(node.directory)
    said = looked(node, "a", capsys)
    assert said["problem"] is None
    assert said["table"]["position"] >= position
    assert said["table"]["keys"] == 1
    assert said["stream"]["alive"]
    assert repair(node, "a") == 0
    assert "the table matches the stream" in capsys.readouterr().out
    assert repair(node, "a", "--rejoin") == 2
    assert "confirm with --yes" in capsys.readouterr().err
    assert files(node.directory) == before
    with node("a") as first, client(first) as one:
        assert one.get("k") == "v"


def test_directory_without_a_node_is_refused(node: Nodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with node("a"):
        assert repair(node, "nothing") == 2
        assert "not the directory of a node" in capsys.readouterr().err
        assert not (tmp_path / "nothing").exists()


def test_working_stream_is_not_replaced(node: Nodes, capsys: pytest.CaptureFixture[str]) -> None:
    with node("a") as first, client(first) as one:
        with node("b"):
            one.set("k", "v")
        assert repair(node, "b", "--begin-from", "--yes") == 2
        assert "a node wrote to stream" in capsys.readouterr().err
        assert one.get("k") == "v"


def test_cluster_recovers_from_the_newest_node_after_loss_of_nats(
    node: Nodes, nats: Nats, capsys: pytest.CaptureFixture[str]
) -> None:
    with node("a") as first, client(first) as one:
        with node("b") as second, client(second) as other, node("c"):
            for number in range(20):
                other.set(f"key {number}", "old")
            one.set("large", "x" * 300_000)
        one.set("newest", "only a has it", ttl=3600)
        digest = told(first)["state_digest"]
    lose_all(nats)
    said = looked(node, "a", capsys)
    assert "no stream" in said["problem"]
    assert said["table"]["digest"] == digest
    assert repair(node, "a", "--begin-from", "--yes") == 0
    assert looked(node, "a", capsys)["problem"] is None
    assert len(list((node.directory / "a").glob("table.before-*"))) == 1
    with node("a") as first, client(first) as one:
        assert one.get("newest") == "only a has it"
        one.set("after", "1")
        with pytest.raises(OptionError, match="cairn cluster repair"), node("b"):
            pass
        assert "belongs to a stream created" in looked(node, "b", capsys)["problem"]
        assert repair(node, "b", "--rejoin", "--yes") == 0
        with node("b") as second, client(second) as other, node("d") as fourth:  # one that is new, too
            assert other.get("newest") == "only a has it"
            assert other.get("large") == "x" * 300_000
            assert other.count() == 23
            other.set("after", "2")
            assert one.get("after") == "2"
            until(lambda: told(first)["stream_position"] == told(second)["stream_position"])
            assert told(first)["stream_position"] > GAP
            digests = [told(server)["state_digest"] for server in (first, second, fourth)]
            assert len(set(digests)) == 1
    assert len(list((node.directory / "b").glob("table.before-*"))) == 1


def test_truncated_stream_is_replaced_from_a_newer_node(node: Nodes, capsys: pytest.CaptureFixture[str]) -> None:
    """The node's state is newer than the end of its stream."""
    with node("a") as first, client(first) as one:
        with node("b") as second, client(second) as other:
            other.set("k", "before")
        one.set("k", "after")

    def in_stream(position: int) -> None:
        """Set the position in a table's record."""
        path = NodeDirectory(node.directory / "a").table
        packed = snapshot_files.node_record(path, POSITION_KEY)
        assert packed is not None
        _, identity, now, digest = POSITION.unpack(packed)
        snapshot_files.put_node_record(path, POSITION_KEY, POSITION.pack(position, identity, now, digest))

    in_stream(500)
    with pytest.raises(OptionError, match=r"the stream ends at position .*cairn cluster repair"), node("a"):
        pass
    assert "lost entries" in looked(node, "a", capsys)["problem"]
    until(lambda: not looked(node, "a", capsys)["stream"]["alive"])
    assert repair(node, "a", "--begin-from", "--yes") == 0
    with node("a") as first, node("b") as second, client(first) as one, client(second) as other:
        assert one.get("k") == "after"
        assert other.get("k") == "after"  # it took the snapshot, since the stream begins behind it
        until(lambda: told(first)["stream_position"] == told(second)["stream_position"])
        assert told(first)["stream_position"] > 500 + GAP
        assert told(first)["state_digest"] == told(second)["state_digest"]


def test_failed_repair_changes_nothing(node: Nodes, nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    with node("a") as first, client(first) as one:
        one.set("k", "v")
    lose_all(nats)

    async def fails(*_: object) -> None:
        raise cairnkv.Unavailable("NATS went away")

    directory = NodeDirectory(node.directory / "a")
    repairing = Repair(ClusterOptions(nats.urls, node.name, trust_sync=True, limit=STREAM_LIMIT), directory)
    own = repairing.own()
    with monkeypatch.context() as broken:
        broken.setattr("cairnkv.replication.nats.stream.Stream.begin_behind", fails)
        with pytest.raises(cairnkv.Unavailable):
            asyncio.run(repairing.begin_from(own))
    assert sorted(path.name for path in directory.path.iterdir()) == ["cluster", "node", "table"]
    assert repairing.own() == own
    position = asyncio.run(repairing.begin_from(own))  # and it can be said again
    assert position > GAP
    for server in nats.servers:  # an empty stream that loses its power goes on where it should
        server.kill()
    nats.heal()
    log = asyncio.run(repairing.log())
    assert (log.first, log.last) == (position + 1, position)
    with node("a") as first, client(first) as one:
        assert one.get("k") == "v"


def test_three_machines_with_new_nats_disks_recover(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LocalCluster.up(tmp_path, name="phoenix") as cluster:
        with cairnkv.connect(cluster.url, timeout=PATIENCE) as kv:
            kv["greeting"] = "hello"
        for address in cluster.addresses:
            with cairnkv.connect(address, timeout=PATIENCE) as kv:
                assert kv["greeting"] == "hello"
        time.sleep(WRITTEN)
        urls = ",".join(cluster.nats_urls)
        for number in (1, 2, 3):
            cluster.kill(f"node-{number}")
        for number in (1, 2, 3):
            cluster.wipe(f"nats-{number}")
        for number in (1, 2, 3):
            cluster.start(f"nats-{number}", wait=0)
        where = ["--cluster", urls, "--name", "phoenix", "--log-limit", str(cluster.log_limit), "--yes"]
        assert main(["cluster", "repair", str(tmp_path / "node-2" / "data"), *where, "--begin-from"]) == 0
        for number in (1, 3):
            assert main(["cluster", "repair", str(tmp_path / f"node-{number}" / "data"), *where, "--rejoin"]) == 0
        for number in (2, 1, 3):
            cluster.start(f"node-{number}")
        for address in cluster.addresses:
            with cairnkv.connect(address, timeout=PATIENCE) as kv:
                assert kv["greeting"] == "hello"
                kv["greeting"] = "hello"
