"""The proposer of a node, one case at a time; `test_chaos` combines all cases."""

import pytest

from cairnkv.commands import MISSING, OK, Failure, Get, Incr, Reply, Set, failures
from cairnkv.commands.failures import Code
from cairnkv.replication import epochs, proposer
from cairnkv.replication.entries import Entry, Kind, parsed
from cairnkv.replication.epochs import PROPOSERS_MAX, EpochTable, epoch_body
from cairnkv.replication.node_table import PART_KEY, PROPOSER_KEY
from cairnkv.replication.proposer import FOREIGN_EPOCHS_MAX, IN_FLIGHT_MAX, OUTCOME_SECONDS, UNSEEN_SECONDS
from cairnkv.storage.record_format import NODE_DB
from cairnkv.store import PendingReply
from tests.support.simulated import Cluster, Node


def settled(nodes: int = 3) -> Cluster:
    """Return a cluster whose nodes have all joined."""
    cluster = Cluster(nodes)
    cluster.settle()
    return cluster


def held(outcome: Reply | PendingReply) -> PendingReply:
    """Return a pending reply."""
    assert isinstance(outcome, PendingReply)
    assert outcome.reply is None
    return outcome


def code(outcome: Reply | PendingReply) -> Code | None:
    """Return the code of a failure; None: the reply is no failure."""
    reply = outcome.reply if isinstance(outcome, PendingReply) else outcome
    return reply.code if isinstance(reply, Failure) else None


def wait(cluster: Cluster, seconds: float) -> None:
    """Advance the clock and let nodes check their timeouts. No entry arrives."""
    for _ in range(round(seconds * 4)):
        cluster.now += 0.25
        for node in cluster.nodes:
            node.tick()


def kinds(cluster: Cluster, node: Node) -> list[Kind]:
    """Return the kinds of a node's entries in flight."""
    return [parsed(publish.data).kind for publish in cluster.flying if publish.node is node]


def value(node: Node, key: bytes) -> bytes | None:
    """Return the value of a key at a node."""
    return node.running.databases[0].get(key)


def test_entries_in_flight_are_bounded_and_later_proposals_share_one() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    for _ in range(IN_FLIGHT_MAX + 10):
        node.execute(Incr(b"n", 1))
        node.pump()
    assert len(cluster.flying) == IN_FLIGHT_MAX
    cluster.arrive()
    node.follow()
    node.pump()
    assert len(cluster.flying) == IN_FLIGHT_MAX
    before = len(cluster.stream)
    cluster.settle()
    assert value(node, b"n") == b"%d" % (IN_FLIGHT_MAX + 10)
    assert len(cluster.stream) == before + IN_FLIGHT_MAX


def test_small_entry_waits_while_a_large_one_is_in_flight() -> None:
    """It leaves with later proposals once they are many, or the large entry has arrived."""
    cluster = settled()
    node = cluster.nodes[0]
    for _ in range(10):
        node.execute(Incr(b"n", 1))
    node.pump()
    for waiting in range(9):
        node.execute(Incr(b"n", 1))
        node.pump()
        assert len(cluster.flying) == 1, waiting
    node.execute(Incr(b"n", 1))
    node.pump()
    assert len(cluster.flying) == 2
    late = held(node.execute(Get(b"n")))
    node.pump()
    assert len(cluster.flying) == 2
    cluster.settle()
    assert late.reply == b"20"


def test_read_is_executed_with_an_entry_published_after_it() -> None:
    cluster = settled()
    one, other = cluster.nodes[:2]
    early = held(one.execute(Incr(b"n", 1)))
    one.pump()
    read = held(one.execute(Get(b"k")))
    written = held(other.execute(Set(b"k", b"v")))
    cluster.arrive()
    one.follow()
    assert (early.reply, read.reply) == (1, None)
    other.pump()
    cluster.arrive()
    other.follow(9)
    assert written.reply is OK
    cluster.settle()
    assert read.reply == b"v"


def test_proposals_without_a_quorum_fail_and_resume_by_themselves() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    node.cut_off = True
    sent = held(node.execute(Incr(b"n", 1)))
    node.pump()
    asked = held(node.execute(Get(b"n")))
    node.pump()
    for _ in range(IN_FLIGHT_MAX - 2):
        node.execute(Get(b"n"))
        node.pump()
    queued = held(node.execute(Incr(b"n", 10)))
    wait(cluster, UNSEEN_SECONDS - 0.5)
    assert (sent.reply, asked.reply, queued.reply) == (None, None, None)
    wait(cluster, 1)
    assert (code(sent), code(asked), code(queued)) == (None, failures.NOQUORUM, failures.NOQUORUM)
    assert code(node.execute(Set(b"k", b"v"))) is failures.NOQUORUM
    assert code(node.execute(Get(b"k"))) is failures.NOQUORUM
    assert node.running.execute(Get(b"n"), local=True) is not None
    wait(cluster, OUTCOME_SECONDS)
    assert code(sent) is failures.UNKNOWN
    node.cut_off = False
    cluster.settle()
    assert value(node, b"n") is None
    later = held(node.execute(Incr(b"n", 100)))
    cluster.settle()
    assert later.reply == 100


