"""The real thing: what `LocalCluster` starts without being told otherwise is one store on three machines."""

from pathlib import Path

import cairnkv
from cairnkv.cluster import LocalCluster

PATIENCE = 30.0


def test_what_is_written_by_one_is_read_by_all_also_after_a_kill_and_a_wipe(tmp_path: Path) -> None:
    with LocalCluster.up(tmp_path, name="real") as cluster:
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
