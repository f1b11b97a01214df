"""The value cache: values in memory of a store whose storage has all values.

Keys and expiry times are always in memory, so only a command that needs a value (`Command.places_read`) ever waits. It
waits before it has done anything: storage reads the values, and then the store executes the command.

Invariants:
- The values of records of queues stay in memory.
- A cold value is committed: uncommitted values stay in memory.
- A value is read once for all commands that wait for it, and used only if no command has changed the key meanwhile.
- The values that a command needs stay in memory from their arrival until the command is executed; those that a script
  needs, until it runs anew, for a limited time.
- A waiting command executes or fails. Limits bound its keys, bytes and attempts.
- No version and no journal shows that a value was read or left memory.

Out of scope: reading (storage), and stores without storage on disk, which evict keys (`memory`).
"""

import collections
import logging
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Final, Protocol, TypeAlias

from cairnkv.commands import NO_MEMORY, Failure, Reply, Step, failures
from cairnkv.engine import Database, Journal
from cairnkv.engine.database import Cleared
from cairnkv.engine.table import USE_BYTES
from cairnkv.limits import MIB, QUEUE_DB, READ_TOGETHER_MAX
from cairnkv.storage import Effect
from cairnkv.store.lru import Lru, Place
from cairnkv.store.pending import PendingExecution, PendingReply
from cairnkv.store.script import RUN_ANEW, NeedsValues

logger: Final = logging.getLogger("cairnkv.store")

READING_KEYS_MAX: Final = 2_048
"""Maximum number of values that are read at once; commands that need more wait until some have arrived."""

READING_BYTES_MAX: Final = 64 * MIB
"""Their maximum bytes, and those of the values that are reserved for scripts. A single command may need more."""

READING_PART: Final = 8
"""The divisor of the memory limit that gives another maximum; the lower one applies."""

ATTEMPTS_MAX: Final = 16
"""Maximum number of times that a command's values are read again, because a key changed and was cold again."""

COOLED_PER_WRITE: Final = 1_000
"""Maximum number of values that leave memory for one write; the next writes make the rest of the room."""

COOLED_PER_SLICE: Final = 1_000
"""Maximum number of values that leave memory in one slice of housekeeping: some milliseconds."""

SAMPLED_SHARDS: Final = 2
"""Shards of the LRU order that are compared for each value that leaves memory. A wrong choice costs only a read."""

SCRIPT_READS_MAX: Final = 1_000
"""Maximum number of runs of a script that end because the script needs a value that is not in memory."""

RESERVED_MS: Final = 1_000
"""Milliseconds for which the values that a script needs stay in memory until it runs anew. Its client may have left."""

BATCHES_PER_LOOK: Final = 16
"""The pure path executes one of so many batches of the native path, and notes the used keys. So often used values
stay in memory."""

Run: TypeAlias = Callable[[], Reply | PendingReply]


class PendingRead(PendingExecution):
    """The reply to a command that is not executed yet, because storage still reads a value that it needs."""

    __slots__ = ("_length", "attempts", "left", "places", "run")

    def __init__(self, run: Run, places: Sequence[Place], length: int) -> None:
        """run: executes the command. places: the keys whose values it needs. length: bytes of all these values."""
        super().__init__()
        self.run = run
        self.places = places
        self.left = 0  # values that are still being read
        self.attempts = 0
        self._length = length

    @property
    def size(self) -> int:
        """Estimated bytes that the reply will keep in memory."""
        return self._length


class ScriptRead(PendingRead):
    """The reply to a script that was undone because it needs values. It becomes `RUN_ANEW`.

    runs: number of runs that have ended so. since: the time from which on the values are reserved, if it is known.
    """

    __slots__ = ("runs", "since")

    def __init__(self, places: Sequence[Place], length: int, runs: int) -> None:
        super().__init__(lambda: RUN_ANEW, places, length)
        self.runs = runs
        self.since: int | None = None


class Fetch(Protocol):
    """The type of `Storage.fetch`."""

    def __call__(self, db: int, key: bytes, length: int, on_value: Callable[[bytes | Exception], None]) -> None: ...


class _Load:
    """A value that is being read, and the commands that wait for it."""

    __slots__ = ("length", "place", "stale", "waiting")

    def __init__(self, place: Place, length: int) -> None:
        self.place = place
        self.length = length
        self.stale = False  # whether the key has changed meanwhile
        self.waiting: list[PendingRead] = []


class _Spared:
    """The keys whose values must stay in memory."""

    def __init__(self, *kept: Container[Place]) -> None:
        self._kept = kept

    def __contains__(self, place: object) -> bool:
        for kept in self._kept:  # noqa: SIM110  # called for each value that leaves memory
            if place in kept:
                return True
        return False


