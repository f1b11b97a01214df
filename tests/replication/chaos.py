"""Clients of a simulated cluster under random faults, and the rules that their replies must obey.

`Chaos` makes random choices from a seed; the same seed makes the same choices. `check` compares all replies with those
of a plain model that executes the log again, with its own rules about the entries that count.
"""

import bisect
import collections
import copy
import dataclasses
import math
import random
from collections.abc import Callable, Sequence

from cairnkv.commands import (
    MISSING,
    OK,
    Ack,
    Append,
    ClearAll,
    ClearIfEquals,
    ClearMany,
    ClearPrefix,
    Command,
    Copy,
    Count,
    Deadline,
    Exists,
    Expire,
    ExpireWith,
    Extend,
    Failure,
    Get,
    GetMany,
    GetWith,
    Incr,
    Items,
    Look,
    Nack,
    Peek,
    Persist,
    Put,
    PutMany,
    Queues,
    QueueSet,
    QueueStats,
    Remove,
    Rename,
    Replies,
    Reply,
    RequeueIds,
    Scope,
    Set,
    SetMany,
    SetWith,
    Step,
    Swap,
    Take,
    TakeAny,
    Ttl,
    failures,
)
from cairnkv.commands.failures import Fault
from cairnkv.engine import Watched
from cairnkv.limits import DATABASES, SCRIPT_CONFLICTS_MAX
from cairnkv.replication import epochs
from cairnkv.replication.entries import HEADER_BYTES, Entry, Item, ItemKind, Kind, items, parsed
from cairnkv.replication.entry_codec import skip_of, steps_of, transaction_of
from cairnkv.replication.store import LEAD_LEAST_MS
from cairnkv.store import RUN_ANEW, PendingReply, Waiter
from tests.support.branching import Branching
from tests.support.model import Model, same
from tests.support.queue_model import QueueModel
from tests.support.simulated import Cluster, Node

REGISTERS = [b"r0", b"r1"]
"""Keys of the first keyspace, of which single commands speak, without deadlines."""

KEYS = [b"k0", b"k1", b"k2", b"p0", b"p1"]
"""Keys of the second keyspace, to which anything happens."""

QUEUES = (b"q", b"r")

WAITS = (1, 50, 400)
"""Milliseconds for which TAKE commands wait for messages."""

TAGS = 2
"""The keyspace in which each transaction leaves a key."""

STRANGERS = (1, 2)
"""Nodes that nobody runs, as which somebody writes what comes into his head."""

NO_MESSAGES = Items(())

OUTSTANDING_MAX = 6

CRASHED = Failure(failures.UNKNOWN, "the node has gone")


@dataclasses.dataclass
class Op:
    """A command of a client, and its reply."""

    number: int
    client: int
    life: tuple[int, int]  # node, and its life
    steps: tuple[Step, ...]
    invoked: int
    tag: bytes = b""
    watched: tuple[tuple[int, Watched], ...] = ()
    watched_at: int = 0  # the position at which the watched keys were noted
    completed: int = 0
    reply: Reply | None = None
    position: int = 0  # at which its node was when it was told
    script: Branching | None = None
    blocks: bool = False  # whether its client has sent nothing until the reply

    @property
    def writes(self) -> bool:
        """Whether the command may change the store."""
        return self.script.writes if self.script else any(step.command.spec.writes for step in self.steps)

    @property
    def took_nothing(self) -> bool:
        """Whether it is a TAKE that found no messages, by a read or by an entry of the log."""
        return not self.script and isinstance(self.steps[0].command, Take | TakeAny) and self.reply == NO_MESSAGES

    @property
    def failed(self) -> bool:
        """Whether the command was certainly not executed."""
        if not isinstance(self.reply, Failure) or self.reply.code.executed is not False:
            return False
        return self.reply.code.fault is not Fault.CALLER  # who has asked for what cannot be was answered by the log

    @property
    def unknown(self) -> bool:
        """Whether the outcome is unknown to the client."""
        return self.reply is None or (isinstance(self.reply, Failure) and self.reply.code is failures.UNKNOWN)


@dataclasses.dataclass
class Client:
    """A client. It has one connection at a time, each with a random node."""

    number: int
    node: Node
    life: int
    waiting: list[Op] = dataclasses.field(default_factory=list)
    waiter: Waiter | None = None  # its newest TAKE that waits for messages
    connection: int = 0  # the number of its connection
    blocked: bool = False
    watched: dict[tuple[int, bytes], Watched] = dataclasses.field(default_factory=dict)
    watched_at: int = 0


