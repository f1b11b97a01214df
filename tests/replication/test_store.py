"""The state of nodes depends on the log entries alone, one risk at a time; see `test_chaos`."""

import contextlib
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import (
    MISSING,
    OK,
    Append,
    Clear,
    ClearAll,
    ClearMany,
    ClearPrefix,
    Command,
    Count,
    Failure,
    Get,
    Incr,
    Items,
    Put,
    Queues,
    Rename,
    Replies,
    Reply,
    Scan,
    Set,
    SetBit,
    SetRange,
    SetWith,
    Step,
    Take,
    Together,
    failures,
)
from cairnkv.commands.vocabulary import RandomKey
from cairnkv.engine import Watched
from cairnkv.limits import BYTES_PER_COST, VALUE_MAX
from cairnkv.replication.entries import SEMANTICS, Entry, Item, ItemKind, Kind, packed_items
from cairnkv.replication.entry_codec import Transaction, command_item, digest_item, semantics_item, transaction_item
from cairnkv.replication.epochs import epoch_body
from cairnkv.replication.node_table import POSITION_KEY
from cairnkv.replication.proposals import PendingProposal
from cairnkv.replication.store import ReplicatedStore
from cairnkv.storage.disk import DiskStorage
from cairnkv.storage.record_format import NODE_DB
from cairnkv.storage.writer import Sync
from cairnkv.store import PendingReply
from tests.support.simulated import EPOCH_MS, IDENTITY, Cluster, Disk, Node, TableStorage, fingerprint


def settled(nodes: int = 3, **options: Any) -> Cluster:
    """Return a cluster whose nodes have all joined."""
    cluster = Cluster(nodes, **options)
    cluster.settle()
    return cluster


def said(cluster: Cluster, node: Node, *commands: Command) -> list[Reply | None]:
    """Return the replies to commands that execute one by one."""
    replies = []
    for command in commands:
        outcome = node.execute(command)
        cluster.settle()
        replies.append(outcome.reply if isinstance(outcome, PendingReply) else outcome)
    return replies


def transacted(
    cluster: Cluster, node: Node, *commands: Command, watched: object = (), most: int = 10**6
) -> Reply | None:
    """Return the reply to a transaction of these commands."""
    steps = [Step(0, command) for command in commands]
    outcome = node.running.execute_all(steps, watched, bytes_max=most)  # type: ignore[arg-type]
    cluster.settle()
    return outcome.reply if isinstance(outcome, PendingReply) else outcome


def watching(cluster: Cluster, node: Node, *keys: bytes) -> list[tuple[int, Watched]]:
    """Return the watched state of these keys."""
    into: dict[tuple[int, bytes], Watched] = {}
    outcome = node.running.watch([(0, key) for key in keys], into)
    cluster.settle()
    assert isinstance(outcome, PendingReply)
    assert outcome.reply is OK
    return [(db, watch) for (db, _), watch in into.items()]


def restart(node: Node, lost: int = 0) -> None:
    """Crash a node, and start it again."""
    node.crash(lost)
    node.start()


class Intruder:
    """A program that publishes arbitrary messages to the stream."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._number = 0
        cluster.append(Entry(Kind.EPOCH, 1, 1, 0, 0, epoch_body(b"stranger", 1), semantics=1).packed())

    def says(self, body: bytes, *, kind: Kind = Kind.BATCH, time: int = 0, semantics: int = 1) -> None:
        """Append the intruder's next entry."""
        self._number += 1
        self._cluster.append(Entry(kind, 1, 1, self._number, time, body, semantics).packed())


@pytest.mark.parametrize(
    "command", [Put(b"q", b""), Take(b"q", 1), Queues(0, 1), Together((Set(b"k", b"v"),))], ids=str
)
def test_cluster_of_an_older_release_refuses_commands_on_queues(command: Command) -> None:
    """Before all nodes support them. All nodes ignore those in the log."""
    cluster = settled(supports=1)
    node = cluster.nodes[0]
    refused = node.running.execute(command)
    assert isinstance(refused, Failure)
    assert refused.code is failures.NOCOMMAND
    position = node.running.position
    Intruder(cluster).says(packed_items([command_item(Step(0, Set(b"a", b"1"))), command_item(Step(0, command))]))
    cluster.settle()
    assert node.running.position > position
    assert said(cluster, node, Get(b"a"), Count()) == [b"1", 1]
    assert len({node.running.digest for node in cluster.nodes}) == 1
    restart(node)
    cluster.settle()
    assert said(cluster, node, Get(b"a")) == [b"1"]


