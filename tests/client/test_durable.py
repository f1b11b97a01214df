"""`durability("memory")`: a write returns after its execution, on storage that commits later, or on disk."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import cairnkv
from cairnkv import aio
from cairnkv.client.codec import Text
from cairnkv.client.embedded import Embedded
from cairnkv.commands import OK, InMemory
from cairnkv.protocol.native import CommandFlag
from cairnkv.store import LocalStore
from cairnkv.testing import RunningServer, running_server
from tests.support.late_storage import LateStorage
from tests.support.scripted import Conversation, scripted

PATIENCE = 30.0


@pytest.fixture
def storage() -> LateStorage:
    return LateStorage()


@pytest.fixture
def server(storage: LateStorage) -> Iterator[RunningServer]:
    """A server that commits when the test says."""
    with running_server(storage=storage) as server:
        yield server
        server.call(storage.commit)


@pytest.fixture
def kv(server: RunningServer) -> Iterator[cairnkv.Client[str, str]]:
    with cairnkv.connect(server.url, timeout=PATIENCE) as kv:
        yield kv


def test_write_returns_before_its_commit_and_is_hidden_until_then(
    server: RunningServer, storage: LateStorage, kv: cairnkv.Client[str, str]
) -> None:
    quick = kv.durability("memory")
    assert quick.set("k", "1") is True
    assert quick.incr("k", 4) == 5
    quick["other"] = "x"
    assert server.call(lambda: len(storage.pending)) == 3
    seen: list[str | None] = []
    with cairnkv.connect(server.url, timeout=PATIENCE) as reader:
        reading = threading.Thread(target=lambda: seen.append(reader.get("k")))
        reading.start()
        server.call(lambda: storage.commit(1))
        reading.join(0.1)
        assert seen == [], "the newest write of it is not committed"
        server.call(storage.commit)
        reading.join(PATIENCE)
    assert seen == ["5"]
    assert kv["other"] == "x"


def test_acknowledged_memory_write_is_undone_if_its_commit_fails(
    server: RunningServer, storage: LateStorage, kv: cairnkv.Client[str, str]
) -> None:
    kv.durability("memory").set("k", "1")
    server.call(storage.fail)
    assert kv.get("k") is None


def test_pipeline_mixes_durabilities_and_reports_each(
    server: RunningServer, storage: LateStorage, kv: cairnkv.Client[str, str]
) -> None:
    with kv.pipeline() as pipeline:
        quick = pipeline.durability("memory")
        first = quick.incr("n", 2)
        read = quick.exists("nobody")
        assert len(quick) == len(pipeline) == 2
        with pytest.raises(cairnkv.CallerError, match="not been executed yet"):
            first.reached  # noqa: B018
    assert (first.result(), first.reached, read.reached) == (2, "memory", "committed")
    pipeline = kv.pipeline()
    last = pipeline.durability("memory").durability("committed").incr("n")
    carried_out = threading.Thread(target=pipeline.execute)
    carried_out.start()
    while not server.call(lambda: len(storage.pending) == 2):
        pass
    server.call(storage.commit)
    carried_out.join(PATIENCE)
    assert (last.result(), last.reached) == (3, "committed")


async def test_asyncio_write_returns_before_its_commit(server: RunningServer, storage: LateStorage) -> None:
    async with aio.connect(server.url, timeout=PATIENCE) as kv:
        quick = kv.durability("memory")
        assert await asyncio.gather(quick.set("k", "1"), quick.incr("n")) == [True, 1]
        read = asyncio.ensure_future(kv.get("k"))
        done, _ = await asyncio.wait([read], timeout=0.05)
        assert not done
        server.call(storage.commit)
        assert await read == "1"
    with pytest.raises(cairnkv.CallerError, match="closed"):
        await quick.get("k")


def test_embedded_store_write_returns_before_its_commit(storage: LateStorage) -> None:
    kv = Embedded(LocalStore(storage=storage), Text(), Text())
    quick = kv.durability("memory")
    quick["k"] = "1"
    assert quick.swap("k", "2") == "1"
    assert len(storage.pending) == 2
    storage.fail()
    assert "k" not in quick
    quick.close()
    with pytest.raises(cairnkv.CallerError, match="closed"):
        kv.get("k")


async def test_asyncio_embedded_store_write_returns_before_its_commit(storage: LateStorage) -> None:
    async with aio.Embedded(LocalStore(storage=storage), Text(), Text()).durability("memory") as quick:
        assert await quick.incr("n") == 1
        storage.commit()
        assert await quick.get("n") == "1"


def test_durabilities_keep_their_order_in_a_pipeline_to_a_server(tmp_path: Path) -> None:
    """The native path serves only writes without the flag."""
    with running_server(data=str(tmp_path)) as server, cairnkv.connect(server.url, timeout=PATIENCE) as kv:
        with kv.pipeline() as pipeline:
            quick = pipeline.durability("memory")
            totals = [(pipeline if n % 3 else quick).incr("n") for n in range(300)]
            last = pipeline.get("n")
        assert [total.result() for total in totals] == list(range(1, 301))
        assert last.result() == "300"
        assert {total.reached for n, total in enumerate(totals) if n % 3} == {"committed"}
        assert "memory" in {total.reached for n, total in enumerate(totals) if n % 3 == 0}


@pytest.mark.parametrize("sync", ["always", "1s", "none"])
def test_memory_write_survives_a_clean_close(tmp_path: Path, sync: str) -> None:
    with cairnkv.open(tmp_path / "data", sync=sync) as kv:
        quick = kv.durability("memory")
        for number in range(1_000):
            quick[f"{number}"] = "x"
    with cairnkv.open(tmp_path / "data") as kv:
        assert len(kv) == 1_000


def test_reads_carry_no_durability_and_servers_may_exceed_it() -> None:
    asked: list[tuple[str, int]] = []

    def answer(conversation: Conversation) -> None:
        while (request := conversation.command()) is not None:
            asked.append((request.command.spec.name, request.flags))
            conversation.say(OK if len(asked) != 2 else InMemory(OK))

    with scripted(answer) as server, cairnkv.connect(server.url, timeout=PATIENCE) as kv:
        quick = kv.durability("memory")
        quick.set("k", "1")
        quick.set("k", "2")
        kv.set("k", "3")
        quick.get("k")
    enough = int(CommandFlag.MEMORY_IS_ENOUGH)
    assert asked == [("SET", enough), ("SET", enough), ("SET", 0), ("GET", 0)]


def test_repr_names_the_durability(storage: LateStorage) -> None:
    kv = Embedded(LocalStore(storage=storage), Text(), Text())
    assert repr(kv.durability("memory")) == "<cairnkv.Embedded>.durability('memory')"
    assert kv.durability("committed") is kv.durability("memory").durability("committed") is kv


def test_in_memory_store_reports_the_same_durability() -> None:
    with cairnkv.open() as kv:
        assert kv.durability("memory") is kv.durability("committed") is kv
        with pytest.raises(cairnkv.OptionError, match="durability is 'committed' or 'memory'"):
            kv.durability("none")  # type: ignore[arg-type]
