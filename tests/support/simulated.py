"""A cluster in one thread: a stream, its network, nodes with their tables, and a clock that the test sets.

The simulation drives a node as `cairnkv.replication.node` does. Each event of the network and each crash is a method,
and the caller decides which event comes next.

Invariants: at each log index, the simulation compares each node's state with the first node's state, byte by byte.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

from cairnkv.commands import Command, Reply, Step
from cairnkv.commands.failures import Code
from cairnkv.engine import Database
from cairnkv.limits import VALUE_MAX
from cairnkv.replication.entries import HEADER_BYTES_MAX, SEMANTICS
from cairnkv.replication.store import ReplicatedStore
from cairnkv.storage import CommitListener, Deliver, Effect, MakeBackup, StorageRefused
from cairnkv.storage.base import size_of_effects
from cairnkv.store import PendingReply

EPOCH_MS = 1_700_000_000_000
"""The time of day when a simulation begins, in milliseconds since 1970."""

IDENTITY = 77

Fingerprint: TypeAlias = tuple[object, ...]


@dataclasses.dataclass
class Disk:
    """The commits of a node's store, oldest first, each with log time and effects."""

    commits: list[tuple[int, tuple[Effect, ...]]] = dataclasses.field(default_factory=list)

    def copy(self) -> "Disk":
        """Return a snapshot."""
        return Disk(list(self.commits))

    def fall_back(self, commits: int) -> None:
        """Remove the newest commits, which were not fsynced."""
        del self.commits[max(0, len(self.commits) - commits) :]


class TableStorage:
    """A node's table: a log that keeps effects, in memory."""

    mode = "durable"
    commits_at_once = False
    keeps_effects = True
    back_up: MakeBackup | None = None
    accepts_writes = True
    is_behind = False
    memory_bytes = 0

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.sequence = len(disk.commits)
        self.refuses: Code | None = None

    def restore(self, databases: Mapping[int, Database], memory_limit: int | None = None) -> int:
        """Leave out expired keys, as the storage on disk does."""
        tables: dict[int, dict[bytes, tuple[bytes, int | None]]] = {db: {} for db in databases}
        now = 0
        for time, effects in self.disk.commits:
            now = max(now, time)
            for db, key, value, deadline in effects:
                if key is None:
                    tables[db].clear()
                elif value is None:
                    tables[db].pop(key, None)
                else:
                    tables[db][key] = value, deadline
        databases[0].advance(now)
        for db, table in tables.items():
            for key, (value, deadline) in table.items():
                if deadline is None or deadline > now:
                    databases[db].load(key, value, deadline)
        return self.sequence

    def listen(self, listener: CommitListener) -> None:
        """Ignore the listener."""

    def deliver_by(self, deliver: Deliver) -> None:
        """Do nothing: the simulation has one thread."""

    def append(self, steps: Sequence[Step], now: int, effects: Sequence[Effect] = (), size: int | None = None) -> int:
        """Keep a commit."""
        if self.refuses is not None:
            raise StorageRefused("the table takes nothing", self.refuses)
        assert size is None or size >= size_of_effects(effects)
        self.sequence += 1
        self.disk.commits.append((now, tuple(effects)))
        return self.sequence

    def expired(self, db: int, keys: Sequence[bytes], now: int) -> None:
        """Do nothing: the next start removes expired keys."""

    def fetch(self, db: int, key: bytes, length: int, told: Callable[[bytes | Exception], None]) -> None:
        """Raise an error: all values are in memory."""
        raise NotImplementedError

    def close(self, now: int) -> None:
        """Do nothing: no file is open."""

    def about(self) -> Iterable[tuple[str, str | int]]:
        """Return no facts."""
        return ()


def fingerprint(store: ReplicatedStore) -> Fingerprint:
    """Return the state that is the same on all nodes at a log index."""
    entries = [
        (database.number, sorted((key, database.entry(key)) for key, _, _ in database._table if database.has(key)))
        for database in (*store.databases, store.queues)
        if database.count()
    ]
    table = store.epochs
    rows = {node: (table.packed(node), tuple(row.parts)) for node, row in table.rows.items()}
    versions = {slot: store._shared.versions[slot] for slot in store._tracked}
    return (store.position, store._shared.now, store.digest, store.semantics, entries, rows, versions, *_others(table))