# -- time -----------------------------------------------------------------------------------------------------------


def test_freeing_of_expired_keys_is_invisible() -> None:
    """Expired keys exist on one node, are freed on another, and were never read on the third."""
    cluster = settled()
    one, other, third = cluster.nodes
    said(cluster, one, SetWith(b"a", b"1", ttl=100), SetWith(b"b", b"1", ttl=100), Set(b"c", b"1"))
    cluster.now += 3
    said(cluster, one, Set(b"d", b"1"))
    while other.running.housekeep():
        pass
    restart(third)
    # A journal has more of it, and earlier, where the keys still take memory.
    assert transacted(cluster, one, Clear(b"a"), Set(b"e", b"1"), Set(b"a", b"2")) == Replies((OK, OK, OK))
    assert transacted(cluster, one, ClearMany((b"b", b"d")), Set(b"b", b"1"), Clear(b"b")) == Replies((1, OK, OK))
    assert said(cluster, other, Count()) == [3]
    assert len({node.running.digest for node in cluster.nodes}) == 1


def test_removed_expiry_time_leaves_no_trace() -> None:
    """Not after a restart; and a key set and deleted within a transaction is no change."""
    cluster = settled()
    one, other = cluster.nodes[:2]
    said(cluster, one, SetWith(b"a", b"1", ttl=100), Clear(b"a"))
    restart(other)
    cluster.settle()
    transacted(cluster, one, Set(b"k", b"1"), Clear(b"k"))
    assert one.running.digest == other.running.digest


def test_log_time_belongs_to_the_store_and_goes_back_with_it() -> None:
    """Otherwise entries that are applied again would give other expiry times."""
    cluster = settled()
    node = cluster.nodes[0]
    early = node.disk.copy()
    for _ in range(3):
        cluster.now += 10
        said(cluster, node, SetWith(b"k", b"1", ttl=60_000))
    node.take_snapshot(early)
    cluster.settle()
    assert fingerprint(node.running) == fingerprint(cluster.nodes[1].running)


def test_node_that_starts_with_a_wrong_clock_expires_no_key() -> None:
    """It learns log time from the proposals of others."""
    cluster = settled()
    one, other = cluster.nodes[:2]
    said(cluster, one, SetWith(b"k", b"1", ttl=60_000))
    other.crash()
    other.clock_off = 10 * 60_000
    other.start()
    for _ in range(5):
        other.pump()
        while cluster.flying:
            cluster.arrive()
        other.follow(9)
    assert other.running.proposer.quorum
    assert said(cluster, one, Get(b"k")) == [b"1"]


def test_different_clocks_never_restore_an_expired_key() -> None:
    cluster = settled()
    fast, slow = cluster.nodes[:2]
    fast.clock_off, slow.clock_off = 900, -900
    said(cluster, slow, SetWith(b"k", b"1", ttl=1_000))
    assert said(cluster, fast, Get(b"k")) == [MISSING]
    assert said(cluster, slow, Get(b"k"), Count()) == [MISSING, 0]


# -- what a node has of its own ---------------------------------------------------------------------------------------


def test_values_stay_in_memory_with_any_limit() -> None:
    """The limit is for own proposals; those of other nodes are applied as everywhere."""
    cluster = settled(memory_limit=2_000)
    one, other = cluster.nodes[:2]
    replies = said(cluster, one, *(Set(b"%d" % number, b"x" * 300) for number in range(10)))
    assert replies[0] is OK
    assert isinstance(replies[-1], Failure)
    assert replies[-1].code is failures.FULL
    Intruder(cluster).says(packed_items([command_item(Step(0, Set(b"more", b"x" * 5_000)))]))
    cluster.settle()
    for _ in range(10):
        one.running.housekeep()
    assert said(cluster, one, Append(b"0", b"")) == [300]
    assert said(cluster, other, Get(b"more"), Get(b"0")) == [b"x" * 5_000, b"x" * 300]
    restart(one)
    cluster.settle()
    assert said(cluster, one, Get(b"more")) == [b"x" * 5_000]


