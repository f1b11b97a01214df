"""Scripts on a store: one entry, undone as a whole, run anew; and a store that is held."""

from collections.abc import Callable

import pytest

from cairnkv.commands import (
    MISSING,
    OK,
    Append,
    Clear,
    ClearAll,
    Command,
    Failure,
    Get,
    Incr,
    Items,
    Put,
    Rename,
    Replies,
    Reply,
    Set,
    SetWith,
    Step,
    Take,
    failures,
)
from cairnkv.commands.vocabulary import Count, Info, Ping
from cairnkv.engine.table import ENTRY_BYTES
from cairnkv.store import NO_MESSAGES, Execute, LocalStore, PendingReply, Script, Waiter, WhenFull
from cairnkv.store.script import HELD, WRITE_BYTES
from tests.store.test_transactions import LateStore
from tests.support.clock import HandClock
from tests.support.watching import watch


class Program(Script):
    """A script that is a Python function. runs: number of its runs so far."""

    def __init__(self, body: Callable[[Callable[[Command], Reply]], Reply]) -> None:
        self.runs = 0
        self._body = body

    def run(self, execute: Execute) -> Reply:
        self.runs += 1
        return self._body(lambda command: execute(Step(0, command)))


def listed(*commands: Command) -> Program:
    """Return a script that executes commands and replies with the last reply."""

    def body(call: Callable[[Command], Reply]) -> Reply:
        reply: Reply = OK
        for command in commands:
            reply = call(command)
        return reply

    return Program(body)


class Stop(BaseException):
    """The exception of a script that ends itself."""


@pytest.fixture
def store() -> LateStore:
    return LateStore()


def pending(store: LocalStore, script: Script) -> PendingReply:
    """Execute a script whose reply waits."""
    outcome = store.execute_script(script)
    assert isinstance(outcome, PendingReply), outcome
    assert outcome.reply is None
    return outcome


# -- one entry -------------------------------------------------------------------------------------------------------


def test_script_is_one_entry_and_its_reply_waits_for_it(store: LateStore) -> None:
    def body(call: Callable[[Command], Reply]) -> Reply:
        call(Set(b"a", b"5"))
        value = call(Get(b"a"))
        assert value == b"5"
        return call(Incr(b"b", int(value)))

    held = pending(store, Program(body))
    (entry,) = store.storage.pending
    assert entry.steps == (Step(0, Set(b"a", b"5")), Step(0, Incr(b"b", 5)))
    assert isinstance(store.execute(Get(b"b")), PendingReply)
    store.storage.commit()
    assert held.reply == 5


def test_script_without_changes_is_no_entry(store: LateStore) -> None:
    store.safely(Set(b"a", b"1"))
    assert store.execute_script(listed(Clear(b"nothing"), Get(b"a"))) == b"1"
    assert store.storage.pending == []


def test_reply_waits_for_the_uncommitted_values_that_the_script_read(store: LateStore) -> None:
    store.execute(Set(b"a", b"1"))
    store.execute(Set(b"b", b"2"))
    store.execute(Set(b"c", b"3"))
    held = pending(store, listed(Get(b"b"), Get(b"a"), Get(b"none")))
    store.storage.commit(1)
    assert held.reply is None
    store.storage.commit(1)
    assert held.reply is MISSING
    assert store.execute_script(listed(Get(b"a"))) == b"1"


def test_writes_before_an_error_of_the_script_stay(store: LateStore) -> None:
    store.safely(Set(b"a", b"x"))
    held = pending(store, listed(Set(b"b", b"1"), Incr(b"a", 1)))
    store.storage.commit()
    assert isinstance(held.reply, Failure)
    assert held.reply.code is failures.NOTINT
    assert store.execute(Get(b"b")) == b"1"


def test_script_that_raises_is_undone(store: LateStore) -> None:
    store.safely(Set(b"a", b"1"), SetWith(b"b", b"2", ttl=5_000))
    before, used_bytes = store.contents(), store.memory.used_bytes

    def body(call: Callable[[Command], Reply]) -> Reply:
        for command in (Append(b"a", b"9"), Rename(b"b", b"c"), ClearAll(), Set(b"a", b"8")):
            call(command)
        raise Stop

    for _ in range(2):
        with pytest.raises(Stop):
            store.execute_script(Program(body))
        assert (store.contents(), store.memory.used_bytes) == (before, used_bytes)
    assert store.storage.pending == []
    assert store.execute(Get(b"a")) == b"1"
    store.check()


