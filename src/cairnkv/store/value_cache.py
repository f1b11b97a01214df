"""The cache: which values are in memory where all of them are on the disk, and commands that wait for one that is not.

Keys and deadlines are always in memory, so only a command that needs a value (`Command.places_read`) ever waits. It is
put off before it has done anything, the values are read by the log, and then the store carries it out.

What always holds:
- Only what is committed gets cold: whatever could be taken back is in memory.
- A value is read once for all that wait for it, and taken only if nothing has changed the key since it was asked for.
- What a command needs stays in memory from when it is there until the command was carried out.
- Commands that were put off are carried out or fail; what they wait for is bounded in keys, bytes and attempts.
- Neither reading nor letting go of a value shows anywhere: no version changes, and no journal is told.

Not for reading (the log), and not for stores without a log that keeps values: there eviction deletes (`memory`).
"""

import collections
import logging
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Final, Protocol, TypeAlias

from cairnkv.commands import NO_MEMORY, Failure, Reply, Step, failures
from cairnkv.engine import Database, Journal
from cairnkv.engine.database import Cleared
from cairnkv.engine.table import USE_BYTES
from cairnkv.limits import MIB, READ_TOGETHER_MAX
from cairnkv.storage import Effect
from cairnkv.store.lru import Lru, Place
from cairnkv.store.pending import PendingReply, do_nothing

logger: Final = logging.getLogger("cairnkv.store")

READING_KEYS_MAX: Final = 2_048
"""Values that are read at once; commands that need more, together with others, wait until some are there."""

READING_BYTES_MAX: Final = 64 * MIB
"""Bytes of these. What a single command needs may be more by itself."""

READING_PART: Final = 8
"""The same limit as a part of the memory limit; the lower one applies."""

ATTEMPTS_MAX: Final = 16
"""Times that a command has its values read anew because somebody has changed a key meanwhile, and it was cold again."""

COOLED_PER_WRITE: Final = 1_000
"""Values that one write may push out of memory; that its room was not all made then is made up for by the next ones."""

COOLED_PER_SLICE: Final = 1_000
"""Values that one slice of housekeeping lets go of: some milliseconds."""

SAMPLED_SHARDS: Final = 2
"""Shards of the order of use that are looked at for each value that leaves memory: a wrong choice costs a read and no
more, where eviction would lose a key."""

RUNS_PER_LOOK: Final = 16
"""Runs of the compiled hot path of which one is left to the readable way, which notes what was used: a value that is
read often is noted often enough to stay."""

Run: TypeAlias = Callable[[], Reply | PendingReply]


class PendingRead(PendingReply):
    """The reply to a command that is not executed yet, because storage still reads a value that it needs.

    on_executed: called once, after the execution, or when the command can no longer execute.
    on_outcome: called before that with the outcome: the reply, unless the commit fails.
    """

    __slots__ = (
        "_executed",
        "_inner",
        "_length",
        "_memory_is_enough",
        "attempts",
        "left",
        "on_executed",
        "on_outcome",
        "places",
        "run",
    )

    blocks = True

    def __init__(self, run: Run, places: Sequence[Place], length: int) -> None:
        """run: executes the command. places: the keys whose values it needs. length: bytes of all these values."""
        super().__init__(0)
        self.run = run
        self.places = places
        self.left = 0  # values that are still being read
        self.attempts = 0
        self.on_executed: Callable[[], None] = do_nothing
        self.on_outcome: Callable[[Reply], None] = lambda _: None
        self._executed = False
        self._length = length
        self._inner: PendingReply | None = None
        self._memory_is_enough = False

    @property
    def executed(self) -> bool:  # type: ignore[override]  # True for any other `PendingReply`
        """Whether the command is executed, or never will be."""
        return self._executed

    @property
    def outcome(self) -> Reply:
        """The reply unless the commit fails. Only after the execution."""
        assert self._executed, "the command is not executed"
        return self._outcome if self._inner is None else self._inner.outcome

    @property
    def size(self) -> int:
        """Estimated bytes that the reply will keep in memory."""
        return self._length

    def from_memory(self) -> Reply | PendingReply:
        """Return the reply for durability `memory`, which waits for the execution. Another thread may execute."""
        self._memory_is_enough = True
        return self._inner.from_memory() if self._executed and self._inner is not None else self

    def complete(self, outcome: Reply | PendingReply) -> None:
        """Set the outcome of the execution."""
        self._inner = outcome if isinstance(outcome, PendingReply) else None
        self._executed = True
        if self._inner is not None and self._memory_is_enough:
            outcome = self._inner.from_memory()
        if isinstance(outcome, PendingReply) and outcome.reply is None:
            outcome.on_ready = self._ready
            self.on_outcome(outcome.outcome)
            self.on_executed()
            return
        reply = outcome.reply if isinstance(outcome, PendingReply) else outcome
        assert reply is not None
        self._outcome = self.reply = reply
        self.on_outcome(reply)
        self.on_executed()
        self.on_ready()

    def _ready(self) -> None:
        assert self._inner is not None
        self.reply = self._inner.reply
        self.on_ready()


