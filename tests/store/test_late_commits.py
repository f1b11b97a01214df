"""Promises about replies and commits, with a storage that commits when the test says so.

1. The reply to a write leaves when the write is committed.
2. No reply shows a value that a failed commit could still undo: it waits for the newest pending commit among the keys
   that it touched. Other replies do not wait.
3. If commits fail, the store undoes all uncommitted changes, newest first, and fails the replies that waited for them,
   before another command runs.
"""

import functools
from collections.abc import Iterator

import pytest

from cairnkv.commands import (
    MISSING,
    OK,
    Append,
    Clear,
    ClearAll,
    ClearIfEquals,
    ClearMany,
    ClearPrefix,
    Command,
    Copy,
    Count,
    Exists,
    Expire,
    ExpireWith,
    Failure,
    Get,
    GetMany,
    GetWith,
    Incr,
    IncrFloat,
    Info,
    InMemory,
    Items,
    Persist,
    Ping,
    Rename,
    Reply,
    Scan,
    Scope,
    Set,
    SetBit,
    SetMany,
    SetManyIfAbsent,
    SetRange,
    SetWith,
    Swap,
    Ttl,
    failures,
)
from cairnkv.store import LocalStore, PendingReply
from tests.support.clock import HandClock
from tests.support.late_storage import LateStorage
from tests.support.model import MODELLED


class LateStore(LocalStore):
    """A store on a late log and a clock set by hand, both at hand."""

    def __init__(self, *, reuse_sequences: bool = False) -> None:
        self.storage = LateStorage(reuse_sequences=reuse_sequences)
        self.manual_clock = HandClock()
        super().__init__(storage=self.storage, clock=self.manual_clock)

    def safely(self, *commands: Command) -> None:
        """Carry these out and commit them."""
        for command in commands:
            self.execute(command)
        self.storage.commit()

    def held(self, command: Command) -> PendingReply:
        """Carry out a command whose reply has to wait."""
        held = self.execute(command)
        assert isinstance(held, PendingReply), f"{command} answered {held!r} at once"
        assert held.reply is None
        return held

    def at_once(self, command: Command) -> Reply:
        """Carry out a command whose reply must not wait."""
        reply = self.execute(command)
        assert not isinstance(reply, PendingReply), f"{command} waits"
        return reply


@pytest.fixture(params=[False, True], ids=["sequences go on", "sequences are reused"])
def store(request: pytest.FixtureRequest) -> Iterator[LateStore]:
    """A late store; in the end its table is consistent, whatever was undone."""
    store = LateStore(reuse_sequences=request.param)
    yield store
    store.database.check()


WRITES: list[tuple[Command, Reply]] = [
    (Set(b"k", b"new"), OK),
    (Clear(b"k"), OK),
    (SetWith(b"k", b"new"), 1),
    (Swap(b"k", b"new"), b"5"),
    (GetWith(b"k", clear=True), b"5"),
    (GetWith(b"k", ttl=9), b"5"),
    (ClearIfEquals(b"k", b"5"), 1),
    (SetMany(0, ((b"k", b"new"), (b"m", b"new"))), OK),
    (ClearMany((b"k", b"m")), 1),
    (Incr(b"k", 3), 8),
    (Expire(b"k", 9), 1),
    (Persist(b"k"), 1),
    (ClearAll(), OK),
    (ClearPrefix(b"k", 0), Items((b"0", b"1"))),
    (ExpireWith(b"k", 9), 1),
    (ExpireWith(b"k", -1), 1),
    (Append(b"k", b"6"), 2),
    (SetRange(b"k", 3, b"6"), 4),
    (SetBit(b"k", 7, 0), 1),
    (IncrFloat(b"k", b"0.5"), b"5.5"),
    (Rename(b"k", b"m"), 1),
    (Copy(b"k", b"m"), 1),
    (SetManyIfAbsent(((b"m", b"new"), (b"n", b"new"))), 1),
]
"""Each writing command, on a key that is there with a value of 5 and a deadline, and what it answers."""


def test_every_writing_command_is_tested() -> None:
    assert {type(command) for command, _ in WRITES} == {command for command in MODELLED if command.spec.writes}


