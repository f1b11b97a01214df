"""The store of a node: the log orders commands, and every node executes the entries that come back.

    execute → proposal → proposer → NATS → apply_entry → databases and reply
                                                └→ effects → the node's table on disk

A write executes when its entry comes back from the log, a read when an entry of this node comes back that was
published after the read arrived. So all executed commands are committed: nothing is undone, and a reply leaves as soon
as it is known.

Invariants:
- The state follows from the entries alone. Nodes at the same position have the same databases, log time, epoch table,
  versions of tracked slots and semantics.
- The effects of an entry enter the node's table together with its position.
- A node whose state differs from the others', or that cannot go on, reports it and stops.

Out of scope: NATS (`replication.nats`) and the life of a node (`replication.node`). The memory limit restricts the
proposals of this node; no node evicts keys.
"""

import collections
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, cast

from cairnkv.commands import (
    MISSING,
    OK,
    ClearMany,
    ClearPrefix,
    Command,
    Failure,
    Items,
    Ping,
    Replies,
    Reply,
    Scan,
    Scope,
    Step,
    failures,
)
from cairnkv.commands.vocabulary import Backup, RandomKey
from cairnkv.engine import Database, Journal, Shared, Watched, apply, discard, undo
from cairnkv.engine.database import VERSION_SLOTS, Before, version_slot
from cairnkv.errors import OptionError
from cairnkv.limits import BYTES_PER_COST, CLEAR_PREFIX_SLICE, DATABASES
from cairnkv.protocol.native import Prefix
from cairnkv.replication import node_records
from cairnkv.replication.batches import EffectCollector, log_time
from cairnkv.replication.entries import SEMANTICS, Entry, Item, ItemKind, Kind, Newer, items, parsed
from cairnkv.replication.entry_codec import (
    Transaction,
    Watch,
    batch_item,
    batch_of,
    digest_item,
    digest_of,
    semantics_item,
    semantics_of,
    slots_of,
    track_item,
    transaction_item,
    transaction_of,
)
from cairnkv.replication.epochs import EpochTable, Judged
from cairnkv.replication.proposals import BlockingProposal, Changes, ExecutableProposal, PendingProposal
from cairnkv.replication.proposer import Proposal, Proposer
from cairnkv.storage import Deliver, Effect, MakeBackup, Storage, StorageRefused
from cairnkv.storage.record_format import NODE_DB
from cairnkv.store.admission import bytes_made
from cairnkv.store.base import ExecutorFactory, ExecutorT, InfoSource, Loaded, WhenFull
from cairnkv.store.clock import Clock, LogClock, wall_clock
from cairnkv.store.info import StoreInfo, random_key
from cairnkv.store.lru import Place
from cairnkv.store.memory import Memory
from cairnkv.store.pending import PendingReply, size_of
from cairnkv.store.transaction import TooMuch, effects_of, execute_steps

logger: Final = logging.getLogger("cairnkv.cluster")

LEAD_LEAST_MS: Final = 1_000
"""Lead of log time over the proposer's clock from which on log time advances at half speed. It is the permitted
difference between nodes' clocks. Below it, log time waits for the clock, and keys expire later by the lead."""

DIGEST_ENTRIES: Final = 1_000
"""Positions between two digests that nodes compare."""

DIGESTS_KEPT: Final = 16
"""Digests that are remembered, for nodes that are behind."""


