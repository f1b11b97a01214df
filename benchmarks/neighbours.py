"""Latency of one client's GETs beside a client that sends and never reads, and redis-py's large pipelines.

Both servers run on this computer. Each measurement beside such a client comes between two without, and the servers take
turns: read the ratios. Needs redis-server (on Debian: apt-get install redis-server) and redis-py.

    python benchmarks/neighbours.py
"""

import argparse
import multiprocessing
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from administration import Server, answered, cairnkv, measured, redis_server

import redis

GETS: Final = 2_000
"""GETs of one measurement, one at a time."""

PAUSE: Final = 0.001
"""Seconds between two GETs."""

PIPELINED: Final = 200_000
VALUE: Final = b"v" * 1_000

ON_REDIS_PROTOCOL: Final = b"*2\r\n$3\r\nGET\r\n$5\r\nvalue\r\n"
ON_NATIVE_PROTOCOL: Final = b"\0\0\0\0\0\0\x05value"
FLOODS: Final = {
    "GETs of 1 kB": ON_REDIS_PROTOCOL,
    "SETs of 1 kB": b"*3\r\n$3\r\nSET\r\n$5\r\nvalue\r\n$1000\r\n%b\r\n" % VALUE,
    "inline PINGs": b"PING\r\n",
    "SETs of 5 B": b"*3\r\n$3\r\nSET\r\n$5\r\nshort\r\n$5\r\nhello\r\n",
    "EXPIREs": b"*3\r\n$6\r\nEXPIRE\r\n$5\r\nvalue\r\n$5\r\n10000\r\n",
    "native GETs of 1 kB": ON_NATIVE_PROTOCOL,
}
"""Commands that a client sends without reading a reply."""


def flood(port: int, command: bytes) -> None:
    """Send a command repeatedly, read nothing, and connect again when the server closes the connection."""
    many = command * (256 * 1024 // len(command))
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as connected:
                while True:
                    connected.sendall(many)
        except OSError:
            time.sleep(0.01)


@contextmanager
def flooded(server: Server, command: bytes) -> Iterator[None]:
    """Run a process that floods the server."""
    process = multiprocessing.Process(target=flood, args=(server.port, command), daemon=True)
    process.start()
    try:
        time.sleep(0.2)
        yield
    finally:
        process.kill()
        process.join()


def p99(server: Server) -> float:
    """Return the 99th percentile of the latency of GETs, in seconds."""
    with server.connect() as connected:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        expected = len(VALUE) + len(b"$1000\r\n\r\n")
        taken = []
        for _ in range(GETS):
            time.sleep(PAUSE)
            began = time.perf_counter()
            connected.sendall(ON_REDIS_PROTOCOL)
            left = expected
            while left:
                left -= len(connected.recv(left))
            taken.append(time.perf_counter() - began)
    return statistics.quantiles(taken, n=100)[98]


def pipelined(server: Server) -> float:
    """Return the seconds that redis-py's pipeline of 200,000 GETs takes."""
    with redis.Redis(port=server.port) as client:
        pipeline = client.pipeline(transaction=False)
        for _ in range(PIPELINED):
            pipeline.get("value")
        began = time.perf_counter()
        if pipeline.execute() != [VALUE] * PIPELINED:
            sys.exit("a pipeline had a wrong reply")
        return time.perf_counter() - began


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each server (default: 3)")
    rounds = parser.parse_args().rounds
    with ExitStack() as stack:
        servers = {"cairnkv": stack.enter_context(cairnkv()), "redis-server": stack.enter_context(redis_server())}
        for server in servers.values():
            answered(server)
            with redis.Redis(port=server.port) as client:
                client.set("value", VALUE)
        print(f"{'p99 of GET, milliseconds, beside a client':44} {'server':14} {'alone':>7} {'beside':>7} {'ratio':>6}")
        print("that never reads and sends")
        for what, command in FLOODS.items():
            for name, server in servers.items():
                if command == ON_NATIVE_PROTOCOL and name == "redis-server":
                    continue
                alone, beside = [], []
                for _ in range(rounds):
                    alone.append(p99(server))
                    with flooded(server, command):
                        beside.append(p99(server))
                once, then = statistics.median(alone) * 1e3, statistics.median(beside) * 1e3
                print(f"{what:44} {name:14} {once:7.3f} {then:7.3f} {then / once:6.1f}", flush=True)
        taken = measured(servers, pipelined, rounds)
        ours, theirs = taken["cairnkv"], taken["redis-server"]
        print(
            f"\nredis-py's pipeline of {PIPELINED:,} GETs of 1 kB: "
            f"cairnkv {ours:.2f} s, redis-server {theirs:.2f} s, ratio {ours / theirs:.2f}"
        )


if __name__ == "__main__":
    main()
