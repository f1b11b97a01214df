"""Memory of a server with a limit: at most an empty server's plus 1.3 times the limit, for any content."""

import contextlib
import itertools
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cairnkv
from cairnkv.errors import CairnError, Refused
from cairnkv.lab.cluster import LocalCluster
from cairnkv.limits import MIB

LIMIT = 64 * MIB
SLACK = 1.3

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system tells no peak of memory")

Values = dict[bytes, bytes]


def small(chance: random.Random) -> Iterator[Values]:
    for first in itertools.count(0, 1_000):
        yield {b"k%08d" % number: b"12345678" for number in range(first, first + 1_000)}


def medium(chance: random.Random) -> Iterator[Values]:
    for first in itertools.count(0, 100):
        yield {b"k%08d" % number: b"v" * chance.randrange(100, 4_000) for number in range(first, first + 100)}


def large(chance: random.Random) -> Iterator[Values]:
    for number in itertools.count():
        yield {b"k%08d" % number: b"v" * chance.randrange(10_000, 1_000_000)}


def long(chance: random.Random) -> Iterator[Values]:
    """Several copies of a value are in memory while a node proposes and applies it."""
    for number in itertools.count():
        yield {b"k%08d" % number: b"v" * chance.randrange(10_000, 300_000)}


def churned(chance: random.Random) -> Iterator[Values]:
    """Keys that are overwritten with longer and longer values, so that memory is freed in pieces of other sizes."""
    for turn in itertools.count():
        longest = 100 + 20 * (turn % 400)
        yield {b"k%08d" % chance.randrange(20_000): b"v" * chance.randrange(longest) for _ in range(200)}


@contextlib.contextmanager
def serving(*options: str) -> Iterator[tuple[str, int]]:
    """A server process: its URL and its number."""
    command = [sys.executable, "-m", "cairnkv", "serve", "--port", "0", "--memory-limit", f"{LIMIT}", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"cairn://127\.0\.0\.1:\d+", process.stdout.readline())
            assert found is not None
            yield found[0], process.pid
        finally:
            process.kill()


def peak(process: int) -> int:
    """The most memory that a process has had, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


OPTIONS = {"refuse": (), "evict": ("--when-full", "evict"), "disk": ("--data", "{data}")}


@pytest.mark.parametrize(
    ("mode", "values", "expires"),
    [
        ("refuse", small, False),
        ("refuse", small, True),
        ("refuse", churned, False),
        ("evict", small, False),
        ("evict", medium, True),
        ("evict", churned, True),
        ("disk", small, True),
        ("disk", medium, False),
        ("disk", large, True),
        ("disk", churned, False),
    ],
)
def test_memory_stays_within_the_limit(
    tmp_path: Path, mode: str, values: Callable[[random.Random], Iterator[Values]], expires: bool
) -> None:
    chance = random.Random(1)
    options = [option.format(data=tmp_path / "data") for option in OPTIONS[mode]]
    with serving(*options) as (url, process), cairnkv.connect(url, codec="bytes", timeout=60) as kv:
        kv.set(b"any", b"v")
        empty = peak(process)
        said = refused = 0
        for turn, batch in enumerate(values(chance)):
            try:
                kv.set_many(batch, ttl=1_000.0 + 3 * turn if expires else None)
            except CairnError:
                refused += 1
            said += sum(len(key) + len(value) + (150 if mode == "refuse" else 340) for key, value in batch.items())
            if refused > 20 or said > 1.25 * LIMIT:
                break
        assert peak(process) - empty < SLACK * LIMIT
        assert said > LIMIT // 2, "and it holds what it has room for"


@pytest.mark.parametrize(("values", "expires"), [(medium, True), (long, False)])
def test_memory_of_each_node_of_a_cluster_stays_within_the_limit(
    tmp_path: Path, values: Callable[[random.Random], Iterator[Values]], expires: bool
) -> None:
    chance = random.Random(1)
    with (
        LocalCluster.up(tmp_path, flags=("--memory-limit", f"{LIMIT}")) as cluster,
        cairnkv.connect(cluster.addresses[0], codec="bytes", timeout=60) as kv,
    ):
        kv.set(b"any", b"v")
        nodes = [host.node.pid for host in cluster.hosts if host.node.pid is not None]
        assert len(nodes) == len(cluster.hosts)
        empty = [peak(node) for node in nodes]
        refused = 0
        for turn, batch in enumerate(values(chance)):
            try:
                kv.set_many(batch, ttl=1_000.0 + 3 * turn if expires else None)
            except Refused:
                refused += 1
            if refused > 20:
                break
        for address in cluster.addresses:  # linearizable, so the node has applied all of it
            with cairnkv.connect(address, timeout=60) as node_kv:
                assert node_kv.count() > 1
        assert int(kv.info()["used_bytes"]) > LIMIT // 2, "and it holds what it has room for"
        for node, before in zip(nodes, empty, strict=True):
            assert peak(node) - before < SLACK * LIMIT
