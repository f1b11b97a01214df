"""CPU time of a command, of a handshake and of a connection with TLS, beside redis-server with TLS.

    python benchmarks/tls.py [--works get/1,set/1,...] [--rounds 5] [--seconds 1.5]
    python benchmarks/tls.py --handshakes 2000

The first form prints CPU time of the server per command, by redis-benchmark with 50 connections: the medians of the
rounds, in which the servers take turns, and in parentheses the median of the ratios to redis-server with TLS within
each round. A workload is COMMAND/DEPTH. A connection's memory follows: of a new server, over 500 idle connections.

The second form opens many connections at once, whose handshakes all begin together, and prints the latency of another
client meanwhile.

Needs redis-server with TLS, redis-benchmark and openssl (on Debian: apt-get install redis-server redis-tools openssl).
"""

import argparse
import contextlib
import re
import resource
import selectors
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from servers import Server, _free_port, _process, _until, cairn, installed_program, redis

WORKS: Final = "get/1,set/1,get/16,set/16,get/64,set/64"
CONNECTIONS: Final = 50
VALUE: Final = 32
IDLE: Final = 500
"""Idle connections, for the memory of one."""

PAUSE: Final = 0.001
"""Seconds between two commands of the client whose latency is measured."""

SECONDS: Final = 30.0
PING: Final = b"*1\r\n$4\r\nPING\r\n"