def test_table_layout_and_random_keys_do_not_affect_the_state() -> None:
    """A scan slice depends on the growth of the table, and a random key on chance."""
    cluster = settled()
    one = cluster.nodes[0]
    said(cluster, one, Set(b"k", b"1"), Set(b"k" * 300, b"1"))
    for command in (RandomKey(), Scan(0, 10, b"")):
        for _ in range(5):
            transacted(cluster, one, command, Set(b"found", b"%d" % random.randrange(9)), most=250)
    reply = transacted(cluster, one, Scan(0, 10, b""), Set(b"k", b"2"), most=250)
    assert isinstance(reply, Replies)
    assert isinstance(reply.values[0], Failure)
    assert reply.values[0].code is failures.BIGREPLY
    assert said(cluster, one, Get(b"k")) == [b"2"]


def test_versions_stay_equal_after_an_undone_transaction() -> None:
    """The changed keys get later versions, after a restart as well."""
    cluster = settled()
    one, other = cluster.nodes[:2]
    said(cluster, one, Set(b"k", b"1"), Set(b"long", b"x" * 500))
    watching(cluster, one, b"k")
    restart(other)
    too_much = transacted(cluster, one, Set(b"k", b"2"), Get(b"long"), most=400)
    assert isinstance(too_much, Failure)
    restart(other)
    cluster.settle()
    watched = watching(cluster, one, b"k")
    assert transacted(cluster, other, Incr(b"k", 1), watched=watched) == Replies((2,))


@pytest.mark.parametrize("command", [Append(b"k", b"x"), SetRange(b"k", 99, b"x"), SetBit(b"k", 799, 1)])
def test_transaction_that_would_make_too_many_bytes_begins_no_work(command: Command) -> None:
    cluster = settled()
    one, other = cluster.nodes[:2]
    said(cluster, one, Set(b"k", b"v" * 99))
    watched = watching(cluster, other, b"k")
    too_much = transacted(cluster, one, *[command] * 5, most=400)
    assert isinstance(too_much, Failure)
    assert transacted(cluster, other, Get(b"k"), watched=watched) == Replies((b"v" * 99,))
    assert isinstance(transacted(cluster, one, *[command] * 3, most=400), Replies)


def test_clear_prefix_deletes_the_keys_that_its_node_found() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    said(cluster, node, *(Set(b"%s%d" % (prefix, number), b"") for prefix in (b"a", b"b") for number in range(20)))
    cursor, cleared = 0, 0
    while True:
        (reply,) = said(cluster, node, ClearPrefix(b"a", cursor))
        assert isinstance(reply, Items)
        cursor, count = (int(value or b"") for value in reply.values)
        cleared += count
        if not cursor:
            break
    assert cleared == 20
    assert said(cluster, cluster.nodes[1], Count()) == [20]


# -- WATCH ------------------------------------------------------------------------------------------------------------


CHANGES: dict[str, list[Command]] = {
    "set": [Set(b"k", b"2")],
    "set to the same": [Set(b"k", b"1")],
    "taken away": [Clear(b"k")],
    "taken away and back": [Clear(b"k"), Set(b"k", b"1")],
    "all cleared": [ClearAll()],
    "a prefix cleared": [ClearPrefix(b"k", 0)],
    "renamed away": [Rename(b"k", b"other")],
    "another deadline": [SetWith(b"k", b"1", ttl=500)],
}


