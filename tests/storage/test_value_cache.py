"""The value cache: values leave memory and are read back on use, and clients see no difference."""

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cairnkv
from cairnkv import aio
from cairnkv.cli.main import main
from cairnkv.commands import (
    MISSING,
    OK,
    Append,
    Clear,
    ClearAll,
    Command,
    Copy,
    Count,
    Exists,
    Expire,
    Failure,
    Get,
    GetMany,
    Incr,
    InMemory,
    Items,
    Ping,
    Rename,
    Replies,
    Reply,
    Scan,
    Set,
    SetWith,
    Step,
    Swap,
    Ttl,
)
from cairnkv.engine import Database, apply
from cairnkv.engine.database import ColdValue
from cairnkv.engine.table import ENTRY_BYTES
from cairnkv.errors import BadCommand, OptionError
from cairnkv.limits import MIB
from cairnkv.protocol import write_command
from cairnkv.protocol.resp import NULL_ARRAY, Simple
from cairnkv.server.settings import Settings
from cairnkv.session import Session
from cairnkv.session.context import ServerContext
from cairnkv.session.native_path import native_frame_executor
from cairnkv.storage.record_format import PART_BYTES, record_key
from cairnkv.store import LocalStore, PendingRead, PendingReply, WhenFull, value_cache
from cairnkv.testing import ManualClock, running_server
from tests.session.native_client import NativeClient
from tests.storage.test_disk import PATIENCE, OnDisk
from tests.store.test_late_machine import APPLIED, KINDS
from tests.support.resp import ReplyDecoder, request
from tests.support.strategies import commands
from tests.support.watching import watch

pytestmark = pytest.mark.usefixtures("path_in_use")

LIMIT = 100_000


class Cooled(OnDisk):
    """A store that can evict all of its values from memory."""

    def __init__(self, directory: Path, **more: Any) -> None:
        super().__init__(directory, **{"memory_limit": LIMIT, "sync": "none", **more})

    def do(self, command: Command, db: int = 0) -> Reply:
        return self.reply(self.store.execute(command, db))

    def cool_all(self) -> None:
        """Let no value be in memory."""
        self.store.limit_memory(1, WhenFull.REFUSE)
        self.store.housekeep()
        self.store.limit_memory(LIMIT, WhenFull.REFUSE)
        assert self.told("cold_keys") == sum(database.count() for database in self.store.databases)
        self.engine.read_keys.clear()

    def told(self, name: str) -> int:
        return int(dict(self.store.info())[name])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Cooled]:
    with Cooled(tmp_path / "data") as opened:
        yield opened
        for database in opened.store.databases:
            database.check()


def failure(reply: Reply) -> str:
    assert isinstance(reply, Failure)
    return reply.code.name


# -- what is in memory -----------------------------------------------------------------------------------------


def test_store_of_ten_times_the_limit_reads_only_values(disk: Cooled, tmp_path: Path) -> None:
    values = {b"key %d" % number: b"%4d " % number * 800 for number in range(250)}
    for key, value in values.items():
        disk.do(SetWith(key, value, ttl=1_000_000))
        assert disk.store.memory.used_bytes <= LIMIT + len(value), "the value may stay until it is committed"
    assert sum(map(len, values.values())) == 10 * LIMIT
    assert disk.told("cold_bytes") > 7 * LIMIT
    assert disk.do(Count()) == 250
    scanned: set[bytes] = set()
    cursor = 0
    while True:
        slice_ = disk.do(Scan(cursor, 50, b""))
        assert isinstance(slice_, Items)
        following, *keys = slice_.values
        scanned.update(key for key in keys if key is not None)
        if (cursor := int(following or b"0")) == 0:
            break
    assert scanned == set(values)
    assert disk.do(Exists(tuple(values))) == 250
    assert disk.do(Ttl(b"key 0")) == 1_000_000
    assert disk.engine.read_keys == []
    for key, value in values.items():
        assert disk.do(Get(key)) == value
        assert disk.store.memory.used_bytes <= LIMIT + len(value)
    assert len(disk.engine.read_keys) >= 200
    disk.store.close()
    for limit in (LIMIT, 10 * LIMIT * 2):
        with Cooled(tmp_path / "data", memory_limit=limit) as again:
            assert again.store.memory.used_bytes <= limit
            assert (again.told("cold_keys") == 0) is (limit > LIMIT)
            assert again.store.database.count() == 250
            for key, value in values.items():
                assert again.do(Get(key)) == value


