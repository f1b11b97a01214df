"""Queues of a cluster: nodes agree on them, also while releases are mixed, after snapshots and after failures."""

import pytest

from cairnkv.commands import (
    MISSING,
    OK,
    Ack,
    Command,
    Failure,
    Get,
    Incr,
    Items,
    Look,
    Nack,
    Put,
    PutMany,
    QueueSet,
    QueueStats,
    Replies,
    Reply,
    Set,
    Step,
    Take,
    Together,
    failures,
)
from cairnkv.replication.entries import packed_items
from cairnkv.replication.entry_codec import Transaction, command_item, transaction_item
from cairnkv.store import PendingReply
from tests.replication.test_store import Intruder, restart, said, settled, transacted
from tests.support.simulated import Cluster, Node


def code_of(reply: Reply | None) -> str:
    assert isinstance(reply, Failure), reply
    return reply.code.name


def tell(cluster: Cluster, node: Node, command: Command) -> Reply:
    """Return the reply to a command."""
    (reply,) = said(cluster, node, command)
    assert reply is not None
    return reply


def taken(
    cluster: Cluster, node: Node, queue: bytes = b"q", count: int = 1, lease: int | None = None
) -> list[tuple[int, int]]:
    """Take messages. Returns their ids and leases."""
    reply = tell(cluster, node, Take(queue, count, lease=lease))
    assert isinstance(reply, Items)
    numbers = [int(value or b"") for at, value in enumerate(reply.values) if at % 7 < 2]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def index_of(node: Node) -> object:
    """Return the index of a node's queues, after a check."""
    node.running.queues.check()
    return node.running.queues.index.content()


# -- mixed releases ---------------------------------------------------------------------------------------------------


def test_queues_begin_when_the_last_node_supports_them() -> None:
    cluster = settled(supports=1)
    for node in cluster.nodes:
        assert node.running.semantics == 1
        assert code_of(tell(cluster, node, Put(b"q", b"one"))) == "NOCOMMAND"
        assert code_of(tell(cluster, node, QueueStats(b"q"))) == "NOCOMMAND"
        assert code_of(transacted(cluster, node, Set(b"k", b"v"), Put(b"q", b"one"))) == "NOCOMMAND"
        node.supports = 2
        restart(node)
        cluster.settle()
    assert [node.running.semantics for node in cluster.nodes] == [2, 2, 2]
    assert isinstance(tell(cluster, cluster.nodes[0], Put(b"q", b"one")), Items)
    assert len(taken(cluster, cluster.nodes[1])) == 1


def test_older_node_applies_no_entry_after_queues_have_begun() -> None:
    cluster = settled()
    node = cluster.nodes[2]
    node.crash()
    tell(cluster, cluster.nodes[0], Put(b"q", b"one"))
    node.supports = 1
    node.start()
    assert "newer release" in str(node.running.stopped)
    before = node.running.position
    cluster.settle()
    assert node.running.position == before


def test_node_replies_loading_until_the_new_semantics_are_in_force() -> None:
    cluster = Cluster(1)
    node = cluster.nodes[0]
    while node.running.loading:
        node.pump()
        cluster.arrive()
        node.follow()
        node.tick()
    assert code_of(node.execute(Put(b"q", b"one"))) == "LOADING"  # type: ignore[arg-type]
    cluster.settle()
    assert isinstance(tell(cluster, node, Put(b"q", b"one")), Items)


@pytest.mark.parametrize(
    "item",
    [
        command_item(Step(0, Put(b"q", b"one"))),
        transaction_item(Transaction((), (Step(0, Set(b"k", b"2")), Step(0, Put(b"q", b"one"))), 0)),
    ],
)
def test_queue_commands_of_no_proposer_have_no_effect_before(item: object) -> None:
    """An older node cannot decode them, and ignores the rest of their entry."""
    cluster = settled(supports=1)
    one = cluster.nodes[0]
    last = command_item(Step(0, Set(b"k", b"3")))
    Intruder(cluster).says(packed_items([command_item(Step(0, Set(b"k", b"1"))), item, last]))  # type: ignore[list-item]
    cluster.settle()
    assert all(node.is_up for node in cluster.nodes)
    assert said(cluster, one, Get(b"k")) == [b"1"]
    assert not one.running.queues.count()


# -- state ------------------------------------------------------------------------------------------------------------


