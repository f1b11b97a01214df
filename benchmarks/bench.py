"""`make bench`: measure cairnkv and its peers on one computer, in one run. `BENCH=full` adds the largest sizes.

The run alternates between the peers, round by round (A B C A B C ...). A figure is the median of its rounds. A ratio is
the median of the ratios within each round, and its spread is the lowest and the highest of these. All rounds, the
computer and the versions go to benchmarks/results/latest.json, with a chart. The tables of the documents come from this
file. docs/performance.md describes the measurements.

Invariants: if a peer is not installed, the run prints a line and omits its rows. The run waits for every process with a
timeout, and ends every process, also after Ctrl-C.
"""

import argparse
import compileall
import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import backup
import chart
import clusters
import queues as queue_clients
import waiting
from servers import (
    CAIRN,
    PACKAGES,
    Missing,
    Server,
    beanstalkd,
    beanstalkd_on_disk,
    cairn,
    cairn_on_disk,
    cairn_with_rules,
    disk_directory,
    memcached,
    nats_on_disk,
    postgres_on_disk,
    redis,
    redis_on_disk,
    version,
)

import cairnkv
from cairnkv.installation import features
from cairnkv.version import VERSION

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PATIENCE = 300.0
"""Timeout of a process in seconds, without its measured time."""

MANY, DEEP = 16, 64
"""Commands in a pipeline."""

THREADS = 8
"""Threads of a process that shares a store."""

Sample = dict[str, float]
Samples = dict[str, list[Sample]]


@dataclass(frozen=True)
class Profile:
    """Sizes and durations of a run. values: bytes of a value, and the number of keys with such values."""

    name: str
    rounds: int = 5
    seconds: float = 1.2
    connections: int = 50
    values: tuple[tuple[int, int], ...] = ((32, 100_000), (1_024, 100_000), (65_536, 1_000))
    memory_keys: int = 1_000_000
    key_counts: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    connection_counts: tuple[int, ...] = (1, 50, 1_000)
    step_keys: int = 1_000_000
    tasks: int = 100
    starts: int = 5  # of a process in a round
    benchmark_commands: int = 600_000  # that redis-benchmark sends in a round, in a pipeline
    disk_keys: int = 1_000_000  # of the store that is opened
    backup_megabytes: int = 1_000  # of the store that is backed up
    cluster_rounds: int = 3
    cluster_warmup: float = 0.4  # seconds that do not count: a thousand connections start slowly
    cluster_seconds: float = 0.8
    cluster_connections: tuple[int, int, int] = (1, 50, 1_000)
    failover_seconds: float = 6.0  # after the kill, at least
    queue_rounds: int = 3
    queue_sizes: tuple[int, int] = (1_000, 1_000_000)  # waiting messages
    queue_leases: int = 100_000  # that end at the same moment
    queue_jobs: int = 4_000  # of a worker
    queue_exchanges: int = 800  # of a TAKE that waits

    @property
    def keys(self) -> int:
        """The default number of keys."""
        return self.values[0][1]


PROFILES = {
    "default": Profile("default"),
    "full": Profile(
        "full",
        key_counts=(1_000, 100_000, 1_000_000, 10_000_000),
        connection_counts=(1, 50, 1_000, 10_000),
        step_keys=10_000_000,
    ),
    "smoke": Profile(
        "smoke",
        rounds=1,
        seconds=0.05,
        connections=4,
        values=((32, 200), (1_024, 50)),
        memory_keys=2_000,
        key_counts=(10, 100),
        connection_counts=(1, 4),
        step_keys=2_000,
        tasks=4,
        starts=1,
        benchmark_commands=2_000,
        disk_keys=2_000,
        backup_megabytes=2,
        cluster_rounds=1,
        cluster_warmup=0.1,
        cluster_seconds=0.2,
        cluster_connections=(1, 4, 60),
        failover_seconds=0.5,
        queue_rounds=1,
        queue_sizes=(10, 100),
        queue_leases=100,
        queue_jobs=40,
        queue_exchanges=10,
    ),
}