def test_least_recently_used_values_are_evicted(disk: Cooled) -> None:
    for number in range(300):
        disk.do(Set(b"%d" % number, b"v" * 1_000))
        disk.do(Get(b"0"))
    assert disk.store.database.in_memory(b"0")
    assert not disk.store.database.in_memory(b"1")
    assert disk.store.database.in_memory(b"299")


def test_uncommitted_values_stay_in_memory(disk: Cooled) -> None:
    disk.engine.gate.clear()
    written = [disk.store.execute(Set(b"%d" % number, b"v" * 10_000)) for number in range(30)]
    disk.store.housekeep()
    assert disk.told("cold_keys") == 0
    assert disk.store.memory.used_bytes > 3 * LIMIT
    disk.engine.gate.set()
    disk.reply(written[-1])
    assert disk.store.memory.used_bytes <= LIMIT
    assert [disk.do(Get(b"%d" % number)) for number in range(30)] == [b"v" * 10_000] * 30


def test_keys_alone_can_fill_memory_and_then_writes_are_refused(disk: Cooled) -> None:
    stored = 0
    while disk.do(Set(b"%06d" % stored, b"v" * 50)) is OK:
        stored += 1
    assert failure(disk.do(Set(b"another", b"v" * 50))) == "FULL"
    assert LIMIT - 1_000 < stored * (ENTRY_BYTES + 6) <= LIMIT
    assert disk.do(Set(b"000000", b"another value, no longer")) is OK
    assert disk.do(Get(b"000001")) == b"v" * 50
    assert disk.do(Clear(b"000001")) is OK
    assert disk.do(Set(b"another", b"")) is OK


def test_limit_can_be_changed_and_removed(disk: Cooled) -> None:
    for number in range(50):
        disk.do(Set(b"%d" % number, b"v" * 1_000))
    disk.store.limit_memory(20_000, WhenFull.REFUSE)
    while disk.store.housekeep():
        pass
    assert disk.store.memory.used_bytes <= 20_000
    disk.store.limit_memory(None, WhenFull.REFUSE)
    for number in range(50):
        assert disk.do(Get(b"%d" % number)) == b"v" * 1_000
    assert disk.told("cold_keys") == 0


def test_store_opened_without_a_limit_gets_none(tmp_path: Path) -> None:
    with OnDisk(tmp_path / "data") as disk:
        with pytest.raises(OptionError, match="start it with one"):
            disk.store.limit_memory(LIMIT, WhenFull.REFUSE)
        disk.store.limit_memory(None, WhenFull.REFUSE)


