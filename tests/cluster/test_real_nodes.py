"""The real thing: what `LocalCluster` starts without being told otherwise is one store on three machines."""

import time
from collections.abc import Callable
from pathlib import Path

import cairnkv
from cairnkv.cluster import LocalCluster, State

PATIENCE = 30.0


def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_what_is_written_by_one_is_read_by_all_also_after_a_kill_and_a_wipe(tmp_path: Path) -> None:
    told: list[str] = []
    with LocalCluster.up(tmp_path, name="real", tell=told.append) as cluster:
        with cairnkv.connect(cluster.addresses[0], timeout=PATIENCE) as kv:
            kv["greeting"] = "hello"
        for address in cluster.addresses:
            with cairnkv.connect(address, timeout=PATIENCE) as kv:
                assert kv["greeting"] == "hello"
        assert "fsync in NATS proven" in (tmp_path / "node-1" / "node.log").read_text()
        cluster.kill("node-2")
        cluster.wipe("node-3")
        with cairnkv.connect(cluster.url, timeout=PATIENCE) as kv:
            kv["greeting"] = "hello again"
        cluster.start("node-2")
        cluster.start("node-3")
        for address in cluster.addresses:
            with cairnkv.connect(address, timeout=PATIENCE) as kv:
                assert kv["greeting"] == "hello again"
        told.clear()
        cluster.kill("nats-2")
        cluster.kill("nats-3")
        eventually(lambda: {one.node.state for one in cluster.machines} == {State.NO_QUORUM})
        cluster.start("nats-2")
        eventually(lambda: {one.node.state for one in cluster.machines} == {State.READY})
        eventually(
            lambda: (
                {f"node-{number} is without quorum" for number in (1, 2, 3)}
                <= {line.partition(":")[0] for line in told}
            )
        )
        eventually(lambda: {f"node-{number} is ready again" for number in (1, 2, 3)} <= {*told})
