"""The longest step of the server's loop under writes, with and without a backup.

`python benchmarks/backup.py [MEGABYTES] [ROUNDS]`: 1,000 and 4 by default. A client in a separate process sends PING
all the time. Its longest wait in a round is the longest step of the loop, including other activity of the system.
Rounds with and without a backup alternate: compare both.
"""

import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import cairnkv

sys.path.insert(0, str(Path(__file__).parent))
import servers

VALUE_BYTES = 1_000
SETS_TOGETHER = 50
"""Writes in one pipeline of the writer."""

PING_PAUSE = 0.000_3
"""Seconds between two PINGs."""

BACKUP_SECONDS_MAX = 120.0

HELPERS_SECONDS_MAX = 60.0
"""Timeout for the start of the client processes."""

HEAD_SECONDS = 1.0
"""Seconds of load before a round begins."""


class Round(NamedTuple):
    """The result of a round. Times are in milliseconds."""

    with_backup: bool
    longest: float
    p99: float
    pings: int
    writes: int
    seconds: float


def _ping(
    url: str,
    at_work: "multiprocessing.synchronize.Barrier",
    stop: "multiprocessing.synchronize.Event",
    answer: "multiprocessing.Queue[list[float]]",
) -> None:
    """Send PING until the stop event is set. Runs in a separate process."""
    waits = []
    with cairnkv.connect(url) as kv:
        kv.ping()
        at_work.wait(HELPERS_SECONDS_MAX)
        while not waits or not stop.is_set():
            began = time.perf_counter()
            kv.ping()
            waits.append((time.perf_counter() - began) * 1000)
            time.sleep(PING_PAUSE)
    answer.put(waits)


def _write(
    url: str,
    keys: int,
    at_work: "multiprocessing.synchronize.Barrier",
    stop: "multiprocessing.synchronize.Event",
    count: "multiprocessing.Queue[int]",
) -> None:
    """Overwrite keys until the stop event is set. Runs in a separate process."""
    written = 0
    noise = os.urandom(1 << 20)
    with cairnkv.connect(url, codec="bytes") as kv:
        kv.ping()
        at_work.wait(HELPERS_SECONDS_MAX)
        while not stop.is_set():
            with kv.pipeline() as pipeline:
                for number in range(written, written + SETS_TOGETHER):
                    at = number * 7_919 % (len(noise) - VALUE_BYTES)
                    pipeline.set(b"%08d" % (number * 104_729 % keys), noise[at : at + VALUE_BYTES])
            written += SETS_TOGETHER
    count.put(written)


def _fill(url: str, keys: int) -> None:
    with cairnkv.connect(url, codec="bytes") as kv:
        for first in range(0, keys, 1_000):
            noise = os.urandom(1_000 * VALUE_BYTES)
            kv.set_many(
                {
                    b"%08d" % (first + number): noise[number * VALUE_BYTES : (number + 1) * VALUE_BYTES]
                    for number in range(min(1_000, keys - first))
                }
            )


def _back_up(url: str) -> float:
    """Make a backup that shares no files with another. Return its duration in seconds."""
    from cairnkv.client.calls import Call
    from cairnkv.commands import Backup

    began = time.perf_counter()
    with cairnkv.connect(url) as kv:
        number = int(kv.info()["backup_job"]) + 1
        kv._do(Call(Backup(b"bench%d" % number), lambda reply: reply))
        while (info := kv.info())["backup_state"] == "running":
            if time.perf_counter() - began > BACKUP_SECONDS_MAX:
                raise TimeoutError("the backup did not end")
            time.sleep(0.05)
    if info["backup_state"] != "done":
        raise RuntimeError(str(info["backup_error"]))
    return time.perf_counter() - began


def _round(url: str, keys: int, seconds: float | None) -> Round:
    """Run one round: with a backup, or without one for some seconds."""
    spawn = multiprocessing.get_context("spawn")
    at_work, stop, waits, count = spawn.Barrier(3), spawn.Event(), spawn.Queue(), spawn.Queue()
    helpers = [
        spawn.Process(target=_ping, args=(url, at_work, stop, waits)),
        spawn.Process(target=_write, args=(url, keys, at_work, stop, count)),
    ]
    for helper in helpers:
        helper.start()
    at_work.wait(HELPERS_SECONDS_MAX)
    time.sleep(HEAD_SECONDS)
    if seconds is None:
        took = _back_up(url)
    else:
        threading.Event().wait(seconds)
        took = seconds
    stop.set()
    all_waits, writes = sorted(waits.get(timeout=60)), count.get(timeout=60)
    for helper in helpers:
        helper.join()
    return Round(seconds is None, all_waits[-1], all_waits[len(all_waits) * 99 // 100], len(all_waits), writes, took)


def measure(megabytes: int = 1_000, rounds: int = 4, *, sync: str = "always", where: str | None = None) -> list[Round]:
    """Run rounds with a backup, each followed by one as long without. where: the directory for the data."""
    keys = megabytes * 1_000_000 // VALUE_BYTES
    directory = Path(tempfile.mkdtemp(prefix="cairnkv-backup-", dir=where))
    try:
        flags = ("--data", str(directory / "data"), "--sync", sync, "--backup-dir", str(directory / "backups"))
        with servers.cairn(*flags) as server:
            url = f"cairn://127.0.0.1:{server.port}"
            _fill(url, keys)
            found = []
            for _ in range(rounds):
                found.append(_round(url, keys, None))
                found.append(_round(url, keys, found[-1].seconds))
            return found
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main(megabytes: int = 1_000, rounds: int = 4) -> None:
    """Measure, and print the results."""
    found = measure(megabytes, rounds)
    for one in found:
        print(
            f"{'backup' if one.with_backup else 'none  '}  {one.seconds:5.1f} s  longest {one.longest:6.1f} ms  "
            f"p99 {one.p99:5.2f} ms  {one.pings:,} pings, {one.writes:,} writes"
        )
    for with_backup in (True, False):
        longest = [one.longest for one in found if one.with_backup is with_backup]
        print(
            f"{'with' if with_backup else 'without'} a backup: longest wait, median of rounds "
            f"{statistics.median(longest):.1f} ms, worst {max(longest):.1f} ms"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
