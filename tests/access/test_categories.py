"""The categories of commands, and the commands for everyone."""

import pytest

from cairnkv.session.access.categories import (
    CATEGORIES,
    categories,
    names,
    names_below,
    names_by_category,
    names_for_everyone,
)
from cairnkv.session.resp.command_spec import every_spec, find_spec

AS_IN_REDIS = {
    "get": {"read", "string", "fast"},
    "set": {"write", "string", "slow"},
    "del": {"keyspace", "write", "slow"},
    "keys": {"keyspace", "read", "slow", "dangerous"},
    "flushall": {"keyspace", "write", "slow", "dangerous"},
    "setbit": {"write", "bitmap", "slow"},
    "publish": {"pubsub", "fast"},
    "multi": {"fast", "transaction"},
    "dbsize": {"keyspace", "read", "fast"},
    "lastsave": {"admin", "fast", "dangerous"},
    "client|kill": {"admin", "slow", "dangerous", "connection"},
    "client|id": {"slow", "connection"},
    "config|set": {"admin", "slow", "dangerous"},
    "command|docs": {"slow", "connection"},
    "time": {"fast"},
    "eval": {"scripting", "slow"},
    "evalsha_ro": {"scripting", "slow"},
    "script|load": {"scripting", "slow"},
}


@pytest.mark.parametrize("name", AS_IN_REDIS)
def test_categories_are_those_of_redis(name: str) -> None:
    spec = find_spec(name.encode())
    assert spec is not None
    assert set(categories(spec)) == AS_IN_REDIS[name]


def test_every_command_is_fast_or_slow_and_its_categories_exist() -> None:
    for spec in every_spec():
        found = categories(spec)
        assert set(found) <= set(CATEGORIES), spec.name
        assert len(set(found)) == len(found), spec.name
        assert len({"fast", "slow"}.intersection(found)) == 1, spec.name


def test_each_flag_of_access_gives_its_category() -> None:
    for spec in every_spec():
        assert ("write" in spec.flags) == (spec.name in names_by_category()["write"])
        reads = "readonly" in spec.flags and spec.group != "scripting"
        assert reads == (spec.name in names_by_category()["read"])


def test_categories_without_commands_are_empty() -> None:
    assert names_by_category()["geo"] == frozenset()
    assert names_by_category()["queue"] == {name for name in names() if name.startswith("queue.")}


def test_names_below_a_command_are_its_subcommands() -> None:
    assert names_below("config") == {"config", "config|get", "config|set", "config|resetstat", "config|help"}
    assert names_below("config|get") == {"config|get"}
    assert names_below("get") == {"get"}
    assert names_below("nothing") == frozenset()


def test_commands_for_everyone_change_no_data() -> None:
    assert {"auth", "hello", "ping", "info", "quit", "reset", "command", "command|docs"} <= names_for_everyone()
    for name in names_for_everyone():
        spec = find_spec(name.encode())
        assert spec is not None
        assert not {"write", "readonly", "admin", "pubsub"} & spec.flags