class ValueCache:
    """The values in memory of one store."""

    def __init__(
        self,
        databases: Sequence[Database],
        fetch: Fetch,
        limit: int,
        *,
        is_pending: Callable[[int, bytes], bool],
        taken: int = 0,
    ) -> None:
        """limit: estimated bytes of the entries. taken: bytes of the limit that storage uses.

        is_pending: whether an uncommitted entry has changed a key.
        """
        self.limit: int | None = limit
        """The current limit; None: all values stay in memory."""
        self._databases = databases
        self._fetch = fetch
        self._is_pending = is_pending
        self._taken = taken
        self._order = Lru()  # of the values that may leave memory: those in memory and committed
        self._loads: dict[Place, _Load] = {}
        self._reading_bytes = 0
        self._waiting: collections.deque[PendingRead] = collections.deque()  # whose values storage does not read yet
        self._pins: dict[Place, tuple[int, int]] = {}  # how many waiting commands need it, and its length
        self._pinned_bytes = 0
        self._at_hand: Container[Place] = ()  # the values that the current command needs
        self._reserved: list[ScriptRead] = []  # of scripts that have not run anew yet
        self._uncommitted: collections.deque[tuple[int, int]] = collections.deque()  # entries and bytes
        self._uncommitted_bytes = 0
        self._doubtful: set[Place] = set()  # keys whose values on disk are unknown, because a commit failed
        self._doubtful_dbs: set[int] = set()
        self._is_executing = False  # whether a waiting command executes, which is counted already
        self._is_beginning = False  # whether `_begin_some` runs: some values may arrive at once
        self._hits = self._misses = self._reads = self._cooled = 0
        self._batches = 0  # of the native path
        for database in databases:
            if database.number == QUEUE_DB:
                continue
            for key in database.keys_in_memory():
                self._order.used((database.number, key))
        while self.cool_some():
            pass

    # -- before a command ---------------------------------------------------------------------------------------

    def put_off(self, steps: Sequence[Step], run: Run) -> PendingRead | Failure | None:
        """Let commands wait if they need a cold value. Returns None if the store can execute them now.

        run: executes them.
        """
        if len(steps) == 1:
            ((db, command),) = steps
            needed = command.places_read(db)
            self._at_hand = needed
        else:
            needed = tuple({place for db, command in steps for place in command.places_read(db)})
            self._at_hand = {place for db, command in steps for place in command.places(db)}
        cold = [length for place in needed if (length := self._cold_length(place)) is not None]
        if not self._is_executing:
            self._misses += len(cold)
            self._hits += len(needed) - len(cold)
        if not cold:
            return None
        return self._refusal(needed) or self._wait_for(PendingRead(run, needed, self._total(needed)))

    def _total(self, places: Iterable[Place]) -> int:
        return sum(map(self._length, places))

    def _refusal(self, needed: Sequence[Place]) -> Failure | None:
        """Return a failure if these values may not be in memory together."""
        length = self._total(needed)
        bound = min(READ_TOGETHER_MAX, self.limit or READ_TOGETHER_MAX)
        if len(needed) == 1 or length <= bound:
            return None
        text = f"{len(needed):,} values of {length:,} bytes would have to be in memory together"
        return Failure(failures.BIGREPLY, f"{text}; the limit is {bound:,}. Ask for fewer at once")

    def _wait_for(self, pending_read: PendingRead) -> PendingRead:
        self._waiting.append(pending_read)
        self._begin_some()
        return pending_read

    def read_ahead(self, step: Step) -> bool:
        """Begin to read the values that a later command needs. Returns False if no more values can be read now."""
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
        """Whether the pure path must execute the next batch, to note the keys that it uses."""
        self._batches = (self._batches + 1) % BATCHES_PER_LOOK
        return self._batches == 0 and self._cooled > 0

    def used(self, places: Iterable[Place]) -> None:
        """Note that a command has used these keys."""
        for place in places:
            if self._order.knows(place):
                self._order.used(place)
            else:  # it may be restored by the undo of a CLEAR_ALL
                self._resolve(place)

    def has_room(self, more: int) -> bool:
        """Make room for more bytes. Returns whether there is room.

        Uncommitted values, and values that commands wait for, may exceed the limit.
        """
        if self.limit is None:
            return True
        left = self.used_bytes + more - self.limit
        return left <= 0 or self._cool(left, (self._pins, self._at_hand), COOLED_PER_WRITE) <= (
            self._uncommitted_bytes + self._pinned_bytes
        )

    # -- scripts --------------------------------------------------------------------------------------------------

    def begin_run(self) -> set[Place]:
        """Begin a run of a script. Returns the set of the keys whose values stay in memory during the run."""
        self._at_hand = kept = set[Place]()
        return kept

    def require(self, step: Step) -> None:
        """Raise `NeedsValues` if a command of a script needs a cold value."""
        needed = step.command.places_read(step.db)
        cold = tuple(place for place in needed if self._cold_length(place) is not None)
        self._misses += len(cold)
        self._hits += len(needed) - len(cold)
        if cold:
            raise NeedsValues(cold)

    def read_for_script(
        self, places: Sequence[Place], named: Sequence[Place], before: ScriptRead | None
    ) -> PendingRead | Failure:
        """Begin to read the values that a script needs, and keep those of `before` in memory.

        places: the keys. named: keys whose values are read too, if there is room. before: the read after which the
        script has run.
        """
        runs = 1 if before is None else before.runs + 1
        if runs > SCRIPT_READS_MAX:
            text = f"the script needs {runs:,} values, one after another, that are not in memory; name its keys in KEYS"
            return Failure(failures.UNDONE, text)
        needed = tuple(dict.fromkeys((*places, *(() if before is None else before.places))))
        if refusal := self._refusal(needed):
            return refusal
        if before is None:
            more = tuple(dict.fromkeys((*needed, *(place for place in named if self._length(place)))))
            needed = needed if self._refusal(more) else more
        return self._wait_for(ScriptRead(needed, self._total(needed), runs))

    def end_reservation(self, read: ScriptRead) -> None:
        """Let the values that a script has needed leave memory: it has run anew."""
        if read in self._reserved:
            self._reserved.remove(read)
            self._unpin(read)

    def end_old_reservations(self, now: int) -> None:
        """Do the same for scripts that have not run anew in time. now: elapsed time in milliseconds."""
        for read in tuple(self._reserved):
            if read.since is None:
                read.since = now
            elif now - read.since > RESERVED_MS:
                self.end_reservation(read)

    # -- entries of storage ---------------------------------------------------------------------------------------

    def changed(self, journal: Journal, sequence: int, effects: Sequence[Effect]) -> None:
        """Note the changes of an entry that is not committed yet."""
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
        """Note that the changes of an entry are committed."""
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
        """Note that an entry was undone. unknown: whether its values may be on disk."""
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
        """Note that all uncommitted entries have failed."""
        self._uncommitted.clear()
        self._uncommitted_bytes = 0

    def resolved(self, happened: Sequence[Effect]) -> None:
        """Note the outcome of failed writes: these effects are on disk, and set in the databases again."""
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
        """Note that an expired key was removed."""
        self._order.forget(place)
        self._outdate(place)

    def _resolve(self, place: Place) -> None:
        """Let a value leave memory from now on, if it is committed."""
        if place[0] != QUEUE_DB and self._is_hot(place) and not self._is_pending(*place):
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
        """Begin to read the values of the commands that wait longest, as far as there is room."""
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
        """Execute the command if all values are in memory; otherwise begin to read them."""
        cold = [(place, length) for place in pending_read.places if (length := self._cold_length(place)) is not None]
        if not cold:
            self._execute(pending_read)
            return
        pending_read.attempts += 1
        if pending_read.attempts > ATTEMPTS_MAX:
            self._complete_read(pending_read, Failure(failures.UNDONE, "other clients change its keys all the time"))
            return
        new: list[_Load] = []
        loads: dict[Place, _Load] = {}  # a key that occurs twice is read once
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
        """Handle the result of a read."""
        del self._loads[load.place]
        self._reading_bytes -= load.length
        failure = None
        if not load.stale:
            db, key = load.place
            if db in self._doubtful_dbs or load.place in self._doubtful:
                answer = OSError("a write of it failed, and the value on disk is unknown")
            if isinstance(answer, bytes):
                self._databases[db].load_value(key, answer)
                self._resolve(load.place)
            else:
                logger.error("database %d: the value of %r cannot be read: %s", db, key[:64], answer)
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

    def _execute(self, pending_read: PendingRead) -> None:
        outcome: Reply | PendingReply
        self._is_executing = True
        try:
            outcome = pending_read.run()
        except MemoryError:
            outcome = NO_MEMORY
        except Exception:
            logger.exception("a command that waited for a value failed")
            outcome = Failure(failures.INTERNAL, "the server's log has the details")
        finally:
            self._is_executing = False
        self._complete_read(pending_read, outcome)

    def _complete_read(self, pending_read: PendingRead, outcome: Reply | PendingReply) -> None:
        if outcome is RUN_ANEW and isinstance(pending_read, ScriptRead):
            self._reserved.append(pending_read)
            while len(self._reserved) > 1 and sum(read.size for read in self._reserved) > self._reading_bytes_max:
                self.end_reservation(self._reserved[0])
        else:
            self._unpin(pending_read)
        pending_read.complete(outcome)

    # -- values that leave memory ---------------------------------------------------------------------------------

    def cool_some(self) -> bool:
        """Remove values from memory if they exceed the limit. Returns whether more are to be removed."""
        if self.limit is None:
            return False
        left = self.used_bytes - self.limit
        if left <= 0 or self._cool(left, (self._pins,), COOLED_PER_SLICE):
            return False
        return self.used_bytes > self.limit

    def _cool(self, size: int, kept: tuple[Container[Place], ...], most: int) -> int:
        """Remove values of `size` bytes from memory, the least recently used first. Returns the bytes that are missing.

        kept: keys whose values stay. most: maximum number of values. At this number no bytes count as missing.
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
        """Return names and values for INFO."""
        return (
            ("cold_keys", sum(database.cold_keys for database in self._databases)),
            ("cold_bytes", sum(database.cold_bytes for database in self._databases)),
            ("cache_hits", self._hits),  # on the pure path
            ("cache_misses", self._misses),
            ("cache_reads", self._reads),
            ("cache_reading", len(self._loads)),
            ("cache_waiting", len(self._waiting)),
            ("cooled_values", self._cooled),
        )