def filled(cluster: Cluster) -> None:
    """Put messages in all states."""
    one, other = cluster.nodes[:2]
    said(cluster, one, QueueSet(b"q", per_group=2, attempts=2, backoff=100), QueueSet(b"strict", per_group=1))
    for number in range(6):
        said(cluster, other, Put(b"q", b"%d" % number, group=b"g%d" % (number % 2), unique=b"n%d" % number))
        said(cluster, one, Put(b"strict", b"%d" % number, group=b"h"))
    said(cluster, one, PutMany(b"plain", 50_000, 7, (b"a", b"b")), Put(b"plain", b"c", expires=900))
    for message, lease in taken(cluster, other, count=2):
        tell(cluster, one, Nack(message, lease, dead=True, reason=b"why"))
    (first, *_) = taken(cluster, one, count=2, lease=3_000)
    tell(cluster, other, Ack((first,)))
    taken(cluster, other, b"strict", lease=500)


@pytest.mark.parametrize("from_another", [False, True])
def test_node_that_has_restored_its_state_agrees_with_the_others(from_another: bool) -> None:
    cluster = settled()
    filled(cluster)
    one, other, third = cluster.nodes
    if from_another:
        third.take_snapshot(one.disk.copy())
    else:
        restart(third)
    cluster.settle()
    assert index_of(third) == index_of(one)
    cluster.now += 4
    replies = [taken(cluster, node, queue, 2) for node in (third, one, other) for queue in (b"q", b"strict", b"plain")]
    assert any(replies)
    restart(one, lost=5)
    cluster.settle()
    assert index_of(one) == index_of(other) == index_of(third)
    assert len({node.running.digest for node in cluster.nodes}) == 1
    stats = [tell(cluster, node, QueueStats(b"q")) for node in cluster.nodes]
    assert stats[0] == stats[1] == stats[2]


def test_state_of_another_table_replaces_the_queues() -> None:
    cluster = settled()
    one, other = cluster.nodes[:2]
    tell(cluster, one, Put(b"q", b"one"))
    early = other.disk.copy()
    (lease,) = taken(cluster, one)
    tell(cluster, one, Ack((lease,)))
    tell(cluster, one, Put(b"other", b"two"))
    other.take_snapshot(early)
    assert [*other.running.queues.index.queues] == [b"q"]
    cluster.settle()
    assert index_of(other) == index_of(one)


def test_lease_is_kept_if_its_node_fails() -> None:
    cluster = settled()
    one, other = cluster.nodes[:2]
    tell(cluster, one, Put(b"q", b"one"))
    ((message, lease),) = taken(cluster, one, lease=5_000)
    one.crash()
    assert taken(cluster, other) == []
    cluster.now += 6
    ((again, newer),) = taken(cluster, other)
    assert again == message
    assert newer > lease
    assert tell(cluster, other, Ack(((message, lease),))) == Items((b"0",))
    assert tell(cluster, other, Ack(((message, newer),))) == Items((b"1",))


def test_take_whose_reply_is_lost_leases_until_its_time() -> None:
    cluster = settled()
    one, other = cluster.nodes[:2]
    tell(cluster, one, Put(b"q", b"one"))
    pending = one.execute(Take(b"q", 1, lease=5_000))
    assert isinstance(pending, PendingReply)
    one.pump()
    one.crash()  # with the entry on its way
    cluster.settle()
    assert taken(cluster, other) == []
    cluster.now += 6
    assert len(taken(cluster, other)) == 1


def test_each_message_is_leased_once_among_all_nodes() -> None:
    cluster = settled()
    tell(cluster, cluster.nodes[0], PutMany(b"q", 0, 0, tuple(b"%d" % number for number in range(20))))
    pending = [node.execute(Take(b"q", 2)) for _ in range(3) for node in cluster.nodes]
    cluster.settle()
    ids = [value for outcome in pending for value in outcome.reply.values[::7]]  # type: ignore[union-attr]
    assert len(ids) == len(set(ids)) == 18


def test_local_read_shows_the_state_of_its_node() -> None:
    cluster = settled()
    one, other = cluster.nodes[:2]
    tell(cluster, one, Put(b"q", b"one"))
    one.execute(Put(b"q", b"two"))
    one.pump()
    cluster.arrive()
    one.follow()
    for node, ready in ((one, b"2"), (other, b"1")):
        reply = node.running.execute(QueueStats(b"q"), local=True)
        assert isinstance(reply, Items)
        assert reply.values[:2] == (b"ready", ready)
    linearizable = tell(cluster, other, QueueStats(b"q"))
    assert isinstance(linearizable, Items)
    assert linearizable.values[:2] == (b"ready", b"2")


# -- transactions -----------------------------------------------------------------------------------------------------


def test_transaction_changes_queues_and_keys_together() -> None:
    cluster = settled()
    one, other = cluster.nodes[:2]
    tell(cluster, one, Put(b"q", b"one"))
    (lease,) = taken(cluster, one)
    reply = transacted(cluster, other, Ack((lease,)), Set(b"k", b"v"), Put(b"next", b"two"), QueueStats(b"q"))
    assert isinstance(reply, Replies)
    assert reply.values[:2] == (Items((b"1",)), OK)
    assert said(cluster, one, Get(b"k")) == [b"v"]
    assert len(taken(cluster, one, b"next")) == 1


