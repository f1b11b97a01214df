"""TAKE commands that wait at the nodes of a simulated cluster."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import (
    OK,
    Ack,
    Command,
    Failure,
    Get,
    Items,
    Look,
    Nack,
    Put,
    PutMany,
    QueueSet,
    QueueStats,
    Set,
    Step,
    Take,
    TakeAny,
    Together,
    failures,
)
from cairnkv.limits import WAIT_MAX, WAITERS_MAX
from cairnkv.replication.entries import items, parsed
from cairnkv.replication.waiting import AHEAD_PAUSE, LOSS_MAX
from cairnkv.store import PendingReply, Waiter
from cairnkv.store.waiters import returns_of
from tests.replication.test_queues import taken, tell
from tests.replication.test_sessions import client_of
from tests.replication.test_store import restart, said, settled, transacted
from tests.support.simulated import Cluster, Node

NOTHING = Items(())


def waiting(node: Node, command: Command | None = None) -> Waiter:
    """Begin a TAKE that waits."""
    waiter = Waiter(command or Take(b"q", 1, wait=WAIT_MAX))
    node.running.begin_take(waiter)
    return waiter


def bodies(waiter: Waiter) -> list[bytes]:
    """Return the bodies in the reply to a TAKE."""
    assert isinstance(waiter.reply, Items), waiter.reply
    return [value or b"" for value in waiter.reply.values[6::7]]


def lease_of(waiter: Waiter) -> tuple[int, int]:
    """Return the id and the lease of the only message in the reply to a TAKE."""
    assert isinstance(waiter.reply, Items), waiter.reply
    return int(waiter.reply.values[0] or 0), int(waiter.reply.values[1] or 0)


def code(waiter: Waiter) -> str:
    """Return the code of the failure of a TAKE."""
    assert isinstance(waiter.reply, Failure), waiter.reply
    return waiter.reply.code.name


def counts(cluster: Cluster, node: Node) -> list[int]:
    """Return the ready, delayed, leased and dead messages."""
    reply = tell(cluster, node, QueueStats(b"q"))
    assert isinstance(reply, Items)
    return [int(value or 0) for value in reply.values[1:9:2]]


def attempts(cluster: Cluster, node: Node, message: int) -> int:
    """Return the number of counted attempts of a message."""
    reply = tell(cluster, node, Look(message))
    assert isinstance(reply, Items)
    return int(reply.values[6] or 0)


def items_since(cluster: Cluster, position: int) -> int:
    """Return the number of items in the entries after a position."""
    return sum(len(list(items(parsed(data).body))) for data in cluster.stream[position:])


def pass_time(cluster: Cluster, milliseconds: int) -> None:
    """Let time pass, with the timers of all nodes."""
    cluster.now += milliseconds / 1000
    for node in cluster.nodes:
        node.tick()
    cluster.settle()


@pytest.fixture
def cluster() -> Cluster:
    """A cluster of three nodes."""
    return settled()


# -- the events that end a wait ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1])
def test_put_at_any_node_ends_a_wait(cluster: Cluster, at: int) -> None:
    waiter = waiting(cluster.nodes[0])
    cluster.settle()
    assert waiter.reply is None
    tell(cluster, cluster.nodes[at], Put(b"other", b"not this one"))
    assert waiter.reply is None
    tell(cluster, cluster.nodes[at], Put(b"q", b"work"))
    assert bodies(waiter) == [b"work"]
    assert counts(cluster, cluster.nodes[2]) == [0, 0, 1, 0]


@pytest.mark.parametrize("whole", [False, True])
def test_put_has_the_take_of_a_waiter_in_its_entry(cluster: Cluster, whole: bool) -> None:
    one = cluster.nodes[0]
    waiter = waiting(one)
    before = len(cluster.stream)
    if whole:
        transacted(cluster, one, Set(b"k", b"v"), Put(b"q", b"work"))
    else:
        tell(cluster, one, Put(b"q", b"work"))
    assert bodies(waiter) == [b"work"]
    assert len(cluster.stream) == before + 1


def test_together_has_the_take_of_a_waiter_in_its_entry(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    waiter = waiting(one)
    before = len(cluster.stream)
    tell(cluster, one, Together((Set(b"k", b"v"), Put(b"q", b"work"))))
    assert bodies(waiter) == [b"work"]
    assert len(cluster.stream) == before + 1


def test_ready_message_ends_a_wait_at_once(cluster: Cluster) -> None:
    tell(cluster, cluster.nodes[1], Put(b"q", b"work"))
    waiter = waiting(cluster.nodes[0])
    cluster.settle()
    assert bodies(waiter) == [b"work"]


def test_end_of_a_delay_ends_a_wait(cluster: Cluster) -> None:
    tell(cluster, cluster.nodes[1], Put(b"q", b"later", delay=5_000))
    waiter = waiting(cluster.nodes[0])
    pass_time(cluster, 4_000)
    assert waiter.reply is None
    pass_time(cluster, 1_000)
    assert bodies(waiter) == [b"later"]


def test_timer_is_requested_for_the_end_of_a_delay(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    timers: list[float] = []
    one.running.waiters.set_timer = timers.append
    due = one.clock() + 5_000
    tell(cluster, cluster.nodes[1], Put(b"q", b"later", at=due))
    waiting(one)
    assert timers == [(due - one.clock()) / 1000]


def test_end_of_a_lease_ends_a_wait(cluster: Cluster) -> None:
    one, other = cluster.nodes[:2]
    tell(cluster, one, Put(b"q", b"again"))
    taken(cluster, one, lease=5_000)
    waiter = waiting(other)
    one.crash()
    pass_time(cluster, 4_000)
    assert waiter.reply is None
    pass_time(cluster, 1_000)
    assert bodies(waiter) == [b"again"]


def test_nack_and_end_of_a_pause_end_a_wait(cluster: Cluster) -> None:
    one, other = cluster.nodes[:2]
    tell(cluster, one, Put(b"q", b"again"))
    ((message, lease),) = taken(cluster, one)
    waiter = waiting(other)
    tell(cluster, one, Nack(message, lease, delay=0))
    assert bodies(waiter) == [b"again"]
    said(cluster, one, QueueSet(b"q", paused=1), Put(b"q", b"paused"))
    waiter = waiting(other)
    cluster.settle()
    assert waiter.reply is None
    tell(cluster, one, QueueSet(b"q", paused=0))
    assert bodies(waiter) == [b"paused"]


def test_ack_in_a_limited_group_ends_a_wait(cluster: Cluster) -> None:
    one, other = cluster.nodes[:2]
    said(cluster, one, QueueSet(b"q", per_group=1), *[Put(b"q", b"%d" % at, group=b"g") for at in range(2)])
    (lease,) = taken(cluster, one)
    waiter = waiting(other)
    cluster.settle()
    assert waiter.reply is None
    tell(cluster, one, Ack((lease,)))
    assert bodies(waiter) == [b"1"]


def test_take_any_waits_for_all_its_queues(cluster: Cluster) -> None:
    one, other = cluster.nodes[:2]
    for queue in (b"a", b"b"):
        waiter = waiting(one, TakeAny(1, 0, WAIT_MAX, (b"a", b"b")))
        tell(cluster, other, Put(queue, b"work"))
        assert isinstance(waiter.reply, Items)
        assert (waiter.reply.values[0], waiter.reply.values[-1]) == (queue, b"work")


def test_wait_ends_without_a_message_at_its_time(cluster: Cluster) -> None:
    waiter = waiting(cluster.nodes[0], Take(b"q", 1, wait=5_000))
    pass_time(cluster, 4_000)
    assert waiter.reply is None
    pass_time(cluster, 1_000)
    assert waiter.reply == NOTHING


# -- the log -----------------------------------------------------------------------------------------------------------


def test_waits_without_messages_are_not_in_the_log(cluster: Cluster) -> None:
    before = len(cluster.stream)
    waiters = [waiting(node, Take(b"q", 1, wait=5_000)) for node in cluster.nodes for _ in range(5)]
    cluster.settle()
    assert len(cluster.stream) == before
    pass_time(cluster, 5_000)
    assert [waiter.reply for waiter in waiters] == [NOTHING] * 15
    assert len(cluster.stream) == before + 3, "each node reads once for all"
    assert items_since(cluster, before) == 0


@pytest.mark.parametrize("command", [Take(b"q", 1), TakeAny(1, 0, 0, (b"q", b"r"))])
def test_take_of_an_empty_queue_is_no_item_of_the_log(cluster: Cluster, command: Command) -> None:
    one, before = cluster.nodes[0], len(cluster.stream)
    outcome = one.execute(command)
    assert isinstance(outcome, PendingReply)
    assert outcome.reply is None, "the reply waits until the node has all entries"
    assert outcome.blocks
    cluster.settle()
    assert outcome.reply == NOTHING
    assert items_since(cluster, before) == 0
    tell(cluster, one, Put(b"q", b"later", delay=5_000))
    before = len(cluster.stream)
    assert tell(cluster, one, command) == NOTHING
    assert items_since(cluster, before) == 0


def test_take_finds_a_message_that_its_node_has_not_seen(cluster: Cluster) -> None:
    one, other = cluster.nodes[:2]
    put = other.execute(Put(b"q", b"work"))
    other.pump()
    cluster.arrive()
    other.follow()
    assert isinstance(put, PendingReply)
    assert put.reply is not None
    outcome = one.execute(Take(b"q", 1))
    cluster.settle()
    assert isinstance(outcome, PendingReply)
    assert isinstance(outcome.reply, Items)
    assert outcome.reply.values[6] == b"work"


def test_end_of_a_wait_finds_a_message_that_its_node_has_not_seen(cluster: Cluster) -> None:
    one, other = cluster.nodes[:2]
    waiter = waiting(one, Take(b"q", 1, wait=1_000))
    other.execute(Put(b"q", b"work"))
    other.pump()
    cluster.arrive()
    other.follow()
    cluster.now += 1
    one.tick()
    one.pump()
    cluster.arrive()
    assert waiter.reply is None
    cluster.settle()
    assert bodies(waiter) == [b"work"]


def test_wait_that_ends_twice_takes_once(cluster: Cluster) -> None:
    """Its time ends, and its server stops before the read of its queue has come back."""
    one, other = cluster.nodes[:2]
    waiter = waiting(one, Take(b"q", 1, wait=1_000))
    tell_later = other.execute(PutMany(b"q", 0, 9, (b"1", b"2")))
    other.pump()
    cluster.arrive()
    other.follow()
    cluster.now += 1
    one.tick()
    one.running.end_take(waiter, gives_back=False)
    cluster.settle()
    assert isinstance(tell_later, PendingReply)
    assert bodies(waiter) == [b"1"]
    assert counts(cluster, other) == [1, 0, 1, 0]


def test_pipelined_put_and_take_share_an_entry(cluster: Cluster) -> None:
    client, before = client_of(cluster.nodes[0]), len(cluster.stream)
    client.send(Put(b"q", b"work"), Take(b"q", 1), Get(b"k"))
    cluster.settle()
    _, take, _ = client.payloads()
    assert take.endswith(b"work")
    assert len(cluster.stream) == before + 1


def test_commands_behind_a_take_execute_after_it(cluster: Cluster) -> None:
    """The TAKE finds a message of another node, so its own entry follows that of its read."""
    one, other = cluster.nodes[:2]
    other.execute(Put(b"q", b"work"))
    other.pump()
    cluster.arrive()
    client = client_of(one)
    client.send(Take(b"q", 1), QueueStats(b"q"))
    heard = []
    for _ in range(3):
        cluster.settle()
        heard += client.payloads()
    take, stats = heard
    assert take.endswith(b"work")
    assert b"leased\0\0\0\x011" in stats


def test_each_node_proposes_one_take_for_one_message(cluster: Cluster) -> None:
    one, other, third = cluster.nodes
    waiters = [waiting(node) for _ in range(5) for node in (one, other)]
    cluster.settle()
    before = len(cluster.stream)
    tell(cluster, third, Put(b"q", b"work"))
    assert items_since(cluster, before) == 3
    assert [waiter.reply is not None for waiter in waiters] == [True] + [False] * 9
    before = len(cluster.stream)
    cluster.settle()
    pass_time(cluster, 1_000)
    assert items_since(cluster, before) == 0, "no node tries again without a message"


def test_message_for_a_waiter_of_its_node_concerns_no_other_node(cluster: Cluster) -> None:
    waiters = [waiting(node) for node in cluster.nodes]
    before = len(cluster.stream)
    tell(cluster, cluster.nodes[2], Put(b"q", b"work"))
    assert len(cluster.stream) == before + 1
    assert [waiter.reply is not None for waiter in waiters] == [False, False, True]


def test_take_that_found_nothing_keeps_its_place(cluster: Cluster) -> None:
    one, other = cluster.nodes[:2]
    theirs = waiting(other)
    first, second = waiting(one), waiting(one)
    tell(cluster, other, Put(b"q", b"theirs"))
    assert bodies(theirs) == [b"theirs"]
    tell(cluster, other, Put(b"q", b"a"))
    assert bodies(first) == [b"a"]
    assert second.reply is None
    tell(cluster, other, Put(b"q", b"b"))
    assert bodies(second) == [b"b"]


def test_waiters_of_a_node_get_messages_in_their_order(cluster: Cluster) -> None:
    one, other = cluster.nodes[:2]
    waiters = [waiting(one) for _ in range(10)]
    tell(cluster, other, PutMany(b"q", 0, 7, tuple(b"%d" % at for at in range(5))))
    for at in range(5, 8):
        tell(cluster, one, Put(b"q", b"%d" % at, priority=7))
    assert [body for waiter in waiters[:8] for body in bodies(waiter)] == [b"%d" % at for at in range(8)]
    assert [waiter.reply for waiter in waiters[8:]] == [None, None]


def test_messages_put_together_serve_waiters_of_all_nodes(cluster: Cluster) -> None:
    waiters = [waiting(node) for _ in range(50) for node in cluster.nodes]
    tell(cluster, cluster.nodes[0], PutMany(b"q", 0, 0, tuple(b"%d" % at for at in range(150))))
    cluster.settle()
    assert sorted(body for waiter in waiters for body in bodies(waiter)) == sorted(b"%d" % at for at in range(150))


def test_expired_and_exhausted_messages_end_no_wait(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    said(cluster, one, QueueSet(b"q", attempts=1), PutMany(b"q", 0, 0, (b"",) * 300))
    tell(cluster, one, Take(b"q", 300, lease=500))
    for _ in range(200):
        one.execute(Put(b"q", b"", expires=500))
    cluster.settle()
    pass_time(cluster, 1_000)
    waiters = [waiting(node) for node in cluster.nodes]
    cluster.settle()
    assert [waiter.reply for waiter in waiters] == [None] * 3
    assert counts(cluster, one) == [0, 0, 0, 300]
    before = len(cluster.stream)
    pass_time(cluster, 1_000)
    assert items_since(cluster, before) == 0


def test_node_whose_clock_does_not_count_tries_once_a_second(cluster: Cluster) -> None:
    one, other = cluster.nodes[:2]
    tell(cluster, other, Put(b"q", b"later", delay=1_000))
    one.proposes_time = False
    waiter = waiting(one)
    before = len(cluster.stream)
    for _ in range(50):
        pass_time(cluster, 100)
    assert waiter.reply is None
    assert 1 <= items_since(cluster, before) <= 1 + 10_000 // AHEAD_PAUSE
    tell(cluster, other, Get(b"k"))
    pass_time(cluster, AHEAD_PAUSE)
    assert bodies(waiter) == [b"later"]


# -- clients that leave ------------------------------------------------------------------------------------------------


def test_client_that_left_takes_nothing(cluster: Cluster) -> None:
    one, other = cluster.nodes[:2]
    first, second = waiting(one), waiting(one)
    one.running.end_take(first, gives_back=True)
    assert first.reply == NOTHING
    tell(cluster, other, Put(b"q", b"work"))
    assert bodies(second) == [b"work"]


def test_client_that_leaves_during_its_take_gives_the_lease_back(cluster: Cluster) -> None:
    one, other = cluster.nodes[:2]
    first, theirs = waiting(one), waiting(other)
    one.execute(Put(b"q", b"work"))
    one.pump()
    one.running.end_take(first, gives_back=True)
    assert first.reply == NOTHING
    cluster.settle()
    assert bodies(theirs) == [b"work"]
    assert attempts(cluster, one, lease_of(theirs)[0]) == 1


def test_client_that_leaves_before_its_reply_gives_the_lease_back(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    first, second, third = (waiting(one) for _ in range(3))
    tell(cluster, one, PutMany(b"q", 0, 0, (b"a", b"b")))
    assert bodies(first) == [b"a"]
    before = len(cluster.stream)
    one.running.end_take(first, gives_back=True)
    cluster.settle()
    assert first.reply == NOTHING
    assert bodies(second) == [b"b"]
    assert bodies(third) == [b"a"]
    assert len(cluster.stream) == before + 1, "one entry gives the lease back and takes the message again"
    assert attempts(cluster, one, lease_of(third)[0]) == 1


def test_session_whose_input_ends_gives_the_lease_back(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    client = client_of(one)
    client.send(Take(b"q", 1, wait=WAIT_MAX))
    one.execute(Put(b"q", b"work"))
    one.pump()
    client.session.end_of_input()
    assert client.payloads() == [b""]
    cluster.settle()
    assert counts(cluster, one) == [1, 0, 0, 0]
    client = client_of(one)
    client.send(Take(b"q", 1, wait=WAIT_MAX))
    cluster.settle()
    client.session.end_of_input()
    cluster.settle()
    assert counts(cluster, one) == [1, 0, 0, 0]


@pytest.mark.parametrize("seen", [True, False], ids=["message-known-here", "message-known-elsewhere"])
@pytest.mark.parametrize("command", [Take(b"q", 2), TakeAny(2, 0, 0, (b"none", b"q"))], ids=["take", "take-any"])
def test_client_that_leaves_during_a_plain_take_gives_its_leases_back(
    cluster: Cluster, command: Command, seen: bool
) -> None:
    one, other = cluster.nodes[:2]
    other.execute(PutMany(b"q", 0, 0, (b"a", b"b", b"c")))
    other.pump()
    cluster.arrive()
    other.follow()
    if seen:
        cluster.settle()
    client, theirs = client_of(one), waiting(other, Take(b"late", 1, wait=WAIT_MAX))
    client.send(Set(b"k", b"v"), command, Get(b"k"))
    client.session.end_of_input()
    cluster.settle()
    heard = client.payloads()
    cluster.settle()  # the last command waits for the execution of the TAKE
    assert heard + client.payloads() == [b"OK", b"", b"v"]
    assert counts(cluster, one) == [3, 0, 0, 0]
    assert [attempts(cluster, one, number) for number in (2, 3, 4)] == [0, 0, 0]
    assert theirs.reply is None


def test_lease_that_cannot_be_given_back_is_given_back_later(cluster: Cluster) -> None:
    one, other = cluster.nodes[:2]
    waiter = waiting(one)
    tell(cluster, one, Put(b"q", b"work", lease=60_000))
    cut_off(cluster, one)
    one.running.end_take(waiter, gives_back=True)
    one.cut_off = False
    cluster.settle()
    assert counts(cluster, other) == [0, 0, 1, 0]
    one.running.housekeep()
    cluster.settle()
    assert counts(cluster, other) == [1, 0, 0, 0]


# -- faults ------------------------------------------------------------------------------------------------------------


def cut_off(cluster: Cluster, node: Node) -> None:
    """Cut a node off, until it notices."""
    node.cut_off = True
    node.execute(Get(b"k"))
    node.pump()
    for _ in range(60):
        cluster.now += 0.1
        node.tick()
    assert not node.running.proposer.quorum


def test_node_that_is_cut_off_fails_its_waiters(cluster: Cluster) -> None:
    one, other = cluster.nodes[:2]
    first = waiting(one)
    short = waiting(one, Take(b"q", 1, wait=10_000))
    cut_off(cluster, one)
    assert first.reply is None
    assert code(waiting(one)) == "NOQUORUM"
    cluster.now += 5
    one.tick()
    assert first.reply is None
    assert code(short) == "NOQUORUM", "its time has ended"
    cluster.now += LOSS_MAX / 1000
    one.tick()
    assert code(first) == "NOQUORUM"
    one.cut_off = False
    cluster.settle()
    tell(cluster, other, Put(b"q", b"work"))
    assert counts(cluster, other) == [1, 0, 0, 0]


def test_wait_goes_on_after_a_short_loss_of_the_quorum(cluster: Cluster) -> None:
    one, other = cluster.nodes[:2]
    first = waiting(one)
    cut_off(cluster, one)
    one.cut_off = False
    cluster.settle()
    tell(cluster, other, Put(b"q", b"work"))
    assert bodies(first) == [b"work"]


def test_take_that_was_not_published_waits_on_after_a_loss(cluster: Cluster) -> None:
    one, other = cluster.nodes[:2]
    waiters = [waiting(one) for _ in range(8)]
    one.cut_off = True
    for at in range(8):
        one.execute(Put(b"q", b"%d" % at))
        one.pump()
    for _ in range(60):
        cluster.now += 0.1
        one.tick()
    assert not one.running.proposer.quorum
    one.cut_off = False
    cluster.settle()
    tell(cluster, other, PutMany(b"q", 0, 1_000, (b"more",) * 8))
    assert all(isinstance(waiter.reply, Items) for waiter in waiters)


def test_lost_entry_with_a_take_is_proposed_again(cluster: Cluster) -> None:
    one, other = cluster.nodes[:2]
    waiter = waiting(one)
    tell(cluster, other, QueueSet(b"q", attempts=5))
    one.execute(Put(b"q", b"work"))
    one.pump()
    cluster.lose()
    for _ in range(60):
        cluster.now += 0.1
        one.tick()
        if one.running.proposer.under_way and cluster.flying:
            break
    cluster.settle()
    assert bodies(waiter) == [b"work"]
    assert attempts(cluster, other, lease_of(waiter)[0]) == 1


def test_lease_of_a_take_with_unknown_outcome_is_given_back(cluster: Cluster) -> None:
    """Its entry arrives after the client has its failure."""
    one, other = cluster.nodes[:2]
    tell(cluster, other, Put(b"q", b"work", lease=3_600_000))
    waiter = waiting(one)
    one.pump()
    (entry,) = cluster.flying
    for _ in range(200):
        cluster.now += 0.1
        one.running.proposer.tick(cluster.now, one.running.epochs)
    assert code(waiter) == "UNKNOWN"
    assert cluster.flying == [entry]
    cluster.settle()
    assert counts(cluster, other) == [1, 0, 0, 0]
    assert attempts(cluster, other, 2) == 0


@pytest.mark.parametrize("left", [False, True])
def test_crash_of_a_node_leaves_its_lease_until_its_time(cluster: Cluster, left: bool) -> None:
    one, other = cluster.nodes[:2]
    waiter, theirs = waiting(one), waiting(other)
    one.execute(Put(b"q", b"work", lease=5_000))
    one.pump()
    if left:
        one.running.end_take(waiter, gives_back=True)
    one.crash()
    cluster.settle()
    assert theirs.reply is None
    pass_time(cluster, 5_000)
    assert bodies(theirs) == [b"work"]


def test_node_that_stops_fails_its_waiters(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    waiter = waiting(one)
    one.running.leave("a fault of a test")
    assert code(waiter) == "STOPPED"
    assert code(waiting(one)) == "STOPPED"


def test_node_that_refuses_clients_fails_its_waiters(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    first, second = waiting(one), waiting(one)
    one.execute(Put(b"q", b"work"))
    one.running.stopping = "this node stops"
    one.running.serve_waiters()
    assert first.reply is None
    assert code(second) == "NOQUORUM"
    cluster.settle()
    assert bodies(first) == [b"work"]


@pytest.mark.parametrize(("published", "expected"), [(False, "LOADING"), (True, "UNKNOWN")])
def test_node_that_restores_a_snapshot_fails_its_waiters(cluster: Cluster, published: bool, expected: str) -> None:
    one, other = cluster.nodes[:2]
    tell(cluster, other, Put(b"q", b"work", lease=5_000))
    first = waiting(one)
    second = waiting(one, Take(b"r", 1, wait=WAIT_MAX))
    if published:
        one.pump()
    one.take_snapshot(other.disk.copy())
    assert (code(first), code(second)) == (expected, "LOADING")
    cluster.settle()
    third = waiting(one)
    cluster.settle()
    pass_time(cluster, 5_000)
    assert bodies(third) == [b"work"]


def test_node_with_a_wrong_clock_fails_its_waiters(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    waiter = waiting(one)
    one.running.refuses_writes = Failure(failures.CLOCK, "the clock is wrong")
    one.tick()
    assert code(waiter) == "CLOCK"


def test_restarted_node_has_no_waiters(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    waiting(one)
    restart(one)
    cluster.settle()
    assert facts(one)["waiting_takes"] == 0
    waiter = waiting(one)
    tell(cluster, one, Put(b"q", b"work"))
    assert bodies(waiter) == [b"work"]


class Network:
    """Clients that wait and leave, at nodes of a cluster whose network fails."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.cluster = settled()
        self.waiters: list[tuple[Node, Waiter]] = []

    def run(self, steps: int) -> None:
        """Execute random steps."""
        actions = [self._take, self._put, self._pump, self._arrive, self._follow, self._pass_time, self._leave]
        faults = [self._lose, self._refuse, self._cut_off]
        for action in self.dice.choices(actions + faults, [4, 4, 8, 10, 14, 3, 1, 0.5, 0.3, 0.3], k=steps):
            action()

    def _some_node(self) -> Node:
        return self.dice.choice(self.cluster.nodes)

    def _take(self) -> None:
        node, dice = self._some_node(), self.dice
        wait = dice.choice((1, 300, WAIT_MAX))
        queues = (b"q", b"r") if dice.random() < 0.5 else (b"r", b"q")
        count, lease = dice.choice((1, 1, 3)), 3_600_000
        waiter = waiting(node, dice.choice((Take(queues[0], count, lease, wait), TakeAny(count, lease, wait, queues))))
        self.waiters.append((node, waiter))

    def _put(self) -> None:
        node, dice = self._some_node(), self.dice
        queue, delay = dice.choice((b"q", b"r")), dice.choice((None, None, 200))
        node.execute(dice.choice((Put(queue, b"", delay=delay), PutMany(queue, delay or 0, 7, (b"",) * 4))))

    def _leave(self) -> None:
        if self.waiters:
            node, waiter = self.waiters.pop(self.dice.randrange(len(self.waiters)))
            node.running.end_take(waiter, gives_back=True)

    def _pump(self) -> None:
        self._some_node().pump()

    def _arrive(self) -> None:
        if self.cluster.flying:
            self.cluster.arrive(self.dice.choice((0, 0, len(self.cluster.flying) - 1)))

    def _follow(self) -> None:
        self._some_node().follow(self.dice.choice((1, 3, 20)))

    def _pass_time(self) -> None:
        for _ in range(self.dice.choice((1, 1, 1, 30))):
            self.cluster.now += 0.1
            for node in self.cluster.nodes:
                node.tick()

    def _lose(self) -> None:
        if self.cluster.flying:
            self.cluster.lose()

    def _refuse(self) -> None:
        if self.cluster.flying:
            self.cluster.refuse()

    def _cut_off(self) -> None:
        node = self._some_node()
        node.cut_off = not node.cut_off

    def end(self) -> None:
        """Repair the network, and wait until all is done."""
        for node in self.cluster.nodes:
            node.cut_off = False
        self.cluster.settle()
        for _ in range(2):
            pass_time(self.cluster, WAIT_MAX)
            for node in self.cluster.nodes:
                node.running.housekeep()
            self.cluster.settle()


