"""The declarations of the commands on queues: numbers from 64.

A queue holds messages. TAKE leases a message to a worker for some time; ACK deletes it, and NACK returns it. A message
whose lease ends is ready again. Each lease has a number, which rises over the whole store: ACK, NACK and EXTEND have
no effect with an older one.

Invariants: all queues of a store are one namespace, apart from the keys of all databases. A queue exists from its first
PUT or QUEUE_SET on. A command that names a queue touches the record of the queue, and a command that names messages
touches theirs. Each operation that changes a message also writes the record of its queue. So a reply about a queue
waits for the commits that it may show (`cairnkv.store.commit_gate`).
"""

from collections.abc import Iterable
from typing import ClassVar, Final

from cairnkv.commands.failures import BADARGS
from cairnkv.commands.grammar import (
    BY_NUMBER,
    Access,
    Answer,
    ArgumentFault,
    Command,
    CommandSpec,
    Kind,
    NumberKind,
    Scope,
    argument,
    command_spec,
    option,
    rest,
    switch,
)
from cairnkv.commands.vocabulary import COUNTED_FROM, UNIX_MILLISECONDS
from cairnkv.escapes import quoted
from cairnkv.limits import (
    ATTEMPTS_MAX,
    BACKOFF_FACTOR_MAX,
    DELAY_MAX,
    INTEGER_MAX,
    LEASE_MAX,
    PRIORITY_MAX,
    QUEUE_DB,
    QUEUE_NAME_MAX,
    REASON_MAX,
    TAKE_MAX,
    WAIT_MAX,
)
from cairnkv.records import record

__all__ = [
    "Ack",
    "Extend",
    "Look",
    "Nack",
    "Peek",
    "Purge",
    "Put",
    "PutMany",
    "QueueDrop",
    "QueueSet",
    "QueueStats",
    "Queues",
    "Remove",
    "Requeue",
    "RequeueIds",
    "Take",
    "TakeAny",
    "Together",
]

COUNTERS: Final = b"c"
"""Key of the record of the store-wide counters in the database of queues. It changes whenever a queue is made or
deleted."""

MESSAGES: Final = b"m"
"""First byte of the key of a message's record in the database of queues; the number of the message follows."""

QUEUES: Final = b"q"
"""First byte of the key of a queue's record; the name of the queue follows."""


@record
class TextKind(Kind):
    """A string of limited length."""

    lowest: int
    highest: int

    def read(self, text: bytes) -> bytes:
        if not self.lowest <= len(text) <= self.highest:
            raise ArgumentFault(
                BADARGS, f"{self.placeholder} has {self.lowest} to {self.highest:,} bytes, this one {len(text):,}"
            )
        return text


@record
class ChoiceKind(Kind):
    """One of several words."""

    choices: tuple[bytes, ...]

    def read(self, text: bytes) -> bytes:
        if text not in self.choices:
            raise ArgumentFault(
                BADARGS, f"{self.placeholder} is one of {b', '.join(self.choices).decode()}, not {quoted(text[:24])}"
            )
        return text


@record
class FrameKind(Kind):
    """A command, as its frame of the native protocol with a two-byte number and without flags."""

    as_it_is: ClassVar[bool] = False

    def read(self, text: bytes) -> Command:
        number = int.from_bytes(text[1:3])
        spec = BY_NUMBER.get(number)
        if len(text) < _NUMBER_END or text[0] or spec is None:
            raise ArgumentFault(BADARGS, f"{self.placeholder} is the frame of a command on keys or queues")
        if not may_be_together(spec):
            raise ArgumentFault(
                BADARGS, f"TOGETHER cannot contain {spec.name}; each frame is that of a command on keys or queues"
            )
        at = _NUMBER_END if number < COUNTED_FROM else _COUNT_END
        count = len(spec.fields) if number < COUNTED_FROM else int.from_bytes(text[_NUMBER_END:at])
        strings: list[bytes] = []
        while len(strings) < count and at < len(text):
            begin = at + 4
            at = begin + int.from_bytes(text[at:begin])
            strings.append(text[begin:at])
        if at != len(text) or len(strings) < count:
            raise ArgumentFault(BADARGS, f"the frame of a command {spec.name} has a wrong length")
        return spec.command.from_arguments(strings)

    def write(self, value: Command) -> bytes:
        number, strings = value.spec.number, value.arguments()
        parts = [b"\0", number.to_bytes(2)]
        if number >= COUNTED_FROM:
            parts.append(len(strings).to_bytes(4))
        for string in strings:
            parts += (len(string).to_bytes(4), string)
        return b"".join(parts)