@pytest.mark.parametrize(("command", "reply"), WRITES, ids=lambda it: getattr(it, "spec", it) and None)
class TestEveryWrite:
    def test_is_answered_after_its_commit_and_not_before(
        self, store: LateStore, command: Command, reply: Reply
    ) -> None:
        store.safely(SetWith(b"k", b"5", ttl=5_000))
        held = store.held(command)
        (entry,) = store.storage.pending
        assert entry.command == command
        assert entry.now == store.manual_clock.now
        assert held.reply is None
        store.storage.commit()
        assert held.reply == reply

    @pytest.mark.parametrize("unknown", [False, True])
    def test_is_undone_and_fails_when_its_commit_fails(
        self, store: LateStore, command: Command, reply: Reply, unknown: bool
    ) -> None:
        store.safely(SetWith(b"k", b"5", ttl=5_000))
        used_bytes = store.database.used_bytes
        held = store.held(command)
        store.storage.fail("the disk is gone", unknown=unknown)
        assert held.reply == Failure(failures.UNKNOWN if unknown else failures.UNDONE, "the disk is gone")
        assert store.at_once(Get(b"k")) == b"5"
        assert store.at_once(Ttl(b"k")) == 5_000
        assert store.at_once(Count()) == 1
        assert store.database.used_bytes == used_bytes

    def test_is_not_executed_if_storage_refuses_it(self, store: LateStore, command: Command, reply: Reply) -> None:
        store.safely(SetWith(b"k", b"5", ttl=5_000))
        store.storage.refusal = "90 % full"
        assert store.at_once(command) == Failure(failures.UNDONE, "90 % full")
        assert store.at_once(Get(b"k")) == b"5"
        assert store.at_once(Ttl(b"k")) == 5_000
        assert store.at_once(Count()) == 1
        store.storage.refusal = None
        assert store.held(Set(b"k", b"later")).reply is None

    def test_wakes_its_waiter_once_when_its_reply_is_ready(
        self, store: LateStore, command: Command, reply: Reply
    ) -> None:
        store.safely(SetWith(b"k", b"5", ttl=5_000))
        held = store.held(command)
        seen = []
        held.on_ready = lambda: seen.append(held.reply)
        store.storage.commit()
        store.safely(Set(b"other", b"v"))
        assert seen == [reply]

    def test_with_durability_memory_is_answered_at_once_and_stays_hidden(
        self, store: LateStore, command: Command, reply: Reply
    ) -> None:
        store.safely(SetWith(b"k", b"5", ttl=5_000))
        write = store.held(command)
        assert write.reply_before_commit() == InMemory(reply)
        read, count = store.held(GetMany((b"k", b"m"))), store.held(Count())
        assert len(store.storage.pending) == 1, "its commit follows"
        store.storage.commit()
        assert read.reply is not None
        assert count.reply is not None
        assert write.reply_before_commit() == reply, "now it is as safe as any"

    def test_with_durability_memory_is_undone_if_its_commit_fails(
        self, store: LateStore, command: Command, reply: Reply
    ) -> None:
        store.safely(SetWith(b"k", b"5", ttl=5_000))
        write = store.held(command)
        assert write.reply_before_commit() == InMemory(reply)
        behind = store.held(Append(b"k", b"!"))
        store.storage.fail("the disk is gone")
        assert store.at_once(Get(b"k")) == b"5"
        assert store.at_once(Ttl(b"k")) == 5_000
        assert store.at_once(Count()) == 1
        assert behind.reply == Failure(failures.UNDONE, "the disk is gone")
        assert write.reply_before_commit() == Failure(failures.UNDONE, "the disk is gone")


def test_failed_write_with_durability_memory_is_answered_at_once(store: LateStore) -> None:
    """It changed nothing, so nothing needs a commit."""
    store.held(Set(b"k", b"no number"))
    reply = store.held(Incr(b"k", 1)).reply_before_commit()
    assert isinstance(reply, Failure)
    assert reply.code is failures.NOTINT


READS: list[tuple[Command, Reply]] = [
    (Get(b"k"), b"5"),
    (GetWith(b"k"), b"5"),
    (Exists((b"else", b"k")), 1),
    (GetMany((b"else", b"k")), Items((None, b"5"))),
    (Ttl(b"k"), -1),
    # writes that change nothing read all the same:
    (SetWith(b"k", b"new", if_absent=True), 0),
    (SetWith(b"k", b"new", if_equals=b"6"), 0),
    (Swap(b"k", b"new", if_absent=True), b"5"),
    (ClearIfEquals(b"k", b"6"), 0),
    (Persist(b"k"), 0),
    (GetWith(b"k", persist=True), b"5"),
    # and so does the whole table:
    (Count(), 1),
    (Scan(0, 10, b""), Items((b"0", b"k"))),
    (Scan(0, 10, b"nothing"), Items((b"0",))),
    (ClearPrefix(b"nothing", 0), Items((b"0", b"0"))),
]
"""Commands that show something of a key `k` with the value 5, and what they answer."""

