"""`cairn check queue`: its output, its files and its exit codes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import cairnkv
from cairnkv.cli.backup import RUNNING_CHECKS
from cairnkv.cli.consistency import SUBJECTS
from cairnkv.lab.consistency.queues.history import Delivery, Operation, Saver, Verb, load
from cairnkv.store.clock import wall_clock
from cairnkv.testing import running_server
from tests.cli.conftest import Call

QUICK = ("--seconds", "300ms", "--clients", "4", "--rate", "400")


@pytest.fixture
def url() -> Iterator[str]:
    with running_server(clock=wall_clock) as server:
        yield server.url


@pytest.fixture
def lost(tmp_path: Path) -> str:
    """Save a history with a lost message, and return its path."""
    path = tmp_path / "lost.jsonl"
    with Saver(path, {"seed": 9, "queues": {"q1": [3, 0]}}) as saver:
        saver.operation(Operation(1, Verb.PUT, "q1", 0, 10, body="1-1", message=2))
        saver.operation(Operation(1, Verb.TAKE, "q1", 20, 30, deliveries=(Delivery(2, 1, 1, 60_000, "", "1-1"),)))
        saver.operation(Operation(1, Verb.LIST, "q1", 40, 50, final=True))
    return str(path)


def test_queues_of_a_server_are_consistent(url: str, cairn_here: Call, tmp_path: Path) -> None:
    kept = tmp_path / "history.jsonl"
    said = cairn_here("check", "queue", url.removeprefix("cairn://"), *QUICK, "--save", str(kept), "--seed", "3")
    assert (said.code, said.err) == (0, "")
    line = " ".join(said.out.decode().split())
    assert line.startswith("Consistent: no acknowledged message was lost or put twice, ")
    assert re.search(
        r" 4 clients executed [\d,]+ operations on 3 queues at 1 address in \d\.\d s: [\d,]+ succeed", line
    )
    assert re.search(r" [\d,]+ messages had [\d,]+ leases, and [\d,]+ became dead\.$", line)
    with cairnkv.connect(url) as kv:
        assert (kv.count(), list(kv.queues())) == (0, [])
    assert load(kept).about["seed"] == 3
    again = cairn_here("check", "queue", "--replay", str(kept))
    assert (again.code, again.out) == (0, said.out)


def test_history_of_queues_is_replayed(lost: str, cairn_here: Call) -> None:
    said = cairn_here("check", "queue", "--replay", lost)
    assert said.code == 1
    first, *rest = said.out.decode().splitlines()
    assert first.startswith("NOT consistent: 1 of 1 queue with violations: an acknowledged message was lost (1).")
    assert "an acknowledged message was lost, queue q1: message 2 is missing at the end" in rest
    assert rest[-1] == "    client 1 put q1 '1-1' → message 2 (0.000–0.000 ms)"


def test_verdict_on_queues_is_printed_as_json(lost: str, cairn_here: Call) -> None:
    said = cairn_here("check", "queue", "--replay", lost, "--json")
    told = json.loads(said.out)
    assert (said.code, told["consistent"], told["operations"], told["seed"]) == (1, False, 3, 9)
    assert (told["queues"], told["messages"], told["leases"], told["dead"]) == (1, 1, 1, 0)
    (violation,) = told["violations"]
    assert (violation["kind"], violation["queue"], len(violation["operations"])) == ("lost", "q1", 1)


def test_undecided_verdict_on_queues_is_an_error(cairn_here: Call, tmp_path: Path) -> None:
    path = tmp_path / "unfinished.jsonl"
    with Saver(path, {"queues": {"q1": [3, 0]}}) as saver:
        saver.operation(Operation(1, Verb.PUT, "q1", 0, 10, body="1-1", message=2))
    said = cairn_here("check", "queue", "--replay", str(path))
    assert said.code == 2
    assert said.out.decode().startswith("Undecided: no violation was found, but the final listing of q1 failed.")


def test_histories_of_keys_and_of_queues_are_distinguished(lost: str, cairn_here: Call) -> None:
    said = cairn_here("check", "consistency", "--replay", lost)
    assert (said.code, said.out) == (2, b"")
    assert "lost.jsonl is not a history of format 1" in said.err


def test_every_check_of_a_running_store_is_a_subcommand() -> None:
    assert set(SUBJECTS) == set(RUNNING_CHECKS)
