"""The health of a node, from its INFO."""

from pathlib import Path
from typing import Any

import pytest

from cairnkv.lab.cluster.health import UNRESPONSIVE, Health, advice, health, probe
from cairnkv.lab.cluster.hosts import State
from cairnkv.lab.cluster.nats import free_ports
from cairnkv.replication.store import Remedy

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
        (
            {"stopped": "its own table has failed: EIO", "stopped_remedy": "restart", "quorum": 0},
            State.STOPPED,
            "its own table has failed: EIO",
        ),
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


@pytest.mark.parametrize("remedy", Remedy)
def test_stopped_node_has_the_remedy_of_its_info(remedy: Remedy) -> None:
    assert health(WELL | {"stopped": "EIO", "stopped_remedy": remedy.value}) == Health(State.STOPPED, "EIO", remedy)


@pytest.mark.parametrize(
    ("remedy", "text"),
    [
        (Remedy.RESTART, "; restart it: `cairn cluster start node-2 --dir shop`"),
        (
            Remedy.WIPE,
            "; restart it: `cairn cluster wipe node-2 --dir shop` and `cairn cluster start node-2 --dir shop`",
        ),
        (Remedy.OPERATOR, ""),
    ],
)
def test_advice_follows_from_the_remedy(remedy: Remedy, text: str) -> None:
    assert advice("node-2", remedy, Path("shop")) == text


def test_node_without_nats_is_joining() -> None:
    assert health({"cluster": "shop", "node": "1", "loading": 0}).state is State.JOINING


def test_server_without_a_cluster_is_ready() -> None:
    assert health({"size": "durable"}).state is State.READY


def test_node_that_does_not_answer_is_silent() -> None:
    (port,) = free_ports(1)
    assert probe(f"cairn://127.0.0.1:{port}") == UNRESPONSIVE