MISSES: list[tuple[Command, Reply]] = [
    (Get(b"k"), MISSING),
    (GetWith(b"k", clear=True), MISSING),
    (Exists((b"k",)), 0),
    (GetMany((b"k",)), Items((None,))),
    (Ttl(b"k"), MISSING),
    (Expire(b"k", 5), 0),
    (Persist(b"k"), 0),
    (Clear(b"k"), OK),
    (ClearMany((b"k", b"else")), 0),
    (SetWith(b"k", b"new", if_present=True), 0),
    (Swap(b"k", b"new", if_present=True), MISSING),
    (Count(), 0),
    (Scan(0, 10, b""), Items((b"0",))),
    (ClearPrefix(b"", 0), Items((b"0", b"0"))),
]
"""Commands that show that a key `k` is not there, and what they answer."""

WAYS_TO_SET: list[Command] = [
    Set(b"k", b"5"),
    SetWith(b"k", b"5", if_absent=True),
    SetMany(0, ((b"m", b"0"), (b"k", b"5"))),
    Incr(b"k", 5),
]
WAYS_TO_CLEAR: list[Command] = [
    Clear(b"k"),
    ClearMany((b"m", b"k")),
    ClearIfEquals(b"k", b"before"),
    GetWith(b"k", clear=True),
    ClearPrefix(b"k", 0),
    ClearAll(),
]


class TestReads:
    @pytest.mark.parametrize(("read", "reply"), READS)
    def test_of_an_uncommitted_value_wait_for_it(self, store: LateStore, read: Command, reply: Reply) -> None:
        store.held(Set(b"k", b"5"))
        held = store.held(read)
        assert len(store.storage.pending) == 1, "what changes nothing is not logged"
        store.storage.commit()
        assert held.reply == reply

    @pytest.mark.parametrize("way", WAYS_TO_SET)
    def test_wait_for_a_value_set_by_any_command(self, store: LateStore, way: Command) -> None:
        store.held(way)
        held = store.held(Get(b"k"))
        store.storage.commit()
        assert held.reply == b"5"

    @pytest.mark.parametrize(("read", "reply"), MISSES)
    @pytest.mark.parametrize("way", WAYS_TO_CLEAR)
    def test_of_an_uncommitted_absence_wait_for_it(
        self, store: LateStore, way: Command, read: Command, reply: Reply
    ) -> None:
        store.safely(Set(b"k", b"before"))
        store.held(way)
        held = store.held(read)
        store.storage.commit()
        assert held.reply == reply

    @pytest.mark.parametrize(("read", "reply"), READS)
    @pytest.mark.parametrize("unknown", [False, True])
    def test_fail_as_undone_with_the_write_that_they_showed(
        self, store: LateStore, read: Command, reply: Reply, unknown: bool
    ) -> None:
        """A read has no unknown outcome: it changed nothing."""
        store.held(Set(b"k", b"5"))
        held = store.held(read)
        store.storage.fail("the disk is gone", unknown=unknown)
        assert held.reply == Failure(failures.UNDONE, "the disk is gone")

    @pytest.mark.parametrize(
        "read", [read for read, _ in READS if read.spec.scope is Scope.KEYS], ids=lambda read: read.spec.name
    )
    def test_of_other_keys_do_not_wait(self, store: LateStore, read: Command) -> None:
        store.safely(Set(b"k", b"5"))
        store.held(Set(b"another", b"v"))
        store.held(Clear(b"another"))
        store.at_once(read)

    def test_wait_for_the_newest_of_several_keys_and_no_longer(self, store: LateStore) -> None:
        store.held(Set(b"a", b"1"))
        store.held(Set(b"b", b"2"))
        store.held(Set(b"c", b"3"))
        first, both, third = store.held(Get(b"a")), store.held(GetMany((b"b", b"a"))), store.held(Get(b"c"))
        store.storage.commit(1)
        assert (first.reply, both.reply, third.reply) == (b"1", None, None)
        store.storage.commit(1)
        assert (both.reply, third.reply) == (Items((b"2", b"1")), None)
        store.storage.commit(1)
        assert third.reply == b"3"

    def test_wait_for_the_newest_commit_of_a_key(self, store: LateStore) -> None:
        store.held(Set(b"k", b"1"))
        early = store.held(Get(b"k"))
        store.held(Set(b"k", b"2"))
        late = store.held(Get(b"k"))
        store.storage.commit(1)
        assert (early.reply, late.reply) == (b"1", None)
        later = store.held(Get(b"k"))
        store.storage.commit(1)
        assert (late.reply, later.reply) == (b"2", b"2")

    def test_of_the_whole_database_wait_for_the_newest_commit(self, store: LateStore) -> None:
        store.held(Set(b"a", b"1"))
        store.held(Set(b"b", b"2"))
        held = [store.held(Count()), store.held(Scan(0, 10, b"a")), store.held(ClearPrefix(b"nothing", 0))]
        store.storage.commit(1)
        assert [one.reply for one in held] == [None] * 3
        store.storage.commit(1)
        assert [one.reply for one in held] == [2, Items((b"0", b"a")), Items((b"0", b"0"))]

    @pytest.mark.parametrize("read", [Get(b"any"), Exists((b"any", b"k")), GetMany((b"k",)), Ttl(b"k"), Count()])
    def test_of_any_key_wait_while_clear_all_is_pending(self, store: LateStore, read: Command) -> None:
        store.safely(Set(b"k", b"v"))
        store.held(ClearAll())
        held = store.held(read)
        store.storage.commit()
        assert held.reply is not None
        store.at_once(read)

    def test_of_a_key_set_after_clear_all_wait_for_its_set(self, store: LateStore) -> None:
        store.held(ClearAll())
        store.held(Set(b"k", b"v"))
        key, other = store.held(Get(b"k")), store.held(Get(b"other"))
        store.storage.commit(1)
        assert (key.reply, other.reply) == (None, MISSING)
        store.storage.commit(1)
        assert key.reply == b"v"

    def test_do_not_wait_once_everything_is_committed(self, store: LateStore) -> None:
        store.safely(Set(b"k", b"v"), ClearAll(), Set(b"k", b"w"))
        assert store.at_once(Get(b"k")) == b"w"
        assert store.at_once(Count()) == 1

    def test_of_an_expired_key_wait_for_its_pending_ttl(self, store: LateStore) -> None:
        store.safely(Set(b"k", b"v"))
        store.held(Expire(b"k", 10))
        store.manual_clock.advance(10)
        held = store.held(Get(b"k"))
        store.storage.fail()
        assert held.reply == Failure(failures.UNDONE, "the disk is gone")
        assert store.at_once(Get(b"k")) == b"v"