@pytest.mark.parametrize("unknown", [False, True])
def test_script_with_a_failed_commit_is_undone_as_a_whole(store: LateStore, unknown: bool) -> None:
    store.safely(Set(b"a", b"1"))
    before = store.contents()
    held = pending(store, listed(Set(b"a", b"2"), ClearAll(), Set(b"b", b"3")))
    store.storage.fail("gone", unknown=unknown)
    assert held.reply == Failure(failures.UNKNOWN if unknown else failures.UNDONE, "gone")
    assert store.contents() == before


def test_script_that_storage_refuses_is_undone_and_fails_at_once(store: LateStore) -> None:
    store.safely(Set(b"a", b"1"))
    before = store.contents()
    store.storage.refusal = "90 % full"
    assert store.execute_script(listed(Set(b"a", b"2"), Set(b"b", b"3"))) == Failure(failures.UNDONE, "90 % full")
    assert store.contents() == before
    assert store.execute_script(listed(Get(b"a"))) == b"1"


def test_store_that_loads_refuses_scripts() -> None:
    store, script = LocalStore(loads_later=True), listed()
    failure = store.execute_script(script)
    assert isinstance(failure, Failure)
    assert failure.code is failures.LOADING
    store.begin(store.load())
    assert store.execute_script(script) is OK
    assert script.runs == 1


def test_log_time_stands_still_during_a_script(store: LateStore) -> None:
    store.safely(SetWith(b"a", b"1", ttl=100))

    def body(call: Callable[[Command], Reply]) -> Reply:
        store.manual_clock.advance(1_000)
        return call(Get(b"a"))

    assert store.execute_script(Program(body)) == b"1"
    assert store.execute_script(listed(Get(b"a"))) is MISSING


def test_script_with_a_changed_watched_key_is_not_run(store: LateStore) -> None:
    store.safely(Set(b"a", b"1"))
    watched = [watch(store, b"a")]
    store.execute(Set(b"a", b"2"))
    script = listed(Set(b"b", b"1"))
    held = store.execute_script(script, watched)
    assert isinstance(held, PendingReply), "the reply shows that the key has changed"
    store.storage.commit()
    assert (held.reply, script.runs) == (MISSING, 0)


def test_write_of_a_script_changes_a_watched_key(store: LateStore) -> None:
    watched = [watch(store, b"a")]
    store.execute_script(listed(Set(b"a", b"1")))
    store.storage.commit()
    assert store.execute_all([Step(0, Get(b"a"))], watched) is MISSING


def test_undone_script_changes_no_watched_key(store: LateStore) -> None:
    store.safely(Set(b"a", b"1"))
    watched = [watch(store, b"a"), watch(store, b"b")]

    def body(call: Callable[[Command], Reply]) -> Reply:
        for command in (Set(b"a", b"2"), Clear(b"a"), Set(b"b", b"2"), Set(b"a", b"3")):
            call(command)
        raise Stop

    with pytest.raises(Stop):
        store.execute_script(Program(body))
    assert store.execute_all([Step(0, Get(b"a"))], watched) == Replies((b"1",))
    store.execute_script(listed(Set(b"b", b"1")))
    store.storage.commit()
    assert store.execute_all([Step(0, Get(b"a"))], watched) is MISSING


def test_script_cannot_use_queues(store: LateStore) -> None:
    for command in (Put(b"q", b"body"), Take(b"q", 1, 1_000)):
        failure = store.execute_script(listed(command))
        assert isinstance(failure, Failure)
        assert failure.code is failures.BADARGS
    assert store.storage.pending == []


# -- limits ----------------------------------------------------------------------------------------------------------


def test_bytes_of_writes_are_bounded_and_writes_before_stay() -> None:
    store = LocalStore()
    most = 2 * (WRITE_BYTES + 101)
    script = listed(Set(b"a", bytes(100)), Set(b"b", bytes(100)), Set(b"c", b""))
    failure = store.execute_script(script, bytes_max=most)
    assert isinstance(failure, Failure)
    assert failure.code is failures.BIGREPLY
    assert store.execute(Count()) == 2
    assert store.execute_script(listed(Clear(b"a"), Clear(b"b")), bytes_max=most) is OK


def test_bytes_of_replies_are_bounded() -> None:
    store = LocalStore()
    store.execute(Set(b"a", bytes(100)))
    assert store.execute_script(listed(*[Get(b"a")] * 10), bytes_max=1_000) == bytes(100)
    failure = store.execute_script(listed(*[Get(b"a")] * 12), bytes_max=1_000)
    assert isinstance(failure, Failure)
    assert failure.code is failures.BIGREPLY


def test_memory_limit_refuses_single_writes_of_a_script() -> None:
    store = LocalStore(memory_limit=10_000)
    replies: list[Reply] = []

    def body(call: Callable[[Command], Reply]) -> Reply:
        replies.extend(call(Set(b"%d" % n, bytes(2_000))) for n in range(8))
        return call(Clear(b"0"))

    assert store.execute_script(Program(body)) is OK
    refused = [reply for reply in replies if isinstance(reply, Failure)]
    assert {reply.code for reply in refused} == {failures.FULL}
    assert store.execute(Count()) == 8 - len(refused) - 1 > 0