def _others(table: object) -> tuple[object, ...]:
    return (getattr(table, "floor", None),)


class Node:
    """One node: its number, its disk and, while it runs, its store."""

    def __init__(self, cluster: "Cluster", number: int) -> None:
        self.cluster = cluster
        self.number = number
        self.disk = Disk()
        self.life = 0
        self.supports = cluster.supports
        self.clock_off = 0  # milliseconds
        self.cut_off = False  # it reaches nothing, and nothing reaches it
        self.proposes_time = True  # whether log time follows its clock
        self.store: ReplicatedStore | None = None
        self.table: TableStorage | None = None
        self.target = 0
        self.caught_up = False
        self.pump_wanted = False

    # -- its life ---------------------------------------------------------------------------------------------

    def start(self, disk: Disk | None = None) -> None:
        """Start the node with its disk, or with another one."""
        assert self.store is None
        if disk is not None:
            self.disk = disk
        self.life += 1
        self.table = TableStorage(self.disk)
        self.store = self.cluster.new_store(self, self.table)
        self.store.on_proposal = self._want_pump
        self.store.elapsed = lambda: int(self.cluster.now * 1000)
        self._load()

    def _load(self) -> None:
        store = self.running
        store.begin(store.load())
        if store.identity == 0:
            store.identity = IDENTITY
        self.target = len(self.cluster.stream)
        self.caught_up = False
        self._look_whether_caught_up()

    def crash(self, lost_commits: int = 0) -> None:
        """Stop the node, and remove a number of commits that were not fsynced."""
        self.store = None
        self.disk.fall_back(lost_commits)

    def take_snapshot(self, disk: Disk) -> None:
        """Continue in the same process from another table."""
        self.disk = disk
        self.table = TableStorage(disk)
        self.running.reopen(self.table)
        self._load()

    @property
    def running(self) -> ReplicatedStore:
        """The store of the running node."""
        assert self.store is not None
        return self.store

    @property
    def is_up(self) -> bool:
        """Whether the node runs and has not stopped."""
        return self.store is not None and self.store.stopped is None

    def clock(self) -> int:
        """Return the time of the node's clock."""
        if self.cluster.clock is not None:
            return self.cluster.clock() + self.clock_off
        return EPOCH_MS + int(self.cluster.now * 1000) + self.clock_off

    # -- what its member does ---------------------------------------------------------------------------------

    def _want_pump(self) -> None:
        self.pump_wanted = True

    def pump(self) -> None:
        """Publish the entries of the proposer."""
        self.pump_wanted = False
        if not self.is_up or not self.caught_up:
            return
        proposer = self.running.proposer
        proposer.room = self.cluster.room
        time, lead = self.running.proposed_time() if self.proposes_time else (0, 0)
        if time and not self.running.keep_leases():
            time = lead = 0
        for data in proposer.take_entries(self.cluster.now, time, lead):
            assert len(data) <= self.cluster.room + HEADER_BYTES_MAX
            self.cluster.published(self, data)

    def follow(self, entries: int = 1) -> None:
        """Apply at most a number of the logged entries."""
        for _ in range(entries):
            if self.cut_off or not self.is_up or self.running.position >= len(self.cluster.stream):
                return
            store = self.running
            if not store.takes_entries:
                return
            position = store.position + 1
            store.apply_entry(position, self.cluster.stream[position - 1])
            self.cluster.applied(self)
            self._look_whether_caught_up()

    def _look_whether_caught_up(self) -> None:
        store = self.running
        if not self.caught_up and store.position >= self.target:
            self.caught_up = True
            store.proposer.begin(store.epochs)
        if self.caught_up and store.loading and store.proposer.quorum:
            store.join()

    def tick(self) -> None:
        """Check the timeouts of the node, and serve its waiters, as its timer does."""
        if self.is_up:
            self.running.proposer.tick(self.cluster.now, self.running.epochs)
            self.running.serve_waiters()
            self.pump()

    def refused(self) -> None:
        """Report an entry that the stream has refused."""
        if self.is_up:
            self.running.proposer.lost(self.running.epochs)
            self.pump()

    def execute(self, command: Command, db: int = 0) -> Reply | PendingReply:
        """Execute a command."""
        return self.running.execute(command, db)


