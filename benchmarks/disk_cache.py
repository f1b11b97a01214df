"""Memory as a cache of the disk: the cost of the limit if all values are in memory, and if most are not.

`python benchmarks/disk_cache.py [--keys N] [--value BYTES] [--part TIMES]` serves the same data twice: without a limit,
and with a limit for a part of it. The program sends commands in pipelines of 16 over some connections, and alternates
between the servers. It also prints the server's CPU time per command, which depends less on other load. Memory is the
resident memory of the server's process.

Out of scope: comparisons with other servers (`bench.py`).
"""

import argparse
import contextlib
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

CONNECTIONS = 8
PIPELINE = 16
ROUNDS = 5


class Served:
    """A server with a directory, and connections to it."""

    def __init__(self, directory: str, *more: str) -> None:
        command = [
            sys.executable,
            "-m",
            "cairnkv",
            "serve",
            "--port",
            "0",
            "--data",
            directory,
            "--sync",
            "none",
            *more,
        ]
        began = time.monotonic()
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.seconds = time.monotonic() - began
        host, port = line.split("://")[1].split(",")[0].strip().split(" ")[0].rsplit(":", 1)
        self._sockets = [socket.create_connection((host, int(port))) for _ in range(CONNECTIONS)]
        for one in self._sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        for one in self._sockets:
            one.close()
        self._process.terminate()
        self._process.wait()

    def send(self, batches: list[list[tuple[bytes, ...]]], length: int) -> None:
        """Send the commands of each batch on its own connection, and read the replies, all of this length."""
        for one, commands in zip(self._sockets, batches, strict=False):
            one.sendall(b"".join(_request(words) for words in commands))
        for one, commands in zip(self._sockets, batches, strict=False):
            left = length * len(commands)
            while left:
                left -= len(one.recv(min(left, 1 << 20)))

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> int:
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def info(self) -> dict[str, str]:
        import cairnkv

        with cairnkv.connect("cairn://{}:{}".format(*self._sockets[0].getpeername())) as kv:
            return {name: str(value) for name, value in kv.info().items()}


def _request(words: tuple[bytes, ...]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


@contextlib.contextmanager
def served(directory: str, *more: str) -> Iterator[Served]:
    server = Served(directory, *more)
    try:
        yield server
    finally:
        server.close()


def key(number: int) -> bytes:
    return b"key:%012d" % number


def measured(server: Served, keys: list[bytes], length: int) -> tuple[float, float]:
    """Return the GETs per second, and the server's CPU time for each in microseconds."""
    together = CONNECTIONS * PIPELINE
    began, used = time.monotonic(), server.cpu_seconds()
    for first in range(0, len(keys), together):
        part = [(b"GET", name) for name in keys[first : first + together]]
        server.send([part[at : at + PIPELINE] for at in range(0, len(part), PIPELINE)], length)
    return len(keys) / (time.monotonic() - began), (server.cpu_seconds() - used) / len(keys) * 1e6


def shown(what: str, samples: list[tuple[float, float]]) -> None:
    rate, cost = (
        sorted(rate for rate, _ in samples)[len(samples) // 2],
        sorted(c for _, c in samples)[len(samples) // 2],
    )
    print(f"{what:<44}{rate:>12,.0f} a second{cost:>10.2f} us of CPU each")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--value", type=int, default=1_000, help="bytes")
    parser.add_argument("--part", type=float, default=5, help="size of the data divided by the limit")
    given = parser.parse_args()
    dice = random.Random(1)
    size = given.keys * (given.value + 16 + 134)
    limit = int(size / given.part)
    length = len(b"$%d\r\n" % given.value) + given.value + 2
    print(f"{given.keys:,} keys, values of {given.value:,} bytes: {size / 1e6:,.0f} MB; limit {limit / 1e6:,.0f} MB")
    with tempfile.TemporaryDirectory() as directory:
        with served(directory, "--memory-limit", str(limit)) as server:
            began = time.monotonic()
            for first in range(0, given.keys, CONNECTIONS * PIPELINE):
                part = [
                    (b"SET", key(number), dice.randbytes(given.value))
                    for number in range(first, min(first + CONNECTIONS * PIPELINE, given.keys))
                ]
                server.send([part[at : at + PIPELINE] for at in range(0, len(part), PIPELINE)], len(b"+OK\r\n"))
            rate = given.keys / (time.monotonic() - began)
            print(f"filled with the limit at {rate:,.0f} a second; {server.resident() / 1e6:,.0f} MB resident")
        with served(directory, "--memory-limit", str(2 * size)) as roomy:
            # A directory belongs to one process, so the other server uses a copy.
            with tempfile.TemporaryDirectory() as copy:
                subprocess.run(["cp", "-r", f"{directory}/.", copy], check=True)
                (Path(copy) / "LOCK").unlink()
                with served(copy) as plain:
                    print(f"no limit: opened in {plain.seconds:.1f} s; {plain.resident() / 1e6:,.0f} MB resident")
                    with_limit, without = [], []
                    for _ in range(ROUNDS):
                        keys = [key(dice.randrange(given.keys)) for _ in range(20_000)]
                        without.append(measured(plain, keys, length))
                        with_limit.append(measured(roomy, keys, length))
            shown("GET, no limit", without)
            shown("GET, a limit with room for all", with_limit)
        with served(directory, "--memory-limit", str(limit)) as server:
            print(f"limit: opened in {server.seconds:.1f} s; {server.resident() / 1e6:,.0f} MB resident")
            cold = []
            for _ in range(ROUNDS):
                before = server.info()
                cold.append(measured(server, [key(dice.randrange(given.keys)) for _ in range(10_000)], length))
                after = server.info()
            reads = int(after["cache_reads"]) - int(before["cache_reads"])
            shown(f"GET, {reads / 10_000:.0%} of them cold", cold)
            resident, used = server.resident() / 1e6, int(after["used_bytes"]) / 1e6
            print(f"afterwards {resident:,.0f} MB resident, {used:,.0f} by estimate")


if __name__ == "__main__":
    main()
