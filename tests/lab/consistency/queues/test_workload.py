"""Producers and workers against real servers, which are consistent, and against broken ones, which are detected."""

import asyncio
import collections
from pathlib import Path
from typing import Any

import pytest

import cairnkv
import cairnkv.aio
from cairnkv.lab.consistency.history import BadHistory, Outcome
from cairnkv.lab.consistency.queues import checks
from cairnkv.lab.consistency.queues.checks import Kind, Report
from cairnkv.lab.consistency.queues.history import Saver, Verb, load
from cairnkv.lab.consistency.queues.workload import Options, Run
from cairnkv.lab.consistency.run import NoReply
from cairnkv.store.clock import wall_clock
from cairnkv.testing import running_server
from tests.lab.consistency.queues import servers
from tests.lab.consistency.queues.servers import RightQueues
from tests.lab.consistency.servers import serving

SECONDS = 0.3
"""The duration of a run on a broken server."""

RUNS_MAX = 100
"""Maximum number of runs until a fault shows: the speed of the computer decides how often."""


async def run_at(
    *addresses: str, seconds: float = SECONDS, rate: float | None = None, seed: int = 1
) -> tuple[Run, Report]:
    one = Run(Options(addresses, seconds=seconds, clients=8, rate=rate, seed=seed, timeout=1.0))
    history = await one.run()
    return one, checks.check(history)


@pytest.fixture
def brief_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no message have a long delay, for which a run would wait at its end."""
    monkeypatch.setattr("cairnkv.lab.consistency.queues.workload.DELAYS_MS", (50, 300))


@pytest.mark.usefixtures("brief_delays")
@pytest.mark.parametrize("data", [False, True], ids=["in-memory", "durable"])
async def test_server_with_queues_is_consistent(data: bool, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"data": str(tmp_path / "data")} if data else {}
    missing = set(Verb)
    with running_server(clock=wall_clock, **settings) as server:
        for seed in range(RUNS_MAX):
            ran, report = await run_at(server.url, rate=1_000.0, seed=seed)
            assert report.consistent is True, (report.violations, report.unfinished)
            assert report.queues == 3
            missing -= {one.verb for one in ran.history.operations}
            if not missing:
                break
        with cairnkv.connect(server.url) as kv:
            assert kv.count() == 0
            assert list(kv.queues()) == []
    assert not missing


async def test_correct_server_that_closes_connections_is_consistent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes are unknown, and it executes the commands of closed connections long afterwards."""
    monkeypatch.setattr("cairnkv.lab.consistency.queues.workload.FINAL_SECONDS", 1.0)
    outcomes: collections.Counter[Outcome] = collections.Counter()
    async with serving(servers.UnpleasantQueues()) as addresses:
        for seed in range(RUNS_MAX):
            _, report = await run_at(*addresses, seed=seed)
            assert not report.violations
            outcomes.update(report.outcomes)
            if min(outcomes[Outcome.UNKNOWN], outcomes[Outcome.NOT_EXECUTED]) > 20:
                break
    assert outcomes[Outcome.UNKNOWN] > 20
    assert outcomes[Outcome.NOT_EXECUTED] > 20


BROKEN = {
    servers.LeaseNotLogged: {Kind.TWO_LEASES},
    servers.TokenNotChecked: {Kind.STALE},
    servers.ExpiryByLocalClock: {Kind.TWO_LEASES, Kind.LIVE_REFUSED},
    servers.LosesMessages: {Kind.LOST},
    servers.DoublesPuts: {Kind.DOUBLED},
    servers.RefusesWhatItDoes: {Kind.REFUSED},
    servers.ForgetsAcks: {Kind.AFTER_END},
    servers.RefusesLeases: {Kind.LIVE_REFUSED},
    servers.RepeatsTokens: {Kind.TOKENS},
    servers.IgnoresDelays: {Kind.EARLY},
    servers.IgnoresGroups: {Kind.ORDER, Kind.GROUP},
    servers.IgnoresAttempts: {Kind.ATTEMPTS},
    servers.RevivesTheDead: {Kind.DEAD},
    servers.IgnoresNames: {Kind.NAME},
    servers.Miscounts: {Kind.COUNTS},
    servers.TearsTogether: {Kind.TOGETHER, Kind.REFUSED},
    servers.SplitBrain: {Kind.TOKENS, Kind.DOUBLED, Kind.INVENTED},
    servers.AcksEarly: {Kind.AFTER_END, Kind.STALE},
}
"""The faults of servers, and the violations that they must show, at least one of them."""


