"""Profile the server's CPU time: `python benchmarks/profile_server.py` prints the tables of docs/performance.md.

The program runs `cairn serve` under the load generator, with GETs alone and in pipelines. Linux' `perf` (as root, or
with kernel.perf_event_paranoid at 1 or below) samples the functions of the server's process by its CPU clock. A share
is a part of all samples. One line sums up all functions with less than SHARE_MIN.

Out of scope: comparisons (`bench.py`, `compare.py`), because sampling costs time.
"""

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import clusters
from bench import DEEP, MANY, PATIENCE, PROFILES, Run, compiled_generator
from servers import Missing, Server, cairn, cairn_on_disk

SHARE_MIN = 0.02
"""The smallest share of a symbol with its own line."""

SAMPLES_A_SECOND = 4_999
"""Not a round number, so that the samples do not coincide with periodic work."""

KERNEL_CALLS = {
    r"__(x64_)?sys_(recvfrom|read)$": "kernel: receiving",
    r"__(x64_)?sys_(sendto|sendmsg|write)$": "kernel: sending, and waking the receiver",
    r"__(x64_)?sys_epoll_\w+$": "kernel: waiting",
    r"__(x64_)?sys_f(data)?sync$": "kernel: fsync",
    r"__(x64_)?sys_futex$": "kernel: waking another thread, and sleeping",
}
"""The first functions of system calls in the kernel, and their labels."""


def main() -> int:
    """Profile each depth. Return 1 after an error."""
    parser = argparse.ArgumentParser(description="profile the server's CPU time")
    parser.add_argument("--work", default="get", choices=["get", "set"])
    parser.add_argument("--depths", default=f"1,{MANY},{DEEP}", help="commands in a pipeline (default: %(default)s)")
    parser.add_argument("--keys", type=int, default=PROFILES["default"].keys)
    parser.add_argument("--seconds", type=float, default=4.0)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--disk", action="store_true", help="with --data: every write is on the disk before its reply")
    kinds.add_argument("--cluster", action="store_true", help="a node of three, the one that clients talk to")
    parser.add_argument("--connections", type=int, default=PROFILES["default"].connections)
    given = parser.parse_args()
    start = cluster_node if given.cluster else cairn_on_disk if given.disk else cairn
    if shutil.which("perf") is None:
        print("profile_server: perf is not installed; on Debian: apt-get install linux-perf", file=sys.stderr)
        return 1
    try:
        with compiled_generator() as generator, start() as server:
            run = Run(PROFILES["default"], generator)
            run.generate(server, "load", keys=given.keys, depth=MANY)
            for depth in map(int, given.depths.split(",")):
                samples = sampled(run, server, given, depth)
                total = samples.total()
                print(f"\n{given.work.upper()}, {depth if depth > 1 else 'not'} in a pipeline: {total:,} samples\n")
                print("| part | share |\n| --- | --- |")
                for name, count in samples.most_common():
                    if count >= SHARE_MIN * total:
                        print(f"| {name} | {count / total:.0%} |")
                rest = sum(count for count in samples.values() if count < SHARE_MIN * total)
                print(f"| all others, each below {SHARE_MIN:.0%} | {rest / total:.0%} |", flush=True)
    except (Missing, RuntimeError, subprocess.SubprocessError) as error:
        print(f"profile_server: {error}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def cluster_node() -> Iterator[Server]:
    """Start a cluster on this computer and return its first node. The samples do not include the NATS servers."""
    with clusters.cairn() as cluster:
        yield cluster.node()


def sampled(run: Run, server: Server, given: argparse.Namespace, depth: int) -> Counter[str]:
    """Return the number of samples of each part while the generator runs."""
    with tempfile.TemporaryDirectory(prefix="cairn-profile-") as directory:
        data = Path(directory) / "perf.data"
        record = ["perf", "record", "--quiet", "-e", "cpu-clock", "-F", str(SAMPLES_A_SECOND), "-g"]
        with subprocess.Popen(
            [*record, "-p", str(server.pid), "-o", str(data), "--", "sleep", str(given.seconds)],
            stderr=subprocess.PIPE,
            text=True,
        ) as perf:
            time.sleep(0.3)
            with contextlib.ExitStack() as stack:
                stack.callback(perf.wait, PATIENCE)
                run.generate(
                    server,
                    given.work,
                    depth=depth,
                    keys=given.keys,
                    seconds=given.seconds - 0.6,
                    connections=given.connections,
                )
            if perf.returncode != 0:
                raise RuntimeError(f"perf record: {perf.stderr.read().strip() if perf.stderr else ''}")
        script = subprocess.run(
            ["perf", "script", "-i", str(data), "-F", "ip,sym,dso"],
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
    counts: Counter[str] = Counter()
    for sample in script.stdout.split("\n\n"):
        stack_of_calls = [found for line in sample.splitlines() if (found := FRAME.match(line))]
        if stack_of_calls:
            counts[part([(found[1], found[2]) for found in stack_of_calls])] += 1
    return counts


FRAME = re.compile(r"\s*[0-9a-f]+ (\S+).* \((.*)\)$")


def part(calls: list[tuple[str, str]]) -> str:
    """Return the part that a sample belongs to. calls: function and file, the innermost first."""
    symbol, file = calls[0]
    if file.startswith("["):
        for name, _ in calls:
            for pattern, what in KERNEL_CALLS.items():
                if re.match(pattern, name):
                    return what
        return "kernel: system call entry and exit, and the rest"
    return f"`{plain(symbol)}` in {re.sub('[.](cpython|so).*', '', Path(file).name)}"


def plain(symbol: str) -> str:
    """Return a function's name without the modules that Cython puts in front, each after its length.

    >>> plain("__pyx_f_7cairnkv_6engine_12table_native_11NativeTable_fetch")
    'NativeTable.fetch'
    """
    rest = symbol.removeprefix("__pyx_f_")
    within = ""
    while rest != symbol and (length := re.match("[0-9]+", rest)):
        name, rest = rest[length.end() :][: int(length[0])], rest[length.end() + int(length[0]) + 1 :]
        within = f"{name}." if name[:1].isupper() else ""
    return within + rest


if __name__ == "__main__":
    sys.exit(main())
