"""Queues of a durable server that is killed, paused and cut off. `make test-queues` does so for longer."""

import os
import random
from pathlib import Path

import pytest

from cairnkv.lab.consistency.queues import checks, verdict
from cairnkv.lab.consistency.queues.history import Saver
from cairnkv.lab.consistency.queues.workload import Options, Run
from cairnkv.lab.consistency.verdict import details
from cairnkv.storage.check import check_directory
from tests.lab.consistency.queues.one_server import FAULTS, OneServer, OneServerNemesis

GIVEN = float(os.environ.get("CLUSTER_SECONDS") or 0)
SECONDS = GIVEN or 4.0
"""The duration of each run."""

SEED = int(os.environ.get("SEED") or random.randrange(1_000_000))

EACH = [*((fault,) for fault in FAULTS), tuple(FAULTS)] if GIVEN else [tuple(FAULTS)]


@pytest.mark.parametrize("faults", EACH, ids="-".join)
async def test_queues_of_a_durable_server_survive_faults(faults: tuple[str, ...], tmp_path: Path) -> None:
    async with OneServer(tmp_path / "data") as server:
        options = Options((server.address,), seconds=SECONDS, clients=8, rate=500.0, seed=SEED, timeout=1.0)
        with Saver(tmp_path / "history.jsonl", options.about()) as saver:
            run = Run(options, saver=saver)
            history = await run.run(OneServerNemesis(server, faults, seconds=SECONDS, seed=SEED))
    report = checks.check(history)
    print(f"seed {SEED}: {verdict.verdict(history, report)}", *history.actions, sep="\n  ")
    assert report.consistent is True, [*details(report.violations), f"history: {tmp_path / 'history.jsonl'}"]
    assert report.deliveries > 0
    assert {action.what for action in history.actions} == set(faults)
    assert run.left_behind is None
    found = check_directory(tmp_path / "data")
    assert (found.problems, found.entries) == ([], 0)
