"""Writes with durability `memory` on a durable store: which of them a crash loses."""

import random
import shutil
import time
from pathlib import Path

import pytest

import cairnkv
from cairnkv.commands import MISSING, OK, Failure, Get, Incr, InMemory, Ping, Set, SetMany, Swap, failures
from cairnkv.protocol import write_command
from cairnkv.protocol.native import CommandFlag, Response
from cairnkv.store import PendingRead, PendingReply
from tests.session.native_client import NativeClient
from tests.storage.test_disk import PATIENCE, OnDisk
from tests.storage.test_value_cache import Cooled
from tests.support.serving import Served

pytestmark = pytest.mark.usefixtures("path_in_use")

CRASHES = 3


def test_write_is_answered_before_its_commit_and_committed_in_order(tmp_path: Path) -> None:
    with OnDisk(tmp_path / "data") as disk:
        disk.engine.gate.clear()
        write = disk.store.execute(Set(b"a", b"1"))
        assert isinstance(write, PendingReply)
        assert write.reply_before_commit() == InMemory(OK)
        read = disk.store.execute(Get(b"a"))
        assert isinstance(read, PendingReply)
        assert read.reply is None
        shutil.copytree(tmp_path / "data", tmp_path / "crashed", ignore=shutil.ignore_patterns("LOCK"))
        disk.engine.gate.set()
        assert disk.reply(read) == b"1"
        assert write.reply_before_commit() is OK
    with OnDisk(tmp_path / "crashed") as disk:
        assert disk.store.execute(Get(b"a")) is MISSING
    with OnDisk(tmp_path / "data") as disk:
        assert disk.store.execute(Get(b"a")) == b"1"


def test_write_to_a_cold_value_waits_for_its_read_only(tmp_path: Path) -> None:
    with Cooled(tmp_path / "data") as disk:
        disk.do(SetMany(0, ((b"n", b"5"), (b"text", b"x" * 100))))
        disk.cool_all()
        disk.engine.gate.clear()
        writes = [disk.store.execute(command) for command in (Incr(b"n", 2), Incr(b"text", 1), Swap(b"n", b"9"))]
        assert all(isinstance(write, PendingRead) and not write.executed for write in writes)
        quick = [write.reply_before_commit() for write in writes if isinstance(write, PendingReply)]
        total, failure, before = [disk.reply(outcome) for outcome in quick]
        assert (total, before) == (InMemory(7), InMemory(b"7"))
        assert isinstance(failure, Failure)
        assert failure.code is failures.NOTINT
        read = disk.store.execute(Get(b"n"))
        assert isinstance(read, PendingReply)
        assert read.reply is None
        again = writes[0]
        assert isinstance(again, PendingReply)
        assert again.reply_before_commit() == InMemory(7)
        disk.engine.gate.set()
        assert disk.reply(read) == b"9"


def test_replies_of_a_client_keep_their_order_at_a_cold_value(tmp_path: Path) -> None:
    with Cooled(tmp_path / "data") as disk:
        disk.do(Set(b"n", b"5"))
        disk.cool_all()
        client = NativeClient(store=disk.store)
        quick = write_command(Incr(b"n", 2), flags=CommandFlag.MEMORY_IS_ENOUGH)
        disk.engine.gate.clear()
        client.send(quick, Ping(b"between"), quick, Get(b"n"))
        assert client.payloads() == []
        heard: list[Response] = []
        while len(heard) < 3:
            disk.step()
            heard += client.hear()
        assert [(response.payload, response.header) for response in heard] == [(b"7", 8), (b"between", 0), (b"9", 8)]
        disk.engine.gate.set()
        while not (last := client.hear()):
            disk.step()
        assert [(response.payload, response.header) for response in last] == [(b"9", 0)]


@pytest.mark.parametrize("sync", ["always", "1s"])
def test_killed_server_loses_only_writes_after_the_last_commit(tmp_path: Path, sync: str) -> None:
    """Commits are in order, so a committed write commits all writes before it."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for crash in range(CRASHES):
        acknowledged = safe = 0
        with (
            Served(tmp_path / "data", "--sync", sync) as served,
            cairnkv.connect(served.url, timeout=PATIENCE, attempts=1) as kv,
        ):
            kv.clear_all()
            quick = kv.durability("memory")
            until = time.monotonic() + dice.uniform(0.02, 0.3)
            while time.monotonic() < until or not safe:
                acknowledged += 1
                if dice.random() < 0.02:
                    kv[f"{acknowledged}"] = "safe"
                    safe = acknowledged
                else:
                    quick[f"{acknowledged}"] = "quick"
            served.kill()
        with cairnkv.open(tmp_path / "data") as kv:
            there = {int(key) for key in kv}
        assert there == set(range(1, len(there) + 1)), f"crash {crash}: one is missing before another"
        assert safe <= len(there) <= acknowledged, f"crash {crash}"