@dataclasses.dataclass
class Publish:
    """An entry in flight to the stream."""

    node: Node
    life: int
    data: bytes


class Cluster:
    """The stream, the entries in flight, and the nodes."""

    def __init__(
        self,
        nodes: int = 3,
        *,
        room: int = 400,
        broken: Collection[str] = (),
        memory_limit: int | None = None,
        clock: Callable[[], int] | None = None,
        supports: int = SEMANTICS,
    ) -> None:
        """room: bytes of the body of an entry. clock: of all nodes; None: the clock of the simulation.

        supports: the newest semantics that the nodes support.
        """
        self.supports = supports
        self.now = 100.0
        self.clock = clock
        self.room = room
        self.stream: list[bytes] = []
        self.flying: list[Publish] = []
        """What was published, and has neither come nor been lost."""
        self.seen: dict[int, Fingerprint] = {}
        self.watchers: list[Callable[[Node], None]] = []
        self._broken = broken
        self._memory_limit = memory_limit
        self.nodes = [Node(self, 0xA0 + number) for number in range(nodes)]
        self.observer = Node(self, 0x0B5)
        self.observer.supports = SEMANTICS
        """One that proposes nothing, and is always at the end of the stream."""
        self.observer.start()
        for node in self.nodes:
            node.start()

    def new_store(self, node: Node, table: TableStorage) -> ReplicatedStore:
        """Return the store of a node's process."""
        nonce = b"%4x%4x" % (node.number, node.life)
        return ReplicatedStore(
            node=node.number,
            nonce=nonce,
            storage=table,
            clock=node.clock,
            value_max=VALUE_MAX,
            memory_limit=self._memory_limit,
            supports=node.supports,
            broken=self._broken,
        )

    # -- the network ------------------------------------------------------------------------------------------

    def published(self, node: Node, data: bytes) -> None:
        """Record an entry that a node has sent."""
        if not node.cut_off:
            self.flying.append(Publish(node, node.life, data))

    def arrive(self, at: int = 0, *, again: bool = False) -> None:
        """Append an entry in flight to the stream. again: keep it in flight too."""
        publish = self.flying[at] if again else self.flying.pop(at)
        self.append(publish.data)

    def append(self, data: bytes) -> None:
        """Append a message to the stream."""
        self.stream.append(data)
        self.observer.caught_up = True
        store = self.observer.running
        position = store.position + 1
        store.apply_entry(position, data)
        self.applied(self.observer)

    def lose(self, at: int = 0) -> None:
        """Lose one of the entries in flight, silently."""
        self.flying.pop(at)

    def refuse(self, at: int = 0) -> None:
        """Refuse one of the entries in flight, and inform its node if it runs."""
        publish = self.flying.pop(at)
        if publish.life == publish.node.life and publish.node.store is not None:
            publish.node.refused()

    # -- what has to hold -------------------------------------------------------------------------------------

    def applied(self, node: Node) -> None:
        """Compare the state of a node with the other nodes' states at this log index."""
        store = node.running
        if store.stopped is None:
            found = fingerprint(store)
            expected = self.seen.setdefault(store.position, found)
            assert found == expected, f"node {node.number:x} differs at {store.position}:\n{found}\n{expected}"
        for watcher in self.watchers:
            watcher(node)

    # -- when all is well -------------------------------------------------------------------------------------

    def settle(self, rounds: int = 400) -> None:
        """Let all entries in flight arrive, in order, until no node publishes any more."""
        for _ in range(rounds):
            for node in self.nodes:
                node.pump()
            while self.flying:
                self.arrive()
            for node in self.nodes:
                node.follow(1_000)
            self.now += 0.1
            for node in self.nodes:
                node.tick()
            quiet = all(
                not node.is_up or (node.running.proposer.quorum and not node.running.proposer.waiting)
                for node in self.nodes
            )
            if quiet and not self.flying:
                return
        raise AssertionError("it does not come to rest")
