"""Clients against real servers, which are consistent, and against broken ones, which are detected."""

import asyncio
import collections
from pathlib import Path
from typing import Any

import pytest

import cairnkv
import cairnkv.aio
from cairnkv.commands import ClearMany, Command, Failure, Reply, failures
from cairnkv.errors import AddressError, CallerError, OutcomeUnknown, Unavailable
from cairnkv.lab.consistency.history import Outcome
from cairnkv.lab.consistency.keys import checks
from cairnkv.lab.consistency.keys.checks import Kind, Report
from cairnkv.lab.consistency.keys.history import History, Operation, Saver, Verb, load
from cairnkv.lab.consistency.keys.scripts import SCRIPTS, ScriptConnection
from cairnkv.lab.consistency.keys.workload import Options, Run, key_names
from cairnkv.lab.consistency.run import NoReply
from cairnkv.testing import running_server
from tests.lab.consistency import servers
from tests.lab.consistency.servers import Right, serving

SECONDS = 0.5
"""How long a broken server is looked at, at a time."""

RUNS_MAX = 20
"""How often: how much it is asked in that time is up to the machine."""


async def run_at(
    *addresses: str, seconds: float = SECONDS, rate: float | None = None, seed: int = 1, scripts: bool = False
) -> tuple[Run, Report]:
    options = Options(addresses, seconds=seconds, clients=8, keys=4, rate=rate, seed=seed, timeout=1.0, scripts=scripts)
    one = Run(options)
    history = await one.run()
    return one, checks.check(history)


