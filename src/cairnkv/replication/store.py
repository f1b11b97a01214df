"""The store of a node: the log orders commands, and every node executes the entries that come back.

    execute → proposal → proposer → NATS → apply_entry → databases and reply
                                                └→ effects → the node's table on disk

A write executes when its entry comes back from the log, a read when an entry of this node comes back that was
published after the read arrived. So all executed commands are committed: no committed entry is undone, only a command
that fails halfway. A reply leaves as soon as it is known.

Invariants:
- The state follows from the entries alone. Nodes at the same position have the same databases, queues, log time, epoch
  table, versions of tracked slots and semantics.
- The effects of an entry enter the node's table together with its position.
- A node whose state differs from the others', or that cannot go on, reports it and stops.

Out of scope: NATS (`replication.nats`) and the life of a node (`replication.node`). The memory limit restricts the
proposals of this node; no node evicts keys.
"""

import enum
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
from cairnkv.commands.queue_vocabulary import Take, TakeAny, Together
from cairnkv.commands.vocabulary import Backup, RandomKey
from cairnkv.engine import Database, Journal, QueueDatabase, Shared, Watched, apply, discard, keep_leases, undo
from cairnkv.engine.database import VERSION_SLOTS, Before, version_slot
from cairnkv.errors import OptionError
from cairnkv.limits import BYTES_PER_COST, CLEAR_PREFIX_SLICE, DATABASES, VALUE_MAX
from cairnkv.protocol.native import BatchExecutor
from cairnkv.replication import entry_codec as codec
from cairnkv.replication import node_table
from cairnkv.replication.broken import QUEUE_BREAKS, altered
from cairnkv.replication.digests import DIGEST_ENTRIES, Digests
from cairnkv.replication.entries import QUEUE_SEMANTICS, SEMANTICS, Entry, Item, ItemKind, Kind, Newer, items, parsed
from cairnkv.replication.entry_codec import Transaction, Watch
from cairnkv.replication.epochs import EpochTable, Judged
from cairnkv.replication.node_table import NodeTable
from cairnkv.replication.proposals import (
    BlockingProposal,
    Changes,
    EffectCollector,
    ExecutableProposal,
    PendingProposal,
    no_clock,
)
from cairnkv.replication.proposer import Proposal, Proposer
from cairnkv.replication.queue_estimates import cost_of, length_of_reply, made_ready
from cairnkv.replication.scripts import Scripts
from cairnkv.replication.waiting import WaitingTakes
from cairnkv.storage import Deliver, Effect, MakeBackup, Storage
from cairnkv.storage.record_format import NODE_DB
from cairnkv.store.admission import bytes_made
from cairnkv.store.base import ExecutorFactory, ExecutorT, Loaded, WhenFull
from cairnkv.store.clock import Clock, LogClock, wall_clock
from cairnkv.store.info import StoreInfo, random_key
from cairnkv.store.lru import Place
from cairnkv.store.memory import Memory
from cairnkv.store.pending import PendingReply, do_nothing, size_of
from cairnkv.store.script import HELD, Script
from cairnkv.store.transaction import TooMuch, Unexecuted, effects_of, execute_steps, is_whole, refusal_to_wait
from cairnkv.store.waiters import NO_MESSAGES, Waiter, Waiters

logger: Final = logging.getLogger("cairnkv.cluster")

LEAD_LEAST_MS: Final = 1_000
"""Lead of log time over the proposer's clock from which on log time advances at half speed. It is the permitted
difference between nodes' clocks. Below it, log time waits for the clock, and keys expire later by the lead."""


