"""Check whether the records of queues belong to each other: bodies, messages, queues, counters.

Invariants: records come in key order, so a body comes before its message, and a message before its queue. No body is
kept in memory.

Out of scope: turns and unique names without a message, which have no effect.
"""

from array import array
from collections.abc import Iterator

from cairnkv.engine.queue_records import (
    BODIES,
    COUNTERS,
    MESSAGES,
    QUEUES,
    Counters,
    QueueRecord,
    body_key,
    check_queue_record,
    parsed_counters,
    parsed_message,
    parsed_queue,
    queue_key,
)
from cairnkv.storage.record_format import Parts


class QueueRecords:
    """The records of queues that were read so far."""

    def __init__(self) -> None:
        self._bodies = array("Q")  # ids in order
        self._lengths = array("Q")
        self._at = 0  # the first body whose message was not read
        self._loose: list[int] = []  # ids of bodies without a message
        self._counters = Counters()
        self._given = Counters()  # the greatest ones that queues have given
        self._id = self._lease = 0  # the greatest ones of all messages
        self._number = 0  # the greatest one of all queues
        self._needed: set[bytes] = set()  # names of queues that have messages
        self._queues: set[bytes] = set()  # names of queues that have a record

    def add(self, key: bytes, value: bytes | Parts) -> None:
        """Add a record. Raises `ValueError` if it is invalid, or a message without its body; then leave it out."""
        if isinstance(value, bytes):
            check_queue_record(key, value)
        kind = key[:1]
        if kind == BODIES:
            self._bodies.append(int.from_bytes(key[1:]))
            self._lengths.append(value.length if isinstance(value, Parts) else len(value))
        elif isinstance(value, Parts):
            raise ValueError("a record of queues that is too long")
        elif kind == MESSAGES:
            self._add_message(int.from_bytes(key[1:]), value)
        elif key == COUNTERS:
            self._counters = parsed_counters(value)
        elif kind == QUEUES:
            queue = parsed_queue(value)
            self._number = max(self._number, queue.number)
            self._given = Counters(max(self._given.id, queue.id), max(self._given.lease, queue.lease))
            self._queues.add(key[1:])

    def _add_message(self, number: int, record: bytes) -> None:
        message = parsed_message(record)
        is_inside = message.body is not None
        while self._at < len(self._bodies) and self._bodies[self._at] < number + is_inside:
            self._loose.append(self._bodies[self._at])
            self._at += 1
        if not is_inside:
            if self._at == len(self._bodies) or self._bodies[self._at] != number:
                raise ValueError("a message without its body")
            if self._lengths[self._at] != message.size:
                raise ValueError(f"a message whose body has {self._lengths[self._at]:,} of {message.size:,} bytes")
            self._at += 1
        self._id = max(self._id, number)
        self._lease = max(self._lease, message.lease)
        self._needed.add(message.queue)

    @property
    def loose(self) -> list[int]:
        """The ids of the bodies without a message, after the last record."""
        return [*self._loose, *self._bodies[self._at :]]

    @property
    def missing(self) -> list[tuple[bytes, bytes]]:
        """The keys and values of records that must be added or replaced, after the last record."""
        kept, given = self._counters, self._given
        counters = Counters(max(kept.id, given.id, self._id, self._number), max(kept.lease, given.lease, self._lease))
        lost = sorted(self._needed - self._queues)
        first = counters.id + 1
        counters = counters._replace(id=counters.id + len(lost))
        records = [
            (queue_key(name), QueueRecord(number, id=counters.id, lease=counters.lease).packed())
            for number, name in enumerate(lost, first)
        ]
        are_enough = self._number <= kept.id and self._id <= max(kept.id, given.id)
        if are_enough and self._lease <= max(kept.lease, given.lease) and not lost:
            return []
        return [(COUNTERS, counters.packed()), *records]

    def problems(self) -> Iterator[str]:
        """Yield descriptions of the problems, after the last record."""
        for number in self.loose:
            yield f"{body_key(number)!r} of the queues: a body without a message"
        for key, _ in self.missing:
            yield f"{key!r} of the queues: a record is missing, or too old for the messages"
