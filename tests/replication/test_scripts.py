"""Scripts at nodes of a cluster: a run leaves no trace, and its transaction has the effect of a serial execution."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import (
    COMMANDS,
    MISSING,
    OK,
    Append,
    Clear,
    ClearAll,
    ClearPrefix,
    Command,
    Count,
    ExpireWith,
    Failure,
    Get,
    GetMany,
    Incr,
    Put,
    Reply,
    Scan,
    Set,
    SetMany,
    SetWith,
    Step,
    Take,
    Ttl,
    failures,
)
from cairnkv.commands.failures import Code
from cairnkv.commands.vocabulary import Info, Ping
from cairnkv.engine import Database
from cairnkv.limits import SCRIPT_CONFLICTS_MAX
from cairnkv.replication.entries import items, parsed
from cairnkv.replication.store import ReplicatedStore
from cairnkv.scripts import ScriptAbort
from cairnkv.store import RUN_ANEW, Execute, LocalStore, PendingReply, Script, Waiter
from cairnkv.store.script import HELD
from tests.engine.test_model import EASILY_MET
from tests.replication.test_store import said, settled, watching
from tests.support.branching import Branching
from tests.support.clock import HandClock
from tests.support.simulated import Cluster, Node, fingerprint
from tests.support.strategies import commands

Body = Callable[[Callable[[Command], Reply]], Reply]


class Program(Script):
    """A script that is a Python function. runs: the number of its runs so far."""

    def __init__(self, body: Body, places: Sequence[tuple[int, bytes]] = ()) -> None:
        self.runs = 0
        self.places = places
        self._body = body

    def run(self, execute: Execute) -> Reply:
        self.runs += 1
        return self._body(lambda command: execute(Step(0, command)))


def program(*words: Command) -> Program:
    """Return a script that executes commands, and replies with the last reply."""

    def body(call: Callable[[Command], Reply]) -> Reply:
        reply: Reply = OK
        for command in words:
            reply = call(command)
        return reply

    return Program(body)


def adding(key: bytes, amount: int) -> Program:
    """Return a script that adds to a counter by GET and SET, and replies with the old number."""

    def body(call: Callable[[Command], Reply]) -> Reply:
        value = call(Get(key))
        old = int(value) if isinstance(value, bytes) else 0
        call(Set(key, b"%d" % (old + amount)))
        return old

    return Program(body, [(0, key)])


class Call:
    """A client of a node that executes one script, and executes it anew if it must.

    reply: None until it is there.
    """

    def __init__(self, node: Node, script: Script, watched: Any = ()) -> None:
        self.node = node
        self.script = script
        self.reply: Reply | None = None
        self.left = False
        self._watched = watched
        self._execute()

    def _execute(self) -> None:
        store = self.node.running
        outcome = store.execute_script(self.script, self._watched)
        if outcome is RUN_ANEW:
            self._execute()
        elif not isinstance(outcome, PendingReply):
            self.reply = outcome
        elif outcome.reply is not None:
            self.reply = outcome.reply
        else:
            assert outcome.blocks
            assert not outcome.executed
            self._pending = outcome
            outcome.on_ready = self._ready

    def _ready(self) -> None:
        if self.left:
            return
        if self._pending.reply is RUN_ANEW:
            self._execute()
        else:
            self.reply = self._pending.reply


def replies(cluster: Cluster, *calls: Call) -> list[Reply | None]:
    """Return the replies to scripts, after all pending entries have arrived."""
    for _ in range(50):
        cluster.settle()
        if all(call.reply is not None for call in calls):
            break
    return [call.reply for call in calls]


def executed(cluster: Cluster, node: Node, script: Script, watched: Any = ()) -> Reply | None:
    """Return the reply to a script."""
    return replies(cluster, Call(node, script, watched))[0]


def code_of(reply: object) -> Code:
    assert isinstance(reply, Failure), reply
    return reply.code


# -- a run leaves no trace --------------------------------------------------------------------------------------------


@dataclasses.dataclass
class State:
    """Everything of a node that a run could change."""

    shared: object
    versions: bytes
    tables: list[Any]
    counts: list[tuple[int, int]]
    used_bytes: int
    digest: int
    commits: int

    @classmethod
    def of(cls, node: Node) -> "State":
        store = node.running
        for database in store.databases:
            database.check()
        return cls(
            fingerprint(store),
            store._shared.versions.tobytes(),
            [sorted(database._table) for database in store.databases],
            [(database.count(), database.count_expiring()) for database in store.databases],
            store.memory.used_bytes,
            store.digest,
            len(node.disk.commits),
        )


class Stop(ScriptAbort):
    """The end of a script from outside."""


@pytest.fixture(scope="module")
def used() -> Cluster:
    """Return a cluster with keys of all kinds: tracked and untracked, with and without expiry, expired."""
    cluster = settled()
    node = cluster.nodes[0]
    said(cluster, node, *(Set(b"%c" % number, b"7") for number in range(97, 107)), Put(b"q", b"job"))
    said(cluster, node, SetMany(100, ((b"d", b"1"), (b"e", b"2"))), SetMany(10**9, ((b"f", b"1"), (b"g", b"2"))))
    watching(cluster, node, b"a", b"d", b"f", b"absent")
    cluster.now += 1
    said(cluster, node, Set(b"b", b"x"))
    return cluster


ANY = st.builds(Step, st.integers(0, 1), commands([word for word in COMMANDS if not word.spec.by_store], EASILY_MET))


@given(st.lists(ANY, max_size=12), st.booleans(), st.booleans())
def test_run_leaves_no_trace_at_its_node(used: Cluster, steps: list[Step], raises: bool, held: bool) -> None:
    """The state after a run is that before, byte by byte, also while its transaction is in flight."""
    node = used.nodes[0]
    before = State.of(node)

    class Steps(Script):
        def run(self, execute: Execute) -> Reply:
            for step in steps:
                execute(step)
            if held:
                node.running.hold()
                node.running.release()
            if raises:
                raise Stop
            return OK

    call = None
    try:
        call = Call(node, Steps())
    except Stop:
        assert raises
    assert State.of(node) == before
    assert call is not None or not node.running.proposer.waiting
    if call is not None and call.reply is None:  # nothing of it may reach the log, which the other examples use
        call.left = True
        node.running.proposer.interrupt(Failure(failures.NOQUORUM, "for the next example"))
        node.running.proposer.begin(node.running.epochs)
        used.settle()


def test_raised_exception_leaves_the_script_and_no_entry() -> None:
    cluster = settled()
    node = cluster.nodes[0]

    def body(call: Callable[[Command], Reply]) -> Reply:
        call(Set(b"k", b"1"))
        raise Stop

    with pytest.raises(Stop):
        Call(node, Program(body))
    assert not node.running.proposer.waiting
    assert said(cluster, node, Get(b"k")) == [MISSING]


# -- one transaction --------------------------------------------------------------------------------------------------


def log_items(cluster: Cluster, since: int) -> list[str]:
    """Return the kinds of the items of the log after an index."""
    entries = [parsed(data) for data in cluster.stream[since:]]
    return [item.kind.name for entry in entries for item in items(entry.body)]


def test_script_is_one_transaction_of_its_writes() -> None:
    cluster = settled()
    one, other = cluster.nodes[:2]
    said(cluster, one, Set(b"b", b"x"))
    executed(cluster, one, program(Get(b"a"), Set(b"b", b"x")))
    at = len(cluster.stream)
    script = program(Get(b"a"), Clear(b"none"), Set(b"a", b"1"), Incr(b"b", 1), Append(b"b", b"!"), Get(b"b"))
    assert executed(cluster, one, script) == b"x!"
    kinds = log_items(cluster, at)
    assert kinds == ["TRACK", "TRANSACTION"], "the slots of a and of the absent key were not tracked before"
    assert said(cluster, other, GetMany((b"a", b"b"))) == said(cluster, one, GetMany((b"a", b"b")))
    at = len(cluster.stream)
    assert executed(cluster, one, script) == b"x!!"
    assert (log_items(cluster, at), script.runs) == (["TRANSACTION"], 3)


def test_declared_keys_are_tracked_with_those_of_the_first_run() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    script = adding(b"a", 1)
    script.places = [(0, b"a"), (0, b"b")]
    assert executed(cluster, node, script) == 0
    at = len(cluster.stream)
    assert executed(cluster, node, program(Incr(b"a", 1), Incr(b"b", 1))) == 1
    assert log_items(cluster, at) == ["TRANSACTION"]


def test_script_without_writes_writes_nothing_to_the_log() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    at = len(cluster.stream)
    assert executed(cluster, node, program(Get(b"a"), Clear(b"a"))) is OK
    assert log_items(cluster, at) == []
    assert Call(node, program()).reply is OK, "a script that uses no key needs no log"


def test_writes_before_a_failure_of_the_script_stay() -> None:
    cluster = settled()
    said(cluster, cluster.nodes[0], Set(b"k", b"x"))
    script = program(Set(b"a", b"1"), Incr(b"k", 1))
    assert code_of(executed(cluster, cluster.nodes[0], script)) is failures.NOTINT
    assert said(cluster, cluster.nodes[1], Get(b"a")) == [b"1"]


def refused(*words: Command, **options: Any) -> Failure:
    """Return the failure of a script on a new cluster, after whose execution its writes are there."""
    cluster = settled(**options)
    node = cluster.nodes[0]
    reply = executed(cluster, node, program(Set(b"k", b"v"), *words))
    assert isinstance(reply, Failure), reply
    assert said(cluster, node, Get(b"k")) == [b"v"]
    return reply


def test_commands_on_queues_and_of_the_store_are_refused() -> None:
    for command in (Put(b"q", b""), ClearPrefix(b"k", 0), Info()):
        assert refused(command).code is failures.BADARGS


def test_write_without_room_is_refused_within_the_script() -> None:
    assert refused(Set(b"big", b"x" * 5_000), memory_limit=3_000).code is failures.FULL


def test_writes_of_a_script_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairnkv.replication.scripts.TRANSACTION_COST_MAX", 3)
    cluster = settled()
    assert executed(cluster, cluster.nodes[0], program(*[Incr(b"n", 1)] * 3)) == 3
    reply = refused(*[Incr(b"n", 1)] * 3)
    assert reply.code is failures.BIGREPLY
    assert "more work" in reply.text


def test_script_at_a_node_that_cannot_propose() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    node.cut_off = True
    call = Call(node, program(Set(b"k", b"1")))
    for _ in range(20):
        cluster.now += 1
        node.tick()
    assert code_of(call.reply) in (failures.NOQUORUM, failures.UNKNOWN)
    assert code_of(Call(node, program(Get(b"k"))).reply) is failures.NOQUORUM
    node.cut_off = False
    node.crash()
    node.start()
    assert code_of(Call(node, program(Get(b"k"))).reply) is failures.LOADING
    node.running.leave("it is not well")


# -- conflicts --------------------------------------------------------------------------------------------------------


def test_script_sees_each_write_that_was_acknowledged_before() -> None:
    """The node of the script has not applied the entry of the other node yet."""
    for script, expected in ((program(Get(b"k")), b"1"), (program(Count()), 1), (adding(b"k", 1), 1)):
        cluster = settled()
        one, other = cluster.nodes[:2]
        executed(cluster, one, program(Set(b"k", b"0"), Clear(b"k")))
        outcome = other.execute(Set(b"k", b"1"))
        other.pump()
        cluster.arrive()
        other.follow(9)
        assert isinstance(outcome, PendingReply)
        assert outcome.reply is OK
        assert executed(cluster, one, script) == expected


@pytest.mark.parametrize("change", [Set(b"k", b"9"), Clear(b"k"), ClearAll(), SetWith(b"k", b"5", ttl=10_000)], ids=str)
@pytest.mark.parametrize("writes", [False, True])
def test_script_runs_anew_after_a_change_of_its_key(change: Command, writes: bool) -> None:
    cluster = settled()
    one, other = cluster.nodes[:2]
    said(cluster, one, Set(b"k", b"5"))
    executed(cluster, one, adding(b"k", 0))
    script = adding(b"k", 1) if writes else program(Get(b"k"))
    call = Call(one, script)
    other.execute(change)
    other.pump()
    cluster.arrive()  # before the entry of the script
    value = {Set: b"9", SetWith: b"5"}.get(type(change))
    old: Reply = MISSING if value is None else value
    assert replies(cluster, call) == [int(value or 0) if writes else old]
    assert script.runs == 2


def test_key_that_expires_meanwhile() -> None:
    cluster = settled()
    one = cluster.nodes[0]
    executed(cluster, one, adding(b"k", 0))
    said(cluster, one, SetWith(b"k", b"5", ttl=50))
    script = adding(b"k", 1)
    call = Call(one, script)
    cluster.now += 1
    assert replies(cluster, call) == [0]
    assert script.runs == 2


def test_expiry_time_that_passes_before_the_entry() -> None:
    """A time since 1970 may pass between the run and the entry. Then INCR would find no key."""
    cluster = settled()
    node = cluster.nodes[0]
    executed(cluster, node, adding(b"k", 0))
    for with_value in (True, False):
        at = node.clock() + 50
        command = SetWith(b"k", b"5", at=at) if with_value else ExpireWith(b"k", at, at=True)
        said(cluster, node, Set(b"k", b"5"))
        script = program(command, Incr(b"k", 1))
        call = Call(node, script)
        cluster.now += 1
        assert replies(cluster, call) == [1]
        assert script.runs == 2
        assert said(cluster, node, Get(b"k"), Ttl(b"k")) == [b"1", -1]


def test_expiry_time_that_was_past_at_the_run_only() -> None:
    """The clock of the node was ahead, and an operator has corrected it before the entry."""
    cluster = settled()
    node = cluster.nodes[0]
    executed(cluster, node, adding(b"k", 0))
    at = node.clock() + 10_000
    node.clock_off = 30_000
    said(cluster, node, Set(b"k", b"5"))
    call = Call(node, program(ExpireWith(b"k", at, at=True), Incr(b"k", 1)))
    node.clock_off = 0
    assert replies(cluster, call) == [1]
    assert said(cluster, node, Get(b"k"), Ttl(b"k")) == [b"1", -1]


def test_remaining_time_is_that_of_the_entry_of_a_read() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    said(cluster, node, SetWith(b"k", b"5", ttl=10_000))
    cluster.now += 4
    reply = executed(cluster, node, program(Ttl(b"k")))
    assert isinstance(reply, int)
    assert 5_000 < reply <= 6_000


def test_changed_watched_key_ends_the_script() -> None:
    cluster = settled()
    one, other = cluster.nodes[:2]
    watched = watching(cluster, one, b"w")
    assert executed(cluster, one, adding(b"k", 1), watched) == 0
    late = Call(one, adding(b"k", 1), watched)
    reading = Call(one, program(Get(b"k")), watched)
    other.execute(Set(b"w", b"1"))
    other.pump()
    cluster.arrive()
    assert replies(cluster, late, reading) == [MISSING, MISSING]
    assert said(cluster, other, Get(b"k")) == [b"1"]
    assert Call(one, adding(b"k", 1), watched).reply is MISSING


def test_scripts_of_one_node_on_one_key_take_turns() -> None:
    """Each of many scripts runs a few times, not once for each of the others."""
    cluster = settled()
    node = cluster.nodes[0]
    executed(cluster, node, adding(b"k", 0))
    calls = [Call(node, adding(b"k", 1)) for _ in range(40)]
    assert replies(cluster, *calls) == list(range(40))
    assert max(call.script.runs for call in calls) <= 3  # type: ignore[attr-defined]


def test_scripts_of_one_node_on_different_keys_share_an_entry() -> None:
    cluster = settled(room=10_000)
    node = cluster.nodes[0]
    for number in range(10):
        executed(cluster, node, adding(b"%d" % number, 0))
    at = len(cluster.stream)
    calls = [Call(node, adding(b"%d" % number, 1)) for number in range(10)]
    assert replies(cluster, *calls) == [0] * 10
    assert [one for one in log_items(cluster, at) if one == "TRANSACTION"] == ["TRANSACTION"] * 10
    assert len(cluster.stream) == at + 1


def test_script_whose_client_has_left_does_not_stop_the_others() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    executed(cluster, node, adding(b"k", 0))
    calls = [Call(node, adding(b"k", 1)) for _ in range(6)]
    for call in calls[1:4]:
        call.left = True
    cluster.settle()
    for _ in range(4):
        node.running.housekeep()
        cluster.settle()
    assert [call.reply for call in calls] == [0, None, None, None, 1, 2]


def test_endless_conflicts_fail() -> None:
    cluster = settled()
    one, other = cluster.nodes[:2]
    executed(cluster, one, adding(b"k", 0))
    script = adding(b"k", 1)
    call = Call(one, script)
    while call.reply is None:
        other.execute(Incr(b"k", 1))
        other.pump()
        one.pump()
        while cluster.flying:
            cluster.arrive()
        for node in cluster.nodes:
            node.follow(9)
    assert code_of(call.reply) is failures.UNDONE
    assert script.runs == SCRIPT_CONFLICTS_MAX
    assert said(cluster, other, Get(b"k")) == [b"%d" % SCRIPT_CONFLICTS_MAX]


def test_node_that_gets_entries_last_executes_scripts_on_a_contended_key() -> None:
    """Without an order among nodes, the one that gets entries first would execute all of its scripts."""
    cluster = settled()
    executed(cluster, cluster.nodes[0], adding(b"k", 0))
    waiting = {node.number: [Call(node, adding(b"k", 1)) for _ in range(3)] for node in cluster.nodes}
    ended: list[Call] = []
    while len(ended) < 60:
        while cluster.flying:
            cluster.arrive()
        for node in cluster.nodes:
            node.follow(100)
            calls = waiting[node.number]
            ended += [call for call in calls if call.reply is not None]
            calls[:] = [call if call.reply is None else Call(node, adding(b"k", 1)) for call in calls]
            node.pump()
    assert sorted(call.reply for call in ended) == list(range(len(ended)))  # type: ignore[type-var]
    assert min(sum(call.node is node for call in ended) for node in cluster.nodes) >= 10
    assert max(call.script.runs for call in ended) < 10  # type: ignore[attr-defined]


def test_script_waits_for_a_lost_node_for_a_bounded_time() -> None:
    cluster = settled()
    one, other = cluster.nodes[:2]
    executed(cluster, one, adding(b"k", 0))
    lost = Call(other, adding(b"k", 1))
    other.pump()
    one.execute(Incr(b"k", 1))
    one.pump()
    cluster.arrive(1)
    cluster.arrive()
    one.follow(9)
    other.crash()
    call = Call(one, adding(b"k", 1))
    one.pump()
    assert not cluster.flying, "it waits for the other node"
    cluster.now += 1
    one.running.housekeep()
    assert replies(cluster, call) == [1]
    assert lost.reply is None


# -- serial execution -------------------------------------------------------------------------------------------------


def transfer(source: bytes, target: bytes, mark: int) -> Program:
    """Return a script that moves one from a counter to another, if there is one, and adds its mark to a third."""

    def body(call: Callable[[Command], Reply]) -> Reply:
        numbers = [int(value) if isinstance(value, bytes) else 0 for value in map(call, map(Get, (source, target)))]
        if numbers[0] > 0:
            call(Set(source, b"%d" % (numbers[0] - 1)))
            call(Set(target, b"%d" % (numbers[1] + 1)))
        old = call(Get(b"marks"))
        marks = int(old) if isinstance(old, bytes) else 0
        call(Set(b"marks", b"%d" % (marks + mark)))
        return marks

    return Program(body)


EVENTS = st.one_of(
    st.tuples(st.just("script"), st.integers(0, 2), st.integers(0, 5)),
    st.tuples(st.sampled_from(["pump", "follow", "pump", "follow", "crash", "hang up"]), st.integers(0, 2), st.just(0)),
    st.tuples(
        st.sampled_from(["arrive", "arrive", "arrive", "lose", "refuse", "again"]), st.just(0), st.integers(0, 3)
    ),
)


def happens(cluster: Cluster, event: tuple[str, int, int], calls: list[Call]) -> None:
    """Let one event happen."""
    what, at, number = event
    node = cluster.nodes[at]
    match what:
        case "script":
            source, target = list(itertools.permutations((b"a", b"b", b"c"), 2))[number]
            calls.append(Call(node, transfer(source, target, 1 << len(calls))))
        case "pump":
            node.pump()
        case "follow":
            node.follow()
        case "crash":
            node.crash(number)
            for call in calls:
                call.left = call.left or (call.node is node and call.reply is None)
            node.start()
        case "hang up":
            for call in [call for call in calls if call.node is node][-1:]:
                call.left = call.left or call.reply is None
        case _ if number < len(cluster.flying):
            if what == "lose":
                cluster.lose(number)
            elif what == "refuse":
                cluster.refuse(number)
            else:
                cluster.arrive(number, again=what == "again")


@given(st.lists(EVENTS, max_size=60))
def test_scripts_of_several_nodes_are_serial_under_faults(events: list[tuple[str, int, int]]) -> None:
    """Each script adds a bit of its own, so the bits show which scripts were executed, how often, and after which."""
    cluster = settled()
    said(cluster, cluster.nodes[0], *(Set(key, b"5") for key in (b"a", b"b", b"c")))
    calls: list[Call] = []
    for event in events:
        happens(cluster, event, calls)
    for _ in range(3):
        cluster.settle()
        for node in cluster.nodes:
            node.running.housekeep()
    known = [call for call in calls if not call.left]
    replies(cluster, *known)
    *counters, marks = (
        int(value) if isinstance(value, bytes) else 0
        for value in said(cluster, cluster.nodes[0], Get(b"a"), Get(b"b"), Get(b"c"), Get(b"marks"))
    )
    assert min(counters) >= 0
    before: dict[int, int] = {}
    for number, call in enumerate(calls):
        if isinstance(call.reply, int):
            before[number] = call.reply
            assert marks >> number & 1, "an acknowledged script was lost"
        elif isinstance(call.reply, Failure) and call.reply.code.executed is False:
            assert not marks >> number & 1, "a script that failed was executed"
        else:
            assert call.left or code_of(call.reply) is failures.UNKNOWN
    assert marks < 1 << len(calls), "a script was executed twice"
    order = sorted(before, key=lambda number: before[number].bit_count())
    for earlier, later in itertools.pairwise(order):
        seen = before[earlier] | 1 << earlier
        assert before[later] & seen == seen, "two scripts saw the same state"
    assert sum(counters) == 15, "a transfer was executed in part"


DETERMINISTIC = st.builds(
    Step,
    st.integers(0, 1),
    commands([word for word in COMMANDS if not word.spec.by_store and word not in (ClearPrefix, Scan)], EASILY_MET),
)
STAGES = st.lists(st.lists(DETERMINISTIC, min_size=1, max_size=3), max_size=4)


@given(st.lists(st.tuples(STAGES, st.integers(0, 2_000)), max_size=6))
def test_scripts_have_the_effects_and_replies_of_a_local_store(scripts: list[tuple[Any, int]]) -> None:
    """Each script executes at another node than the one before."""
    clock = HandClock()
    cluster, local = settled(room=10**6, clock=clock), LocalStore(clock=clock)
    for number, (stages, time) in enumerate(scripts):
        clock.now += time
        expected = local.execute_script(Branching(stages))
        assert executed(cluster, cluster.nodes[number % 3], Branching(stages)) == expected
    assert said(cluster, cluster.nodes[0], Count()) == [local.execute(Count())]  # log time is that of the clock now
    for database, copy in zip(local.databases, cluster.nodes[0].running.databases, strict=True):
        assert sorted(keys_of(database)) == sorted(keys_of(copy))


def keys_of(database: Database) -> list[tuple[bytes, object]]:
    """Return the keys of a database with their values and expiries."""
    return [(key, database.entry(key)) for key in database.keys_in_memory() if database.has(key)]


def test_node_that_does_not_watch_the_keys_of_scripts_loses_writes() -> None:
    """Otherwise the tests above would prove nothing."""
    cluster = settled(broken=("unwatched-scripts",))
    calls = [Call(node, adding(b"k", 1)) for node in cluster.nodes]
    assert replies(cluster, *calls) == [0, 0, 0]


# -- a paused script --------------------------------------------------------------------------------------------------


def paused(node: Node, between: Callable[[ReplicatedStore], None]) -> Call:
    """Execute a script that pauses after its first write. between: called while it pauses."""
    store = node.running

    def body(call: Callable[[Command], Reply]) -> Reply:
        call(Set(b"k", b"uncommitted"))
        store.hold()
        try:
            between(store)
        finally:
            store.release()
        return call(Append(b"k", b"!"))

    return Call(node, Program(body))


def test_held_node_executes_nothing_and_applies_nothing() -> None:
    cluster = settled()
    one, other = cluster.nodes[:2]
    waiter = Waiter(Take(b"q", 1, wait=1_000))

    def between(store: ReplicatedStore) -> None:
        assert store.execute(Get(b"k"), local=True) is HELD
        assert store.execute(Set(b"k", b"x")) is HELD
        assert store.execute_all([Step(0, Get(b"k"))]) is HELD
        assert store.watch([(0, b"k")], {}) is HELD
        assert store.execute_script(adding(b"k", 1)) is HELD
        store.begin_take(waiter)
        assert waiter.reply is HELD
        assert store.execute(Ping(b"")) == b"PONG"
        assert b"mode" in str(store.execute(Info())).encode()
        assert not store.takes_entries
        assert not store.takes_batches
        assert not store.housekeep()
        other.execute(Set(b"other", b"1"))
        other.pump()
        cluster.arrive()
        one.follow(9)
        assert store.position < len(cluster.stream)
        store.serve_waiters()

    call = paused(one, between)
    assert one.running.takes_entries
    assert replies(cluster, call) == [len(b"uncommitted!")]
    assert said(cluster, one, Get(b"k"), Get(b"other")) == [b"uncommitted!", b"1"]


def test_snapshot_during_a_pause_undoes_the_run() -> None:
    """While a node is held for long, the log may delete entries that it still needs."""
    cluster = settled()
    one, other = cluster.nodes[:2]
    said(cluster, one, Set(b"k", b"old"))

    def between(store: ReplicatedStore) -> None:
        one.take_snapshot(other.disk.copy())
        assert store.databases[0].get(b"k") == b"old"

    call = paused(one, between)
    assert code_of(call.reply) is failures.LOADING
    cluster.settle()
    assert said(cluster, one, Get(b"k")) == [b"old"]
    one.running.databases[0].check()


def test_scan_in_a_script_sees_its_own_writes() -> None:
    cluster = settled()
    script = program(Set(b"k", b"v"), Scan(0, 10, b""))
    reply: Any = executed(cluster, cluster.nodes[0], script)
    assert reply.values == (b"0", b"k")
