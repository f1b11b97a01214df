"""The database of queues: records as in any database, and an index that follows from them.

Invariants: only `_replace`, `load` and the native path (`queue_native`) change the index. So undo, loading and
snapshots need to know nothing about queues. No operation reads more messages than it changes or returns, except by a
constant. Clients cannot name this database: its values stay in memory, and nothing evicts them.

Out of scope: the index (`queue_index`), the effects of commands (`queue_operations`) and the format of records
(`queue_records`).
"""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from cairnkv.engine.database import Database, Journal, Shared
from cairnkv.engine.queue_index import PURE_LISTS, QueueIndex
from cairnkv.engine.queue_records import BODIES, MESSAGES, Message, body_key, message_key, parsed_message
from cairnkv.engine.table import Stored
from cairnkv.installation import native_path_in_use
from cairnkv.limits import QUEUE_DB

if TYPE_CHECKING:
    from cairnkv.engine.queue_native import NativeQueues

PARSED_MAX: Final = 1_024
"""Maximum records of messages that are kept parsed: about a megabyte. A message is often put, taken and acked
within a short time, and each of these commands needs it several times."""


class QueueDatabase(Database):
    """The database of queues of a store."""

    __slots__ = ("_index", "_lists", "_parsed", "changed", "native", "watched")

    def __init__(self, shared: Shared | None = None) -> None:
        super().__init__(shared, QUEUE_DB)
        self.native: NativeQueues | None = None
        """Executes the common commands; None: the native path is not in use."""
        self._lists = PURE_LISTS
        if native_path_in_use():
            from cairnkv.engine import queue_native

            self.native, self._lists = queue_native.NativeQueues(self), queue_native.LISTS
        self._index: QueueIndex | None = QueueIndex(self._lists)
        self.watched: Mapping[bytes, object] = {}
        """Keys of the records of queues whose changes `changed` collects."""
        self.changed: dict[bytes, None] = {}
        """Those keys that have changed, in the order of their first changes. The store removes them."""
        self._parsed: dict[bytes, Message] = {}  # the newest records of messages

    @property
    def index(self) -> QueueIndex:
        """The index of all records."""
        if self._index is None:
            self._index = self._new_index()
        return self._index

    def _new_index(self) -> QueueIndex:
        self._parsed.clear()
        index = QueueIndex(self._lists)
        for key, value, _ in self._table:
            assert isinstance(value, bytes)
            index.replace(key, None, value, self)
        return index

    def _replace(
        self, key: bytes, old: tuple[Stored, int | None] | None, new: tuple[Stored, int | None] | None
    ) -> None:
        self.shared.expiring = True  # replies depend on log time
        index, self._index = self.index, None  # if this fails halfway, the next use makes a new index
        super()._replace(key, old, new)
        index.replace(key, None if old is None else _record(old), None if new is None else _record(new), self)
        self._index = index
        if key in self.watched:
            self.changed[key] = None

    def load(self, key: bytes, value: Stored, expiry: int | None) -> None:
        """Add an entry that storage has kept; see `Database.load`."""
        super().load(key, value, expiry)
        assert isinstance(value, bytes), "the records of queues are always in memory"
        self.index.replace(key, None, value, self)
        self.shared.expiring = True

    def take_over(self, loaded: Database) -> None:
        """Move all entries of another database of queues to this empty one; see `Database.take_over`."""
        assert isinstance(loaded, QueueDatabase)
        super().take_over(loaded)
        self._index = loaded.index
        self.shared.expiring = self.shared.expiring or bool(self._table.keys)

    def copy_undone(self, interrupted: Database, journal: Journal) -> None:
        """Copy the entries of another database without the changes of a journal; see `Database.copy_undone`."""
        super().copy_undone(interrupted, journal)
        self._index = None

    @property
    def tidy(self) -> bool:
        """Whether no record and no message expires, so that housekeeping has nothing to do."""
        return super().tidy and not self.index.expiring

    def next_expired(self, after: int, count: int) -> tuple[int, bytes | None]:
        """Search the next queues, in the order of their numbers, for one with expired messages that take memory.

        after: a number. count: of queues to examine. Returns the number from which to go on (0: there are no more), and
        the name of the queue.
        """
        for examined, (number, name) in enumerate(self.index.numbers.since((after + 1, b"")), 1):
            if self.index.queues[name].expired(self.now):
                return number - 1, name
            if examined == count:
                return number, None
        return 0, None

    @property
    def index_bytes(self) -> int:
        """The estimated memory of the indexes."""
        return super().index_bytes + self.index.used_bytes

    def leases(self, after: int, most: int) -> list[tuple[int, int]]:
        """Return the (id, number of the lease) of leases that end after a log time, up to a number.

        The order is that of the creation of queues: the order of `index.queues` differs from node to node.
        """
        queues = (self.index.queues[name] for _, name in self.index.numbers)
        numbers = (number for queue in queues for _, number in queue.leased.since((after + 1, 0)))
        messages = ((number, self.message(number)) for number in itertools.islice(numbers, most))
        return [(number, message.lease) for number, message in messages if message is not None]

    def ready_at(self, key: bytes) -> int | None:
        """Return the log time from which on TAKE may find messages of a queue, by the key of the queue's record.

        None: not before the queue changes.
        """
        queue = self.index.queues.get(key[1:])
        return None if queue is None or queue.rules.paused else queue.turns.soonest()

    # -- records ------------------------------------------------------------------------------------------------

    def message(self, number: int) -> Message | None:
        """Return a message, expired or not, or None."""
        record = self.get(message_key(number))
        return None if record is None else self.parsed(record)

    def put_message(self, number: int, message: Message) -> None:
        """Set the record of a message."""
        record = message.packed()
        self._note_parsed(record, message)
        self.put(message_key(number), record, None)

    def parsed(self, record: bytes) -> Message:
        """Return the message of a record. Parses it only if it is not among the newest ones."""
        message = self._parsed.get(record)
        if message is None:
            message = parsed_message(record)
            self._note_parsed(record, message)
        return message

    def _note_parsed(self, record: bytes, message: Message) -> None:
        if len(self._parsed) >= PARSED_MAX:
            self._parsed.clear()
        self._parsed[record] = message

    def body(self, number: int, message: Message) -> bytes:
        """Return the body of a message."""
        body = self.get(body_key(number)) if message.body is None else message.body
        assert body is not None
        return body

    # -- checking -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError unless the index follows from the records, and the records belong to each other."""
        super().check()
        assert self.index.content() == self._new_index().content()
        keys = {key for key, _, _ in self._table}
        bodies = {key for key in keys if key[:1] == BODIES}
        messages = 0
        for name, queue in self.index.queues.items():
            assert queue.record is not None, f"queue {name!r} has no record"
            for number in (*queue.live, *queue.dead):
                message = self.message(number)
                assert message is not None
                assert message.queue == name
                assert len(self.body(number, message)) == message.size
                assert number <= queue.record.id
                assert message.lease <= queue.record.lease
                messages += 1
                if message.body is None:
                    bodies.remove(body_key(number))
            for group, of_group in queue.groups.items():
                assert all(line.messages for line in of_group.lines.values()), f"a turn of {group!r} has no messages"
        assert not bodies, "bodies without a message"
        assert messages == sum(key[:1] == MESSAGES for key in keys)


def _record(entry: tuple[Stored, int | None]) -> bytes:
    value = entry[0]
    assert isinstance(value, bytes), "the records of queues are always in memory"
    return value


def queues_of(shared: Shared) -> QueueDatabase:
    """Return the database of queues of a store. Makes it if there is none."""
    database = shared.databases.get(QUEUE_DB)
    if database is None:
        return QueueDatabase(shared)
    assert isinstance(database, QueueDatabase)
    return database