@pytest.mark.parametrize(("data", "scripts"), [(False, False), (True, True)], ids=["process", "disk and scripts"])
async def test_server_is_consistent(data: bool, scripts: bool, tmp_path: Path) -> None:
    if scripts:
        pytest.importorskip("lupa")
    settings: dict[str, Any] = {"data": str(tmp_path / "data")} if data else {}
    with running_server(**settings) as server:
        ran, report = await run_at(server.url, rate=1_000.0, scripts=scripts)
        with cairnkv.connect(server.url) as kv:
            assert kv.count() == 0  # it has cleaned up behind itself
    assert report.consistent is True, report.violations
    assert report.keys == 4
    assert not report.unread
    operations = ran.history.operations
    assert {one.verb for one in operations} == set(Verb)
    assert {one.verb for one in operations if one.in_script} == (set(SCRIPTS) if scripts else set())
    assert 100 < len(operations) < 1_200 * SECONDS  # the rate bounds them; how many there are is up to the machine
    assert sum(one.final for one in operations) == 4


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"$3\r\n1-7\r\n", "1-7"),
        (b"$-1\r\n", None),
        (b"", OutcomeUnknown),
        (b"$3\r\n1", OutcomeUnknown),
        (b"-ERR UNKNOWN the commit failed\r\n", OutcomeUnknown),
        (b"-ERR INTERNAL see the log\r\n", OutcomeUnknown),
        (b"-CLUSTERDOWN NOQUORUM the log has no majority\r\n", Unavailable),
        (b"-LOADING Redis is loading the dataset in memory\r\n", Unavailable),
        (b"-ERR unknown command 'EVAL'\r\n", CallerError),
    ],
)
async def test_replies_to_scripts(reply: bytes, expected: str | type[Exception] | None) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"EVAL" in await reader.readuntil(b"redis.call")
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1")
    async with server:
        connection = await ScriptConnection.open(f"cairn://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        plan = Operation(1, Verb.GET, "r1", 0, 0, in_script=True)
        if isinstance(expected, type):
            with pytest.raises(expected):
                await connection.execute(plan, "r1")
        else:
            assert await connection.execute(plan, "r1") == expected
        await connection.close()
        server.close()


async def test_correct_server_that_closes_connections_is_consistent() -> None:
    """Outcomes are unknown, and it executes the commands of closed connections long afterwards."""
    outcomes: collections.Counter[Outcome] = collections.Counter()
    spoken_to: set[str] = set()
    async with serving(servers.Unpleasant()) as addresses:
        for seed in range(RUNS_MAX):
            ran, report = await run_at(*addresses, seed=seed)
            assert report.consistent is True, report.violations
            outcomes.update(report.outcomes)
            spoken_to |= {one.node for one in ran.history.operations}
            if min(outcomes[Outcome.UNKNOWN], outcomes[Outcome.NOT_EXECUTED]) > 20:
                break
    assert outcomes[Outcome.UNKNOWN] > 20
    assert outcomes[Outcome.NOT_EXECUTED] > 20
    assert spoken_to == set(addresses)


BROKEN = {
    servers.EarlyReplies: {Kind.STALE, Kind.OWN_WRITE, Kind.BACKWARDS},
    servers.StaleReads: {Kind.STALE, Kind.OWN_WRITE, Kind.BACKWARDS},
    servers.LosesWrites: {Kind.STALE, Kind.OWN_WRITE, Kind.LOST},
    servers.ForgetsWrites: {Kind.LOST, Kind.STALE},
    servers.DoublesAdditions: {Kind.DOUBLED},
    servers.DoublesWrites: {Kind.STALE, Kind.BACKWARDS, Kind.OWN_WRITE},
    servers.RefusesWhatItDoes: {Kind.REFUSED},
    servers.SplitBrain: {Kind.STALE, Kind.OWN_WRITE, Kind.LOST, Kind.INVENTED},
    servers.ComparesApart: {Kind.ORDER, Kind.STALE, Kind.OWN_WRITE, Kind.BACKWARDS},
}
"""The ways to be wrong, and what of it may be said; something is said of each."""


@pytest.mark.parametrize("servant", BROKEN, ids=lambda servant: servant.__name__)
async def test_broken_server_is_detected(servant: type[Right]) -> None:
    found: set[Kind] = set()
    async with serving(servant()) as addresses:
        for seed in range(RUNS_MAX):
            _, report = await run_at(*addresses, seed=seed)
            assert bool(report.violations) is (report.consistent is False)
            found |= {violation.kind for violation in report.violations}
            if found & BROKEN[servant]:  # on a busy machine, a run may show no more than that no order explains it
                break
    assert found & BROKEN[servant], found


async def test_run_is_saved_while_it_runs(tmp_path: Path) -> None:
    async with serving(Right()) as addresses:
        with Saver(tmp_path / "history", {"seed": 3}) as saver:
            ran = Run(Options(addresses, seconds=0.3, clients=2, keys=2), saver=saver)
            history = await ran.run()
    loaded = load(tmp_path / "history")
    assert loaded.operations == history.operations
    assert checks.check(loaded).consistent is True


async def test_run_without_replies_has_no_verdict(unused_address: str) -> None:
    with pytest.raises(NoReply, match="no operation succeeded at cairn://127"):
        await Run(Options((unused_address,), seconds=0.3, clients=2, timeout=0.2)).run()


async def test_silent_address_is_named(unused_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairnkv.lab.consistency.keys.workload.FINAL_SECONDS", 0.2)
    async with serving(Right(), 1) as addresses:
        ran, report = await run_at(*addresses, unused_address, seconds=0.5)
    assert (report.consistent, report.unread, report.violations) == (None, (unused_address,), ())
    assert (
        len({one.client for one in ran.history.operations if one.outcome is Outcome.OK}) == 9
    )  # all went on to the other


async def test_malformed_address_is_an_error() -> None:
    with pytest.raises(AddressError):
        await Run(Options(("nonsense",), seconds=0.3, clients=2)).run()


async def test_interrupted_run_deletes_its_keys() -> None:
    with running_server() as server:
        run = Run(Options((server.url,), seconds=60, clients=2, keys=4))
        running = asyncio.create_task(run.run())
        await asyncio.sleep(0.3)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert run.left_behind is None
        async with cairnkv.aio.connect(server.url) as kv:
            assert await kv.count() == 0
    assert run.history.operations


async def test_keys_that_cannot_be_deleted_are_named() -> None:
    class ClearsNothing(Right):
        def carry_out(self, address: int, command: Command) -> Reply:
            if isinstance(command, ClearMany):
                return Failure(failures.READONLY, "no")
            return super().carry_out(address, command)

    async with serving(ClearsNothing(), 1) as addresses:
        run, _ = await run_at(*addresses, seconds=0.3)
    assert run.left_behind is not None
    assert run.left_behind.startswith("cairn-check:")


def test_keys_have_the_prefix_of_the_run() -> None:
    assert key_names(1) == ["r1"]
    assert key_names(8) == ["r1", "r2", "r3", "r4", "r5", "r6", "c1", "c2"]


def test_empty_history_is_no_violation() -> None:
    assert checks.check(History()).consistent is True
