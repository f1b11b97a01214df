"""The nemesis hurts what it may, leaves a majority, and always heals: on a cluster that only takes notes."""

import asyncio
import re
import threading
from collections.abc import Sequence

import pytest

from cairnkv.cluster import ClusterError, Machine, Process, Role, State
from cairnkv.consistency import nemesis
from cairnkv.consistency.history import Action
from cairnkv.consistency.nemesis import Harm, Nemesis, parsed_harms
from cairnkv.consistency.workload import Options, Run
from cairnkv.errors import OptionError
from tests.consistency.servers import Right, serving


class Told:
    """A cluster that does nothing, and remembers what it was told."""

    def __init__(self, *, can_cut: bool = True, count: int = 3) -> None:
        self.can_cut = can_cut
        self.machines = tuple(
            Machine(
                number,
                Process(f"nats-{number}", Role.NATS, number, "nats://127.0.0.1:1", State.READY),
                Process(f"node-{number}", Role.NODE, number, "cairn://127.0.0.1:1", State.READY),
            )
            for number in range(1, count + 1)
        )
        self.said: list[str] = []
        self.hurt: dict[str, str] = {}
        self.most_hurt = 0
        self.fails: str | None = None
        self.was_hurt = threading.Event()

    def _harm(self, how: str, what: int | str) -> None:
        self.said.append(f"{how} {what}")
        if self.fails == how:
            raise ClusterError(f"cannot {how}")
        self.hurt[str(what)] = how
        self.was_hurt.set()
        self.most_hurt = max(self.most_hurt, len({target[-1] for target in self.hurt}))

    def _undo(self, how: str, undoes: str, what: int | str) -> None:
        self.said.append(f"{how} {what}")
        assert self.hurt.pop(str(what), undoes) == undoes
        if self.fails == how:
            raise ClusterError(f"cannot {how}")

    def kill(self, what: int | str) -> None:
        self._harm("kill", what)

    def start(self, what: int | str, *, wait: float) -> None:
        assert not wait, "it waits for all together"
        self._undo("start", "kill", what)

    def pause(self, what: int | str) -> None:
        self._harm("pause", what)

    def resume(self, what: int | str) -> None:
        self._undo("resume", "pause", what)

    def cut(self, what: int | str) -> None:
        self._harm("cut", what)

    def heal(self, what: int | str) -> None:
        self._undo("heal", "cut", what)

    def wipe(self, what: int | str) -> None:
        assert self.hurt[str(what)[-1]] == "kill"
        self.said.append(f"wipe {what}")

    def wait_ready(self, seconds: float) -> None:
        assert not self.hurt
        self.said.append("wait")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nemesis, "CALM", (0.001, 0.003))
    monkeypatch.setattr(nemesis, "_SECONDS", dict.fromkeys(Harm, (0.001, 0.003)))


async def hurt(told: Told, harms: Sequence[Harm], *, seconds: float = 0.3, seed: int = 1) -> tuple[Run, Nemesis]:
    run = Run(Options(()))
    one = Nemesis(told, harms, seconds=seconds, seed=seed)
    await one(run)
    return run, one


async def test_all_kinds_are_done_and_healed() -> None:
    told = Told()
    run, one = await hurt(told, [harm for harm in Harm if harm is not Harm.MAJORITY], seconds=0.5)
    assert not told.hurt
    assert not one.problems
    assert told.most_hurt == 1
    assert {action.what for action in run.history.actions} == {"kill", "pause", "cut", "wipe"}
    targets = {re.sub(r"\d", "N", action.target) for action in run.history.actions}
    assert targets == {"N", "nats-N", "node-N"}
    assert all(isinstance(action, Action) and action.began <= action.ended for action in run.history.actions)
    assert told.said[-1] == "wait"


@pytest.mark.parametrize(("count", "most"), [(3, 2), (5, 3)])
async def test_a_majority_is_taken_when_that_is_asked_for(count: int, most: int) -> None:
    told = Told(count=count)
    run, _ = await hurt(told, [Harm.MAJORITY])
    assert told.most_hurt == most
    assert not told.hurt
    assert {action.what for action in run.history.actions} == {"majority"}
    assert {action.target.split()[0] for action in run.history.actions} == {"kill", "pause", "cut"}


async def test_the_seed_decides() -> None:
    first, second, other = Told(), Told(), Told()
    await hurt(first, list(Harm), seed=5)
    await hurt(second, list(Harm), seed=5)
    await hurt(other, list(Harm), seed=6)
    both = min(len(first.said), len(second.said)) - 6
    assert both > 6
    # What is undone together is undone in any order.
    harms = [
        [said for said in told.said if said.split()[0] in ("kill", "pause", "cut", "wipe")] for told in (first, second)
    ]
    shorter = min(map(len, harms)) - 3  # the last may be cut short by the clock
    assert harms[0][:shorter] == harms[1][:shorter]
    assert first.said[:20] != other.said[:20]


async def test_all_is_healed_when_the_run_is_ended_from_outside() -> None:
    told = Told()
    task = asyncio.create_task(hurt(told, [Harm.KILL], seconds=60))
    await asyncio.wait_for(asyncio.to_thread(told.was_hurt.wait, 10), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.05)
    assert not told.hurt


@pytest.mark.parametrize(("fails", "says"), [("kill", "kill: cannot kill"), ("start", "not healed: cannot start")])
async def test_what_the_cluster_does_not_do_is_a_problem(fails: str, says: str) -> None:
    told = Told()
    told.fails = fails
    run, one = await hurt(told, [Harm.KILL])
    assert one.problems[0] == says
    assert bool(run.history.actions) is (fails == "start")


async def test_it_acts_while_clients_are_busy() -> None:
    async with serving(Right(), 1) as addresses:
        run = Run(Options(addresses, seconds=0.5, clients=2, keys=2))
        history = await run.run(Nemesis(Told(), [Harm.PAUSE], seconds=0.5, seed=1))
    assert history.actions
    assert max(one.completed for one in history.operations) > history.actions[-1].began


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(OptionError, match="namespaces"):
        Nemesis(Told(can_cut=False), [Harm.CUT], seconds=1, seed=1)
    with pytest.raises(OptionError, match="at least one"):
        Nemesis(Told(), [], seconds=1, seed=1)


def test_harms_are_read() -> None:
    assert parsed_harms("kill, majority,kill") == (Harm.KILL, Harm.MAJORITY)
    assert parsed_harms("none") == ()
    for text in ("", "kill,", "kil", "none,kill"):
        with pytest.raises(ValueError, match="kill, pause"):
            parsed_harms(text)
