"""The records of queues: the keys and values of the entries in the hidden database of queues.

    c                               counters: the newest id and lease when a queue was last made or deleted
    q NAME                          queue: turns, the time of its last change, its newest id and lease, totals
    s NAME                          its settings, if QUEUE_SET was used
    m ID                            message, with its body if that is short
    b ID                            its body otherwise
    t LENGTH QUEUE PRIORITY GROUP   turn of the group's messages with a priority, if any is live and there are others
    u LENGTH QUEUE NAME             unique name: the id of its message. It has an expiry if there is no such message

Integers are unsigned and big-endian. Times are log time in milliseconds.

Invariants: these records are the whole state of all queues. `parsed_message(m.packed()) == m` for every message, and
likewise for the other records.

Out of scope: everything that follows from the records (`queue_index`).
"""

import struct
from typing import Final, NamedTuple

from cairnkv.commands.queue_vocabulary import COUNTERS as COUNTERS
from cairnkv.commands.queue_vocabulary import DEAD, DELAYED, LEASED, READY
from cairnkv.commands.queue_vocabulary import MESSAGES as MESSAGES
from cairnkv.commands.queue_vocabulary import QUEUES as QUEUES
from cairnkv.commands.queue_vocabulary import message_key as message_key
from cairnkv.commands.queue_vocabulary import queue_key as queue_key
from cairnkv.limits import (
    ATTEMPTS_DEFAULT,
    BACKOFF_DEFAULT,
    BACKOFF_FACTOR_DEFAULT,
    BACKOFF_MAX_DEFAULT,
    DEAD_DEFAULT,
    LEASE_DEFAULT,
    QUEUE_BYTES_DEFAULT,
)

BODIES: Final = b"b"
SETTINGS: Final = b"s"
NAMES: Final = b"u"
TURNS: Final = b"t"

_MESSAGE: Final = struct.Struct(">BIQQIQQQIIBBBH")
MESSAGE_BYTES: Final = _MESSAGE.size
"""Bytes of the record of a message without its strings."""

_DEAD: Final = 1
_UNTIL_TAKEN: Final = 2
_NEW: Final = 4
_INSIDE: Final = 8

BODY_INSIDE_MAX: Final = 512
"""Maximum bytes of a body in the record of its message. Each change of a message writes this record, so a body inside
makes PUT and ACK cheaper by a record each, and the other commands dearer by its bytes."""

NUMBER: Final = struct.Struct(">Q")
"""A turn, and the id of a unique name's message."""


class Message(NamedTuple):
    """A message.

    group, unique: empty: none. due: the end of its delay or its lease, which may be past; if it is dead, the time of
    its death. lease: number of its newest lease; 0: none, or NACK has returned it. expires: 0: never. lease_ms: 0: the
    queue's. size: bytes of its body. unique_until: the time until which its name stays taken, at least. until_taken:
    whether a TAKE frees the name. reason: of the last NACK. body: None: it has a record of its own. new: whether
    nothing has changed the message since the millisecond of its PUT, so that its record may be an addition to a disk.
    """

    queue: bytes
    group: bytes
    unique: bytes
    priority: int
    due: int
    lease: int
    attempts: int
    put_at: int
    expires: int
    lease_ms: int
    size: int
    unique_until: int = 0
    dead: bool = False
    until_taken: bool = False
    reason: bytes = b""
    body: bytes | None = None
    new: bool = False

    def packed(self) -> bytes:
        """Return the record."""
        return b"".join(
            (
                _MESSAGE.pack(
                    _DEAD * self.dead
                    + _UNTIL_TAKEN * self.until_taken
                    + _NEW * self.new
                    + _INSIDE * (self.body is not None),
                    self.priority,
                    self.due,
                    self.lease,
                    self.attempts,
                    self.put_at,
                    self.expires,
                    self.unique_until,
                    self.lease_ms,
                    self.size,
                    len(self.queue),
                    len(self.group),
                    len(self.unique),
                    len(self.reason),
                ),
                self.queue,
                self.group,
                self.unique,
                self.reason,
                self.body or b"",
            )
        )

    def state(self, now: int) -> bytes | None:
        """Return the state of the message; None: it has expired."""
        if self.dead:
            return DEAD if self.expires == 0 or self.expires > now else None
        if self.due > now:
            return LEASED if self.lease else DELAYED
        return READY if self.expires == 0 or self.expires > now else None


def parsed_message(record: bytes) -> Message:
    """Parse the record of a message. Raises `ValueError` if it is invalid."""
    try:
        flags, priority, due, lease, attempts, put_at, expires, until, lease_ms, size, *lengths = _MESSAGE.unpack_from(
            record
        )
    except struct.error as error:
        raise ValueError(f"an invalid record of a message: {error}") from None
    first = _MESSAGE.size + lengths[0]
    second = first + lengths[1]
    third = second + lengths[2]
    fourth = third + lengths[3]
    if len(record) != fourth + (size if flags & _INSIDE else 0):
        raise ValueError("a record of a message with a wrong length")
    return Message(
        record[_MESSAGE.size : first],
        record[first:second],
        record[second:third],
        priority,
        due,
        lease,
        attempts,
        put_at,
        expires,
        lease_ms,
        size,
        until,
        bool(flags & _DEAD),
        bool(flags & _UNTIL_TAKEN),
        record[third:fourth],
        record[fourth:] if flags & _INSIDE else None,
        bool(flags & _NEW),
    )


