"""Three ways in which clients reach the compiled hot path, beside each other, in turns, in a minute.

    python benchmarks/loops.py [--rounds 5]

`selector`: our own selector under asyncio's loop, which serves clients while it waits; what `cairn serve` takes.
`uvloop`, `asyncio`: the transports of those, which bring bytes to the readable connection; the accelerator behind it
is the same. For each work it prints the rate and the server's CPU time per command, as medians of the rounds, and in
parentheses the median of the ratios to `selector` within each round.

Not for the documents' tables, which `bench.py` makes.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
from collections.abc import Callable

from bench import DEEP, MANY, PROFILES, Run, Sample, compiled_generator, costs, rates
from servers import Server, served

import cairnkv.server.run
from cairnkv.installation import native_path_in_use
from cairnkv.server.loop import PolledLoop
from cairnkv.server.settings import Settings


def uvloop_loop() -> asyncio.AbstractEventLoop:
    """uvloop's."""
    import uvloop

    return uvloop.new_event_loop()


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "selector": PolledLoop,
    "uvloop": uvloop_loop,
    "asyncio": asyncio.new_event_loop,
}


def main() -> None:
    """Start a server on each loop, and let them take turns; or be one of the servers."""
    parser = argparse.ArgumentParser(description="ways in which clients reach the compiled hot path")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument("--serve", choices=LOOPS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        cairnkv.server.run.new_event_loop = LOOPS[given.serve]
        cairnkv.server.run.run(Settings(port=0), ready=lambda line: print(line, flush=True))
        return
    if not native_path_in_use():
        sys.exit("loops: nothing is compiled here, so there is only one way")
    with contextlib.ExitStack() as stack:
        run = Run(PROFILES["default"], stack.enter_context(compiled_generator()))
        servers: dict[str, Server] = {}
        for name in LOOPS:
            servers[name] = stack.enter_context(served(name, [sys.executable, __file__, "--serve", name]))
            run.generate(servers[name], "load", depth=MANY)
        print("| commands | event loop | thousands/s | server CPU per command, µs |")
        print("| --- | --- | --- | --- |")
        for depth in (1, MANY, DEEP):
            for work in ("get", "set"):
                samples: dict[str, list[Sample]] = {name: [] for name in servers}
                for _ in range(given.rounds):
                    for name, server in servers.items():
                        samples[name].append(run.generate(server, work, depth=depth, seconds=given.seconds))
                for name, own in samples.items():
                    cells = []
                    for figure, unit in ((rates, 1e3), (costs, 1.0)):
                        ours, first = figure(own), figure(samples["selector"])
                        ratio = statistics.median(a / b for a, b in zip(ours, first, strict=True))
                        cells.append(f"{statistics.median(ours) / unit:.4g} ({ratio:.2f})")
                    print(f"| {work.upper()}, {depth} at a time | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