def test_evictions_for_a_script_are_undone_with_it() -> None:
    store = LocalStore(memory_limit=20 * (ENTRY_BYTES + 1_000), when_full=WhenFull.EVICT)
    for number in range(50):
        store.execute(Set(b"%d" % number, bytes(1_000)))
    keys, evicted = store.execute(Count()), store.memory.evicted

    def body(call: Callable[[Command], Reply]) -> Reply:
        for number in range(5):
            call(Set(b"new %d" % number, bytes(1_000)))
        raise Stop

    with pytest.raises(Stop):
        store.execute_script(Program(body))
    assert (store.execute(Count()), store.memory.evicted) == (keys, evicted)
    assert store.execute_script(listed(Set(b"new", bytes(1_000)))) is OK
    assert store.memory.evicted > evicted
    store.database.check()


# -- held ------------------------------------------------------------------------------------------------------------


class Pausing(Program):
    """A script during which other things happen, while the store is held."""

    def __init__(self, store: LocalStore, meanwhile: Callable[[], None], *commands: Command) -> None:
        def body(call: Callable[[Command], Reply]) -> Reply:
            reply: Reply = OK
            for number, command in enumerate(commands):
                if number == 1:
                    store.hold()
                    meanwhile()
                reply = call(command)
            return reply

        super().__init__(body)


def test_held_store_executes_ping_and_info_only(store: LateStore) -> None:
    store.safely(Set(b"a", b"1"))
    at = store.manual_clock.now
    seen: list[object] = []

    def meanwhile() -> None:
        store.manual_clock.advance(1_000)
        seen.extend(store.execute(command) for command in (Ping(b""), Get(b"a"), Set(b"a", b"2"), ClearAll()))
        seen.append(store.execute_all([Step(0, Get(b"a"))]))
        seen.append(store.execute_script(listed(Get(b"a"))))
        seen.append(store.watch([(0, b"a")], {}))
        assert isinstance(store.execute(Info()), Items)
        assert dict(store.info())["log_time_ms"] == at
        assert not store.housekeep()
        assert not store.read_ahead(Step(0, Get(b"a")))

    held = pending(store, Pausing(store, meanwhile, Incr(b"a", 1), Incr(b"a", 1)))
    assert store.execute(Get(b"a")) == HELD, "until it is released"
    store.release()
    assert seen == [b"PONG", *[HELD] * 6]
    (entry,) = store.storage.pending
    assert (len(entry.steps), entry.now) == (2, at)
    store.storage.commit()
    assert held.reply == 3
    assert store.execute(Get(b"a")) == b"3"


def test_takes_wait_until_a_held_store_is_released() -> None:
    clock = HandClock()
    store = LocalStore(clock=clock)
    waiting, refused = Waiter(Take(b"q", 1, 60_000, wait=60_000)), Waiter(Take(b"q", 1, 60_000, wait=60_000))
    brief = Waiter(Take(b"s", 1, 60_000, wait=10))
    store.begin_take(waiting)
    store.begin_take(brief)
    taken = store.execute(Take(b"r", 1, 60_000))
    assert taken == Items(())
    store.execute(Put(b"r", b"body"))
    leased = Waiter(Take(b"r", 1, 60_000, wait=1))
    store.begin_take(leased)
    assert leased.executed

    def meanwhile() -> None:
        store.begin_take(refused)
        store.end_take(leased, gives_back=True)
        clock.advance(20)
        store.serve_waiters()
        assert brief.reply is None

    store.execute_script(Pausing(store, meanwhile, Set(b"a", b"1"), Set(b"a", b"2")))
    assert refused.reply == HELD
    assert dict(store.info())["messages_leased"] == 1
    store.release()
    assert dict(store.info())["messages_leased"] == 0
    store.serve_waiters()
    assert brief.reply == NO_MESSAGES
    store.execute(Put(b"q", b"body"))
    assert isinstance(waiting.reply, Items)
    assert waiting.reply.values


def test_executors_of_the_native_path_are_off_while_the_store_is_held() -> None:
    class Executor:
        commands = writes = hits = misses = 0
        off = False

    store, executor, seen = LocalStore(), Executor(), list[bool]()
    store.add_executor(executor)
    store.execute_script(Pausing(store, lambda: seen.append(executor.off), Set(b"a", b"1"), Set(b"a", b"2")))
    assert seen == [True]
    assert executor.off
    store.release()
    assert not executor.off