@given(seed=st.integers(0, 2**32), steps=st.integers(20, 400))
def test_no_lease_is_forgotten_if_the_network_fails(seed: int, steps: int) -> None:
    network = Network(seed)
    network.run(steps)
    network.end()
    told: list[tuple[int, int]] = []
    for node, waiter in network.waiters:
        assert waiter.reply is not None, "each wait ends"
        assert facts(node)["waiting_takes"] == 0
        told += [(nack.message, nack.lease) for _, nack in returns_of(waiter.command, waiter.reply)]  # type: ignore[attr-defined]
    assert len(set(told)) == len(told)
    queues = network.cluster.observer.running.queues
    numbers = [number for queue in queues.index.queues.values() for number in queue.live]
    messages = {number: message for number in numbers if (message := queues.message(number)) is not None}
    leased = {number: message.lease for number, message in messages.items() if message.lease}
    assert leased == dict(told), "only those leases are left that a client knows"
    assert all(message.attempts == (number in leased) for number, message in messages.items())


# -- limits and INFO ---------------------------------------------------------------------------------------------------


def facts(node: Node) -> dict[str, object]:
    """Return the fields of INFO."""
    return dict(node.running.info())


def test_info_counts_waiters_with_those_under_way(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    waiters = [waiting(one) for _ in range(3)]
    assert facts(one)["waiting_takes"] == 3
    one.execute(Put(b"q", b"work"))
    assert facts(one)["waiting_takes"] == 3
    cluster.settle()
    assert facts(one)["waiting_takes"] == 2
    for waiter in waiters:
        one.running.end_take(waiter, gives_back=True)
    cluster.settle()
    assert facts(one)["waiting_takes"] == 0


def test_too_many_waiters_are_refused(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    names = tuple(b"%d" % at for at in range(1_000))
    for _ in range(WAITERS_MAX // 1_000):
        assert waiting(one, TakeAny(1, 0, WAIT_MAX, names)).reply is None
    assert code(waiting(one)) == "CROWDED"


def test_drained_session_gets_a_true_empty_reply(cluster: Cluster) -> None:
    one, other = cluster.nodes[:2]
    client = client_of(one)
    client.send(Take(b"q", 1, wait=WAIT_MAX))
    client.session.drain()
    assert client.payloads() == []
    cluster.settle()
    assert client.payloads() == [b""]
    tell(cluster, other, Put(b"q", b"work"))
    assert counts(cluster, one) == [1, 0, 0, 0]


def test_transaction_refuses_to_wait(cluster: Cluster) -> None:
    one = cluster.nodes[0]
    steps: Sequence[Step] = [Step(0, Take(b"q", 1, wait=1)), Step(0, Set(b"k", b"v"))]
    assert isinstance(one.running.execute_all(steps), Failure)
    assert said(cluster, one, Set(b"k", b"v")) == [OK]
