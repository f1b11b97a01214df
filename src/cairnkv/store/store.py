"""The store: executes commands against the keyspace, and decides when each reply may leave.

What always holds (the promises, for any log that keeps its contract):
- A reply that says a write succeeded leaves when the log has committed it.
- A reply shows nothing that could still be taken back: it waits for the newest pending commit among the keys
  it touched, or of all where it touched the whole table.
- When commits fail, what they changed is undone, newest first, and the replies that waited for them fail,
  before another command runs.
- Memory is checked before the log; an eviction is a CLEAR in the log.

Not for sessions, wires or sockets; and it has no lock: one thread at a time.
"""

import enum
from collections.abc import Callable, Iterable
from typing import Final, Protocol, TypeAlias

from cairnkv.commands import Clear, Command, Expire, Failure, GetWith, Incr, Items, Reply, Scope, failures
from cairnkv.installation import features
from cairnkv.keyspace import Journal, Keyspace, apply
from cairnkv.keyspace.keyspace import Before
from cairnkv.keyspace.table import DEADLINE_BYTES, ENTRY_BYTES
from cairnkv.log import Log, LogRefused, ProcessLog
from cairnkv.store.clock import Clock, wall_clock
from cairnkv.store.memory import UseOrder
from cairnkv.version import VERSION

EXPIRED_PER_SLICE: Final = 200
"""Expired keys that one slice of housekeeping removes: about a millisecond."""

EVICTIONS_PER_WRITE: Final = 1_000
"""Keys that one write may push out. A value that needs more room is refused, and may be repeated."""

RETURNED_KEYS_PER_LOOK: Final = 100
"""Keys that one look for a victim passes among those that nobody has used since they came back."""

SLICES_PER_WRITE: Final = 8
"""Slices of housekeeping that a write may wait for when memory is short."""


class WhenFull(enum.Enum):
    """What happens to a write that the memory limit has no room for."""

    REFUSE = "refuse"
    EVICT = "evict"


class Held:
    """A reply that may not leave yet.

    reply: None until it may leave; then what to send, which is a failure if its commit failed.
    on_ready: called once, when it may.
    """

    __slots__ = ("_outcome", "on_ready", "reply")

    def __init__(self, outcome: Reply) -> None:
        self._outcome = outcome
        self.reply: Reply | None = None
        self.on_ready: Callable[[], None] = _nobody_waits

    @property
    def size(self) -> int:
        """Bytes that the reply keeps in memory, near enough."""
        return size_of(self._outcome)

    def release(self) -> None:
        """The commit that it waited for is safe."""
        self.reply = self._outcome

    def fail(self, failure: Failure) -> None:
        """The commit that it waited for has failed."""
        self.reply = failure


def size_of(reply: Reply) -> int:
    """Bytes that a reply keeps in memory besides its objects."""
    if isinstance(reply, bytes):
        return len(reply)
    if isinstance(reply, Items):
        return sum(len(value or b"") for value in reply.values)
    return 0


def _nobody_waits() -> None:
    pass


class _Uncommitted:
    """A write that the log has not committed yet, and the replies that wait for it."""

    __slots__ = ("held", "journal", "own")

    def __init__(self, journal: Journal, own: Held) -> None:
        self.journal = journal
        self.own = own
        self.held: list[Held] = []


class Tally(Protocol):
    """Whoever executes commands on this store's keyspace without asking it: how many, and writes among them."""

    commands: int
    writes: int


InfoSource: TypeAlias = Callable[[], Iterable[tuple[str, str | int]]]