def certificate(directory: Path) -> tuple[Path, Path]:
    """Make a certificate with a key of P-256, which signs itself."""
    paths = directory / "server.pem", directory / "server.key"
    command = [installed_program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    return paths


@contextlib.contextmanager
def redis_with_tls(paths: tuple[Path, Path]) -> Iterator[Server]:
    """Start redis-server with TLS."""
    port = _free_port()
    command = [installed_program("redis-server"), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
    command += ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"]
    command += ["--tls-cert-file", str(paths[0]), "--tls-key-file", str(paths[1])]
    with _process(command) as (process, log):
        _until(process, log, lambda: "Ready to accept connections" in log.read_text())
        yield Server("redis-server", "resp", port, process.pid)


def cpu(server: Server) -> float:
    """Return the CPU time of a server so far, in seconds: clock_getcpuclockid(3)."""
    return time.clock_gettime(~server.pid << 3 | 2)


def measured(server: Server, command: str, depth: int, seconds: float, *, tls: bool) -> float:
    """Return the CPU time of a server per command, in microseconds."""
    count = int(seconds * {1: 35_000, 16: 250_000}.get(depth, 500_000))
    call = [installed_program("redis-benchmark"), "-p", str(server.port), "-c", str(CONNECTIONS), "-n", str(count)]
    call += ["-P", str(depth), "-t", command, "-d", str(VALUE), "-r", "100000", "-q"]
    if tls:
        call += ["--tls", "--insecure"]
    before = cpu(server)
    done = subprocess.run(call, check=True, capture_output=True, text=True, timeout=20 * seconds + SECONDS)
    used = cpu(server) - before
    if "requests per second" not in done.stdout:
        raise RuntimeError(f"redis-benchmark: {done.stdout} {done.stderr}")
    return used / count * 1e6


def compare(works: str, rounds: int, seconds: float, program: Path | None) -> None:
    """Print the CPU time per command of the servers, and the memory of a connection."""
    with contextlib.ExitStack() as stack:
        paths = certificate(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cairn-bench-"))))
        with_tls = ("--tls-cert", str(paths[0]), "--tls-key", str(paths[1]))
        starts = {
            "redis-server, TLS": (partial(redis_with_tls, paths), True),
            "cairn, TLS": (partial(cairn, *with_tls), True),
            "redis-server, plain": (redis, False),
            "cairn, plain": (cairn, False),
        }
        if program is not None:
            starts["the other cairn, plain"] = (partial(cairn, program=program), False)
        servers = {name: (stack.enter_context(start()), tls) for name, (start, tls) in starts.items()}
        for server, tls in servers.values():
            measured(server, "set", 16, 1.0, tls=tls)
        print("| work | " + " | ".join(servers) + " |\n|" + " --- |" * (1 + len(servers)))
        for work in works.split(","):
            command, _, depth = work.partition("/")
            found: dict[str, list[float]] = {name: [] for name in servers}
            for _ in range(rounds):
                for name, (server, tls) in servers.items():
                    found[name].append(measured(server, command, int(depth), seconds, tls=tls))
            cells = []
            for own in found.values():
                ratio = statistics.median(a / b for a, b in zip(own, found["redis-server, TLS"], strict=True))
                cells.append(f"{statistics.median(own):.3g} µs ({ratio:.2f})")
            print(f"| {work} | " + " | ".join(cells) + " |", flush=True)
        cells = []
        for start, tls in starts.values():
            with start() as server:  # a new one: memory that a server has freed would serve the connections
                cells.append(f"{memory(server, tls=tls) / 1024:.1f} KiB")
        print("| memory of a connection | " + " | ".join(cells) + " |")


def insecure() -> ssl.SSLContext:
    """Return the context of a client that trusts every certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connected(server: Server, *, tls: bool) -> socket.socket:
    """Return a connection on which a command was executed."""
    client = socket.create_connection(("127.0.0.1", server.port), SECONDS)
    if tls:
        client = insecure().wrap_socket(client)
    client.sendall(PING)
    if client.recv(100) != b"+PONG\r\n":
        raise RuntimeError(f"{server.name} does not reply to PING")
    return client


def memory(server: Server, *, tls: bool) -> float:
    """Return the memory of an idle connection, in bytes."""
    with contextlib.ExitStack() as stack:
        for _ in range(50):  # the first ones also fill the allocator
            stack.enter_context(connected(server, tls=tls))
        before = server.resident_bytes()
        for _ in range(IDLE):
            stack.enter_context(connected(server, tls=tls))
        return (server.resident_bytes() - before) / IDLE


def latencies(client: socket.socket, stop: threading.Event) -> list[float]:
    """Return the latencies of commands, one at a time, in microseconds."""
    found = []
    while not stop.is_set():
        begin = time.perf_counter()
        client.sendall(PING)
        client.recv(100)
        found.append((time.perf_counter() - begin) * 1e6)
        time.sleep(PAUSE)
    return found


def probe(port: int, seconds: float) -> None:
    """Print the latencies of a client, for the process of this program that measures them."""
    client = connected(Server("server", "resp", port, 0), tls=True)
    stop = threading.Event()
    threading.Timer(seconds, stop.set).start()
    print(*(f"{latency:.0f}" for latency in latencies(client, stop)))


def storm(server: Server, count: int) -> float:
    """Begin many handshakes together and end all of them. Returns the seconds."""
    clients: dict[socket.socket, tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]] = {}
    context = insecure()
    for _ in range(count):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing)
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        clients[socket.create_connection(("127.0.0.1", server.port), SECONDS)] = tls, incoming, outgoing
    begin = time.perf_counter()
    for client, (_, _, outgoing) in clients.items():
        client.sendall(outgoing.read())
    waiting = set(clients)
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
        while waiting:
            for key, _ in selector.select(SECONDS):
                client = key.fileobj
                assert isinstance(client, socket.socket)
                tls, incoming, outgoing = clients[client]
                data = client.recv(65_536)
                if not data:
                    raise RuntimeError("the server has closed a connection in its handshake")
                incoming.write(data)
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    selector.unregister(client)
                    waiting.discard(client)
                client.sendall(outgoing.read())
    seconds = time.perf_counter() - begin
    for client in clients:
        client.close()
    return seconds


def handshakes(count: int, rounds: int) -> None:
    """Print the latency of a client beside many handshakes."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # also for the servers
    print("| server | idle p50 | idle p99 | p99 beside handshakes | ratio | longest | seconds | CPU of a handshake |")
    print("|" + " --- |" * 8)
    with contextlib.ExitStack() as stack:
        paths = certificate(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cairn-bench-"))))
        with_tls = ("--tls-cert", str(paths[0]), "--tls-key", str(paths[1]))
        servers = {"redis-server": redis_with_tls(paths), "cairn": cairn(*with_tls)}
        for name, start in servers.items():
            server = stack.enter_context(start)
            for _ in range(rounds):
                idle = _probed(server, 2.0)
                idle.wait()
                before = sorted(_numbers(idle))
                beside = _probed(server, 6.0)
                time.sleep(0.5)
                used = cpu(server)
                seconds = storm(server, count)
                used = cpu(server) - used
                beside.wait()
                # Only the storm counts: as many of the longest latencies as fit into it.
                during = sorted(_numbers(beside))[-max(1, int(min(seconds, 5.0) / 6.0 * len(_numbers(beside)))) :]
                p99 = during[int(len(during) * 0.99)]
                rest = before[int(len(before) * 0.99)]
                print(
                    f"| {name} | {statistics.median(before):.0f} µs | {rest} µs | {p99} µs | {p99 / rest:.1f} | "
                    f"{during[-1]} µs | {seconds:.2f} | {used / count * 1e6:.0f} µs |",
                    flush=True,
                )


class _Probe:
    """A process with a client whose latencies are measured."""

    def __init__(self, server: Server, seconds: float) -> None:
        command = [sys.executable, __file__, "--probe", str(server.port), "--seconds", str(seconds)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.output = ""

    def wait(self) -> None:
        """Wait for its end."""
        self.output = self._process.communicate(timeout=60)[0]


def _probed(server: Server, seconds: float) -> _Probe:
    return _Probe(server, seconds)


def _numbers(probed: _Probe) -> list[int]:
    return [int(text) for text in re.findall(r"\d+", probed.output)]


def main() -> None:
    """Choose the measurement."""
    parser = argparse.ArgumentParser(description="TLS beside redis-server")
    parser.add_argument("--works", default=WORKS, help=f"default: {WORKS}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--other", type=Path, help="the `cairn` of another checkout, in plain text")
    parser.add_argument("--handshakes", type=int, help="measure a client beside so many handshakes")
    parser.add_argument("--probe", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.probe is not None:
        probe(given.probe, given.seconds)
    elif given.handshakes is not None:
        handshakes(given.handshakes, given.rounds)
    else:
        compare(given.works, given.rounds, given.seconds, given.other)


if __name__ == "__main__":
    main()