def is_new(record: bytes) -> bool:
    """Return whether nothing has changed a message since the millisecond of its PUT, by its record."""
    return bool(record[0] & _NEW)


_QUEUE: Final = struct.Struct(">14Q")
QUEUE_BYTES: Final = _QUEUE.size


class QueueRecord(NamedTuple):
    """A queue: its number in the order of creation, turns, and totals since its creation.

    turn: the newest turn of a group's messages with a priority. used_at: time of its last change. id, lease: the newest
    ones that its commands have given.
    """

    number: int
    turn: int = 0
    used_at: int = 0
    id: int = 0
    lease: int = 0
    put: int = 0
    taken: int = 0
    acked: int = 0
    nacked: int = 0
    expired: int = 0
    died: int = 0
    removed: int = 0
    requeued: int = 0
    dropped: int = 0

    def packed(self) -> bytes:
        """Return the record."""
        return _QUEUE.pack(*self)


def parsed_queue(record: bytes) -> QueueRecord:
    """Parse the record of a queue. Raises `ValueError` if it is invalid."""
    if len(record) != _QUEUE.size:
        raise ValueError("an invalid record of a queue")
    return QueueRecord(*_QUEUE.unpack(record))


_SETTINGS: Final = struct.Struct(">13Q")
SETTINGS_BYTES: Final = _SETTINGS.size


class Settings(NamedTuple):
    """The settings of a queue; see `cairnkv.commands.queue_vocabulary.QueueSet`. drops: WHENFULL is `drop`."""

    lease: int = LEASE_DEFAULT
    attempts: int = ATTEMPTS_DEFAULT
    backoff: int = BACKOFF_DEFAULT
    factor: int = BACKOFF_FACTOR_DEFAULT
    backoff_max: int = BACKOFF_MAX_DEFAULT
    per_group: int = 0
    max_messages: int = 0
    max_bytes: int = QUEUE_BYTES_DEFAULT
    max_age: int = 0
    dead_max: int = DEAD_DEFAULT
    dead_age: int = 0
    drops: int = 0
    paused: int = 0

    def packed(self) -> bytes:
        """Return the record."""
        return _SETTINGS.pack(*self)


def parsed_settings(record: bytes) -> Settings:
    """Parse the record of settings. Raises `ValueError` if it is invalid."""
    if len(record) != _SETTINGS.size:
        raise ValueError("an invalid record of the settings of a queue")
    return Settings(*_SETTINGS.unpack(record))


_COUNTERS: Final = struct.Struct(">QQ")
COUNTERS_BYTES: Final = _COUNTERS.size


class Counters(NamedTuple):
    """The newest id, of a message or the number of a queue, and the number of the newest lease.

    Those of the store are the maximum of its record of the counters and the records of all queues.
    """

    id: int = 0
    lease: int = 0

    def packed(self) -> bytes:
        """Return the record."""
        return _COUNTERS.pack(*self)


def parsed_counters(record: bytes | None) -> Counters:
    """Parse the record of the counters; None: there is none. Raises `ValueError` if it is invalid."""
    if record is None:
        return Counters()
    if len(record) != _COUNTERS.size:
        raise ValueError("an invalid record of the counters of queues")
    return Counters(*_COUNTERS.unpack(record))


def settings_key(queue: bytes) -> bytes:
    """Return the key of the settings of a queue."""
    return SETTINGS + queue


def body_key(message: int) -> bytes:
    """Return the key of the body of a message."""
    return BODIES + message.to_bytes(8)


def turn_key(queue: bytes, priority: int, group: bytes) -> bytes:
    """Return the key of the turn of a group's messages with a priority."""
    return TURNS + b"%c%b%b%b" % (len(queue), queue, priority.to_bytes(4), group)


def parsed_turn_key(key: bytes) -> tuple[bytes, int, bytes]:
    """Return the queue, the priority and the group of the key of a turn."""
    end = 2 + key[1]
    return key[2:end], int.from_bytes(key[end : end + 4]), key[end + 4 :]


def unique_key(queue: bytes, name: bytes) -> bytes:
    """Return the key of a unique name."""
    return NAMES + b"%c%b%b" % (len(queue), queue, name)


def check_queue_record(key: bytes, value: bytes) -> None:
    """Raise `ValueError` unless this can be a record of queues."""
    kind = key[:1]
    numbered = len(key) == 9
    if kind == MESSAGES and numbered:
        parsed_message(value)
    elif kind == QUEUES and len(key) > 1:
        parsed_queue(value)
    elif kind == SETTINGS and len(key) > 1:
        parsed_settings(value)
    elif key == COUNTERS:
        parsed_counters(value)
    elif kind in (TURNS, NAMES) and len(key) > 2 and len(key) >= key[1] + (6 if kind == TURNS else 3) and key[1]:
        if len(value) != NUMBER.size:
            raise ValueError("an invalid record of a turn or a unique name")
    elif kind != BODIES or not numbered:
        raise ValueError("a record of queues with an unknown key")