_NUMBER_END: Final = 3
_COUNT_END: Final = 7


def may_be_together(spec: CommandSpec) -> bool:
    """Return whether a command may be a part of TOGETHER."""
    return not spec.by_store and spec.scope is not Scope.TABLE


TAKE_STRINGS: Final = 7
LOOK_STRINGS: Final = 13
"""The strings of one message in a reply of TAKE, and of LOOK or PEEK."""

QUEUE: Final = TextKind("queue", 1, QUEUE_NAME_MAX)
GROUP: Final = TextKind("group", 1, QUEUE_NAME_MAX)
UNIQUE_NAME: Final = TextKind("name", 1, QUEUE_NAME_MAX)
REASON: Final = TextKind("text", 0, REASON_MAX)
BODY: Final = Kind("body")
FRAME: Final = FrameKind("frame")
ID: Final = NumberKind("id", 1, INTEGER_MAX)
LEASE: Final = NumberKind("lease", 1, INTEGER_MAX)
PRIORITY: Final = NumberKind("priority", 0, PRIORITY_MAX)
DELAY: Final = NumberKind("milliseconds", 0, DELAY_MAX)
AGE: Final = NumberKind("milliseconds", 1, DELAY_MAX)
AGE_OR_NONE: Final = NumberKind("milliseconds-or-0", 0, DELAY_MAX)
LEASE_TIME: Final = NumberKind("milliseconds", 1, LEASE_MAX)
LEASE_TIME_OR_NONE: Final = NumberKind("milliseconds-or-0", 0, LEASE_MAX)
WAIT: Final = NumberKind("milliseconds", 1, WAIT_MAX)
WAIT_OR_NONE: Final = NumberKind("milliseconds-or-0", 0, WAIT_MAX)
MESSAGE_COUNT: Final = NumberKind("count", 1, TAKE_MAX)
MESSAGE_CURSOR: Final = NumberKind("cursor", 0, INTEGER_MAX)
ATTEMPTS: Final = NumberKind("n", 1, ATTEMPTS_MAX)
FACTOR: Final = NumberKind("n", 1, BACKOFF_FACTOR_MAX)
NUMBER_OR_NONE: Final = NumberKind("n-or-0", 0, INTEGER_MAX)
YES_OR_NO: Final = NumberKind("1-or-0", 0, 1)

READY: Final = b"ready"
DELAYED: Final = b"delayed"
LEASED: Final = b"leased"
DEAD: Final = b"dead"
EXPIRED: Final = b"expired"
ALL: Final = b"all"
REFUSE: Final = b"refuse"
DROP: Final = b"drop"

STATE: Final = ChoiceKind("state", (READY, DELAYED, LEASED, DEAD))
PURGED: Final = ChoiceKind("state", (READY, DELAYED, LEASED, DEAD, EXPIRED, ALL))
NOT_READY: Final = ChoiceKind("state", (DELAYED, DEAD))
WHEN_FULL: Final = ChoiceKind("refuse-or-drop", (REFUSE, DROP))


def message_key(message: int) -> bytes:
    """Return the key of a message's record in the database of queues."""
    return MESSAGES + message.to_bytes(8)


def queue_key(name: bytes) -> bytes:
    """Return the key of a queue's record in the database of queues."""
    return QUEUES + name


def _places_of_queues(*names: bytes) -> tuple[tuple[int, bytes], ...]:
    return tuple([(QUEUE_DB, QUEUES + name) for name in names])


def _places_of_messages(messages: Iterable[int]) -> tuple[tuple[int, bytes], ...]:
    return tuple([(QUEUE_DB, message_key(message)) for message in messages])


class _OnQueues(Command):
    """A command that names queues or messages. Each has `places`."""

    __slots__ = ()

    def accesses(self) -> tuple[tuple[bytes, Access], ...]:
        return tuple([(key[1:], self.spec.access) for _, key in self.places(0) if key.startswith(QUEUES)])

    def message_ids(self) -> tuple[int, ...]:
        return tuple([int.from_bytes(key[1:]) for _, key in self.places(0) if key.startswith(MESSAGES)])


