"""Transactions: several commands as one storage entry, all or nothing; and watched keys."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import (
    COMMANDS,
    MISSING,
    OK,
    Append,
    Clear,
    ClearAll,
    Command,
    Copy,
    Count,
    Deadline,
    Failure,
    Get,
    Incr,
    Info,
    Items,
    RandomKey,
    Rename,
    Replies,
    Scan,
    Set,
    SetBit,
    SetMany,
    SetRange,
    SetWith,
    Step,
    failures,
)
from cairnkv.commands.vocabulary import DB
from cairnkv.engine import Database, Shared, apply, can_apply
from cairnkv.engine.table import USE_BYTES
from cairnkv.limits import DATABASES
from cairnkv.store import LocalStore, PendingReply, WhenFull
from cairnkv.store.clock import LogClock
from tests.engine.test_model import content
from tests.store.test_late_machine import KINDS
from tests.support.clock import HandClock
from tests.support.late_storage import Entry, LateStorage
from tests.support.strategies import Kinds, commands
from tests.support.watching import watch


class LateStore(LocalStore):
    """A store on a late log and a clock set by hand, both at hand."""

    def __init__(self, *, memory_limit: int | None = None, value_max: int = 1_000) -> None:
        self.storage = LateStorage()
        self.manual_clock = HandClock()
        super().__init__(
            storage=self.storage,
            clock=self.manual_clock,
            memory_limit=memory_limit,
            when_full=WhenFull.EVICT,
            value_max=value_max,
        )

    def safely(self, *commands: Command, db: int = 0) -> None:
        """Carry these out and commit them."""
        for command in commands:
            self.execute(command, db)
        self.storage.commit()

    def all_of(self, *commands: Command) -> PendingReply:
        """Carry these out as one, whose reply has to wait."""
        held = self.execute_all([Step(0, command) for command in commands])
        assert isinstance(held, PendingReply)
        return held

    def contents(self) -> list[dict[bytes, object]]:
        """Return the content of every database."""
        return [content(database) for database in self.databases]

    def check(self) -> None:
        for database in self.databases:
            database.check()


@pytest.fixture
def store() -> LateStore:
    return LateStore()


# -- one entry -------------------------------------------------------------------------------------------------------


def test_transaction_is_one_entry_and_its_reply_waits_for_it(store: LateStore) -> None:
    held = store.all_of(Set(b"a", b"1"), Get(b"a"), Incr(b"a", 2), Count())
    (entry,) = store.storage.pending
    assert entry.steps == (Step(0, Set(b"a", b"1")), Step(0, Incr(b"a", 2)))
    assert held.reply is None
    assert isinstance(store.execute(Get(b"a")), PendingReply), "and so does whoever reads of it"
    store.storage.commit()
    assert held.reply == Replies((OK, b"1", 3, 1))
    assert store.execute(Get(b"a")) == b"3"


def test_entry_omits_commands_without_effects(store: LateStore) -> None:
    store.safely(Set(b"a", b"x"))
    store.all_of(Set(b"b", b"1"), Incr(b"a", 1), SetWith(b"a", b"y", if_absent=True), Clear(b"nothing"))
    (entry,) = store.storage.pending
    assert entry.steps == (Step(0, Set(b"b", b"1")),)


@pytest.mark.parametrize("unknown", [False, True])
def test_transaction_with_a_failed_commit_is_undone_as_a_whole(store: LateStore, unknown: bool) -> None:
    store.safely(Set(b"a", b"1"), SetWith(b"b", b"2", ttl=5_000))
    store.safely(Set(b"c", b"3"), db=7)
    before, used_bytes = store.contents(), store.memory.used_bytes
    held = store.execute_all(
        [
            Step(0, Set(b"a", b"9")),
            Step(0, Copy(b"b", b"c", db=7, replace=True)),
            Step(0, ClearAll()),
            Step(0, Set(b"a", b"8")),
            Step(7, Rename(b"c", b"a")),
            Step(7, Copy(b"a", b"b", db=0)),
            Step(7, ClearAll()),
        ]
    )
    assert isinstance(held, PendingReply)
    store.storage.fail("gone", unknown=unknown)
    assert held.reply == Failure(failures.UNKNOWN if unknown else failures.UNDONE, "gone")
    assert (store.contents(), store.memory.used_bytes) == (before, used_bytes)
    store.check()


def test_transaction_refused_by_storage_is_undone_and_fails_at_once(store: LateStore) -> None:
    store.safely(Set(b"a", b"1"))
    store.execute(Set(b"b", b"2"))
    before = store.contents()
    store.storage.refusal = "90 % full"
    steps = [Step(0, ClearAll()), Step(0, Set(b"b", b"8")), Step(3, Set(b"a", b"9"))]
    assert store.execute_all(steps) == Failure(failures.UNDONE, "90 % full")
    assert store.contents() == before
    store.check()


def test_entries_keep_the_order_of_transactions_and_of_single_writes(store: LateStore) -> None:
    store.execute(Set(b"a", b"1"))
    store.all_of(Append(b"a", b"2"), Append(b"a", b"3"))
    store.execute(Append(b"a", b"4"))
    assert [len(entry.steps) for entry in store.storage.pending] == [1, 2, 1]
    store.storage.commit(2)
    assert store.database.get(b"a") == b"1234"
    store.storage.fail()
    assert store.execute(Get(b"a")) == b"123"


def test_one_command_may_fail_and_the_others_not(store: LateStore) -> None:
    store.safely(Set(b"a", b"x"))
    held = store.all_of(Set(b"b", b"1"), Incr(b"a", 1), Incr(b"b", 1))
    store.storage.commit()
    assert isinstance(held.reply, Replies)
    one, other, third = held.reply.values
    assert (one, third) == (OK, 2)
    assert isinstance(other, Failure)
    assert other.code is failures.NOTINT


def test_reading_transaction_waits_for_the_commits_that_it_shows(store: LateStore) -> None:
    store.safely(Set(b"a", b"1"))
    assert store.execute_all([Step(0, Get(b"a")), Step(0, Count())]) == Replies((b"1", 1))
    assert store.execute_all([]) == Replies(())
    store.execute(Set(b"b", b"2"))
    assert store.execute_all([Step(0, Get(b"a"))]) == Replies((b"1",))
    held = store.execute_all([Step(0, Get(b"a")), Step(0, Get(b"b"))])
    assert isinstance(held, PendingReply)
    assert len(store.storage.pending) == 1
    store.storage.commit()
    assert held.reply == Replies((b"1", b"2"))


def test_time_stands_still_in_a_transaction(store: LateStore) -> None:
    """Its entry has one time, so all of it is carried out at that, however long it takes."""
    store.safely(SetWith(b"a", b"1", ttl=5))

    class Hasty(HandClock):
        def __call__(self) -> int:
            self.now += 10
            return self.now

    now = store.database.now
    store.log_clock = LogClock(Hasty(now - 8), store.database.shared)
    held = store.all_of(Set(b"b", b"1"), Info(), RandomKey(), Get(b"a"), SetWith(b"c", b"1", ttl=1), Deadline(b"c"))
    (entry,) = store.storage.pending
    assert entry.now == now + 2
    store.storage.commit()
    assert isinstance(held.reply, Replies)
    assert held.reply.values[3:] == (b"1", 1, now + 3)


# -- watched keys ----------------------------------------------------------------------------------------------------

CHANGES: list[tuple[str, Callable[[LateStore], object]]] = [
    ("changed", lambda store: store.execute(Set(b"k", b"2"))),
    ("stored again", lambda store: store.execute(Set(b"k", b"1"))),
    ("cleared", lambda store: store.execute(Clear(b"k"))),
    ("cleared with all", lambda store: store.execute(ClearAll())),
    ("cleared and stored", lambda store: (store.execute(ClearAll()), store.execute(Set(b"k", b"1")))),
    ("renamed", lambda store: store.execute(Rename(b"k", b"l"))),
    ("copied over", lambda store: store.execute(Copy(b"other", b"k", db=0, replace=True), 3)),
    ("given a time", lambda store: store.execute(SetWith(b"k", b"1", ttl=9_000))),
    ("expired", lambda store: store.manual_clock.advance(5_000)),
    ("changed and undone", lambda store: (store.execute(Clear(b"k")), store.storage.fail())),
    ("cleared with all, undone", lambda store: (store.execute(ClearAll()), store.storage.fail())),
]


def watched_set(store: LateStore, change: Callable[[LateStore], object]) -> object:
    """Return the reply of a transaction that watched `k` during an event."""
    watched = [watch(store, b"k")]
    change(store)
    store.storage.commit()
    outcome = store.execute_all([Step(0, Set(b"done", b"1"))], watched)
    store.storage.commit()
    return outcome.reply if isinstance(outcome, PendingReply) else outcome


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_changed_watched_key_aborts(store: LateStore, name: str, change: Callable[[LateStore], object]) -> None:
    store.safely(SetWith(b"k", b"1", ttl=5_000))
    store.safely(Set(b"other", b"1"), db=3)
    assert watched_set(store, change) is MISSING
    assert store.execute(Get(b"done")) is MISSING


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.execute(Set(b"k", b"1")),
        lambda store: (store.execute(Set(b"k", b"1")), store.execute(Clear(b"k"))),
        lambda store: (store.execute(Set(b"k", b"1")), store.execute(ClearAll())),
        lambda store: (store.execute(Set(b"k", b"1")), store.storage.fail()),
    ],
    ids=["came", "came and went", "came and went with all", "came and was undone"],
)
def test_created_watched_key_aborts(store: LateStore, change: Callable[[LateStore], object]) -> None:
    assert watched_set(store, change) is MISSING


@pytest.mark.parametrize("again", [False, True], ids=["stays", "goes again"])
def test_watched_key_restored_by_an_undone_clear_all(store: LateStore, again: bool) -> None:
    store.safely(Set(b"k", b"1"))
    store.execute(ClearAll())

    def undo(store: LateStore) -> None:
        store.storage.fail()
        if again:
            store.execute(ClearAll())

    assert watched_set(store, undo) is MISSING


@pytest.mark.parametrize(
    "change",
    [
        lambda store: None,
        lambda store: store.execute(Clear(b"k")),
        lambda store: store.execute(ClearAll()),
        lambda store: store.housekeep(),
        lambda store: (store.execute(Clear(b"k")), store.storage.fail()),
        lambda store: store.execute(Set(b"k", b"1"), 1),
        lambda store: store.manual_clock.advance(5_000),
    ],
    ids=["nothing", "cleared", "all cleared", "removed", "cleared and undone", "in another keyspace", "time"],
)
@pytest.mark.parametrize("expired", [False, True])
def test_absent_watched_key_does_not_abort(
    store: LateStore, expired: bool, change: Callable[[LateStore], object]
) -> None:
    if expired:
        store.safely(SetWith(b"k", b"1", ttl=5))
        store.manual_clock.advance(5_000)
    assert watched_set(store, change) == Replies((OK,))


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.execute(Get(b"k")),
        lambda store: store.execute(SetWith(b"k", b"2", if_absent=True)),
        lambda store: store.execute(Set(b"k", b"2"), 1),
        lambda store: store.execute(ClearAll(), 1),
        lambda store: store.execute(Copy(b"k", b"k", db=1)),
        lambda store: store.manual_clock.advance(4_999),
    ],
    ids=["read", "not stored", "in another keyspace", "another keyspace cleared", "copied from", "time"],
)
def test_unchanged_watched_key_does_not_abort(store: LateStore, change: Callable[[LateStore], object]) -> None:
    store.safely(SetWith(b"k", b"1", ttl=5_000))
    assert watched_set(store, change) == Replies((OK,))


def test_abort_by_a_watched_change_waits_for_its_commit(store: LateStore) -> None:
    watched = [watch(store, b"k")]
    store.execute(Set(b"other", b"1"))
    store.execute(Set(b"k", b"1"))
    held = store.execute_all([Step(0, Set(b"done", b"1"))], watched)
    assert isinstance(held, PendingReply)
    store.storage.commit(1)
    assert held.reply is None
    store.storage.commit(1)
    assert held.reply is MISSING


def test_transaction_waits_for_earlier_commits_of_its_watched_keys(store: LateStore) -> None:
    """Its success shows that the key did not change, although it uses another one."""
    store.execute(Set(b"k", b"1"))
    watched = [watch(store, b"k")]
    held = store.execute_all([Step(0, Get(b"another"))], watched)
    assert isinstance(held, PendingReply)
    store.storage.fail("gone", unknown=False)
    assert held.reply == Failure(failures.UNDONE, "gone")


# -- several keyspaces -----------------------------------------------------------------------------------------------


def test_databases_are_separate(store: LateStore) -> None:
    for db in range(DATABASES):
        store.safely(Set(b"k", b"%d" % db), Set(b"only:%d" % db, b""), db=db)
    for db in range(DATABASES):
        assert store.execute(Get(b"k"), db) == b"%d" % db
        assert store.execute(Count(), db) == 2
        reply = store.execute(Scan(0, 10, b"only:"), db)
        assert reply == Items((b"0", b"only:%d" % db))
    store.safely(ClearAll(), db=4)
    assert [store.execute(Count(), db) for db in range(DATABASES)] == [2] * 4 + [0] + [2] * (DATABASES - 5)
    assert dict(store.info())["keys"] == 2 * (DATABASES - 1)


def test_copy_into_another_database_keeps_the_ttl(store: LateStore) -> None:
    store.safely(SetWith(b"k", b"v", ttl=5_000), db=2)
    store.safely(Copy(b"k", b"l", db=9), db=2)
    assert store.execute(Get(b"l"), 9) == b"v"
    assert store.execute(Deadline(b"l"), 9) == store.execute(Deadline(b"k"), 2)
    assert store.execute(Get(b"l"), 2) is MISSING
    assert store.execute(Copy(b"k", b"l", db=9), 2) == 0
    assert store.execute(Copy(b"l", b"k", db=2), 9) == 0


def test_pending_commits_belong_to_one_database(store: LateStore) -> None:
    store.safely(Set(b"k", b"1"), db=0)
    store.safely(Set(b"k", b"1"), db=1)
    store.execute(Set(b"k", b"2"), 1)
    assert store.execute(Get(b"k"), 0) == b"1"
    assert store.execute(Count(), 0) == 1
    assert isinstance(store.execute(Get(b"k"), 1), PendingReply)
    assert isinstance(store.execute(Count(), 1), PendingReply)
    store.execute(ClearAll(), 2)
    assert store.execute(Count(), 0) == 1
    assert isinstance(store.execute(Get(b"any"), 2), PendingReply)
    store.execute(Copy(b"k", b"l", db=5))
    assert store.execute(Get(b"k"), 0) is not MISSING
    for command, db in ((Get(b"l"), 5), (Count(), 5)):
        assert isinstance(store.execute(command, db), PendingReply)
    assert store.execute(Count(), 6) == 0
    store.storage.fail()
    for db, keys in enumerate([1, 1, 0, 0, 0, 0]):
        assert store.execute(Count(), db) == keys


# -- the longest value -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fits", "too_long"),
    [
        (Append(b"k", b"v" * 990), Append(b"k", b"v" * 991)),
        (SetRange(b"k", 995, b"v" * 5), SetRange(b"k", 996, b"v" * 5)),
        (SetRange(b"new", 999, b"v"), SetRange(b"new", 1_000, b"v")),
        (SetBit(b"k", 7_999, 0), SetBit(b"k", 8_000, 0)),
    ],
    ids=["APPEND", "SET_RANGE", "SET_RANGE of a new key", "SET_BIT"],
)
def test_length_of_a_growing_value_is_bounded(store: LateStore, fits: Command, too_long: Command) -> None:
    store.safely(Set(b"k", b"v" * 10))
    before = store.contents()
    refused = store.execute(too_long)
    assert isinstance(refused, Failure)
    assert refused.code is failures.TOOLONG
    assert "1,001 bytes; the limit is 1,000" in refused.text
    (in_transaction,) = store.execute_all([Step(0, too_long)]).values  # type: ignore[union-attr]
    assert in_transaction == refused
    assert store.contents() == before
    assert not store.storage.pending
    held = store.execute(fits)
    assert isinstance(held, PendingReply)
    assert max(len(entry[0]) for entry in content(store.database).values()) == 1_000


def test_too_long_error_waits_for_the_commit_that_it_shows(store: LateStore) -> None:
    store.execute(Set(b"k", b"v" * 10))
    held = store.execute(Append(b"k", b"v" * 991))
    assert isinstance(held, PendingReply)
    store.storage.fail("gone")
    assert held.reply == Failure(failures.UNDONE, "gone")


# -- any key ---------------------------------------------------------------------------------------------------------


def test_a_random_key_is_any_visible_one(store: LateStore) -> None:
    keys = [b"key:%d" % number for number in range(60)]
    store.safely(SetMany(0, tuple((key, b"") for key in keys)))
    store.safely(SetMany(10, tuple((b"short:%d" % number, b"") for number in range(60))))
    store.safely(Set(b"elsewhere", b""), db=1)
    store.manual_clock.advance(10)
    found = set()
    for _ in range(200_000):
        found.add(store.execute(RandomKey()))
        if len(found) == len(keys):
            break
    assert found == set(keys)
    assert store.execute(RandomKey(), 1) == b"elsewhere"


def test_random_key_of_an_empty_database_is_none(store: LateStore) -> None:
    assert store.execute(RandomKey()) is MISSING
    store.safely(SetMany(10, ((b"a", b""), (b"b", b""))))
    store.manual_clock.advance(10)
    assert store.execute(RandomKey()) is MISSING


def test_random_key_waits_for_pending_commits_of_its_database(store: LateStore) -> None:
    store.execute(Set(b"k", b""))
    assert store.execute(RandomKey(), 1) is MISSING
    held = store.execute(RandomKey())
    assert isinstance(held, PendingReply)
    store.storage.commit()
    assert held.reply == b"k"


# -- making room -----------------------------------------------------------------------------------------------------


def sized(keys: int, length: int) -> int:
    """Return the memory of so many keys of three bytes with such values."""
    plain = LocalStore(clock=HandClock())
    plain.execute(SetMany(0, tuple((b"%03d" % number, b"v" * length) for number in range(keys))))
    return plain.memory.used_bytes + keys * USE_BYTES


def test_evictions_of_a_transaction_precede_their_writes() -> None:
    store = LateStore(memory_limit=sized(3, 100))
    for number in range(3):
        store.safely(Set(b"%03d" % number, b"v" * 100))
    before = store.contents()
    new = [Set(b"10%d" % number, b"w" * 100) for number in range(3)]
    held = store.all_of(*new)
    (entry,) = store.storage.pending
    kinds = [type(command) for _, command in entry.steps]
    assert kinds == [Clear, Set] * 3
    assert dict(store.info())["evicted_keys"] == 3
    assert dict(store.info())["expired_keys"] == 0
    store.storage.fail()
    assert isinstance(held.reply, Failure)
    assert store.contents() == before
    store.check()
    for number in range(5):
        store.safely(Set(b"20%d" % number, b"v" * 100))
    assert store.execute(Count()) == 3, "what came back can be evicted again"


def test_keys_stored_after_clear_all_are_the_most_recently_used() -> None:
    store = LateStore(memory_limit=sized(4, 100))
    store.all_of(Set(b"old", b"v" * 100), ClearAll(), Set(b"000", b"v" * 100), Set(b"001", b"v" * 100))
    store.storage.commit()
    while store.housekeep():
        pass
    for number in range(2, 4):
        store.safely(Set(b"%03d" % number, b"v" * 100))
    store.execute(Get(b"000"))
    store.safely(Set(b"004", b"v" * 100))
    assert store.execute(Get(b"001")) is MISSING
    assert store.execute(Get(b"000")) == b"v" * 100


def test_expired_keys_free_memory_in_a_transaction_unrecorded() -> None:
    store = LateStore(memory_limit=sized(3, 100) + 1_000)
    store.safely(*(SetWith(b"%03d" % number, b"v" * 100, ttl=10) for number in range(3)))
    store.manual_clock.advance(10)  # so lately that housekeeping has not come to it
    store.all_of(Set(b"100", b"w" * 600))
    (entry,) = store.storage.pending
    assert entry.steps == (Step(0, Set(b"100", b"w" * 600)),)
    store.storage.commit()
    assert dict(store.info())["evicted_keys"] == 0
    store.check()


def test_transaction_refused_for_memory_is_no_entry() -> None:
    """Although expired keys were freed for it: it needs each remaining key itself."""
    store = LateStore(memory_limit=sized(3, 100) + 500, value_max=5_000)
    store.safely(Set(b"own", b"v" * 500))
    store.safely(SetWith(b"short", b"v" * 100, ttl=10))
    store.manual_clock.advance(10)
    refused = store.execute_all([Step(0, Append(b"own", b"v" * 1_000))])
    assert isinstance(refused, Replies)
    (failure,) = refused.values
    assert isinstance(failure, Failure)
    assert failure.code is failures.FULL
    assert not store.storage.pending
    assert dict(store.info())["expired_keys"] == 1
    store.check()


# -- the log, replayed -----------------------------------------------------------------------------------------------

APPLIED = [command for command in COMMANDS if can_apply(command)]
STEPS = st.builds(Step, st.integers(0, 2), commands(APPLIED, Kinds({**KINDS, DB: st.integers(0, 2)})))
ACTIONS = st.lists(
    st.tuples(
        st.one_of(st.lists(STEPS, min_size=1, max_size=5), STEPS, st.sampled_from(["commit", "fail", "housekeep"])),
        st.integers(0, 1_500),
    ),
    max_size=30,
)


def replayed(entries: list[Entry]) -> list[dict[bytes, object]]:
    """Return the content of databases after a replay of the entries."""
    shared = Shared()
    databases = [Database(shared) for _ in range(DATABASES)]
    for entry in entries:
        for db, command in entry.steps:
            apply(databases[db], command, entry.now)
    return [dict(database_entries(db)) for db in databases]


def database_entries(database: Database) -> dict[bytes, object]:
    """Every entry that is or was visible, with its deadline."""
    return {key: (value, deadline) for key, value, deadline in database._table}


@given(actions=ACTIONS, limit=st.none() | st.integers(300, 1_500))
def test_replay_of_all_entries_gives_equal_databases(actions: list[tuple[object, int]], limit: int | None) -> None:
    store = LateStore(memory_limit=limit)
    for action, step in actions:
        store.manual_clock.advance(step)
        before = store.memory.used_bytes
        match action:
            case "commit":
                store.storage.commit()
            case "fail":
                store.storage.fail()
            case "housekeep":
                store.housekeep()
            case Step() as only:
                store.execute(only.command, only.db)
            case list():
                store.execute_all(action)
        now = store.database.now
        visible = [
            {key: entry for key, entry in entries.items() if entry[1] is None or entry[1] > now}  # type: ignore[index]
            for entries in replayed([*store.storage.committed, *store.storage.pending])
        ]
        assert store.contents() == visible
        if limit is not None and action != "fail":
            assert store.memory.used_bytes <= max(limit, before)
    store.check()
