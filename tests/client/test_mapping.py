"""The methods of a mapping, in every kind of store, and the awaitable ones in asyncio stores."""

import asyncio
import collections.abc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cairnkv
from cairnkv.testing import ManualClock, running_server

MANY = 2_500
"""Keys of several slices."""


@pytest.fixture(params=["embedded", "limited", "on disk", "sync client", "pure memory view"])
def kv(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[cairnkv.KeyValue[str, str]]:
    if request.param == "sync client":
        with running_server() as server, cairnkv.connect(server.url) as client:
            yield client
    elif request.param == "on disk":
        with cairnkv.open(tmp_path / "data", sync="none") as store:
            yield store
    elif request.param == "limited":
        with cairnkv.open(memory_limit=2**26) as store:
            yield store
    else:
        with cairnkv.open() as store:
            yield store.durability("memory") if request.param == "pure memory view" else store


def filled(kv: cairnkv.KeyValue[str, str], many: int = MANY) -> dict[str, str]:
    values = {f"key {n}": f"value {n}" for n in range(many)}
    kv.update(values)
    return values


def test_store_becomes_a_dict(kv: cairnkv.KeyValue[str, str]) -> None:
    values = filled(kv)
    assert dict(kv.items()) == values
    assert dict(kv) == values
    assert {**kv} == values


def test_views_are_those_of_a_dict(kv: cairnkv.KeyValue[str, str]) -> None:
    values = filled(kv)
    assert sorted(kv.keys()) == sorted(values)
    assert sorted(kv.values()) == sorted(values.values())
    assert sorted(kv.items()) == sorted(values.items())
    assert len(kv.keys()) == len(kv.values()) == len(kv.items()) == MANY
    assert "key 7" in kv.keys()  # noqa: SIM118 - the view is what is tried
    assert "nobody" not in kv.keys()  # noqa: SIM118
    assert "value 7" in kv.values()
    assert "nothing" not in kv.values()
    assert ("key 7", "value 7") in kv.items()
    assert ("key 7", "value 8") not in kv.items()
    assert kv.keys() & {"key 7", "nobody"} == {"key 7"}
    assert isinstance(kv.keys(), collections.abc.KeysView)
    assert isinstance(kv.items(), collections.abc.ItemsView)


def test_pop_deletes_a_key(kv: cairnkv.KeyValue[str, str]) -> None:
    kv["a"] = "1"
    assert kv.pop("a") == "1"
    assert "a" not in kv
    assert kv.pop("a", "default") == "default"
    assert kv.pop("a", None) is None
    with pytest.raises(KeyError, match="a"):
        kv.pop("a")


def test_popitem_empties_a_store(kv: cairnkv.KeyValue[str, str]) -> None:
    values = filled(kv, 20)
    assert dict(kv.popitem() for _ in range(20)) == values
    with pytest.raises(KeyError, match="empty"):
        kv.popitem()


def test_setdefault_keeps_an_existing_value(kv: cairnkv.KeyValue[str, str]) -> None:
    assert kv.setdefault("a", "1") == "1"
    assert kv.setdefault("a", "2") == "1"
    assert kv["a"] == "1"


def test_setdefault_accepts_none_as_a_value() -> None:
    with cairnkv.open(codec="json") as kv:
        kv["a"] = None
        assert kv.setdefault("a", 1) is None
        assert kv["a"] is None


def test_update_accepts_the_arguments_of_a_dict(kv: cairnkv.KeyValue[str, str]) -> None:
    kv.update({"a": "1"}, b="2")
    kv.update([("c", "3"), ("d", "4")])
    kv.update(e="5")
    kv.update()
    kv |= {"f": "6"}
    kv |= [("g", "7")]
    assert dict(kv.items()) == dict(zip("abcdefg", "1234567", strict=True))
    with cairnkv.open() as other:
        other.update(kv)  # type: ignore[arg-type]
        assert dict(other.items()) == dict(kv.items())
        other.update(kv.items())


@pytest.mark.parametrize("wrong", [5, "ab", [5], ["ab"], [("a", "b", "c")]])
def test_update_error_names_accepted_types(wrong: Any) -> None:
    with cairnkv.open() as kv:
        with pytest.raises(cairnkv.CallerError, match="pairs of a key and a value"):
            kv.update(wrong)
        assert len(kv) == 0


def test_update_accepts_more_keys_than_one_command() -> None:
    with running_server() as server, cairnkv.connect(server.url, codec="bytes") as kv:
        kv.update((b"%d" % n, b"x") for n in range(70_000))
        assert len(kv) == 70_000
        kv.clear_all()
        kv.update({f"big {n}": bytes(10_000_000) for n in range(8)})
        assert sorted(map(len, kv.values())) == [10_000_000] * 8


def test_keys_may_be_deleted_during_iteration(kv: cairnkv.KeyValue[str, str]) -> None:
    filled(kv)
    seen = 0
    for key in kv:
        del kv[key]
        seen += 1
    assert seen == MANY
    assert len(kv) == 0
    filled(kv)
    for pair in kv.items():
        del kv[pair[0]]
    assert len(kv) == 0


def test_items_omit_keys_that_expire_meanwhile() -> None:
    clock = ManualClock()
    with cairnkv.open(clock=clock) as kv:
        for n in range(MANY):
            kv.set(f"short {n}", "v", ttl=1)
            kv[f"long {n}"] = "v"
        items = iter(kv.items())
        first = next(items)
        clock.advance("2s")
        rest = dict(items)
        assert {key for key in {**rest, first[0]: "v"} if key.startswith("long")} == {f"long {n}" for n in range(MANY)}


def test_clear_without_a_key_is_an_error(kv: cairnkv.KeyValue[str, str]) -> None:
    """`clear` deletes one key. Without a key, it must not empty the store."""
    kv["a"] = "1"
    with pytest.raises(TypeError):
        kv.clear()  # type: ignore[call-arg]
    assert len(kv) == 1


# -- asyncio -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["embedded", "client"])
def connect(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "embedded":
        yield cairnkv.aio.open
    else:
        with running_server() as server:
            yield lambda: cairnkv.aio.connect(server.url)


async def test_asyncio_store_has_the_awaitable_methods_of_a_mapping(connect: Any) -> None:
    values = {f"key {n}": f"value {n}" for n in range(MANY)}
    async with connect() as kv:
        await kv.update(values)
        assert {key async for key in kv} == {key async for key in kv.keys()} == set(values)  # noqa: SIM118
        assert sorted([value async for value in kv.values()]) == sorted(values.values())
        assert {key: value async for key, value in kv.items()} == values
        assert await kv.pop("key 7") == "value 7"
        assert await kv.pop("key 7", None) is None
        with pytest.raises(KeyError):
            await kv.pop("key 7")
        assert await kv.setdefault("key 7", "new") == "new"
        assert await kv.setdefault("key 7", "newer") == "new"
        assert (await kv.popitem())[0] in values
        assert await kv.count() == MANY - 1
        await kv.clear_all()
        with pytest.raises(KeyError):
            await kv.popitem()


async def test_asyncio_store_refuses_methods_that_cannot_be_awaited(connect: Any) -> None:
    async with connect() as kv:
        with pytest.raises(TypeError):
            kv["a"]
        with pytest.raises(TypeError):
            _ = "a" in kv
        with pytest.raises(TypeError):
            dict(kv)


# -- pipelines ---------------------------------------------------------------------------------------------------------


def test_pipeline_of_any_store_executes_in_order(kv: Any) -> None:
    with kv.pipeline() as pipeline:
        stored = [pipeline.set(f"k{n}", str(n)) for n in range(MANY)]
        total = [pipeline.incr("hits") for _ in range(3)]
        wrong = pipeline.incr("k", 1)
        got = pipeline.get_many([f"k{n}" for n in range(MANY)])
        missing = pipeline.get("nobody", "default")
    assert all(result.result() for result in stored)
    assert [result.result() for result in total] == [1, 2, 3]
    assert wrong.result() == 1
    assert got.result() == {f"k{n}": str(n) for n in range(MANY)}
    assert missing.result() == "default"


def test_pipeline_raises_its_first_error_and_keeps_the_rest(kv: Any) -> None:
    kv["text"] = "x"
    pipeline = kv.pipeline()
    pipeline.incr("text")
    fine = pipeline.set("k", "v")
    with pytest.raises(cairnkv.BadCommand, match="NOTINT"):
        pipeline.execute()
    assert fine.result() is True
    assert kv["k"] == "v"


def test_pipeline_of_a_closed_store_raises() -> None:
    kv = cairnkv.open()
    pipeline = kv.pipeline()
    pipeline.set("k", "v")
    kv.close()
    with pytest.raises(cairnkv.CallerError, match="closed"):
        pipeline.execute()


def test_pipeline_on_disk_survives_a_restart(tmp_path: Path) -> None:
    with cairnkv.open(tmp_path / "data") as kv, kv.pipeline() as pipeline:
        for n in range(3_000):
            pipeline.set(f"k{n}", str(n))
        before = pipeline.get("k7")
    assert before.result() == "7"
    with cairnkv.open(tmp_path / "data") as kv:
        assert len(kv) == 3_000


def test_pipeline_reads_values_that_left_memory(tmp_path: Path) -> None:
    value = "x" * 100_000
    with cairnkv.open(tmp_path / "data", sync="none", memory_limit=2**21) as kv:
        for n in range(100):
            kv[f"k{n}"] = value
        with kv.pipeline() as pipeline:
            got = [pipeline.get(f"k{n}") for n in range(20)]
            cleared = pipeline.clear_many([f"k{n}" for n in range(20)])
            after = pipeline.get("k3")
        assert [result.result() for result in got] == [value] * 20
        assert (cleared.result(), after.result()) == (20, None)


async def test_asyncio_pipeline_executes_in_order(connect: Any) -> None:
    async with connect() as kv:
        async with kv.pipeline() as pipeline:
            stored = [pipeline.set(f"k{n}", str(n)) for n in range(12_000)]
            total = [pipeline.incr("hits") for _ in range(3)]
            quick = pipeline.durability("memory").local()
            fast = quick.set("fast", "1")
            last = quick.durability("committed").get("k7")
        assert len(pipeline) == 0
        assert all(result.result() for result in stored)
        assert [result.result() for result in total] == [1, 2, 3]
        assert fast.result() is True
        assert last.result() == "7"


async def test_asyncio_pipeline_raises_its_first_error_and_keeps_the_rest(connect: Any) -> None:
    async with connect() as kv:
        await kv.set("text", "x")
        pipeline = kv.pipeline()
        wrong, fine = pipeline.incr("text"), pipeline.get("text")
        with pytest.raises(cairnkv.CallerError, match="not been executed yet"):
            fine.result()
        with pytest.raises(cairnkv.BadCommand, match="NOTINT"):
            await pipeline.execute()
        assert isinstance(wrong.error, cairnkv.BadCommand)
        assert fine.result() == "x"


async def test_asyncio_pipeline_without_a_server_fails_each_command(unused_tcp_port: int) -> None:
    async with cairnkv.aio.connect(f"cairn://127.0.0.1:{unused_tcp_port}") as kv:
        pipeline = kv.pipeline()
        pending = [pipeline.set(f"k{n}", "v") for n in range(100)]
        with pytest.raises(cairnkv.Unavailable, match="cannot connect"):
            await asyncio.wait_for(pipeline.execute(), 30)
        assert all(isinstance(one.error, cairnkv.Unavailable) for one in pending)


# -- backups -----------------------------------------------------------------------------------------------------------


def test_client_requests_a_backup_of_the_server(tmp_path: Path) -> None:
    with (
        running_server(data=tmp_path / "data", backup_dir=tmp_path / "kept") as server,
        cairnkv.connect(server.url) as kv,
    ):
        kv["k"] = "v"
        made = [kv.backup("daily", keep=2) for _ in range(3)]
        assert [path.exists() for path in (tmp_path / "kept" / one.path for one in made)] == [False, True, True]
        assert made[-1].size > 0
        with pytest.raises(cairnkv.CallerError, match="a backup at a server has a name"):
            kv.backup(tmp_path)  # type: ignore[arg-type]


async def test_asyncio_client_requests_a_backup_of_the_server(tmp_path: Path) -> None:
    with running_server(data=tmp_path / "data", backup_dir=tmp_path / "kept") as server:
        async with cairnkv.aio.connect(server.url) as kv:
            await kv.set("k", "v")
            made = await kv.backup("daily")
            assert (tmp_path / "kept" / made.path).exists()


def test_backup_of_an_in_memory_server_raises() -> None:
    refused = pytest.raises(cairnkv.CairnError, match="NOBACKUP")
    with running_server() as server, cairnkv.connect(server.url) as kv, refused:
        kv.backup("daily")
