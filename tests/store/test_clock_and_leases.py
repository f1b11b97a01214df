"""The system clock is set by hours, forward and back: no live worker loses its lease, and nothing stands still."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cairnkv.commands import (
    Ack,
    Command,
    Extend,
    Items,
    Look,
    Nack,
    Put,
    PutMany,
    QueueSet,
    Reply,
    Take,
)
from cairnkv.engine import queue_operations
from cairnkv.limits import TAKE_MAX
from cairnkv.store import PendingReply, clock
from tests.support import simulated
from tests.support.store_modes import MODES, StoreInMode

HOUR = 3_600_000
LEASE = 60_000


class System:
    """The system's clocks, in milliseconds."""

    wall = 1_800_000_000_000
    elapsed = 5_000_000

    def go_on(self, milliseconds: int, *, jump: int = 0) -> None:
        """Let time pass, and set the clock."""
        self.elapsed += milliseconds
        self.wall += milliseconds + jump


def store_in(mode: str, system: System) -> StoreInMode:
    """Return a store with the system's clock."""
    return StoreInMode(mode, None if mode == "replicated" else clock.wall_clock)


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    system = System()
    monkeypatch.setattr(clock, "wall_clock", lambda: system.wall)
    monkeypatch.setattr(time, "monotonic_ns", lambda: system.elapsed * 1_000_000)
    monkeypatch.setattr(simulated.Node, "clock", property(lambda _: clock.wall_clock))
    return system


@pytest.fixture(params=MODES)
def stores(request: pytest.FixtureRequest, system: System) -> StoreInMode:
    return store_in(request.param, system)


JUMPS = [2 * HOUR, -2 * HOUR, 5 * HOUR, 1_500, -HOUR, -4 * HOUR, 12 * HOUR, 30 * HOUR]


