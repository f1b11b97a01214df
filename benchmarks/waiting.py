"""Latency of a message for a TAKE that waits: from the PUT of one client to the reply of another, beside PING and SET.

    python benchmarks/waiting.py [--exchanges 5000] [--only cluster]

In memory, on disk, and in a cluster of three nodes. The exchanges alternate, on connections of this process to servers
on this computer, so read the ratios. On disk, PUT and TAKE are one commit, as SET is. In a cluster, they are one entry
of the log if both clients use the same node, and two if not.
"""

import argparse
import contextlib
import socket
import statistics
import time
from collections.abc import Callable, Iterator

import clusters
from servers import cairn, cairn_on_disk

from cairnkv.commands import Ping, Put, Set, Take
from cairnkv.protocol.native import ResponseDecoder, write_command

BODY = b"m" * 100
PING, SET, PUT = write_command(Ping(b"")), write_command(Set(b"key", BODY)), write_command(Put(b"queue", BODY))
TAKE = write_command(Take(b"queue", 1, lease=3_600_000, wait=20_000))
STORES = ("memory", "disk", "cluster")


class Connection:
    """A connection that reads one reply at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._decoder = ResponseDecoder()

    def reply(self) -> bytes:
        """Return the payload of the next reply."""
        while (response := self._decoder.next()) is None:
            self._decoder.feed(self.socket.recv(65_536))
        if not response.ok:
            raise SystemExit(f"waiting: {response.payload.decode()}")
        return response.payload

    def ask(self, frame: bytes) -> bytes:
        """Return the payload of the reply to a command."""
        self.socket.sendall(frame)
        return self.reply()


def timed(exchange: Callable[[], object]) -> float:
    """Return the seconds that an exchange takes."""
    began = time.perf_counter()
    exchange()
    return time.perf_counter() - began


def measured(ports: list[int], exchanges: int) -> dict[str, list[float]]:
    """Return the seconds of each exchange. The TAKE waits at the first port."""
    taker, other = Connection(ports[0]), Connection(ports[0])
    producers = {f"PUT to the reply of TAKE{' at another node' if at else ''}": at for at in range(min(2, len(ports)))}
    times: dict[str, list[float]] = {name: [] for name in ("PING", "SET", *producers)}
    connections = {name: Connection(ports[at]) for name, at in producers.items()}

    def put_and_take(producer: Connection) -> None:
        producer.socket.sendall(PUT)
        if not taker.reply():
            raise SystemExit("waiting: a TAKE ended without a message")

    for _ in range(exchanges):
        for name, producer in connections.items():
            taker.socket.sendall(TAKE)
            for _ in range(2):  # the server may reply to the first one before it begins the TAKE
                other.ask(PING)
            times["PING"].append(timed(lambda: other.ask(PING)))
            times["SET"].append(timed(lambda: other.ask(SET)))
            times[name].append(timed(lambda: put_and_take(producer)))  # noqa: B023  # it is called at once
            producer.reply()
    return times


@contextlib.contextmanager
def started(name: str) -> Iterator[list[int]]:
    """Start a store, and yield its ports."""
    if name == "cluster":
        with clusters.cairn() as cluster:
            yield cluster.ports
    else:
        with {"memory": cairn, "disk": cairn_on_disk}[name]() as server:
            yield [server.port]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exchanges", type=int, default=5_000, help="of each kind (default: 5,000)")
    parser.add_argument("--only", choices=STORES, help="one of the stores (default: all)")
    arguments = parser.parse_args()
    print("| store | exchange | p50, µs | p99, µs | p99 to that of PING | p99 to that of SET |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in (arguments.only,) if arguments.only else STORES:
        with started(name) as ports:
            times = measured(ports, arguments.exchanges)
        quantiles = {what: statistics.quantiles(taken, n=100) for what, taken in times.items()}
        for what, of in quantiles.items():
            ratios = (f"{of[98] / quantiles[other][98]:.2f}" for other in ("PING", "SET"))
            print(f"| {name} | {what} | {of[49] * 1e6:.0f} | {of[98] * 1e6:.0f} | {' | '.join(ratios)} |", flush=True)


if __name__ == "__main__":
    main()