class Chaos:
    """A simulated cluster, its clients and random faults."""

    def __init__(
        self,
        seed: int,
        *,
        nodes: int = 3,
        clients: int = 5,
        faults: float = 1.0,
        cluster: Cluster | None = None,
    ) -> None:
        """faults: the frequency of faults; 0: none."""
        self.dice = random.Random(seed)
        self.cluster = cluster or Cluster(nodes)
        self.cluster.watchers.append(self._applied)
        self.ops: list[Op] = []
        self.tagged_at: dict[bytes, int] = {}
        self._moment = 0
        self._faults = faults
        self._leases: list[tuple[int, int]] = []
        """Ids of messages and their leases, as clients were told."""
        self.cluster.settle()
        self.clients = [Client(number, self._some_node(), 1) for number in range(clients)]
        for client in self.clients:
            client.life = client.node.life
        self._applying: Node | None = None
        self.clocks_were_set = False
        self._later: list[Callable[[], None]] = []
        """The runs of scripts that must run anew, at a time of their sessions' choice."""

    # -- what happens ---------------------------------------------------------------------------------------------

    def run(self, steps: int) -> "Chaos":
        """Execute a number of random steps."""
        ordinary: list[tuple[Callable[[], None], float]] = [
            (self._say, 10),
            (self._pump, 8),
            (self._arrive, 10),
            (self._follow, 14),
            (self._time_passes, 5),
            (self._keep_house, 1),
            (self._run_scripts_anew, 4),
        ]
        faulty: list[tuple[Callable[[], None], float]] = [
            (self._arrive_out_of_order, 2),
            (self._arrive_twice, 1),
            (self._lose, 0.6),
            (self._refuse, 0.6),
            (self._crash, 0.5),
            (self._start, 2.5),
            (self._snapshot, 0.3),
            (self._cut_off, 0.3),
            (self._heal, 1),
            (self._long_time_passes, 0.3),
            (self._set_clock, 0.3),
            (self._hang_up, 1),
            (self._garbage, 0.2),
        ]
        whats = [what for what, _ in ordinary + faulty]
        weights = [weight for _, weight in ordinary] + [weight * self._faults for _, weight in faulty]
        for what in self.dice.choices(whats, weights, k=steps):
            what()
        return self

    def end(self) -> "Chaos":
        """End all faults, and wait until no entry is in flight."""
        cluster = self.cluster
        for node in cluster.nodes:
            node.cut_off = False
            node.clock_off = 0
            if node.store is None:
                node.start()
        for _ in range(SCRIPT_CONFLICTS_MAX):
            cluster.settle()
            self._run_scripts_anew()
            for node in cluster.nodes:
                node.running.housekeep()
        assert not self._later, "a script does not come to its end"
        cluster.now += WAITS[-1] / 1000
        for node in cluster.nodes:
            node.tick()
        cluster.settle()
        for node in cluster.nodes:
            store = node.running
            assert store.stopped is None, store.stopped
            assert dict(store.info())["waiting_takes"] == 0
            assert store.position == len(cluster.stream)
            assert not store.loading
            assert store.proposer.quorum
            assert not store.proposer.waiting
            for database in (*store.databases, store.queues):
                database.check()
        waiting = [op for client in self.clients for op in client.waiting]
        assert not waiting, f"nobody has told what became of {waiting[0]}"
        return self

    def _some_node(self) -> Node:
        return self.dice.choice(self.cluster.nodes)

    def _pump(self) -> None:
        self._some_node().pump()

    def _arrive(self) -> None:
        if self.cluster.flying:
            self.cluster.arrive()

    def _any_flying(self) -> int | None:
        return self.dice.randrange(len(self.cluster.flying)) if self.cluster.flying else None

    def _arrive_out_of_order(self) -> None:
        if (at := self._any_flying()) is not None:
            self.cluster.arrive(at)

    def _arrive_twice(self) -> None:
        if (at := self._any_flying()) is not None:
            self.cluster.arrive(at, again=True)

    def _lose(self) -> None:
        if (at := self._any_flying()) is not None:
            self.cluster.lose(at)

    def _refuse(self) -> None:
        if (at := self._any_flying()) is not None:
            self.cluster.refuse(at)

    def _follow(self) -> None:
        node = self._some_node()
        self._applying = node
        node.follow(self.dice.choice((1, 1, 3, 20)))
        self._applying = None

    def _time_passes(self) -> None:
        self.cluster.now += self.dice.choice((0.001, 0.02, 0.2))
        for node in self.cluster.nodes:
            node.tick()

    def _long_time_passes(self) -> None:
        for _ in range(self.dice.choice((1, 3, 8))):
            self.cluster.now += 2.5
            for node in self.cluster.nodes:
                node.tick()

    def _keep_house(self) -> None:
        if (node := self._some_node()).is_up:
            node.running.housekeep()

    def _run_scripts_anew(self) -> None:
        later, self._later = self._later, []
        for run in later:
            run()

    def _crash(self) -> None:
        node = self._some_node()
        if node.store is not None:
            node.crash(self.dice.choice((0, 0, 1, 3, 30, 10_000)))
            for client in self.clients:
                if client.node is node:
                    self._leave(client)

    def _start(self) -> None:
        node = self._some_node()
        if node.store is None:
            other = self._some_node()
            node.start(other.disk.copy() if self.dice.random() < 0.3 else None)

    def _snapshot(self) -> None:
        node, other = self._some_node(), self._some_node()
        if node.is_up and node is not other:
            node.take_snapshot(other.disk.copy())

    def _cut_off(self) -> None:
        self._some_node().cut_off = True

    def _heal(self) -> None:
        self._some_node().cut_off = False

    def _hang_up(self) -> None:
        """Disconnect a client, maybe while it waits for messages."""
        client = self.dice.choice(self.clients)
        if client.node.store is not None and client.life == client.node.life:
            self._leave(client)
            if client.waiter is not None:
                client.node.running.end_take(client.waiter, gives_back=True)
                client.waiter = None

    def _set_clock(self) -> None:
        self._some_node().clock_off = self.dice.choice((0, 0, -900, 700, 30_000))
        self.clocks_were_set = True

    def _garbage(self) -> None:
        """Append entries of an unknown proposer."""
        dice = self.dice
        data = b"\1" + dice.randbytes(dice.randrange(80))
        if dice.random() < 0.8:
            node, kind = dice.choice(STRANGERS), dice.choice(list(Kind))
            body = dice.randbytes(dice.choice((0, 9, 10, 10, 10, 30)))
            if self.cluster.stream and dice.random() < 0.7:
                changed = bytearray(dice.choice(self.cluster.stream)[HEADER_BYTES:])
                for _ in range(dice.randrange(1, 4)):
                    if changed:
                        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
                body = bytes(changed)
            time = self.cluster.observer.clock() + dice.randrange(100)
            data = Entry(kind, node, dice.choice((0, 1, 2, 30)), dice.randrange(1, 4), time, body).packed()
        self.cluster.append(data)

    # -- what clients say ---------------------------------------------------------------------------------------

    def _leave(self, client: Client) -> None:
        """Stop a node, which leaves its pending commands without a reply."""
        for op in client.waiting:
            self._moment += 1
            op.completed, op.reply = self._moment, CRASHED
        client.waiting.clear()
        client.connection += 1
        client.watched = {}
        client.blocked = False

    def _say(self) -> None:
        client = self.dice.choice(self.clients)
        gone = client.node.store is None or client.life != client.node.life
        if gone or (not client.waiting and self.dice.random() < 0.3):
            self._leave(client)
            client.waiter = None
            client.node = self._some_node()
            client.life = client.node.life
            if client.node.store is None:
                return
        if client.blocked or len(client.waiting) >= OUTSTANDING_MAX:
            return
        self._moment += 1
        dice = self.dice
        number = len(self.ops) + 1
        kind = dice.random()
        if kind < 0.1:
            self._watch(client)
        elif kind < 0.25:
            self._transact(client, number)
        elif kind < 0.3:
            self._do(
                client, Op(number, client.number, self._life(client), (Step(1, ClearPrefix(b"p", 0)),), self._moment)
            )
        elif kind < 0.42:
            self._script(client, number)
        elif kind < 0.58:
            command = self._queue_command(number)
            db = 0 if command.waiting_time() else dice.choice((0, 1))
            self._do(client, Op(number, client.number, self._life(client), (Step(db, command),), self._moment))
        else:
            db = dice.choice((0, 1))
            command = self._register_command(number) if db == 0 else self._command(number)
            self._do(client, Op(number, client.number, self._life(client), (Step(db, command),), self._moment))

    @staticmethod
    def _life(client: Client) -> tuple[int, int]:
        return client.node.number, client.node.life

    def _do(self, client: Client, op: Op) -> None:
        store = client.node.running
        self.ops.append(op)
        ((db, command),) = op.steps
        if command.waiting_time():
            client.waiter = Waiter(command)
            store.begin_take(client.waiter)
            self._wait(client, op, client.waiter)
        else:
            self._wait(client, op, store.execute(command, db))

    def _transact(self, client: Client, number: int) -> None:
        dice = self.dice
        tag = b"t%d" % number
        watched = tuple((db, watch) for (db, _), watch in client.watched.items())
        steps = [Step(1, self._step(number)) for _ in range(dice.randrange(3))] + [Step(TAGS, Set(tag, b""))]
        op = Op(number, client.number, self._life(client), tuple(steps), self._moment, tag, watched, client.watched_at)
        client.watched = {}
        outcome = client.node.running.execute_all(op.steps, watched, bytes_max=1_000_000)
        if outcome is not MISSING:  # it is certain by now that they have changed, and the log has nothing of it
            self.ops.append(op)
            self._wait(client, op, outcome)

    def _script(self, client: Client, number: int) -> None:
        """Execute a script. One that writes leaves a key, as transactions do."""
        dice = self.dice
        tag = b"s%d" % number
        writes = dice.random() < 0.8
        choose = self._scripted_write if writes else self._scripted_read
        stages = [[choose(number) for _ in range(3)] for _ in range(dice.randrange(1, 5))]
        script = Branching(stages, [Step(TAGS, Set(tag, b""))] if writes else ())
        watched = tuple((db, watch) for (db, _), watch in client.watched.items())
        op = Op(number, client.number, self._life(client), (Step(1, Get(tag)),), self._moment, tag if writes else b"")
        op.script, op.watched, op.watched_at = script, watched if writes else (), client.watched_at
        client.watched = {}
        self.ops.append(op)
        self._run(client, op, script, watched)

    def _run(
        self,
        client: Client,
        op: Op,
        script: Branching,
        watched: tuple[tuple[int, Watched], ...],
        *,
        in_entry: bool = False,
    ) -> None:
        store = client.node.running
        outcome = store.execute_script(script, watched)
        assert outcome is not RUN_ANEW

        def again(*, in_entry: bool) -> None:
            if op.reply is None:
                self._run(client, op, script, watched, in_entry=in_entry)

        def anew() -> None:
            if self._applying is client.node and self.dice.random() < 0.5:
                again(in_entry=True)
            else:
                self._later.append(lambda: again(in_entry=False))

        if outcome is MISSING and script.runs == 0:
            self.ops.remove(op)  # it is certain by now that watched keys have changed, and the log has nothing of it
        else:
            self._wait(client, op, outcome, anew, in_entry=in_entry)

    def _watch(self, client: Client) -> None:
        places = [(1, key) for key in self.dice.sample(KEYS, self.dice.choice((1, 2)))]
        into: dict[tuple[int, bytes], Watched] = {}
        outcome = client.node.running.watch(places, into)
        connection, node = client.connection, client.node
        if not isinstance(outcome, PendingReply):
            return
        client.blocked = True

        def ready() -> None:
            if client.connection == connection:
                client.blocked = False
                if outcome.reply is OK:
                    client.watched = into
                    client.watched_at = node.running.position + 1

        outcome.on_ready = ready

    def _wait(
        self,
        client: Client,
        op: Op,
        outcome: Reply | PendingReply,
        anew: Callable[[], None] = lambda: None,
        *,
        in_entry: bool = False,
    ) -> None:
        """Wait for a reply. anew: runs a script anew. in_entry: whether an entry is being applied."""
        node = client.node

        def ready() -> None:
            if op.completed:
                return  # its client has gone
            if isinstance(outcome, PendingReply) and outcome.reply is RUN_ANEW:
                anew()
                return
            self._moment += 1
            op.completed = self._moment
            assert isinstance(outcome, PendingReply)
            op.reply = outcome.reply
            self._note_leases(op)
            op.position = node.running.position + 1
            client.waiting.remove(op)
            if outcome.blocks:
                client.blocked = False

        if isinstance(outcome, PendingReply) and outcome.reply is None:
            outcome.on_ready = ready
            if op not in client.waiting:
                client.waiting.append(op)
            op.blocks = client.blocked = outcome.blocks
            return
        if op in client.waiting:
            client.waiting.remove(op)
            client.blocked = False
        self._moment += 1
        op.completed = self._moment
        op.reply = outcome.reply if isinstance(outcome, PendingReply) else outcome
        op.position = node.running.position + in_entry

    def _note_leases(self, op: Op) -> None:
        if isinstance(op.steps[0].command, Take) and isinstance(op.reply, Items):
            numbers = [int(value or b"") for at, value in enumerate(op.reply.values) if at % 7 < 2]
            self._leases += zip(numbers[::2], numbers[1::2], strict=True)

    def _queue_command(self, number: int) -> Command:
        """Return a random command on queues. A write differs from all others, so that the log tells what became of
        it."""
        dice = self.dice
        queue, other = dice.choice(QUEUES), 1_000_000 + number
        message, lease = dice.choice(self._leases[-8:] or [(2, 1)])
        return dice.choice(
            (
                Put(
                    queue, b"m%d" % number, group=dice.choice((None, b"g", b"h")), delay=dice.choice((None, 50, 4_000))
                ),
                Put(queue, b"m%d" % number, unique=dice.choice((b"n", b"o")), unique_for=dice.choice((None, 3_000))),
                Put(queue, b"m%d" % number, expires=dice.choice((100, 2_000)), priority=dice.choice((0, 2_000))),
                PutMany(queue, number % 50, 1_000, (b"a", b"m%d" % number)),
                Take(queue, dice.choice((1, 2, 5)), lease=dice.choice((0, 5_000)) + number),
                Take(queue, 1, lease=10_000 + number),
                TakeAny(1, 10_000 + number, 0, QUEUES),
                Take(queue, dice.choice((1, 3)), lease=10_000 + number, wait=dice.choice(WAITS)),
                TakeAny(1, 10_000 + number, dice.choice(WAITS), QUEUES),
                Ack(((message, lease), (other, 1))),
                Ack(((message, lease), (other, 1))),
                Nack(message, lease, delay=number, reason=b"why"),
                Nack(message, lease, uncounted=True, reason=b"%d" % number),
                Nack(message, lease, dead=True, reason=b"%d" % number),
                Extend(20_000 + number, ((message, lease),)),
                RequeueIds((message, other)),
                Remove((message, other)),
                QueueSet(queue, lease=30_000 + number, attempts=dice.choice((1, 3)), max_age=dice.choice((0, 9_000))),
                Look(message),
                Peek(queue, dice.choice((b"ready", b"leased", b"dead")), 0, 5),
                QueueStats(queue),
                Queues(0, 9),
            )
        )

    def _register_command(self, number: int) -> Command:
        key = self.dice.choice(REGISTERS)
        value = b"v%d" % number
        return self.dice.choice(
            (
                Get(key),
                Get(key),
                Get(key),
                Set(key, value),
                Set(key, value),
                Append(key, value),
                Swap(key, value),
                SetWith(key, value, if_absent=True),
                ClearMany((key, b"~%d" % number)),
            )
        )

    def _step(self, number: int) -> Command:
        """Return a random command for a transaction."""
        one, other = self.dice.choice(KEYS), self.dice.choice(KEYS)
        return self.dice.choice(
            (
                Rename(one, other),
                Copy(one, other, replace=True),
                ClearAll(),
                Persist(one),
                ClearMany((one,)),
                Set(one, b"in %d" % number),
                SetMany(300, ((one, b"brief"), (other, b"%d" % number))),
                Get(one),
                Incr(one, 1),
            )
        )

    def _scripted_write(self, number: int) -> Step:
        """Return a random command for a script that writes. Its reply is not of the time of the run."""
        dice = self.dice
        one, other = dice.choice(KEYS), dice.choice(KEYS)
        soon = self.cluster.observer.clock() + dice.choice((-5, 1, 20, 200, 5_000))
        return Step(
            1,
            dice.choice(
                (
                    self._step(number),
                    Append(one, b"x"),
                    SetWith(one, b"w", ttl=dice.choice((1, 100))),
                    SetWith(one, b"until", at=soon),
                    ExpireWith(one, soon, at=True, if_none=dice.choice((True, False))),
                    Copy(one, other),
                    GetMany((one, other)),
                    Exists((one, other)),
                    GetWith(one, clear=True),
                    ClearIfEquals(one, b"w"),
                )
            ),
        )

    def _scripted_read(self, number: int) -> Step:
        """Return a random command for a script that does not write."""
        one, other = self.dice.choice(KEYS), self.dice.choice(KEYS)
        command = self.dice.choice((Get(one), Get(one), GetMany((one, other)), Exists((other,)), Ttl(one), Count()))
        return Step(1, command)

    def _command(self, number: int) -> Command:
        dice = self.dice
        one, other = dice.choice(KEYS), dice.choice(KEYS)
        value = b"w%d" % number
        return dice.choice(
            (
                Set(one, value),
                Set(one, value + b"!" * dice.choice((10, 500, 2_000))),
                SetWith(one, value, ttl=dice.choice((1, 100, 1_500))),
                SetWith(one, value, keep_ttl=True),
                Swap(one, value, if_present=True),
                Append(one, value),
                Incr(one, number),
                ClearMany((one, b"~%d" % number)),
                ClearIfEquals(one, value),
                Expire(one, 200 + number),
                ExpireWith(one, 10_000_000 + number, if_none=True),
                GetWith(one, ttl=1_000 + number),
                SetMany(number, ((one, value), (other, value))),
                Get(one),
                GetMany((one, other)),
                Exists((one, other)),
                Ttl(one),
                Deadline(one),
                Count(),
            )
        )

    # -- what is seen -----------------------------------------------------------------------------------------------

    def _applied(self, node: Node) -> None:
        if node is self.cluster.observer:
            database = node.running.databases[TAGS]
            if database.count() > len(self.tagged_at):
                for tag in list(database.keys_in_memory()):
                    self.tagged_at.setdefault(tag, node.running.position)


