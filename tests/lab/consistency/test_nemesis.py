"""The nemesis injects permitted faults, leaves a majority and always heals; here the cluster only records calls."""

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Sequence

import pytest

from cairnkv.errors import OptionError
from cairnkv.lab.cluster import ClusterError, Host, Process, Role, State
from cairnkv.lab.consistency import nemesis
from cairnkv.lab.consistency.keys.workload import Options, Run, key_names
from cairnkv.lab.consistency.nemesis import FaultKind, Nemesis, parsed_faults
from tests.lab.consistency.servers import Right, serving


class RecordingCluster:
    """A cluster that records its calls and does nothing."""

    def __init__(self, *, can_cut: bool = True, count: int = 3) -> None:
        self.can_cut = can_cut
        self.hosts = tuple(
            Host(
                number,
                Process(f"nats-{number}", Role.NATS, number, "nats://127.0.0.1:1", State.READY),
                Process(f"node-{number}", Role.NODE, number, "cairn://127.0.0.1:1", State.READY),
            )
            for number in range(1, count + 1)
        )
        self.calls: list[str] = []
        self.faulty: dict[str, str] = {}
        self.most_faulty = 0
        self.fails: str | None = None
        self.injected = threading.Event()

    def _inject(self, how: str, what: int | str) -> None:
        self.calls.append(f"{how} {what}")
        if self.fails == how:
            raise ClusterError(f"cannot {how}")
        self.faulty[str(what)] = how
        self.injected.set()
        self.most_faulty = max(self.most_faulty, len({target[-1] for target in self.faulty}))

    def _undo(self, how: str, undoes: str, what: int | str) -> None:
        self.calls.append(f"{how} {what}")
        assert self.faulty.pop(str(what), undoes) == undoes
        if self.fails == how:
            raise ClusterError(f"cannot {how}")

    def kill(self, what: int | str) -> None:
        self._inject("kill", what)

    def start(self, what: int | str, *, wait: float) -> None:
        assert not wait, "it waits for all together"
        self._undo("start", "kill", what)

    def pause(self, what: int | str) -> None:
        self._inject("pause", what)

    def resume(self, what: int | str) -> None:
        self._undo("resume", "pause", what)

    def cut(self, what: int | str) -> None:
        self._inject("cut", what)

    def heal(self, what: int | str) -> None:
        self._undo("heal", "cut", what)

    def wipe(self, what: int | str) -> None:
        assert self.faulty[str(what)[-1]] == "kill"
        self.calls.append(f"wipe {what}")

    def wait_ready(self, seconds: float) -> None:
        assert not self.faulty
        self.calls.append("wait")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nemesis, "CALM", (0.001, 0.003))
    monkeypatch.setattr(nemesis, "_SECONDS", dict.fromkeys(FaultKind, (0.001, 0.003)))


async def inject(
    cluster: RecordingCluster, faults: Sequence[FaultKind], *, seconds: float = 0.3, seed: int = 1
) -> tuple[Run, Nemesis]:
    run = Run(Options(()))
    one = Nemesis(cluster, faults, seconds=seconds, seed=seed)
    await one(run)
    return run, one


HOUR = 3_600.0

PATIENCE = 60.0
"""Seconds that a test waits for a condition, on a busy machine."""


async def inject_until(
    cluster: RecordingCluster, faults: Sequence[FaultKind], enough: Callable[[Run], bool], *, seed: int = 1
) -> tuple[Run, Nemesis]:
    """Let the nemesis act on a cluster until `enough`, then stop the run."""
    run = Run(Options(()))
    one = Nemesis(cluster, faults, seconds=HOUR, seed=seed)
    task = asyncio.create_task(one(run))
    async with asyncio.timeout(PATIENCE):
        while not enough(run):  # noqa: ASYNC110 - it may be anything
            await asyncio.sleep(0.002)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return run, one


def kinds_done(run: Run) -> set[str]:
    return {action.what for action in run.history.actions}


async def test_all_kinds_of_faults_are_injected_and_healed() -> None:
    cluster = RecordingCluster()
    faults = [fault for fault in FaultKind if fault is not FaultKind.MAJORITY]

    def enough(run: Run) -> bool:
        targets = {action.target.rstrip("123") for action in run.history.actions}
        return len(kinds_done(run)) == len(faults) and len(targets) == 3

    run, one = await inject_until(cluster, faults, enough)
    assert not cluster.faulty
    assert not one.problems
    assert cluster.most_faulty == 1
    assert {action.what for action in run.history.actions} == {"kill", "pause", "cut", "wipe"}
    targets = {re.sub(r"\d", "N", action.target) for action in run.history.actions}
    assert targets == {"N", "nats-N", "node-N"}
    assert all(action.began <= action.ended for action in run.history.actions)
    assert cluster.calls[-1] == "wait"


