"""Commands that a store answers about itself: INFO, BACKUP and RANDOM_KEY, and counts of executed commands."""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, TypeAlias

from cairnkv.commands import MISSING, Command, Deadline, Exists, Failure, Get, GetMany, Items, Reply, Ttl, failures
from cairnkv.commands.vocabulary import Backup
from cairnkv.engine import Database, QueueDatabase
from cairnkv.engine.table import CURSORS
from cairnkv.installation import features
from cairnkv.storage import Storage
from cairnkv.store.memory import Memory
from cairnkv.version import VERSION

KEYS_PER_RANDOM_LOOK: Final = 20
"""Keys that one look for a random key passes; it takes one of them."""


def _no_backups(_command: Backup) -> Reply:
    return Failure(failures.NOBACKUP, "there is no server around this store that makes them")


InfoSource: TypeAlias = Callable[[], Iterable[tuple[str, str | int]]]
"""Returns names and values for INFO."""


class DirectExecutor(Protocol):
    """An executor that bypasses `Store.execute`, and its counts of commands.

    writes: 0 if the store counts the writes itself.
    hits, misses: keys that commands that only read have found, and not found.
    off: set by the store: whether the executor must leave all commands to `Store.execute`.
    """

    commands: int
    writes: int
    off: bool

    @property
    def hits(self) -> int: ...

    @property
    def misses(self) -> int: ...


class StoreInfo:
    """The sources of INFO of one store, and its executors of the native path."""

    def __init__(self, own: InfoSource) -> None:
        """own: the store's own names and values, by `about`."""
        self.executors: list[DirectExecutor] = []
        self.begin_backup: Callable[[Backup], Reply] = _no_backups
        """Executes BACKUP."""
        self.sources = [own]
        self._hits = self._misses = 0  # on the pure path

    def note_read(self, command: Command, reply: Reply) -> None:
        """Count the keys that a command of the pure path has found, and not found, if it only reads."""
        match command:
            case Get() | Ttl() | Deadline():
                found, missing = (0, 1) if reply is MISSING else (1, 0)
            case GetMany():
                assert isinstance(reply, Items)
                missing = reply.values.count(None)
                found = len(reply.values) - missing
            case Exists():
                assert isinstance(reply, int)
                found, missing = reply, len(command.names) - reply
            case _:
                return
        self.note_lookups(found, missing)

    def note_lookups(self, found: int, missing: int) -> None:
        """Count keys that commands that only read have found, and not found."""
        self._hits += found
        self._misses += missing

    @property
    def lookups(self) -> tuple[int, int]:
        """The numbers of keys that commands that only read have found, and not found."""
        return (
            self._hits + sum(executor.hits for executor in self.executors),
            self._misses + sum(executor.misses for executor in self.executors),
        )

    def commands(self, others: int) -> int:
        """Return the number of executed commands. others: those that executors did not execute."""
        return others + sum(executor.commands for executor in self.executors)

    def about(
        self,
        storage: Storage,
        databases: Sequence[Database],
        memory: Memory,
        *,
        mode: str,
        loading: bool,
        commands: int,
        waiters: int,
        queues: QueueDatabase,
    ) -> Iterable[tuple[str, str | int]]:
        """Yield the names and values of a store. commands: without those of executors. waiters: their number."""
        shared = databases[0].shared
        messages = zip(("ready", "delayed", "leased", "dead"), queues.index.counts(shared.now), strict=True)
        return (
            ("cairnkv_version", VERSION),
            ("mode", mode),
            ("loading", int(loading)),
            *storage.about(),
            *(() if memory.cache is None else memory.cache.about()),
            ("path", features()["path"]),
            ("commands", self.commands(commands)),
            ("keys", sum(database.count() for database in databases)),
            ("used_bytes", memory.used_bytes),
            ("garbage_bytes", memory.garbage_bytes),
            ("memory_limit_bytes", memory.limit or 0),
            ("expired_keys", memory.expired),
            ("evicted_keys", memory.evicted),
            ("queues", len(queues.index.numbers)),
            *((f"messages_{state}", count) for state, count in messages),
            ("waiting_takes", waiters),
            ("log_position", storage.sequence + sum(executor.writes for executor in self.executors)),
            ("log_time_ms", shared.now),
            ("log_time_ahead_ms", shared.lead),
        )

    def pairs(self) -> list[tuple[str, str | int]]:
        """Return the names and values of all sources."""
        return [pair for source in self.sources for pair in source()]

    def reply(self) -> Reply:
        """Return the reply to INFO."""
        return Items(tuple(str(text).encode() for pair in self.pairs() for text in pair))


def random_key(database: Database) -> Reply:
    """Return the reply to RANDOM_KEY."""
    if database.count() == 0:
        return MISSING
    cursor = random.randrange(CURSORS)
    while True:
        cursor, keys = database.slice(cursor, KEYS_PER_RANDOM_LOOK, b"")
        if keys:
            return random.choice(keys)
