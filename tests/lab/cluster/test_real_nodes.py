"""Real nodes: `LocalCluster` starts one store on three hosts by default."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import nats

import cairnkv
from cairnkv.lab.cluster import LocalCluster, State

PATIENCE = 30.0


def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_write_of_one_node_is_read_by_all_after_kill_and_wipe(tmp_path: Path) -> None:
    told: list[str] = []
    with LocalCluster.up(tmp_path, name="real", notify=told.append) as cluster:
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
        eventually(lambda: {one.node.state for one in cluster.hosts} == {State.NO_QUORUM})
        cluster.start("nats-2")
        eventually(lambda: {one.node.state for one in cluster.hosts} == {State.READY})
        eventually(
            lambda: (
                {f"node-{number} is without quorum" for number in (1, 2, 3)}
                <= {line.partition(":")[0] for line in told}
            )
        )
        eventually(lambda: {f"node-{number} is ready again" for number in (1, 2, 3)} <= {*told})


async def copies(cluster: LocalCluster) -> dict[str, tuple[int, bool]]:
    """Return for each NATS server that answers the last index of its copy of the log, and whether it leads."""
    user, _, password = cluster.nats_system.partition(":")
    answers: dict[str, tuple[int, bool]] = {}
    servers = [url.partition("@")[2] for url in cluster.nats_urls]

    async def ignored(_: Exception) -> None:
        """Ignore an error: a server may be paused."""

    urls = [f"nats://{server}" for server in servers]
    client = await nats.connect(urls, user=user, password=password, error_cb=ignored)
    try:
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        await client.publish("$SYS.REQ.SERVER.PING.JSZ", b'{"streams": true, "accounts": true}', reply=inbox)
        for _ in servers:
            try:
                answer = json.loads((await subscription.next_msg(1.0)).data)
            except nats.errors.TimeoutError:
                break
            name = answer["server"]["name"]
            for account in answer["data"].get("account_details", ()):
                for stream in account["stream_detail"]:
                    if stream["name"] == f"CAIRN_{cluster.name}":
                        answers[name] = stream["state"]["last_seq"], stream["cluster"].get("leader") == name
    finally:
        await client.close()
    return answers


def test_paused_leader_is_ready_only_after_it_has_the_whole_log(tmp_path: Path) -> None:
    """Its uncommitted entries are removed; until then the majority would not survive another failure."""
    with (
        LocalCluster.up(tmp_path, name="led") as cluster,
        cairnkv.connect(cluster.url, timeout=PATIENCE) as kv,
        cairnkv.connect(cluster.url, timeout=PATIENCE) as writer,
    ):
        (leader,) = [name for name, (_, leads) in asyncio.run(copies(cluster)).items() if leads]
        ended = threading.Event()

        def write() -> None:
            while not ended.is_set():
                try:
                    writer.set("k", "v")
                except cairnkv.CairnError:
                    time.sleep(0.05)

        writing = threading.Thread(target=write)
        writing.start()
        try:
            cluster.pause(leader)
            eventually(lambda: any(leads for who, (_, leads) in asyncio.run(copies(cluster)).items() if who != leader))
            kv.set("behind", "the election")
            position = int(kv.info()["stream_position"])
            cluster.resume(leader)
            cluster.wait_ready(60.0)
            there = asyncio.run(copies(cluster))
        finally:
            ended.set()
            writing.join()
        assert len(there) == 3
        assert all(last >= position for last, _ in there.values()), (position, there)