# -- what has to be true ------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Done:
    """The log index at which a command was executed, and the reply of the model."""

    position: int
    index: int
    reply: Reply


class Reference:
    """A plain model that executes the log."""

    def __init__(self, chaos: Chaos) -> None:
        self._tagged_at = chaos.tagged_at
        self._scripts = {op.tag: op.script for op in chaos.ops if op.script and op.tag and _is_repeatable(op, chaos)}
        self._models = [Model() for _ in range(3)]
        self._queues = QueueModel()
        self._rows: dict[int, list[int]] = {}  # epoch, number, position
        self._floor = 0
        self._parts: dict[int, list[bytes]] = {}
        self._now = self._before = 0
        self.done: dict[object, list[_Done]] = collections.defaultdict(list)
        self.changes: dict[bytes, list[tuple[int, int]]] = collections.defaultdict(list)
        """By key of the second keyspace: at what position and index it was changed or taken by time."""
        self._last: dict[bytes, object] = {}
        reads = collections.defaultdict(list)
        for op in chaos.ops:
            if op.script is not None and op.reply is MISSING:
                continue  # a watched key had changed
            if op.took_nothing or (not op.writes and op.reply is not None and not isinstance(op.reply, Failure)):
                reads[op.position].append(op)
        for position, data in enumerate(chaos.cluster.stream, 1):
            self._pending = reads.pop(position, [])
            self._index = 0
            self._entry(position, data)
            self._look(position)  # also if the entry does not count: a script reads between entries
            if self._pending:
                op = self._pending[0]
                raise AssertionError(f"{op} was answered with what was never there at {position}")
        assert not reads, "reads of positions that are not there"

    def _entry(self, position: int, data: bytes) -> None:
        try:
            entry = parsed(data)
        except ValueError:
            return
        row = self._rows.get(entry.node)
        if entry.kind is Kind.EPOCH:
            if len(entry.body) == 10 and entry.epoch > (self._floor if row is None else row[0]):
                self._rows[entry.node] = [entry.epoch, 0, position]
                self._parts[entry.node] = []
                if len(self._rows) > epochs.PROPOSERS_MAX:
                    longest = min(self._rows, key=lambda node: self._rows[node][2])
                    self._floor = max(self._floor, self._rows.pop(longest)[0])
            self._look(position)
            return
        if row is None or entry.epoch != row[0] or entry.number != row[1] + 1:
            return
        row[1], row[2] = row[1] + 1, position
        self._before, self._now = self._now, max(self._now, entry.time)
        lead = self._now - entry.clock
        for model in self._models:
            model.advance(self._now)
            model.lead = lead if entry.time and lead > LEAD_LEAST_MS else 0
        self._queues.lead = self._models[0].lead
        self._look(position)
        parts = self._parts[entry.node]
        if entry.kind is Kind.BATCH:
            parts.clear()
            self._batch(position, entry.body, entry.node)
            return
        parts.append(entry.body)
        if entry.kind is Kind.LAST_PART:
            body = b"".join(parts)
            parts.clear()
            self._batch(position, body, entry.node)

    def _batch(self, position: int, body: bytes, node: int) -> None:
        try:
            for item in items(body):
                if item.kind is ItemKind.COMMANDS:
                    for step in steps_of(item):
                        self._index += 1
                        done = _Done(position, self._index, self._apply(step))
                        if node not in STRANGERS:
                            self.done[step].append(done)
                        self._look(position)
                elif item.kind is ItemKind.SKIP:
                    begin, end = skip_of(item)
                    self._queues.keep_leases(max(begin, self._before), min(end, self._now))
                    self._look(position)
                elif item.kind is ItemKind.TRANSACTION and node not in STRANGERS:
                    self._transaction(position, item)
        except ValueError:
            return

    def _transaction(self, position: int, item: Item) -> None:
        transaction = transaction_of(item)
        *_, (_, last) = transaction.steps
        self._index += 1
        tag = getattr(last, "key", b"")
        reply: Reply = MISSING
        if self._tagged_at.get(tag) == position:
            expected = self._run(self._scripts[tag]) if tag in self._scripts else None
            reply = Replies(tuple(self._apply(step) for step in transaction.steps))
            if expected is not None:
                reply, models = expected
                assert self._models == models, f"{tag!r} at {position}: its steps and its script differ"
        self.done[tag].append(_Done(position, self._index, reply))
        self._look(position)

    def _run(self, script: Branching) -> tuple[Replies, list[Model]]:
        """Return the replies of a script at this place in the log, and the models after it."""
        models = copy.deepcopy(self._models)
        return script.replies(lambda step: models[step.db].apply(step.command, self._now)), models

    def _apply(self, step: Step) -> Reply:
        if step.command.spec.scope is Scope.QUEUES and step.db < DATABASES:
            return self._queues.apply(step.command, self._now)
        if not 0 <= step.db < len(self._models) or step.command.spec.by_store:
            return Failure(failures.BADARGS, "")
        return self._models[step.db].apply(step.command, self._now, seen=Items((b"0",)))

    def _look(self, position: int) -> None:
        entries = self._models[1].entries
        for key in KEYS:
            if self._last.get(key) != entries.get(key):
                self._last[key] = entries.get(key)
                self.changes[key].append((position, self._index))
        self._pending = [op for op in self._pending if not self._would_say(op)]

    def _would_say(self, op: Op) -> bool:
        if op.script is not None:
            return op.reply == self._run(op.script)[0]
        (step,) = op.steps
        assert op.reply is not None
        if op.took_nothing:
            return copy.deepcopy(self._queues).apply(step.command, self._now) == NO_MESSAGES
        return same(step.command, op.reply, self._apply(step))


