"""The store of one process: executes commands on the engine, and records writes in storage.

Invariants:
- If commits fail, their changes are undone, newest first, and their replies fail, before another command executes.
- A command on a key whose failed write has an unknown outcome is refused until storage has read the outcome: no client
  sees the key without that write first and with it later.

Out of scope: which replies wait (`commit_gate`), memory (`memory`), protocols and sockets.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from cairnkv.commands import MISSING, OK, Clear, Command, Extend, Failure, Replies, Reply, Step, failures
from cairnkv.commands.queue_vocabulary import EXPIRED, Purge, Together
from cairnkv.commands.vocabulary import Auth, Backup, Info, Ping, RandomKey, Whoami
from cairnkv.engine import Database, Journal, QueueDatabase, Shared, Watched, apply, discard, keep_leases, undo
from cairnkv.errors import OptionError
from cairnkv.limits import DATABASES, VALUE_MAX
from cairnkv.storage import Deliver, Effect, InMemoryStorage, MakeBackup, Storage, StorageRefused
from cairnkv.store.base import ExecutorFactory, ExecutorT, Loaded, WhenFull
from cairnkv.store.batch_undo import BatchUndo
from cairnkv.store.clock import Clock, LogClock, wall_clock
from cairnkv.store.commit_gate import CommitGate, UncommittedEntry, notify, release
from cairnkv.store.direct_script import DirectScript
from cairnkv.store.eviction import Eviction
from cairnkv.store.info import DirectExecutor, StoreInfo, random_key
from cairnkv.store.lru import Place
from cairnkv.store.memory import Memory
from cairnkv.store.pending import PendingReply
from cairnkv.store.script import HELD, NeedsValues, RunJournal, Script, ScriptWork
from cairnkv.store.transaction import (
    TooMuch,
    Unexecuted,
    effects_of,
    execute_steps,
    is_whole,
    refusal_to_wait,
)
from cairnkv.store.value_cache import ScriptRead, ValueCache
from cairnkv.store.waiters import NO_MESSAGES, Waiter, Waiters

TIME_AHEAD_MS: Final = 1_000
"""How far ahead of log time storage records it, so that it does not record it for every command. If the store opens
again sooner than this after a crash, keys may expire early by up to this time."""

QUEUES_PER_SLICE: Final = 50
"""Queues that one slice of housekeeping examines for expired messages: some tens of microseconds."""


class LocalStore:
    """Databases in this process, with or without storage on disk."""

    def __init__(
        self,
        *,
        storage: Storage | None = None,
        clock: Clock = wall_clock,
        memory_limit: int | None = None,
        when_full: WhenFull = WhenFull.REFUSE,
        value_max: int = VALUE_MAX,
        loads_later: bool = False,
    ) -> None:
        """memory_limit: bytes that the entries may take, by estimate; None: no limit.

        value_max: maximum bytes of a value after a command that lengthens it.
        loads_later: whether the caller calls `load` and `begin` later; until then commands fail as `LOADING`.
        """
        self._shared: Final = Shared()
        self.databases: Final = tuple(Database(self._shared) for _ in range(DATABASES))
        self.queues: Final = QueueDatabase(self._shared)
        """The records of queues."""
        self._storage: Storage = storage if storage is not None else InMemoryStorage()
        self._changes_only_memory: Final = not self._storage.keeps_effects
        self.loading = True
        """Whether storage has yet to be loaded."""
        self.checks_commands = True
        """Whether each command must be checked before it executes: the store loads, a failed write's outcome is
        unknown, or a script pauses."""
        self._is_held = False  # whether a script pauses
        self._checks_when_released = False
        self._held_calls: deque[Callable[[], None]] = deque()  # of threads of storage, and for waiters
        self.clock = clock
        self.log_clock = LogClock(clock, self._shared)
        """Advances log time by the clock."""
        self.log_clock.before_skip = self._keep_leases
        self.gate: Final = CommitGate()
        self.memory: Final = Memory(
            (*self.databases, self.queues), self._storage, memory_limit, value_max, evict=self._evict
        )
        if memory_limit is not None and when_full is WhenFull.EVICT and not self._storage.keeps_effects:
            self.memory.eviction = Eviction(self.databases)
        self._steps: list[Step] | None = None  # of the current entry: those that have changed a database
        self.under_way: Journal | None = None
        """The changes of the current call, if `begin_call` precedes each call; None between calls."""
        self.commands = 0
        """The number of commands of the pure path."""
        self._swept = 0  # number of the last queue that housekeeping has examined
        self.waiters = Waiters()
        """The TAKE commands that wait for messages."""
        self.queues.watched = self.waiters.lines
        self.elapsed: Callable[[], int] = self.log_clock.elapsed
        """Returns the elapsed time in milliseconds by which waits end."""
        self.reports: Final = StoreInfo(self._about)
        if not loads_later:
            try:
                self.begin(self.load())
                self.log_clock()
            except BaseException:
                self.close()
                raise

    @property
    def mode(self) -> str:
        """The mode: in-memory or durable."""
        return self._storage.mode

    @property
    def database(self) -> Database:
        """Database 0: that of the native protocol and of embedded stores."""
        return self.databases[0]

    # -- loading ------------------------------------------------------------------------------------------

    def load(self) -> Loaded:
        """Read what storage has kept; see `Store`."""
        aside = Shared()
        databases = tuple(Database(aside) for _ in range(DATABASES))
        queues = QueueDatabase(aside)
        return Loaded(databases, queues, self._storage.restore(aside.databases, self.memory.limit))

    def begin(self, loaded: Loaded) -> None:
        """Use what `load` returned, and execute commands from now on."""
        for database, kept in zip(self.databases, loaded.databases, strict=True):
            database.take_over(kept)
        self.queues.take_over(loaded.queues)
        self.gate.recorded_time = loaded.databases[0].now
        self._shared.advance(self.gate.recorded_time)
        self.gate.committed = loaded.sequence
        self.loading = False
        if self.memory.limit is not None and self._storage.keeps_effects:
            self.memory.cache = ValueCache(
                (*self.databases, self.queues),
                self._storage.fetch,
                self.memory.limit,
                is_pending=self.gate.is_pending,
                taken=self._storage.memory_bytes,
            )
        self._storage.listen(self)
        self._set_checks_commands(False)

    def _set_checks_commands(self, checks: bool) -> None:
        self.checks_commands = checks
        for executor in self.reports.executors:
            executor.off = not self._allows_executors

    # -- commands -----------------------------------------------------------------------------------------

    def execute(
        self, command: Command, db: int = 0, *, touch: bool = True, local: bool = False
    ) -> Reply | PendingReply:
        """Execute a command on a database; see `Store`. All reads are linearizable here, also local ones."""
        if isinstance(command, Together):
            parts = [Step(db, part) for part in command.commands]
            return self.execute_all(parts, bytes_max=VALUE_MAX, whole=True)
        step = Step(db, command)
        if self.checks_commands:
            if self._is_held:
                return self._while_held(step)
            if failure := self._check((step,)):
                return failure
        memory, gate = self.memory, self.gate
        if memory.cache is not None:
            put_off = memory.cache.put_off((step,), lambda: self.execute(command, db, touch=touch))
            if put_off is not None:
                return put_off
        self.commands += 1
        now = self.log_clock()
        if self._storage.keeps_effects:
            self._record_time(now)
        if self.waiters.may_get_messages(self.queues):
            self.serve_waiters()
        if not command.spec.writes:
            reply = self._read(step, touch=touch)
            return gate.hold(reply, gate.newest_for(step)) if gate.uncommitted else reply
        if refusal := memory.admit(step):
            # A refusal may depend on the value of the key, which an uncommitted write may have set.
            return gate.hold(refusal, gate.newest_for(step))
        outcome = self._write(step)
        if memory.eviction is not None:
            memory.eviction.note_use(command.places(db))
        return outcome

    def execute_all(
        self,
        steps: Sequence[Step],
        watched: Sequence[tuple[int, Watched]] = (),
        *,
        bytes_max: int | None = None,
        blocks: bool = False,
        whole: bool = False,
    ) -> Reply | PendingReply:
        """Execute several commands as one; see `Store`. They are one entry of storage, which undoes all if it fails."""
        if failure := refusal_to_wait(steps) or (self._check(steps, watched) if self.checks_commands else None):
            return failure
        newest, are_unchanged = self._begin_entry(watched)
        if not are_unchanged:
            return self.gate.hold(MISSING, newest)
        memory = self.memory
        if memory.cache is not None:
            put_off = memory.cache.put_off(
                steps, lambda: self.execute_all(steps, watched, bytes_max=bytes_max, whole=whole)
            )
            if put_off is not None:
                return put_off
        self.commands += len(steps)

        def work() -> Reply:
            return execute_steps(
                self.databases,
                steps,
                self._execute_step,
                bytes_max,
                whole=whole or is_whole(steps),
                value_max=memory.value_max,
            )

        return self._as_one_entry(steps, work, newest)

    def _begin_entry(self, watched: Sequence[tuple[int, Watched]]) -> tuple[int, bool]:
        """Advance log time, and serve waiters. Returns the newest uncommitted entry of watched keys (0: none), and
        whether no key has changed."""
        self._advance()
        if self.waiters.may_get_messages(self.queues):
            self.serve_waiters()
        newest = max((self.gate.newest_of(db, watch.key) for db, watch in watched), default=0)
        return newest, all(self.databases[db].is_unchanged(watch) for db, watch in watched)

    def execute_script(
        self, script: Script, watched: Sequence[tuple[int, Watched]] = (), *, bytes_max: int | None = None
    ) -> Reply | PendingReply:
        """Execute a script; see `Store`. It is one entry of storage, which undoes all if it fails."""
        if self.checks_commands and (failure := self._check((), watched, is_script=True)):
            return failure
        if not watched and bytes_max is not None and self.executes_scripts_directly:
            return self._execute_directly(script, bytes_max)
        newest, are_unchanged = self._begin_entry(watched)
        if not are_unchanged:
            return self.gate.hold(MISSING, newest)
        gate, memory, cache = self.gate, self.memory, self.memory.cache
        read = script.state if isinstance(script.state, ScriptRead) else None
        work = ScriptWork(self.databases, bytes_max)
        shown: list[Step] = []  # steps whose replies show a newer uncommitted entry than the steps before
        changed = set[Place]() if cache is None else cache.begin_run()
        evicted, journal = memory.evicted, RunJournal(self._shared)

        def execute(step: Step) -> Reply:
            nonlocal newest
            if gate.uncommitted and (entry := gate.newest_for(step)) > newest:
                newest = entry
                shown.append(step)
            if failure := work.refusal(step) or (self._unresolved((step,)) if self.checks_commands else None):
                return failure
            if cache is not None:
                cache.require(step)
                if step.command.spec.writes:
                    changed.update(step.command.places(step.db))
            reply = self._execute_step(step)
            work.count(reply)
            return reply

        try:
            outcome = self._as_one_entry(shown, lambda: script.run(execute), newest, own=journal)
        except NeedsValues as needed:
            assert cache is not None
            journal.restore_versions()
            outcome = cache.read_for_script(needed.places, script.places, read)
            script.state = outcome
            if isinstance(outcome, PendingReply) and outcome.reply is not None:
                outcome = outcome.reply
        except BaseException:
            memory.evicted = evicted
            journal.restore_versions()
            raise
        else:
            self.commands += work.commands
        if read is not None and cache is not None:
            cache.end_reservation(read)
        return outcome

    @property
    def executes_scripts_directly(self) -> bool:
        """Whether a script changes the databases only: no commit, no memory limit, no check, no client that waits."""
        return self.allows_direct_calls and self._changes_only_memory and not self.waiters and self.under_way is None

    def _execute_directly(self, script: Script, bytes_max: int) -> Reply:
        """Execute a script if `executes_scripts_directly`."""
        shared, reports = self._shared, self.reports
        self.log_clock()
        journal = RunJournal(shared)
        shared.journal, self._steps = journal, []
        run = DirectScript(self.databases, bytes_max, self._execute_step)
        try:
            reply = script.run(run)
        except BaseException:
            journal.undo()
            raise
        finally:
            shared.journal = self._steps = None
        if journal:
            self._storage.append((), shared.now)
            discard(journal)
        self.commands += run.commands
        reports.note_lookups(run.hits, run.misses)
        return reply

    def hold(self) -> None:
        """Execute nothing else until `release`; see `Store`."""
        assert not self._is_held, "only one script pauses"
        self._is_held, self._checks_when_released = True, self.checks_commands
        self._set_checks_commands(True)

    def release(self) -> None:
        """Execute other commands again; see `Store`."""
        self._is_held = False
        self._set_checks_commands(self._checks_when_released)
        while self._held_calls:
            self._held_calls.popleft()()
        self._request_timer()

    def _when_released(self, call: Callable[[], None]) -> None:
        """Call a function now, or when the store is released."""
        if self._is_held:
            self._held_calls.append(call)
        else:
            call()

    def _while_held(self, step: Step) -> Reply:
        """Execute a command that reads no database, or refuse it. Log time stands still."""
        if isinstance(step.command, Info):
            return self.reports.reply()
        if isinstance(step.command, Ping):
            return apply(self.databases[step.db], step.command, self._shared.now)
        return HELD

    def _check(
        self, steps: Sequence[Step], watched: Sequence[tuple[int, Watched]] = (), *, is_script: bool = False
    ) -> Failure | None:
        """Return a failure if these commands must not execute now."""
        if self._is_held:
            return HELD
        if self.loading:
            if not is_script and all(isinstance(step.command, Info) for step in steps):
                return None
            return Failure(failures.LOADING, "the server loads its store from the disk; try again later")
        return self._unresolved(steps, watched)

    def _unresolved(self, steps: Sequence[Step], watched: Sequence[tuple[int, Watched]] = ()) -> Failure | None:
        """Return a failure if a failed write, whose outcome is unknown, may have changed the keys of commands."""
        gate = self.gate
        if any(map(gate.is_unresolved, steps)) or any(gate.is_key_unresolved(db, watch.key) for db, watch in watched):
            return Failure(
                failures.RECOVERING,
                "a write of this key failed, and its outcome is unknown until the store is open again; try again later",
            )
        return None

    def read_ahead(self, step: Step) -> bool:
        """Begin to read the values that a later command needs; see `Store`."""
        return self.memory.cache is not None and not self._is_held and self.memory.cache.read_ahead(step)

    def watch(self, places: Sequence[Place], into: dict[Place, Watched]) -> Reply | PendingReply:
        """Record the state of keys for `execute_all`; see `Store`."""
        if self._is_held:
            return HELD
        self._advance()
        for db, key in places:
            into[db, key] = self.databases[db].watch(key)
        return OK

    def _advance(self) -> None:
        now = self.log_clock()
        if self._storage.keeps_effects:
            self._record_time(now)

    def _record_time(self, now: int) -> None:
        """Record log time in storage if a reply may show expiry.

        Replies wait for that record: an expired key never comes back, whatever a crash or the clock does. While storage
        is read-only it records no time, and reads go on.
        """
        if now <= self.gate.recorded_time or not self._shared.expiring:
            return
        try:
            self.gate.add_time(self._storage.append((), now + TIME_AHEAD_MS), now + TIME_AHEAD_MS)
        except StorageRefused:
            return

    def _read(self, step: Step, *, touch: bool = True) -> Reply:
        db, command = step
        if command.spec.by_store:
            if isinstance(command, RandomKey):
                return random_key(self.databases[db])
            if isinstance(command, Auth | Whoami):
                return Failure(failures.NOCOMMAND, "a store has no users; a server has")
            return self.reports.begin_backup(command) if isinstance(command, Backup) else self.reports.reply()
        reply = apply(self.databases[db], command, self._shared.now)
        self.reports.note_read(command, reply)
        if touch and self.memory.eviction is not None:
            self.memory.eviction.note_use(command.places(db))
        elif touch and self.memory.cache is not None:
            self.memory.cache.used(command.places(db))
        return reply

    def _write(self, step: Step) -> Reply | PendingReply:
        """Apply a write that was admitted, and record it in storage."""
        if self._steps is not None:
            return self._apply(step)  # a part of the current transaction's entry
        if self._storage.commits_at_once and self.memory.eviction is None and not step.command.spec.stores_several:
            now = self._shared.now
            try:
                self._storage.append((step,), now)
            except StorageRefused as refused:
                return Failure(refused.code, str(refused))
            return apply(self.databases[step.db], step.command, now)
        return self._as_one_entry((step,), lambda: self._apply(step))

    def _apply(self, step: Step) -> Reply:
        """Apply a write as a part of the current entry. A write without changes is no part of it."""
        assert self._steps is not None
        assert self._shared.journal is not None
        changes = len(self._shared.journal)
        reply = apply(self.databases[step.db], step.command, self._shared.now)
        if len(self._shared.journal) > changes:
            self._steps.append(step)
        return reply

    def _execute_step(self, step: Step) -> Reply:
        """Execute one command of a transaction, whose entry has one log time."""
        if not step.command.spec.writes:
            return self._read(step)
        if refusal := self.memory.admit(step):
            return refusal
        reply = self._write(step)
        assert not isinstance(reply, PendingReply)
        if self.memory.eviction is not None:
            self.memory.eviction.note_use(step.command.places(step.db))
        return reply

    def _evict(self, db: int, key: bytes) -> bool:
        return not isinstance(self._write(Step(db, Clear(key))), Failure)

    def _as_one_entry(
        self, commands: Sequence[Step], work: Callable[[], Reply], newest: int = 0, *, own: RunJournal | None = None
    ) -> Reply | PendingReply:
        """Call `work`, which changes databases by `_apply` only, and record its changes as one entry, or undo them.

        If waiters get messages by that, their TAKE commands belong to the entry.
        commands: those of the entry. newest: an entry whose commit the reply must also wait for. own: its journal.
        """
        journal: Journal = own if own is not None else [] if self.under_way is None else self.under_way
        before = len(journal)  # changes of the same call: evictions that made room
        steps: list[Step] = []
        served: list[tuple[Waiter, Reply]] = []
        self._shared.journal, self._steps = journal, steps
        try:
            reply = work()
            if self.queues.changed and self.under_way is None and not self.checks_commands:
                served = self.waiters.serve(self.queues, self._apply)
            if not steps:  # no changes: the reply waits for the values that it shows
                return self.gate.hold(reply, max([newest, *map(self.gate.newest_for, commands)]))
            effects = effects_of(journal) if self._storage.keeps_effects else ()
            sequence = self._storage.append(tuple(steps), self._shared.now, effects)
        except StorageRefused as refused:
            failure = Failure(refused.code, str(refused))
            if commands:  # without them there are no messages
                self._put_back(served)
            self._undo(journal)
            self._shared.journal = self._steps = None
            for waiter, _ in () if commands else served:
                waiter.complete(failure)
            self._request_timer()
            return failure
        except TooMuch as refused:
            self._undo(journal)
            return Failure(failures.UNDONE, str(refused))
        except Unexecuted as refused:
            self._undo(journal)
            journal.clear()
            return self.gate.hold(refused.failure, max([newest, *map(self.gate.newest_for, commands)]))
        except BaseException:  # a bug, or an interrupt: changes that storage does not have must not stay
            self._put_back(served)
            if own is not None or self.under_way is None:
                self._undo(journal)
            raise
        finally:
            self._shared.journal = self._steps = None
        if self.memory.eviction is not None:
            self.memory.eviction.note_changes(journal[before:])
        elif self.memory.cache is not None:
            self.memory.cache.changed(journal, sequence, effects)
        outcome: Reply | PendingReply = reply
        if not self._storage.commits_at_once:
            outcome = self.gate.add(sequence, journal, reply)
        elif self.under_way is None:
            discard(journal)
        for waiter, taken in served:
            waiter.complete(taken if self._storage.commits_at_once else self.gate.add_reply(sequence, taken))
        self._request_timer()
        return outcome

    def _put_back(self, served: Sequence[tuple[Waiter, Reply]]) -> None:
        """Let waiters wait again whose TAKE commands are undone. Their queues are due as before, or changed."""
        for waiter, _ in served:
            self.waiters.put_back((waiter,))
            self.queues.changed |= dict.fromkeys(waiter.keys)

    def _undo(self, journal: Journal, *, unknown: bool = False) -> None:
        undo(journal)
        if self.memory.cache is not None:
            self.memory.cache.taken_back(journal, unknown=unknown)
        if self.memory.eviction is not None:
            self.memory.eviction.note_undo(journal)

    def _keep_leases(self, then: int) -> None:
        """Move the ends of leases before log time goes forward to `then`, because less time has elapsed for workers."""
        now = self._shared.now
        if self.checks_commands or not self.queues.leases(now, 1):
            return

        def work() -> Reply:
            assert self._steps is not None
            self._steps.append(Step(0, Extend(then - now, tuple(keep_leases(self.queues, now, then)))))
            return OK

        self._as_one_entry((), work)

    # -- waiters ------------------------------------------------------------------------------------------------

    def begin_take(self, waiter: Waiter) -> None:
        """Execute a TAKE as soon as there are messages for it; see `Store`."""
        failure = self._check((Step(0, waiter.command),)) if self.checks_commands else None
        failure = failure or self.waiters.add(waiter, self.elapsed())
        if failure is not None:
            waiter.complete(failure)
            return
        self.commands += 1
        self.queues.changed |= dict.fromkeys(waiter.keys)
        self.serve_waiters()

    def end_take(self, waiter: Waiter, *, gives_back: bool) -> None:
        """End the wait of a TAKE, or give its leases back; see `Store`."""
        if not waiter.executed:
            self.waiters.remove(waiter)
            self._end_empty(waiter)
        elif gives_back and (returns := waiter.leases):
            self.give_back(returns)
            waiter.withdraw()

    def give_back(self, returns: Sequence[Step]) -> None:
        """Give leases back that no client receives; see `Store`."""
        if not returns:
            return
        if self._is_held:
            self._held_calls.append(partial(self.give_back, returns))
            return
        self._advance()
        self._as_one_entry(returns, lambda: Replies(tuple(map(self._apply, returns))))

    def _end_empty(self, waiter: Waiter) -> None:
        waiter.complete(self.gate.hold(NO_MESSAGES, self.gate.newest_for(Step(0, waiter.command))))

    def serve_waiters(self) -> None:
        """Do one bounded slice of the work for waiters; see `Store`."""
        if not self.waiters or self.under_way is not None or self._is_held:
            return
        self.log_clock()
        elapsed = self.elapsed()
        if self.waiters.may_get_messages(self.queues) or self.waiters.first_end <= elapsed:
            self._advance()
            self.waiters.note_due(self.queues, self._shared.now)
            if self.queues.changed and not self.checks_commands:
                self._as_one_entry((), lambda: OK)
            if not self.queues.changed or self.checks_commands:
                for waiter in self.waiters.ended(elapsed):
                    self._end_empty(waiter)
        self._request_timer()

    def end_waiters(self) -> None:
        """End all waits."""
        for waiter in self.waiters.all():
            self.end_take(waiter, gives_back=False)

    def _request_timer(self) -> None:
        if self.waiters and not self._is_held:
            self.waiters.request_timer(self.queues, self.elapsed(), self._shared.now, blocked=self.checks_commands)

    def take_waiters(self, other: "LocalStore") -> None:
        """Continue with the waiters of another store, which this one replaces."""
        self.waiters = other.waiters
        self.queues.watched, self.queues.changed = self.waiters.lines, dict.fromkeys(self.waiters.lines)

    # -- reports of storage (`CommitListener`) ----------------------------------------------------------------

    def committed(self, sequence: int) -> None:
        """Storage has committed all entries up to this one: the replies that wait for them may leave."""
        self.gate.committed = max(self.gate.committed, sequence)
        cache = self.memory.cache
        entries: list[UncommittedEntry] = []
        while (entry := self.gate.commit_oldest(sequence)) is not None:
            if cache is not None:
                cache.committed(entry.journal, entry.sequence)
            discard(entry.journal)
            entries.append(entry)
        release(entries)
        if cache is not None:
            cache.cool_some()

    def failed(self, reason: str, *, unknown: bool, unresolved: Sequence[Effect] = ()) -> None:
        """All uncommitted entries have failed: undo them, newest first, and fail the replies that wait for them.

        Commands on the keys of `unresolved` are refused until `resolved`.
        """
        failed: list[UncommittedEntry] = []
        write_failure = Failure(failures.UNKNOWN if unknown else failures.UNDONE, reason)
        while (entry := self.gate.fail_newest()) is not None:
            self._undo(entry.journal, unknown=unknown)
            entry.fail(self.gate.committed, write_failure, Failure(failures.UNDONE, reason))
            failed.append(entry)
        self._set_checks_commands(self.gate.set_unresolved(unresolved))
        if self.memory.cache is not None:
            self.memory.cache.failed()
        notify([reply for entry in failed for reply in entry.waiting])
        self._request_timer()

    def resolved(self, happened: Sequence[Effect]) -> None:
        """Storage has read the outcome of failed writes: set these effects, as changes that happen now."""
        for db, key, value, expiry in happened:
            database = self._shared.databases[db]
            if key is None:
                database.clear_all()
            elif value is None:
                database.delete(key)
            else:
                database.put(key, value, expiry)
            if self.memory.eviction is not None:
                self.memory.eviction.note_change(db, key)
        self.gate.resolve()
        self._set_checks_commands(False)
        if self.memory.cache is not None:
            self.memory.cache.resolved(happened)
            self.memory.cache.cool_some()
        self._request_timer()

    # -- calls that may be interrupted --------------------------------------------------------------------------

    def begin_call(self) -> None:
        """Begin a call that an exception, or another call, may interrupt between any two steps.

        While `under_way` is not None, this store may be in the middle of a change, and `undone` returns the state
        before the call. Only for a store in memory.
        """
        self._shared.journal = self.under_way = []

    def end_call(self) -> None:
        """End a call. From the first step of this method on, `undone` no longer undoes the call."""
        journal, self.under_way = self.under_way, None
        self._shared.journal = None
        if journal:
            discard(journal)

    def undone(self) -> "LocalStore":
        """Return a store with the state before the current call. This store does not change.

        Copies the dicts of the table, so it takes time in proportion to the number of keys.
        """
        memory = self.memory
        store = LocalStore(
            storage=self._storage,
            clock=self.clock,
            memory_limit=memory.limit,
            when_full=WhenFull.REFUSE if memory.eviction is None else WhenFull.EVICT,
            value_max=memory.value_max,
        )
        for copy, database in zip(store.databases, self.databases, strict=True):
            copy.copy_undone(database, self.under_way or [])
        store.queues.copy_undone(self.queues, self.under_way or [])
        store._shared.now, store._shared.lead = self._shared.now, self._shared.lead
        store.log_clock.go_on_from(self.log_clock)
        if store.memory.eviction is not None:
            store.memory.eviction.search_all()
        store.memory.expired, store.memory.evicted = memory.expired, memory.evicted
        store.commands, store.reports.executors = self.commands, self.reports.executors
        return store

    @property
    def interruptible(self) -> bool:
        """Whether `undone` can restore the whole store."""
        return self._storage.commits_at_once and not self._storage.keeps_effects

    # -- the native path ------------------------------------------------------------------------------------

    def new_frame_executor(self, factory: ExecutorFactory[ExecutorT], db: int) -> ExecutorT:
        """Return a new executor of the native path for a database."""
        executor = factory.executing(self.databases[db], self.log_clock, self.collector(db))
        self.add_executor(executor)
        return executor

    def add_executor(self, executor: DirectExecutor) -> None:
        """Count the commands of an executor, and switch it off while it must not execute commands."""
        executor.off = not self._allows_executors
        self.reports.executors.append(executor)

    def collector(self, db: int) -> BatchUndo | None:
        """Return the receiver of changes that the native path makes to a database; None: they need no commit."""
        if not self._storage.keeps_effects:
            return None
        memory = self.memory
        only_reads = memory.limit is not None if self.loading else memory.cache is not None
        return BatchUndo(self._storage, self.gate, memory, self.databases[db], only_reads=only_reads)

    @property
    def allows_direct_calls(self) -> bool:
        """Whether a command needs the databases only: no commit, no memory limit, no check."""
        return self._storage.commits_at_once and self.memory.limit is None and not self.checks_commands

    @property
    def allows_direct_reads(self) -> bool:
        """Whether a read must check uncommitted entries and the recorded time only."""
        return self.allows_direct_calls or (self._storage.keeps_effects and self.memory.limit is None)

    @property
    def _allows_executors(self) -> bool:
        if self.checks_commands:
            return False
        memory = self.memory
        return self.allows_direct_calls or (
            self._storage.keeps_effects and (memory.limit is None or memory.cache is not None)
        )

    # -- limits, housekeeping, INFO -------------------------------------------------------------------------

    @property
    def is_behind(self) -> bool:
        """Whether a client with pending writes should wait for them before it executes more commands."""
        return self._storage.is_behind

    def limit_memory(self, limit: int | None, when_full: WhenFull) -> None:
        """Change the memory limit, from the next write on; see `Store`.

        Keys that no command uses after that are evicted first.
        """
        memory = self.memory
        if self._storage.keeps_effects:
            if self.loading and limit != memory.limit:
                raise OptionError("the store is loading; change the memory limit when it is loaded")
            if memory.cache is not None:
                memory.cache.limit = limit
                if not self._is_held:  # the script that pauses has changed values that must not leave memory
                    memory.cache.cool_some()
            elif limit is not None and not self.loading:
                raise OptionError(
                    "a store on disk that started without a memory limit cannot get one; restart it with one"
                )
            memory.limit = limit
            return
        memory.limit = limit
        evicts = limit is not None and when_full is WhenFull.EVICT
        if evicts != (memory.eviction is not None):
            memory.eviction = Eviction(self.databases) if evicts else None
            if memory.eviction is not None:
                memory.eviction.search_all()
        self._set_checks_commands(self.checks_commands)

    def housekeep(self) -> bool:
        """Do one bounded slice of background work; see `Store`."""
        if self._is_held:
            return False
        if self.memory.cache is not None:
            self.memory.cache.end_old_reservations(self.elapsed())
        self.log_clock()  # storage does not record it: no reply shows it
        self.serve_waiters()  # a clock other than the system's, or a corrected one, may be ahead of the timer
        more = self.memory.housekeep()
        return self._remove_expired_messages() or more

    def _remove_expired_messages(self) -> bool:
        """Remove expired messages of one queue. Returns whether there may be more.

        Unlike the removal of an expired key, this is a command: it changes the totals of a queue.
        """
        self._swept, name = self.queues.next_expired(self._swept, QUEUES_PER_SLICE)
        return name is not None and not isinstance(self.execute(Purge(name, EXPIRED, 0)), Failure)

    @property
    def needs_no_housekeeping(self) -> bool:
        """Whether `housekeep` finds nothing to do until another command executes."""
        return self.memory.eviction is None and self.memory.cache is None and self.database.tidy and self.queues.tidy

    def info(self) -> list[tuple[str, str | int]]:
        """Return the names and values of INFO."""
        if not self._is_held:
            self.log_clock()
        return self.reports.pairs()

    def _about(self) -> Iterable[tuple[str, str | int]]:
        return self.reports.about(
            self._storage,
            self.databases,
            self.memory,
            mode=self.mode,
            loading=self.loading,
            commands=self.commands,
            waiters=len(self.waiters),
            queues=self.queues,
        )

    @property
    def back_up(self) -> MakeBackup | None:
        """Makes a backup, in any thread; None if the store keeps nothing on disk."""
        return self._storage.back_up

    def deliver_by(self, deliver: Deliver) -> None:
        """Set the function through which threads of storage call into the thread of the store."""
        self._storage.deliver_by(lambda call: deliver(partial(self._when_released, call)))

    def close(self) -> None:
        """Commit or fail pending writes, and take no more commands."""
        self._storage.close(self._shared.now)
