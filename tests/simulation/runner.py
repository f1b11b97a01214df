"""Runs episodes until the time is up or enough commands were sent, and shrinks what fails."""

import contextlib
import itertools
import multiprocessing
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.simulation.driver import Driver, Step
from tests.simulation.model import Unsuitable, Wrong
from tests.simulation.plan import plan
from tests.simulation.script import load, save, shrunk
from tests.simulation.server import Servers

REPEATS: Final = 10
"""How often a script is tried before it counts as one that does not fail: the server's timing is its own."""


@dataclass(frozen=True)
class Failure:
    """A failure: the difference, and the path of its script."""

    seed: str
    mode: str
    episode: int
    step: int
    message: str
    script: str = ""

    def __str__(self) -> str:
        where = f"seed {self.seed}, {self.mode}, episode {self.episode}, step {self.step}"
        repeat = f"; repeat it: python -m tests.simulation --script {self.script}" if self.script else ""
        return f"{self.message} ({where}){repeat}"


@dataclass
class Count:
    """How far a run is."""

    commands: int = 0
    episodes: int = 0


def simulate(
    servers: Servers,
    modes: Sequence[str],
    seed: str,
    *,
    seconds: float | None = None,
    commands: int | None = None,
    progress: Callable[[Count], bool] = lambda _: True,
    scripts: Path | None = None,
    shrink_seconds: float = 60.0,
) -> tuple[Count, Failure | None]:
    """Run episodes, the modes in turn, until so many seconds have passed or so many commands were sent.

    progress: called after each episode; False ends the run. scripts: directory for the script of a failure.
    """
    count = Count()
    end = None if seconds is None else time.monotonic() + seconds
    drivers: dict[str, Driver] = {}
    try:
        for episode in itertools.count():
            for mode in modes:
                if mode not in drivers:
                    drivers[mode] = Driver(servers[mode])
                driver = drivers[mode]
                before = driver.commands
                try:
                    driver.run(_until(end, plan(seed, mode, episode)))
                except Wrong as wrong:
                    failure = Failure(seed, mode, episode, driver.step, str(wrong))
                    drivers.pop(mode).close()
                    return count, _with_script(servers, failure, scripts, shrink_seconds)
                count.commands += driver.commands - before
                count.episodes += 1
                if (
                    not progress(count)
                    or (end is not None and time.monotonic() >= end)
                    or (commands is not None and count.commands >= commands)
                ):
                    return count, None
    finally:
        for driver in drivers.values():
            driver.close()
    raise AssertionError("unreachable")


def simulate_several(
    processes: int,
    modes: Sequence[str],
    seed: str,
    *,
    seconds: float | None,
    commands: int | None,
    progress: Callable[[Count], bool],
    scripts: Path,
) -> tuple[Count, list[Failure]]:
    """Run several simulations at once, each in a process and with a seed that is made of this one."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    stop = context.Event()
    share = None if commands is None else -(-commands // processes)
    running = [
        context.Process(target=_part, args=(number, results, stop, modes, f"{seed}.{number}", seconds, share, scripts))
        for number in range(processes)
    ]
    for process in running:
        process.start()
    counts = [Count() for _ in running]
    failures: list[Failure] = []
    ended: set[int] = set()
    try:
        while len(ended) < processes:
            try:
                number, count, has_ended, failure = results.get(timeout=1.0)
            except queue.Empty:
                for number, process in enumerate(running):
                    if number not in ended and process.exitcode is not None:
                        ended.add(number)
                        failures.append(Failure(f"{seed}.{number}", "", 0, 0, f"its process ended: {process.exitcode}"))
                        stop.set()
                continue
            counts[number] = count
            if has_ended:
                ended.add(number)
            failures += [failure] if failure else []
            progress(Count(sum(one.commands for one in counts), sum(one.episodes for one in counts)))
    finally:
        stop.set()
        for process in running:
            process.join()
    return Count(sum(one.commands for one in counts), sum(one.episodes for one in counts)), failures


def _part(
    number: int,
    results: Any,
    stop: Any,
    modes: Sequence[str],
    seed: str,
    seconds: float | None,
    commands: int | None,
    scripts: Path,
) -> None:
    def progress(count: Count) -> bool:
        results.put((number, Count(count.commands, count.episodes), False, None))
        return not stop.is_set()

    count, failure = Count(), None
    try:
        with contextlib.suppress(KeyboardInterrupt), Servers() as servers:
            count, failure = simulate(
                servers, modes, seed, seconds=seconds, commands=commands, progress=progress, scripts=scripts
            )
            if failure is not None:
                stop.set()
    except Exception as error:
        failure = Failure(seed, ", ".join(modes), 0, 0, f"the simulation itself failed: {error!r}")
        raise
    finally:
        results.put((number, count, True, failure))


def _until(end: float | None, steps: Iterable[Step]) -> Iterator[Step]:
    """The steps for which there is time."""
    for step in steps:
        if end is not None and time.monotonic() >= end:
            return
        yield step


def _with_script(servers: Servers, failure: Failure, scripts: Path | None, seconds: float) -> Failure:
    """Shrink the steps of a failure and write them to a file."""
    if scripts is None:
        return failure
    steps = list(plan(failure.seed, failure.mode, failure.episode))[: failure.step]
    seen: list[Wrong] = []

    def fails(some: list[Step]) -> bool:
        wrong = replay(servers, failure.mode, some)
        if wrong is not None:
            seen.append(wrong)
        return wrong is not None

    def fails_mostly(some: list[Step]) -> bool:  # so that timing alone does not decide what is left
        return fails(some) and (fails(some) or fails(some))

    servers.end(failure.mode)
    if any(fails(steps) for _ in range(REPEATS)):
        fewer = shrunk(steps, fails_mostly, seconds)
        servers.end(failure.mode)
        if any(fails(fewer) for _ in range(REPEATS)):
            steps = fewer
    servers.end(failure.mode)
    about: dict[str, Any] = {
        "seed": failure.seed,
        "mode": failure.mode,
        "episode": failure.episode,
        "wrong": str(seen[-1]) if seen else failure.message,
        "repeated": bool(seen),
    }
    path = scripts / f"simulation-{failure.seed}-{failure.mode}-{failure.episode}.json"
    save(path, about, steps)
    return Failure(failure.seed, failure.mode, failure.episode, failure.step, failure.message, str(path))


def replay(servers: Servers, mode: str, steps: list[Step]) -> Wrong | None:
    """Send steps to the server of this mode, and return the failure."""
    driver = Driver(servers[mode])
    try:
        driver.run(steps)
    except Wrong as wrong:
        if servers[mode].ended() is not None:
            servers.end(mode)
        return wrong
    except Unsuitable:
        pass
    finally:
        driver.close()
    return None


def replay_script(servers: Servers, path: Path) -> tuple[int, Wrong | None]:
    """Carry a script out, a few times unless it fails: how many steps it has, and what goes wrong."""
    about, steps = load(path)
    for _ in range(REPEATS):
        wrong = replay(servers, about["mode"], steps)
        if wrong is not None:
            return len(steps), wrong
    return len(steps), None