class ReplicatedStore:
    """The store of one node."""

    def __init__(
        self,
        *,
        node: int,
        nonce: bytes,
        storage: Storage,
        clock: Clock = wall_clock,
        memory_limit: int | None = None,
        value_max: int,
        supports: int = SEMANTICS,
        broken: Collection[str] = (),
    ) -> None:
        """node: the number that no other node has. nonce: of this process.

        storage: the node's table on disk. supports: the newest semantics that this release knows.
        broken: faults that this node injects, for tests of consistency checks. See
        `cairnkv.replication.nats.options.BREAKS`.
        """
        self._shared: Final = Shared()
        self.databases: Final = tuple(Database(self._shared) for _ in range(DATABASES))
        self._storage = storage
        self.loading = True
        """Whether this node has yet to catch up with its cluster."""
        self.clock = clock
        self._log_clock: Final = LogClock(clock, self._shared, LEAD_LEAST_MS)
        self._memory: Final = Memory(self.databases, storage, memory_limit, value_max)
        self._info: Final = StoreInfo(self._about)
        self.commands = 0
        """Commands that this node has received."""
        self.proposer: Final = Proposer(node, nonce, supports=supports)
        self.table = EpochTable()
        self.position = 0
        """Of the newest entry of the stream that was carried out."""
        self.identity = 0
        """When the stream was made, in nanoseconds since 1970."""
        self.digest = 0
        self.semantics = 1
        self.stopped: str | None = None
        """Why this node takes no part any more; None: it does."""
        self.stopping: str | None = None
        """Why this node takes no more commands, while it goes on with those that it has; None: it takes them."""
        self.refuses_writes: Failure | None = None
        """Why this node proposes no writes at present: what grows, or all."""
        self.refuses_growth: Failure | None = None
        self.on_proposal: Callable[[], None] = _nobody
        """Called when a proposal waits to be published."""
        self.on_entry: Callable[[Entry], None] = _ignored
        """Called with each valid entry of any node."""
        self._supports = supports
        self._tracked: set[int] = set()  # slots whose versions are a part of the state
        self._digests: collections.OrderedDict[int, dict[int, int]] = collections.OrderedDict()  # position → node → it
        self._deliver: Deliver | None = None
        self._owed: tuple[int, list[Effect], int] | None = None
        """Log time, effects and their size, of the newest entry, where the table has not taken them yet."""
        self._parts_kept: dict[int, int] = {}  # by node: parts of a batch that are on disk
        self._at_hand = Changes(0, 0)  # of the entry that is carried out
        self._gathering = EffectCollector(self._gathered)
        self._log_executor: Callable[[int], Prefix] | None = None
        self._log_executors: dict[int, Prefix] = {}  # by database
        self._breaks_reads = "stale-reads" in broken
        self._breaks_writes = "early-replies" in broken

    @property
    def mode(self) -> str:
        """What this store is called, whatever its table is in."""
        return "replicated"

    @property
    def is_behind(self) -> bool:
        """False: the proposer has its own queue and backpressure."""
        return False

    @property
    def takes_part(self) -> bool:
        """Whether this node goes on with its cluster."""
        return self.stopped is None

    # -- loading ----------------------------------------------------------------------------------------------

    def load(self) -> Loaded:
        """Read the node's table. Raises `ValueError` where it is not a node's, besides what the log raises."""
        aside = Shared()
        databases = tuple(Database(aside) for _ in range(DATABASES + 1))
        sequence = self._storage.restore(databases)
        node_records.read(databases[NODE_DB])
        return Loaded(databases, sequence)

    def reopen(self, storage: Storage) -> None:
        """Have another table, to be read by `load` and `begin`: this one is damaged, or too far behind the log."""
        self._storage.close(self._shared.now)
        self._storage = self._memory.storage = storage
        if self._deliver is not None:
            storage.deliver_by(self._deliver)
        self.loading = True
        self._owed = None
        self._digests.clear()
        self.proposer.interrupt(self._loads())

    def begin(self, loaded: Loaded) -> None:
        """Take over what was read. It goes on to load until `join`: what others have logged meanwhile is missing."""
        state = loaded.databases[NODE_DB]
        self._shared.now = 0  # log time is that of this table, however late it was in another
        for database, kept in zip(self.databases, loaded.databases[:DATABASES], strict=True):
            database.take_over(kept)
        self._shared.advance(loaded.databases[0].now)
        self._storage.listen(self)
        self.loading = True
        self._load_state(state)

    def _load_state(self, state: Database) -> None:
        records = node_records.read(state)
        self.position, self.identity, now, self.digest = records.position
        self._shared.advance(now)
        self.semantics = self.proposer.semantics = records.semantics
        self.table = records.table
        self._parts_kept = {node: len(row.parts) for node, row in self.table if row.parts}
        self._tracked = set(records.versions)
        for slot, version in records.versions.items():
            self._shared.versions[slot] = version
        if self.semantics > self._supports:
            self.leave(f"semantics {self.semantics} is in force: this node needs a newer release")

    def deliver_by(self, deliver: Deliver) -> None:
        """How the node's table, or the one in its place, reaches the thread that uses this store."""
        self._deliver = deliver
        self._storage.deliver_by(deliver)

    def adopt(self, identity: int) -> None:
        """The stream is this one, and nothing of it was carried out before."""
        self.identity = identity

    def proposed_time(self) -> tuple[int, int]:
        """Return the log time that this node proposes now, and its lead over this node's clock."""
        return self._log_clock.read(self._shared.now)

    def join(self) -> None:
        """Everything that was logged before has been carried out: take commands from now on."""
        self.loading = False

    def leave(self, reason: str) -> None:
        """Take no part any more."""
        if self.stopped is None:
            self.stopped = reason
            logger.error("this node takes no part any more: %s", reason)
            self.proposer.close(Failure(failures.STOPPED, reason))

    # -- commands ---------------------------------------------------------------------------------------------

    def execute(
        self, command: Command, db: int = 0, *, touch: bool = True, local: bool = False
    ) -> Reply | PendingReply:
        """Have a command carried out in its turn.

        local: a read that may show what was true a moment ago: it is answered at once.
        """
        step = Step(db, command)
        if isinstance(command, Ping) or (command.spec.by_store and not isinstance(command, RandomKey)):
            if self.loading and isinstance(command, Ping):
                return self._loads()
            self.commands += 1
            if isinstance(command, Backup):
                return self._info.begin_backup(command)
            return apply(self.databases[db], command, 0) if isinstance(command, Ping) else self._info.reply()
        if self.loading:
            return self._loads()
        self.commands += 1
        writes = command.spec.writes
        if not writes and (local or self._breaks_reads):
            return self._read_now(step)
        if refusal := self._refused(step if writes else None):
            return refusal
        if isinstance(command, ClearPrefix):
            return self._clear_prefix(step, command)
        if writes:
            cost = 1 + self.bytes_made(command, db) // BYTES_PER_COST
            return self._propose(
                PendingProposal((batch_item(step),), lambda changes: self._change(step, changes), cost=cost)
            )
        weight = sum(map(len, command.named_keys()))
        return self._propose(PendingProposal((), lambda _: self._read_now(step), self._length_of(step), weight))

    def _loads(self) -> Failure:
        return Failure(failures.LOADING, "this node is catching up with its cluster; try again when it has")

    def _refused(self, write: Step | None) -> Failure | None:
        """Why something that needs a turn in the log gets none; write: if it is one."""
        if self.stopped is not None:
            return Failure(failures.STOPPED, self.stopped)
        if self.stopping is not None:
            return Failure(failures.NOQUORUM, self.stopping)
        if write is None:
            return None
        if self.refuses_writes is not None:
            return self.refuses_writes
        if write.command.spec.grows and self.refuses_growth is not None:
            return self.refuses_growth
        return self._memory.admit(write)

    def _propose(self, proposed: PendingProposal) -> Reply | PendingReply:
        self.proposer.propose(proposed)
        if proposed.reply is not None:
            return proposed.reply
        if self._breaks_writes and proposed.items:
            proposed.complete(OK)
            proposed.given_up = True
        self.on_proposal()
        return proposed

    def _length_of(self, step: Step) -> int:
        """Bytes of the reply to a read, as far as can be told now."""
        if step.command.spec.scope is not Scope.KEYS:
            return 0
        return sum(self.databases[db].length(key) for db, key in step.command.places_read(step.db))

    def _read_now(self, step: Step) -> Reply:
        if isinstance(step.command, RandomKey):
            return random_key(self.databases[step.db])
        return apply(self.databases[step.db], step.command, self._shared.now)

    def _clear_prefix(self, step: Step, command: ClearPrefix) -> Reply | PendingReply:
        """Which keys a slice has depends on how a table has grown, so the log is told the keys that this node found."""
        outcome: BlockingProposal

        def look(_: Changes) -> Reply:
            found = self._read_now(Step(step.db, Scan(command.cursor, CLEAR_PREFIX_SLICE, command.prefix)))
            assert isinstance(found, Items)
            cursor, *keys = found.values
            names = tuple(key for key in keys if key is not None)
            if not names:
                outcome.complete(Items((cursor, b"0")))
                return OK
            cleared = Step(step.db, ClearMany(names))

            def clear(changes: Changes) -> Reply:
                count = self._change(cleared, changes)
                outcome.complete(Items((cursor, b"%d" % count)) if isinstance(count, int) else count)
                return OK

            second = PendingProposal((batch_item(cleared),), clear)
            self._follow(second, outcome)
            return OK

        outcome = BlockingProposal((), lambda _: OK)
        self._follow(PendingProposal((), look), outcome)
        return outcome if outcome.reply is None else outcome.reply

    def _follow(self, part: PendingProposal, whole: PendingProposal) -> None:
        """Propose a part of what a client has said, and let the whole fail if it does."""

        def fail() -> None:
            if part.given_up:
                whole.complete(part.outcome)

        part.on_ready = fail
        self.proposer.propose(part)
        self.on_proposal()

    def execute_all(
        self,
        steps: Sequence[Step],
        watched: Sequence[tuple[int, Watched]] = (),
        *,
        bytes_max: int | None = None,
        blocks: bool = False,
    ) -> Reply | PendingReply:
        """Have several commands carried out as one, in one turn; see `Store`.

        What is too long, or has no room at this node, never comes to the log: it fails, and the others do not.
        If this node knows that watched keys changed, the transaction fails at once. Otherwise the log entry decides.
        """
        if self.loading:
            return self._loads()
        if any(self._shared.version(db, watch.key) != watch.version for db, watch in watched):
            return MISSING
        if not steps and not watched:
            return Replies(())
        self.commands += len(steps)
        refused: dict[int, Failure] = {}
        for index, step in enumerate(steps):
            if refusal := self._refused(step if step.command.spec.writes else None):
                if refusal.code not in (failures.TOOLONG, failures.FULL):
                    return refusal
                refused[index] = refusal
        admitted = tuple(step for index, step in enumerate(steps) if index not in refused)
        watches = [Watch(version_slot(db, watch.key), watch.version, watch.expiry or 0) for db, watch in watched]
        transaction = Transaction(watches, admitted, bytes_max or 0)
        writes = any(step.command.spec.writes for step in admitted)
        wanted = (transaction_item(transaction),) if writes else ()
        kind = BlockingProposal if blocks else PendingProposal
        made = sum(self.bytes_made(step.command, step.db) for step in admitted)
        cost = max(1, len(admitted)) + made // BYTES_PER_COST
        return self._propose(
            kind(wanted, lambda changes: _with(refused, self._carry_out_all(transaction, changes)), cost=cost)
        )

    def watch(self, places: Sequence[Place], into: dict[Place, Watched]) -> Reply | PendingReply:
        """Have it noted what keys are like, in a turn of its own, and their changes counted from then on."""
        if self.loading:
            return self._loads()
        if refusal := self._refused(None):
            return refusal
        slots = sorted({version_slot(*place) for place in places} - self._tracked)

        def note(changes: Changes) -> Reply:
            self._track(slots, changes)
            for db, key in places:
                into[db, key] = self.databases[db].watch(key)
            return OK

        return self._propose(BlockingProposal((track_item(slots),) if slots else (), note))

    # -- what the log says ------------------------------------------------------------------------------------

    def apply_entry(self, position: int, data: bytes) -> None:
        """Carry out the entry at a position, which is the next one, while `takes_entries`. Raises nothing."""
        assert position == self.position + 1
        assert self._owed is None, "only while `takes_entries`"
        changes = self._at_hand = Changes(position, self.digest)
        entry: Entry | None = None
        judged = Judged(counts=False)
        try:
            entry = parsed(data)
            if entry.semantics > self._supports:
                raise Newer(f"semantics {entry.semantics} is in force; this release knows {self._supports}")
            judged = self.table.judge(entry, position)
        except Newer as newer:
            self.leave(f"{newer}: this node needs a newer release")
            return
        except ValueError as error:  # on all nodes alike
            logger.warning("position %d: %s", position, error)
        if entry is not None:
            try:
                self._carry_out(entry, judged, changes)
            except MemoryError:  # what stands at this position is carried out whole, or not at all, after a restart
                self.leave(f"there was not enough memory to carry out position {position:,}")
        if self.proposer.taken_over:
            self.leave("another process takes part as this node: its directory was copied, or is used twice")
            return
        if self.stopped is not None:
            return  # its table stays as it was before
        self.position, self.digest = position, changes.digest
        self._keep(entry, changes)
        if position % DIGEST_ENTRIES == 0:
            self._note_digest(position, self.proposer.node, self.digest)

    def _carry_out(self, entry: Entry, judged: Judged, changes: Changes) -> None:
        own: Sequence[Proposal] = ()
        if entry.node == self.proposer.node:
            own = self.proposer.came(entry, self.table, counts=judged.counts)
        if not judged.counts:
            return
        if entry.kind is not Kind.EPOCH:  # whose proposer may not know yet that its clock is off
            self._shared.advance(entry.time)
            lead = self._shared.now - entry.clock
            self._shared.lead = lead if entry.time and lead > LEAD_LEAST_MS else 0
        self.on_entry(entry)
        for proposal in cast("Sequence[ExecutableProposal]", own):  # nobody proposes anything else
            if judged.batch is None:  # too many parts: it is none for anybody
                proposal.fail(Failure(failures.UNDONE, "more than the log takes in one piece"))
                continue
            try:
                proposal.execute_logged(changes)
            except MemoryError:
                _fail_all(own)
                raise
            except Exception:  # a fault of ours, behind what all nodes do
                logger.exception("position %d: a proposal of this node failed", changes.position)
                if proposal.reply is None:
                    proposal.fail(Failure(failures.INTERNAL, "the server's log has the details"))
        if judged.batch and not own:
            self._carry_out_batch(judged.batch, changes, entry.node)

    def _carry_out_batch(self, batch: bytes, changes: Changes, node: int) -> None:
        """What another node has proposed, or an earlier life of this one."""
        try:
            for item in items(batch):
                match item.kind:
                    case ItemKind.RUN:
                        for step in batch_of(item, self._executor_of(item.db)):
                            self._change(step, changes)
                    case ItemKind.TRANSACTION:
                        self._carry_out_all(transaction_of(item), changes)
                    case ItemKind.TRACK:
                        self._track(slots_of(item), changes)
                    case ItemKind.DIGEST:
                        position, digest = digest_of(item)
                        self._note_digest(position, node, digest)
                    case ItemKind.SEMANTICS:
                        self._raise_semantics(semantics_of(item), changes)
        except ValueError as error:  # what came before it is carried out; on all nodes alike
            logger.warning("position %d: %s", changes.position, error)

    # -- runs of the compiled hot path (`cairnkv.session.proposals_native`) ------------------------------------------

    @property
    def takes_batches(self) -> bool:
        """Whether nothing has to be asked of a command before it is proposed."""
        return (
            self.proposer.takes
            and not self.loading
            and self.stopped is None
            and self.stopping is None
            and self.refuses_writes is None
            and self.refuses_growth is None
            and self._memory.limit is None
            and not (self._breaks_reads or self._breaks_writes)
        )

    def propose_batch(self, run: ExecutableProposal) -> None:
        """Have commands carried out in their turn, all in one."""
        self.proposer.propose(run)
        self.on_proposal()

    def execute_logged(self, step: Step, changes: Changes) -> Reply:
        """Carry out one command of a run, whose turn it is."""
        return self._change(step, changes) if step.command.spec.writes else self._read_now(step)

    def new_frame_executor(self, factory: ExecutorFactory[ExecutorT], db: int) -> ExecutorT:
        """Return a new executor of the native path for a database: it proposes commands, and executes local reads."""
        if factory.is_log_format:
            self._log_executor = lambda db: factory.executing(self.databases[db], log_time, self._gathering)
        executor = factory.proposing(self, factory.executing(self.databases[db], log_time, self._gathering))
        self._info.executors.append(executor)
        return executor

    def _executor_of(self, db: int) -> Prefix | None:
        """Return the native path's executor of log entries for a database; None: the pure path executes them."""
        if self._log_executor is None or db >= DATABASES:
            return None
        if db not in self._log_executors:
            self._log_executors[db] = self._log_executor(db)
        return self._log_executors[db]

    def _gathered(self, effects: list[Effect], groups: list[int], size: int) -> None:
        """A run of the entry at hand has done this."""
        from cairnkv.replication.proposals_native import (  # there is one: whoever calls is compiled
            digest_of,
            slots_changed,
        )

        changes = self._at_hand
        changes.keep(effects, size)
        changes.digest = digest_of(changes.digest, effects, groups)
        if self._tracked:
            for slot in slots_changed(effects, self._tracked):
                self._keep_slot(slot, changes)

    def _change(self, step: Step, changes: Changes) -> Reply:
        """Carry out one command that may change something."""
        if step.db >= DATABASES or not _is_for_the_log(step.command):
            return Failure(failures.BADARGS, "no command for a keyspace")
        return self._journalled(changes, lambda: apply(self.databases[step.db], step.command, self._shared.now))

    def _journalled(self, changes: Changes, work: Callable[[], Reply]) -> Reply:
        journal: Journal = []
        self._shared.journal = journal
        try:
            reply = work()
        except TooMuch as refused:
            self._take_back_all(journal, changes)
            return Failure(failures.UNDONE, str(refused))
        except MemoryError:  # this node's alone: the others carry it out
            undo(journal)
            raise
        except Exception:  # a fault of ours, and on all nodes alike
            self._take_back_all(journal, changes)
            logger.exception("position %d: a command failed", changes.position)
            return Failure(failures.INTERNAL, "the server's log has the details")
        finally:
            self._shared.journal = None
        if journal:
            effects = effects_of(journal)
            changes.keep(effects)
            changes.count_in(self._visible(journal, effects))
            if self._tracked:
                self._count_changes(effects, changes)
            discard(journal)
        return reply

    def _take_back_all(self, journal: Journal, changes: Changes) -> None:
        """Undo it. Versions do not go back, and those that are tracked are part of the state."""
        undo(journal)
        slots = {version_slot(change.database.number, key) for change in journal for key in change.keys}
        for slot in sorted(slots & self._tracked):
            self._keep_slot(slot, changes)

    def _visible(self, journal: Journal, effects: Sequence[Effect]) -> Sequence[Effect]:
        """The effects as they are on all nodes: by keys, without those that only free what had expired.

        When that is freed is each node's own affair; a journal has more of it, and earlier, where it was not.
        """
        now = self._shared.now
        first: dict[Place, bool] = {}
        for change in journal:
            if isinstance(change, Before):
                there = change.entry is not None and (change.entry[1] is None or change.entry[1] > now)
                first.setdefault((change.database.number, change.key), there)
        shown = [
            (db, key, value, expiry)
            for db, key, value, expiry in effects
            if key is None or value is not None or first[db, key]
        ]
        return sorted(shown, key=lambda effect: (effect[1] is not None, effect[0], effect[1] or b""))

    def _carry_out_all(self, transaction: Transaction, changes: Changes) -> Reply:
        now, versions = self._shared.now, self._shared.versions
        for slot, version, expiry in transaction.watches:
            if versions[slot] != version or 0 < expiry <= now:
                return MISSING
        return self._journalled(changes, lambda: self._execute_transaction(transaction))

    def _execute_transaction(self, transaction: Transaction) -> Replies:
        found = 0  # bytes of keys in replies: which keys a look at a table finds differs between nodes
        most = transaction.bytes_max

        def execute(step: Step) -> Reply:
            nonlocal found
            db, command = step
            if _lists_keys(command):
                reply = self._read_now(step)
                found += size_of(reply)
                return Failure(failures.BIGREPLY, "too many keys in one reply") if most and found > most else reply
            if not _is_for_the_log(command):
                return Failure(failures.BADARGS, "no command for a transaction")
            return apply(self.databases[db], command, self._shared.now)

        def size(step: Step, reply: Reply) -> int:
            return 0 if _lists_keys(step.command) else size_of(reply)

        return execute_steps(self.databases, transaction.steps, execute, most or None, size=size)

    # -- versions of slots ------------------------------------------------------------------------------------

    def _track(self, slots: Sequence[int], changes: Changes) -> None:
        for slot in slots:
            if slot < VERSION_SLOTS and slot not in self._tracked:
                self._tracked.add(slot)
                self._shared.versions[slot] = changes.position
                self._keep_slot(slot, changes)

    def _count_changes(self, effects: Sequence[Effect], changes: Changes) -> None:
        """Have the versions of tracked slots kept that these have changed."""
        changed: set[int] = set()
        for db, key, _, _ in effects:
            if key is not None:
                changed.add(version_slot(db, key))
                continue
            for slot in self._tracked:  # a keyspace that was cleared shows in no version otherwise
                self._shared.versions[slot] += 1
            changed |= self._tracked
        for slot in changed & self._tracked:
            self._keep_slot(slot, changes)

    def _keep_slot(self, slot: int, changes: Changes) -> None:
        changes.keep([node_records.of_slot(slot, self._shared.versions[slot])])

    # -- semantics and digests --------------------------------------------------------------------------------

    def _raise_semantics(self, version: int, changes: Changes) -> None:
        if not self.semantics < version <= self.table.supported:
            return
        if version > self._supports:
            self.leave(f"semantics {version} is in force: this node needs a newer release")
            return
        self.semantics = self.proposer.semantics = version
        changes.keep([node_records.of_semantics(version)])

    def propose_newer_semantics(self) -> None:
        """Propose that what all nodes know by now be in force, if it is not."""
        version = min(self.table.supported, self._supports)
        if version > self.semantics:
            self._propose_quietly(semantics_item(version), lambda changes: self._raise_semantics(version, changes))

    def _propose_quietly(self, item: Item, carry_out: "Callable[[Changes], None]") -> None:
        def work(changes: Changes) -> Reply:
            carry_out(changes)
            return OK

        self.proposer.propose(PendingProposal((item,), work))
        self.on_proposal()

    def propose_digest(self) -> None:
        """Tell the others what this node's state came to, if it has not."""
        node = self.proposer.node
        for position in reversed(self._digests):
            if node in self._digests[position]:
                digest = self._digests[position][node]
                self._propose_quietly(digest_item(position, digest), lambda _: None)
                return

    def _note_digest(self, position: int, node: int, digest: int) -> None:
        """Compare what the state has come to. Whoever is alone with what it has, stops: the others agree."""
        if position not in self._digests and len(self._digests) >= DIGESTS_KEPT:
            oldest = min(self._digests)
            if position < oldest:
                return
            del self._digests[oldest]
        digests = self._digests.setdefault(position, {})
        digests[node] = digest
        own = digests.get(self.proposer.node)
        if own is None or all(other == own for other in digests.values()):
            return
        others = collections.Counter(other for whose, other in digests.items() if whose != self.proposer.node)
        most, count = others.most_common(1)[0]
        if most != own and count >= 2 and own not in others:
            self.leave(f"its state at position {position:,} is not that of {count} other nodes: wipe its directory")
        else:
            logger.error("the nodes' states at position %d differ: %s", position, digests)

    # -- the node's table -------------------------------------------------------------------------------------

    def _keep(self, entry: Entry | None, changes: Changes) -> None:
        effects: list[Effect] = []  # of the state besides keys and values
        row = self.table.rows.get(entry.node) if entry is not None else None
        if entry is not None and row is not None and row.position == changes.position:
            node = entry.node
            effects.append(node_records.of_proposer(node, self.table.packed(node)))
            if entry.kind is Kind.PART and row.parts:
                effects.append(node_records.of_part(node, len(row.parts) - 1, row.parts[-1]))
            self._drop_parts(node, len(row.parts), effects)
            for forgotten in self.table.forgotten:
                effects.append(node_records.of_proposer(forgotten, None))
                effects.append(node_records.of_floor(self.table.floor))
                self._drop_parts(forgotten, 0, effects)
        effects.append(node_records.of_position(self.position, self.identity, self._shared.now, self.digest))
        changes.keep(effects)
        self._owed = self._shared.now, changes.effects, changes.size
        self._pay()

    def _pay(self) -> bool:
        """Give the node's table what it has not taken yet; whether it has everything then."""
        if self._owed is None:
            return True
        try:
            self._storage.append((), *self._owed)
        except StorageRefused as refused:
            if refused.code is failures.READONLY:
                self.leave(f"its own table takes nothing any more: {refused}")
            return False  # it is behind, or its disk is full: nothing is applied meanwhile
        self._owed = None
        return True

    def _drop_parts(self, node: int, kept: int, effects: list[Effect]) -> None:
        """Parts of a batch that are on disk and of no use any more."""
        over = range(kept, self._parts_kept.get(node, 0))
        effects += [node_records.of_part(node, index, None) for index in over]
        if kept:
            self._parts_kept[node] = kept
        else:
            self._parts_kept.pop(node, None)

    @property
    def own_table(self) -> Storage:
        """The node's table, as a log."""
        return self._storage

    @property
    def takes_entries(self) -> bool:
        """Whether the node's table has room for another entry now."""
        return self._pay() and self._storage.accepts_writes

    def committed(self, sequence: int) -> None:
        """The node's table has it. Nobody waits for that: a majority's disks have the entry."""

    def failed(self, reason: str, *, unknown: bool, unresolved: Sequence[Effect] = ()) -> None:
        """The node's table has failed: it is read anew at the next start, or a snapshot in its place."""
        self.leave(f"its own table has failed: {reason}")

    def resolved(self, happened: Sequence[Effect]) -> None:
        """Of no use any more."""

    # -- limits, housekeeping, INFO ---------------------------------------------------------------------------

    def bytes_made(self, command: Command, db: int = 0) -> int:
        """Return the bytes of values that a command would make or copy now."""
        return bytes_made(self.databases[db], command) if command.spec.grows else 0

    def read_ahead(self, step: Step) -> bool:
        """Return False: all values are in memory."""
        return False

    @property
    def used_bytes(self) -> int:
        """The estimated memory of the entries of all databases."""
        return self._memory.used_bytes

    @property
    def garbage_bytes(self) -> int:
        """The estimated memory of deleted tables that `housekeep` has not freed yet."""
        return self._memory.garbage_bytes

    def limit_memory(self, limit: int | None, when_full: WhenFull) -> None:
        """Remove the memory limit (None). Raises `OptionError` for another limit: a node has it from its start."""
        if limit == self._memory.limit:
            return
        if limit is not None or self.loading:
            raise OptionError("a node of a cluster has a memory limit from its start on, or none: stop and start it")
        self._memory.limit = None

    def housekeep(self) -> bool:
        """Free keys that have expired in log time. No reply shows it, so each node does it when it likes."""
        return self._memory.housekeep()

    def info(self) -> list[tuple[str, str | int]]:
        """Return the names and values of INFO."""
        return self._info.pairs()

    def add_info(self, source: InfoSource) -> None:
        """Add names and values to INFO."""
        self._info.sources.append(source)

    def _about(self) -> Iterable[tuple[str, str | int]]:
        return self._info.about(
            self._storage,
            self.databases,
            self._memory,
            mode=self.mode,
            loading=self.loading,
            commands=self.commands,
        )

    @property
    def back_up(self) -> MakeBackup | None:
        """Makes a backup of the node's table, in any thread."""
        return self._storage.back_up

    def begin_backups_by(self, begin: Callable[[Backup], Reply]) -> None:
        """Set the function that executes BACKUP."""
        self._info.begin_backup = begin

    def close(self) -> None:
        """Close the node's table."""
        self._storage.close(self._shared.now)


def _with(refused: Mapping[int, Failure], reply: Reply) -> Reply:
    """The replies to several commands, with those to some that were never proposed, by their place."""
    if not refused or not isinstance(reply, Replies):
        return reply
    replies = list(reply.values)
    for index in sorted(refused):
        replies.insert(index, refused[index])
    return Replies(tuple(replies))


def _lists_keys(command: Command) -> bool:
    return not command.spec.writes and command.spec.scope is Scope.TABLE


def _is_for_the_log(command: Command) -> bool:
    """Whether what a command changes depends on nothing but the state."""
    return not command.spec.by_store and not isinstance(command, ClearPrefix)


def _fail_all(proposals: Sequence[Proposal]) -> None:
    """The others have carried these out; this node cannot say what came of it."""
    for proposal in cast("Sequence[ExecutableProposal]", proposals):
        if proposal.reply is None:
            proposal.fail(
                Failure(failures.UNKNOWN, "it is done, but this node has not enough memory to say what came of it")
            )


def _nobody() -> None:
    pass


def _ignored(_: Entry) -> None:
    pass
