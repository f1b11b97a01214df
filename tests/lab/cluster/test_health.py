"""The health of a node, from its INFO."""

from typing import Any

import pytest

from cairnkv.lab.cluster.health import UNRESPONSIVE, Health, health, probe
from cairnkv.lab.cluster.hosts import State
from cairnkv.lab.cluster.nats import free_ports

WELL = {
    "cluster": "shop",
    "loading": 0,
    "quorum": 1,
    "stopped": "",
    "stream_position": 10,
    "stream_last_seen": 10,
    "local_reads_behind_ms": 1_040,
}


@pytest.mark.parametrize(
    ("told", "state", "why"),
    [
        ({}, State.READY, ""),
        ({"stopped": "its own table has failed: EIO", "quorum": 0}, State.STOPPED, "its own table has failed: EIO"),
        ({"loading": 1, "stream_last_seen": 40_010}, State.JOINING, "40,000 entries missing"),
        ({"quorum": 0, "local_reads_behind_ms": 99_000}, State.NO_QUORUM, ""),
        ({"quorum": 0, "table_trouble": "its own disk is full"}, State.NO_QUORUM, "its own disk is full"),
        ({"local_reads_behind_ms": 4_000}, State.NO_QUORUM, "none of its entries was committed for 4,000 ms"),
        (
            {"local_reads_behind_ms": 4_000, "stream_last_seen": 11},
            State.CATCHING_UP,
            "4,000 ms behind, 1 entries missing",
        ),
    ],
)
def test_only_a_joined_node_is_ready(told: dict[str, Any], state: State, why: str) -> None:
    assert health(WELL | told) == Health(state, why)


def test_node_without_nats_is_joining() -> None:
    assert health({"cluster": "shop", "node": "1", "loading": 0}).state is State.JOINING


def test_server_without_a_cluster_is_ready() -> None:
    assert health({"size": "durable"}).state is State.READY


def test_node_that_does_not_answer_is_silent() -> None:
    (port,) = free_ports(1)
    assert probe(f"cairn://127.0.0.1:{port}") == UNRESPONSIVE
