"""Random faults of network, disks and clocks: all nodes reach equal states, and clients get true replies."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairnkv.engine import undo
from cairnkv.replication import epochs
from cairnkv.replication.entries import Entry, Kind
from cairnkv.replication.epochs import EpochTable, Judged
from cairnkv.replication.proposals import Changes, PendingProposal
from cairnkv.replication.proposer import Proposer
from cairnkv.replication.store import ReplicatedStore
from cairnkv.store.script import RunJournal
from tests.replication.chaos import Chaos, check
from tests.support.simulated import Cluster

SEEDS = st.integers(0, 2**32)


@settings(max_examples=3 * settings().max_examples)
@given(seed=SEEDS, steps=st.integers(50, 600), faults=st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_replies_are_true_and_nodes_equal_under_faults(seed: int, steps: int, faults: float) -> None:
    check(Chaos(seed, faults=faults).run(steps).end())


@settings(max_examples=max(5, settings().max_examples // 4))
@given(seed=SEEDS, nodes=st.sampled_from([1, 5]))
def test_replies_are_true_and_nodes_equal_with_one_and_five_nodes(seed: int, nodes: int) -> None:
    check(Chaos(seed, nodes=nodes, clients=2 * nodes, faults=0.4).run(500).end())


@settings(max_examples=max(5, settings().max_examples // 4))
@given(seed=SEEDS)
def test_replies_are_true_and_nodes_equal_if_proposers_are_forgotten(seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs, "PROPOSERS_MAX", 3)
        check(Chaos(seed, faults=0.7).run(500).end())


def test_most_commands_succeed_without_faults() -> None:
    """Otherwise the tests above would prove nothing."""
    carried_out = refused = 0
    for seed in range(8):  # one alone may have few transactions, and have all of them carried out
        chaos = Chaos(seed, faults=0).run(2_400).end()
        assert check(chaos).done
        assert len(chaos.ops) > 200
        assert not any(op.failed or op.unknown for op in chaos.ops)
        done = [op.tag in chaos.tagged_at for op in chaos.ops if op.watched]
        carried_out += sum(done)
        refused += len(done) - sum(done)
    assert carried_out > 3
    assert refused


# -- broken on purpose --------------------------------------------------------------------------------------------


def _is_found(**options: object) -> bool:
    """Return whether one of several runs fails."""
    for seed in range(60):
        cluster = Cluster(**options)  # type: ignore[arg-type]
        try:
            check(Chaos(seed, faults=0.5, cluster=cluster).run(500).end())
        except Exception:
            return True
    return False


def test_correct_build_passes() -> None:
    assert not _is_found()


def test_build_that_ignores_entry_numbers_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = EpochTable.judge

    def careless(self: EpochTable, entry: Entry, position: int) -> Judged:
        row = self.rows.get(entry.node)
        if row is not None and entry.kind is not Kind.EPOCH:
            row.number = entry.number - 1
        return judge(self, entry, position)

    monkeypatch.setattr(EpochTable, "judge", careless)
    assert _is_found()


def test_build_that_reuses_an_epoch_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(self: Proposer, table: EpochTable) -> None:
        self._wanted = self._newest = max(1, self._newest, table.newest_epoch(self.node))
        self._epoch_sent = None

    monkeypatch.setattr(Proposer, "begin", begin)
    assert _is_found()


def test_build_that_reads_before_the_log_is_detected() -> None:
    assert _is_found(broken=("stale-reads",))


def test_build_that_replies_before_commits_is_detected() -> None:
    assert _is_found(broken=("early-replies",))


def test_build_that_does_not_watch_the_keys_of_scripts_is_detected() -> None:
    assert _is_found(broken=("unwatched-scripts",))


def test_build_whose_scripts_leave_new_versions_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node that runs a script would have later versions than the others."""
    monkeypatch.setattr(RunJournal, "undo", undo)
    assert _is_found()


def test_build_that_proposes_applied_commands_again_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    arrived = Proposer.arrived

    def forgetful(self: Proposer, entry: Entry, table: EpochTable, *, counts: bool) -> object:
        flight = self._flights.get(entry.number) if entry.epoch == self._epoch else None
        proposals = arrived(self, entry, table, counts=counts)
        if flight is not None and counts and self._wanted:
            self._flights[entry.number] = flight
        return proposals

    monkeypatch.setattr(Proposer, "arrived", forgetful)
    assert _is_found()


def test_build_with_versions_of_a_nodes_own_history_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The versions depend on the node's own history."""

    def track(self: ReplicatedStore, slots: list[int], changes: Changes) -> None:
        self._tracked |= set(slots)
        for slot in slots:
            self._keep_slot(slot, changes)

    monkeypatch.setattr(ReplicatedStore, "_track", track)
    assert _is_found()


def test_build_that_skips_entries_of_unknown_outcome_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    execute_logged = PendingProposal.execute_logged

    def drop(self: PendingProposal, changes: Changes) -> None:
        if not self.given_up:
            execute_logged(self, changes)

    monkeypatch.setattr(PendingProposal, "execute_logged", drop)
    assert _is_found()