def check(chaos: Chaos) -> Reference:
    """Compare the replies of clients with the log."""
    reference = Reference(chaos)
    where: dict[int, _Done] = {}
    for op in chaos.ops:
        if not op.writes or isinstance(op.steps[0].command, ClearPrefix):
            continue
        done = reference.done.get(op.tag or op.steps[0], [])
        if op.script is not None:  # a transaction of it may have failed before
            done = [one for one in done if one.reply is not MISSING]
        if isinstance(op.steps[0].command, Take | TakeAny):  # it is proposed again until it finds messages
            done = [one for one in done if one.reply != NO_MESSAGES]
        assert len(done) <= 1, f"{op} was carried out {len(done)} times"
        if op.failed:
            assert not done, f"{op} was carried out"
        elif op.script is not None and op.reply is MISSING:
            assert not done, f"{op} was carried out, though a watched key has changed"
        elif op.took_nothing:
            assert not done, f"{op} took messages"
        elif not op.unknown:
            assert len(done) == 1, f"{op} was acknowledged and is not in the log"
            if op.script is None:
                _same_replies(op, done[0].reply)
            elif _is_repeatable(op, chaos):
                assert op.reply == done[0].reply, f"{op}: {done[0].reply!r}"
            assert op.position == done[0].position, f"{op} was told at another position than that of its entry"
        if done:
            where[op.number] = done[0]
        if op.watched and isinstance(op.reply, Replies):
            at = done[0].position, done[0].index
            for _, watch in op.watched:
                changes = reference.changes[watch.key]
                first = bisect.bisect(changes, (op.watched_at, math.inf))
                between = [change for change in changes[first:] if change < at]
                assert not between, f"{op} was carried out, though {watch.key!r} has changed at {between}"
    _in_order(chaos, where)
    _in_real_time(chaos, where)
    for key in REGISTERS:
        _linearizable(key, [op for op in chaos.ops if len(op.steps) == 1 and _concerns(op, key)])
    return reference


