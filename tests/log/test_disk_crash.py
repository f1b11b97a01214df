"""A server is killed with SIGKILL at random moments: what it had acknowledged is there when it comes again.

CRASHES says how many times for each sync mode (`make test-crash`); the seed is part of what a failure shows.
A killed process loses nothing in any mode: what was written is the system's. Power loss is another matter, and not
tested here.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import cairnkv

CRASHES = int(os.environ.get("CRASHES", "2"))
WRITERS = 4
PATIENCE = 30.0
PADDING = " " * 1_000
"""So that the keys of all writers are more than the least memory limit here."""


def served(directory: Path, sync: str, *more: str) -> "tuple[subprocess.Popen[str], str]":
    command = [sys.executable, "-m", "cairnkv", "serve", "--port", "0", "--data", str(directory), "--sync", sync, *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "size disk" in line, line
    process.stdout.close()
    return process, line.split(" ready on ")[1].split(",")[0]


def write(url: str, writer: int, said: dict[str, int], acknowledged: dict[str, int]) -> None:
    """Count keys up until the server is gone; note each value before it is said, and when it is acknowledged."""
    try:
        with cairnkv.connect(url, timeout=PATIENCE, attempts=1) as kv:
            number = max(said.values(), default=0)
            while True:
                number += 1
                key = f"{writer}:{number % 7}"
                said[key] = number
                kv.set(key, str(number) + PADDING)
                acknowledged[key] = number
                if (before := acknowledged.get(earlier := f"{writer}:{(number + 3) % 7}")) is not None:
                    assert before <= int(kv[earlier].removesuffix(PADDING)) <= said[earlier]
    except cairnkv.CairnError:
        return


@pytest.mark.parametrize("limit", [(), ("--memory-limit", "20000")], ids=["", "cache"])
@pytest.mark.parametrize("sync", ["always", "1s", "none"])
def test_what_was_acknowledged_outlives_sigkill(tmp_path: Path, sync: str, limit: tuple[str, ...]) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    said: list[dict[str, int]] = [{} for _ in range(WRITERS)]
    acknowledged: list[dict[str, int]] = [{} for _ in range(WRITERS)]
    for _ in range(CRASHES):
        process, url = served(tmp_path / "data", sync, *limit)
        threads = [
            threading.Thread(target=write, args=(url, writer, said[writer], acknowledged[writer]))
            for writer in range(WRITERS)
        ]
        for thread in threads:
            thread.start()
        time.sleep(dice.uniform(0.05, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        with cairnkv.open(tmp_path / "data") as kv:
            for writer in range(WRITERS):
                assert acknowledged[writer], "nothing was acknowledged, so nothing was tested"
                for key, number in acknowledged[writer].items():
                    assert number <= int(kv[key].removesuffix(PADDING)) <= said[writer][key], key
                for key in said[writer].keys() - acknowledged[writer].keys():
                    assert int(kv.get(key, "0").removesuffix(PADDING)) in (0, said[writer][key])


def test_a_flipped_byte_in_the_log_is_reported_wherever_it_is(tmp_path: Path) -> None:
    process, url = served(tmp_path / "data", "always")
    with cairnkv.connect(url, timeout=PATIENCE) as kv:
        for number in range(300):
            kv.set(f"key {number}", "v" * 100)
    process.kill()
    process.wait(PATIENCE)
    (log,) = [path for path in (tmp_path / "data").glob("*.log") if path.stat().st_size]
    whole = log.read_bytes()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    lengths = record_starts(whole)[-40:]
    places = [dice.randrange(len(whole)) for _ in range(20)]
    places += [at + byte for at in dice.sample(lengths, 8) for byte in (4, 5)] + [lengths[-1] + 5]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << dice.randrange(8)
        log.write_bytes(damaged)
        with pytest.raises(cairnkv.OptionError, match="is damaged"):
            cairnkv.open(tmp_path / "data").close()
    log.write_bytes(whole[:-30])  # torn, as by a crash
    with cairnkv.open(tmp_path / "data") as kv:
        assert kv.count() == 299


def record_starts(log: bytes) -> list[int]:
    """Where RocksDB's records begin."""
    starts, at = [], 0
    while at + 7 <= len(log):
        if 32_768 - at % 32_768 < 7:
            at += 32_768 - at % 32_768
            continue
        starts.append(at)
        at += 7 + int.from_bytes(log[at + 4 : at + 6], "little")
    return starts


def test_a_flipped_byte_in_a_table_is_reported(tmp_path: Path) -> None:
    with cairnkv.open(tmp_path / "data", sync="none") as kv:
        kv.set_many({f"key {number}": str(number) * 50 for number in range(2_000)})
    (table,) = (tmp_path / "data").glob("*.sst")
    data = bytearray(table.read_bytes())
    data[len(data) // 3] ^= 4
    table.write_bytes(data)
    with pytest.raises(cairnkv.OptionError, match="is damaged"):
        cairnkv.open(tmp_path / "data").close()
