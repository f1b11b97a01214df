"""The store: executes commands against the keyspace, and decides when each reply may leave.

What always holds (the promises, for any log that keeps its contract):
- A reply that says a write succeeded leaves when the log has committed it, but for `PendingReply.from_memory`.
- A reply shows nothing that could still be taken back: it waits for the newest pending commit among the keys
  it touched, or of all where it touched the whole table.
- When commits fail, what they changed is undone, newest first, and the replies that waited for them fail,
  before another command runs.
- Memory is checked before the log; an eviction is a CLEAR in the log.

Not for sessions, wires or sockets; and it has no lock: one thread at a time.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from cairnkv.commands import (
    MISSING,
    OK,
    Clear,
    Command,
    Failure,
    Items,
    Replies,
    Reply,
    Scope,
    Step,
    failures,
)
from cairnkv.commands.vocabulary import Backup, Info, RandomKey
from cairnkv.engine import Database, Journal, Shared, Watched, apply, discard, undo
from cairnkv.engine.database import Before, Change, Cleared
from cairnkv.engine.table import CURSORS, USE_BYTES
from cairnkv.errors import OptionError
from cairnkv.installation import features
from cairnkv.limits import DATABASES, VALUE_MAX
from cairnkv.storage import BackUp, Deliver, Effect, InMemoryStorage, Storage, StorageRefused
from cairnkv.storage.base import LARGE_VALUE_BYTES, Redated
from cairnkv.store.admission import bytes_made, bytes_made_together, growth, length_after
from cairnkv.store.base import DirectExecutor, ExecutorFactory, ExecutorT, InfoSource, Loaded, WhenFull
from cairnkv.store.batch_undo import BatchUndo, NativeChanges
from cairnkv.store.clock import Clock, LogClock, wall_clock
from cairnkv.store.lru import Lru, Place
from cairnkv.store.pending import PendingReply, size_of
from cairnkv.store.value_cache import ValueCache
from cairnkv.version import VERSION

if TYPE_CHECKING:
    from cairnkv.store.pending_native import PendingBatch

EXPIRED_PER_SLICE: Final = 200
"""Expired keys that one slice of housekeeping removes: about a millisecond."""

EVICTIONS_PER_WRITE: Final = 1_000
"""Keys that one write may push out. A value that needs more room is refused, and may be repeated."""

KEYS_PER_LOOK: Final = 100
"""Keys that one look for a victim passes among which some may be of no known use."""

KEYS_PER_RANDOM_LOOK: Final = 20
"""Keys that one look for any key passes; one of those is taken."""

SLICES_PER_WRITE: Final = 8
"""Slices of housekeeping that a write may wait for when memory is short."""

TIME_AHEAD_MS: Final = 1_000
"""How far ahead log time is noted in a log that outlives this process, so that it is not noted for every command.
After a crash, keys may expire so much early, where the store is open again sooner than that."""


def _no_backups(command: Backup) -> Reply:
    return Failure(failures.NOBACKUP, "there is no server around this store that makes them")


class _Uncommitted:
    """A write that the log has not committed yet, and the replies that wait for it."""

    __slots__ = ("journal", "own", "replies", "runs")

    def __init__(self, journal: Journal, own: PendingReply | None = None) -> None:
        """own: the reply to the write itself; None: nobody waits for it, or all that do are among the runs."""
        self.journal = journal
        self.own = own
        self.replies: list[PendingReply] = []
        self.runs: list[PendingBatch] = []

    @property
    def waiting(self) -> "list[PendingReply | PendingBatch]":
        """All replies that wait for this commit, the write's own first."""
        return [*([] if self.own is None else [self.own]), *self.replies, *self.runs]