@pytest.mark.parametrize("servant", BROKEN, ids=lambda servant: servant.__name__)
async def test_server_with_broken_queues_is_detected(
    servant: type[RightQueues], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cairnkv.lab.consistency.queues.workload.FINAL_SECONDS", 0.0)
    found: set[Kind] = set()
    async with serving(servant()) as addresses:
        for seed in range(RUNS_MAX):
            _, report = await run_at(*addresses, seed=seed)
            assert bool(report.violations) is (report.consistent is False)
            found |= {violation.kind for violation in report.violations}
            if found & BROKEN[servant]:
                return
    raise AssertionError(found)


def test_every_kind_of_violation_is_shown_by_a_broken_server() -> None:
    shown = {kind for kinds in BROKEN.values() for kind in kinds}
    assert set(Kind) - shown == {Kind.STUCK, Kind.MINORITY}


@pytest.mark.usefixtures("brief_delays")
async def test_run_on_queues_is_saved_while_it_runs(tmp_path: Path) -> None:
    async with serving(RightQueues()) as addresses:
        options = Options(addresses, seconds=0.3, clients=2)
        with Saver(tmp_path / "history", options.about()) as saver:
            history = await Run(options, saver=saver).run()
    loaded = load(tmp_path / "history")
    assert loaded.operations == history.operations
    assert loaded.rules() == options.rules()
    assert checks.check(loaded).consistent is True


@pytest.mark.parametrize("rules", [None, [], {"q1": 5}, {"q1": [5]}, {"q1": [5, "x"]}])
def test_history_without_rules_of_queues_is_refused(rules: object, tmp_path: Path) -> None:
    with Saver(tmp_path / "history", {"queues": rules}):
        pass
    with pytest.raises(BadHistory, match="no valid rules"):
        load(tmp_path / "history")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"client":1,"verb":"take","queue":"q1","invoked":1,"completed":2,"deliveries":[[1,2]]}', "not a Delivery"),
        ('{"client":1,"verb":"list","queue":"q1","invoked":1,"completed":2,"found":[7]}', "not a Found"),
        ('{"client":1,"verb":"stats","queue":"q1","invoked":1,"completed":2,"counts":[]}', "not a Counts"),
        ('{"client":1,"verb":"put","queue":7,"invoked":1,"completed":2}', "'queue' cannot be 7"),
        ('{"client":1,"verb":"put","queue":"q1","invoked":1}', "completed"),
        ('{"client":1,"verb":"peek","queue":"q1","invoked":1,"completed":2}', "peek"),
    ],
)
def test_malformed_line_of_a_history_of_queues_is_refused(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "history"
    with Saver(path, {"queues": {}}):
        pass
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(BadHistory, match=f"line 2: .*{says}"):
        load(path)


async def test_run_on_queues_without_replies_has_no_verdict(unused_address: str) -> None:
    with pytest.raises(NoReply, match="no operation succeeded at cairn://127"):
        await Run(Options((unused_address,), seconds=0.3, clients=2, timeout=0.2)).run()


async def test_interrupted_run_deletes_its_queues() -> None:
    with running_server(clock=wall_clock) as server:
        run = Run(Options((server.url,), seconds=60, clients=2))
        began = asyncio.Event()
        running = asyncio.create_task(run.run(progress=lambda _: began.set()))
        await began.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        async with cairnkv.aio.connect(server.url) as kv:
            assert run.left_behind is None
            assert [name async for name in kv.queues()] == []