def test_together_is_executed_whole_or_not_at_all() -> None:
    cluster = settled()
    one, other = cluster.nodes[:2]
    tell(cluster, one, Put(b"q", b"one"))
    ((message, lease),) = taken(cluster, one)
    before = index_of(one)
    stale = Together((Set(b"k", b"v"), Put(b"next", b"two"), Ack(((message, lease + 1),))))
    assert code_of(tell(cluster, other, stale)) == "STALE"
    failing = Together((Put(b"next", b"two"), Incr(b"text", 1), Set(b"k", b"v")))
    assert said(cluster, one, Set(b"text", b"no number")) == [OK]
    assert code_of(tell(cluster, other, failing)) == "NOTINT"
    assert said(cluster, one, Get(b"k")) == [MISSING]
    assert index_of(one) == index_of(other) == before
    restart(other)
    cluster.settle()
    assert index_of(other) == before
    reply = tell(cluster, other, Together((Set(b"k", b"v"), Ack(((message, lease),)))))
    assert reply == Replies((OK, Items((b"1",))))
    assert said(cluster, one, Get(b"k"), Look(message)) == [b"v", MISSING]


def test_together_of_keys_is_undone_if_one_fails() -> None:
    cluster = settled()
    one = cluster.nodes[0]
    said(cluster, one, Set(b"text", b"no number"))
    assert code_of(tell(cluster, one, Together((Set(b"k", b"v"), Incr(b"text", 1))))) == "NOTINT"
    assert said(cluster, cluster.nodes[1], Get(b"k")) == [MISSING]


def test_undone_transaction_changes_no_queue() -> None:
    cluster = settled()
    one, other = cluster.nodes[:2]
    said(cluster, one, Put(b"q", bytes(500)), Put(b"q", bytes(500)))
    before = index_of(one)
    undone = transacted(cluster, one, Put(b"new", b"three", unique=b"n"), Take(b"q", 2), most=600)
    assert code_of(undone) == "UNDONE"
    assert index_of(one) == index_of(other) == before
    restart(other)
    cluster.settle()
    assert index_of(other) == before
    assert isinstance(tell(cluster, other, Put(b"new", b"three", unique=b"n")), Items)


# -- limits -----------------------------------------------------------------------------------------------------------


def test_full_node_refuses_puts_and_executes_the_rest() -> None:
    cluster = settled(memory_limit=30_000)
    one = cluster.nodes[0]
    count = 0
    while not isinstance(reply := tell(cluster, one, Put(b"q", bytes(100), group=b"g")), Failure):
        count += 1
    assert reply.code is failures.FULL
    assert 20 < count < 100
    Intruder(cluster).says(packed_items([command_item(Step(0, Put(b"q", b"of another")))]))
    first, second = taken(cluster, one, count=2)
    assert tell(cluster, one, Nack(*first, reason=b"why")) == 1
    assert tell(cluster, one, Ack((second,))) == Items((b"1",))
    assert isinstance(tell(cluster, one, QueueStats(b"q")), Items)


def test_full_log_refuses_puts_and_takes_messages() -> None:
    cluster = settled()
    one = cluster.nodes[0]
    tell(cluster, one, Put(b"q", b"one"))
    one.running.refuses_growth = Failure(failures.FULL, "the log is full")
    assert code_of(tell(cluster, one, Put(b"q", b"two"))) == "FULL"
    (lease,) = taken(cluster, one)
    assert tell(cluster, one, Ack((lease,))) == Items((b"1",))


def test_reply_to_a_pending_take_counts_with_the_bodies_of_its_queue() -> None:
    cluster = settled()
    one = cluster.nodes[0]
    tell(cluster, one, Put(b"q", bytes(5_000)))
    tell(cluster, one, Put(b"q", bytes(5_000)))
    for command, size in ((Take(b"q", 1), 10_000), (Take(b"none", 1), 0), (Look(2), 5_000)):
        outcome = one.execute(command)
        assert isinstance(outcome, PendingReply)
        assert outcome.size == size
    cluster.settle()


def test_entry_has_a_limited_number_of_messages_to_change() -> None:
    cluster = settled()
    one = cluster.nodes[0]
    for _ in range(4):
        tell(cluster, one, PutMany(b"q", 0, 0, (b"",) * 1_000))
    cluster.room = 100_000
    before = len(cluster.stream)
    for _ in range(4):
        one.execute(Take(b"q", 1_000))
    cluster.settle()
    assert len(cluster.stream) >= before + 4