def _is_repeatable(op: Op, chaos: Chaos) -> bool:
    """Return whether a script has the same replies at its log index as at its run, a moment before.

    A clock that goes back between them may make a given expiry time, which was past, one in the future.
    """
    if op.script is None or not chaos.clocks_were_set:
        return op.script is not None
    commands = [step.command for stage in op.script.stages for step in stage]
    return all(getattr(command, "at", None) is None or command.at is False for command in commands)  # type: ignore[attr-defined]


def _concerns(op: Op, key: bytes) -> bool:
    db, command = op.steps[0]
    return db == 0 and key in command.named_keys()


def _same_replies(op: Op, expected: Reply) -> None:
    assert op.reply is not None
    if isinstance(expected, Replies) and isinstance(op.reply, Replies):
        pairs = zip(op.steps, op.reply.values, expected.values, strict=True)
        assert all(same(step.command, one, other) for step, one, other in pairs), f"{op}: {expected!r}"
    else:
        assert same(op.steps[0].command, op.reply, expected), f"{op}: {expected!r}"


def _in_order(chaos: Chaos, where: dict[int, _Done]) -> None:
    """Check that a node's commands are executed in the order in which it got them.

    A command behind which its client sends nothing may be executed later, but before the next one of that client.
    """
    newest: dict[tuple[int, ...], tuple[int, int]] = {}
    for op in chaos.ops:
        if (done := where.get(op.number)) is not None:
            at = done.position, done.index
            lines: list[tuple[int, ...]] = [] if op.blocks else [op.life]
            if not op.unknown:
                lines.append((op.client, *op.life))
            for line in lines:
                assert newest.get(line, (0, 0)) < at, f"{op} was executed before an earlier command of its client"
                newest[line] = at