@dataclass
class Run:
    """A run: rows of the table, their rounds, and notes about omitted rows."""

    profile: Profile
    generator: Path | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    rounds: dict[str, Samples] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def report(self, text: str) -> None:
        """Print the progress."""
        spent = int(time.monotonic() - self.began)
        print(f"bench {spent // 60:2}:{spent % 60:02}  {text}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Print and record which rows are omitted, and why."""
        if text not in self.notes:
            self.notes.append(text)
            self.report(text)

    def generate(self, server: Server, work: str, **options: float | str) -> Sample:
        """Run the generator on a server."""
        return run_json(self.generating(server, work, **options))

    def generating(self, server: Server, work: str, **options: float | str) -> list[str]:
        """Return the command of the generator."""
        given = {"connections": self.profile.connections, "keys": self.profile.keys, "seconds": self.profile.seconds}
        given |= {"protocol": server.protocol, "work": work, "port": server.port, "pid": server.pid, **options}
        return [str(self.generator), *(f"{name}={value}" for name, value in given.items())]

    def client(self, name: str, port: int = 0, directory: Path | None = None) -> Sample:
        """Run a client library in a separate process. directory: for stores on disk."""
        given = [name, self.profile.seconds, self.profile.keys, port, *([directory] if directory else [])]
        return run_json([sys.executable, str(HERE / "clients.py"), *map(str, given)])

    def contest(self, what: str, contestants: dict[str, Callable[[], Sample]], rounds: int | None = None) -> Samples:
        """Alternate between the contestants. rounds: None: the default."""
        samples: Samples = {name: [] for name in contestants}
        for _ in range(rounds or self.profile.rounds):
            for name, measure in contestants.items():
                samples[name].append(measure())
        self.rounds[what] = samples
        return samples

    def row(
        self,
        group: str,
        what: str,
        peer: str,
        unit: str,
        ours: Sequence[float],
        theirs: Sequence[float] | None = None,
        target: str | None = None,
    ) -> None:
        """Add a row from the rounds of cairnkv and a peer. target: of the ratio; without a peer, of the figure."""
        judged = ours if theirs is None else [a / b for a, b in zip(ours, theirs, strict=True)]
        middle = statistics.median(judged)
        row = {
            "group": group,
            "what": what,
            "peer": peer,
            "unit": unit,
            "ours": statistics.median(ours),
            "theirs": None if theirs is None else statistics.median(theirs),
            "ratio": None if theirs is None else middle,
            "spread": [min(judged), max(judged)],
            "target": target,
            "verdict": verdict(middle, target),
        }
        self.rows.append(row)
        self.report(
            f"{what}: {row['ours']:,.5g} {unit}"
            + (f", {peer} {row['theirs']:,.5g}, ratio {middle:.2f}" if theirs is not None else "")
            + (f" (target {target}: {row['verdict']})" if target else "")
        )


def verdict(figure: float, target: str | None) -> str:
    """Return the verdict for a target: `≥ NUMBER` or `≤ NUMBER`, with or without a unit."""
    if target is None:
        return "report"
    limit = float(target.split()[1])
    met = figure >= limit if target[0] == "≥" else figure <= limit
    return "met" if met else "missed"


def run_json(command: Sequence[str]) -> Sample:
    """Run a program and return the JSON that it prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(f"{Path(command[0]).name} {' '.join(command[1:])}: {lines[-1]}")
    result: Sample = json.loads(done.stdout)
    return result


def installed(run: Run, stack: contextlib.ExitStack, *starters: Callable[[], Any]) -> list[Any]:
    """Start servers or clusters. Omit and note those that are not installed."""
    servers = []
    for start in starters:
        try:
            servers.append(stack.enter_context(start()))
        except Missing as missing:
            run.note(f"skipped: {missing}")
    return servers


def rates(samples: Sequence[Sample]) -> list[float]:
    """Return the commands per second of each round."""
    return [sample["commands"] / sample["seconds"] for sample in samples]


def costs(samples: Sequence[Sample]) -> list[float]:
    """Return the server's CPU time per command of each round, in microseconds."""
    return [sample["cpu_seconds"] / sample["commands"] * 1e6 for sample in samples]


STARTERS = {"cairn": cairn, "redis-server": redis, "memcached": memcached}

# -- the server -------------------------------------------------------------------------------------------------------


def commands(run: Run) -> None:
    """Measure GET and SET of several sizes, alone and in pipelines, and latency at half of the top rate."""
    for value, keys in run.profile.values:
        common = value == run.profile.values[0][0]
        with contextlib.ExitStack() as stack:
            servers = installed(run, stack, cairn, redis, *([memcached] if common else []))
            for server in servers:
                run.generate(server, "load", keys=keys, value=value, depth=MANY)
            tops = {}
            for depth in (1, MANY, DEEP):
                for work in ("get", "set"):
                    what = f"{work.upper()}, {depth if depth > 1 else 'not'} in a pipeline, {value:,} B"
                    measure = partial(run.generate, work=work, depth=depth, keys=keys, value=value)
                    # The latency of memcached is measured at half of its top rate.
                    some = [s for s in servers if s.name != "memcached" or (work, depth) == ("get", 1)]
                    samples = run.contest(what, {server.name: partial(measure, server) for server in some})
                    command_rows(run, what, depth, common, samples)
                    if (work, depth) == ("get", 1):
                        tops = {name: statistics.median(rates(rounds)) for name, rounds in samples.items()}
            if common:
                latency(run, servers, tops)


def command_rows(run: Run, what: str, depth: int, common: bool, samples: Samples, where: str = "") -> None:
    """Add the rows of one workload: rate and CPU time of the server; first the one with a target.

    where: prefix of the names of their groups.
    """
    ours = samples["cairn"]
    for peer, theirs in samples.items():
        if peer == "cairn":
            continue
        rate, cost = (f"{what}: commands/s", peer, "/s"), (f"{what}: server CPU per command", peer, "µs")
        if peer == "memcached":
            run.row("beside the targets", *rate, rates(ours), rates(theirs))
            run.row("beside the targets", *cost, costs(ours), costs(theirs))
        elif not common:
            group = f"{where}GET, SET in a pipeline, 1 kB and 64 kB values: commands/s"
            if depth > 1:
                run.row(group, *rate, rates(ours), rates(theirs), "≥ 1")
            else:
                run.row("beside the targets", *rate, rates(ours), rates(theirs))
                run.row("beside the targets", *cost, costs(ours), costs(theirs))
        elif depth == 1:
            group = f"{where}GET, SET not in a pipeline: server CPU per command"
            run.row(group, *cost, costs(ours), costs(theirs), "≤ 0.9")
            run.row("beside the targets", *rate, rates(ours), rates(theirs))
        else:
            group = f"{where}GET, SET, {depth} in a pipeline: commands/s"
            run.row(group, *rate, rates(ours), rates(theirs), "≥ 1.4" if depth == MANY else "≥ 2")
            run.row("beside the targets", *cost, costs(ours), costs(theirs))


def redis_protocol(run: Run) -> None:
    """The same commands over the Redis protocol. redis-benchmark generates the load, with its keys and connections."""
    generator = shutil.which("redis-benchmark")
    if generator is None:
        run.note("skipped: redis-benchmark is not installed; on Debian: apt-get install redis-tools")
        return

    def measure(server: Server, work: str, depth: int, keys: int, value: int, count: int) -> Sample:
        clock = ~server.pid << 3 | 2  # CPU clock of the process, all threads: clock_getcpuclockid(3)
        before = time.clock_gettime(clock)
        words = {"-p": server.port, "-c": run.profile.connections, "-P": depth, "-n": count, "-r": keys, "-d": value}
        command = [generator, "--csv", "-t", work, *(str(part) for pair in words.items() for part in pair)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
        cpu = time.clock_gettime(clock) - before
        rate = float(done.stdout.splitlines()[-1].split(",")[1].strip('"'))
        return {"commands": count, "seconds": count / rate, "cpu_seconds": cpu}

    for value, keys in run.profile.values:
        common = value == run.profile.values[0][0]
        with contextlib.ExitStack() as stack:
            servers = installed(run, stack, cairn, redis)
            for server in servers:
                run.generate(replace(server, protocol="resp"), "load", keys=keys, value=value, depth=MANY)
            for depth in (1, MANY, DEEP):
                for work in ("get", "set"):
                    what = f"Redis protocol: {work.upper()}, {depth if depth > 1 else 'not'} in a pipeline, {value:,} B"
                    count = max(
                        run.profile.connections * depth, run.profile.benchmark_commands // (64 if value > 4096 else 1)
                    )
                    if depth == 1:
                        count = max(run.profile.connections, count // 6)
                    given = {"work": work, "depth": depth, "keys": keys, "value": value, "count": count}
                    samples = run.contest(what, {server.name: partial(measure, server, **given) for server in servers})
                    command_rows(run, what, depth, common, samples, "Redis protocol, by redis-benchmark: ")


RELEASE = b"""
if redis.call('get', KEYS[1]) == ARGV[1] then
    return redis.call('del', KEYS[1])
else
    return 0
end
"""
"""The script by which clients release a lock: it deletes the key if it still has the client's value."""


def scripts(run: Run) -> None:
    """Measure EVALSHA of a script with two commands. Each call deletes another key."""
    if not has(run, "lupa"):
        return
    sha = hashlib.sha1(RELEASE).hexdigest()
    with contextlib.ExitStack() as stack:
        servers = [replace(server, protocol="resp") for server in installed(run, stack, cairn, redis)]
        for server in servers:
            with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
                client.sendall(b"*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$%d\r\n%b\r\n" % (len(RELEASE), RELEASE))
                client.recv(100)

        def measure(server: Server, depth: int) -> Sample:
            run.generate(server, "load", depth=DEEP)
            return run.generate(server, "script", depth=depth, sha=sha)

        for depth in (1, MANY):
            what = f"EVALSHA that releases a lock, {depth if depth > 1 else 'not'} in a pipeline"
            samples = run.contest(what, {server.name: partial(measure, server, depth) for server in servers})
            for peer in samples.keys() - {"cairn"}:
                ours, theirs = samples["cairn"], samples[peer]
                target = "≥ 0.25" if depth == MANY else None
                group = "EVALSHA, 16 in a pipeline: commands/s" if target else "beside the targets"
                run.row(group, f"{what}: commands/s", peer, "/s", rates(ours), rates(theirs), target)
                cost = f"{what}: server CPU per command"
                run.row("beside the targets", cost, peer, "µs", costs(ours), costs(theirs))


def latency(run: Run, servers: Sequence[Server], tops: dict[str, float]) -> None:
    """Measure the 99th percentile of the latency of GET since its scheduled time, at half of each peer's top rate."""
    ours = servers[0]
    for peer in servers[1:]:
        rate = tops[peer.name] / 2
        run.report(f"half of {peer.name}'s top rate is {rate:,.0f}/s")
        what = f"GET at half of {peer.name}'s top rate: p99 latency"
        measure = partial(run.generate, work="get", rate=rate, seconds=run.profile.seconds * 2)
        samples = run.contest(what, {server.name: partial(measure, server) for server in (ours, peer)})
        figures = {name: [sample["p99_us"] for sample in rounds] for name, rounds in samples.items()}
        group = "p99 latency at half of the peer's top rate"
        run.row(group, what, peer.name, "µs", figures["cairn"], figures[peer.name], "≤ 1")


def memory(run: Run) -> None:
    """Measure the memory of a key of 16 bytes with a value of 100 bytes."""
    keys = run.profile.memory_keys

    def grown(start: Callable[[], Any]) -> Sample:
        with start() as server:
            before = server.resident_bytes()
            run.generate(server, "load", keys=keys, value=100, depth=DEEP, connections=4)
            return {"bytes_per_key": (server.resident_bytes() - before) / keys}

    what = f"memory per key, {keys:,} × (16 B key, 100 B value)"
    present = {name: start for name, start in STARTERS.items() if name == "cairn" or shutil.which(name)}
    samples = run.contest(what, {name: partial(grown, start) for name, start in present.items()})
    figures = {name: [sample["bytes_per_key"] for sample in rounds] for name, rounds in samples.items()}
    for peer in list(present)[1:]:
        run.row("bytes of memory per key", what, peer, "B", figures["cairn"], figures[peer])


def growth(run: Run) -> None:
    """Measure the cost of GET with more keys and with more connections, also for redis-server."""
    profile = run.profile
    present = [name for name in ("cairn", "redis-server") if name == "cairn" or shutil.which(name)]
    with contextlib.ExitStack() as stack:
        servers = {}
        for keys in profile.key_counts:
            run.report(f"loading {keys:,} keys")
            for name in present:
                servers[name, keys] = stack.enter_context(STARTERS[name]())
                run.generate(servers[name, keys], "load", keys=keys, depth=DEEP)
        for depth in (1, MANY):
            what = f"cost per GET, {depth if depth > 1 else 'not'} in a pipeline"
            measure = partial(run.generate, work="get", depth=depth)
            contestants = {f"{name} {n}": partial(measure, server, keys=n) for (name, n), server in servers.items()}
            samples = run.contest(f"{what}, by keys", contestants)
            for name in present:
                growth_row(run, what, name, "keys", profile.key_counts, samples, "≤ 1.5")
    with cairn("--max-connections", str(max(profile.connection_counts) + 100)) as server:
        run.generate(server, "load", depth=DEEP)
        what = "cost per GET, not in a pipeline"
        contestants = {
            f"cairn {n}": partial(run.generate, server, "get", connections=n) for n in profile.connection_counts
        }
        samples = run.contest(f"{what}, by connections", contestants)
        growth_row(run, what, "cairn", "connections", profile.connection_counts, samples, "≤ 2")


def growth_row(run: Run, what: str, name: str, of: str, sizes: Sequence[int], samples: Samples, target: str) -> None:
    """Add a row that compares the most expensive size with the smallest. The target applies to cairnkv."""
    by_size = [costs(samples[f"{name} {size}"]) for size in sizes]
    most = [max(of_one_round) for of_one_round in zip(*by_size, strict=True)]
    what = f"{what}: {sizes[0]:,} to {sizes[-1]:,} {of}"
    peer = f"itself at {sizes[0]:,}"
    if name == "cairn":
        run.row(f"server CPU per GET while {of} grow", what, peer, "µs", most, by_size[0], target)
    else:
        run.row("beside the targets", f"{name}'s {what}", peer, "µs", most, by_size[0])


RIGHTS = {"all rights": ("~* &* +@all", "≤ 1.01"), "a prefix": ("~key:* &* +@all", "≤ 1.05")}
"""The rules of a user, and the target of its CPU time per command: the ratio to that of a server without users."""


def rights(run: Run) -> None:
    """Measure GET and SET in pipelines of users with all rights, and with a prefix, on both protocols."""
    keys = run.profile.keys
    with contextlib.ExitStack() as stack:
        servers = {"no users": stack.enter_context(cairn())}
        servers |= {name: stack.enter_context(cairn_with_rules(rules)) for name, (rules, _) in RIGHTS.items()}
        for server in servers.values():
            run.generate(server, "load", keys=keys, depth=MANY)
        for protocol in ("native", "resp"):
            for work in ("get", "set"):
                what = f"{work.upper()}, {DEEP} in a pipeline, {protocol}"
                measure = partial(run.generate, work=work, depth=DEEP, keys=keys, protocol=protocol)
                samples = run.contest(what, {name: partial(measure, server) for name, server in servers.items()})
                for name, (_, target) in RIGHTS.items():
                    ours, theirs = costs(samples[name]), costs(samples["no users"])
                    run.row(
                        "users: server CPU per command",
                        f"{what}: {name}",
                        "itself without users",
                        "µs",
                        ours,
                        theirs,
                        target,
                    )


def steps(run: Run) -> None:
    """Measure the longest step of a server's loop while it loads keys, DEEP commands at a time."""
    keys = run.profile.step_keys

    def longest(start: Callable[[], Any]) -> Sample:
        with start() as server:
            return run.generate(server, "load", keys=keys, depth=DEEP, connections=1)

    present = {name: start for name, start in STARTERS.items() if name == "cairn" or shutil.which(name)}
    present.pop("memcached", None)
    what = f"longest step of {DEEP} SETs, loading {keys:,} keys"
    samples = run.contest(what, {name: partial(longest, start) for name, start in present.items()})
    cpu = {name: [sample["longest_step_cpu_ms"] for sample in rounds] for name, rounds in samples.items()}
    wall = {name: [sample["longest_step_ms"] for sample in rounds] for name, rounds in samples.items()}
    group = "longest step of the loop while loading"
    run.row(group, f"{what}: CPU time", "none", "ms", cpu["cairn"], None, "≤ 20 ms")
    if "redis-server" in wall:
        run.row(group, f"{what}: wall time", "redis-server", "ms", wall["cairn"], wall["redis-server"], "≤ 1")
        run.row("beside the targets", f"{what}: CPU time", "redis-server", "ms", cpu["cairn"], cpu["redis-server"])


# -- on disk ----------------------------------------------------------------------------------------------------------

BACKUPS = 3
"""Rounds of backups. Each takes about ten seconds."""

READS_A_SECOND = 2_000
"""GETs per second for the latency during writes: far below the limit of a server."""

HEAD_START = 0.3
"""Seconds of writes before and after these GETs."""

OPENING = """
import json, sys, time
import cairnkv
began = time.perf_counter()
with cairnkv.open(sys.argv[1]) as kv:
    print(json.dumps({"seconds": time.perf_counter() - began, "keys": kv.count()}))
"""


def disk(run: Run) -> None:
    """Measure writes with fsync, reads during such writes, and the opening of a store."""
    if not has(run, "rocksdict"):
        return
    try:
        with contextlib.ExitStack() as stack:
            servers = installed(run, stack, cairn_on_disk, redis_on_disk)
            for server in servers:
                run.generate(server, "load", depth=DEEP)
            synced_writes(run, servers)
            for server in servers:
                reads_among_writes(run, server)
        opening(run)
        backing_up(run)
    except Missing as missing:
        run.note(f"skipped: {missing}")


def synced_writes(run: Run, servers: Sequence[Server]) -> None:
    """Measure SET with an fsync before each reply, over both protocols."""
    ours, *peers = servers
    for depth in (1, MANY):
        what = f"SET with fsync, {depth if depth > 1 else 'not'} in a pipeline, {run.profile.values[0][0]:,} B"
        measure = partial(run.generate, work="set", depth=depth)
        contestants = {server.name: partial(measure, server) for server in servers}
        contestants["cairn, resp"] = partial(measure, replace(ours, protocol="resp"))
        samples = run.contest(what, contestants)
        for peer in peers:
            for name, where in ((ours.name, ""), ("cairn, resp", "Redis protocol: ")):
                rate, theirs = rates(samples[name]), samples[peer.name]
                group = f"{where}SET with fsync: commands/s"
                run.row(group, f"{where}{what}: commands/s", peer.name, "/s", rate, rates(theirs), "≥ 1.2")
                cost = f"{where}{what}: server CPU per command"
                run.row("beside the targets", cost, peer.name, "µs", costs(samples[name]), costs(theirs))


def reads_among_writes(run: Run, server: Server) -> None:
    """Measure the 99th percentile of the latency of GET with and without concurrent writes."""
    reading = partial(run.generate, server, "get", rate=READS_A_SECOND, connections=10, poll=0)

    def among_writes(depth: int) -> Sample:
        seconds = run.profile.seconds + 2 * HEAD_START
        writing = run.generating(server, "set", depth=depth, seconds=seconds)
        with subprocess.Popen(writing, stdout=subprocess.DEVNULL) as writers:
            try:
                time.sleep(HEAD_START)
                sample = reading()
                if writers.poll() is not None:
                    raise RuntimeError(f"the writers at {server.name} were done before the readers")
                writers.wait(PATIENCE)
            finally:
                writers.kill()
            return sample

    what = f"GET at {READS_A_SECOND:,}/s beside {run.profile.connections} connections that SET with fsync"
    loads = {f"{depth if depth > 1 else 'not'} in a pipeline": partial(among_writes, depth) for depth in (1, MANY)}
    samples = run.contest(f"{server.name}: {what}", {"idle": reading, **loads})
    p99 = {name: [sample["p99_us"] for sample in rounds] for name, rounds in samples.items()}
    for name in loads:
        shown, peer = f"{what}, {name}: p99 latency", "itself without writes"
        if server.name == "cairn":
            run.row(
                "p99 latency of GET under a full load of SETs with fsync",
                shown,
                peer,
                "µs",
                p99[name],
                p99["idle"],
                "≤ 2",
            )
        else:
            run.row("beside the targets", f"{server.name}'s {shown}", peer, "µs", p99[name], p99["idle"])


def opening(run: Run) -> None:
    """Measure the time to open a store whose files are in the page cache."""
    keys = run.profile.disk_keys
    with tempfile.TemporaryDirectory(prefix="cairn-bench-", dir=disk_directory()) as directory:
        data = str(Path(directory) / "data")
        with cairn("--data", data, "--sync", "none") as server:
            run.generate(server, "load", keys=keys, value=100, depth=DEEP, connections=4)
        what = f"opening a store on disk, {keys:,} × (16 B key, 100 B value)"
        samples = run.contest(what, {"cairnkv": partial(run_json, [sys.executable, "-c", OPENING, data])})["cairnkv"]
    if any(sample["keys"] != keys for sample in samples):
        raise RuntimeError("a store was opened that has not all its keys")
    run.row("opening a store on disk", what, "none", "s", [sample["seconds"] for sample in samples])


def backing_up(run: Run) -> None:
    """Measure the longest wait of a client during writes and a backup."""
    megabytes = run.profile.backup_megabytes
    run.report(f"a backup of {megabytes:,} MB while serving")
    found = backup.measure(megabytes, min(run.profile.rounds, BACKUPS), where=disk_directory())
    for during, target in ((True, "≤ 20"), (False, None)):
        what = f"{'during' if during else 'without'} a backup of {megabytes:,} MB under a full load of SETs with fsync"
        longest = [one.longest for one in found if one.with_backup is during]
        group = "longest wait of a client while a store is backed up" if during else "beside the targets"
        run.row(group, f"longest wait of a client {what}", "none", "ms", longest, None, target)


def embedded_disk(run: Run) -> None:
    """Measure set and get of an embedded store on disk. The peers have their safest configuration."""
    names = [name for name in ("cairnkv", "diskcache", "sqlitedict") if name == "cairnkv" or has(run, name)]
    if not has(run, "rocksdict"):
        return
    try:
        directory = disk_directory()
    except Missing as missing:
        run.note(f"skipped: {missing}")
        return
    for work, threads in (("set", 1), ("set", THREADS), ("get", 1)):
        what = f"embedded on disk, {work} with {threads} thread{'s' * (threads > 1)}: calls/s"
        kind = f"{work}{threads}_on_disk"
        measure = {name: partial(run.client, f"{kind}-{name}", directory=directory) for name in names}
        figures = call_rates(run.contest(what, measure))
        for name in names[1:]:
            run.row("embedded on disk, in a loop", what, name, "/s", figures["cairnkv"], figures[name], "≥ 5")


# -- a cluster --------------------------------------------------------------------------------------------------------

STREAMS = 50
"""Concurrent calls on each connection of etcd's clients, if they share connections."""


@dataclass(frozen=True)
class Load:
    """A load of a cluster.

    depth: commands in a pipeline. theirs: connections of etcd and concurrent calls on each, by their text in the row.
    everywhere: the load goes to all members, with this number of connections of etcd to each; otherwise to one member.
    aimed: whether the targets apply to this load.
    """

    what: str
    connections: int
    depth: int
    theirs: dict[str, tuple[int, int]]
    everywhere: bool = False
    aimed: bool = False


def cluster_loads(profile: Profile) -> dict[str, list[Load]]:
    """The loads of each workload. etcd's calls share connections if this is faster."""
    one, some, many = profile.cluster_connections
    shared = -(-many // STREAMS)
    each = -(-shared // clusters.MEMBERS)
    same = "1 connection" if one == 1 else f"{one} connections"
    shares = {f" (etcd: {shared} × {STREAMS} streams)": (shared, STREAMS)}
    shares_all = {f" (etcd: {clusters.MEMBERS} × {each} × {STREAMS} streams)": (each, STREAMS)}
    streams = {f" (etcd: {some} × {MANY} streams)": (some, MANY)}
    aimed = Load(f"{many:,} connections", many, 1, {"": (many, 1)} | shares, aimed=True)
    piped = Load(f"{some} connections, {MANY} in a pipeline", some, MANY, streams)
    every = [
        Load(same, one, 1, {"": (one, 1)}),
        Load(f"{some} connections", some, 1, {"": (some, 1)}),
        aimed,
        piped,
        Load(f"{many:,} connections, to all three nodes", many, 1, shares_all, everywhere=True),
    ]
    return {"set": every, "get": every, "local": [aimed, piped]}


CLUSTER_WORKS = {
    "set": ("cluster: SET", "etcd", "writes/s of a cluster at 1,000 concurrent", "≥ 5"),
    "get": ("cluster: linearizable GET", "etcd", "linearizable reads/s of a cluster at 1,000 concurrent", "≥ 10"),
    "local": ("cluster: local GET", "etcd, serializable", "beside the targets", None),
}
"""The name of a workload, its peer, and the group and target of its rows."""


def cluster(run: Run) -> None:
    """Measure three nodes on this computer, and the time until writes continue after a kill of the leader."""
    if not has(run, "rocksdict"):
        return
    with contextlib.ExitStack() as stack:
        try:
            ours = stack.enter_context(clusters.cairn())
        except Missing as missing:
            run.note(f"skipped: {missing}")
            return
        peers = installed(run, stack, clusters.etcd)
        run.generate(ours.node(), "load", depth=DEEP, value=clusters.VALUE_BYTES)
        if peers:
            for work, loads in cluster_loads(run.profile).items():
                for load in loads:
                    try:
                        cluster_rates(run, ours, peers[0], work, load)
                    except clusters.PeerFailed as failed:
                        run.note(f"not measured: {work}, {load.what}: {failed}")
        contestants = {one.name: partial(one.failover, run.profile.failover_seconds) for one in (ours, *peers)}
        what = "cluster: the longest time between two acknowledged writes while the leading machine is killed"
        samples = run.contest(what, contestants, run.profile.cluster_rounds)
    gaps = {name: [sample["longest_gap_seconds"] for sample in rounds] for name, rounds in samples.items()}
    run.row("a cluster's failover", what, "none", "s", gaps["cairn"], None, "≤ 12")
    for peer in peers:
        run.row("beside the targets", what, peer.name, "s", gaps["cairn"], gaps[peer.name])


def cluster_rates(run: Run, ours: clusters.CairnCluster, peer: clusters.EtcdCluster, work: str, load: Load) -> None:
    """Add the rows of one workload under one load."""
    profile = run.profile
    begin, against, group, target = CLUSTER_WORKS[work]
    what = f"{begin}, {clusters.VALUE_BYTES} B, {load.what}"

    def measured() -> Sample:
        return run.generate(
            ours.node(),
            "set" if work == "set" else "get",
            local=int(work == "local"),
            value=clusters.VALUE_BYTES,
            connections=load.connections,
            depth=load.depth,
            port=numbers(ours.ports if load.everywhere else ours.ports[:1]),
            pid=numbers(ours.pids),
            warmup=profile.cluster_warmup,
            seconds=profile.cluster_seconds,
        )

    contestants: dict[str, Callable[[], Sample]] = {ours.name: measured}
    for label, (connections, streams) in load.theirs.items():
        contestants[f"{peer.name}{label}"] = partial(
            peer.generate,
            work,
            connections=connections,
            streams=streams,
            seconds=profile.cluster_seconds,
            warmup=profile.cluster_warmup,
            everywhere=load.everywhere,
        )
    samples = run.contest(what, contestants, profile.cluster_rounds)
    for label in load.theirs:
        shown = f"{what}{label}"
        in_group, aim = (group, target) if load.aimed else ("beside the targets", None)
        mine, theirs = samples[ours.name], samples[f"{peer.name}{label}"]
        run.row(in_group, f"{shown}: commands/s", against, "/s", rates(mine), rates(theirs), aim)
        if load.aimed:
            cost = f"{shown}: CPU of all servers per command"
            run.row("beside the targets", cost, against, "µs", costs(mine), costs(theirs))


def numbers(several: Sequence[int]) -> str:
    """Return a list in the form that the generator reads."""
    return ",".join(map(str, several))


# -- clients ----------------------------------------------------------------------------------------------------------


def clients(run: Run) -> None:
    """Measure GET in a loop: sync clients, and asyncio clients with many tasks and with one."""
    with contextlib.ExitStack() as stack:
        servers = installed(run, stack, cairn, redis, memcached)
        for server in servers:
            run.generate(server, "load", depth=MANY)
        ports = {server.name: server.port for server in servers}
        tasks = run.profile.tasks
        for kind, what, group, peers in (
            (
                "sync",
                "sync client, one thread: GET/s",
                "sync client GET/s, one thread",
                {
                    "redis": ("redis-py with hiredis", "redis-server", "≥ 2.2"),
                    "pymemcache": ("pymemcache", "memcached", "≥ 1"),
                },
            ),
            (
                f"async{tasks}",
                f"asyncio client, {tasks} tasks: GET/s",
                "asyncio client GET/s, 100 tasks",
                {
                    "redis": ("redis-py asyncio", "redis-server", "≥ 8"),
                    "glide": ("valkey-glide", "redis-server", "≥ 3"),
                },
            ),
            (
                "async1",
                "asyncio client, sequential: GET/s",
                "asyncio client GET/s, sequential",
                {
                    "redis": ("redis-py asyncio", "redis-server", "≥ 2"),
                    "glide": ("valkey-glide", "redis-server", "≥ 2"),
                },
            ),
        ):
            there = {name: peer for name, peer in peers.items() if peer[1] in ports and has(run, name)}
            contestants = {"cairnkv": partial(run.client, f"{kind}-cairnkv", ports["cairn"])}
            contestants |= {
                name: partial(run.client, f"{kind}-{name}", ports[at]) for name, (_, at, _) in there.items()
            }
            figures = call_rates(run.contest(what, contestants))
            for name, (shown, _, target) in there.items():
                run.row(group, what, shown, "/s", figures["cairnkv"], figures[name], target)


def embedded(run: Run) -> None:
    """Measure get and set of an embedded store in a loop."""
    names = ["cairnkv", *(["diskcache"] if has(run, "diskcache") else []), "dict"]
    for work in ("get", "set"):
        what = f"embedded {work}: calls/s"
        figures = call_rates(run.contest(what, {name: partial(run.client, f"{work}-{name}") for name in names}))
        group = "embedded get, set in a loop"
        if "diskcache" in figures:
            run.row(group, what, "diskcache", "/s", figures["cairnkv"], figures["diskcache"], "≥ 20")
        run.row("beside the targets", what, "a plain dict", "/s", figures["cairnkv"], figures["dict"])


def call_rates(samples: Samples) -> dict[str, list[float]]:
    """Return the calls per second of each round."""
    return {name: [sample["calls"] / sample["seconds"] for sample in rounds] for name, rounds in samples.items()}


DISTRIBUTIONS = {
    "redis": ("redis", "hiredis"),
    "pymemcache": ("pymemcache",),
    "glide": ("valkey-glide",),
    "diskcache": ("diskcache",),
    "sqlitedict": ("sqlitedict",),
    "rocksdict": ("rocksdict",),
    "lupa": ("lupa", "greenlet"),
    "dramatiq": ("dramatiq",),
    "rq": ("rq",),
}
"""The packages of the client libraries."""


def has(run: Run, name: str) -> bool:
    """Return whether a client library is installed. Add a note if it is not."""
    for distribution in DISTRIBUTIONS[name]:
        if package_version(distribution) is None:
            run.note(f"skipped: {distribution} is not installed; pip install '.[bench]'")
            return False
    return True


def package_version(distribution: str) -> str | None:
    """Return the version of an installed package, or None."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(distribution)
    return None


# -- queues -----------------------------------------------------------------------------------------------------------

IN_BATCHES = "cairn, in batches"
"""The contestant that puts, takes and acks all messages with one command each."""

DELAYED_UP_TO = 120_000
"""Milliseconds: while the cost of many messages is measured, some of the delays are past and some are not."""

RESP = "cairn, resp"
"""The contestant that uses the Redis protocol."""

RQ_SHARE = 8
"""RQ has this part of the jobs of the other workers: each of its jobs takes so much longer."""


@dataclass(frozen=True)
class Place:
    """A kind of servers with queues.

    aims: targets of the rate in a pipeline, by peer. cpu_aims: the same of the CPU time. processes: whose CPU time it
    is. resp: whether the Redis protocol is measured beside the native one.
    """

    name: str
    aims: dict[str, str]
    cpu_aims: dict[str, str] = field(default_factory=dict)
    processes: str = "server CPU"
    resp: bool = True


IN_MEMORY = Place("queue in memory", {"beanstalkd": "≥ 3", "redis-server": "≥ 1"})
WITH_FSYNC = Place(
    "queue with fsync", {"beanstalkd": "≥ 10", "redis-server": "≥ 1.5", "nats-server": "≥ 5", "PostgreSQL": "≥ 5"}
)
THREE_NODES = Place(
    "queue on three nodes",
    {"nats-server R3": "≥ 3", "RabbitMQ": "≥ 1"},
    {"nats-server R3": "≤ 0.333", "RabbitMQ": "≤ 1"},
    "CPU of all servers",
    resp=False,
)


def queues(run: Run) -> None:
    """Measure queues: servers in memory, with fsync and in a cluster, many messages, many leases, and workers."""
    on_disk = has(run, "rocksdict")
    queue_rates(run, IN_MEMORY, cairn, beanstalkd, redis)
    if on_disk:
        queue_rates(run, WITH_FSYNC, cairn_on_disk, beanstalkd_on_disk, redis_on_disk, nats_on_disk, postgres_on_disk)
    queue_growth(run)
    queue_steps(run)
    queue_workers(run)
    for where, start, peer in (("in memory", cairn, "PING"), ("with fsync", cairn_on_disk, "SET"))[: 1 + on_disk]:
        with contextlib.ExitStack() as stack:
            for server in installed(run, stack, start):
                queue_waits(run, where, [server.port], peer)
    if on_disk:
        with contextlib.ExitStack() as stack:
            for ours in installed(run, stack, clusters.cairn):
                node = partial(contextlib.nullcontext, ours.node())
                queue_rates(run, THREE_NODES, node, clusters.nats, clusters.rabbitmq)
                queue_waits(run, "on three nodes", ours.ports, "SET")


def queue_rates(run: Run, place: Place, *starters: Callable[[], Any]) -> None:
    """Measure PUT, TAKE and ACK of messages of 100 B on one connection. starters: that of cairnkv first."""
    with contextlib.ExitStack() as stack:
        servers = {server.name: server for server in installed(run, stack, *starters)}
        if "cairn" not in servers:
            return
        clients = {}
        for name, server in servers.items():
            if name == "PostgreSQL":
                queue_clients.make_table(server)
            else:
                clients[name] = stack.enter_context(queue_clients.connected(server))
        batches = stack.enter_context(queue_clients.connected(servers["cairn"], queue_clients.CairnBatches))
        if place.resp:
            clients[RESP] = stack.enter_context(queue_clients.connected(servers["cairn"], queue_clients.CairnRedis))
        for depth in (1, DEEP):
            what = f"{place.name}: put, take, ack, {f'{depth}' if depth > 1 else 'not'} in a pipeline"
            contestants: dict[str, Callable[[], Sample]] = {
                name: partial(queue_clients.cycles, client, depth, run.profile.seconds)
                for name, client in clients.items()
            }
            if depth > 1:
                contestants[IN_BATCHES] = partial(queue_clients.cycles, batches, depth, run.profile.seconds)
            if "PostgreSQL" in servers:
                many = min(depth, MANY)  # connections; each has one command at a time
                contestants["PostgreSQL"] = partial(
                    queue_clients.postgres_cycles, servers["PostgreSQL"], many, run.profile.seconds
                )
            samples = run.contest(what, contestants, run.profile.queue_rounds)
            for ours, before, after in (
                ("cairn", "", ""),
                (RESP, "Redis protocol: ", ""),
                (IN_BATCHES, "", f"; cairnkv in batches of {depth}"),
            ):
                for peer in servers:
                    if peer != "cairn" and ours in samples:
                        aimed = depth > 1 and ours != IN_BATCHES
                        both = samples[ours], samples[peer]
                        queue_row(run, place, before, f"{before}{what}{after}", peer, *both, aimed=aimed)


def queue_row(
    run: Run,
    place: Place,
    before: str,
    what: str,
    peer: str,
    ours: Sequence[Sample],
    theirs: Sequence[Sample],
    *,
    aimed: bool,
) -> None:
    """Add the rows of one workload on queues. before: prefix of the names of their groups."""
    cost = f"{place.processes} per message"
    figures = [("messages/s", "/s", rates(ours), rates(theirs), place.aims)]
    if "cpu_seconds" in theirs[0]:
        figures.append((cost, "µs", costs(ours), costs(theirs), place.cpu_aims))
    for name, unit, mine, other, aims in figures:
        aim = aims.get(peer) if aimed else None
        group = f"{before}{place.name}: {name}, in a pipeline" if aim else "beside the targets"
        run.row(group, f"{what}: {name}", peer, unit, mine, other, aim)


TARGETS_OF_WAITS = {"PING": "≤ 3", "SET": "≤ 2"}
"""The targets against each peer. A SET is one commit."""


def queue_waits(run: Run, where: str, ports: list[int], peer: str) -> None:
    """Measure the time from a PUT to the reply of a TAKE that waits. ports: of the nodes."""

    def quantiles() -> Sample:
        times = waiting.measured(ports, run.profile.queue_exchanges)
        return {name: statistics.quantiles(taken, n=100)[98] * 1e6 for name, taken in times.items()}

    what = f"queue {where}: PUT to the reply of a waiting TAKE"
    (rounds,) = run.contest(what, {"cairn": quantiles}, run.profile.queue_rounds).values()
    for name in rounds[0]:
        if name.startswith("PUT"):
            shown = f"queue {where}: {name.replace('of TAKE', 'of a waiting TAKE')}: p99 latency"
            figures = ([sample[which] for sample in rounds] for which in (name, peer))
            group = "PUT to the reply of a waiting TAKE: p99 latency"
            run.row(group, shown, f"its own {peer}", "µs", *figures, TARGETS_OF_WAITS[peer])


def queue_growth(run: Run) -> None:
    """Measure the cost of a message, and of QUEUE_STATS, with few and with many waiting messages."""
    sizes = run.profile.queue_sizes
    with contextlib.ExitStack() as stack:
        clients = {}
        for size in sizes:
            run.report(f"loading a queue with {size:,} messages")
            clients[size] = stack.enter_context(queue_clients.connected(stack.enter_context(cairn())))
            clients[size].fill(size, DELAYED_UP_TO)
        for what, measure, target in (
            ("cost of put, take, ack, 64 in a pipeline", queue_clients.cycles, "≤ 2"),
            ("cost of QUEUE_STATS, 64 in a pipeline", queue_clients.statistics, "≤ 1.2"),
        ):
            contestants = {
                f"{size}": partial(measure, client, DEEP, run.profile.seconds) for size, client in clients.items()
            }
            few, many = run.contest(what, contestants, run.profile.queue_rounds).values()
            shown = f"{what}: {sizes[0]:,} to {sizes[1]:,} waiting messages"
            run.row(what, shown, f"itself at {sizes[0]:,}", "µs", costs(many), costs(few), target)


def queue_steps(run: Run) -> None:
    """Measure the longest step of the server while many leases end, against a slice of housekeeping."""
    count = run.profile.queue_leases

    def longest(measure: Callable[[Server, int], Sample]) -> Sample:
        with cairn() as server:
            return measure(server, count)

    what = f"longest step while {count:,} leases end at the same moment"
    contestants = {
        "leases": partial(longest, queue_clients.leases_that_end),
        "keys": partial(longest, queue_clients.keys_that_expire),
    }
    leases, keys = run.contest(what, contestants, run.profile.queue_rounds).values()
    peer = f"itself while {count:,} keys expire"
    cpu = [[sample["cpu_ms"] for sample in rounds] for rounds in (leases, keys)]
    run.row("longest step while leases end", f"{what}: CPU time", peer, "ms", *cpu, "≤ 2")


def queue_workers(run: Run) -> None:
    """Measure the CPU time of workers whose jobs do nothing."""
    with contextlib.ExitStack() as stack:
        servers = {server.name: server for server in installed(run, stack, cairn, redis)}
        peers = {"dramatiq": "≤ 0.5", "rq": "≤ 0.05"}
        present = [name for name in peers if "redis-server" in servers and has(run, name) and has(run, "redis")]

        def work(library: str) -> Sample:
            jobs = run.profile.queue_jobs // (RQ_SHARE if library == "rq" else 1)
            port = servers["cairn" if library == "cairnkv" else "redis-server"].port
            return run_json([sys.executable, str(HERE / "queues.py"), library, str(port), str(jobs)])

        what = "worker, jobs that do nothing: worker CPU per job"
        samples = run.contest(
            what, {name: partial(work, name) for name in ("cairnkv", *present)}, run.profile.queue_rounds
        )
        for name in present:
            run.row(
                "worker CPU per job", what, name, "µs", costs(samples["cairnkv"]), costs(samples[name]), peers[name]
            )


# -- starting ---------------------------------------------------------------------------------------------------------


def imports(run: Run) -> None:
    """Measure the time of imports."""

    def spent(statement: str) -> Sample:
        program = f"import time; began = time.perf_counter(); {statement}; print((time.perf_counter() - began) * 1e3)"
        times = [run_json([sys.executable, "-c", program]) for _ in range(run.profile.starts)]
        return {"ms": statistics.median(times)}

    if not has(run, "redis"):
        return
    ours, theirs = ("import cairnkv", "import cairnkv; cairnkv.connect"), "import redis"
    samples = run.contest("imports", {statement: partial(spent, statement) for statement in (*ours, theirs)})
    times = {statement: [sample["ms"] for sample in rounds] for statement, rounds in samples.items()}
    for statement in ours:
        group = "import, against import redis"
        run.row(group, f"`{statement}`", f"`{theirs}`", "ms", times[statement], times[theirs], "≤ 0.5")


def processes(run: Run) -> None:
    """Measure the time of a whole `cairn get` process."""

    def spent(command: Sequence[str], environment: dict[str, str]) -> Sample:
        times = []
        for _ in range(run.profile.starts):
            began = time.perf_counter()
            subprocess.run(
                command, env=os.environ | environment, stdout=subprocess.DEVNULL, check=True, timeout=PATIENCE
            )
            times.append((time.perf_counter() - began) * 1e3)
        return {"ms": statistics.median(times)}

    with cairn() as server:
        at = {"CAIRNKV_URL": f"cairn://127.0.0.1:{server.port}"}
        spent([str(CAIRN), "set", "k", "v"], at)
        samples = run.contest(
            "processes",
            {
                "cairn get": partial(spent, [str(CAIRN), "get", "k"], at),
                "python": partial(spent, [sys.executable, "-c", "pass"], {}),
            },
        )
    ours, theirs = ([sample["ms"] for sample in rounds] for rounds in samples.values())
    what = "a whole `cairn get k` process"
    run.row(what, what, "`python3 -c pass`", "ms", ours, theirs, "≤ 4")


# -- all of it --------------------------------------------------------------------------------------------------------

WITH_GENERATOR = (commands, redis_protocol, scripts, rights, memory, growth, steps, disk, cluster, clients)
WITHOUT = (embedded, embedded_disk, queues, imports, processes)
PARTS = {part.__name__: part for part in WITH_GENERATOR + WITHOUT}


@contextlib.contextmanager
def compiled_generator() -> Iterator[Path]:
    """Build the load generator in a temporary directory. Raises `Missing` without a compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise Missing(f"the load generator needs a C compiler; on Debian: apt-get install {PACKAGES['cc']}")
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as directory:
        program = Path(directory) / "generator"
        done = subprocess.run(
            [compiler, "-O2", "-o", str(program), str(HERE / "generator.c")],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if done.returncode != 0:
            raise Missing(f"the load generator does not compile here: {(done.stderr.splitlines() or [''])[0]}")
        yield program


def results(run: Run) -> dict[str, Any]:
    """Return all results, with the computer and the versions."""
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory_total = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    packages = [name for names in DISTRIBUTIONS.values() for name in names]
    return {
        "made": {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "profile": run.profile.name,
            "minutes": round((time.monotonic() - run.began) / 60, 1),
            "machine": {
                "processor": processor[1] if processor else platform.machine(),
                "cores": len(os.sched_getaffinity(0)),
                "memory_gib": round(int(memory_total[1]) / 2**20, 1) if memory_total else None,
                "kernel": f"{platform.system()} {platform.release()}",
            },
            "cairnkv": {
                "version": VERSION,
                "runs_on": f"{features()['path']} path on {features()['loop']}",
                "commit": commit(),
            },
            "versions": {
                "python": platform.python_version(),
                "redis-server": version("redis-server"),
                "memcached": version("memcached"),
                "nats-server": clusters.nats_version(),
                "RabbitMQ": clusters.rabbitmq_version(),
                "etcd": version("etcd"),
                "h2load": version("h2load"),
                "beanstalkd": version("beanstalkd", "-v"),
                "PostgreSQL": version("pgbench"),
                **{name: package_version(name) for name in packages},
            },
        },
        "notes": run.notes,
        "rows": run.rows,
        "rounds": run.rounds,
    }


def commit() -> str | None:
    """Return the commit of this clone, with `-dirty` if files have changed since; None without git."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=HERE,
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
        return done.stdout.strip()
    return None


def write(found: dict[str, Any], directory: Path) -> None:
    """Write the results and their chart. In the repository's directory, also rewrite the tables of the documents."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "latest.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    (directory / "latest.svg").write_text(chart.svg(found))
    if directory == RESULTS:
        make_tables()


def make_tables(*arguments: str) -> None:
    """Write the tables of the documents from the results. With --check, only prove that this is possible."""
    command = [sys.executable, str(HERE.parent / "docs" / "tables.py"), *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False)
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise Missing(f"docs/tables.py cannot make the tables of the documents: {why}")


def check_output(directory: Path) -> None:
    """Raise Missing if the end of a run could not write its results, so that no run fails after its measurements."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in (directory, *(directory / name for name in ("latest.json", "latest.svg"))):
        if path.exists() and not os.access(path, os.W_OK):
            raise Missing(f"{path} cannot be written")
    if directory == RESULTS:
        make_tables("--check")


def main() -> int:
    """Run all measurements. Return 1 after an error. A missed target is not an error."""
    parser = argparse.ArgumentParser(description="measure cairnkv and its peers on this computer")
    parser.add_argument(
        "--smoke", action="store_true", help="test that all measurements work, in seconds; the figures have no meaning"
    )
    parser.add_argument("--only", help="the parts to run, separated by commas: " + ", ".join(PARTS))
    parser.add_argument("--output", type=Path, default=RESULTS, help="where latest.json and latest.svg go")
    options = parser.parse_args()
    if (wanted := os.environ.get("BENCH", "")) not in ("", "full"):
        parser.error(f"BENCH is 'full' or nothing, not {wanted!r}")
    if (options.smoke or options.only) and options.output == RESULTS:
        parser.error("--smoke and --only have partial results: use another directory with --output")
    chosen = options.only.split(",") if options.only else list(PARTS)
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all started processes end
    run = Run(PROFILES["smoke" if options.smoke else wanted or "default"], None)
    try:
        with contextlib.ExitStack() as stack:
            parts = [PARTS[name] for name in chosen]
            try:
                run.generator = stack.enter_context(compiled_generator())
            except Missing as missing:
                if not options.smoke:
                    raise
                run.note(f"skipped: {missing}")
                parts = [part for part in parts if part in WITHOUT]
            check_output(options.output)
            # As after an installation by pip. PYTHONDONTWRITEBYTECODE leaves it out of an editable one.
            compileall.compile_dir(Path(cairnkv.__file__).parent, quiet=2)
            for part in parts:
                part(run)
        write(results(run), options.output)
    except (Missing, RuntimeError, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    run.report("done: benchmarks/results/latest.json" if options.output == RESULTS else "done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
