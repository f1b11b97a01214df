"""Required settings of a stream, and the errors for a stream with other settings."""

from typing import Any

import pytest

from cairnkv.errors import OptionError
from cairnkv.replication.nats.options import LOG_LIMIT, ClusterOptions
from cairnkv.replication.nats.stream import Stream
from cairnkv.replication.nats.stream_config import declared, nanoseconds, problems
from tests.replication.reading import api, opened, put
from tests.support.nats import Nats

OPTIONS = ClusterOptions(urls=("nats://localhost",), name="x")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_replicas": 1}, "num_replicas is 1, but must be 3"),
        ({"storage": "memory"}, "storage is memory, but must be file"),
        ({"discard": "old"}, "discard is old, but must be new"),
        ({"retention": "interest"}, "retention is interest, but must be limits"),
        ({"subjects": ["cairn.>"]}, "subjects is cairn.>, but must be cairn.x.log"),
        ({"max_age": 1}, "max_age is 1, but must be 0"),
        ({"max_msgs": 10}, "max_msgs is 10, but must be -1"),
        ({"max_msgs_per_subject": 10}, "max_msgs_per_subject is 10, but must be -1"),
        ({"max_bytes": LOG_LIMIT - 1}, f"max_bytes is {LOG_LIMIT - 1}, but must be {LOG_LIMIT} or more"),
        ({"max_bytes": -1}, "max_bytes is not set"),
        ({"mirror": {"name": "y"}}, "mirror is"),
        ({"sources": [{"name": "y"}]}, "sources is"),
        ({"republish": {"src": "a", "dest": "b"}}, "republish is"),
        ({"subject_transform": {"src": "a", "dest": "b"}}, "subject_transform is"),
        ({"sealed": True}, "sealed is True"),
        ({"no_ack": True}, "no_ack is True"),
        ({"deny_purge": True}, "deny_purge is True"),
        ({"persist_mode": "async"}, "persist_mode is async"),
    ],
)
def test_each_problem_is_named(change: dict[str, Any], said: str) -> None:
    (found,) = problems(declared(OPTIONS, 3) | change, OPTIONS, 3)
    assert found.startswith(said)


def test_larger_limit_than_requested_is_no_problem() -> None:
    assert problems(declared(OPTIONS, 3) | {"max_bytes": LOG_LIMIT + 1}, OPTIONS, 3) == []


def test_times_are_exact_to_the_nanosecond() -> None:
    assert nanoseconds("2026-11-22T16:11:43.452181679Z") - nanoseconds("2026-11-22T16:11:43Z") == 452_181_679


async def test_stream_made_by_a_node_has_no_problems(nats: Nats) -> None:
    async with opened(nats.options()) as one:
        state = await one.state()
        assert problems(state.config, one._options, 3) == []
        assert state.peers == {"nats-0", "nats-1", "nats-2"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_replicas": 1}, "num_replicas is 1"),
        ({"storage": "memory"}, "storage is memory"),
        ({"discard": "old"}, "discard is old"),
        ({"retention": "workqueue"}, "retention is workqueue"),
        ({"max_age": 3_600_000_000_000}, "max_age is 3600000000000"),
        ({"max_msgs": 1_000, "max_bytes": 1_000}, "max_bytes is 1000"),
        ({"republish": {"src": ">", "dest": "elsewhere.>"}}, "republish is"),
        ({"deny_purge": True}, "deny_purge is True"),
    ],
)
async def test_stream_with_unsuitable_settings_is_refused(nats: Nats, change: dict[str, Any], said: str) -> None:
    options = nats.options()
    async with opened(nats.options()) as other:
        config = declared(options, 3) | change
        await api(other, f"STREAM.CREATE.{config['name']}", config)
        with pytest.raises(OptionError) as caught:
            await Stream(options).open()
        assert said in str(caught.value)
        assert config["name"] in str(caught.value)
        assert "another --name" in str(caught.value)
        await api(other, f"STREAM.DELETE.{config['name']}")


async def test_limit_above_that_of_the_stream_is_refused(nats: Nats) -> None:
    options = nats.options()
    async with opened(options):
        with pytest.raises(OptionError, match="lower --log-limit"):
            await Stream(nats.options(options.name, limit=options.limit + 1)).open()
        async with opened(nats.options(options.name, limit=options.limit // 2)) as smaller:
            await put(smaller, bytes(1_000))


async def test_message_limit_of_the_stream_counts(nats: Nats) -> None:
    options = nats.options()
    async with opened(nats.options()) as other:
        await api(other, f"STREAM.CREATE.CAIRN_{options.name}", declared(options, 3) | {"max_msg_size": 100_000})
    async with opened(options) as one:
        assert one.payload_max < 100_000