def test_abandoned_entry_that_arrives_late_is_applied_by_all() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    given_up = held(node.execute(Incr(b"n", 1)))
    node.pump()
    wait(cluster, OUTCOME_SECONDS + 1)
    assert code(given_up) is failures.UNKNOWN
    cluster.settle()  # behind it comes the new epoch
    assert [value(each, b"n") for each in cluster.nodes] == [b"1"] * 3


def test_proposals_of_an_epoch_that_does_not_start_fail() -> None:
    """Although nothing is in flight: the epoch was refused."""
    cluster = settled()
    node = cluster.nodes[0]
    node.running.proposer.begin(node.running.epochs)
    node.cut_off = True
    queued = held(node.execute(Set(b"k", b"v")))
    node.pump()
    wait(cluster, UNSEEN_SECONDS + 1)
    assert code(queued) is failures.NOQUORUM


def test_refused_entries_are_proposed_again_in_order_in_a_new_epoch() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    first = held(node.execute(Incr(b"n", 1)))
    node.pump()
    second = held(node.execute(Incr(b"n", 10)))
    node.pump()
    cluster.refuse()
    assert kinds(cluster, node) == [Kind.BATCH, Kind.EPOCH]
    cluster.settle()
    assert (first.reply, second.reply) == (1, 11)


def test_gap_is_detected_by_a_later_entry() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    outcomes = []
    for _ in range(3):
        outcomes.append(held(node.execute(Incr(b"n", 1))))
        node.pump()
    cluster.lose(0)
    cluster.arrive()
    node.follow()
    node.pump()
    assert kinds(cluster, node) == [Kind.BATCH, Kind.EPOCH]
    cluster.settle()
    assert [outcome.reply for outcome in outcomes] == [1, 2, 3]


# -- large commands -----------------------------------------------------------------------------------------------


def parts_on_disk(node: Node) -> int:
    """Return the parts of batches in the node's table."""
    records: dict[bytes, bytes | None] = {}
    for _, effects in node.disk.commits:
        records |= {key: text for db, key, text, _ in effects if db == NODE_DB and key is not None}
    return sum(key.startswith(PART_KEY) and text is not None for key, text in records.items())


def test_parts_survive_restarts_of_other_nodes_until_the_last_part() -> None:
    cluster = settled()
    one, other = cluster.nodes[:2]
    written = held(one.execute(Set(b"k", b"x" * 3_000)))
    one.pump()
    cluster.arrive()
    cluster.arrive()
    other.follow(9)
    assert parts_on_disk(other) == 2
    other.crash()
    other.start()
    cluster.settle()
    assert written.reply is OK
    assert value(other, b"k") == b"x" * 3_000
    assert [parts_on_disk(node) for node in cluster.nodes] == [0, 0, 0]


def test_parts_end_with_their_epoch_and_are_all_proposed_again() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    written = held(node.execute(Set(b"k", b"x" * 3_000)))
    node.pump()
    cluster.arrive()
    cluster.arrive()
    node.follow(9)
    assert parts_on_disk(node) == 2
    cluster.refuse()
    while cluster.flying:
        cluster.arrive()
    node.follow(9)
    assert parts_on_disk(node) == 0
    cluster.settle()
    assert written.reply is OK
    assert [value(each, b"k") for each in cluster.nodes] == [b"x" * 3_000] * 3


def test_parts_of_an_earlier_process_are_dropped() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    node.execute(Set(b"k", b"x" * 3_000))
    node.pump()
    cluster.arrive()
    node.crash()
    while cluster.flying:
        cluster.lose()
    node.start()
    cluster.settle()
    assert [value(each, b"k") for each in cluster.nodes] == [None] * 3
    assert [parts_on_disk(each) for each in cluster.nodes] == [0] * 3