class Fetch(Protocol):
    """`Storage.fetch`."""

    def __call__(self, db: int, key: bytes, length: int, on_value: Callable[[bytes | Exception], None]) -> None: ...


class _Load:
    """A value that is being read, and who waits for it."""

    __slots__ = ("length", "place", "stale", "waiting")

    def __init__(self, place: Place, length: int) -> None:
        self.place = place
        self.length = length
        self.stale = False  # whether the key has changed since
        self.waiting: list[PendingRead] = []


class _Spared:
    """What must not get cold: what commands need that wait, or the one at hand."""

    def __init__(self, *kept: Container[Place]) -> None:
        self._kept = kept

    def __contains__(self, place: object) -> bool:
        for kept in self._kept:  # noqa: SIM110  # asked for each value that gets cold
            if place in kept:
                return True
        return False


class ValueCache:
    """The values in memory of a store whose log has all of them."""

    def __init__(
        self,
        databases: Sequence[Database],
        fetch: Fetch,
        limit: int,
        *,
        is_pending: Callable[[int, bytes], bool],
        taken: int = 0,
    ) -> None:
        """limit: bytes for the entries, by estimate. taken: bytes of the limit that storage uses itself.

        is_pending: whether a change of a key, or of its whole keyspace, is not committed yet.
        """
        self.limit: int | None = limit
        """The limit as it is now; None: nothing gets cold."""
        self._databases = databases
        self._fetch = fetch
        self._is_pending = is_pending
        self._taken = taken
        self._order = Lru()  # of what may get cold: what is in memory and committed
        self._loads: dict[Place, _Load] = {}
        self._reading_bytes = 0
        self._waiting: collections.deque[PendingRead] = collections.deque()  # whose values are not asked for yet
        self._pins: dict[Place, tuple[int, int]] = {}  # how many of those that wait need it, and how long it is
        self._pinned_bytes = 0
        self._at_hand: Container[Place] = ()  # what the command needs that is carried out just now
        self._uncommitted: collections.deque[tuple[int, int]] = collections.deque()  # sequences, and bytes of values
        self._uncommitted_bytes = 0
        self._doubtful: set[Place] = set()  # of these nobody knows what the disk has: a commit has failed
        self._doubtful_dbs: set[int] = set()
        self._is_carrying_out = False  # what was put off, and was counted then
        self._is_beginning = False  # to have values read, of which some may come at once
        self._hits = self._misses = self._reads = self._cooled = 0
        self._runs = 0  # of the compiled hot path
        for database in databases:
            for key in database.keys_in_memory():
                self._order.used((database.number, key))
        while self.cool_some():
            pass

    # -- before a command ---------------------------------------------------------------------------------------

    def put_off(self, steps: Sequence[Step], run: Run) -> PendingRead | Failure | None:
        """Put commands off that need a value which is cold. None: there is none, so they can be carried out now.

        run: carries them out.
        """
        if len(steps) == 1:
            ((db, command),) = steps
            needed = command.places_read(db)
            self._at_hand = needed
        else:
            needed = tuple({place for db, command in steps for place in command.places_read(db)})
            self._at_hand = {place for db, command in steps for place in command.places(db)}
        cold = [length for place in needed if (length := self._cold_length(place)) is not None]
        if not self._is_carrying_out:
            self._misses += len(cold)
            self._hits += len(needed) - len(cold)
        if not cold:
            return None
        length = sum(map(self._length, needed))
        bound = min(READ_TOGETHER_MAX, self.limit or READ_TOGETHER_MAX)
        if len(needed) > 1 and length > bound:
            text = f"{len(needed):,} values of {length:,} bytes would have to be in memory together"
            return Failure(failures.BIGREPLY, f"{text}; the limit is {bound:,}. Ask for fewer at once")
        pending_read = PendingRead(run, needed, length)
        self._waiting.append(pending_read)
        self._begin_some()
        return pending_read

    def read_ahead(self, step: Step) -> bool:
        """Have values read that a command will need soon. False: no more of that for now."""
        for place in step.command.places_read(step.db):
            length = self._cold_length(place)
            if length is None or place in self._loads:
                continue
            room = self._reading_bytes_max
            if self._waiting or len(self._loads) >= READING_KEYS_MAX or self._reading_bytes + length > room:
                return False
            self._read(self._new_load(place, length))
        return True

    def wants_a_look(self) -> bool:
        """Whether the next run of commands is for the readable way, so that it can be seen what they use."""
        self._runs = (self._runs + 1) % RUNS_PER_LOOK
        return self._runs == 0 and self._cooled > 0

    def used(self, places: Iterable[Place]) -> None:
        """A command has looked at these."""
        for place in places:
            if self._order.knows(place):
                self._order.used(place)
            else:  # it may have come back when a CLEAR_ALL was undone
                self._resolve(place)

    def has_room(self, more: int) -> bool:
        """Make room for so many bytes more; whether there is some.

        The limit may be exceeded by what waits for the disk, and by what commands wait for.
        """
        if self.limit is None:
            return True
        left = self.used_bytes + more - self.limit
        return left <= 0 or self._cool(left, (self._pins, self._at_hand), COOLED_PER_WRITE) <= (
            self._uncommitted_bytes + self._pinned_bytes
        )

    # -- what becomes of entries ----------------------------------------------------------------------------------

    def changed(self, journal: Journal, sequence: int, effects: Sequence[Effect]) -> None:
        """An entry of the log has changed this, and is not committed yet."""
        size = sum(len(value) for _, _, value, _ in effects if value is not None)
        self._uncommitted.append((sequence, size))
        self._uncommitted_bytes += size
        for change in journal:
            number = change.database.number
            if isinstance(change, Cleared):
                self._outdate_all(number)
            for key in change.keys:
                self._order.forget((number, key))
                self._outdate((number, key))

    def committed(self, journal: Journal, sequence: int) -> None:
        """The entry at this sequence is; no longer pending is what no later one has changed."""
        while self._uncommitted and self._uncommitted[0][0] <= sequence:
            self._uncommitted_bytes -= self._uncommitted.popleft()[1]
        for change in journal:
            number = change.database.number
            if isinstance(change, Cleared):
                self._order.forget_all(number)
                self._doubtful_dbs.discard(number)
                self._doubtful = {place for place in self._doubtful if place[0] != number}
            for key in change.keys:
                self._doubtful.discard((number, key))
                self._resolve((number, key))

    def taken_back(self, journal: Journal, *, unknown: bool = False) -> None:
        """What an entry has changed was undone. unknown: and nobody knows what the disk has of it."""
        for change in journal:
            number = change.database.number
            if isinstance(change, Cleared):
                self._outdate_all(number)
                if unknown:
                    self._doubtful_dbs.add(number)
            for key in change.keys:
                self._outdate((number, key))
                self._resolve((number, key))
                if unknown:
                    self._doubtful.add((number, key))

    def failed(self) -> None:
        """Nothing is uncommitted any more."""
        self._uncommitted.clear()
        self._uncommitted_bytes = 0

    def resolved(self, happened: Sequence[Effect]) -> None:
        """What the disk has is known after all: of what was undone this, which stands in the keyspaces again."""
        self._doubtful.clear()
        self._doubtful_dbs.clear()
        for db, key, _, _ in happened:
            if key is None:
                self._outdate_all(db)
                self._order.forget_all(db)
            else:
                self._outdate((db, key))
                self._order.forget((db, key))
                self._resolve((db, key))

    def forget(self, place: Place) -> None:
        """An expired entry was removed."""
        self._order.forget(place)
        self._outdate(place)

    def _resolve(self, place: Place) -> None:
        """Let a value get cold from now on if it may."""
        if self._is_hot(place) and not self._is_pending(*place):
            self._order.used(place)

    def _outdate(self, place: Place) -> None:
        load = self._loads.get(place)
        if load is not None:
            load.stale = True

    def _outdate_all(self, db: int) -> None:
        for load in self._loads.values():
            if load.place[0] == db:
                load.stale = True

    # -- reading ------------------------------------------------------------------------------------------------

    def _begin_some(self) -> None:
        """Have the values read of those that wait longest, as far as there is room."""
        if self._is_beginning:
            return
        self._is_beginning = True
        try:
            while self._waiting:
                first = self._waiting[0]
                keys, length = len(self._loads) + len(first.places), self._reading_bytes + first.size
                if self._loads and (keys > READING_KEYS_MAX or length > self._reading_bytes_max):
                    break
                self._pin(self._waiting.popleft())
                self._go_on(first)
        finally:
            self._is_beginning = False

    @property
    def _reading_bytes_max(self) -> int:
        return READING_BYTES_MAX if self.limit is None else min(READING_BYTES_MAX, self.limit // READING_PART)

    def _go_on(self, pending_read: PendingRead) -> None:
        """Carry it out if all is there, and have read what is not."""
        cold = [(place, length) for place in pending_read.places if (length := self._cold_length(place)) is not None]
        if not cold:
            self._carry_out(pending_read)
            return
        pending_read.attempts += 1
        if pending_read.attempts > ATTEMPTS_MAX:
            self._complete_read(pending_read, Failure(failures.UNDONE, "others change its keys all the time"))
            return
        new: list[_Load] = []
        loads: dict[Place, _Load] = {}  # a key that is named twice is read, and waited for, once
        for place, length in cold:
            load = self._loads.get(place)
            if load is None:
                load = self._new_load(place, length)
                new.append(load)
            loads[place] = load
        pending_read.left = len(loads)
        for load in loads.values():
            load.waiting.append(pending_read)
        for load in new:
            self._read(load)

    def _new_load(self, place: Place, length: int) -> _Load:
        load = self._loads[place] = _Load(place, length)
        self._reading_bytes += length
        return load

    def _read(self, load: _Load) -> None:
        self._reads += 1
        self._fetch(*load.place, load.length, lambda answer: self._has_come(load, answer))

    def _has_come(self, load: _Load, answer: bytes | Exception) -> None:
        """A value was read, or could not be."""
        del self._loads[load.place]
        self._reading_bytes -= load.length
        failure = None
        if not load.stale:
            db, key = load.place
            if db in self._doubtful_dbs or load.place in self._doubtful:
                answer = OSError("a write of it has failed, and nobody knows what the disk has")
            if isinstance(answer, bytes):
                self._databases[db].load_value(key, answer)
                self._resolve(load.place)
            else:
                logger.error("keyspace %d: the value of %r cannot be read: %s", db, key[:64], answer)
                failure = Failure(failures.UNREADABLE, f"its value cannot be read from the disk: {answer}")
        for pending_read in load.waiting:
            pending_read.left -= 1
            if pending_read.executed:
                continue
            if failure is not None:
                self._complete_read(pending_read, failure)
            elif pending_read.left == 0:
                self._go_on(pending_read)
        self._begin_some()
        self.cool_some()

    def _carry_out(self, pending_read: PendingRead) -> None:
        outcome: Reply | PendingReply
        self._is_carrying_out = True
        try:
            outcome = pending_read.run()
        except MemoryError:
            outcome = NO_MEMORY
        except Exception:
            logger.exception("a command that was put off failed")
            outcome = Failure(failures.INTERNAL, "the log has the details")
        finally:
            self._is_carrying_out = False
        self._complete_read(pending_read, outcome)

    def _complete_read(self, pending_read: PendingRead, outcome: Reply | PendingReply) -> None:
        self._unpin(pending_read)
        pending_read.complete(outcome)

    # -- letting go -----------------------------------------------------------------------------------------------

    def cool_some(self) -> bool:
        """Let go of some values if there are more than the limit allows; whether there is more to do."""
        if self.limit is None:
            return False
        left = self.used_bytes - self.limit
        if left <= 0 or self._cool(left, (self._pins,), COOLED_PER_SLICE):
            return False
        return self.used_bytes > self.limit

    def _cool(self, size: int, kept: tuple[Container[Place], ...], most: int) -> int:
        """Let go of so many bytes, the least recently used values first; how many are left when there is nothing more.

        kept: what stays. most: values that are looked at. Behind these nothing counts as left, since there may be more.
        """
        spared = _Spared(*kept)
        for _ in range(most):
            place = self._order.oldest(spared, SAMPLED_SHARDS)
            if place is None:
                return size
            self._order.forget(place)
            size -= USE_BYTES
            if self._is_hot(place) and not self._is_pending(*place):
                size -= self._length(place)
                self._databases[place[0]].evict_value(place[1])
                self._cooled += 1
            if size <= 0:
                break
        return 0

    def _pin(self, pending_read: PendingRead) -> None:
        for place in dict.fromkeys(pending_read.places):
            count, length = self._pins.get(place) or (0, self._length(place))
            if not count:
                self._pinned_bytes += length
            self._pins[place] = count + 1, length

    def _unpin(self, pending_read: PendingRead) -> None:
        for place in dict.fromkeys(pending_read.places):
            count, length = self._pins[place]
            if count == 1:
                self._pinned_bytes -= length
                del self._pins[place]
            else:
                self._pins[place] = count - 1, length

    # -- about entries ----------------------------------------------------------------------------------------------

    def _cold_length(self, place: Place) -> int | None:
        return self._databases[place[0]].cold_length(place[1])

    def _is_hot(self, place: Place) -> bool:
        return self._databases[place[0]].in_memory(place[1])

    def _length(self, place: Place) -> int:
        return self._databases[place[0]].length(place[1])

    @property
    def used_bytes(self) -> int:
        """The estimated memory of entries, the LRU order and storage."""
        used = sum(database.used_bytes + database.index_bytes for database in self._databases)
        return used + self._order.used_bytes + self._taken

    def about(self) -> Iterable[tuple[str, str | int]]:
        """What INFO tells."""
        return (
            ("cold_keys", sum(database.cold_keys for database in self._databases)),
            ("cold_bytes", sum(database.cold_bytes for database in self._databases)),
            ("cache_hits", self._hits),  # of those on the readable way
            ("cache_misses", self._misses),
            ("cache_reads", self._reads),
            ("cache_reading", len(self._loads)),
            ("cache_waiting", len(self._waiting)),
            ("cooled_values", self._cooled),
        )