@command_spec(
    64, scope=Scope.QUEUES, reads=False, answer=Answer.ITEMS, exclusive=(("delay", "at"),), redis=("queue.put",)
)
class Put(_OnQueues):
    """Put a message into a queue. Returns the id of the message, and 1.

    delay: milliseconds until the message is ready. at: the same as a time in milliseconds since 1970.
    priority: messages with a lower number are taken first. The default is 1000.
    group: groups take turns, and the setting PERGROUP limits the leases of each. With PERGROUP 1, the messages of a
    group are taken strictly in the order of their ids, and have no priority.
    unique: a name that only one message of the queue can have. If a message has it, returns the id of that message, and
    0. A message has its name until it is deleted or dead.
    unique_for: milliseconds for which the name stays taken in any case. until_taken: only until the first TAKE.
    expires: milliseconds after which the message is deleted, unless it is delayed, leased or dead.
    lease: milliseconds of its leases, unless TAKE has a time.
    """

    queue: bytes = argument(QUEUE)
    body: bytes = argument(BODY)
    delay: int | None = option("DELAY", DELAY, default=None)
    at: int | None = option("AT", UNIX_MILLISECONDS, default=None)
    priority: int | None = option("PRIORITY", PRIORITY, default=None)
    group: bytes | None = option("GROUP", GROUP, default=None)
    unique: bytes | None = option("UNIQUE", UNIQUE_NAME, default=None)
    unique_for: int | None = option("UNIQUEFOR", AGE, default=None)
    until_taken: bool = switch("UNTILTAKEN", default=False)
    expires: int | None = option("EXPIRES", AGE, default=None)
    lease: int | None = option("LEASE", LEASE_TIME, default=None)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return _places_of_queues(self.queue)


@command_spec(65, scope=Scope.QUEUES, reads=False, answer=Answer.ITEMS, redis=("queue.putmany",))
class PutMany(_OnQueues):
    """Put several messages into a queue: all or none. Returns the id of the first message, and their number.

    Their ids follow each other.
    """

    queue: bytes = argument(QUEUE)
    delay: int = argument(DELAY)
    priority: int = argument(PRIORITY)
    bodies: tuple[bytes, ...] = rest(BODY, most=TAKE_MAX)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return _places_of_queues(self.queue)


@command_spec(66, scope=Scope.QUEUES, reads=False, grows=False, answer=Answer.ITEMS, redis=("queue.take",))
class Take(_OnQueues):
    """Lease up to `count` ready messages of a queue. Returns a description of each.

    Seven strings describe a message: its id, the number of the lease, the number of the attempt, the milliseconds of
    the lease, the time of its PUT in milliseconds since 1970, its group and its body. Bodies of more than 1 MiB end the
    reply early. The order is: priority, then the group whose turn is longest ago, then the time since when the message
    is ready, then the id. A message that has had all its attempts becomes dead instead.

    lease: milliseconds, instead of the time of the message or of the queue.
    wait: if no message is ready, wait so many milliseconds for one, at most 20,000. Messages go to the TAKE that
    waits longest. The commands behind it on the same connection wait, too. A transaction does not wait: it refuses
    the option.
    """

    queue: bytes = argument(QUEUE)
    count: int = argument(MESSAGE_COUNT)
    lease: int | None = option("LEASE", LEASE_TIME, default=None)
    wait: int | None = option("WAIT", WAIT, default=None)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return _places_of_queues(self.queue)

    def waiting_time(self) -> int:
        return self.wait or 0


@command_spec(67, scope=Scope.QUEUES, reads=False, grows=False, answer=Answer.ITEMS, redis=("queue.takeany",))
class TakeAny(_OnQueues):
    """Lease up to `count` messages of the first of these queues that has ready ones. Returns a description of each.

    It is that of TAKE, after the name of the queue. The first milliseconds are those of a lease; with 0, it has the
    time of its message or of the queue. The second are those of a wait, as in TAKE, at most 20,000; with 0, it does not
    wait.
    """

    count: int = argument(MESSAGE_COUNT)
    lease: int = argument(LEASE_TIME_OR_NONE)
    wait: int = argument(WAIT_OR_NONE)
    names: tuple[bytes, ...] = rest(QUEUE, most=TAKE_MAX)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return _places_of_queues(*self.names)

    def waiting_time(self) -> int:
        return self.wait


@command_spec(68, scope=Scope.QUEUES, reads=False, grows=False, answer=Answer.ITEMS, redis=("queue.ack",))
class Ack(_OnQueues):
    """Delete messages whose work is done. Returns 1 for each, or 0 if this is not its newest lease.

    The lease may have ended, as long as no other TAKE has got the message.
    """

    leases: tuple[tuple[int, int], ...] = rest(ID, LEASE, most=TAKE_MAX)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return _places_of_messages(message for message, _ in self.leases)