class Store:
    """A keyspace behind a log."""

    def __init__(
        self,
        *,
        log: Log | None = None,
        clock: Clock = wall_clock,
        memory_limit: int | None = None,
        when_full: WhenFull = WhenFull.REFUSE,
    ) -> None:
        """memory_limit: bytes that the entries may take, by estimate; None: no limit."""
        self.keyspace: Final = Keyspace()
        self._log: Log = log if log is not None else ProcessLog()
        self._log.listen(self)
        self.clock = clock
        self._memory_limit = memory_limit
        self._use_order = UseOrder() if memory_limit is not None and when_full is WhenFull.EVICT else None
        self._evict_cursor = 0
        self._last = 0  # position of the newest entry of the log
        self._uncommitted: dict[int, _Uncommitted] = {}  # by position, oldest first
        self._pending_keys: dict[bytes, int] = {}  # the newest uncommitted position that changed a key
        self._pending_table = 0  # ... and that changed them all
        self._commands = 0
        self._tallies: list[Tally] = []
        self._expired = 0
        self._evicted = 0
        self._info_sources: list[InfoSource] = [self._info]

    # -- commands -----------------------------------------------------------------------------------------

    def execute(self, command: Command) -> Reply | Held:
        """Carry a command out: its reply, or where the reply will be once it may leave."""
        self._commands += 1
        word = command.word
        if word.by_store:
            return Items(tuple(str(text).encode() for pair in self.info() for text in pair))
        now = self.clock()
        if not word.writes:
            reply = apply(self.keyspace, command, now)
            if self._use_order is not None:
                self._note_use(command.named_keys())
            return self._when_safe(reply, self._newest_commit_for(command)) if self._uncommitted else reply
        self.keyspace.advance(now)
        if self._memory_limit is not None and (refusal := self._admit(command, self._memory_limit)):
            return refusal
        outcome = self._write(command, now)
        if self._use_order is not None:
            self._note_use(command.named_keys())
        return outcome

    def _write(self, command: Command, now: int) -> Reply | Held:
        if self._log.commits_at_once and self._use_order is None:
            try:
                self._last = self._log.append(command, max(now, self.keyspace.now))
            except LogRefused as refused:
                return Failure(failures.UNDONE, str(refused))
            return apply(self.keyspace, command, now)
        journal: Journal = []
        self.keyspace.journal = journal
        try:
            reply = apply(self.keyspace, command, now)
            if not journal:  # nothing changed, so there is nothing to make safe
                return self._when_safe(reply, self._newest_commit_for(command))
            position = self._log.append(command, self.keyspace.now)
        except LogRefused as refused:
            self.keyspace.undo(journal)
            return Failure(failures.UNDONE, str(refused))
        except BaseException:  # a fault of ours: what no log has must not be there
            self.keyspace.undo(journal)
            raise
        finally:
            self.keyspace.journal = None
        self._last = position
        if self._use_order is not None:
            self._note_changes(journal)
        if self._log.commits_at_once:
            self.keyspace.forget(journal)
            return reply
        for change in journal:
            if isinstance(change, Before):
                self._pending_keys[change.key] = position
            else:
                self._pending_table = position
        held = Held(reply)
        self._uncommitted[position] = _Uncommitted(journal, held)
        return held

    def _newest_commit_for(self, command: Command) -> int:
        """The newest uncommitted position that a reply to this command could show; 0 if there is none."""
        match command.word.scope:
            case Scope.NOTHING:
                return 0
            case Scope.TABLE:
                return self._last
            case Scope.KEYS:
                return max([self._pending_table, *(self._pending_keys.get(key, 0) for key in command.named_keys())])

    def _when_safe(self, reply: Reply, position: int) -> Reply | Held:
        uncommitted = self._uncommitted.get(position)
        if uncommitted is None:
            return reply
        held = Held(reply)
        uncommitted.held.append(held)
        return held

    # -- what the log says ----------------------------------------------------------------------------------

    def committed(self, position: int) -> None:
        """Everything up to this position is safe: the replies that waited for it may leave."""
        released: list[Held] = []
        while self._uncommitted and (first := next(iter(self._uncommitted))) <= position:
            uncommitted = self._uncommitted.pop(first)
            self._no_longer_pending(first, uncommitted.journal)
            self.keyspace.forget(uncommitted.journal)
            released += (uncommitted.own, *uncommitted.held)
        for held in released:
            held.release()
        for held in released:
            held.on_ready()

    def failed(self, reason: str, *, unknown: bool) -> None:
        """Everything uncommitted is off: undo it, newest first, and fail the replies that waited for it."""
        failed: list[Held] = []
        write_failure = Failure(failures.UNKNOWN if unknown else failures.UNDONE, reason)
        read_failure = Failure(failures.UNDONE, reason)
        while self._uncommitted:
            position, uncommitted = self._uncommitted.popitem()
            self._no_longer_pending(position, uncommitted.journal)
            self.keyspace.undo(uncommitted.journal)
            if self._use_order is not None:
                self._note_use(change.key for change in uncommitted.journal if isinstance(change, Before))
            uncommitted.own.fail(write_failure)
            for held in uncommitted.held:
                held.fail(read_failure)
            failed += (uncommitted.own, *uncommitted.held)
        for held in failed:
            held.on_ready()

    def _no_longer_pending(self, position: int, journal: Journal) -> None:
        if self._pending_table <= position:
            self._pending_table = 0
        for change in journal:
            if isinstance(change, Before) and self._pending_keys.get(change.key) == position:
                del self._pending_keys[change.key]

    # -- memory ---------------------------------------------------------------------------------------------

    def _admit(self, command: Command, limit: int) -> Failure | None:
        """Make room for a command that may make the keyspace grow, or say why there is none."""
        growth = self._growth(command)
        if growth <= 0:
            return None
        keyspace = self.keyspace
        for _ in range(SLICES_PER_WRITE):
            if keyspace.used_bytes + keyspace.garbage_bytes + growth <= limit or not self.housekeep():
                break
        if self._use_order is not None and growth <= limit:
            spared = set(command.named_keys())
            self._note_use(spared)
            for _ in range(EVICTIONS_PER_WRITE):
                if keyspace.used_bytes + growth <= limit or not self._evict(spared):
                    break
        if keyspace.used_bytes + growth <= limit:
            return None
        return Failure(failures.FULL, f"the memory limit of {limit:,} bytes has no room for {growth:,} more")

    def _growth(self, command: Command) -> int:
        """By how many bytes a command could make the entries grow, at most."""
        if not command.word.grows:
            return 0
        if isinstance(command, Expire | GetWith):
            entry = self.keyspace.entry(command.key) if command.ttl is not None else None
            return DEADLINE_BYTES if entry is not None and entry[1] is None else 0
        keys = set(command.named_keys())
        of_deadline = DEADLINE_BYTES if getattr(command, "ttl", None) else 0
        keeps_deadline = isinstance(command, Incr) or getattr(command, "keep_ttl", False)
        growth = sum(map(len, command.arguments())) + (ENTRY_BYTES + of_deadline) * len(keys)
        for key in keys:
            entry = self.keyspace.entry(key)
            if entry is not None:
                growth -= ENTRY_BYTES + len(key) + len(entry[0])
                if entry[1] is not None and not keeps_deadline:
                    growth -= DEADLINE_BYTES
                if isinstance(command, Incr):
                    growth = max(growth, 0) + 1  # a sum has a digit more than the longer number, at most
        return growth

    def _evict(self, spared: set[bytes]) -> bool:
        """Clear one of the least recently used keys, through the log; False when there is none to clear."""
        assert self._use_order is not None
        key = self._use_order.oldest(spared) or self._returned_key(spared)
        if key is None:
            return False
        if self.keyspace.get(key) is None:  # expired: nobody will miss it
            self.keyspace.drop(key)
            self._use_order.forget(key)
            self._expired += 1
            return True
        if isinstance(self._write(Clear(key), self.keyspace.now), Failure):
            return False
        self._evicted += 1
        return True

    def _returned_key(self, spared: set[bytes]) -> bytes | None:
        """A key that nobody has used since it came back when a CLEAR_ALL was undone."""
        for _ in range(2):  # the second time around from the table's beginning, if the first came to its end
            self._evict_cursor, keys = self.keyspace.slice(self._evict_cursor, RETURNED_KEYS_PER_LOOK, b"")
            for key in keys:
                if key not in spared:
                    return key
        return None

    def _note_changes(self, journal: Journal) -> None:
        """Forget the use of keys that a command took out."""
        assert self._use_order is not None
        for change in journal:
            if not isinstance(change, Before):
                self._use_order.forget_all()
            elif self.keyspace.get(change.key) is None:
                self._use_order.forget(change.key)

    def _note_use(self, keys: Iterable[bytes]) -> None:
        assert self._use_order is not None
        for key in keys:
            if self.keyspace.get(key) is None:
                self._use_order.forget(key)
            else:
                self._use_order.used(key)

    # -- in the background ----------------------------------------------------------------------------------

    def housekeep(self) -> bool:
        """Do one bounded slice of what nobody waits for: remove expired keys, free what was cleared.

        Returns whether there is more to do now. Removing an expired key shows nowhere, so it is not logged.
        """
        self.keyspace.advance(self.clock())
        expired = self.keyspace.expired(EXPIRED_PER_SLICE)
        for key in expired:
            self.keyspace.drop(key)
            if self._use_order is not None:
                self._use_order.forget(key)
        self._expired += len(expired)
        more_uses = self._use_order is not None and self._use_order.free_some()
        return self.keyspace.free_slice() or more_uses or len(expired) == EXPIRED_PER_SLICE

    @property
    def tidy(self) -> bool:
        """Whether a slice would find nothing to do, now or later, unless a command is executed before."""
        return self._use_order is None and self.keyspace.tidy

    def close(self) -> None:
        """Let the log finish; the store takes no commands after that."""
        self._log.close()

    # -- beside it ------------------------------------------------------------------------------------------

    @property
    def plain(self) -> bool:
        """Whether nothing but the keyspace has to know of a command: no log to wait for, no memory limit."""
        return self._log.commits_at_once and self._memory_limit is None

    def count_also(self, tally: Tally) -> None:
        """Count what somebody else executes on the keyspace."""
        self._tallies.append(tally)

    # -- about itself ---------------------------------------------------------------------------------------

    def add_info(self, source: InfoSource) -> None:
        """Let INFO tell what this source tells as well."""
        self._info_sources.append(source)

    def info(self) -> list[tuple[str, str | int]]:
        """What INFO tells: names and values."""
        return [pair for source in self._info_sources for pair in source()]

    def _info(self) -> Iterable[tuple[str, str | int]]:
        self.keyspace.advance(self.clock())
        return (
            ("cairnkv_version", VERSION),
            ("size", self._log.size),
            ("hot_path", features()["hot path"]),
            ("commands", self._commands + sum(tally.commands for tally in self._tallies)),
            ("keys", self.keyspace.count()),
            ("used_bytes", self.keyspace.used_bytes),
            ("garbage_bytes", self.keyspace.garbage_bytes),
            ("memory_limit_bytes", self._memory_limit or 0),
            ("expired_keys", self._expired),
            ("evicted_keys", self._evicted),
            ("log_position", self._last + sum(tally.writes for tally in self._tallies)),
            ("log_time_ms", self.keyspace.now),
        )
