"""`make simulate`: see the package."""

import argparse
import contextlib
import multiprocessing
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.simulation.runner import Count, Failure, replay_script, simulate
from tests.simulation.server import MODES, Servers


def main() -> int:
    """Simulate, or replay a script; the exit code is 1 if the server did something wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description="simulate many clients on one server, each with its own model"
    )
    parser.add_argument("--seconds", type=float, help="how long (default: 60, or until COMMANDS)")
    parser.add_argument("--commands", type=int, help="how many commands at least")
    parser.add_argument("--seed", help="what all random choices are drawn from (default: a random one)")
    parser.add_argument("--mode", choices=[*MODES, "all"], default="all")
    parser.add_argument("--processes", type=int, default=1, help="how many simulations at once, each with its servers")
    parser.add_argument("--script", type=Path, help="replay the script of a failure instead")
    parser.add_argument("--scripts", type=Path, default=Path(), help="directory for the script of a failure")
    given = parser.parse_args()
    if given.script is not None:
        return _replay(given.script)
    seed = given.seed or str(random.SystemRandom().randrange(2**32))
    modes = list(MODES) if given.mode == "all" else [given.mode]
    seconds = 60.0 if given.seconds is None and given.commands is None else given.seconds
    print(f"simulation: seed {seed}, {', '.join(modes)}", flush=True)
    began = time.monotonic()
    progress = _Progress(began)
    if given.processes == 1:
        with Servers() as servers:
            count, failure = simulate(
                servers,
                modes,
                seed,
                seconds=seconds,
                commands=given.commands,
                progress=progress,
                scripts=given.scripts,
            )
        failures = [failure] if failure else []
    else:
        count, failures = _several(given, modes, seed, seconds, progress)
    progress.end()
    for failure in failures:
        print(f"simulation: wrong: {failure}", file=sys.stderr)
    took = time.monotonic() - began
    print(
        f"simulation: {count.commands:,} commands in {count.episodes:,} episodes, {took:,.0f} s, "
        f"{count.commands / took:,.0f} a second, seed {seed}, {', '.join(modes)}: {len(failures)} wrong"
    )
    return 1 if failures else 0


def _replay(path: Path) -> int:
    with Servers() as servers:
        steps, wrong = replay_script(servers, path)
    print(f"simulation: {steps} steps of {path}: {wrong or 'nothing wrong'}")
    return 1 if wrong else 0


class _Progress:
    """Shows how far the simulation is: in a terminal in one line, elsewhere a line every ten seconds."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._in_place = sys.stdout.isatty()
        self._next = began + (0.5 if self._in_place else 10.0)
        self._shown = False

    def __call__(self, count: Count) -> bool:
        now = time.monotonic()
        if now >= self._next:
            took = now - self._began
            line = f"simulation: {count.commands:,} commands, {took:,.0f} s, {count.commands / took:,.0f} a second"
            if self._in_place:
                print(f"\r{line} ", end="", flush=True)
                self._next, self._shown = now + 0.5, True
            else:
                print(line, flush=True)
                self._next = now + 10.0
        return True

    def end(self) -> None:
        """Leave the line."""
        if self._shown:
            print()


def _several(
    given: Any, modes: list[str], seed: str, seconds: float | None, progress: Callable[[Count], bool]
) -> tuple[Count, list[Failure]]:
    """Run several simulations at once, with a seed each that is made of this one."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    stop = context.Event()
    commands = None if given.commands is None else -(-given.commands // given.processes)
    running = [
        context.Process(
            target=_part, args=(number, results, stop, modes, f"{seed}.{number}", seconds, commands, given.scripts)
        )
        for number in range(given.processes)
    ]
    for process in running:
        process.start()
    counts = [Count() for _ in running]
    failures: list[Failure] = []
    left = len(running)
    try:
        while left:
            number, count, ended, failure = results.get()
            counts[number] = count
            left -= ended
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
    modes: list[str],
    seed: str,
    seconds: float | None,
    commands: int | None,
    scripts: Path,
) -> None:
    def progress(count: Count) -> bool:
        results.put((number, Count(count.commands, count.episodes), 0, None))
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
        results.put((number, count, 1, failure))


if __name__ == "__main__":
    sys.exit(main())
