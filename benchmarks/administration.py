"""Server CPU of PUBLISH per delivery, and of INFO, CLIENT LIST and COMMAND per call, beside redis-server.

Both servers run on this computer, and the measurements alternate between them in one run, so that other load changes
both alike: read the ratios. Needs redis-server (on Debian: apt-get install redis-server).

    python benchmarks/administration.py
"""

import argparse
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

SUBSCRIBERS: Final = 100
IDLE_CLIENTS: Final = 100
MESSAGE: Final = b"m" * 100
IN_FLIGHT: Final = 16
"""Calls that a client sends before it reads their replies."""

CALLS: Final = {
    "INFO": 400,
    "CLIENT LIST": 200,
    "CLIENT INFO": 2_000,
    "COMMAND DOCS": 32,
    "COMMAND": 64,
    "COMMAND DOCS get": 1_000,
    "CONFIG GET *": 200,
}
"""Commands, and how often each is called in one measurement."""

PUBLISHED: Final = 500
SECONDS: Final = 60.0


class Server:
    """A server process, and connections to it."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process = process
        self.port = port

    def cpu(self) -> float:
        """Seconds of CPU that the threads of the process have used."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    def connect(self) -> socket.socket:
        """Return a new connection."""
        connected = socket.create_connection(("127.0.0.1", self.port), SECONDS)
        connected.settimeout(SECONDS)
        return connected


@contextmanager
def redis_server() -> Iterator[Server]:
    """Run redis-server."""
    program = shutil.which("redis-server")
    if program is None:
        sys.exit("redis-server is not installed; on Debian: apt-get install redis-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen(
            [program, "--port", str(port), "--save", "", "--dir", directory], stdout=subprocess.DEVNULL
        )
        try:
            yield Server(process, port)
        finally:
            process.terminate()
            process.wait()


@contextmanager
def cairnkv() -> Iterator[Server]:
    """Run `cairn serve`."""
    code = [sys.executable, "-m", "cairnkv", "serve", "--port", "0"]
    process = subprocess.Popen(code, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        ready = process.stdout.readline().decode()
        found = re.search(r"cairn://127\.0\.0\.1:(\d+)", ready)
        if found is None:
            sys.exit(f"cairn serve did not start: {ready!r}")
        yield Server(process, int(found[1]))
    finally:
        process.terminate()
        process.wait()


def answered(server: Server) -> None:
    """Wait until the server answers."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            with server.connect() as connected:
                connected.sendall(b"PING\r\n")
                if connected.recv(7) == b"+PONG\r\n":
                    return
        except OSError:
            pass
        if time.monotonic() > end:
            sys.exit("a server did not answer in time")
        time.sleep(0.02)


def called(server: Server, command: str, count: int) -> float:
    """Return the server's CPU seconds per call of a command."""
    marker = b"$6\r\nmarker\r\n"
    with server.connect() as connected:
        before = server.cpu()
        for _ in range(0, count, IN_FLIGHT):
            connected.sendall((command.encode() + b"\r\n") * IN_FLIGHT + b"ECHO marker\r\n")
            tail = b""
            while not tail.endswith(marker):
                tail = tail[-len(marker) :] + connected.recv(1 << 20)
        return (server.cpu() - before) / (-(-count // IN_FLIGHT) * IN_FLIGHT)


def published(server: Server) -> float:
    """Return the server's CPU seconds per delivery of a message to a subscriber."""
    with ExitStack() as stack:
        subscribers = [stack.enter_context(server.connect()) for _ in range(SUBSCRIBERS)]
        for subscriber in subscribers:
            subscriber.sendall(b"SUBSCRIBE news\r\n")
            subscriber.recv(100)
        publisher = stack.enter_context(server.connect())
        publish = b"*3\r\n$7\r\nPUBLISH\r\n$4\r\nnews\r\n$%d\r\n%b\r\n" % (len(MESSAGE), MESSAGE)
        size = len(b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$100\r\n" + MESSAGE + b"\r\n")
        before = server.cpu()
        for _ in range(PUBLISHED):
            publisher.sendall(publish)
            publisher.recv(100)
            for subscriber in subscribers:
                left = size
                while left:
                    left -= len(subscriber.recv(left))
        return (server.cpu() - before) / (PUBLISHED * SUBSCRIBERS)


def measured(servers: dict[str, Server], measure: Callable[[Server], float], rounds: int) -> dict[str, float]:
    """Return the median of a measurement on each server; the servers take turns."""
    found: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, server in servers.items():
            found[name].append(measure(server))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each server")
    rounds = parser.parse_args().rounds
    with ExitStack() as stack:
        servers = {"redis-server": stack.enter_context(redis_server()), "cairnkv": stack.enter_context(cairnkv())}
        for server in servers.values():
            answered(server)
            for _ in range(IDLE_CLIENTS):
                stack.enter_context(server.connect()).sendall(b"PING\r\n")
        print(f"{'server CPU, microseconds':36} {'cairnkv':>10} {'redis-server':>14} {'ratio':>7}")
        rows: dict[str, Callable[[Server], float]] = {f"PUBLISH, per each of {SUBSCRIBERS} subscribers": published}
        for command, count in CALLS.items():
            rows[command] = lambda server, command=command, count=count: called(server, command, count)  # type: ignore[misc]
        for name, measure in rows.items():
            found = measured(servers, measure, rounds)
            ours, theirs = found["cairnkv"], found["redis-server"]
            ratio = f"{ours / theirs:7.2f}" if theirs else "      ?"
            print(f"{name:36} {ours * 1e6:10.2f} {theirs * 1e6:14.2f} {ratio}", flush=True)


if __name__ == "__main__":
    main()