class TestCommandsWithoutKeys:
    def test_never_waits(self, store: LateStore) -> None:
        store.held(Set(b"k", b"v"))
        store.held(ClearAll())
        assert store.at_once(Ping(b"")) == b"PONG"
        assert isinstance(store.at_once(Info()), Items)

    def test_is_answered_while_storage_refuses(self, store: LateStore) -> None:
        store.safely(Set(b"k", b"v"))
        store.storage.refusal = "90 % full"
        assert store.at_once(Ping(b"hi")) == b"hi"
        assert store.at_once(Get(b"k")) == b"v"
        assert store.at_once(Count()) == 1


class TestFailures:
    """Failures of a command are replies like any other: they show existing values."""

    def test_of_a_command_wait_for_the_commits_that_they_show(self, store: LateStore) -> None:
        store.held(Set(b"k", b"no number"))
        held = store.held(Incr(b"k", 1))
        assert len(store.storage.pending) == 1
        store.storage.commit()
        assert isinstance(held.reply, Failure)
        assert held.reply.code is failures.NOTINT

    def test_undo_all_pending_writes_newest_first(self, store: LateStore) -> None:
        store.safely(Set(b"k", b"0"), Set(b"other", b"0"))
        for n in range(1, 4):
            store.held(Set(b"k", b"%d" % n))
        store.held(ClearAll())
        store.held(Set(b"k", b"4"))
        store.held(Set(b"new", b"4"))
        store.storage.commit(1)
        store.storage.fail()
        assert store.at_once(GetMany((b"k", b"other", b"new"))) == Items((b"1", b"0", None))
        assert store.at_once(Count()) == 2

    def test_keep_committed_writes(self, store: LateStore) -> None:
        first, second = store.held(Set(b"a", b"1")), store.held(Set(b"b", b"2"))
        store.storage.commit(1)
        store.storage.fail()
        assert first.reply is OK
        assert second.reply == Failure(failures.UNDONE, "the disk is gone")
        assert store.at_once(GetMany((b"a", b"b"))) == Items((b"1", None))

    def test_are_all_set_before_any_waiter_is_woken(self, store: LateStore) -> None:
        """A woken session may execute another command at once, which must not see an undone write."""
        store.safely(Set(b"k", b"safe"))
        held = [store.held(Set(b"k", b"1")), store.held(Get(b"k")), store.held(Set(b"m", b"2")), store.held(Count())]
        seen: list[tuple[bool, Reply | PendingReply]] = []
        for one in held:
            one.on_ready = lambda: seen.append((all(other.reply for other in held), store.execute(Get(b"k"))))
        store.storage.fail()
        assert seen == [(True, b"safe")] * 4

    def test_do_not_stop_later_writes(self, store: LateStore) -> None:
        store.held(Set(b"k", b"1"))
        store.storage.fail()
        held = store.held(Set(b"k", b"2"))
        read = store.held(Get(b"k"))
        store.storage.commit()
        assert (held.reply, read.reply) == (OK, b"2")
        assert store.at_once(Get(b"k")) == b"2"

    def test_without_pending_writes_have_no_effect(self, store: LateStore) -> None:
        store.safely(Set(b"k", b"1"))
        store.storage.fail()
        assert store.at_once(Get(b"k")) == b"1"

    def test_undo_of_an_expired_key_does_not_restore_it(self, store: LateStore) -> None:
        store.safely(SetWith(b"k", b"v", ttl=100), Set(b"stays", b"v"))
        store.held(Persist(b"k"))
        store.manual_clock.advance(5_000)
        while store.housekeep():
            pass
        store.storage.fail()
        assert store.at_once(Get(b"k")) is MISSING
        assert store.at_once(Count()) == 1

    def test_undo_keys_that_housekeeping_removed(self, store: LateStore) -> None:
        store.safely(Set(b"k", b"stays"))
        store.held(SetWith(b"k", b"short", ttl=100))
        store.manual_clock.advance(5_000)
        while store.housekeep():
            pass
        store.storage.fail()
        assert store.at_once(Get(b"k")) == b"stays"
        assert store.at_once(Count()) == 1