def _in_real_time(chaos: Chaos, where: dict[int, _Done]) -> None:
    """Check that a command sent after a reply is executed after the command of that reply."""
    moments: list[int] = []
    newest: list[int] = []
    for op in sorted((op for op in chaos.ops if not op.failed and not op.unknown), key=lambda op: op.completed):
        at = where[op.number].position if op.number in where else op.position
        moments.append(op.completed)
        newest.append(max(at, newest[-1] if newest else 0))
    for op in chaos.ops:
        if op.failed or op.unknown:
            continue
        at = where[op.number].position if op.number in where else op.position
        before = bisect.bisect(moments, op.invoked)
        assert not before or newest[before - 1] <= at, f"{op} shows what was over when it was said"


def _linearizable(key: bytes, ops: Sequence[Op]) -> None:
    """Return whether an order of the commands on a key explains the replies (Wing and Gong, 1993).

    A failed command was not executed. A command with an unknown outcome may execute at any time after it was sent.
    """
    said = [op for op in ops if not op.failed and (op.writes or not op.unknown)]
    ends = [math.inf if op.unknown else op.completed for op in said]
    needed = sum(1 << at for at, op in enumerate(said) if not op.unknown)
    seen: set[tuple[int, object]] = set()
    todo: list[tuple[int, tuple[bytes, int | None] | None]] = [(0, None)]
    while todo:
        done, entry = todo.pop()
        if done & needed == needed:
            return
        left = [at for at in range(len(said)) if not done >> at & 1]
        soonest = min(ends[at] for at in left)
        for at in left:
            if said[at].invoked > soonest:
                break  # they are in the order in which they were said
            model = Model({} if entry is None else {key: entry})
            reply = model.apply(said[at].steps[0].command, 0)
            told = said[at].reply
            if said[at].unknown or (told is not None and same(said[at].steps[0].command, told, reply)):
                state = done | 1 << at, model.entries.get(key)
                if state not in seen:
                    seen.add(state)
                    todo.append(state)
    raise AssertionError(f"no order of these explains what was told: {said}")
