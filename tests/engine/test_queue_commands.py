"""The commands on queues, one behaviour a test: order, groups, attempts, names, limits, time, bad input and cost."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from cairnkv.commands import (
    MISSING,
    OK,
    Ack,
    ArgumentFault,
    Code,
    Command,
    Extend,
    Failure,
    Items,
    Look,
    Nack,
    Peek,
    Purge,
    Put,
    PutMany,
    QueueDrop,
    Queues,
    QueueSet,
    QueueStats,
    Remove,
    Reply,
    Requeue,
    RequeueIds,
    Take,
    TakeAny,
    failures,
)
from cairnkv.engine import QueueDatabase, apply, queue_operations
from cairnkv.engine.queue_index import Turn, Turns
from cairnkv.engine.queue_records import BODY_INSIDE_MAX, Message, body_key, message_key, parsed_message
from cairnkv.limits import (
    DELAY_MAX,
    GROUP_PRIORITIES_MAX,
    INTEGER_MAX,
    LEASE_MAX,
    PRIORITY_MAX,
    QUEUE_NAME_MAX,
    REASON_MAX,
    STEPS_PER_TAKE,
    SWEPT_PER_COMMAND,
    TAKE_BYTES,
    TAKE_MAX,
)

START = 1_700_000_000_000

pytestmark = pytest.mark.usefixtures("path_in_use")


class CountingDatabase(QueueDatabase):
    """Counts the messages that commands read on the pure path."""

    def __init__(self) -> None:
        super().__init__()
        self.messages_read = 0

    def message(self, number: int) -> Message | None:
        self.messages_read += 1
        return super().message(number)


class Store:
    """The queues of a store, and a clock."""

    def __init__(self) -> None:
        self.queues = CountingDatabase()
        self.now = START

    def say(self, command: Command) -> Reply:
        return apply(self.queues, command, self.now)

    def put(self, body: bytes = b"", queue: bytes = b"q", **how: Any) -> int:
        reply = self.say(Put(queue, body, **how))
        assert isinstance(reply, Items), reply
        assert reply.values[1] == b"1"
        return int(reply.values[0] or b"")

    def taken(self, count: int = 1, queue: bytes = b"q", **how: Any) -> list[tuple[int, int]]:
        """Take messages; return their ids and leases."""
        reply = self.say(Take(queue, count, **how))
        assert isinstance(reply, Items)
        numbers = [int(value or b"") for at, value in enumerate(reply.values) if at % 7 < 2]
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def ids(self, count: int = 1, queue: bytes = b"q", **how: Any) -> list[int]:
        return [number for number, _ in self.taken(count, queue, **how)]

    def stats(self, queue: bytes = b"q") -> dict[str, str]:
        reply = self.say(QueueStats(queue))
        assert isinstance(reply, Items)
        texts = [(value or b"").decode() for value in reply.values]
        return dict(zip(texts[::2], texts[1::2], strict=True))

    def counts(self, *names: str, queue: bytes = b"q") -> tuple[int, ...]:
        stats = self.stats(queue)
        return tuple(int(stats[name]) for name in names)

    def look(self, message: int) -> dict[str, bytes | None]:
        reply = self.say(Look(message))
        assert isinstance(reply, Items)
        names = [
            "id",
            "queue",
            "state",
            "priority",
            "due",
            "lease",
            "attempts",
            "put_at",
            "expires",
            "group",
            "unique",
            "reason",
            "body",
        ]
        return dict(zip(names, reply.values, strict=True))

    def fails(self, command: Command, code: Code) -> None:
        """Assert that a command fails, and changes nothing."""
        before = sorted(self.queues._table)
        reply = self.say(command)
        assert isinstance(reply, Failure), reply
        assert reply.code is code
        assert sorted(self.queues._table) == before


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.queues.check()


# -- order -------------------------------------------------------------------------------------------------------------


def test_lower_priorities_are_taken_first_then_older_messages(store: Store) -> None:
    usual, later, first, second = (
        store.put(),
        store.put(priority=PRIORITY_MAX),
        store.put(priority=0),
        store.put(priority=0),
    )
    assert store.ids(4) == [first, second, usual, later]


def test_a_returned_message_comes_after_those_that_wait_longer(store: Store) -> None:
    first, second, third = (store.put() for _ in range(3))
    ((_, lease),) = store.taken()
    store.now += 1
    store.say(Nack(first, lease, delay=0))
    assert store.ids(3) == [second, third, first]


def test_a_group_of_many_messages_does_not_delay_a_group_of_one(store: Store) -> None:
    store.say(QueueSet(b"q"))
    many = [store.put(group=b"many") for _ in range(50)]
    alone = store.put(group=b"alone")
    without = store.put()
    assert set(store.ids(3)) == {many[0], alone, without}
    assert store.ids(2) == many[1:3]


def test_groups_take_turns(store: Store) -> None:
    for _ in range(3):
        for group in (b"a", b"b", b"c"):
            store.put(group, group=group)
    reply = store.say(Take(b"q", 9))
    assert isinstance(reply, Items)
    groups = reply.values[5::7]
    assert all(set(groups[at : at + 3]) == {b"a", b"b", b"c"} for at in (0, 3, 6))


def test_a_new_group_waits_for_one_round(store: Store) -> None:
    for group in (b"a", b"b", b"a", b"b", b"a", b"b"):
        store.put(group=group)
    store.taken(3)
    newcomer = store.put(group=b"new")
    assert newcomer in store.ids(3)


def test_per_group_limits_the_leases_of_each_group(store: Store) -> None:
    store.say(QueueSet(b"q", per_group=2))
    ours = [store.put(group=b"g", priority=priority) for priority in (5, 5, 0, 9)]
    other = store.put(group=b"h")
    free = [store.put(priority=PRIORITY_MAX) for _ in range(3)]
    taken = store.taken(10)
    assert {number for number, _ in taken} == {ours[2], ours[0], other, *free}
    assert store.ids(10) == []
    store.say(Ack(tuple(pair for pair in taken if pair[0] == ours[0])))
    assert store.ids(10) == [ours[1]]
    store.now += 60_000
    assert set(store.ids(10)) > {ours[2]}


def test_with_per_group_1_a_group_is_strictly_in_order(store: Store) -> None:
    store.say(QueueSet(b"q", per_group=1))
    first, second = store.put(group=b"g", delay=1_000), store.put(group=b"g")
    assert store.ids(5) == []
    store.now += 1_000
    ((number, lease),) = store.taken(5)
    assert number == first
    store.say(Nack(first, lease, delay=500))
    assert store.ids(5) == []
    store.now += 500
    ((number, lease),) = store.taken(5)
    assert number == first
    store.say(Ack(((first, lease),)))
    assert store.ids(5) == [second]


def test_with_per_group_1_a_dead_head_frees_its_group(store: Store) -> None:
    store.say(QueueSet(b"q", per_group=1, attempts=1))
    first, second = store.put(group=b"g"), store.put(group=b"g")
    assert store.ids() == [first]
    store.now += 60_000
    assert store.ids() == [second]
    assert store.look(first)["state"] == b"dead"


def test_a_requeued_message_of_an_ordered_group_has_no_priority(store: Store) -> None:
    dead = store.put(group=b"g", priority=9)
    ((number, lease),) = store.taken()
    store.say(Nack(number, lease, dead=True))
    store.say(QueueSet(b"q", per_group=1))
    store.put(group=b"g")
    assert store.say(RequeueIds((dead,))) == 1
    assert store.ids(5) == [dead]


def test_take_any_takes_from_the_first_queue_with_ready_messages(store: Store) -> None:
    store.put(queue=b"b", delay=1_000)
    number = store.put(b"body", queue=b"c")
    store.put(queue=b"d")
    reply = store.say(TakeAny(5, 0, 0, (b"a", b"b", b"c", b"d")))
    assert reply == Items((b"c", b"%d" % number, b"1", b"1", b"60000", b"%d" % START, b"", b"body"))
    store.now += 1_000
    reply = store.say(TakeAny(5, 77, 0, (b"a", b"b", b"c", b"d")))
    assert isinstance(reply, Items)
    assert (reply.values[0], reply.values[4]) == (b"b", b"77")


def test_a_paused_queue_gives_no_messages(store: Store) -> None:
    store.put()
    store.say(QueueSet(b"q", paused=1))
    assert store.ids() == []
    store.say(QueueSet(b"q", paused=0))
    assert len(store.ids()) == 1


# -- leases ------------------------------------------------------------------------------------------------------------


def test_numbers_of_leases_rise_over_all_queues(store: Store) -> None:
    for queue in (b"q", b"r"):
        for _ in range(3):
            store.put(queue=queue)
    leases = [lease for queue in (b"q", b"r", b"q", b"r") for _, lease in store.taken(1, queue)]
    store.now += 60_000
    leases += [lease for _, lease in store.taken(3)]
    assert leases == sorted(set(leases))


def test_an_older_lease_has_no_effect(store: Store) -> None:
    number = store.put()
    ((_, old),) = store.taken()
    store.now += 60_000
    ((_, new),) = store.taken()
    assert new > old
    assert store.say(Ack(((number, old),))) == Items((b"0",))
    assert store.say(Extend(1_000, ((number, old),))) == Items((b"0",))
    assert store.say(Nack(number, old)) == 0
    assert store.say(Ack(((number, new), (number, new)))) == Items((b"1", b"0"))


def test_an_ended_lease_can_acknowledge_until_another_take(store: Store) -> None:
    number = store.put()
    ((_, lease),) = store.taken()
    store.now += 60_000
    assert store.say(Extend(1_000, ((number, lease),))) == Items((b"0",))
    assert store.say(Ack(((number, lease),))) == Items((b"1",))


def test_the_time_of_a_lease_is_of_take_then_message_then_queue(store: Store) -> None:
    store.say(QueueSet(b"q", lease=3))
    store.put(lease=2)
    store.put()
    reply = store.say(Take(b"q", 2))
    assert isinstance(reply, Items)
    assert reply.values[3::7] == (b"2", b"3")
    store.now += 3
    reply = store.say(Take(b"q", 2, lease=1))
    assert isinstance(reply, Items)
    assert reply.values[3::7] == (b"1", b"1")


def test_extend_counts_from_now(store: Store) -> None:
    number = store.put()
    ((_, lease),) = store.taken(lease=1_000)
    store.now += 999
    assert store.say(Extend(1_000, ((number, lease), (99, 1)))) == Items((b"1", b"0"))
    store.now += 999
    assert store.ids() == []
    store.now += 1
    assert store.ids() == [number]


def test_a_clock_that_jumps_back_ends_no_lease(store: Store) -> None:
    number = store.put()
    store.taken(lease=1_000)
    store.now -= 3_600_000
    assert store.ids() == []
    assert store.look(number)["state"] == b"leased"
    store.now = START + 1_000
    assert store.ids() == [number]


def test_leases_and_delays_count_elapsed_time_while_log_time_is_ahead(store: Store) -> None:
    """Log time that is an hour ahead of the clock advances at half speed, until they meet."""
    store.queues.shared.lead = 3_600_000
    store.put(delay=1_000)
    store.now += 499
    assert store.ids() == []
    store.now += 1
    ((number, _),) = store.taken(lease=2_000)
    store.now += 999
    assert store.ids() == []
    assert int(store.look(number)["due"] or b"") == store.now - 3_600_000 + 2
    store.now += 1
    assert store.ids() == [number]


# -- attempts ----------------------------------------------------------------------------------------------------------


def test_a_message_without_attempts_left_dies_in_the_next_take(store: Store) -> None:
    store.say(QueueSet(b"q", attempts=2))
    number = store.put()
    for _ in range(2):
        assert store.ids() == [number]
        store.now += 60_000
    assert store.counts("ready", "dead") == (1, 0)
    assert store.ids() == []
    assert store.counts("ready", "dead", "died", "taken") == (0, 1, 1, 2)
    assert store.look(number)["attempts"] == b"2"


def test_a_nack_of_the_last_attempt_makes_a_message_dead(store: Store) -> None:
    store.say(QueueSet(b"q", attempts=1))
    number = store.put()
    ((_, lease),) = store.taken()
    assert store.say(Nack(number, lease, reason=b"bad")) == 1
    assert (store.look(number)["state"], store.look(number)["reason"]) == (b"dead", b"bad")
    assert store.say(Ack(((number, lease),))) == Items((b"0",))


def test_an_uncounted_nack_returns_a_message_at_once(store: Store) -> None:
    store.say(QueueSet(b"q", attempts=1))
    number = store.put()
    for _ in range(3):
        ((_, lease),) = store.taken()
        assert store.say(Nack(number, lease, uncounted=True)) == 1
    assert store.counts("ready", "dead") == (1, 0)


def test_backoff_grows_to_its_maximum_and_differs_between_messages(store: Store) -> None:
    store.say(QueueSet(b"q", attempts=50, backoff=1_000, factor=2, backoff_max=8_000))
    number = store.put()
    for full in (1_000, 2_000, 4_000, 8_000, 8_000):
        ((_, lease),) = store.taken()
        store.say(Nack(number, lease))
        delay = int(store.look(number)["due"] or b"") - store.now
        assert full // 2 <= delay <= full
        store.now += delay
    delays = {queue_operations.backoff(number, 1, 1_000, 2, 8_000) for number in range(100)}
    assert len(delays) > 50


@pytest.mark.parametrize(("first", "factor", "most"), [(0, 100, 0), (0, 2, DELAY_MAX), (5, 1, 5), (DELAY_MAX, 100, 1)])
def test_backoff_of_extreme_settings_is_bounded(first: int, factor: int, most: int) -> None:
    for attempts in (1, 2, 1_000_000):
        assert 0 <= queue_operations.backoff(1, attempts, first, factor, most) <= most


def test_dead_messages_are_limited_and_expire(store: Store) -> None:
    store.say(QueueSet(b"q", dead_max=2, dead_age=1_000))
    numbers = [store.put() for _ in range(4)]
    for number, lease in store.taken(4):
        store.say(Nack(number, lease, dead=True))
    assert store.counts("dead", "died", "dropped") == (2, 4, 2)
    assert store.say(Look(numbers[1])) is MISSING
    store.now += 1_000
    assert store.counts("dead", "expired") == (0, 2)
    assert store.say(Requeue(b"q", b"dead", 5)) == 0


def test_requeue_makes_dead_and_delayed_messages_ready(store: Store) -> None:
    dead, delayed = store.put(unique=b"n"), store.put(delay=9_000)
    ((_, lease),) = store.taken()
    store.say(Nack(dead, lease, dead=True))
    assert store.say(Put(b"q", b"", unique=b"n", delay=9_000)) == Items((b"4", b"1"))
    assert store.say(Requeue(b"q", b"dead", 10)) == 1
    assert store.say(RequeueIds((delayed, delayed, dead, 99))) == 1
    assert store.ids(5) == [dead, delayed]
    assert store.look(dead)["attempts"] == b"1"
    assert store.counts("requeued", "delayed") == (2, 1)


# -- names -------------------------------------------------------------------------------------------------------------


def test_a_name_is_taken_until_its_message_is_deleted_or_dead(store: Store) -> None:
    first = store.put(unique=b"n")
    again = Put(b"q", b"", unique=b"n")
    assert store.say(again) == Items((b"%d" % first, b"0"))
    ((_, lease),) = store.taken()
    assert store.say(again) == Items((b"%d" % first, b"0"))
    store.put(queue=b"other", unique=b"n")
    store.say(Ack(((first, lease),)))
    second = store.put(unique=b"n")
    store.say(Remove((second,)))
    third = store.put(unique=b"n")
    ((_, lease),) = store.taken()
    store.say(Nack(third, lease, dead=True))
    store.put(unique=b"n")


def test_a_name_can_be_taken_for_a_time_in_any_case(store: Store) -> None:
    first = store.put(unique=b"n", unique_for=1_000)
    ((_, lease),) = store.taken()
    store.say(Ack(((first, lease),)))
    store.now += 999
    assert store.say(Put(b"q", b"", unique=b"n")) == Items((b"%d" % first, b"0"))
    store.now += 1
    store.put(unique=b"n")


def test_a_name_until_taken_is_free_after_the_first_take(store: Store) -> None:
    store.put(unique=b"n", until_taken=True)
    assert store.say(Put(b"q", b"", unique=b"n")) == Items((b"2", b"0"))
    assert store.ids() == [2]
    second = store.put(unique=b"n", until_taken=True)
    store.now += 60_000
    assert store.ids(2) == [second, 2]
    store.put(unique=b"n")


def test_a_name_of_an_expired_message_is_free(store: Store) -> None:
    store.put(unique=b"n", expires=10)
    store.now += 10
    store.put(unique=b"n")
    assert store.counts("ready", "expired", "put") == (1, 1, 2)


def test_expired_names_free_their_memory(store: Store) -> None:
    before = store.queues.used_bytes
    number = store.put(unique=b"n", unique_for=1_000)
    store.say(Remove((number,)))
    store.now += 10_000
    store.put()
    for key in store.queues.expired(10):
        store.queues.free_expired(key)
    store.say(Purge(b"q", b"all", 0))
    store.say(QueueDrop(b"q"))
    assert store.queues.count() == 1  # the counters
    assert store.queues.used_bytes - before < 200


# -- limits of a queue -------------------------------------------------------------------------------------------------


def test_a_queue_at_its_limit_of_messages_refuses_put(store: Store) -> None:
    store.say(QueueSet(b"q", max_messages=3))
    store.say(PutMany(b"q", 0, 0, (b"", b"")))
    store.fails(PutMany(b"q", 0, 0, (b"", b"")), failures.QUEUEFULL)
    store.put(delay=10)
    store.fails(Put(b"q", b""), failures.QUEUEFULL)
    ((number, lease),) = store.taken()
    store.fails(Put(b"q", b""), failures.QUEUEFULL)
    store.say(Nack(number, lease, dead=True))
    store.put()


def test_a_queue_at_its_limit_of_bytes_refuses_put(store: Store) -> None:
    store.say(QueueSet(b"q", max_bytes=10))
    store.put(bytes(9))
    store.fails(Put(b"q", bytes(2)), failures.QUEUEFULL)
    store.put(bytes(1))
    assert store.counts("bytes") == (10,)


def test_expired_messages_do_not_fill_a_queue(store: Store) -> None:
    store.say(QueueSet(b"q", max_messages=2))
    for _ in range(2):
        store.put(expires=10)
    store.now += 10
    store.put()
    assert store.counts("ready", "expired") == (1, 2)


def test_bytes_of_expired_messages_do_not_fill_a_queue(store: Store) -> None:
    store.say(QueueSet(b"q", max_bytes=10))
    for _ in range(2):
        store.put(bytes(5), expires=10)
    store.fails(Put(b"q", bytes(10)), failures.QUEUEFULL)
    store.now += 10
    store.put(bytes(10))
    store.fails(Put(b"q", b"1"), failures.QUEUEFULL)


def test_a_full_queue_can_drop_its_oldest_messages(store: Store) -> None:
    store.say(QueueSet(b"q", max_messages=3, max_bytes=100, when_full=b"drop"))
    leased, second, third = (store.put() for _ in range(3))
    assert store.ids() == [leased]
    store.put()
    assert store.say(Look(second)) is MISSING
    store.put(bytes(100))
    assert store.counts("ready", "leased", "dropped") == (2, 1, 2)
    assert store.say(Look(third)) is MISSING
    store.fails(Put(b"q", bytes(101)), failures.QUEUEFULL)


def test_dropped_expired_messages_make_no_room(store: Store) -> None:
    store.say(QueueSet(b"q", max_messages=2, when_full=b"drop"))
    store.put(expires=10)
    kept = [store.put()]
    store.now += 10
    kept.append(store.put())
    kept.append(store.put())
    assert store.ids(5) == kept[1:]


def test_messages_expire_after_the_age_of_their_queue(store: Store) -> None:
    store.say(QueueSet(b"q", max_age=1_000))
    for expires in (None, 500, 5_000):
        store.put(expires=expires)
    store.now += 500
    assert store.counts("ready", "expired") == (2, 1)
    store.now += 500
    assert store.counts("ready", "expired", "bytes") == (0, 3, 0)
    assert store.ids() == []


def test_a_leased_or_delayed_message_does_not_expire(store: Store) -> None:
    leased = store.put(expires=1_000)
    ((_, lease),) = store.taken(lease=5_000)
    delayed = store.put(expires=1_000, delay=2_000)
    store.now += 1_999
    assert store.counts("leased", "delayed", "expired") == (1, 1, 0)
    assert store.say(Look(delayed)) is not MISSING
    store.now += 1
    assert store.counts("delayed", "expired") == (0, 1)
    assert store.say(Nack(leased, lease, delay=0)) == 1
    assert store.say(Look(leased)) is MISSING
    assert store.counts("ready", "expired") == (0, 2)


def test_a_new_queue_replaces_the_queue_unused_for_longest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_operations, "QUEUES_MAX", 3)
    for name in (b"a", b"b", b"c"):
        ((number, lease),) = [*store.taken(queue=name)] or [(store.put(queue=name), 0)]
        if name != b"c":
            store.say(Remove((number,)))
        assert lease == 0
        store.now += 1
    store.say(QueueSet(b"b"))
    assert store.say(Queues(0, 10)) == Items((b"0", b"a", b"b", b"c"))
    store.put(queue=b"d")
    assert store.say(Queues(0, 10)) == Items((b"0", b"b", b"c", b"d"))
    store.fails(Put(b"e", b""), failures.QUEUEFULL)
    store.fails(QueueSet(b"e"), failures.QUEUEFULL)
    assert store.say(QueueDrop(b"b")) is OK
    store.put(queue=b"e")


def test_names_of_queues_come_in_slices(store: Store) -> None:
    for name in (b"c", b"a", b"b"):
        store.put(queue=name)
    first = store.say(Queues(0, 2))
    assert isinstance(first, Items)
    assert first.values[1:] == (b"c", b"a")
    assert store.say(Queues(int(first.values[0] or b""), 2)) == Items((b"0", b"b"))


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        Put(b"q", b"", unique_for=5),
        Put(b"q", b"", until_taken=True),
        Put(b"q", b"", at=START + DELAY_MAX + 1),
        Put(b"ordered", b"", group=b"g", priority=1),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused(store: Store, command: Command) -> None:
    store.say(QueueSet(b"ordered", per_group=1))
    store.fails(command, failures.BADARGS)


def test_priority_of_a_message_in_an_ordered_group_is_refused(store: Store) -> None:
    store.say(QueueSet(b"q", per_group=1))
    number = store.put(group=b"g")
    ((_, lease),) = store.taken()
    store.fails(Nack(number, lease, priority=1), failures.BADARGS)


def test_a_group_with_limited_leases_has_a_limited_number_of_priorities(store: Store) -> None:
    store.say(QueueSet(b"q", per_group=2))
    for priority in range(GROUP_PRIORITIES_MAX):
        number = store.put(group=b"g", priority=priority)
    store.fails(Put(b"q", b"", group=b"g", priority=PRIORITY_MAX), failures.BADARGS)
    store.put(group=b"g", priority=0)
    store.put(group=b"h", priority=PRIORITY_MAX)
    store.say(Remove((number,)))
    store.put(group=b"g", priority=PRIORITY_MAX)
    ((number, lease),) = store.taken()
    store.fails(Nack(number, lease, priority=PRIORITY_MAX - 1), failures.BADARGS)
    assert store.say(Nack(number, lease, priority=PRIORITY_MAX)) == 1


@pytest.mark.parametrize(
    "command",
    [
        Peek(b"none", b"ready", 0, 1),
        Requeue(b"none", b"dead", 1),
        Purge(b"none", b"all", 0),
        QueueStats(b"none"),
        QueueDrop(b"none"),
    ],
    ids=str,
)
def test_an_unknown_queue_is_an_error(store: Store, command: Command) -> None:
    store.fails(command, failures.NOQUEUE)


def test_an_unknown_queue_has_no_messages(store: Store) -> None:
    assert store.say(Take(b"none", 1)) == Items(())
    assert store.say(TakeAny(1, 0, 0, (b"none", b"nothing"))) == Items(())
    assert store.say(Ack(((1, 1),))) == Items((b"0",))
    assert store.say(Nack(1, 1)) == 0
    assert store.say(Remove((1, 2))) == 0
    assert store.say(Look(1)) is MISSING
    assert store.say(Queues(0, 1)) == Items((b"0",))
    assert store.queues.count() == 0


def test_a_queue_with_messages_keeps_its_order_and_its_record(store: Store) -> None:
    store.put(group=b"g")
    store.fails(QueueSet(b"q", per_group=1), failures.QUEUEBUSY)
    assert store.say(QueueSet(b"q", per_group=0)) is OK
    store.fails(QueueDrop(b"q"), failures.QUEUEBUSY)


def test_a_queue_of_expired_messages_can_be_deleted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        store.put(expires=1, group=b"g", unique=None)
    store.now += 1
    with monkeypatch.context() as patch:
        patch.setattr(queue_operations, "TAKE_MAX", 2)
        store.fails(QueueDrop(b"q"), failures.QUEUEBUSY)
    assert store.say(QueueDrop(b"q")) is OK
    assert store.queues.count() == 1  # the counters


@pytest.mark.parametrize(
    ("command", "strings"),
    [
        (Put, [b"", b"body"]),
        (Put, [b"q" * (QUEUE_NAME_MAX + 1), b"body"]),
        (Put, [b"q", b"body", b"GROUP", b""]),
        (Put, [b"q", b"body", b"UNIQUE", b"n" * (QUEUE_NAME_MAX + 1)]),
        (Put, [b"q", b"body", b"DELAY", b"%d" % (DELAY_MAX + 1)]),
        (Put, [b"q", b"body", b"DELAY", b"1", b"AT", b"1"]),
        (Put, [b"q", b"body", b"PRIORITY", b"%d" % (PRIORITY_MAX + 1)]),
        (Put, [b"q", b"body", b"LEASE", b"%d" % (LEASE_MAX + 1)]),
        (Put, [b"q", b"body", b"EXPIRES", b"0"]),
        (PutMany, [b"q", b"0", b"0"]),
        (PutMany, [b"q", b"0", b"0", *[b""] * (TAKE_MAX + 1)]),
        (Take, [b"q", b"0"]),
        (Take, [b"q", b"%d" % (TAKE_MAX + 1)]),
        (TakeAny, [b"1", b"0", *[b"q"] * (TAKE_MAX + 1)]),
        (Ack, [b"1"]),
        (Ack, [b"1", b"0"]),
        (Ack, [b"1", b"1"] * (TAKE_MAX + 1)),
        (Nack, [b"1", b"1", b"DEAD", b"DELAY", b"1"]),
        (Nack, [b"1", b"1", b"REASON", bytes(REASON_MAX + 1)]),
        (Peek, [b"q", b"waiting", b"0", b"1"]),
        (Peek, [b"q", b"all", b"0", b"1"]),
        (Requeue, [b"q", b"leased", b"1"]),
        (QueueSet, [b"q", b"WHENFULL", b"block"]),
        (QueueSet, [b"q", b"PAUSED", b"2"]),
        (QueueSet, [b"q", b"ATTEMPTS", b"0"]),
    ],
)
def test_arguments_outside_their_limits_do_not_parse(command: type[Command], strings: list[bytes]) -> None:
    with pytest.raises(ArgumentFault) as raised:
        command.from_arguments(strings)
    assert raised.value.code is failures.BADARGS


def test_arguments_at_their_limits_work(store: Store) -> None:
    name = b"n" * QUEUE_NAME_MAX
    strings = [name, b"", b"GROUP", name, b"UNIQUE", name, b"DELAY", b"%d" % DELAY_MAX, b"PRIORITY", b"4294967295"]
    assert store.say(Put.from_arguments(strings)) == Items((b"2", b"1"))
    store.now += DELAY_MAX
    ((number, lease),) = store.taken(queue=name, lease=LEASE_MAX)
    assert store.say(Nack(number, lease, delay=DELAY_MAX, reason=bytes(REASON_MAX))) == 1
    assert store.look(number)["reason"] == bytes(REASON_MAX)
    assert store.say(PutMany.from_arguments([b"q", b"0", b"0", *[b""] * TAKE_MAX])) == Items((b"4", b"1000"))
    assert len(store.taken(TAKE_MAX)) == TAKE_MAX


# -- looking -----------------------------------------------------------------------------------------------------------


def test_peek_shows_messages_in_a_state_in_slices(store: Store) -> None:
    store.put(b"leased")
    store.taken()
    store.put(b"delayed", delay=1_000)
    store.put(b"one")
    store.put(b"two")
    for state, bodies in ((b"leased", [b"leased"]), (b"delayed", [b"delayed"]), (b"ready", [b"one", b"two"])):
        cursor = 0
        found: list[bytes | None] = []
        while True:
            reply = store.say(Peek(b"q", state, cursor, 1))
            assert isinstance(reply, Items)
            found += reply.values[13::13]
            cursor = int(reply.values[0] or b"")
            if not cursor:
                break
        assert found == bodies


def test_long_bodies_end_a_reply_early(store: Store) -> None:
    for _ in range(3):
        store.put(bytes(TAKE_BYTES // 2))
    store.put(bytes(2 * TAKE_BYTES))
    reply = store.say(Peek(b"q", b"ready", 0, 10))
    assert isinstance(reply, Items)
    assert (reply.values[0], len(reply.values)) == (b"3", 1 + 2 * 13)
    assert len(store.ids(10)) == 2
    assert len(store.ids(10)) == 1
    assert len(store.ids(10)) == 1


def test_purge_deletes_messages_in_a_state(store: Store) -> None:
    for number, lease in [store.taken(1)[0] for _ in range(2) if store.put()]:
        store.say(Nack(number, lease, dead=True))
    kept = store.put(delay=10)
    store.put(unique=b"n", group=b"g")
    assert store.say(Purge(b"q", b"dead", 0)) == Items((b"0", b"2"))
    assert store.say(Purge(b"q", b"ready", 0)) == Items((b"0", b"1"))
    assert store.counts("delayed", "ready", "dead", "removed") == (1, 0, 0, 3)
    store.put(unique=b"n")
    assert store.say(Purge(b"q", b"all", kept)) == Items((b"0", b"1"))
    assert store.say(Purge(b"q", b"all", 0)) == Items((b"0", b"1"))


def test_purge_works_in_slices(store: Store) -> None:
    for _ in range(2):
        store.say(PutMany(b"q", 0, 0, (b"",) * TAKE_MAX))
    store.put()
    reply = store.say(Purge(b"q", b"all", 0))
    assert reply == Items((b"%d" % (TAKE_MAX + 1), b"%d" % TAKE_MAX))
    reply = store.say(Purge(b"q", b"all", TAKE_MAX + 1))
    assert isinstance(reply, Items)
    assert store.say(Purge(b"q", b"all", int(reply.values[0] or b""))) == Items((b"0", b"1"))


# -- cost --------------------------------------------------------------------------------------------------------------


MANY = 5_000


def messages_read(store: Store, command: Command) -> int:
    before = store.queues.messages_read
    store.say(command)
    return store.queues.messages_read - before


def fill(store: Store, count: int = MANY, **how: Any) -> None:
    store.queues.native = None  # only the pure path counts
    for number in range(count):
        store.put(**{name: value(number) if callable(value) else value for name, value in how.items()})


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"delay": lambda number: number},
        {"priority": lambda number: number},
        {"group": lambda number: b"%d" % number},
        {"group": lambda number: b"%d" % number, "delay": 60_000, "priority": lambda number: number},
    ],
    ids=["ready", "delayed", "priorities", "groups", "delayed groups with priorities"],
)
def test_commands_read_only_the_messages_that_they_return(store: Store, how: dict[str, Any]) -> None:
    fill(store, **how)
    store.now += 1
    assert messages_read(store, QueueStats(b"q")) == 0
    assert messages_read(store, Take(b"q", 3)) <= 3
    assert messages_read(store, Put(b"q", b"")) == 0
    assert messages_read(store, Ack(((2, 1),))) == 1
    assert messages_read(store, Peek(b"q", b"ready", 0, 7)) == 7


def test_ended_leases_cost_nothing_until_their_messages_are_taken(store: Store) -> None:
    fill(store)
    for _ in range(MANY // TAKE_MAX):
        assert len(store.ids(TAKE_MAX)) == TAKE_MAX
    store.now += 60_000
    assert messages_read(store, Take(b"q", 1)) == 1
    assert messages_read(store, QueueStats(b"q")) == 0
    assert messages_read(store, Put(b"q", b"")) == 0
    assert store.counts("ready", "leased") == (MANY, 1)


def test_a_command_removes_a_bounded_number_of_expired_messages(store: Store) -> None:
    fill(store, expires=10)
    store.now += 10
    assert store.counts("ready", "expired") == (0, MANY)
    assert messages_read(store, Put(b"q", b"")) == SWEPT_PER_COMMAND
    assert store.queues.index.messages == MANY - SWEPT_PER_COMMAND + 1
    assert messages_read(store, Take(b"q", 1)) <= SWEPT_PER_COMMAND + STEPS_PER_TAKE + 1
    assert store.counts("expired") == (MANY,)
    for _ in range(5):
        store.taken()
    assert store.counts("ready", "leased", "expired") == (0, 1, MANY)


def test_a_take_makes_a_bounded_number_of_messages_dead(store: Store) -> None:
    store.say(QueueSet(b"q", attempts=1))
    fill(store, 3 * STEPS_PER_TAKE)
    while store.ids(TAKE_MAX):
        pass
    store.now += 60_000
    number = store.put()
    assert messages_read(store, Take(b"q", 1)) == STEPS_PER_TAKE + 1
    takes = list(itertools.takewhile(lambda ids: ids != [number], (store.ids() for _ in range(9))))
    assert takes == [[], []] or takes == [[]]
    assert store.counts("dead") == (3 * STEPS_PER_TAKE,)


def test_the_first_ready_turn_is_found_chunk_by_chunk() -> None:
    turns = Turns()
    every = [Turn(0, number, b"%d" % number, 1_000_000 if number != 7_777 else 5) for number in range(10_000)]
    for turn in every:
        turns.add(turn)
    assert list(turns) == every
    assert turns.first(4) is None
    assert turns.first(5) == every[7_777]
    for turn in every[::2]:
        turns.remove(turn)
    assert list(turns) == every[1::2]
    turns.remove(every[7_777])
    assert turns.first(999_999) is None
    assert turns.first(1_000_000) == every[1]


def test_the_greatest_cursor_has_no_messages_after_it(store: Store) -> None:
    store.put()
    assert store.say(Peek(b"q", b"ready", INTEGER_MAX, 10)) == Items((b"0",))
    assert store.say(Purge(b"q", b"all", INTEGER_MAX)) == Items((b"0", b"0"))
    assert store.say(Queues(INTEGER_MAX, 10)) == Items((b"0",))


def test_leases_have_the_same_order_after_a_restart(store: Store) -> None:
    for name in (b"b", b"a"):
        store.say(Put(name, b""))
        store.say(Take(name, 1))
    restored = QueueDatabase()
    for key, value, expiry in sorted(store.queues._table, key=lambda entry: (entry[0][:1] != b"q", entry[0])):
        restored.load(key, value, expiry)
    for count in (1, 2):
        assert restored.leases(store.now, count) == store.queues.leases(store.now, count)


# -- records -----------------------------------------------------------------------------------------------------------


def test_records_of_messages_are_small_and_complete(store: Store) -> None:
    number = store.put(
        b"body", group=b"g", unique=b"n", unique_for=7, expires=9, lease=11, priority=3, until_taken=True
    )
    record = store.queues.get(message_key(number))
    assert record is not None
    message = parsed_message(record)
    assert message.packed() == record
    assert (message.group, message.unique, message.priority, message.lease_ms, message.size) == (b"g", b"n", 3, 11, 4)
    assert message.until_taken
    assert len(record) < 80
    assert (message.body, message.new) == (b"body", True)
    assert not store.queues.has(body_key(number))


@pytest.mark.parametrize("length", [BODY_INSIDE_MAX, BODY_INSIDE_MAX + 1])
def test_a_long_body_has_a_record_of_its_own(store: Store, length: int) -> None:
    number = store.put(bytes(length))
    assert store.queues.has(body_key(number)) == (length > BODY_INSIDE_MAX)
    store.now += 1
    ((_, lease),) = store.taken()
    assert store.look(number)["body"] == bytes(length)
    record = store.queues.get(message_key(number))
    assert record is not None
    assert not parsed_message(record).new
    assert store.say(Ack(((number, lease),))) == Items((b"1",))
    assert not store.queues.has(body_key(number))


@pytest.mark.parametrize("length", [0, 10, 66, 100])
def test_a_damaged_record_of_a_message_is_refused(store: Store, length: int) -> None:
    record = store.queues.get(message_key(store.put()))
    assert record is not None
    with pytest.raises(ValueError, match="a message"):
        parsed_message(record[:length].ljust(length, b"x"))