def test_storage_that_raises_leaves_nothing_of_the_command(store: LateStore) -> None:
    """Outside the contract, but a fault of ours must not show a write without a record."""

    def broken(*_: object) -> int:
        raise RuntimeError("a fault of ours")

    store.safely(Set(b"k", b"safe"))
    store.storage.append = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError):
        store.execute(Set(b"k", b"lost"))
    assert store.at_once(Get(b"k")) == b"safe"
    store.database.check()


def test_batches_release_their_replies_in_order(store: LateStore) -> None:
    order: list[int] = []
    for number in range(6):
        store.held(Set(b"%d" % number, b"v")).on_ready = functools.partial(order.append, number)
    store.storage.commit(2)
    assert order == [0, 1]
    store.storage.commit()
    assert order == [0, 1, 2, 3, 4, 5]


def test_close_lets_storage_finish(store: LateStore) -> None:
    held = store.held(Set(b"k", b"v"))
    store.close()
    assert held.reply is OK
    assert store.storage.closed


def test_tables_of_committed_and_undone_clear_alls_are_freed(store: LateStore) -> None:
    for outcome in (store.storage.commit, store.storage.fail):
        store.safely(SetMany(0, tuple((b"%d" % n, b"v") for n in range(500))))
        store.held(ClearAll())
        store.held(Set(b"new", b"v"))
        outcome()
        while store.housekeep():
            pass
        assert store.database.garbage_bytes == 0
    assert store.at_once(Count()) == 501


def test_table_of_a_committed_clear_all_is_freed_in_slices(store: LateStore) -> None:
    store.safely(SetMany(0, tuple((b"%d" % n, b"v") for n in range(500))))
    used_bytes = store.database.used_bytes
    store.held(ClearAll())
    assert store.database.used_bytes == 0
    store.storage.commit()
    assert store.database.garbage_bytes == used_bytes


def test_storage_that_commits_at_once_leaves_no_pending_reply() -> None:
    store = LocalStore(clock=HandClock())
    for command, _ in WRITES + READS:
        assert not isinstance(store.execute(command), PendingReply)
