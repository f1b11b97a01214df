"""TOGETHER: commands on keys and queues that are executed as one, or not at all."""

import pytest

from cairnkv.commands import (
    BY_NUMBER,
    MISSING,
    OK,
    Ack,
    Append,
    ArgumentFault,
    ClearAll,
    Code,
    Command,
    Count,
    Extend,
    Failure,
    Get,
    GetMany,
    Incr,
    Info,
    Items,
    Look,
    Nack,
    Put,
    QueueSet,
    QueueStats,
    Replies,
    Reply,
    Scope,
    Set,
    SetWith,
    Step,
    Take,
    Together,
    failures,
)
from cairnkv.limits import TAKE_MAX
from cairnkv.protocol.native import Response, replies_in, reply_in, response_to, write_command
from cairnkv.store import LocalStore, PendingReply
from tests.support.clock import HandClock
from tests.support.late_storage import LateStorage


class Store:
    """A store with a message of the queue `q`: id 2, lease 1."""

    def __init__(self, storage: LateStorage | None = None, memory_limit: int | None = None) -> None:
        self.storage = storage
        self.clock = HandClock()
        self.store = LocalStore(storage=storage, clock=self.clock, memory_limit=memory_limit)
        self.say(Put(b"q", b"body"))
        self.say(Take(b"q", 1))

    def say(self, command: Command) -> Reply:
        outcome = self.store.execute(command)
        if self.storage is not None:
            self.storage.commit()
        if isinstance(outcome, PendingReply):
            assert outcome.reply is not None
            return outcome.reply
        return outcome

    def contents(self) -> list[object]:
        return [sorted(database._table) for database in (self.store.database, self.store.queues)]

    def fails(self, *commands: Command, code: Code) -> str:
        """Assert that the commands fail together, and change nothing. Return the text of the failure."""
        before = self.contents()
        reply = self.say(Together(commands))
        assert isinstance(reply, Failure), reply
        assert reply.code is code
        assert self.contents() == before
        self.store.queues.check()
        self.store.database.check()
        return reply.text


@pytest.fixture(params=["in memory", "late"])
def store(request: pytest.FixtureRequest) -> Store:
    return Store(LateStorage(keeps_effects=True) if request.param == "late" else None)


ACK = Ack(((2, 1),))


def test_commands_are_executed_as_one(store: Store) -> None:
    reply = store.say(Together((ACK, Set(b"k", b"done"), Put(b"next", b"more"), Incr(b"n", 1), Get(b"none"))))
    assert reply == Replies((Items((b"1",)), OK, Items((b"4", b"1")), 1, MISSING))
    assert store.say(Get(b"k")) == b"done"
    assert store.say(Look(2)) is MISSING
    assert isinstance(store.say(Look(4)), Items)


@pytest.mark.parametrize(
    "stale", [Ack(((2, 1), (2, 2))), Ack(((99, 1),)), Nack(2, 9), Extend(1_000, ((2, 1), (3, 1)))], ids=str
)
def test_a_stale_lease_undoes_all(store: Store, stale: Command) -> None:
    text = store.fails(Set(b"k", b"v"), Put(b"next", b"more"), stale, Set(b"l", b"w"), code=failures.STALE)
    assert text.startswith(f"command 3, {stale.spec.name}: ")


def test_a_lease_that_another_worker_has_got_is_stale(store: Store) -> None:
    store.clock.advance(60_000)
    assert isinstance(store.say(Take(b"q", 1)), Items)
    store.fails(Set(b"k", b"v"), ACK, code=failures.STALE)
    assert isinstance(store.say(Together((Set(b"k", b"v"), Ack(((2, 2),))))), Replies)


def test_an_ack_that_is_repeated_is_stale(store: Store) -> None:
    store.fails(ACK, ACK, code=failures.STALE)
    assert isinstance(store.say(Together((ACK, Incr(b"n", 1)))), Replies)
    store.fails(ACK, Incr(b"n", 1), code=failures.STALE)
    assert store.say(Get(b"n")) == b"1"


@pytest.mark.parametrize(
    ("failing", "code"),
    [
        (Incr(b"text", 1), failures.NOTINT),
        (Put(b"small", b"too long"), failures.QUEUEFULL),
        (Put(b"q", b"", until_taken=True), failures.BADARGS),
        (QueueStats(b"none"), failures.NOQUEUE),
    ],
    ids=str,
)
def test_a_command_that_fails_undoes_all(store: Store, failing: Command, code: Code) -> None:
    store.say(Set(b"text", b"text"))
    store.say(QueueSet(b"small", max_bytes=3))
    text = store.fails(ACK, Set(b"k", b"v"), Put(b"small", b"abc"), failing, code=code)
    assert text.startswith(f"command 4, {failing.spec.name}: ")


def test_a_condition_that_does_not_hold_is_no_failure(store: Store) -> None:
    store.say(Set(b"k", b"v"))
    reply = store.say(Together((ACK, SetWith(b"k", b"w", if_absent=True))))
    assert reply == Replies((Items((b"1",)), 0))


def test_a_transaction_with_commands_on_queues_is_whole() -> None:
    store = Store()
    before = store.contents()
    reply = store.store.execute_all([Step(0, Set(b"k", b"v")), Step(0, Ack(((2, 9),)))])
    assert isinstance(reply, Failure)
    assert reply.code is failures.STALE
    assert store.contents() == before