@pytest.mark.parametrize("between", [*CHANGES, "time", "nothing"])
@pytest.mark.parametrize("meanwhile", ["nothing", "restart", "snapshot"])
def test_transaction_is_not_executed_after_a_watched_change(between: str, meanwhile: str) -> None:
    cluster = settled()
    one, other, third = cluster.nodes
    said(cluster, one, SetWith(b"k", b"1", ttl=5_000))
    watched = watching(cluster, one, b"k")
    if meanwhile == "restart":
        for node in (other, third):
            restart(node, lost=3)
    elif meanwhile == "snapshot":
        early = one.disk.copy()
        one.take_snapshot(third.disk.copy())
        third.take_snapshot(early)
    cluster.settle()
    if between == "time":
        cluster.now += 6
    else:
        said(cluster, other, *CHANGES.get(between, []))
    carried_out = transacted(cluster, one, Set(b"done", b"1"), watched=watched)
    assert carried_out == (Replies((OK,)) if between == "nothing" else MISSING)
    assert said(cluster, third, Get(b"done")) == [b"1" if between == "nothing" else MISSING]


def test_creation_of_a_watched_absent_key_aborts() -> None:
    cluster = settled()
    one, other = cluster.nodes[:2]
    watched = watching(cluster, one, b"k")
    said(cluster, other, Set(b"k", b"1"))
    assert transacted(cluster, one, Set(b"k", b"2"), watched=watched) == MISSING


# -- what else stands in the stream ---------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=80), min_size=1, max_size=5), st.sampled_from(Kind))
def test_any_bytes_in_an_entry_have_equal_effects(bodies: list[bytes], kind: Kind) -> None:
    cluster = settled()
    stranger = Intruder(cluster)
    for body in bodies:
        cluster.append(b"\1" + body)
        stranger.says(body, kind=kind)
    cluster.settle()
    assert all(node.is_up for node in cluster.nodes)
    assert said(cluster, cluster.nodes[0], Set(b"k", b"v")) == [OK]


def test_commands_before_a_malformed_one_are_executed_by_all() -> None:
    cluster = settled()
    good = packed_items([command_item(Step(0, Set(b"k", b"v")))])
    Intruder(cluster).says(good + b"\1\0")
    assert said(cluster, cluster.nodes[0], Get(b"k")) == [b"v"]


@pytest.mark.parametrize(
    "item",
    [
        command_item(Step(16, Set(b"k", b"v"))),
        command_item(Step(255, Set(b"k", b"v"))),
        command_item(Step(0, ClearPrefix(b"", 0))),
        command_item(Step(0, RandomKey())),
        transaction_item(Transaction((), (Step(200, Set(b"k", b"v")),), 0)),
        transaction_item(Transaction((), (Step(0, ClearPrefix(b"", 0)), Step(0, RandomKey())), 0)),
        Item(ItemKind.TRACK, 0, b"\xff\xff" * 3),
        digest_item(2**64 - 1, 0),
        semantics_item(65_535),
        semantics_item(0),
    ],
)
def test_entries_of_no_proposer_change_nothing(item: Item) -> None:
    cluster = settled()
    said(cluster, cluster.nodes[0], Set(b"k", b"1"))
    Intruder(cluster).says(packed_items([item]))
    cluster.settle()
    assert all(node.is_up for node in cluster.nodes)
    assert said(cluster, cluster.nodes[0], Get(b"k"), Count()) == [b"1", 1]


def test_node_too_old_for_an_entry_stops_with_a_message() -> None:
    cluster = settled()
    Intruder(cluster).says(b"", semantics=SEMANTICS + 1)
    node = cluster.nodes[0]
    node.follow(9)
    assert "newer release" in str(node.running.stopped)
    outcome = node.execute(Get(b"k"))
    assert isinstance(outcome, Failure)
    assert outcome.code is failures.STOPPED