class TooMuch(Exception):
    """A transaction is more work than it may be."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(
            f"a transaction works on more than {bytes_max:,} bytes of values; send its commands in several transactions"
        )


class LocalStore:
    """Keyspaces behind a log."""

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

        value_max: bytes that a value may come to have by commands that lengthen it.
        loads_later: whether the log is read later, by `load` and `begin`; until then commands fail as `LOADING`.
        """
        self._shared: Final = Shared()
        self.databases: Final = tuple(Database(self._shared) for _ in range(DATABASES))
        self._storage: Storage = storage if storage is not None else InMemoryStorage()
        self._last = 0  # sequence of the newest entry of the log
        self.loading = True
        """Whether the log has yet to be read."""
        self._unresolved: dict[int, set[bytes | None]] = {}  # by keyspace: keys; None: all of them
        self.holds_back = True
        """Whether a look at each command is needed before it is executed: it loads, or something is unresolved."""
        self.clock = clock
        self.log_clock = LogClock(clock, self._shared)
        """Advances log time by the clock."""
        self._memory_limit = memory_limit
        self._value_max = value_max
        deletes = memory_limit is not None and when_full is WhenFull.EVICT and not self._storage.keeps_effects
        self._lru = Lru() if deletes else None  # where eviction deletes
        self._strangers = False  # whether keys may be there of which no use is known
        self._strangers_from = (0, 0)  # ... and from which keyspace and cursor on
        self._steps: list[Step] | None = None  # of the entry at hand: what has changed something so far
        self.under_way: Journal | None = None
        """The changes of the current call, if `begin_call` precedes each call; None between calls."""
        self.uncommitted: Final[dict[int, _Uncommitted]] = {}
        """Entries that the log has not committed, by sequence, oldest first. While there are none, nothing is held back
        and it is not later than `noted`, what is in the keyspaces may be shown without asking."""
        # By keyspace: the newest uncommitted sequence that changed a key
        self._pending_keys: Final[tuple[dict[bytes, int], ...]] = tuple({} for _ in range(DATABASES))
        self._pending_tables: dict[int, int] = {}  # ... and that changed all keys of a keyspace
        self._pending_dbs: dict[int, int] = {}  # ... and that changed anything in a keyspace
        self.noted = 0
        """Log time up to which replies may show it, where a key has ever had a deadline and the log outlives this
        process."""
        self._pending_time = 0  # the newest sequence that noted it
        self._committed = self._last  # the newest sequence that is known to be safe
        self._commands = 0
        self._executors: list[DirectExecutor] = []
        self._expired = 0
        self._evicted = 0
        self._info_sources: list[InfoSource] = [self._info]
        self._begin_backup: Callable[[Backup], Reply] = _no_backups
        self._cache: ValueCache | None = None  # once everything is loaded
        if not loads_later:
            try:
                self.begin(self.load())
                self.log_clock()
            except BaseException:
                self.close()
                raise

    def _new_cache(self) -> ValueCache | None:
        if self._memory_limit is None or not self._storage.keeps_effects:
            return None
        return ValueCache(
            self.databases,
            self._storage.fetch,
            self._memory_limit,
            is_pending=lambda db, key: db in self._pending_tables or key in self._pending_keys[db],
            taken=self._storage.memory_bytes,
        )

    @property
    def mode(self) -> str:
        """What this store is called: process, disk or quorum."""
        return self._storage.mode

    @property
    def database(self) -> Database:
        """The first keyspace: that of the article's wire and of the embedded store."""
        return self.databases[0]

    # -- loading ------------------------------------------------------------------------------------------

    def load(self) -> Loaded:
        """Read what the log has kept. Any thread may do so, since nothing that the store shows is touched.

        Raises what the log raises: `OptionError` when it cannot be opened, `LoadingStopped` when the store is closed.
        """
        aside = Shared()
        databases = tuple(Database(aside) for _ in range(DATABASES))
        return Loaded(databases, self._storage.restore(databases, self._memory_limit))

    def begin(self, loaded: Loaded) -> None:
        """Take over what was read, and take commands from now on."""
        for database, kept in zip(self.databases, loaded.databases, strict=True):
            database.take_over(kept)
        self.noted = loaded.databases[0].now
        self._shared.advance(self.noted)
        self._last = self._committed = loaded.sequence
        self.loading = self.holds_back = False
        self._cache = self._new_cache()
        self._storage.listen(self)
        self._switch_executors()

    # -- commands -----------------------------------------------------------------------------------------

    def _held_back(self, steps: Sequence[Step], watched: Sequence[tuple[int, Watched]] = ()) -> Failure | None:
        """Why these may not be executed now, if so: a reply would show what is not there, or may yet turn out to be.

        Nobody sees a key as it was before a write whose outcome is unknown, and then as it is behind that one: the
        write has failed as `UNKNOWN`, and those who ask in between are told to come again.
        """
        if self.loading:
            if all(isinstance(step.command, Info) for step in steps):
                return None
            return Failure(failures.LOADING, "what is on disk is being read; try again when all of it is there")
        if any(map(self._shows_unresolved, steps)) or any(self._is_unresolved(db, watch.key) for db, watch in watched):
            return Failure(
                failures.RECOVERING,
                "the disk has failed while this was written, and it is being found out whether it is there; try again",
            )
        return None

    def _shows_unresolved(self, step: Step) -> bool:
        match step.command.spec.scope:
            case Scope.NOTHING:
                return False
            case Scope.TABLE:
                return step.db in self._unresolved
            case Scope.KEYS:
                return any(self._is_unresolved(*place) for place in step.command.places(step.db))

    def _is_unresolved(self, db: int, key: bytes) -> bool:
        keys = self._unresolved.get(db, ())
        return key in keys or None in keys

    def execute(
        self, command: Command, db: int = 0, *, touch: bool = True, local: bool = False
    ) -> Reply | PendingReply:
        """Carry a command out on a keyspace: its reply, or where the reply will be once it may leave.

        touch: whether this counts as a use of the keys, where the least recently used ones are evicted.
        local: whether a read may show what was true a moment ago, where the newest is not at hand (in a cluster).
        """
        step = Step(db, command)
        if self.holds_back and (failure := self._held_back((step,))):
            return failure
        if self._cache is not None:
            put_off = self._cache.put_off((step,), lambda: self.execute(command, db, touch=touch))
            if put_off is not None:
                return put_off
        self._commands += 1
        now = self.log_clock()
        if not command.spec.writes:
            if self._storage.keeps_effects:
                self._note_time()
            reply = self._read(step, now, touch=touch)
            return self._when_safe(reply, self._newest_commit_for(step)) if self.uncommitted else reply
        if self._storage.keeps_effects:
            self._note_time()
        if refusal := self._admit(step):
            return self._when_safe(refusal, self._newest_commit_for(step))
        outcome = self._write(step)
        if self._lru is not None:
            self._note_use(command.places(db))
        return outcome

    def execute_all(
        self,
        steps: Sequence[Step],
        watched: Sequence[tuple[int, Watched]] = (),
        *,
        bytes_max: int | None = None,
        blocks: bool = False,
    ) -> Reply | PendingReply:
        """Carry several commands out as one: their `Replies`, all or nothing in the log.

        watched: keys, each with its keyspace; if one of them has changed nothing is done, and the reply is `MISSING`.
        bytes_max: of values that may be read or made anew; with more, all of it is taken back. None: any number.
        blocks: whether what its client says next has to wait where it is not carried out at once.
        One command may fail and the others not, as if they came one by one; a log that fails undoes them all.
        """
        if self.holds_back and (failure := self._held_back(steps, watched)):
            return failure
        self._advance()
        newest = max((self._newest_commit_of(db, watch.key) for db, watch in watched), default=0)
        if not all(self.databases[db].is_unchanged(watch) for db, watch in watched):
            return self._when_safe(MISSING, newest)
        if self._cache is not None:
            put_off = self._cache.put_off(steps, lambda: self.execute_all(steps, watched, bytes_max=bytes_max))
            if put_off is not None:
                return put_off
        self._commands += len(steps)
        return self._as_one_entry(steps, lambda: self._one_by_one(steps, bytes_max), newest)

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
        store = LocalStore(
            storage=self._storage,
            clock=self.clock,
            memory_limit=self._memory_limit,
            when_full=WhenFull.REFUSE if self._lru is None else WhenFull.EVICT,
            value_max=self._value_max,
        )
        for copy, database in zip(store.databases, self.databases, strict=True):
            copy.copy_undone(database, self.under_way or [])
        store._shared.now, store._shared.lead = self._shared.now, self._shared.lead
        store.log_clock.go_on_from(self.log_clock)
        if store._lru is not None:
            store._expect_strangers()
        store._commands, store._expired, store._evicted = self._commands, self._expired, self._evicted
        store._executors = self._executors
        return store

    def _one_by_one(self, steps: Sequence[Step], bytes_max: int | None) -> Replies:
        replies: list[Reply] = []
        worked = 0
        if bytes_max is not None and bytes_made_together(self.databases, steps, self._value_max) > bytes_max:
            raise TooMuch(bytes_max)  # before it costs the work
        for step in steps:
            if bytes_max is not None:
                length = length_after(self.databases[step.db], step.command)
                worked += length if length <= self._value_max else 0
            if bytes_max is None or worked <= bytes_max:
                replies.append(self._one_of_several(step))
                worked += size_of(replies[-1])
            if bytes_max is not None and worked > bytes_max:
                raise TooMuch(bytes_max)
        return Replies(tuple(replies))

    def bytes_made(self, command: Command, db: int = 0) -> int:
        """Return the bytes of values that a command would make or copy now. They count as work."""
        return bytes_made(self.databases[db], command) if command.spec.grows else 0

    def read_ahead(self, step: Step) -> bool:
        """This command will be said soon: have read what it needs. False: no more of that for now."""
        return self._cache is not None and self._cache.read_ahead(step)

    def watch(self, places: Sequence[Place], into: dict[Place, Watched]) -> Reply | PendingReply:
        """Note what keys are like now, for `execute_all`. Done once the reply is there."""
        self._advance()
        for db, key in places:
            into[db, key] = self.databases[db].watch(key)
        return OK

    def _advance(self) -> None:
        self.log_clock()
        if self._storage.keeps_effects:
            self._note_time()

    def _note_time(self) -> None:
        """Have the log note that replies tell of this time, if there is anything that time takes away.

        They wait for that: what has expired once does not come back, whatever a crash or the clock does. A log that
        takes nothing any more notes no time; reads go on then.
        """
        now = self._shared.now
        if now <= self.noted or not self._shared.expiring:
            return
        try:
            self._last = self._pending_time = self._storage.append((), now + TIME_AHEAD_MS)
        except StorageRefused:
            return
        self.noted = now + TIME_AHEAD_MS
        self.uncommitted[self._last] = _Uncommitted([])

    def _read(self, step: Step, now: int, *, touch: bool = True) -> Reply:
        db, command = step
        if command.spec.by_store:
            return self._about_itself(step)
        reply = apply(self.databases[db], command, now)
        if touch and self._lru is not None:
            self._note_use(command.places(db))
        elif touch and self._cache is not None:
            self._cache.used(command.places(db))
        return reply

    def _about_itself(self, step: Step) -> Reply:
        if isinstance(step.command, RandomKey):
            return self._random_key(self.databases[step.db])
        if isinstance(step.command, Backup):
            return self._begin_backup(step.command)
        return Items(tuple(str(text).encode() for pair in self._told() for text in pair))

    def _random_key(self, database: Database) -> Reply:
        if database.count() == 0:
            return MISSING
        cursor = random.randrange(CURSORS)
        while True:
            cursor, keys = database.slice(cursor, KEYS_PER_RANDOM_LOOK, b"")
            if keys:
                return random.choice(keys)

    def _write(self, step: Step) -> Reply | PendingReply:
        """Apply a write that was admitted, and give it to the log."""
        if self._steps is not None:
            return self._apply(step)  # goes to the log with the rest of the transaction
        if self._storage.commits_at_once and self._lru is None and not step.command.spec.stores_several:
            now = self._shared.now
            try:
                self._last = self._storage.append((step,), now)
            except StorageRefused as refused:
                return self.refusal(refused)
            return apply(self.databases[step.db], step.command, now)
        return self._as_one_entry((step,), lambda: self._apply(step))

    def _apply(self, step: Step) -> Reply:
        """Apply a write, as a part of the entry at hand if it changes something."""
        assert self._steps is not None
        assert self._shared.journal is not None
        changes = len(self._shared.journal)
        reply = apply(self.databases[step.db], step.command, self._shared.now)
        if len(self._shared.journal) > changes:
            self._steps.append(step)
        return reply

    def _one_of_several(self, step: Step) -> Reply:
        """Carry out one command of a transaction. Log time stands still meanwhile: its entry has one time."""
        if not step.command.spec.writes:
            return self._read(step, self._shared.now)
        if refusal := self._admit(step):
            return refusal
        reply = self._write(step)
        assert not isinstance(reply, PendingReply)
        if self._lru is not None:
            self._note_use(step.command.places(step.db))
        return reply

    def _as_one_entry(self, said: Sequence[Step], work: Callable[[], Reply], newest: int = 0) -> Reply | PendingReply:
        """Do what was said, which changes keyspaces by `_apply` alone, and give the log that as one entry, or undo it.

        newest: a sequence whose commit the reply has to wait for as well.
        """
        journal: Journal = [] if self.under_way is None else self.under_way
        before = len(journal)  # changes of the same call: keys that were evicted to make room
        steps: list[Step] = []
        self._shared.journal, self._steps = journal, steps
        try:
            reply = work()
            if not steps:  # nothing changed, so there is nothing to make safe but what the reply shows
                return self._when_safe(reply, max([newest, *map(self._newest_commit_for, said)]))
            effects = effects_of(journal) if self._storage.keeps_effects else ()
            sequence = self._storage.append(tuple(steps), self._shared.now, effects)
        except StorageRefused as refused:
            self._take_back(journal)
            return self.refusal(refused)
        except TooMuch as refused:
            self._take_back(journal)
            return Failure(failures.UNDONE, str(refused))
        except BaseException:  # a fault of ours: what no log has must not be there
            if self.under_way is None:
                self._take_back(journal)
            raise
        finally:
            self._shared.journal = self._steps = None
        self._last = sequence
        if self._lru is not None:
            self._note_changes(journal[before:])
        elif self._cache is not None:
            self._cache.changed(journal, sequence, effects)
        if self._storage.commits_at_once:
            if self.under_way is None:
                discard(journal)
            return reply
        for change in journal:
            self._pending_dbs[change.database.number] = sequence
            if isinstance(change, Before):
                self._pending_keys[change.database.number][change.key] = sequence
            elif isinstance(change, Cleared):
                self._pending_tables[change.database.number] = sequence
        pending_reply = PendingReply(reply)
        self.uncommitted[sequence] = _Uncommitted(journal, pending_reply)
        return pending_reply

    def refusal(self, refused: StorageRefused) -> Failure:
        """How a client is told that the log takes nothing."""
        return Failure(refused.code, str(refused))

    # -- runs of the compiled hot path (`cairnkv.store.batch_undo`) ----------------------------------------------

    def collector(self, db: int) -> BatchUndo | None:
        """Where the hot path hands over what it has done to a keyspace; None: the log has no use for that."""
        if not self._storage.keeps_effects:
            return None
        only_reads = self._memory_limit is not None if self.loading else self._cache is not None
        return BatchUndo(self, self.databases[db], self._pending_keys[db], only_reads=only_reads)

    def begin_batch(self, db: int, now: int) -> tuple[int, int] | None:
        """See `StagingStore`."""
        if not self._storage.takes or (self._shared.expiring and max(now, self._shared.now) > self.noted):
            return None
        if self._cache is not None and self._cache.wants_a_look():
            return None
        newest = max(self._pending_tables.get(db, 0), self._pending_time)
        return self._storage.sequence + 1, newest if newest > self._committed else 0

    def end_batch(self, staged: NativeChanges, effects: Sequence[Effect], size: int) -> "list[PendingBatch]":
        """See `StagingStore`."""
        sequence = self._last = self._storage.append((), self._shared.now, effects, size)
        uncommitted = self.uncommitted[sequence] = _Uncommitted([staged])
        self._pending_dbs[staged.database.number] = sequence
        return uncommitted.runs

    def uncommitted_keys(self, db: int) -> dict[bytes, int]:
        """See `StagingStore`."""
        return {
            key: sequence
            for sequence, uncommitted in self.uncommitted.items()  # oldest first
            for change in uncommitted.journal
            if change.database.number == db
            for key in change.keys
        }

    def hold_batch(self, sequence: int, run: "PendingBatch") -> None:
        """See `StagingStore`."""
        uncommitted = self.uncommitted.get(sequence)
        if uncommitted is None:
            run.release()
        else:
            uncommitted.runs.append(run)

    # -- when a reply may leave -------------------------------------------------------------------------------

    def _newest_commit_for(self, step: Step) -> int:
        """The newest uncommitted sequence that a reply to this command could show; 0 if there is none."""
        match step.command.spec.scope:
            case Scope.NOTHING:
                return 0
            case Scope.TABLE:
                return max(self._pending_dbs.get(step.db, 0), self._pending_time)
            case Scope.KEYS:
                return max(self._newest_commit_of(*place) for place in step.command.places(step.db))

    def _newest_commit_of(self, db: int, key: bytes) -> int:
        return max(self._pending_tables.get(db, 0), self._pending_keys[db].get(key, 0), self._pending_time)

    def _when_safe(self, reply: Reply, sequence: int) -> Reply | PendingReply:
        uncommitted = self.uncommitted.get(sequence)
        if uncommitted is None:
            return reply
        pending_reply = PendingReply(reply)
        uncommitted.replies.append(pending_reply)
        return pending_reply

    # -- what the log says ----------------------------------------------------------------------------------

    def committed(self, sequence: int) -> None:
        """Everything up to this sequence is safe: the replies that waited for it may leave."""
        self._committed = max(self._committed, sequence)
        released: list[PendingReply | PendingBatch] = []
        while self.uncommitted and (first := next(iter(self.uncommitted))) <= sequence:
            uncommitted = self.uncommitted.pop(first)
            self._no_longer_pending(first, uncommitted.journal)
            if self._cache is not None:
                self._cache.committed(uncommitted.journal, first)
            discard(uncommitted.journal)
            released += uncommitted.waiting
        for pending_reply in released:
            pending_reply.release()
        _tell(released)
        if self._cache is not None:
            self._cache.cool_some()

    def failed(self, reason: str, *, unknown: bool, unresolved: Sequence[Effect] = ()) -> None:
        """Everything uncommitted is off: undo it, newest first, and fail the replies that waited for it.

        What is unresolved nobody is shown before `resolved` says what became of it.
        """
        self.noted = self._pending_time = 0
        failed: list[PendingReply | PendingBatch] = []
        write_failure = Failure(failures.UNKNOWN if unknown else failures.UNDONE, reason)
        read_failure = Failure(failures.UNDONE, reason)
        while self.uncommitted:
            sequence, uncommitted = self.uncommitted.popitem()
            self._no_longer_pending(sequence, uncommitted.journal)
            self._take_back(uncommitted.journal, unknown=unknown)
            if uncommitted.own is not None:
                uncommitted.own.fail(write_failure)
            for pending_reply in uncommitted.replies:
                pending_reply.fail(read_failure)
            for run in uncommitted.runs:
                run.fail_above(self._committed, write_failure, read_failure)
            failed += uncommitted.waiting
        for db, key, _, _ in unresolved:
            self._unresolved.setdefault(db, set()).add(key)
        self.holds_back = bool(self._unresolved)
        self._switch_executors()
        if self._cache is not None:
            self._cache.failed()
        _tell(failed)

    def resolved(self, happened: Sequence[Effect]) -> None:
        """What was unresolved is known: let what has happened be there, which others see as changes made now."""
        for db, key, value, expiry in happened:
            database = self.databases[db]
            if key is None:
                database.clear_all()
            elif value is None:
                database.delete(key)
            else:
                database.put(key, value, expiry)
            if self._lru is not None:
                self._note_change(db, key)
        self._unresolved.clear()
        self.holds_back = False
        self._switch_executors()
        if self._cache is not None:
            self._cache.resolved(happened)
            self._cache.cool_some()

    def _take_back(self, journal: Journal, *, unknown: bool = False) -> None:
        undo(journal)
        if self._cache is not None:
            self._cache.taken_back(journal, unknown=unknown)
        if self._lru is not None:
            self._note_use(_places(journal))
            if any(isinstance(change, Cleared) for change in journal):
                self._expect_strangers()

    def _no_longer_pending(self, sequence: int, journal: Journal) -> None:
        self._pending_tables = {db: at for db, at in self._pending_tables.items() if at > sequence}
        self._pending_dbs = {db: at for db, at in self._pending_dbs.items() if at > sequence}
        for change in journal:
            change.remove_pending(self._pending_keys[change.database.number], sequence)

    # -- limits ---------------------------------------------------------------------------------------------

    def _admit(self, step: Step) -> Failure | None:
        """Make room for a command that may make the keyspace grow, or say why there is none."""
        database = self.databases[step.db]
        if (length := length_after(database, step.command)) > self._value_max:
            text = f"a value would have {length:,} bytes; the limit is {self._value_max:,}"
            return Failure(failures.TOOLONG, text)
        per_key = 0 if self._lru is None else USE_BYTES
        if self._memory_limit is None or (more := growth(database, step.command, per_key)) <= 0:
            return None
        if self._cache is not None:
            return self._admit_beside_values(self._cache, more)
        # The log's memory depends on the limit that it was opened with, which may have been a higher one.
        limit = self._memory_limit - min(self._storage.memory_bytes, self._memory_limit // 4)
        for _ in range(SLICES_PER_WRITE):
            if self.used_bytes + self.garbage_bytes + more <= limit or not self._housekeep():
                break
        if self._lru is not None and more <= limit:
            spared = set(step.command.places(step.db))
            self._note_use(spared)
            for _ in range(EVICTIONS_PER_WRITE):
                if self.used_bytes + more <= limit or not self._evict(spared):
                    break
        if self.used_bytes + more <= limit:
            return None
        return Failure(failures.FULL, f"the memory limit of {self._memory_limit:,} bytes has no room for {more:,} more")

    def _admit_beside_values(self, cache: ValueCache, more: int) -> Failure | None:
        """The same where values can leave memory: there is no room only where keys take all of it."""
        if self.garbage_bytes:
            self._housekeep()
        if cache.has_room(more):
            return None
        text = f"the memory limit of {cache.limit:,} bytes has no room for {more:,} more beside the keys"
        return Failure(failures.FULL, text)

    @property
    def is_behind(self) -> bool:
        """Whether a client with pending writes should wait for them before it executes more commands."""
        return self._storage.is_behind

    @property
    def used_bytes(self) -> int:
        """The estimated memory of the entries of all databases, including the LRU order."""
        if self._cache is not None:
            return self._cache.used_bytes
        used = sum(database.used_bytes + database.index_bytes for database in self.databases)
        return used if self._lru is None else used + self._lru.used_bytes

    @property
    def garbage_bytes(self) -> int:
        """An estimate of the memory of what was cleared and is not freed yet."""
        return sum(database.garbage_bytes for database in self.databases)

    def _evict(self, spared: set[Place]) -> bool:
        """Clear one of the least recently used keys, through the log; False when there is none to clear."""
        assert self._lru is not None
        place = self._stranger(spared) or self._lru.oldest(spared)
        if place is None:
            return False
        db, key = place
        database = self.databases[db]
        if database.get(key) is None:  # expired: nobody will miss it
            database.free_expired(key)
            self._lru.forget(place)
            self._expired += 1
            return True
        if isinstance(self._write(Step(db, Clear(key))), Failure):
            return False
        self._lru.forget(place)
        self._evicted += 1
        return True

    def _expect_strangers(self) -> None:
        self._strangers, self._strangers_from = True, (0, 0)

    def _stranger(self, spared: set[Place]) -> Place | None:
        """A key of which no use is known: it came back when a CLEAR_ALL was undone, or is older than the use order."""
        assert self._lru is not None
        for _ in range(DATABASES + 1):
            if not self._strangers:
                break
            db, cursor = self._strangers_from
            following, keys = self.databases[db].slice(cursor, KEYS_PER_LOOK, b"")
            for key in keys:
                if (db, key) not in spared and not self._lru.knows((db, key)):
                    return db, key
            self._strangers_from = (db, following) if following else (db + 1, 0)
            self._strangers = self._strangers_from[0] < DATABASES  # beyond the last keyspace there are none left
        return None

    def _note_changes(self, journal: Sequence[Change]) -> None:
        """Note what became of keys, in the order of the changes: those that came after a CLEAR_ALL are in use."""
        assert self._lru is not None
        for change in journal:
            if isinstance(change, Cleared):
                self._note_change(change.database.number, None)
            for key in change.keys:
                self._note_change(change.database.number, key)

    def _note_change(self, db: int, key: bytes | None) -> None:
        """Note what became of a key, or of all keys of a keyspace, which was cleared."""
        assert self._lru is not None
        if key is None:
            self._lru.forget_all(db)
        else:
            self._note_use([(db, key)])

    def _note_use(self, places: Iterable[Place]) -> None:
        assert self._lru is not None
        for place in places:
            if self.databases[place[0]].get(place[1]) is None:
                self._lru.forget(place)
            else:
                self._lru.used(place)

    def limit_memory(self, limit: int | None, when_full: WhenFull) -> None:
        """Have another limit from the next write on; see `__init__`.

        Keys that nobody uses from then on count as least recently used.
        Raises `OptionError` where the log keeps values and the store was not made with a limit.
        """
        if self._storage.keeps_effects:
            if self.loading and limit != self._memory_limit:
                raise OptionError("what is on disk is being read; change the memory limit when all of it is there")
            if self._cache is not None:
                self._cache.limit = limit
                self._cache.cool_some()
            elif limit is not None and not self.loading:
                raise OptionError(
                    "a store on disk has a memory limit from its start on, or none: stop it and start it with one"
                )
            self._memory_limit = limit
            return
        self._memory_limit = limit
        evicts = limit is not None and when_full is WhenFull.EVICT
        if evicts != (self._lru is not None):
            self._lru = Lru() if evicts else None
            self._expect_strangers()
        self._switch_executors()

    # -- in the background ----------------------------------------------------------------------------------

    def housekeep(self) -> bool:
        """Do one bounded slice of what nobody waits for: remove expired keys, free what was cleared.

        Returns whether there is more to do now. Removing an expired key shows nowhere, so it is not logged.
        """
        self.log_clock()  # not logged: no reply shows it
        return self._housekeep()

    def _housekeep(self) -> bool:
        """The same without a look at the clock: a command that waits for room has its time already."""
        more, left = False, EXPIRED_PER_SLICE
        for database in self.databases:
            expired = database.expired(left)
            if expired:
                self._storage.expired(database.number, expired, self._shared.now)
            for key in expired:
                database.free_expired(key)
                if self._lru is not None:
                    self._lru.forget((database.number, key))
                elif self._cache is not None:
                    self._cache.forget((database.number, key))
            left -= len(expired)
            more = (not more and database.free_slice()) or more
        self._expired += EXPIRED_PER_SLICE - left
        more_uses = self._lru is not None and self._lru.free_some()
        more_cold = self._cache is not None and self._cache.cool_some()
        return more or more_uses or more_cold or left == 0

    @property
    def tidy(self) -> bool:
        """Whether a slice would find nothing to do, now or later, unless a command is executed before."""
        return self._lru is None and self._cache is None and self.database.tidy

    def close(self) -> None:
        """Let the log finish; the store takes no commands after that."""
        self._storage.close(self._shared.now)

    def deliver_by(self, deliver: Deliver) -> None:
        """How the log reaches the thread that uses this store, where it has threads of its own."""
        self._storage.deliver_by(deliver)

    @property
    def interruptible(self) -> bool:
        """Whether `undone` can restore the whole store."""
        return self._storage.commits_at_once and not self._storage.keeps_effects

    @property
    def forkable(self) -> bool:
        """Whether a copy in a forked process is a store of its own: not if it is kept anywhere else."""
        return not self._storage.keeps_effects

    # -- beside it ------------------------------------------------------------------------------------------

    @property
    def plain(self) -> bool:
        """Whether nothing but the keyspace has to know of a command: no log to wait for, no memory limit."""
        return self._storage.commits_at_once and self._memory_limit is None and not self.holds_back

    @property
    def shows_plainly(self) -> bool:
        """Whether a read has to know no more than whether anything is uncommitted, and whether its time is noted."""
        return self.plain or (self._storage.keeps_effects and self._memory_limit is None)

    @property
    def _takes_batches(self) -> bool:
        """Whether commands may be executed without a look at each: what they change can be staged, if it has to be."""
        if self.holds_back:
            return False
        return self.plain or (self._storage.keeps_effects and (self._memory_limit is None or self._cache is not None))

    def new_frame_executor(self, factory: ExecutorFactory[ExecutorT], db: int) -> ExecutorT:
        """Return a new executor of the native path for a database."""
        executor = factory.executing(self.databases[db], self.log_clock, self.collector(db))
        self.add_executor(executor)
        return executor

    def add_executor(self, executor: DirectExecutor) -> None:
        """Count the commands of an executor, and switch it off while the store must check each command."""
        executor.off = not self._takes_batches
        self._executors.append(executor)

    def _switch_executors(self) -> None:
        for executor in self._executors:
            executor.off = not self._takes_batches

    @property
    def back_up(self) -> BackUp | None:
        """The log's, for any thread; None: nothing is kept."""
        return self._storage.back_up

    def begin_backups_by(self, begin: Callable[[Backup], Reply]) -> None:
        """Have BACKUP answered by this, at once."""
        self._begin_backup = begin

    # -- about itself ---------------------------------------------------------------------------------------

    def add_info(self, source: InfoSource) -> None:
        """Let INFO tell what this source tells as well."""
        self._info_sources.append(source)

    def info(self) -> list[tuple[str, str | int]]:
        """What INFO tells: names and values."""
        self.log_clock()
        return self._told()

    def _told(self) -> list[tuple[str, str | int]]:
        return [pair for source in self._info_sources for pair in source()]

    def _info(self) -> Iterable[tuple[str, str | int]]:
        return (
            ("cairnkv_version", VERSION),
            ("mode", self.mode),
            ("loading", int(self.loading)),
            *self._storage.about(),
            *(() if self._cache is None else self._cache.about()),
            ("path", features()["path"]),
            ("commands", self._commands + sum(executor.commands for executor in self._executors)),
            ("keys", sum(database.count() for database in self.databases)),
            ("used_bytes", self.used_bytes),
            ("garbage_bytes", self.garbage_bytes),
            ("memory_limit_bytes", self._memory_limit or 0),
            ("expired_keys", self._expired),
            ("evicted_keys", self._evicted),
            ("log_position", self._last + sum(executor.writes for executor in self._executors)),
            ("log_time_ms", self._shared.now),
            ("log_time_ahead_ms", self._shared.lead),
        )


def _tell(waiting: "Iterable[PendingReply | PendingBatch]") -> None:
    for pending_reply in waiting:
        if pending_reply.on_ready is not None:
            pending_reply.on_ready()


def effects_of(journal: Journal) -> list[Effect]:
    """What a journal's changes have come to. A keyspace that was cleared comes before the keys that stand in it now."""
    cleared: dict[int, Effect] = {}
    keys: dict[Place, Effect] = {}
    for change in journal:
        database = change.database
        if isinstance(change, Before):
            place = database.number, change.key
            if place not in keys:
                value, expiry = database.entry(change.key) or (None, None)
                keys[place] = (*place, value, expiry)
                if value is not None and len(value) > LARGE_VALUE_BYTES and (change.entry or (None,))[0] is value:
                    keys[place] = Redated(*place, value, expiry)
        else:
            cleared[database.number] = (database.number, None, None, None)
    return [*cleared.values(), *keys.values()]


def _places(journal: Journal) -> Iterable[Place]:
    """The single keys that a journal has changes of."""
    return ((change.database.number, key) for change in journal for key in change.keys)