def test_long_value_is_read_in_parts(disk: Cooled) -> None:
    value = bytes(range(256)) * (3 * PART_BYTES // 256) + b"end"
    disk.store.limit_memory(MIB, WhenFull.REFUSE)
    disk.do(Set(b"long", value))
    disk.cool_all()
    assert disk.do(Get(b"long")) == value
    assert len(disk.engine.read_keys) == 5


# -- one that waits ----------------------------------------------------------------------------------------------


def test_value_is_read_once_for_all_waiting_commands(disk: Cooled) -> None:
    disk.do(Set(b"k", b"41"))
    disk.cool_all()
    disk.engine.read_gate.clear()
    outcomes = [disk.store.execute(command) for command in [Get(b"k")] * 20 + [Incr(b"k", 1), Append(b"k", b"!")]]
    assert all(isinstance(outcome, PendingRead) and not outcome.executed for outcome in outcomes)
    disk.engine.read_gate.set()
    assert [disk.reply(outcome) for outcome in outcomes] == [b"41"] * 20 + [42, 3]
    assert disk.engine.read_keys == [record_key(0, b"k")]
    assert (disk.told("cache_misses"), disk.told("cache_reads")) == (22, 1)
    assert disk.do(Get(b"k")) == b"42!"


@pytest.mark.parametrize("by", [Set(b"k", b"new"), Clear(b"k"), ClearAll(), Swap(b"k", b"new"), Rename(b"other", b"k")])
def test_change_during_a_read_counts(disk: Cooled, by: Command) -> None:
    disk.do(Set(b"k", b"old"))
    disk.do(Set(b"other", b"new"))
    disk.cool_all()
    assert disk.do(Get(b"other")) == b"new"
    disk.engine.read_gate.clear()
    read = disk.store.execute(Get(b"k"))
    changed = disk.store.execute(by)
    disk.engine.read_gate.set()
    disk.reply(changed)
    expected = MISSING if isinstance(by, Clear | ClearAll) else b"new"
    # A SWAP needs the value as well, and comes behind the GET.
    assert disk.reply(read) == (b"old" if isinstance(by, Swap) else expected)
    assert disk.do(Get(b"k")) == expected


def test_read_from_before_a_change_is_discarded(disk: Cooled) -> None:
    """The new value is as long as the old one, and cold before the read ends."""
    disk.do(Set(b"k", b"old"))
    disk.cool_all()
    disk.engine.read_gate.clear()
    assert disk.store.read_ahead(Step(0, Get(b"k")))
    while not disk.engine.read_keys:
        threading.Event().wait(0.001)
    disk.do(Set(b"k", b"new"))
    disk.store.limit_memory(1, WhenFull.REFUSE)
    disk.store.housekeep()
    assert not disk.store.database.in_memory(b"k")
    read = disk.store.execute(Get(b"k"))
    disk.engine.read_gate.set()
    assert disk.reply(read) == b"new"
    assert disk.engine.read_keys == [record_key(0, b"k")] * 2


def test_expired_key_is_missing_with_and_without_its_value(tmp_path: Path) -> None:
    clock = ManualClock()
    with Cooled(tmp_path / "data", clock=clock) as disk:
        disk.do(SetWith(b"k", b"v", ttl=1_000))
        disk.cool_all()
        disk.engine.read_gate.clear()
        read = disk.store.execute(Get(b"k"))
        clock.advance(5)
        disk.store.housekeep()
        assert disk.store.database.count() == 0
        disk.engine.read_gate.set()
        assert disk.reply(read) is MISSING


def test_more_commands_wait_than_concurrent_reads(disk: Cooled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_cache, "READING_KEYS_MAX", 4)
    monkeypatch.setattr(value_cache, "READING_BYTES_MAX", 100)
    for number in range(40):
        disk.do(Set(b"%d" % number, b"v" * 30))
    disk.cool_all()
    disk.engine.read_gate.clear()
    outcomes = [disk.store.execute(Get(b"%d" % number)) for number in range(40)]
    assert disk.told("cache_reading") == 3
    assert disk.told("cache_waiting") == 37
    disk.engine.read_gate.set()
    assert [disk.reply(outcome) for outcome in outcomes] == [b"v" * 30] * 40


def test_number_of_repeated_reads_is_bounded(disk: Cooled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each undone write makes the read of its key invalid."""
    monkeypatch.setattr(value_cache, "ATTEMPTS_MAX", 3)
    disk.do(Set(b"k", b"0"))
    disk.cool_all()
    monkeypatch.setattr("cairnkv.storage.writer.QUEUED_ENTRIES_MAX", 0)
    disk.engine.read_gate.clear()
    read = disk.store.execute(Get(b"k"))
    for attempt in range(3):
        while len(disk.engine.read_keys) == attempt:
            threading.Event().wait(0.001)
        assert failure(disk.do(Set(b"k", b"1"))) == "UNDONE"
        disk.engine.read_gate.set()
        disk.step()
        disk.engine.read_gate.clear()
    assert failure(disk.reply(read)) == "UNDONE"
    assert len(disk.engine.read_keys) == 3


# -- what fails ------------------------------------------------------------------------------------------------


def test_unreadable_value_fails_its_own_command_only(disk: Cooled) -> None:
    disk.do(Set(b"k", b"v"))
    disk.cool_all()
    disk.engine.fail_read = True
    assert failure(disk.do(Get(b"k"))) == "UNREADABLE"
    assert failure(disk.do(Incr(b"k", 1))) == "UNREADABLE"
    assert disk.do(Exists((b"k",))) == 1
    disk.engine.fail_read = False
    assert disk.do(Get(b"k")) == b"v"


def test_missing_record_is_damage(disk: Cooled) -> None:
    disk.do(Set(b"k", b"v"))
    disk.do(Set(b"other", b"v"))
    disk.cool_all()
    batch = disk.engine.batch()
    batch.delete(record_key(0, b"k"))
    disk.engine.write(batch)
    reply = disk.do(GetMany((b"k", b"other")))
    assert failure(reply) == "UNREADABLE"
    assert isinstance(reply, Failure)
    assert "missing" in reply.text
    assert disk.do(Get(b"other")) == b"v"
    assert disk.do(Set(b"k", b"again")) is OK


@pytest.mark.parametrize("by", [Set(b"k", b"new"), ClearAll()])
@pytest.mark.parametrize("when", ["before", "after"])
def test_cold_value_is_not_read_after_a_failed_commit(tmp_path: Path, when: str, by: Command) -> None:
    with Cooled(tmp_path / "data") as disk:
        disk.do(Set(b"k", b"old"))
        disk.cool_all()
        disk.engine.fail = when
        assert failure(disk.do(by)) == "UNKNOWN"
        assert failure(disk.do(Get(b"k"))) == "RECOVERING"
        disk.recover()
        shown = disk.do(Get(b"k"))
        assert shown == (b"old" if when == "before" else MISSING if isinstance(by, ClearAll) else b"new")
        disk.store.database.check()
    with Cooled(tmp_path / "data") as disk:
        assert disk.do(Get(b"k")) == shown


@pytest.mark.parametrize("happened", [False, True])
def test_cold_value_is_read_once_the_commit_is_resolved(tmp_path: Path, happened: bool) -> None:
    with Cooled(tmp_path / "data") as disk:
        disk.do(Set(b"k", b"old"))
        disk.cool_all()
        disk.engine.fail = "after" if happened else "before"
        assert failure(disk.do(Set(b"k", b"new"))) == "UNKNOWN"
        assert failure(disk.do(Get(b"k"))) == "RECOVERING"
        disk.recover()
        assert disk.do(Get(b"k")) == (b"new" if happened else b"old")
        disk.cool_all()
        assert disk.do(Get(b"k")) == (b"new" if happened else b"old")


def test_refused_write_leaves_a_cold_value_unchanged(disk: Cooled, monkeypatch: Any) -> None:
    disk.do(Set(b"k", b"old"))
    disk.cool_all()
    with monkeypatch.context() as patched:
        patched.setattr("cairnkv.storage.writer.QUEUED_ENTRIES_MAX", 0)
        assert failure(disk.do(Set(b"k", b"new"))) == "UNDONE"
    assert disk.told("cold_keys") == 1
    assert disk.do(Get(b"k")) == b"old"


def test_waiting_command_fails_when_the_store_is_closed(disk: Cooled) -> None:
    disk.do(Set(b"k", b"v"))
    disk.cool_all()
    disk.engine.read_gate.clear()
    read = disk.store.execute(Get(b"k"))
    threading.Timer(0.1, disk.engine.read_gate.set).start()
    disk.store.close()
    assert isinstance(read, PendingReply)
    assert read.reply == b"v"
    disk.store.database.evict_value(b"k")
    assert failure(disk.do(Get(b"k"))) == "UNREADABLE"


def test_many_waiting_commands_fail_when_the_store_is_closed(disk: Cooled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_cache, "READING_KEYS_MAX", 1)
    many = 3_000
    disk.store.limit_memory(10 * LIMIT, WhenFull.REFUSE)
    for number in range(many):
        disk.do(Set(b"%d" % number, b"v"))
    disk.cool_all()
    disk.engine.read_gate.clear()
    outcomes = [disk.store.execute(Get(b"%d" % number)) for number in range(many)]
    threading.Timer(0.1, disk.engine.read_gate.set).start()
    disk.store.close()
    replies = [outcome.reply for outcome in outcomes if isinstance(outcome, PendingReply)]
    assert len(replies) == many
    assert replies[0] == b"v"
    assert failure(replies[-1] or OK) == "UNREADABLE"


# -- several at once -------------------------------------------------------------------------------------------------


def test_command_of_several_keys_sees_them_at_one_moment(disk: Cooled) -> None:
    for key in (b"a", b"b", b"c"):
        disk.do(Set(key, key * 10))
    disk.cool_all()
    assert disk.do(GetMany((b"a", b"none", b"b", b"a"))) == Items((b"a" * 10, None, b"b" * 10, b"a" * 10))
    assert sorted(disk.engine.read_keys) == [record_key(0, b"a"), record_key(0, b"b")]
    assert disk.do(Copy(b"c", b"a", 1)) == 1
    disk.cool_all()
    assert disk.do(Rename(b"c", b"a")) == 1
    assert len(disk.engine.read_keys) == 1, "what had the name is not needed"
    assert disk.do(Get(b"a")) == b"c" * 10
    assert disk.do(Get(b"a"), 1) == b"c" * 10


def test_transaction_reads_all_its_values_first_and_keeps_them(disk: Cooled) -> None:
    for number in range(20):
        disk.do(Set(b"%d" % number, b"1" * 2_000))
    disk.cool_all()
    steps = [Step(0, Append(b"%d" % number, b"x" * 2_000)) for number in range(20)]
    steps += [Step(0, Get(b"%d" % number)) for number in range(20)]
    outcome = disk.store.execute_all(steps)
    assert isinstance(outcome, PendingRead)
    assert disk.reply(outcome) == Replies((*[4_000] * 20, *[b"1" * 2_000 + b"x" * 2_000] * 20))
    assert len(disk.engine.read_keys) == 20


def test_values_that_do_not_fit_in_memory_together_are_refused(disk: Cooled) -> None:
    for number in range(20):
        disk.do(Set(b"%d" % number, b"v" * 8_000))
    disk.cool_all()
    for outcome in (
        disk.store.execute(GetMany(tuple(b"%d" % number for number in range(20)))),
        disk.store.execute_all([Step(0, Get(b"%d" % number)) for number in range(20)]),
    ):
        reply = disk.reply(outcome)
        assert failure(reply) == "BIGREPLY"
        assert isinstance(reply, Failure)
        assert "in memory together" in reply.text
    assert disk.engine.read_keys == []
    many = disk.do(GetMany(tuple(b"%d" % number for number in range(10))))
    assert many == Items((b"v" * 8_000,) * 10)


def test_eviction_and_read_are_no_change_for_watch(disk: Cooled) -> None:
    disk.do(Set(b"k", b"v"))
    watched = [watch(disk.store, b"k")]
    disk.cool_all()
    assert disk.do(Get(b"k")) == b"v"
    assert disk.reply(disk.store.execute_all([Step(0, Get(b"k"))], watched)) == Replies((b"v",))
    disk.cool_all()
    assert disk.reply(disk.store.execute_all([Step(0, Append(b"k", b"!"))], watched)) == Replies((2,))
    disk.cool_all()
    assert disk.reply(disk.store.execute_all([Step(0, Get(b"k"))], watched)) is MISSING


# -- which commands need values ----------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(
    before=st.lists(commands([command for command in APPLIED if command.spec.writes], KINDS), max_size=8),
    command=commands(APPLIED, KINDS),
)
def test_commands_use_only_values_that_they_declare_as_read(before: list[Command], command: Command) -> None:
    databases = [Database()]
    databases += [Database(databases[0].shared) for _ in range(15)]
    for one in before:
        apply(databases[0], one, 1)
    read = dict.fromkeys(command.places_read(0))
    assert set(read) <= set(command.places(0))
    for database in databases:
        for key in list(database.keys_in_memory()):
            if (database.number, key) not in read:
                database.evict_value(key)
    apply(databases[0], command, 1)
    databases[0].check()
    for db, key in read:  # and those it does name, it may be refused
        if databases[db].in_memory(key):
            databases[db].evict_value(key)
            with contextlib.suppress(ColdValue):
                apply(databases[db], Get(key), 1)
                raise AssertionError("a cold value was shown")


# -- on the wires ------------------------------------------------------------------------------------------------


def turns(disk: Cooled, client: NativeClient, count: int) -> list[bytes]:
    """So many responses, with as many turns as they take."""
    found: list[bytes] = []
    while len(found) < count:
        found += client.payloads()
        if len(found) < count:
            disk.step()
    return found


def test_no_command_overtakes_a_waiting_one(disk: Cooled) -> None:
    for key in (b"cold", b"other", b"hot"):
        disk.do(Set(key, key))
    disk.cool_all()
    disk.do(Get(b"hot"))
    disk.engine.read_keys.clear()
    disk.engine.read_gate.clear()
    client = NativeClient(store=disk.store)
    client.send(Ping(b"1"), Get(b"hot"), Get(b"cold"), Set(b"hot", b"new"), Get(b"hot"), Get(b"other"), Ping(b"2"))
    assert client.payloads() == [b"1", b"hot"]
    assert disk.store.database.get(b"hot") == b"hot", "what stands behind is not carried out"
    assert client.session.blocked
    while len(disk.engine.read_keys) < 2:
        threading.Event().wait(0.001)
    assert set(disk.engine.read_keys) == {record_key(0, b"cold"), record_key(0, b"other")}, "it was looked ahead"
    disk.engine.read_gate.set()
    assert turns(disk, client, 5) == [b"cold", b"OK", b"new", b"other", b"2"]
    assert len(disk.engine.read_keys) == 2


def test_commands_after_a_waiting_write_do_not_wait_for_its_commit(disk: Cooled) -> None:
    disk.do(Set(b"n", b"1"))
    disk.cool_all()
    disk.engine.gate.clear()
    client = NativeClient(store=disk.store)
    client.send(*[Incr(b"n", 1)] * 5)
    while disk.store.database.length(b"n") == 1 and not disk.store.database.in_memory(b"n"):
        disk.step()
    assert client.payloads() == []
    assert disk.store.database.get(b"n") == b"6"
    disk.engine.gate.set()
    assert turns(disk, client, 5) == [b"2", b"3", b"4", b"5", b"6"]


def test_memory_write_waits_for_the_value_not_for_the_commit(disk: Cooled) -> None:
    disk.do(Set(b"n", b"41"))
    disk.cool_all()
    disk.engine.gate.clear()
    outcome = disk.store.execute(Incr(b"n", 1))
    assert isinstance(outcome, PendingRead)
    outcome = outcome.reply_before_commit()
    assert isinstance(outcome, PendingRead)
    assert disk.reply(outcome) == InMemory(42)
    assert isinstance(disk.store.execute(Get(b"n")), PendingReply)
    disk.engine.gate.set()


def test_pipeline_of_cold_keys_is_read_together(disk: Cooled) -> None:
    for number in range(64):
        disk.do(Set(b"%d" % number, b"v%d" % number))
    disk.cool_all()
    client = NativeClient(store=disk.store)
    client.send(*[Get(b"%d" % number) for number in range(64)])
    assert turns(disk, client, 64) == [b"v%d" % number for number in range(64)]
    assert len(disk.engine.read_keys) == 64
    assert disk.told("disk_reads") <= 8


class Chatting:
    """A session of the Redis protocol on a durable store."""

    def __init__(self, disk: Cooled) -> None:
        self.disk = disk
        self.session = Session(disk.store, wake=lambda: None, context=ServerContext(disk.store))
        self._replies = ReplyDecoder()

    def say(self, *requests: str) -> list[Any]:
        self.session.receive(b"".join(request(*text.encode().split()) for text in requests))
        found: list[Any] = []
        while True:
            self.session.advance()
            replies = self._replies.feed(b"".join(self.session.output()))
            found += [reply.text if isinstance(reply, Simple) else reply for reply in replies]
            if len(found) >= len(requests):
                return found
            if not self.session.runnable:
                self.disk.step()


def test_redis_commands_keep_their_order(disk: Cooled) -> None:
    chat = Chatting(disk)
    assert chat.say("SET a 1", "SET b 2", "SELECT 1", "SET a other", "SELECT 0") == ["OK"] * 5
    disk.cool_all()
    disk.engine.read_gate.clear()
    threading.Timer(0.05, disk.engine.read_gate.set).start()
    said = chat.say("PING", "GET a", "INCR b", "SELECT 1", "GET a", "SET a new", "STRLEN a", "MGET a none", "SELECT 0")
    assert said == ["PONG", b"1", 3, "OK", b"other", "OK", 3, [b"new", None], "OK"]


def test_exec_with_cold_keys_and_a_watched_one(disk: Cooled) -> None:
    chat = Chatting(disk)
    chat.say("SET a 1", "SET b 2")
    disk.cool_all()
    said = chat.say("WATCH a", "MULTI", "INCR a", "GET b", "TTL b", "EXEC", "GET a")
    assert said == ["OK", "OK", "QUEUED", "QUEUED", "QUEUED", [2, b"2", -1], b"2"]
    disk.cool_all()
    assert chat.say("WATCH a", "INCR a", "MULTI", "GET b", "EXEC")[-1] is NULL_ARRAY


class Listening(Chatting):
    """A connection of the Redis protocol to a durable store that several connections share."""

    def __init__(self, disk: Cooled, context: ServerContext[Any]) -> None:
        super().__init__(disk)
        self.session = Session(disk.store, wake=lambda: None, context=context)


def test_exec_that_fails_during_its_disk_reads_publishes_nothing(disk: Cooled) -> None:
    """The server checks the watched keys only after it has read the values that the transaction needs."""
    context: ServerContext[Any] = ServerContext(disk.store)
    one, other = Listening(disk, context), Listening(disk, context)
    assert one.say("SET watched 1", "SET cold 1", "PSUBSCRIBE *")[:2] == ["OK", "OK"]
    talking = Listening(disk, context)
    disk.cool_all()
    disk.engine.read_gate.clear()
    assert talking.say("WATCH watched", "MULTI", "GET cold", "PUBLISH news text") == ["OK", "OK", "QUEUED", "QUEUED"]
    talking.session.receive(request(b"EXEC"))
    talking.session.advance()
    assert other.say("SET watched 2") == ["OK"]
    disk.engine.read_gate.set()
    assert talking.say("PING")[0] is NULL_ARRAY
    assert one.session.output() == []


def test_exec_publishes_once_its_values_are_read(disk: Cooled) -> None:
    context: ServerContext[Any] = ServerContext(disk.store)
    talking, listening = Listening(disk, context), Listening(disk, context)
    listening.say("SUBSCRIBE news")
    talking.say("SET cold 1")
    disk.cool_all()
    disk.engine.read_gate.clear()
    talking.say("MULTI", "GET cold", "PUBLISH news text", "SUBSCRIBE other")
    talking.session.receive(request(b"EXEC"))
    talking.session.advance()
    assert listening.session.output() == []
    disk.engine.read_gate.set()
    assert talking.say("PING")[0][:2] == [b"1", 1]
    listening.session.advance()
    assert b"text" in b"".join(listening.session.output())


def test_closed_client_has_no_subscription_after_its_exec(disk: Cooled) -> None:
    context: ServerContext[Any] = ServerContext(disk.store)
    talking = Listening(disk, context)
    talking.say("SET cold 1")
    disk.cool_all()
    disk.engine.read_gate.clear()
    talking.say("MULTI", "GET cold", "SUBSCRIBE news")
    talking.session.receive(request(b"EXEC"))
    talking.session.advance()
    talking.session.disconnected()
    disk.engine.read_gate.set()
    assert Listening(disk, context).say("GET cold") == [b"1"]
    assert context.pubsub.channels() == []


def test_config_changes_the_limit_of_a_server_that_has_one(tmp_path: Path) -> None:
    values = {f"key {number}": "v" * 10_000 for number in range(200)}
    with (
        running_server(data=str(tmp_path / "data"), memory_limit=10 * MIB) as server,
        cairnkv.connect(server.url, timeout=PATIENCE) as kv,
    ):
        kv.set_many(values)
        assert kv.info()["cold_keys"] == 0
        server.call(lambda: server.server.change(_with(server.server.settings, memory_limit=200_000)))
        assert kv.info()["memory_limit_bytes"] == 200_000
        assert {key: kv.get(key) for key in values} == values
        assert int(kv.info()["used_bytes"]) <= 200_000
        with pytest.raises(OptionError, match="no key is evicted"):
            _with(server.server.settings, when_full=WhenFull.EVICT)
    with running_server(data=str(tmp_path / "data")) as server:
        with pytest.raises(OptionError, match="start it with one"):
            server.call(lambda: server.server.change(_with(server.server.settings, memory_limit=200_000)))
        assert server.server.settings.memory_limit is None


def test_store_larger_than_memory_can_be_exported(tmp_path: Path) -> None:
    with running_server(data=str(tmp_path / "data"), memory_limit=LIMIT) as server:
        with cairnkv.connect(server.url, timeout=PATIENCE) as kv:
            for number in range(100):
                kv[f"{number}"] = "v" * 9_000
        assert main(["export", "--url", server.url, str(tmp_path / "all.jsonl")]) == 0
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == 100


def _with(before: Settings, **changes: Any) -> Settings:
    import dataclasses

    return dataclasses.replace(before, **changes)


# -- embedded ----------------------------------------------------------------------------------------------------


def test_threads_share_a_store_larger_than_its_memory(tmp_path: Path) -> None:
    with cairnkv.open(tmp_path / "data", sync="none", memory_limit=LIMIT) as kv:
        for number in range(300):
            kv[f"{number}"] = f"{number} " * 500
        wrong: list[str] = []

        def look(first: int) -> None:
            for number in range(300):
                key = str((first + number * 7) % 300)
                if kv[key] != f"{key} " * 500:
                    wrong.append(key)

        threads = [threading.Thread(target=look, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert wrong == []
        assert kv.incr("n", 1) == 1
        with pytest.raises(BadCommand, match="in memory together"):
            kv.get_many([str(number) for number in range(300)])


def test_waiting_tasks_do_not_block_the_loop(tmp_path: Path) -> None:
    async def run() -> None:
        kv = aio.open(tmp_path / "data", sync="none", memory_limit=LIMIT)
        for number in range(100):
            await kv.set(f"{number}", "v" * 5_000)
        found = await asyncio.gather(*[kv.get(f"{number}") for number in range(100)])
        assert found == ["v" * 5_000] * 100
        await kv.close()

    asyncio.run(run())


def test_expire_and_ttl_of_a_cold_key(disk: Cooled) -> None:
    disk.do(Set(b"k", b"v"))
    disk.cool_all()
    assert disk.do(Expire(b"k", 5_000)) == 1
    disk.cool_all()
    assert disk.do(Ttl(b"k")) == 5_000
    assert disk.engine.read_keys == []
    assert disk.do(Get(b"k")) == b"v"


@pytest.mark.parametrize("wire", ["article", "redis"])
def test_native_path_serves_values_in_memory_only(tmp_path: Path, wire: str) -> None:
    dice = random.Random(7)
    memory = LocalStore(clock=ManualClock())
    one = Session(memory, wake=lambda: None)
    with Cooled(tmp_path / "data") as disk:
        frame_executor = native_frame_executor(disk.store)
        context: ServerContext[Any] = ServerContext(disk.store)
        other = Session(disk.store, wake=lambda: None, frame_executor=frame_executor, context=context)
        for _ in range(60):
            said = b"".join(_anything(dice, wire) for _ in range(20))
            heard = []
            for session in (one, other):
                session.receive(said)
                session.advance()
                found = b"".join(session.output())
                while session.waiting or session.runnable:
                    if not session.runnable:
                        disk.step()
                    session.advance()
                    found += b"".join(session.output())
                heard.append(found)
            assert heard[0] == heard[1]
            if dice.random() < 0.5:
                disk.cool_all()
            elif dice.random() < 0.5:
                disk.do(GetMany((b"0", b"1", b"2", b"n")))
        used = frame_executor if wire == "article" else context.frame_executor(0)
        if used is not None:
            assert used.commands > 100
            assert used.writes == 0
        disk.store.database.check()


def _anything(dice: random.Random, wire: str) -> bytes:
    name = b"%d" % dice.randrange(6)
    commands: list[tuple[Command, tuple[bytes, ...]]] = [
        (Get(name), (b"GET", name)),
        (Get(name), (b"GET", name)),
        (GetMany((name, b"1", b"none")), (b"MGET", name, b"1", b"none")),
        (Exists((name, b"2")), (b"EXISTS", name, b"2")),
        (Set(name, name * 50), (b"SET", name, name * 50)),
        (Clear(name), (b"DEL", name)),
        (Incr(b"n", 1), (b"INCR", b"n")),
        (SetWith(name, b"v", ttl=5_000), (b"SET", name, b"v", b"PX", b"5000")),
    ]
    command, words = dice.choice(commands)
    return write_command(command) if wire == "article" else request(*words)