def test_semantics_change_once_all_nodes_support_them() -> None:
    storage = TableStorage(Disk())
    store = ReplicatedStore(node=1, nonce=b"12345678", storage=storage, value_max=VALUE_MAX, supports=2)
    store.begin(store.load())
    raised = packed_items([semantics_item(2)])
    for position, entry in enumerate(
        [
            Entry(Kind.EPOCH, 7, 1, 0, 0, epoch_body(b"nonce 7.", 2)),
            Entry(Kind.EPOCH, 8, 1, 0, 0, epoch_body(b"nonce 8.", 1)),
            Entry(Kind.BATCH, 7, 1, 1, 0, raised),
        ],
        1,
    ):
        store.apply_entry(position, entry.packed())
    assert store.semantics == 1
    store.apply_entry(4, Entry(Kind.EPOCH, 8, 2, 0, 0, epoch_body(b"nonce 8.", 2)).packed())
    store.apply_entry(5, Entry(Kind.BATCH, 7, 1, 2, 0, raised).packed())
    assert store.semantics == 2
    older = ReplicatedStore(
        node=1, nonce=b"12345679", storage=TableStorage(storage.disk), value_max=VALUE_MAX, supports=1
    )
    older.begin(older.load())
    assert "newer release" in str(older.stopped)


def test_node_alone_with_its_state_stops() -> None:
    cluster = settled()
    one = cluster.nodes[0]
    one.running._note_digest(1_000, one.number, 1)
    one.running._note_digest(1_000, cluster.nodes[1].number, 2)
    assert one.is_up
    one.running._note_digest(1_000, cluster.nodes[2].number, 2)
    assert "differs from that of 2 other nodes" in str(one.running.stopped)


def test_nodes_compare_digests_through_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairnkv.replication.store.DIGEST_ENTRIES", 10)
    cluster = settled()
    for number in range(12):
        said(cluster, cluster.nodes[number % 3], Incr(b"n", 1))
    odd = cluster.nodes[0]
    before = len(cluster.stream) - len(cluster.stream) % 10
    odd.running._digests._by_position[before][odd.number] ^= 1
    for node in cluster.nodes[1:]:
        node.running.propose_digest()
        cluster.settle()
    assert [node.is_up for node in cluster.nodes] == [False, True, True]


# -- the table ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def on_disk(directory: Path, gather: float = 0.0) -> Iterator[ReplicatedStore]:
    """Return a node whose table is on disk."""
    table = DiskStorage(directory, sync=Sync(None), gather=gather)
    store = ReplicatedStore(node=5, nonce=b"12345678", storage=table, value_max=VALUE_MAX, clock=lambda: EPOCH_MS)
    store.begin(store.load())
    store.deliver_by(lambda _: None)
    if not store.identity:
        store.identity = IDENTITY
    yield store
    store.close()


def test_store_on_disk_contains_the_whole_state(tmp_path: Path) -> None:
    cluster = settled()
    one = cluster.nodes[0]
    said(cluster, one, SetWith(b"k", b"1", ttl=60_000), Set(b"l", b"2"), SetWith(b"m", b"3", ttl=100))
    watching(cluster, one, b"k")
    cluster.now += 1
    said(cluster, one, Set(b"n", b"3"))
    one.execute(Set(b"large", b"x" * 3_000))
    one.pump()
    for _ in range(3):
        cluster.arrive()
    with on_disk(tmp_path) as store:
        for position, data in enumerate(cluster.stream, 1):
            store.apply_entry(position, data)
        assert fingerprint(store) == cluster.seen[len(cluster.stream)]
    with on_disk(tmp_path) as store:
        assert store.identity == IDENTITY
        assert fingerprint(store) == cluster.seen[len(cluster.stream)]
        cluster.settle()
        for position in range(store.position + 1, len(cluster.stream) + 1):
            store.apply_entry(position, cluster.stream[position - 1])
        assert fingerprint(store) == cluster.seen[len(cluster.stream)]