@command_spec(
    69,
    scope=Scope.QUEUES,
    reads=False,
    grows=False,
    answer=Answer.NUMBER,
    exclusive=(("delay", "dead"), ("uncounted", "dead")),
    redis=("queue.nack",),
)
class Nack(_OnQueues):
    """Return a message that was not processed. Returns 1, or 0 if this is not its newest lease.

    The message is ready again after the backoff of the queue, which grows with each attempt. It is dead if it has had
    all its attempts.

    delay: milliseconds instead of the backoff. priority: its new priority.
    uncounted: the attempt does not count, and there is no backoff. dead: the message becomes dead now.
    reason: a text that PEEK and LOOK show.
    """

    message: int = argument(ID)
    lease: int = argument(LEASE)
    delay: int | None = option("DELAY", DELAY, default=None)
    priority: int | None = option("PRIORITY", PRIORITY, default=None)
    uncounted: bool = switch("UNCOUNTED", default=False)
    dead: bool = switch("DEAD", default=False)
    reason: bytes | None = option("REASON", REASON, default=None)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return _places_of_messages((self.message,))


@command_spec(70, scope=Scope.QUEUES, reads=False, grows=False, answer=Answer.ITEMS, redis=("queue.extend",))
class Extend(_OnQueues):
    """Set the end of leases to this many milliseconds from now. Returns 1 for each, or 0 if the lease has ended."""

    lease: int = argument(LEASE_TIME)
    leases: tuple[tuple[int, int], ...] = rest(ID, LEASE, most=TAKE_MAX)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return _places_of_messages(message for message, _ in self.leases)


@command_spec(
    71, scope=Scope.QUEUES, reads=False, writes=False, answer=Answer.ITEMS, redis=("queue.peek",), access=Access.READ
)
class Peek(_OnQueues):
    """Return one slice of the messages of a queue in a state: the next cursor, then the description of each message.

    A description is that of LOOK. The first cursor is 0, and a next cursor of 0 is the end. The order is that of the
    ids. `count` is the number of messages that a slice examines, so a slice may return fewer messages before the end.
    """

    queue: bytes = argument(QUEUE)
    state: bytes = argument(STATE)
    cursor: int = argument(MESSAGE_CURSOR)
    count: int = argument(MESSAGE_COUNT)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return _places_of_queues(self.queue)


@command_spec(
    72, scope=Scope.QUEUES, reads=False, writes=False, answer=Answer.ITEMS, redis=("queue.look",), access=Access.READ
)
class Look(_OnQueues):
    """Return the description of a message.

    It is 13 strings: its id, its queue, its state, its priority, the time at which its delay or lease ends or ended,
    the number of its newest lease, the number of its attempts, the time of its PUT, the time at which it expires (0:
    never), its group, its unique name, the reason of its last NACK, and its body. Times are in milliseconds since 1970.

    If the message does not exist, the reply is `MISSING`.
    """

    message: int = argument(ID)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return _places_of_messages((self.message,))


@command_spec(73, scope=Scope.QUEUES, reads=False, grows=False, answer=Answer.NUMBER, redis=("queue.requeue",))
class Requeue(_OnQueues):
    """Make up to `count` delayed or dead messages of a queue ready, the oldest first. Returns their number.

    Their attempts count from 0, and dead messages that were requeued do not expire.
    """

    queue: bytes = argument(QUEUE)
    state: bytes = argument(NOT_READY)
    count: int = argument(MESSAGE_COUNT)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return _places_of_queues(self.queue)


@command_spec(74, scope=Scope.QUEUES, reads=False, grows=False, answer=Answer.NUMBER, redis=("queue.requeueids",))
class RequeueIds(_OnQueues):
    """Make those messages ready that are delayed or dead, as REQUEUE does. Returns their number."""

    messages: tuple[int, ...] = rest(ID, most=TAKE_MAX)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return _places_of_messages(self.messages)


@command_spec(75, scope=Scope.QUEUES, reads=False, grows=False, answer=Answer.NUMBER, redis=("queue.remove",))
class Remove(_OnQueues):
    """Delete messages in any state. Returns the number of messages that existed.

    The ACK of a deleted message returns 0.
    """

    messages: tuple[int, ...] = rest(ID, most=TAKE_MAX)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return _places_of_messages(self.messages)


@command_spec(76, scope=Scope.QUEUES, reads=False, grows=False, answer=Answer.ITEMS, redis=("queue.purge",))
class Purge(_OnQueues):
    """Delete one slice of the messages of a queue in a state. Returns the next cursor, then the number of deleted ones.

    The cursors are those of PEEK. Each slice is atomic; the whole is not. `expired` deletes some of the expired
    messages, which are invisible but take memory; a server does that itself.
    """

    queue: bytes = argument(QUEUE)
    state: bytes = argument(PURGED)
    cursor: int = argument(MESSAGE_CURSOR)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return _places_of_queues(self.queue)