def test_worker_that_extends_its_lease_keeps_it(stores: StoreInMode, system: System) -> None:
    stores.say(Put(b"q", b""))
    ((number, lease),) = stores.taken()
    for jump in JUMPS:
        system.go_on(LEASE // 3, jump=jump)
        assert stores.taken() == []
        assert stores.say(Extend(LEASE, ((number, lease),))) == Items((b"1",))
        system.go_on(LEASE // 3)
        assert stores.taken() == []
        assert stores.say(Extend(LEASE, ((number, lease),))) == Items((b"1",))
    assert stores.say(Ack(((number, lease),))) == Items((b"1",))


@pytest.mark.parametrize("jump", [2 * HOUR, 30 * HOUR])
def test_lease_ends_after_its_elapsed_time(stores: StoreInMode, system: System, jump: int) -> None:
    stores.say(PutMany(b"q", 0, 9, (b"",) * 3))
    first, second = stores.taken(2)
    system.go_on(10_000, jump=jump)
    (third,) = stores.taken()
    system.go_on(LEASE - 10_000 - 1)
    assert stores.taken(3) == []
    system.go_on(1)
    assert [number for number, _ in stores.taken(3)] == [first[0], second[0]]
    system.go_on(9_999)
    assert stores.taken(3) == []
    system.go_on(1)
    assert [number for number, _ in stores.taken(3)] == [third[0]]


def test_clock_that_is_set_back_ends_no_lease_and_stops_nothing(stores: StoreInMode, system: System) -> None:
    stores.say(Put(b"q", b""))
    ((number, _),) = stores.taken()
    system.go_on(1_000, jump=-3 * HOUR)
    for _ in range(5):
        system.go_on(9_000)
        assert stores.taken() == []
    system.go_on(2 * LEASE)  # log time advances at half speed
    assert [taken for taken, _ in stores.taken()] == [number]


@pytest.mark.parametrize("jump", [-5 * HOUR, -HOUR // 2, 0, 2 * HOUR])
def test_delays_and_backoffs_end(stores: StoreInMode, system: System, jump: int) -> None:
    stores.say(QueueSet(b"q", backoff=HOUR, factor=1, backoff_max=HOUR))
    stores.say(Put(b"q", b"delayed", delay=HOUR))
    stores.say(Put(b"q", b"failed"))
    ((number, lease),) = stores.taken()
    assert stores.say(Nack(number, lease)) == 1
    assert stores.taken() == []
    system.go_on(1_000, jump=jump)
    if jump <= 0:
        assert stores.taken() == []
    for _ in range(20):
        system.go_on(HOUR // 10)
        stores.taken()
    assert stores.stats()["taken"] >= 3


def test_all_leases_of_all_queues_are_kept(stores: StoreInMode, system: System) -> None:
    for name in (b"q", b"r"):
        stores.say(PutMany(name, 0, 9, (b"",) * TAKE_MAX))
    taken = stores.taken(TAKE_MAX)
    other = stores.say(Take(b"r", TAKE_MAX, lease=LEASE // 2))
    assert isinstance(other, Items)
    system.go_on(LEASE // 4, jump=3 * HOUR)
    assert stores.taken() == []
    assert stores.say(Take(b"r", 1)) == Items(())
    assert (stores.stats()["leased"], stores.stats()["ready"]) == (TAKE_MAX, 0)
    assert stores.say(Ack(tuple(taken))) == Items((b"1",) * TAKE_MAX)


@pytest.mark.parametrize("mode", MODES)
def test_maximum_of_leases_that_are_kept(system: System, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setattr(queue_operations, "LEASES_KEPT_MAX", 3)
    stores = store_in(mode, system)
    stores.say(PutMany(b"q", 0, 9, (b"",) * 4))
    leases = stores.taken(4)
    system.go_on(1, jump=HOUR)
    assert stores.taken(4) == [(leases[3][0], leases[3][1] + 1)]


def test_clock_that_is_set_twice_before_its_node_proposes_ends_no_lease(system: System) -> None:
    stores = store_in("replicated", system)
    stores.say(Put(b"q", b""))
    ((number, lease),) = stores.taken()
    for _ in range(2):
        system.go_on(1_000, jump=HOUR)
        for node in stores.nodes:
            node.proposed_time()
    assert stores.taken() == []
    assert stores.say(Ack(((number, lease),))) == Items((b"1",))


def cluster_with_a_take(system: System) -> tuple[simulated.Cluster, simulated.Node]:
    """Return a cluster, and a node whose entry with a TAKE is in flight. Log time follows only this node's clock."""
    cluster = simulated.Cluster(3, room=2**20)
    cluster.settle()
    one = cluster.nodes[0]
    for node in cluster.nodes[1:]:
        node.proposes_time = False
    one.execute(Put(b"q", b""))
    cluster.settle()
    one.execute(Take(b"q", 1))
    one.pump()
    return cluster, one


def looked(cluster: simulated.Cluster, node: simulated.Node, command: Command) -> Reply:
    """Return the reply to a command."""
    outcome = node.execute(command)
    cluster.settle()
    assert isinstance(outcome, PendingReply)
    assert outcome.reply is not None
    return outcome.reply


def test_lease_of_a_take_in_flight_is_kept(system: System) -> None:
    cluster, one = cluster_with_a_take(system)
    system.go_on(1, jump=HOUR)
    one.execute(QueueSet(b"q", attempts=9))
    one.pump()
    cluster.settle()
    assert looked(cluster, one, Take(b"q", 1)) == Items(())


def test_entries_that_are_proposed_again_come_behind_the_skip(system: System) -> None:
    cluster, one = cluster_with_a_take(system)
    cluster.settle()
    again = one.execute(Extend(LEASE, tuple(one.running.queues.leases(0, 1))))
    one.pump()
    cluster.lose()
    system.go_on(1, jump=HOUR)
    one.execute(QueueSet(b"q", attempts=9))
    one.pump()
    cluster.settle()
    assert isinstance(again, PendingReply)
    assert again.reply == Items((b"1",))


def test_clock_that_is_set_without_a_quorum_ends_no_lease(system: System) -> None:
    cluster, one = cluster_with_a_take(system)
    cluster.settle()
    one.cut_off = True
    one.execute(QueueSet(b"q", attempts=9))
    for _ in range(60):
        one.pump()
        cluster.now += 0.1
        one.tick()
    assert not one.running.proposer.quorum
    system.go_on(1, jump=HOUR)
    one.tick()
    one.cut_off = False
    cluster.settle()
    assert looked(cluster, one, Take(b"q", 1)) == Items(())


def test_nodes_whose_clocks_are_set_at_the_same_time_move_a_lease_once(system: System) -> None:
    stores = store_in("replicated", system)
    stores.say(Put(b"q", b""))
    ((number, _),) = stores.taken()
    begin = system.wall
    system.go_on(1_000, jump=2 * HOUR)
    outcomes = [node.execute(QueueSet(b"q", attempts=9)) for node in stores.nodes]
    stores.progress()
    assert all(outcome.reply is not None for outcome in outcomes)
    looked = stores.say(Look(number))
    assert isinstance(looked, Items)
    assert int(looked.values[4] or 0) == begin + LEASE + 2 * HOUR
    one, other = stores.nodes
    assert (one.position, one.digest, one.queues.index.content()) == (
        other.position,
        other.digest,
        other.queues.index.content(),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    mode=st.sampled_from(MODES),
    steps=st.lists(st.tuples(st.integers(1, LEASE // 3), st.integers(-30, 30)), min_size=1, max_size=12),
)
def test_two_workers_never_have_a_message(system: System, mode: str, steps: list[tuple[int, int]]) -> None:
    """A live worker extends its lease at every third of it, by its own clock."""
    stores = store_in(mode, system)
    stores.say(Put(b"q", b""))
    ((number, lease),) = stores.taken()
    for milliseconds, jump in steps:
        system.go_on(milliseconds, jump=jump * HOUR // 10)
        assert stores.taken() == []
        assert stores.say(Extend(LEASE, ((number, lease),))) == Items((b"1",))
