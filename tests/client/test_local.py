"""`local()`: reads that the asked node may answer alone; here, what is sent and to which node."""

import asyncio
from collections.abc import Iterator

import pytest

import cairnkv
from cairnkv import aio
from cairnkv.commands import OK, Get, GetMany, GetWith, Items, Ping
from cairnkv.protocol.native import CommandFlag
from cairnkv.testing import running_server
from tests.support.late_storage import LateStorage
from tests.support.scripted import Conversation, Scripted, scripted

PATIENCE = 30.0
LOCAL = int(CommandFlag.LOCAL_READ)
MEMORY = int(CommandFlag.MEMORY_IS_ENOUGH)

Asked = list[tuple[str, int]]


@pytest.fixture
def asked() -> Asked:
    """The commands that came to `server`, with their flags."""
    return []


@pytest.fixture
def server(asked: Asked) -> Iterator[Scripted]:
    def answer(conversation: Conversation) -> None:
        while (request := conversation.command()) is not None:
            asked.append((request.command.spec.name, request.flags))
            command = request.command
            reads = isinstance(command, Get | GetWith | Ping)
            conversation.say(Items((b"v",)) if isinstance(command, GetMany) else b"v" if reads else OK)

    with scripted(answer) as server:
        yield server


def test_only_local_reads_carry_the_flag(server: Scripted, asked: Asked) -> None:
    with cairnkv.connect(server.url, timeout=PATIENCE) as kv:
        local = kv.local()
        assert local.get("k") == local["k"] == "v"
        assert local.get_many(["k"]) == {"k": "v"}
        assert local.get_many([]) == {}
        local.set("k", "v")
        kv.get("k")
    assert asked == [("GET", LOCAL), ("GET", LOCAL), ("GET_MANY", LOCAL), ("PING", LOCAL), ("SET", 0), ("GET", 0)]


def test_a_read_that_also_writes_is_a_write(server: Scripted, asked: Asked) -> None:
    with cairnkv.connect(server.url, timeout=PATIENCE) as kv:
        assert kv.local().get("k", clear=True) == "v"
    assert asked == [("GET_WITH", 0)]


def test_local_and_durability_combine_in_any_order(server: Scripted, asked: Asked) -> None:
    with cairnkv.connect(server.url, timeout=PATIENCE) as kv:
        for both in (kv.local().durability("memory"), kv.durability("memory").local()):
            both.set("k", "v")
            both.get("k")
            only_local = both.durability("committed")
            only_local.set("k", "v")
            only_local.get("k")
        with pytest.raises(cairnkv.OptionError):
            kv.local().durability("no")  # type: ignore[arg-type]
    assert asked == 2 * [("SET", MEMORY), ("GET", LOCAL), ("SET", 0), ("GET", LOCAL)]


async def test_asyncio_local_reads_carry_the_flag(server: Scripted, asked: Asked) -> None:
    async with aio.connect(server.url, timeout=PATIENCE) as kv:
        local = kv.local()
        assert await asyncio.gather(local.get("k"), kv.get("k"), local.set("k", "v")) == ["v", "v", True]
        for both in (local.durability("memory"), kv.durability("memory").local()):
            await both.set("k", "v")
            await both.get("k")
            await both.durability("committed").set("k", "v")
    assert asked[:3] == [("GET", LOCAL), ("GET", 0), ("SET", 0)]
    assert asked[3:] == 2 * [("SET", MEMORY), ("GET", LOCAL), ("SET", 0)]
    with pytest.raises(cairnkv.CallerError, match="closed"):
        await local.get("k")


def test_pipeline_mixes_local_and_linearizable_reads(server: Scripted, asked: Asked) -> None:
    with cairnkv.connect(server.url, timeout=PATIENCE) as kv:
        with kv.pipeline() as pipeline:
            local = pipeline.local()
            first = local.get("k")
            pipeline.get("k")
            local.durability("memory").set("k", "v")
            pipeline.durability("memory").local().get("k")
            local.durability("memory").durability("committed").set("k", "v")
            assert len(local) == len(pipeline) == 5
            assert local.local() is local
        assert first.result() == "v"
        local.get("k")
        local.execute()
    assert asked == [("GET", LOCAL), ("GET", 0), ("SET", MEMORY), ("GET", LOCAL), ("SET", 0), ("GET", LOCAL)]


def test_local_reads_change_nothing_on_a_single_server() -> None:
    storage = LateStorage()
    with running_server(storage=storage) as server, cairnkv.connect(server.url, timeout=PATIENCE) as kv:
        kv.durability("memory").set("k", "1")
        with cairnkv.connect(server.url, timeout=0.2, attempts=1) as reader, pytest.raises(cairnkv.TimedOut):
            reader.local().get("k")  # what is not committed is not shown to it either
        server.call(storage.commit)
        assert kv.local().get("k") == "1"
        assert list(kv.local()) == ["k"]


async def test_local_of_an_embedded_store_is_the_store_itself() -> None:
    with cairnkv.open() as kv:
        assert kv.local() is kv.local().local() is kv
    async with aio.open() as store:
        assert store.local() is store


def test_repr_names_the_view_and_the_view_is_cached() -> None:
    kv = cairnkv.connect("cairn://nowhere")
    assert repr(kv.local()) == "<cairnkv.Client nowhere:6555>.local()"
    assert repr(aio.connect("cairn://nowhere").local()) == "<cairnkv.aio.Client nowhere:6555>.local()"
    local, both = kv.local(), kv.local().durability("memory")
    assert local.local() is local.durability("committed") is local
    assert repr(both) == "<cairnkv.Client nowhere:6555>.durability('memory').local()"
    assert both.durability("memory") is not kv
