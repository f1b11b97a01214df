"""Writes for which memory was safe enough, on disk: what a crash takes of them, and what it does not."""

import random
import shutil
import time
from pathlib import Path

import pytest

import cairnkv
from cairnkv.commands import MISSING, OK, Get, InMemory, Set
from cairnkv.store import Held
from tests.log.test_disk import PATIENCE, OnDisk
from tests.log.test_disk_crash import served

CRASHES = 3


def test_it_is_answered_before_the_disk_has_it_and_committed_in_its_turn(tmp_path: Path) -> None:
    with OnDisk(tmp_path / "data") as disk:
        disk.engine.gate.clear()
        write = disk.store.execute(Set(b"a", b"1"))
        assert isinstance(write, Held)
        assert write.from_memory() == InMemory(OK)
        read = disk.store.execute(Get(b"a"))
        assert isinstance(read, Held)
        assert read.reply is None
        shutil.copytree(tmp_path / "data", tmp_path / "crashed", ignore=shutil.ignore_patterns("LOCK"))
        disk.engine.gate.set()
        assert disk.reply(read) == b"1"
        assert write.from_memory() is OK
    with OnDisk(tmp_path / "crashed") as disk:
        assert disk.store.execute(Get(b"a")) is MISSING
    with OnDisk(tmp_path / "data") as disk:
        assert disk.store.execute(Get(b"a")) == b"1"


@pytest.mark.parametrize("sync", ["always", "1s"])
def test_a_killed_server_loses_the_newest_only_and_none_before_a_safe_write(tmp_path: Path, sync: str) -> None:
    """Commits are in order, so a write that is as safe as the size promises makes all before it so."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for crash in range(CRASHES):
        process, url = served(tmp_path / "data", sync)
        acknowledged = safe = 0
        with cairnkv.connect(url, timeout=PATIENCE, attempts=1) as kv:
            kv.clear_all()
            quick = kv.durable("memory")
            until = time.monotonic() + dice.uniform(0.02, 0.3)
            while time.monotonic() < until or not safe:
                acknowledged += 1
                if dice.random() < 0.02:
                    kv[f"{acknowledged}"] = "safe"
                    safe = acknowledged
                else:
                    quick[f"{acknowledged}"] = "quick"
            process.kill()
            process.wait(PATIENCE)
        with cairnkv.open(tmp_path / "data") as kv:
            there = {int(key) for key in kv}
        assert there == set(range(1, len(there) + 1)), f"crash {crash}: one is missing before another"
        assert safe <= len(there) <= acknowledged, f"crash {crash}"
