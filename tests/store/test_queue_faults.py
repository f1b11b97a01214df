"""Bad input and faults of queues, in each mode: each has a defined result, and nothing is lost."""

import pytest

from cairnkv.commands import (
    MISSING,
    OK,
    Ack,
    Command,
    Extend,
    Failure,
    Look,
    Nack,
    Peek,
    Purge,
    Put,
    PutMany,
    QueueDrop,
    QueueSet,
    QueueStats,
    Remove,
    Requeue,
    RequeueIds,
    Take,
    TakeAny,
    failures,
)
from cairnkv.limits import ATTEMPTS_DEFAULT, TAKE_MAX
from tests.support.clock import HandClock
from tests.support.store_modes import MODES, StoreInMode

LEASE = 60_000
MANY = 10_000
MILLION = 1_000_000


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=MODES)
def store(request: pytest.FixtureRequest, clock: HandClock) -> StoreInMode:
    return StoreInMode(request.param, clock)


def fails(store: StoreInMode, command: Command) -> str:
    reply = store.say(command)
    assert isinstance(reply, Failure), reply
    return reply.code.name


def test_stale_tokens_change_nothing(store: StoreInMode, clock: HandClock) -> None:
    store.say(Put(b"q", b"body"))
    ((number, old),) = store.taken()
    clock.advance(LEASE)
    ((_, new),) = store.taken()
    before = store.strings(Look(number))
    for lease in (old, new + 1):
        assert store.strings(Ack(((number, lease),))) == (b"0",)
        assert store.say(Nack(number, lease, dead=True)) == 0
        assert store.strings(Extend(LEASE, ((number, lease),))) == (b"0",)
    assert store.strings(Look(number)) == before
    assert store.strings(Ack(((number, new),))) == (b"1",)
    assert store.strings(Ack(((number, new),))) == (b"0",)


def test_unknown_queues_and_ids(store: StoreInMode) -> None:
    store.say(Put(b"q", b"body"))
    assert store.strings(Take(b"none", 1)) == store.strings(TakeAny(1, 0, 0, (b"none", b"nothing"))) == ()
    for command in (
        Peek(b"none", b"ready", 0, 1),
        Requeue(b"none", b"dead", 1),
        Purge(b"none", b"all", 0),
        QueueStats(b"none"),
        QueueDrop(b"none"),
    ):
        assert fails(store, command) == failures.NOQUEUE.name
    assert store.say(Look(99)) is MISSING
    assert store.strings(Ack(((99, 1),))) == store.strings(Extend(1, ((99, 1),))) == (b"0",)
    assert store.say(Nack(99, 1)) == store.say(Remove((99,))) == store.say(RequeueIds((99,))) == 0
    assert store.stats()["ready"] == 1


def test_worker_that_dies_with_ten_thousand_leases(store: StoreInMode, clock: HandClock) -> None:
    for _ in range(MANY // TAKE_MAX):
        store.say(PutMany(b"q", 0, 9, (b"body",) * TAKE_MAX))
    first = [lease for _ in range(MANY // TAKE_MAX) for lease in store.taken(TAKE_MAX)]
    clock.advance(LEASE - 1)
    assert store.taken() == []
    clock.advance(1)
    assert (store.stats()["ready"], store.stats()["leased"]) == (MANY, 0)
    second = [lease for _ in range(MANY // TAKE_MAX) for lease in store.taken(TAKE_MAX)]
    assert [number for number, _ in second] == [number for number, _ in first]
    assert min(lease for _, lease in second) > max(lease for _, lease in first)
    assert store.strings(Ack(tuple(first[:TAKE_MAX]))) == (b"0",) * TAKE_MAX
    assert store.strings(Ack(tuple(second[:TAKE_MAX]))) == (b"1",) * TAKE_MAX


def test_poison_message_dies_after_its_attempts_and_stays(store: StoreInMode, clock: HandClock) -> None:
    store.say(Put(b"q", b"poison"))
    for attempt in range(ATTEMPTS_DEFAULT):
        ((number, lease),) = store.taken()
        if attempt % 2:
            assert store.say(Nack(number, lease, delay=0, reason=b"bad")) == 1
        else:
            clock.advance(LEASE)  # the worker died
    assert store.taken() == []
    assert (store.stats()["dead"], store.stats()["died"]) == (1, 1)
    strings = store.strings(Look(number))
    assert (strings[2], strings[6], strings[11], strings[12]) == (b"dead", b"%d" % ATTEMPTS_DEFAULT, b"bad", b"poison")
    assert store.say(RequeueIds((number,))) == 1
    assert [taken for taken, _ in store.taken()] == [number]


def test_queue_at_its_limit_refuses_and_loses_nothing(store: StoreInMode) -> None:
    assert store.say(QueueSet(b"q", max_messages=2)) is OK
    store.say(PutMany(b"q", 0, 9, (b"a", b"b")))
    assert fails(store, Put(b"q", b"c")) == failures.QUEUEFULL.name
    assert fails(store, PutMany(b"q", 0, 9, (b"c",))) == failures.QUEUEFULL.name
    (lease, _) = store.taken(2)
    assert store.strings(Ack((lease,))) == (b"1",)
    assert store.strings(Put(b"q", b"c"))[1] == b"1"


def test_group_of_many_messages_beside_one_with_one(path_in_use: str) -> None:
    store = StoreInMode("in memory", HandClock())
    put = Put(b"q", b"", group=b"many")
    for _ in range(MILLION if path_in_use == "native" else 2 * MANY):
        store.say(put)
    alone = int(store.strings(Put(b"q", b"", group=b"alone"))[0])
    assert alone in [number for number, _ in store.taken(2)]


def test_lost_reply_of_a_take_costs_one_lease(store: StoreInMode, clock: HandClock) -> None:
    store.say(PutMany(b"q", 0, 9, (b"a", b"b")))
    ((lost, _),) = store.taken()
    ((other, lease),) = store.taken()
    assert store.strings(Ack(((other, lease),))) == (b"1",)
    clock.advance(LEASE)
    assert [number for number, _ in store.taken()] == [lost]


def test_put_with_a_unique_name_is_repeatable(store: StoreInMode) -> None:
    first = store.strings(Put(b"q", b"body", unique=b"n", unique_for=LEASE))
    assert store.strings(Put(b"q", b"body", unique=b"n", unique_for=LEASE)) == (first[0], b"0")
    assert store.stats()["ready"] == 1