class Remedy(enum.Enum):
    """The action that makes a node that has stopped take part again."""

    RESTART = "restart"
    WIPE = "wipe"
    """Restart it without its table."""
    OPERATOR = "operator"
    """The reason for the stop names it: only the operator can choose it."""


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
        """node: the unique number of the node. nonce: of this process.

        storage: the node's table on disk. supports: the newest semantics that this release knows.
        broken: faults that this node injects, for tests of consistency checks. See
        `cairnkv.replication.nats.options.BREAKS`.
        """
        self._shared: Final = Shared()
        self.databases: Final = tuple(Database(self._shared) for _ in range(DATABASES))
        self.queues: Final = QueueDatabase(self._shared)
        """The records of queues."""
        self._table: Final = NodeTable(storage)
        self.loading = True
        """Whether this node has yet to catch up with its cluster."""
        self.clock = clock
        self._log_clock: Final = LogClock(clock, self._shared, LEAD_LEAST_MS)
        self.memory: Final = Memory((*self.databases, self.queues), storage, memory_limit, value_max)
        self.reports: Final = StoreInfo(self._about)
        self.waiters: Final = Waiters()
        """The TAKE commands that wait for messages, without those in flight."""
        self.elapsed: Callable[[], int] = self._log_clock.elapsed
        """Returns the elapsed time in milliseconds by which waits end."""
        self.commands = 0
        """Commands that this node has received."""
        self.proposer: Final = Proposer(node, nonce, supports=supports)
        self.epochs = EpochTable()
        self.position = 0
        """Log index of the newest entry that is applied."""
        self.identity = 0
        """When the stream was made, in nanoseconds since 1970; 0: no entry of a stream is applied yet."""
        self.digest = 0
        self.semantics = 1
        self.stopped: str | None = None
        """Why this node has stopped; None: it takes part in its cluster."""
        self.remedy = Remedy.RESTART
        """The action after the stop."""
        self.stopping: str | None = None
        """Why this node accepts no new commands, while it finishes earlier ones; None: it accepts them."""
        self.refuses_writes: Failure | None = None
        """Why this node proposes no writes now."""
        self.refuses_growth: Failure | None = None
        """Why this node proposes no writes now that grow."""
        self.on_proposal: Callable[[], None] = do_nothing
        """Called when a proposal waits to be published."""
        self.on_entry: Callable[[Entry], None] = lambda _: None
        """Called with each valid entry of any node."""
        self._supports = supports
        self._takes: Final = WaitingTakes(
            self.queues,
            self.waiters,
            propose=self._propose_inside,
            change=self._change,
            refusal=self._refused_take,
            loss=lambda: self.proposer.refusal,
            log_time=lambda: max(self._shared.now, self.proposed_time()[0]),
            elapsed=lambda: self.elapsed(),
        )
        self._scripts: Final = Scripts(
            self._shared,
            self.databases,
            propose=self._propose,
            execute=self._execute_if_unchanged,
            changed=self._have_changed,
            read=self._read_now,
            refusal=self._refused,
            cost_of=self._cost_of,
            tracked=lambda: self._tracked,
            track=self._track,
            log_time=lambda: self.proposed_time()[0],
            elapsed=lambda: self.elapsed(),
            watches="unwatched-scripts" not in broken,
        )
        self.is_held = False
        """Whether a script pauses."""
        self._newest_put: PendingReply | None = None  # the newest command that makes messages ready
        self._tracked: set[int] = set()  # slots whose versions are part of the state
        self._digests: Final = Digests(node)
        self._deliver: Deliver | None = None
        self._changes = Changes(0, 0)  # of the current entry
        self._collector: Final = EffectCollector(self._collect, lambda: self.semantics >= QUEUE_SEMANTICS)
        self._log_executor: Callable[[int], BatchExecutor] | None = None
        self._log_executors: dict[int, BatchExecutor] = {}  # by database
        self._breaks_reads = "stale-reads" in broken
        self._breaks_writes = "early-replies" in broken
        self._breaks_queues = frozenset(broken) & frozenset(QUEUE_BREAKS)

    @property
    def mode(self) -> str:
        """The mode: replicated."""
        return "replicated"

    @property
    def is_behind(self) -> bool:
        """Return False: the proposer has its own queue and backpressure."""
        return False

    @property
    def takes_part(self) -> bool:
        """Whether this node has not stopped."""
        return self.stopped is None

    # -- loading ----------------------------------------------------------------------------------------------

    def load(self) -> Loaded:
        """Read the node's table; see `Store`. Raises `ValueError` if it is not the table of a node."""
        aside = Shared()
        databases = tuple(Database(aside) for _ in range(DATABASES + 1))
        queues = QueueDatabase(aside)
        sequence = self._table.storage.restore(aside.databases)
        node_table.read(databases[NODE_DB])
        return Loaded(databases, queues, sequence)

    def reopen(self, storage: Storage) -> None:
        """Use another table: this one is damaged, or too far behind the log. Call `load` and `begin` after this."""
        self.close()
        self._scripts.abandon()
        self._table.open(storage)
        self.memory.storage = storage
        if self._deliver is not None:
            storage.deliver_by(self._deliver)
        self.loading = True
        self._digests.clear()
        self.proposer.interrupt(self._loads())
        self.serve_waiters()

    def begin(self, loaded: Loaded) -> None:
        """Use what `load` returned. The store still loads until `join`, since later entries are missing."""
        self._shared.now = 0  # another table may have a later log time
        for database, kept in zip(self.databases, loaded.databases[:DATABASES], strict=True):
            database.take_over(kept)
        self.queues.take_over(loaded.queues)
        self._shared.advance(loaded.databases[0].now)
        self._table.storage.listen(self)
        self.loading = True
        records = node_table.read(loaded.databases[NODE_DB])
        self.position, self.identity, now, self.digest = records.position
        self._shared.advance(now)
        self.semantics = self.proposer.semantics = records.semantics
        self.epochs = records.table
        self._table.set_parts(self.epochs)
        self._tracked = set(records.versions)
        for slot, version in records.versions.items():
            self._shared.versions[slot] = version
        if self.semantics > self._supports:
            self._leave_for_newer_release(f"semantics {self.semantics} is in force")

    def deliver_by(self, deliver: Deliver) -> None:
        """Set the function through which threads of storage call into the thread of the store."""
        self._deliver = deliver
        self._table.storage.deliver_by(deliver)

    def proposed_time(self) -> tuple[int, int]:
        """Return the log time that this node proposes now, and its lead over this node's clock."""
        return self._log_clock.read(self._shared.now)

    def keep_leases(self) -> bool:
        """If the clock went forward without elapsed time, propose to move the ends of leases with log time.

        Returns whether log time may follow the clock now.
        """
        skip = self._log_clock.skip
        if skip is None or not self.proposer.epoch:  # an epoch entry does not advance log time
            return True
        begin, end = skip
        if self.semantics >= QUEUE_SEMANTICS and self._shared.now < end:
            if self.proposer.is_in_parts:
                return False
            self._log_clock.skip = None
            # It is proposed even if there is no lease: a TAKE in flight may add one.
            kept = PendingProposal(
                (codec.skip_item(begin, end),), lambda changes: self._keep_leases(begin, end, changes)
            )

            def repeat() -> None:  # a repetition of what an entry has done already has no effect
                if kept.given_up and self._log_clock.skip is None:
                    self._log_clock.skip = begin, end

            kept.on_ready = repeat
            self.proposer.propose(kept, first=True)
            return not kept.given_up
        self._log_clock.skip = None
        return True

    def _keep_leases(self, begin: int, end: int, changes: Changes) -> Reply:
        """Move the ends of leases by the part of a skip by which this entry has advanced log time."""
        begin, end = max(begin, changes.before), min(end, self._shared.now)
        if begin >= end:
            return OK

        def work() -> Reply:
            keep_leases(self.queues, begin, end)
            return OK

        return self._execute_with_journal(changes, work)

    def join(self) -> None:
        """Execute commands from now on: the node has caught up with the log."""
        self.loading = False
        self.propose_newer_semantics()

    def leave(self, reason: str, remedy: Remedy = Remedy.RESTART) -> None:
        """Stop: take no part in the cluster any more."""
        if self.stopped is None:
            self.stopped, self.remedy = reason, remedy
            logger.error("this node stops: %s", reason)
            self.proposer.close(Failure(failures.STOPPED, reason))
            self.serve_waiters()

    def _leave_for_newer_release(self, reason: str) -> None:
        self.leave(f"{reason}: this node needs a newer release", Remedy.OPERATOR)

    # -- commands ---------------------------------------------------------------------------------------------

    def execute(
        self, command: Command, db: int = 0, *, touch: bool = True, local: bool = False
    ) -> Reply | PendingReply:
        """Propose a command; see `Store`. A local read executes at once."""
        if self._breaks_queues:
            command = self._broken(command)
        if isinstance(command, Together):
            return self.execute_all([Step(db, part) for part in command.commands], bytes_max=VALUE_MAX, whole=True)
        step = Step(db, command)
        if isinstance(command, Ping) or (command.spec.by_store and not isinstance(command, RandomKey)):
            if self.loading and isinstance(command, Ping):
                return self._loads()
            self.commands += 1
            if isinstance(command, Backup):
                return self.reports.begin_backup(command)
            return apply(self.databases[db], command, 0) if isinstance(command, Ping) else self.reports.reply()
        if unready := self._unready:
            return unready
        if refusal := self._refused_queues((step,)):
            return refusal
        self.commands += 1
        writes = command.spec.writes
        if not writes and (local or self._breaks_reads):
            return self._read_now(step)
        if refusal := self._refused(step if writes else None):
            return refusal
        if isinstance(command, ClearPrefix):
            return self._clear_prefix(step, command)
        if isinstance(command, Take | TakeAny) and not self._may_take(command):
            return self._take_after_read(step)
        if writes:
            return self._propose(self._proposal_of(step), (step,))
        weight = sum(map(len, command.named_keys()))
        return self._propose(PendingProposal((), lambda _: self._read_now(step), self._length_of(step), weight))

    def _proposal_of(self, step: Step) -> PendingProposal:
        """Return the proposal of a write."""
        return PendingProposal(
            (codec.command_item(step),),
            lambda changes: self._change(step, changes),
            self._length_of(step),
            cost=self._cost_of(step),
        )

    @property
    def _unready(self) -> Failure | None:
        """The failure of each command on databases now, or None."""
        return self._loads() if self.loading else HELD if self.is_held else None

    def _loads(self) -> Failure:
        return Failure(failures.LOADING, "this node catches up with its cluster; try again later")

    def _refused_queues(self, steps: Iterable[Step], *, whole: bool = False) -> Failure | None:
        """Return a failure if commands use queues, or are `whole`, before the semantics with queues are in force."""
        if self.semantics >= QUEUE_SEMANTICS or not (whole or any(map(_uses_queues, steps))):
            return None
        if self.epochs.supported < QUEUE_SEMANTICS:
            return Failure(failures.NOCOMMAND, "a node of this cluster has a release without queues; upgrade it")
        return Failure(failures.LOADING, "the nodes of this cluster begin to support queues; try again later")

    def _refused(self, write: Step | None) -> Failure | None:
        """Return a failure if a command must not be proposed. write: the command, if it is a write."""
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
        return self.memory.admit(write)

    def _broken(self, command: Command) -> Command:
        """Return the command that this node executes instead, because it is broken on purpose."""
        return altered(
            command, self._breaks_queues, lambda read: self._read_now(Step(0, read)), self._end_lease, self.clock()
        )

    def _end_lease(self, command: Command) -> None:
        step = Step(0, command)
        self._propose_inside(PendingProposal((codec.command_item(step),), lambda changes: self._change(step, changes)))

    def _propose(self, proposed: PendingProposal, writes: Sequence[Step] = ()) -> Reply | PendingReply:
        """Propose commands. writes: those that may make messages ready, for waiters."""
        self.proposer.propose(proposed)
        if proposed.reply is not None:
            return proposed.reply
        if any(_uses_queues(step) and made_ready(self.queues, step.command) for step in writes):
            self._newest_put = proposed
            self._takes.serve_with(writes)
        if self._breaks_writes and proposed.items:
            proposed.complete(OK)
            proposed.given_up = True
        self.on_proposal()
        return proposed

    def _length_of(self, step: Step) -> int:
        """Return the bytes of the values in a reply, as far as they are known now."""
        if _uses_queues(step):
            return length_of_reply(self.queues, step.command)
        if step.command.spec.writes or step.command.spec.scope is not Scope.KEYS:
            return 0
        return sum(self.databases[db].length(key) for db, key in step.command.places_read(step.db))

    def _cost_of(self, step: Step) -> int:
        """Return the work of a command, in commands of one key."""
        if _uses_queues(step):
            return cost_of(self.queues, step.command)
        return 1 + bytes_made(self.databases[step.db], step.command) // BYTES_PER_COST

    def _read_now(self, step: Step) -> Reply:
        if isinstance(step.command, RandomKey):
            return random_key(self.databases[step.db])
        reply = apply(self.databases[step.db], step.command, self._shared.now)
        self.reports.note_read(step.command, reply)
        return reply

    def _clear_prefix(self, step: Step, command: ClearPrefix) -> Reply | PendingReply:
        """Propose to delete the keys that this node finds: the keys of a slice depend on the growth of its table."""
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

            second = PendingProposal((codec.command_item(cleared),), clear)
            self._follow(second, outcome)
            return OK

        outcome = BlockingProposal((), lambda _: OK)
        self._follow(PendingProposal((), look), outcome)
        return outcome if outcome.reply is None else outcome.reply

    def _follow(self, part: PendingProposal, whole: PendingProposal) -> None:
        """Propose a part of a command. The whole fails if the part does."""

        def fail() -> None:
            if part.given_up:
                whole.complete(part.outcome)

        part.on_ready = fail
        self._propose_inside(part)

    # -- TAKE -------------------------------------------------------------------------------------------------

    def _may_take(self, command: Take | TakeAny) -> bool:
        """Return whether a TAKE may find messages, as far as this node knows."""
        if self._newest_put is not None and self._newest_put.executed:
            self._newest_put = None
        if self._newest_put is not None:
            return True
        times = [at for _, key in command.places(0) if (at := self.queues.ready_at(key)) is not None]
        return bool(times) and min(times) <= max(self._shared.now, self.proposed_time()[0])

    def _take_after_read(self, step: Step) -> Reply | PendingReply:
        """Read queues that have no ready messages. Propose the TAKE only if the read finds one."""
        outcome: BlockingProposal

        def look(_: Changes) -> Reply:
            if not any(self._takes.has_messages(key) for _, key in step.command.places(0)):
                outcome.complete(NO_MESSAGES)
                return OK
            take = self._proposal_of(step)
            take.on_ready = lambda: outcome.complete(take.outcome)
            self._propose_inside(take)
            return OK

        outcome = BlockingProposal((), lambda _: OK)
        self._follow(PendingProposal((), look), outcome)
        return outcome if outcome.reply is None else outcome.reply

    def begin_take(self, waiter: Waiter) -> None:
        """Propose a TAKE as soon as there are messages for it; see `Store`."""
        self.commands += 1
        if self._breaks_queues:
            waiter.command = self._broken(waiter.command)
        self._takes.begin(waiter)

    def end_take(self, waiter: Waiter, *, gives_back: bool) -> None:
        """End the wait of a TAKE, or give its leases back through the log; see `Store`."""
        self._takes.end(waiter, gives_back=gives_back)

    def give_back(self, returns: Sequence[Step]) -> None:
        """Give leases back that no client receives, through the log; see `Store`."""
        self._takes.give_back(returns)

    def serve_waiters(self) -> None:
        """Do one bounded slice of the work for waiters; see `Store`."""
        self._takes.serve()

    def _refused_take(self, take: Step | None) -> Failure | None:
        """Return a failure if a TAKE must not be proposed now; None: any TAKE."""
        if self.loading:
            return self._loads()
        if take is not None and (refusal := self._unready or self._refused_queues((take,))):
            return refusal
        return self._refused(take) or self.refuses_writes

    def execute_all(
        self,
        steps: Sequence[Step],
        watched: Sequence[tuple[int, Watched]] = (),
        *,
        bytes_max: int | None = None,
        blocks: bool = False,
        whole: bool = False,
    ) -> Reply | PendingReply:
        """Propose several commands as one entry; see `Store`.

        A command whose value is too long, or has no room at this node, fails and is not proposed; the others are.
        If this node knows that watched keys changed, the transaction fails at once. Otherwise the log entry decides.
        """
        if failure := refusal_to_wait(steps) or self._unready or self._refused_queues(steps, whole=whole):
            return failure
        whole = whole or is_whole(steps)
        if any(self._shared.version(db, watch.key) != watch.version for db, watch in watched):
            return MISSING
        if not steps and not watched:
            return Replies(())
        self.commands += len(steps)
        refused: dict[int, Failure] = {}
        for index, step in enumerate(steps):
            if refusal := self._refused(step if step.command.spec.writes else None):
                if whole or refusal.code not in (failures.TOOLONG, failures.FULL):
                    return refusal
                refused[index] = refusal
        admitted = tuple(step for index, step in enumerate(steps) if index not in refused)
        watches = [Watch(version_slot(db, watch.key), watch.version, watch.expiry or 0) for db, watch in watched]
        transaction = Transaction(watches, admitted, bytes_max or 0, whole)
        writes = any(step.command.spec.writes for step in admitted)
        wanted = (codec.transaction_item(transaction),) if writes else ()
        kind = BlockingProposal if blocks else PendingProposal
        cost = max(1, sum(map(self._cost_of, admitted)))
        return self._propose(
            kind(wanted, lambda changes: _with(refused, self._execute_if_unchanged(transaction, changes)), cost=cost),
            admitted,
        )

    # -- scripts ----------------------------------------------------------------------------------------------

    @property
    def executes_scripts_directly(self) -> bool:
        """No: a script needs the log."""
        return False

    def execute_script(
        self, script: Script, watched: Sequence[tuple[int, Watched]] = (), *, bytes_max: int | None = None
    ) -> Reply | PendingReply:
        """Run a script, and propose its writes as one entry; see `Store`."""
        if refusal := self._unready or self._refused(None):
            return refusal
        return self._scripts.execute(script, watched, bytes_max)

    def hold(self) -> None:
        """Apply no entries, and execute nothing else until `release`; see `Store`."""
        self._set_held(True)

    def release(self) -> None:
        """Execute other commands again; see `Store`."""
        self._set_held(False)

    def _set_held(self, is_held: bool) -> None:
        self.is_held = is_held
        for executor in self.reports.executors:
            executor.off = is_held

    # -- WATCH ------------------------------------------------------------------------------------------------

    def watch(self, places: Sequence[Place], into: dict[Place, Watched]) -> Reply | PendingReply:
        """Record the state of keys when an entry comes back, and track their versions; see `Store`."""
        if refusal := self._unready or self._refused(None):
            return refusal
        slots = sorted({version_slot(*place) for place in places} - self._tracked)

        def note(changes: Changes) -> Reply:
            self._track(slots, changes)
            for db, key in places:
                into[db, key] = self.databases[db].watch(key)
            return OK

        return self._propose(BlockingProposal((codec.track_item(slots),) if slots else (), note))

    # -- entries of the log -----------------------------------------------------------------------------------

    def apply_entry(self, position: int, data: bytes) -> None:
        """Apply the next entry, if `takes_entries`. Raises nothing."""
        assert position == self.position + 1
        changes = self._changes = Changes(position, self.digest)
        entry: Entry | None = None
        judged = Judged(counts=False)
        try:
            entry = parsed(data)
            if entry.semantics > self._supports:
                raise Newer(f"semantics {entry.semantics} is in force; this release knows {self._supports}")
            judged = self.epochs.judge(entry, position)
        except Newer as newer:
            self._leave_for_newer_release(str(newer))
            return
        except ValueError as error:  # the same on all nodes
            logger.warning("position %d: %s", position, error)
        if entry is not None:
            try:
                self._execute_entry(entry, judged, changes)
            except MemoryError:  # after a restart, the node applies the whole entry
                self.leave(f"there was not enough memory to apply position {position:,}")
        if self.proposer.taken_over:
            self.leave("another process runs as this node: its directory was copied, or is used twice")
            return
        if self.stopped is not None:
            return  # the table keeps the state before this entry
        self.position, self.digest = position, changes.digest
        now = self._shared.now
        record = node_table.of_position(self.position, self.identity, now, self.digest)
        self._table.add(entry, changes, self.epochs, record, now)
        self._check_table()
        if position % DIGEST_ENTRIES == 0:
            self._note_digest(position, self.proposer.node, self.digest)
        if self.waiters.may_get_messages(self.queues):
            self.serve_waiters()

    def _execute_entry(self, entry: Entry, judged: Judged, changes: Changes) -> None:
        own: Sequence[Proposal] = ()
        if entry.node == self.proposer.node:
            own = self.proposer.arrived(entry, self.epochs, counts=judged.counts)
        if not judged.counts:
            return
        changes.before = self._shared.now
        if entry.kind is not Kind.EPOCH:  # the proposer of an epoch may not know yet that its clock is wrong
            self._shared.advance(entry.time)
            lead = self._shared.now - entry.clock
            self._shared.lead = lead if entry.time and lead > LEAD_LEAST_MS else 0
        self.on_entry(entry)
        for proposal in cast("Sequence[ExecutableProposal]", own):  # every proposal is one
            if judged.batch is None:  # too many parts: no node has the batch
                proposal.fail(Failure(failures.UNDONE, "more than one entry of the log may have"))
                continue
            try:
                proposal.execute_logged(changes)
            except MemoryError:
                _fail_all(own)
                raise
            except Exception:  # a bug, after the changes that all nodes make
                logger.exception("position %d: a proposal of this node failed", changes.position)
                if proposal.reply is None:
                    proposal.fail(Failure(failures.INTERNAL, "the server's log has the details"))
        if judged.batch and not own:
            self._execute_batch(judged.batch, changes, entry.node)

    def _execute_batch(self, batch: bytes, changes: Changes, node: int) -> None:
        """Execute a batch of another node, or of an earlier process of this node."""
        try:
            for item in items(batch):
                match item.kind:
                    case ItemKind.COMMANDS:
                        for step in codec.steps_of(item, self._executor_of(item.db)):
                            self._require_semantics((step,))
                            self._change(step, changes)
                    case ItemKind.TRANSACTION:
                        transaction = codec.transaction_of(item)
                        self._require_semantics(transaction.steps)
                        executed = self._execute_if_unchanged(transaction, changes) is not MISSING
                        if transaction.watches and node != self.proposer.node:
                            self._scripts.note_other(node, transaction.watches, executed=executed)
                    case ItemKind.TRACK:
                        self._track(codec.slots_of(item), changes)
                    case ItemKind.DIGEST:
                        position, digest = codec.digest_of(item)
                        self._note_digest(position, node, digest)
                    case ItemKind.SKIP:
                        self._keep_leases(*codec.skip_of(item), changes)
                    case ItemKind.SEMANTICS:
                        self._raise_semantics(codec.semantics_of(item), changes)
        except ValueError as error:  # the items before it are executed; the same on all nodes
            logger.warning("position %d: %s", changes.position, error)

    def _require_semantics(self, steps: Iterable[Step]) -> None:
        """Raise `ValueError` for commands that the semantics in force do not include, as an older release does."""
        if self.semantics < QUEUE_SEMANTICS and any(map(_uses_queues, steps)):
            raise ValueError(f"a command on queues, and semantics {self.semantics} is in force")

    # -- the native path (`cairnkv.session.proposals_native`) ---------------------------------------------------

    @property
    def takes_batches(self) -> bool:
        """Whether commands may be proposed without a check of each."""
        return (
            self.proposer.accepts_batch
            and not self.loading
            and not self.is_held
            and self.stopped is None
            and self.stopping is None
            and self.refuses_writes is None
            and self.refuses_growth is None
            and self.memory.limit is None
            and not (self._breaks_reads or self._breaks_writes or self._breaks_queues)
        )

    def propose_batch(self, batch: ExecutableProposal) -> None:
        """Propose several commands together."""
        self.proposer.propose(batch)
        self.on_proposal()

    def execute_logged(self, step: Step, changes: Changes) -> Reply:
        """Execute one command of a batch that has come back from the log."""
        return self._change(step, changes) if step.command.spec.writes else self._read_now(step)

    def new_frame_executor(self, factory: ExecutorFactory[ExecutorT], db: int) -> ExecutorT:
        """Return a new executor of the native path for a database: it proposes commands, and executes local reads."""
        if factory.is_log_format:
            self._log_executor = lambda db: factory.executing(self.databases[db], no_clock, self._collector)
        executor = factory.proposing(self, factory.executing(self.databases[db], no_clock, self._collector))
        executor.off = self.is_held
        self.reports.executors.append(executor)
        return executor

    def _executor_of(self, db: int) -> BatchExecutor | None:
        """Return the native path's executor of log entries for a database; None: the pure path executes them."""
        if self._log_executor is None or db >= DATABASES:
            return None
        if db not in self._log_executors:
            self._log_executors[db] = self._log_executor(db)
        return self._log_executors[db]

    def _collect(self, effects: list[Effect], groups: list[int], size: int) -> None:
        """Add the effects of a batch that the native path has executed to those of the current entry."""
        from cairnkv.replication.proposals_native import digest_of, slots_changed

        changes = self._changes
        changes.keep(effects, size)
        changes.digest = digest_of(changes.digest, effects, groups)
        if self._tracked:
            for slot in slots_changed(effects, self._tracked):
                self._keep_slot(slot, changes)

    def _change(self, step: Step, changes: Changes) -> Reply:
        """Execute one command that may change a database."""
        if step.db >= DATABASES or not _is_for_the_log(step.command):
            return Failure(failures.BADARGS, "no command for a database")
        return self._execute_with_journal(
            changes, lambda: apply(self.databases[step.db], step.command, self._shared.now)
        )

    def _execute_with_journal(self, changes: Changes, work: Callable[[], Reply]) -> Reply:
        journal: Journal = []
        self._shared.journal = journal
        try:
            reply = work()
        except TooMuch as refused:
            self._undo(journal, changes)
            return Failure(failures.UNDONE, str(refused))
        except Unexecuted as refused:
            self._undo(journal, changes)
            return refused.failure
        except MemoryError:  # of this node only: the others execute it
            undo(journal)
            raise
        except Exception:  # a bug, the same on all nodes
            self._undo(journal, changes)
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

    def _undo(self, journal: Journal, changes: Changes) -> None:
        """Undo changes. Versions never go back, and tracked versions are part of the state."""
        undo(journal)
        slots = {version_slot(change.database.number, key) for change in journal for key in change.keys}
        for slot in sorted(slots & self._tracked):
            self._keep_slot(slot, changes)

    def _visible(self, journal: Journal, effects: Sequence[Effect]) -> Sequence[Effect]:
        """Return the effects that are the same on all nodes, ordered by keys: without the removal of expired keys.

        Each node removes expired keys when it likes.
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

    def _execute_if_unchanged(self, transaction: Transaction, changes: Changes) -> Reply:
        if self._have_changed(transaction.watches):
            return MISSING
        return self._execute_with_journal(changes, lambda: self._execute_transaction(transaction))

    def _have_changed(self, watches: Sequence[Watch]) -> bool:
        """Return whether a watched key may have changed."""
        now, versions = self._shared.now, self._shared.versions
        return any(versions[slot] != version or 0 < expiry <= now for slot, version, expiry in watches)

    def _execute_transaction(self, transaction: Transaction) -> Replies:
        found = 0  # bytes of keys in replies: the keys that a look at a table finds differ between nodes
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

        whole = transaction.whole and self.semantics >= QUEUE_SEMANTICS
        return execute_steps(self.databases, transaction.steps, execute, most or None, whole=whole, size=size)

    # -- versions of slots ------------------------------------------------------------------------------------

    def _track(self, slots: Sequence[int], changes: Changes) -> None:
        for slot in slots:
            if slot < VERSION_SLOTS and slot not in self._tracked:
                self._tracked.add(slot)
                self._shared.versions[slot] = changes.position
                self._keep_slot(slot, changes)

    def _count_changes(self, effects: Sequence[Effect], changes: Changes) -> None:
        """Record the versions of the tracked slots that these effects have changed."""
        changed: set[int] = set()
        for db, key, _, _ in effects:
            if key is not None:
                changed.add(version_slot(db, key))
                continue
            for slot in self._tracked:  # no other version shows that a database was cleared
                self._shared.versions[slot] += 1
            changed |= self._tracked
        for slot in changed & self._tracked:
            self._keep_slot(slot, changes)

    def _keep_slot(self, slot: int, changes: Changes) -> None:
        changes.keep([node_table.of_slot(slot, self._shared.versions[slot])])

    # -- semantics and digests --------------------------------------------------------------------------------

    def _raise_semantics(self, version: int, changes: Changes) -> None:
        if not self.semantics < version <= self.epochs.supported:
            return
        if version > self._supports:
            self._leave_for_newer_release(f"semantics {version} is in force")
            return
        self.semantics = self.proposer.semantics = version
        changes.keep([node_table.of_semantics(version)])

    def propose_newer_semantics(self, on_ready: Callable[[], None] = do_nothing) -> bool:
        """Propose the newest semantics that all nodes know. Returns False if it is in force.

        on_ready: called when the proposal is executed, or has failed.
        """
        version = min(self.epochs.supported, self._supports)
        if version <= self.semantics:
            return False
        item = codec.semantics_item(version)
        self._propose_internal(item, lambda changes: self._raise_semantics(version, changes), on_ready)
        return True

    def _propose_inside(self, proposal: PendingProposal) -> None:
        """Propose work that no client has sent."""
        self.proposer.propose(proposal)
        self.on_proposal()

    def _propose_internal(
        self, item: Item, execute: Callable[[Changes], None], on_ready: Callable[[], None] = do_nothing
    ) -> None:
        def work(changes: Changes) -> Reply:
            execute(changes)
            return OK

        proposal = PendingProposal((item,), work)
        proposal.on_ready = on_ready
        self._propose_inside(proposal)

    def propose_digest(self) -> None:
        """Propose the newest digest of this node, for the other nodes."""
        if (own := self._digests.own()) is not None:
            self._propose_internal(codec.digest_item(*own), lambda _: None)

    def _note_digest(self, position: int, node: int, digest: int) -> None:
        if (reason := self._digests.note(position, node, digest)) is not None:
            self.leave(reason, Remedy.WIPE)

    # -- the node's table -------------------------------------------------------------------------------------

    @property
    def own_table(self) -> Storage:
        """The storage of the node's table."""
        return self._table.storage

    @property
    def takes_entries(self) -> bool:
        """Whether this node can apply another entry now: its table accepts one, and no script pauses."""
        accepts = self._table.accepts_entries
        self._check_table()
        return accepts and not self.is_held

    def _check_table(self) -> None:
        if self._table.failure is not None:
            self.leave(f"its own table accepts no writes any more: {self._table.failure}")

    def committed(self, sequence: int) -> None:
        """Do nothing: no reply waits for the node's table, since the disks of a majority have the entry."""

    def failed(self, reason: str, *, unknown: bool, unresolved: Sequence[Effect] = ()) -> None:
        """Stop. The next start reads the table again, or a snapshot in its place."""
        self.leave(f"its own table has failed: {reason}")

    def resolved(self, happened: Sequence[Effect]) -> None:
        """Do nothing: this node has stopped."""

    # -- limits, housekeeping, INFO ---------------------------------------------------------------------------

    def read_ahead(self, step: Step) -> bool:
        """Return False: all values are in memory."""
        return False

    def limit_memory(self, limit: int | None, when_full: WhenFull) -> None:
        """Remove the memory limit (None). Raises `OptionError` for another limit: a node has it from its start."""
        if limit == self.memory.limit:
            return
        if limit is not None or self.loading:
            raise OptionError("a node of a cluster cannot change its memory limit; restart it with another one")
        self.memory.limit = None

    def housekeep(self) -> bool:
        """Free keys that have expired in log time, and serve waiters.

        No reply shows that keys are freed, so each node does it at its own times.
        """
        self._takes.housekeep()
        self._scripts.housekeep()
        return not self.is_held and self.memory.housekeep()

    def info(self) -> list[tuple[str, str | int]]:
        """Return the names and values of INFO."""
        return self.reports.pairs()

    def _about(self) -> Iterable[tuple[str, str | int]]:
        return self.reports.about(
            self._table.storage,
            self.databases,
            self.memory,
            mode=self.mode,
            loading=self.loading,
            commands=self.commands + self._scripts.commands,
            waiters=len(self._takes),
            queues=self.queues,
        )

    @property
    def back_up(self) -> MakeBackup | None:
        """Makes a backup of the node's table, in any thread."""
        return self._table.storage.back_up

    def close(self) -> None:
        """Close the node's table."""
        self._table.storage.close(self._shared.now)


def _with(refused: Mapping[int, Failure], reply: Reply) -> Reply:
    """Insert the failures of commands that were not proposed into the replies to the others."""
    if not refused or not isinstance(reply, Replies):
        return reply
    replies = list(reply.values)
    for index in sorted(refused):
        replies.insert(index, refused[index])
    return Replies(tuple(replies))


def _lists_keys(command: Command) -> bool:
    return not command.spec.writes and command.spec.scope is Scope.TABLE


def _is_for_the_log(command: Command) -> bool:
    """Whether the effects of a command depend on the state only."""
    return not (command.spec.by_store or isinstance(command, ClearPrefix))


def _uses_queues(step: Step) -> bool:
    return step.command.spec.scope is Scope.QUEUES


def _fail_all(proposals: Sequence[Proposal]) -> None:
    """Fail proposals that the other nodes have executed."""
    for proposal in cast("Sequence[ExecutableProposal]", proposals):
        if proposal.reply is None:
            proposal.fail(
                Failure(failures.UNKNOWN, "it is executed, but this node has not enough memory for its reply")
            )
