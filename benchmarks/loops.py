"""Compare three event loops for the native path, in a minute.

    python benchmarks/loops.py [--rounds 5]

`selector`: cairnkv's selector under asyncio's loop, which serves clients while it waits; `cairn serve` uses it.
`uvloop`, `asyncio`: the transports of these loops, which pass bytes to the connection in Python; the frame executor is
the same. For each workload the program prints the rate and the server's CPU time per command: the medians of the
rounds, and in parentheses the median of the ratios to `selector` within each round.

Out of scope: the other tables of the documents, which `bench.py` makes.
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
from cairnkv.server.loop import ClientSelector, PolledLoop
from cairnkv.server.settings import Settings


def uvloop_loop() -> asyncio.AbstractEventLoop:
    """Return a new loop of uvloop."""
    import uvloop

    return uvloop.new_event_loop()


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "selector": lambda: PolledLoop(ClientSelector()),
    "uvloop": uvloop_loop,
    "asyncio": asyncio.new_event_loop,
}


def main() -> None:
    """Start a server on each loop, and alternate between them; with --serve, run one of the servers."""
    parser = argparse.ArgumentParser(description="compare event loops for the native path")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument("--serve", choices=LOOPS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        cairnkv.server.run.new_event_loop = LOOPS[given.serve]
        cairnkv.server.run.run(Settings(port=0), ready=lambda line: print(line, flush=True))
        return
    if not native_path_in_use():
        sys.exit("loops: this installation has no native path")
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
