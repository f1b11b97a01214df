"""Compare two checkouts of cairnkv and redis-server in some workloads of the server, in seconds.

    python benchmarks/compare.py [--other PATH/.venv/bin/cairn] [--works get/1,set/1,get/16,...] [--rounds 5]
                                 [--protocol resp] [--on-disk] [--rules '~key:* &* +@all']

A workload is COMMAND/DEPTH, or COMMAND/DEPTH/VALUE bytes, or COMMAND@PART: latency at that part of redis-server's top
rate. The program prints rate, CPU time of server and generator per command, and the 99th percentile of the latency: the
medians of the rounds, and in parentheses the median of the ratios to redis-server within each round. Use it for changes
of the native path.

Out of scope: the tables of the documents, which `bench.py` makes.
"""

import argparse
import contextlib
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench import MANY, PROFILES, Run, Sample, compiled_generator
from servers import Server, cairn, cairn_on_disk, cairn_with_rules, redis, redis_on_disk

WORKS = "get/1,set/1,get/16,set/16,get/64,set/64"

FIGURES = {
    "thousands/s": lambda sample: sample["commands"] / sample["seconds"] / 1e3,
    "server µs": lambda sample: sample["cpu_seconds"] / sample["commands"] * 1e6,
    "generator µs": lambda sample: sample["own_cpu_seconds"] / sample["commands"] * 1e6,
    "p50 µs": lambda sample: sample["p50_us"],
    "p99 µs": lambda sample: sample["p99_us"],
}


def main() -> None:
    """Start the servers, and alternate between them."""
    parser = argparse.ArgumentParser(description="two checkouts of cairnkv beside redis-server")
    parser.add_argument("--other", type=Path, help="the `cairn` of another checkout")
    parser.add_argument("--works", default=WORKS, help=f"default: {WORKS}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument("--keys", type=int, default=PROFILES["default"].keys)
    parser.add_argument("--connections", type=int, default=PROFILES["default"].connections)
    parser.add_argument("--protocol", choices=("native", "resp"), default="native", help="of cairnkv")
    parser.add_argument("--rules", help="a third server, whose clients have these rights; keys begin with key:")
    parser.add_argument("--on-disk", action="store_true", help="with an fsync before each reply")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        run = Run(PROFILES["default"], stack.enter_context(compiled_generator()))
        start, start_redis = (cairn_on_disk, redis_on_disk) if given.on_disk else (cairn, redis)
        starts = {"cairn": start, "redis-server": start_redis}
        if given.other is not None:
            starts |= {"the other cairn": partial(start, program=given.other)}
        if given.rules is not None:
            starts |= {"cairn with rights": partial(cairn_with_rules, given.rules)}
        loaded = 0
        print("| work | server | " + " | ".join(FIGURES) + " |")
        print("|" + " --- |" * (2 + len(FIGURES)))
        servers: dict[str, Server] = {}
        for work in given.works.split(","):
            name, _, part = work.partition("@")
            command, depth, value = (*name.split("/"), *("1", "32")[name.count("/") :])
            if int(value) != loaded:
                loaded = int(value)
                keys = min(given.keys, (100 << 20) // loaded)
                for new, begin in starts.items():
                    server = stack.enter_context(begin())
                    servers[new] = replace(server, protocol="resp" if new == "redis-server" else given.protocol)
                    run.generate(servers[new], "load", keys=keys, value=loaded, depth=MANY)
            options = {"keys": keys, "value": loaded, "seconds": given.seconds, "connections": given.connections}
            if part:
                tops = [run.generate(servers["redis-server"], "get", depth=1, **options) for _ in range(3)]
                options["rate"] = statistics.median(map(FIGURES["thousands/s"], tops)) * 1e3 * float(part)
            samples: dict[str, list[Sample]] = {name: [] for name in servers}
            for _ in range(given.rounds):
                for name, server in servers.items():
                    samples[name].append(run.generate(server, command, depth=int(depth), **options))
            for name, own in samples.items():
                cells = []
                for figure in FIGURES.values():
                    ours, theirs = [figure(s) for s in own], [figure(s) for s in samples["redis-server"]]
                    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
                    cells.append(f"{statistics.median(ours):.4g} ({ratio:.2f})")
                print(f"| {work} | {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
