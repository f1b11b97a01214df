"""`make simulate`: see the package."""

import argparse
import functools
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.simulation.runner import Count, Failure, replay_script, simulate, simulate_several
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
    run = functools.partial(simulate_several, given.processes) if given.processes > 1 else _alone
    interrupted = False
    failures: list[Failure] = []
    try:
        count, failures = run(
            modes, seed, seconds=seconds, commands=given.commands, progress=progress, scripts=given.scripts
        )
    except KeyboardInterrupt:
        count, interrupted = progress.count, True
    progress.end()
    for failure in failures:
        print(f"simulation: wrong: {failure}", file=sys.stderr)
    took = time.monotonic() - began
    print(
        f"simulation: {count.commands:,} commands in {count.episodes:,} episodes, {took:,.0f} s, "
        f"{count.commands / took:,.0f} a second, seed {seed}, {', '.join(modes)}: {len(failures)} wrong"
        f"{', interrupted' if interrupted else ''}"
    )
    return 1 if failures else 130 if interrupted else 0


def _alone(modes: Sequence[str], seed: str, **how: Any) -> tuple[Count, list[Failure]]:
    with Servers() as servers:
        count, failure = simulate(servers, modes, seed, **how)
    return count, [failure] if failure else []


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
        self.count = Count()

    def __call__(self, count: Count) -> bool:
        self.count = count
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


if __name__ == "__main__":
    sys.exit(main())