@pytest.mark.parametrize("gather", [0.0, 0.02, 3_600.0])
def test_killed_node_leaves_the_state_at_its_log_index(tmp_path: Path, gather: float) -> None:
    """Keys, log index and all else are of one moment, and the log has the rest."""
    cluster = settled()
    one = cluster.nodes[0]
    watching(cluster, one, b"0")
    for number in range(40):
        said(cluster, one, Set(b"%d" % (number % 7), b"%d" % number), SetWith(b"d", b"x", ttl=60_000 + number))
    killed = []
    with on_disk(tmp_path / "table", gather) as store:
        for position, data in enumerate(cluster.stream, 1):
            store.apply_entry(position, data)
            time.sleep(0.002)
            if position % 10 == 0:
                killed.append((position, tmp_path / f"killed {position}"))
                shutil.copytree(tmp_path / "table", killed[-1][1])
    for applied, directory in killed:
        with on_disk(directory) as store:
            assert store.position <= applied
            if gather > 1:
                assert store.position == 0, "nothing was written yet"
            if store.position:
                assert fingerprint(store) == cluster.seen[store.position]
            for position in range(store.position + 1, len(cluster.stream) + 1):
                store.apply_entry(position, cluster.stream[position - 1])
            assert fingerprint(store) == cluster.seen[len(cluster.stream)]
    with on_disk(tmp_path / "table") as store:
        assert fingerprint(store) == cluster.seen[len(cluster.stream)], "whoever closes it waits for nothing"


def test_inconsistent_store_is_damaged() -> None:
    disk = Disk([(0, ((NODE_DB, POSITION_KEY, b"short", None),))])
    store = ReplicatedStore(node=5, nonce=b"12345678", storage=TableStorage(disk), value_max=VALUE_MAX)
    with pytest.raises(ValueError, match="damage"):
        store.load()


def test_failed_storage_stops_its_node_only() -> None:
    cluster = settled()
    one, other = cluster.nodes[:2]
    assert one.table is not None
    one.table.refuses = failures.READONLY
    outcome = other.execute(Set(b"k", b"v"))
    other.pump()
    cluster.arrive()
    one.follow(9)
    other.follow(9)
    assert not one.is_up
    assert isinstance(outcome, PendingReply)
    assert outcome.reply is OK


def test_slow_storage_slows_its_node_and_gets_every_entry() -> None:
    """An entry may be larger than the storage's queue."""
    cluster = settled()
    one, other = cluster.nodes[:2]
    assert one.table is not None
    for number in range(3):
        other.execute(Set(b"k", b"%d" % number))
        other.pump()
        cluster.arrive()
        other.follow(9)
        one.table.refuses = failures.UNDONE
        at = one.running.position
        one.running.apply_entry(at + 1, cluster.stream[at])
        assert not one.running.takes_entries, "it owes the table what was applied"
        one.follow(9)
        assert one.is_up
        assert one.running.position == at + 1
        one.table.refuses = None
        assert one.running.takes_entries
        assert one.running.databases[0].get(b"k") == b"%d" % number
    cluster.settle()
    disk = one.table.disk
    store = ReplicatedStore(node=5, nonce=b"12345678", storage=TableStorage(disk), value_max=VALUE_MAX)
    store.begin(store.load())
    assert fingerprint(store) == cluster.seen[len(cluster.stream)]


def test_cost_of_proposals_is_their_work() -> None:
    """The cost bounds a log entry, which every node executes without a pause."""
    cluster = settled()
    node = cluster.nodes[0]
    said(cluster, node, SetRange(b"k", 100 * BYTES_PER_COST, b"x"))
    outcomes = [
        node.execute(Get(b"k")),
        node.execute(Append(b"k", b"x")),
        node.running.execute_all([Step(0, Append(b"k", b"x"))] * 3, bytes_max=10**9),
        node.running.execute_all([Step(0, Set(b"l", b"x"))] * 3, bytes_max=10**9),
    ]
    assert [outcome.cost for outcome in outcomes if isinstance(outcome, PendingProposal)] == [1, 101, 303, 3]
    cluster.settle()


def test_stopped_node_answers_all_pending_commands() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    (watched,) = watching(cluster, node, b"k")
    under_way = node.execute(ClearPrefix(b"k", 0))
    node.running.leave("it is not well")
    empty = node.running.execute_all((), (watched,), bytes_max=1)
    for outcome in (under_way, empty, node.execute(Get(b"k"))):
        reply = outcome.reply if isinstance(outcome, PendingReply) else outcome
        assert isinstance(reply, Failure)
        assert reply.code is failures.STOPPED
    node.pump()
    assert not cluster.flying