@pytest.mark.parametrize(("count", "most"), [(3, 2), (5, 3)])
async def test_majority_is_stopped_only_if_requested(count: int, most: int) -> None:
    cluster = RecordingCluster(count=count)
    run, _ = await inject_until(
        cluster,
        [FaultKind.MAJORITY],
        lambda run: len({action.target.split()[0] for action in run.history.actions}) == 3,
    )
    assert cluster.most_faulty == most
    assert not cluster.faulty
    assert {action.what for action in run.history.actions} == {"majority"}
    assert {action.target.split()[0] for action in run.history.actions} == {"kill", "pause", "cut"}


async def test_seed_determines_the_faults() -> None:
    first, second, other = RecordingCluster(), RecordingCluster(), RecordingCluster()
    for cluster, seed in ((first, 5), (second, 5), (other, 6)):
        await inject_until(cluster, list(FaultKind), lambda run: len(run.history.actions) > 12, seed=seed)
    # What is undone together is undone in any order.
    faults = [
        [call for call in cluster.calls if call.split()[0] in ("kill", "pause", "cut", "wipe")]
        for cluster in (first, second)
    ]
    shorter = min(map(len, faults)) - 3  # the last may be cut short by the clock
    assert faults[0][:shorter] == faults[1][:shorter]
    assert first.calls[:20] != other.calls[:20]
    assert shorter > 6


async def test_cancelled_run_is_healed() -> None:
    cluster = RecordingCluster()
    task = asyncio.create_task(inject(cluster, [FaultKind.KILL], seconds=60))
    await asyncio.wait_for(asyncio.to_thread(cluster.injected.wait, 10), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.05)
    assert not cluster.faulty


async def test_cancelled_repair_is_completed() -> None:
    begun, may_end = threading.Event(), threading.Event()

    class Slow(RecordingCluster):
        def start(self, what: int | str, *, wait: float) -> None:
            begun.set()
            may_end.wait(PATIENCE)
            super().start(what, wait=wait)

    cluster = Slow()
    task = asyncio.create_task(inject(cluster, [FaultKind.KILL], seconds=HOUR))
    assert await asyncio.to_thread(begun.wait, PATIENCE)
    task.cancel()
    await asyncio.sleep(0)  # the cancellation arrives during the repair
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not cluster.faulty
    assert cluster.calls[-1] == "wait"


@pytest.mark.parametrize(("fails", "problem"), [("kill", "kill: cannot kill"), ("start", "not healed: cannot start")])
async def test_refused_fault_is_reported_as_a_problem(fails: str, problem: str) -> None:
    cluster = RecordingCluster()
    cluster.fails = fails
    run, one = await inject_until(cluster, [FaultKind.KILL], lambda run: len(cluster.calls) > 3)
    assert one.problems[0] == problem
    assert bool(run.history.actions) is (fails == "start")


async def test_nemesis_acts_until_the_run_is_stopped() -> None:
    async with serving(Right(), 1) as addresses, asyncio.timeout(PATIENCE):
        run = Run(Options(addresses, seconds=HOUR, clients=2, keys=2))
        running = asyncio.create_task(
            run.run(nemesis := Nemesis(RecordingCluster(), [FaultKind.PAUSE], seconds=HOUR, seed=1))
        )
        while len(run.history.actions) < 3 or len(run.history.operations) < 10:  # noqa: ASYNC110 - a list has no event
            await asyncio.sleep(0.002)
        first = run.history.actions[0]
        run.stop()
        history = await running
    assert not nemesis.problems
    assert max(one.completed for one in history.operations) > first.began
    assert {one.key for one in history.operations if one.final} == set(key_names(2))


class Noting(Run):
    """A run that records a call for the time. The nemesis makes this call after it injects a fault."""

    asked = False

    def now(self) -> int:
        self.asked = True
        return super().now()


async def test_fault_that_a_stop_ends_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nemesis, "_SECONDS", dict.fromkeys(FaultKind, (HOUR, HOUR)))
    cluster, run = RecordingCluster(), Noting(Options(()))
    task = asyncio.create_task(Nemesis(cluster, [FaultKind.KILL], seconds=HOUR, seed=1)(run))
    async with asyncio.timeout(PATIENCE):
        while not run.asked:  # noqa: ASYNC110 - an attribute has no event
            await asyncio.sleep(0.002)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert kinds_done(run) == {"kill"}
    assert not cluster.faulty


def test_meaningless_options_are_refused() -> None:
    with pytest.raises(OptionError, match="namespaces"):
        Nemesis(RecordingCluster(can_cut=False), [FaultKind.CUT], seconds=1, seed=1)
    with pytest.raises(OptionError, match="at least one"):
        Nemesis(RecordingCluster(), [], seconds=1, seed=1)


def test_names_of_faults_are_parsed() -> None:
    assert parsed_faults("kill, majority,kill") == (FaultKind.KILL, FaultKind.MAJORITY)
    assert parsed_faults("none") == ()
    for text in ("", "kill,", "kil", "none,kill"):
        with pytest.raises(ValueError, match="kill, pause"):
            parsed_faults(text)