def test_a_transaction_without_them_is_as_before() -> None:
    store = Store()
    store.say(Set(b"text", b"text"))
    reply = store.store.execute_all([Step(0, Incr(b"text", 1)), Step(0, Set(b"k", b"v"))])
    assert isinstance(reply, Replies)
    assert isinstance(reply.values[0], Failure)
    assert store.say(Get(b"k")) == b"v"
    store.fails(Set(b"k", b"w"), Incr(b"text", 1), code=failures.NOTINT)


def test_a_failure_waits_for_the_commits_that_it_shows() -> None:
    storage = LateStorage(keeps_effects=True)
    store = Store(storage)
    store.store.execute(ACK)
    failure = store.store.execute(Together((Set(b"k", b"v"), ACK)))
    assert isinstance(failure, PendingReply)
    assert failure.reply is None
    storage.commit()
    assert isinstance(failure.reply, Failure)
    assert failure.reply.code is failures.STALE


def test_a_failed_commit_undoes_all() -> None:
    storage = LateStorage(keeps_effects=True)
    store = Store(storage)
    before = store.contents()
    pending = store.store.execute(Together((ACK, Set(b"k", b"v"), Put(b"next", b"more"))))
    assert len(storage.pending) == 1
    storage.fail()
    assert isinstance(pending, PendingReply)
    assert isinstance(pending.reply, Failure)
    assert store.contents() == before
    store.store.queues.check()


def test_a_full_store_undoes_all_and_still_acknowledges() -> None:
    store = Store(memory_limit=5_000)
    store.fails(Set(b"k", bytes(500)), ACK, Put(b"next", bytes(10_000)), code=failures.FULL)
    assert isinstance(store.say(Together((ACK, Set(b"k", bytes(500))))), Replies)


def test_values_that_are_too_long_together_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairnkv.store.local.VALUE_MAX", 1_000)
    store.say(Set(b"k", bytes(600)))
    store.fails(ACK, Get(b"k"), Get(b"k"), code=failures.UNDONE)
    store.fails(ACK, Append(b"k", bytes(500)), code=failures.UNDONE)


# -- frames ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [Get(b"k"), Set(b"k", b""), ACK, Put(b"q", b"", delay=5), GetMany((b"a", b"b"))])
def test_a_frame_is_that_of_the_native_protocol(command: Command) -> None:
    (frame,) = Together((command,)).arguments()
    assert frame == write_command(command)
    assert Together.from_arguments([frame]) == Together((command,))


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"", failures.BADARGS),
        (b"\0\0", failures.BADARGS),
        (write_command(Get(b"k"))[:-1], failures.BADARGS),
        (write_command(Get(b"k")) + b"x", failures.BADARGS),
        (write_command(Incr(b"k", 1))[:-1], failures.BADARGS),
        (write_command(Incr(b"k", 1))[:6], failures.BADARGS),
        (write_command(Get(b"k"), width=4), failures.BADARGS),
        (write_command(Get(b"k"), flags=1), failures.BADARGS),
        (b"\0\xff\xff" + bytes(4), failures.BADARGS),
        (write_command(Count()), failures.BADARGS),
        (write_command(ClearAll()), failures.BADARGS),
        (write_command(Info()), failures.BADARGS),
        (write_command(Together((Get(b"k"),))), failures.BADARGS),
        (b"\0\0\0" + bytes(4), failures.BADKEY),
    ],
)
def test_an_invalid_frame_is_refused(frame: bytes, code: Code) -> None:
    with pytest.raises(ArgumentFault) as raised:
        Together.from_arguments([frame])
    assert raised.value.code is code


def test_a_frame_with_a_forged_count_is_refused_at_once() -> None:
    with pytest.raises(ArgumentFault):
        Together.from_arguments([b"\0" + GetMany.spec.number.to_bytes(2) + b"\xff" * 4 + bytes(40)])


def test_the_number_of_commands_is_limited() -> None:
    frame = write_command(Get(b"k"))
    assert len(Together.from_arguments([frame] * TAKE_MAX).commands) == TAKE_MAX
    with pytest.raises(ArgumentFault):
        Together.from_arguments([frame] * (TAKE_MAX + 1))


def test_replies_are_the_payloads_of_the_replies_to_the_parts(store: Store) -> None:
    parts = (ACK, Set(b"k", b"v"), Get(b"k"), Get(b"none"), GetMany((b"k", b"none")), Incr(b"n", -5))
    reply = store.say(Together(parts))
    response = response_to(reply)
    assert isinstance(response, Response)
    payloads = reply_in(response, Together.spec)
    assert isinstance(payloads, Items)
    assert payloads.values == (b"\0\0\0\x011", b"OK", b"v", None, b"\0\0\0\x01v\xff\xff\xff\xff", b"-5")
    assert replies_in(payloads, [part.spec for part in parts]) == reply


def test_every_command_on_keys_and_queues_can_be_a_part() -> None:
    refused = {spec.name for spec in BY_NUMBER.values() if spec.by_store or spec.scope is Scope.TABLE}
    for spec in BY_NUMBER.values():
        frame = bytes((0,)) + spec.number.to_bytes(2)
        with pytest.raises(ArgumentFault) as raised:
            Together.from_arguments([frame])
        assert (f"TOGETHER cannot contain {spec.name};" in raised.value.text) == (spec.name in refused)


@pytest.mark.parametrize("frame", [b"", bytes(2), b"\x00\xff\xff", b"\x02" + Get.spec.number.to_bytes(2)])
def test_other_strings_are_no_parts(frame: bytes) -> None:
    with pytest.raises(ArgumentFault, match="frame is the frame of a command on keys or queues"):
        Together.from_arguments([frame])
