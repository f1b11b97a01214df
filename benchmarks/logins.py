"""Latency of one client's GETs beside 1,000 wrong logins a second, and the memory and threads of the server.

Each measurement beside wrong logins comes between two without them: read the ratios.

    python benchmarks/logins.py
"""

import argparse
import multiprocessing
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Final

from neighbours import GETS, ON_REDIS_PROTOCOL, PAUSE
from servers import Server, cairn

from cairnkv.server.password_hashing import hash_password
from cairnkv.session.access.users import Secret

PER_SECOND: Final = 1_000
"""Wrong logins a second."""

HELD: Final = 200
"""Connections of wrong logins that are open at once: their replies are delayed, and they do not wait for them."""

TOKEN: Final = b"ck_" + b"t" * 43
OTHER_TOKEN: Final = b"ck_" + b"o" * 43
LIMIT: Final = 5.0
"""Maximum ratio of the 99th percentiles beside wrong logins and alone."""

ATTACKS: Final = {
    "wrong passwords, one address": (b"anna", b"guess %d", False),
    "wrong passwords, many addresses": (b"anna", b"guess %d", True),
    "wrong tokens, one address": (b"app", OTHER_TOKEN, False),
    "unknown users": (b"user%d", b"guess", False),
}
"""The user and the secret of each login, and whether each comes from another address. `anna` has an argon2id hash, so
that passwords from many addresses keep the hashing thread busy."""


def request(*strings: bytes) -> bytes:
    """Return a request of the Redis protocol."""
    return b"*%d\r\n" % len(strings) + b"".join(b"$%d\r\n%b\r\n" % (len(string), string) for string in strings)


def attack(port: int, user: bytes, secret: bytes, spread: bool, tried: Synchronized) -> None:
    """Log in with wrong secrets, each on a connection of its own."""
    held: list[socket.socket] = []
    began, number = time.monotonic(), 0
    while True:
        number += 1
        host = f"127.1.{random.randrange(250)}.{random.randrange(1, 250)}" if spread else "127.0.0.1"
        try:
            connected = socket.create_connection(("127.0.0.1", port), 10, source_address=(host, 0))
            connected.sendall(request(b"AUTH", *[text % number if b"%" in text else text for text in (user, secret)]))
            held.append(connected)
            tried.value += 1
        except OSError:
            pass
        if len(held) > HELD:
            held.pop(0).close()
        ahead = began + number / PER_SECOND - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)


@contextmanager
def attacked(server: Server, user: bytes, secret: bytes, spread: bool) -> Iterator[Synchronized]:
    """Run a process that attacks the server; yields the number of its logins so far."""
    tried = multiprocessing.Value("Q", 0)
    process = multiprocessing.Process(target=attack, args=(server.port, user, secret, spread, tried), daemon=True)
    process.start()
    try:
        time.sleep(1.0)
        yield tried
    finally:
        process.kill()
        process.join()


def p99(server: Server) -> float:
    """Return the 99th percentile of the latency of GETs, in seconds."""
    with socket.create_connection(("127.0.0.1", server.port), 60) as connected:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.sendall(request(b"AUTH", b"app", TOKEN))
        if connected.recv(100) != b"+OK\r\n":
            sys.exit("the right token was refused")
        taken = []
        for _ in range(GETS):
            time.sleep(PAUSE)
            began = time.perf_counter()
            connected.sendall(ON_REDIS_PROTOCOL)
            if connected.recv(100) != b"$-1\r\n":
                sys.exit("a GET had a wrong reply")
            taken.append(time.perf_counter() - began)
    return statistics.quantiles(taken, n=100)[98]


def threads(server: Server) -> int:
    """Return the number of threads of the server."""
    return len(list(Path(f"/proc/{server.pid}/task").iterdir()))


def main() -> None:
    """Measure, print a table, and fail if a ratio is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind of login (default: 3)")
    rounds = parser.parse_args().rounds
    worst = 0.0
    with tempfile.TemporaryDirectory() as directory:
        users = Path(directory, "users")
        rules = "~* &* +@all"
        secrets = {"app": Secret.of_token(TOKEN).text, "anna": hash_password(b"correct horse")}
        users.write_text("".join(f"user {name} on {secret} {rules}\n" for name, secret in secrets.items()))
        users.chmod(0o600)
        with cairn("--users", str(users), "--audit-log", str(Path(directory, "audit"))) as server:
            print(f"before: {server.resident_bytes() / 2**20:.1f} MiB, {threads(server)} threads")
            titles = f"{'alone':>7} {'beside':>7} {'ratio':>6} {'logins/s':>9} {'MiB':>6} {'threads':>7}"
            print(f"{'p99 of GET in ms beside':34} {titles}")
            for name, (user, secret, spread) in ATTACKS.items():
                alone, beside, rates = [], [], []
                for _ in range(rounds):
                    alone.append(p99(server))
                    with attacked(server, user, secret, spread) as tried:
                        before, began = tried.value, time.monotonic()
                        beside.append(p99(server))
                        rates.append((tried.value - before) / (time.monotonic() - began))
                once, then = statistics.median(alone) * 1e3, statistics.median(beside) * 1e3
                worst = max(worst, then / once)
                state = f"{server.resident_bytes() / 2**20:6.1f} {threads(server):7}"
                rate = statistics.median(rates)
                print(f"{name:34} {once:7.3f} {then:7.3f} {then / once:6.1f} {rate:9,.0f} {state}", flush=True)
    if worst > LIMIT:
        sys.exit(f"a ratio is {worst:.1f}; the limit is {LIMIT:g}")


if __name__ == "__main__":
    main()