def test_batch_with_too_many_parts_is_ignored_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all entries after it."""
    monkeypatch.setattr(epochs, "PARTS_BYTES_MAX", 1_000)
    cluster = settled()
    one, other = cluster.nodes[:2]
    large = held(one.execute(Set(b"k", b"x" * 3_000)))
    one.pump()
    cluster.arrive()
    cluster.arrive()
    cluster.arrive()
    other.follow(9)
    assert parts_on_disk(other) == 0
    other.crash()
    other.start()
    cluster.settle()
    assert code(large) is failures.UNDONE
    assert [value(each, b"k") for each in cluster.nodes] == [None] * 3


def test_batch_with_too_many_parts_is_not_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposer, "PROPOSAL_BYTES_MAX", 1_000)
    node = settled().nodes[0]
    assert code(node.execute(Set(b"k", b"x" * 1_001))) is failures.UNDONE
    held(node.execute(Set(b"k", b"x" * 900)))


# -- bounds -------------------------------------------------------------------------------------------------------


def test_queue_is_bounded_in_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposer, "QUEUED_MAX", 3)
    cluster = settled()
    node = cluster.nodes[0]
    outcomes = [node.execute(Get(b"k")) for _ in range(4)]
    assert [code(outcome) for outcome in outcomes] == [None, None, None, failures.UNDONE]
    cluster.settle()
    held(node.execute(Get(b"k")))


def test_queue_is_bounded_in_bytes_except_for_a_single_proposal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposer, "QUEUED_BYTES_MAX", 100)
    cluster = settled()
    node = cluster.nodes[0]
    large = held(node.execute(Set(b"k", b"x" * 200)))
    assert code(node.execute(Set(b"k", b"x"))) is failures.UNDONE
    cluster.settle()
    assert large.reply is OK
    held(node.execute(Set(b"k", b"x")))


# -- who proposes ---------------------------------------------------------------------------------------------------


def strangers_come(cluster: Cluster, count: int, epoch: int = 1_000) -> None:
    """Let other nodes begin an epoch each."""
    for number in range(count):
        nonce = b"stranger"
        cluster.append(Entry(Kind.EPOCH, 10_000 + number, epoch, 0, 0, epoch_body(nonce, 1)).packed())


def test_proposer_removed_from_the_table_restarts_without_loss() -> None:
    cluster = settled(1)
    node = cluster.nodes[0]
    first = held(node.execute(Incr(b"n", 1)))
    node.pump()
    cluster.arrive(again=True)
    node.follow()
    second = held(node.execute(Incr(b"n", 10)))
    node.pump()
    strangers_come(cluster, PROPOSERS_MAX)
    assert len(cluster.observer.running.epochs.rows) == PROPOSERS_MAX
    cluster.settle()
    assert (first.reply, second.reply) == (1, 11)
    assert node.running.stopped is None


def test_entries_of_a_removed_proposer_do_not_count_twice() -> None:
    """Each entry that it ever sent is delayed, and arrives once more."""
    cluster = settled(1)
    node = cluster.nodes[0]
    node.execute(Incr(b"n", 1))
    cluster.settle()
    said = list(cluster.stream)
    strangers_come(cluster, PROPOSERS_MAX)
    for data in said:
        cluster.append(data)
    node.execute(Incr(b"n", 10))
    cluster.settle()
    assert value(node, b"n") == b"11"
    node.crash(20)
    node.start()
    cluster.settle()
    assert value(node, b"n") == b"11"


def test_epoch_table_has_no_more_records_than_proposers() -> None:
    cluster = settled(1)
    node = cluster.nodes[0]
    strangers_come(cluster, 3 * PROPOSERS_MAX)
    cluster.settle()
    records: dict[bytes | None, bytes | None] = {}
    for _, effects in node.disk.commits:
        records |= {key: text for db, key, text, _ in effects if db == NODE_DB}
    rows = [key for key, text in records.items() if key and key.startswith(PROPOSER_KEY) and text is not None]
    assert len(rows) == PROPOSERS_MAX


def test_late_epoch_of_an_earlier_process_has_no_effect() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    waiting = held(node.execute(Incr(b"n", 1)))
    node.pump()
    cluster.append(Entry(Kind.EPOCH, node.number, 9, 0, 0, epoch_body(b"earlier.", 1)).packed())
    cluster.settle()
    assert node.running.stopped is None
    assert waiting.reply == 1
    assert [value(each, b"n") for each in cluster.nodes] == [b"1"] * 3


def test_node_ends_if_another_process_starts_its_epochs() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    for _ in range(FOREIGN_EPOCHS_MAX):
        assert node.running.stopped is None
        epoch = cluster.observer.running.epochs.rows[node.number].epoch + 1
        cluster.append(Entry(Kind.EPOCH, node.number, epoch, 0, 0, epoch_body(b"the twin", 1)).packed())
        cluster.now += 1
        node.follow(9)
        node.pump()
        while cluster.flying:
            cluster.arrive()
        node.follow(9)
    assert node.running.stopped is not None
    assert "another process" in node.running.stopped
    assert code(node.execute(Set(b"k", b"v"))) is failures.STOPPED


def test_epoch_without_a_proposer_is_ignored() -> None:
    table = EpochTable()
    with pytest.raises(ValueError, match="with an invalid body"):
        table.judge(Entry(Kind.EPOCH, 1, 1, 0, 0, b"short"), 1)
    assert not table.judge(Entry(Kind.EPOCH, 1, 0, 0, 0, epoch_body(b"8 bytes.", 1)), 1).counts
    assert not table.rows


# -- another table ----------------------------------------------------------------------------------------------------


def test_entries_in_flight_at_a_snapshot_are_unknown_and_applied_once() -> None:
    """The snapshot may contain them, and the node cannot know."""
    cluster = settled()
    one, other = cluster.nodes[:2]
    sent, asked = held(one.execute(Incr(b"n", 1))), held(one.execute(Get(b"n")))
    one.pump()
    cluster.arrive()
    other.follow(9)
    one.take_snapshot(other.disk.copy())
    assert (code(sent), code(asked)) == (failures.UNKNOWN, failures.LOADING)
    assert code(one.execute(Get(b"n"))) is failures.LOADING
    cluster.settle()
    assert [value(each, b"n") for each in cluster.nodes] == [b"1"] * 3
    again = held(one.execute(Incr(b"n", 1)))
    cluster.settle()
    assert again.reply == 2


def test_lagging_store_is_replayed_to_its_index() -> None:
    """With own entries of this very process in the log."""
    cluster = settled()
    node = cluster.nodes[0]
    early = node.disk.copy()
    for _ in range(3):
        node.execute(Incr(b"n", 1))
        cluster.settle()
    node.take_snapshot(early)
    cluster.settle()
    assert value(node, b"n") == b"3"


def test_late_refusal_concerns_its_own_epoch_only() -> None:
    cluster = settled()
    store = cluster.nodes[0].running
    proposer, table = store.proposer, store.epochs
    epoch = proposer.epoch
    assert epoch
    proposer.lost(table, epoch - 1)
    proposer.lost(table, 0)  # what begins an epoch is tried again by itself
    assert proposer.epoch == epoch
    proposer.lost(table, epoch)
    assert proposer.epoch == 0
    (entry,) = map(parsed, proposer.take_entries(cluster.now, 0))
    assert (entry.kind, entry.epoch) == (Kind.EPOCH, epoch + 1)


def test_age_of_the_newest_own_entry_counts_from_its_publication() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    node.execute(Incr(b"n", 1))
    node.pump()
    published = cluster.now
    cluster.now += 3.0  # on its way, or behind many others
    cluster.arrive()
    node.follow()
    assert value(node, b"n") == b"1"
    assert node.running.proposer.arrived_sent == published


def test_first_of_several_epoch_attempts_may_be_the_one_that_counts() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    node.refused()
    began = cluster.now
    wait(cluster, 2.0)
    assert len(kinds(cluster, node)) > 1
    cluster.arrive()
    node.follow(len(cluster.stream))
    assert node.running.proposer.quorum
    assert node.running.proposer.arrived_sent == began


def test_entry_that_is_always_refused_starts_epochs_at_a_bounded_rate() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    write = held(node.execute(Incr(b"n", 1)))
    before = len(cluster.stream)
    for _ in range(100):
        cluster.now += 0.05
        node.tick()
        while cluster.flying:
            if kinds(cluster, node)[0] is Kind.EPOCH:
                cluster.arrive()
                node.follow()
            else:
                cluster.refuse()
    assert len(cluster.stream) - before <= proposer.BARREN_EPOCHS_MAX + 5.0 / proposer.PROBE_SECONDS
    cluster.settle()
    assert write.reply == 1


def test_writes_refused_by_a_full_log_fail_once_they_cannot_count() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    write, read = held(node.execute(Incr(b"n", 1))), held(node.execute(Get(b"k")))
    node.pump()
    cluster.lose()
    node.running.proposer.no_room(Failure(failures.LOGFULL, "full"), node.running.epochs)
    node.pump()
    assert write.reply is None
    cluster.settle()
    assert code(write) is failures.LOGFULL
    assert not failures.LOGFULL.executed
    assert read.reply == MISSING
    again = held(node.execute(Incr(b"n", 10)))
    cluster.settle()
    assert again.reply == 10