@command_spec(77, scope=Scope.QUEUES, reads=False, answer=Answer.OK, redis=("queue.set",))
class QueueSet(_OnQueues):
    """Change settings of a queue. Settings that are not given stay as they are. 0 means no limit, or never.

    lease: milliseconds of a lease. attempts: number of attempts before a message is dead.
    backoff, factor, backoff_max: milliseconds before the second attempt, factor for each further attempt, and maximum.
    per_group: maximum number of leases of a group. It changes only while the queue is empty.
    max_messages: maximum number of messages, without dead ones. max_bytes: maximum bytes of all bodies.
    max_age: milliseconds after which later messages expire.
    dead_max, dead_age: maximum number of dead messages, and milliseconds until a dead message is deleted.
    when_full: `refuse` refuses a PUT to a full queue; `drop` deletes the oldest message that is not leased.
    paused: while it is 1, TAKE returns no message.
    """

    queue: bytes = argument(QUEUE)
    lease: int | None = option("LEASE", LEASE_TIME, default=None)
    attempts: int | None = option("ATTEMPTS", ATTEMPTS, default=None)
    backoff: int | None = option("BACKOFF", DELAY, default=None)
    factor: int | None = option("FACTOR", FACTOR, default=None)
    backoff_max: int | None = option("BACKOFFMAX", DELAY, default=None)
    per_group: int | None = option("PERGROUP", NUMBER_OR_NONE, default=None)
    max_messages: int | None = option("MAXMESSAGES", NUMBER_OR_NONE, default=None)
    max_bytes: int | None = option("MAXBYTES", NUMBER_OR_NONE, default=None)
    max_age: int | None = option("MAXAGE", AGE_OR_NONE, default=None)
    dead_max: int | None = option("DEADMAX", NUMBER_OR_NONE, default=None)
    dead_age: int | None = option("DEADAGE", AGE_OR_NONE, default=None)
    when_full: bytes | None = option("WHENFULL", WHEN_FULL, default=None)
    paused: int | None = option("PAUSED", YES_OR_NO, default=None)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return _places_of_queues(self.queue)


@command_spec(78, scope=Scope.QUEUES, reads=False, grows=False, answer=Answer.OK, redis=("queue.drop",))
class QueueDrop(_OnQueues):
    """Delete an empty queue with its settings and totals."""

    queue: bytes = argument(QUEUE)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return _places_of_queues(self.queue)


@command_spec(
    79, scope=Scope.QUEUES, reads=False, writes=False, answer=Answer.ITEMS, redis=("queue.stats",), access=Access.READ
)
class QueueStats(_OnQueues):
    """Return the counts, totals and settings of a queue. All are exact.

    The reply has names and values, alternating. `oldest_ready_ms` is the time for which TAKE could already have
    returned a message. `bytes` includes expired messages until the server removes them.
    """

    queue: bytes = argument(QUEUE)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return _places_of_queues(self.queue)


@command_spec(
    80, scope=Scope.QUEUES, reads=False, writes=False, answer=Answer.ITEMS, redis=("queue.list",), access=Access.READ
)
class Queues(_OnQueues):
    """Return one slice of the names of all queues: the next cursor, then the names.

    The first cursor is 0, and a next cursor of 0 is the end. The order is that of their creation.
    """

    cursor: int = argument(MESSAGE_CURSOR)
    count: int = argument(MESSAGE_COUNT)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return ((QUEUE_DB, COUNTERS),)

    def accesses(self) -> tuple[tuple[bytes, Access], ...]:
        return ((b"", self.spec.access),)


@command_spec(81, scope=Scope.QUEUES, answer=Answer.ITEMS, by_store=True, redis=("multi", "exec"))
class Together(Command):
    """Execute several commands on keys and queues as one: all of them, or none. Returns the payload of each reply.

    A frame is that of the native protocol, with a two-byte number. Nothing is executed, and the reply is a failure, if
    one of the commands fails, or if ACK, NACK or EXTEND among them would return 0 for a lease. So a worker can delete
    its message, store results and put further messages, and a worker with an older lease of the message cannot.
    """

    commands: tuple[Command, ...] = rest(FRAME, most=TAKE_MAX)

    def places(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return tuple(place for command in self.commands for place in command.places(db))

    def places_read(self, db: int) -> tuple[tuple[int, bytes], ...]:
        return tuple(place for command in self.commands for place in command.places_read(db))

    def redis_names(self) -> tuple[str, ...]:
        return (*self.spec.redis, *(name for command in self.commands for name in command.redis_names()))

    def accesses(self) -> tuple[tuple[bytes, Access], ...]:
        return tuple(access for command in self.commands for access in command.accesses())
