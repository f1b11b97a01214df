"""The calls of a queue: the commands that its methods send, and the Python values of the replies.

Out of scope: the execution of a call, and its repetition (`queues`).
"""

import datetime
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from cairnkv.client.address import Seconds
from cairnkv.client.calls import Call, Codecs, Key, check_flags, integer_of, items_of, number_of, valid
from cairnkv.client.codec import Codec, Text, key_bytes
from cairnkv.commands import (
    MISSING,
    Ack,
    Extend,
    Items,
    Look,
    Nack,
    Peek,
    Purge,
    Put,
    PutMany,
    QueueDrop,
    Queues,
    QueueSet,
    QueueStats,
    Remove,
    Replies,
    Reply,
    Requeue,
    RequeueIds,
    Take,
    TakeAny,
    Together,
)
from cairnkv.commands.queue_vocabulary import LOOK_STRINGS, TAKE_STRINGS
from cairnkv.errors import CodecError, OptionError
from cairnkv.limits import DELAY_MAX, LEASE_MAX, PRIORITY_DEFAULT, REASON_MAX, TAKE_MAX
from cairnkv.protocol.native import replies_in
from cairnkv.records import record
from cairnkv.units import duration

B = TypeVar("B")

State: TypeAlias = Literal["ready", "delayed", "leased", "dead"]
"""The state of a message: ready to be taken, not yet ready, leased to a worker, or out of attempts."""

Lease: TypeAlias = tuple[int, int]
"""A lease: the id of its message, and its token."""


class PutResult(NamedTuple):
    """The id of a message, and whether PUT made it. It did not if another message has the unique name."""

    id: int
    new: bool


@record
class Taken:
    """A message that TAKE has leased. Times are in milliseconds."""

    id: int
    token: int
    attempt: int
    lease_ms: int
    put_at_ms: int
    group: bytes
    data: bytes


@record
class Message(Generic[B]):
    """A message as `look` and `peek` show it. Times are in seconds since 1970.

    due: the time at which the delay or the lease ends or has ended. token: the number of the newest lease, or 0.
    expires: the time at which the message expires, or None. reason: the reason of the last nack.
    data: the bytes of the body. body: the body, as the codec of the queue decodes it.
    """

    id: int
    queue: str
    state: str
    priority: int
    due: float
    token: int
    attempts: int
    put_at: float
    expires: float | None
    group: str | None
    unique: str | None
    reason: str
    data: bytes
    decode: Callable[[bytes], B]

    @property
    def body(self) -> B:
        """The body. Raises `CodecError` if the codec cannot decode it."""
        return self.decode(self.data)

    def __repr__(self) -> str:
        return f"<Message {self.id} of {self.queue!r}: {self.state}, {self.attempts} attempts>"


class QueueCalls(Codecs[str, B]):
    """The calls of one queue."""

    def __init__(self, name: Key, codec: Codec[B], *, value_max: int | None = None) -> None:
        super().__init__(Text(), codec, value_max=value_max)
        self.name = valid(QueueStats(key_bytes(name, "the name of a queue"))).queue
        self.decode = codec.decode

    def put(
        self,
        body: B,
        *,
        delay: Seconds | None,
        at: "datetime.datetime | float | None",
        priority: int | None,
        group: Key | None,
        unique: Key | None,
        unique_for: Seconds | None,
        until_taken: bool,
        expires: Seconds | None,
        lease: Seconds | None,
    ) -> Call[PutResult]:
        """Return the call that puts a message."""
        check_flags(until_taken=until_taken)
        command = Put(
            self.name,
            self._encode(body),
            delay=milliseconds_of("delay", delay, 0, DELAY_MAX),
            at=None if at is None else _unix_milliseconds(at),
            priority=priority,
            group=text_or_none("a group", group),
            unique=text_or_none("unique", unique),
            unique_for=milliseconds_of("unique_for", unique_for, 1, DELAY_MAX),
            until_taken=until_taken,
            expires=milliseconds_of("expires", expires, 1, DELAY_MAX),
            lease=milliseconds_of("lease", lease, 1, LEASE_MAX),
        )

        def decode(reply: Reply) -> PutResult:
            number, made = map(integer_of, items_of(reply, 2))
            return PutResult(number, made == 1)

        return Call(valid(command), decode)

    def put_slices(self, bodies: Iterable[B], *, delay: Seconds | None, priority: int | None) -> Iterator[Call[range]]:
        """Yield calls that together put all messages; each puts a bounded number, all or none."""
        if isinstance(bodies, str | bytes | dict) or not isinstance(bodies, Iterable):
            raise OptionError(f"put_many takes a list, or another iterable, of bodies, not {bodies!r:.40}")
        milliseconds = milliseconds_of("delay", delay, 0, DELAY_MAX) or 0
        rank = PRIORITY_DEFAULT if priority is None else priority
        encoded = list(map(self._encode, bodies))
        for begin in range(0, len(encoded), TAKE_MAX):
            part = tuple(encoded[begin : begin + TAKE_MAX])
            yield Call(valid(PutMany(self.name, milliseconds, rank, part)), _ids)

    def take(self, count: int, lease: Seconds | None, wait_ms: int) -> Call[list[Taken]]:
        """Return the call that leases messages. wait_ms: milliseconds to wait for one."""

        def decode(reply: Reply) -> list[Taken]:
            return list(map(_taken, _parts(items_of(reply), TAKE_STRINGS)))

        lease_ms = milliseconds_of("lease", lease, 1, LEASE_MAX)
        return Call(valid(Take(self.name, count, lease=lease_ms, wait=wait_ms or None)), decode)

    def peek_slice(self, state: State, cursor: int, count: int) -> Call[tuple[int, list[Message[B]]]]:
        """Return the call for one slice of the messages in a state."""

        def decode(reply: Reply) -> tuple[int, list[Message[B]]]:
            following, *strings = items_of(reply)
            return integer_of(following), [self._message(part) for part in _parts(strings, LOOK_STRINGS)]

        return Call(valid(Peek(self.name, _state(state), cursor, count)), decode)

    def look(self, message: int) -> Call[Message[B] | None]:
        """Return the call for one message."""

        def decode(reply: Reply) -> Message[B] | None:
            return None if reply is MISSING else self._message(items_of(reply, LOOK_STRINGS))

        return Call(valid(Look(message)), decode)

    def _message(self, strings: Sequence[bytes | None]) -> Message[B]:
        number, priority, due, token, attempts, put_at, expires = (
            integer_of(strings[at]) for at in (0, 3, 4, 5, 6, 7, 8)
        )
        queue, state, group, unique, reason = (_shown(strings[at]) for at in (1, 2, 9, 10, 11))
        return Message(
            number,
            queue,
            state,
            priority,
            due / 1000,
            token,
            attempts,
            put_at / 1000,
            expires / 1000 if expires else None,
            group or None,
            unique or None,
            reason,
            _bytes(strings[12]),
            self.decode,
        )

    def requeue(self, state: State) -> Call[int]:
        """Return the call that makes a bounded number of delayed or dead messages ready."""
        return Call(valid(Requeue(self.name, _state(state), TAKE_MAX)), number_of)

    def purge_slice(self, state: str, cursor: int) -> Call[tuple[int, int]]:
        """Return the call that deletes one slice of the messages in a state."""

        def decode(reply: Reply) -> tuple[int, int]:
            following, deleted = map(integer_of, items_of(reply, 2))
            return following, deleted

        return Call(valid(Purge(self.name, _state(state), cursor)), decode)

    def set(self, **settings: Any) -> Call[None]:
        """Return the call that changes settings. Settings that are None stay as they are."""
        for name in TIMES & settings.keys():
            least, most = (1, LEASE_MAX) if name == "lease" else (0, DELAY_MAX)
            settings[name] = milliseconds_of(name, settings[name], least, most)
        settings["when_full"] = text_or_none("when_full", settings.get("when_full"))
        if (paused := settings.get("paused")) is not None:
            check_flags(paused=paused)
            settings["paused"] = int(paused)
        return Call(valid(QueueSet(self.name, **settings)), lambda reply: None)

    def drop(self) -> Call[None]:
        """Return the call that deletes the queue."""
        return Call(valid(QueueDrop(self.name)), lambda reply: None)

    def stats(self) -> Call[dict[str, int]]:
        """Return the call for the counts and totals."""

        def decode(reply: Reply) -> dict[str, int]:
            return {name: integer_of(value) for name, value in _pairs(reply) if name not in _SETTINGS}

        return Call(valid(QueueStats(self.name)), decode)

    def settings(self) -> Call[dict[str, Any]]:
        """Return the call for the settings. Times are in seconds."""

        def decode(reply: Reply) -> dict[str, Any]:
            return {name: _setting(name, value) for name, value in _pairs(reply) if name in _SETTINGS}

        return Call(valid(QueueStats(self.name)), decode)


def take_any(names: Sequence[bytes], count: int, lease_ms: int | None, wait_ms: int) -> Call[list[tuple[bytes, Taken]]]:
    """Return the call that leases messages of the first queue that has ready ones. It gives the queue of each.

    wait_ms: milliseconds to wait for one.
    """

    def decode(reply: Reply) -> list[tuple[bytes, Taken]]:
        return [(_bytes(part[0]), _taken(part[1:])) for part in _parts(items_of(reply), 1 + TAKE_STRINGS)]

    return Call(valid(TakeAny(count, lease_ms or 0, wait_ms, tuple(names))), decode)


def ack(leases: Sequence[Lease]) -> Call[list[bool]]:
    """Return the call that deletes messages. It gives False for each lease that is not the newest of its message."""
    return Call(Ack(tuple(leases)), _bools)  # the server has made these numbers


def nack(
    lease: Lease,
    reason: str | None,
    *,
    delay: Seconds | None = None,
    priority: int | None = None,
    counted: bool = True,
    dead: bool = False,
) -> Call[bool]:
    """Return the call that returns a message. It gives False if the lease is not the newest of the message."""
    check_flags(counted=counted, dead=dead)
    command = Nack(
        *lease,
        delay=milliseconds_of("delay", delay, 0, DELAY_MAX),
        priority=priority,
        uncounted=not counted,
        dead=dead,
        reason=None if reason is None else reason_bytes(reason),
    )
    return Call(valid(command), lambda reply: number_of(reply) == 1)


def extend(leases: Sequence[Lease], lease_ms: int) -> Call[list[bool]]:
    """Return the call that extends leases. It gives False for each lease that has ended."""
    return Call(valid(Extend(lease_ms, tuple(leases))), _bools)


def together(calls: Sequence[Call[Any]]) -> Call[Replies]:
    """Return the call that executes the commands of calls as one, or none of them."""
    if len(calls) > TAKE_MAX:
        raise OptionError(f"together takes at most {TAKE_MAX:,} commands, not {len(calls):,}")
    commands = tuple(call.command for call in calls)

    def decode(reply: Reply) -> Replies:
        if isinstance(reply, Replies):
            return reply
        return replies_in(Items(items_of(reply, len(commands))), [command.spec for command in commands])

    return Call(Together(commands), decode)


def lease_milliseconds(lease: Seconds) -> int:
    """Return the milliseconds of a lease."""
    return milliseconds_of("lease", lease, 1, LEASE_MAX) or 0


def wait_seconds(wait: Seconds | None) -> float:
    """Return the seconds of a maximum time to wait; None: without end."""
    return math.inf if wait is None else seconds_of("wait", wait, ", or None")


def seconds_of(name: str, given: Seconds, otherwise: str = "") -> float:
    """Return the seconds of a duration. otherwise: the text of another permitted value, for the error."""
    try:
        seconds = duration(given)
    except (ValueError, OverflowError) as error:
        raise OptionError(f"{name} is {error}{otherwise}") from None
    if not seconds >= 0:
        raise OptionError(f"{name} is 0 seconds or more, not {given!r:.40}")
    return seconds


def requeue_ids(messages: Sequence[int]) -> Call[int]:
    """Return the call that makes delayed or dead messages ready."""
    return Call(valid(RequeueIds(tuple(messages))), number_of)


def remove(messages: Sequence[int]) -> Call[int]:
    """Return the call that deletes messages."""
    return Call(valid(Remove(tuple(messages))), number_of)


def queues_slice(cursor: int) -> Call[tuple[int, list[str]]]:
    """Return the call for one slice of the names of all queues."""

    def decode(reply: Reply) -> tuple[int, list[str]]:
        following, *names = items_of(reply)
        return integer_of(following), list(map(_shown, names))

    return Call(valid(Queues(cursor, TAKE_MAX)), decode)


TIMES: Final = frozenset({"lease", "backoff", "backoff_max", "max_age", "dead_age"})
"""The settings that are durations. 0 means never, except for a lease."""

_SETTINGS: Final = frozenset(name for name, _ in QueueSet.spec.fields)


def reason_bytes(reason: str) -> bytes:
    """Return the bytes of a reason, without what exceeds its maximum length."""
    if not isinstance(reason, str):
        raise CodecError(f"a reason is text, not {reason!r:.40}")
    return reason.encode("utf-8", "backslashreplace")[:REASON_MAX].decode("utf-8", "ignore").encode()


def reason_of(error: BaseException) -> str:
    """Return the reason of a nack after an exception.

    >>> reason_of(ValueError("no address")), reason_of(KeyError())
    ('ValueError: no address', 'KeyError')
    """
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def name_shown(name: bytes) -> str:
    """Return the name of a queue, a group or a message as text."""
    return name.decode("utf-8", "backslashreplace")


def milliseconds_of(name: str, given: Seconds | None, least: int, most: int) -> int | None:
    """Return the milliseconds of a duration."""
    if given is None:
        return None
    try:
        milliseconds = round(duration(given) * 1000)
    except (ValueError, OverflowError) as error:
        raise OptionError(f"{name} is {error}") from None
    if not least <= milliseconds <= most:
        raise OptionError(f"{name} is a time from {least / 1000:g} to {most / 1000:,.0f} seconds, not {given!r:.40}")
    return milliseconds


def _unix_milliseconds(at: "datetime.datetime | float") -> int:
    moment: object = at
    if isinstance(moment, datetime.datetime):
        return max(0, round(moment.timestamp() * 1000))
    if isinstance(moment, int | float) and not isinstance(moment, bool) and 0 <= moment < 1e12:
        return round(moment * 1000)
    raise OptionError(f"at is a datetime, or seconds since 1970, not {at!r:.40}")


def _taken(strings: Sequence[bytes | None]) -> Taken:
    number, token, attempt, lease_ms, put_at_ms = map(integer_of, strings[:5])
    return Taken(number, token, attempt, lease_ms, put_at_ms, _bytes(strings[5]), _bytes(strings[6]))


def _state(state: str) -> bytes:
    return key_bytes(state, "a state")


def text_or_none(what: str, text: Key | None) -> bytes | None:
    return None if text is None else key_bytes(text, what)


def _ids(reply: Reply) -> range:
    first, number = map(integer_of, items_of(reply, 2))
    return range(first, first + number)


def _bools(reply: Reply) -> list[bool]:
    return [integer_of(value) == 1 for value in items_of(reply)]


def _bytes(string: bytes | None) -> bytes:
    return string or b""


def _shown(string: bytes | None) -> str:
    return name_shown(string or b"")


def _pairs(reply: Reply) -> Iterator[tuple[str, bytes | None]]:
    for name, value in _parts(items_of(reply), 2):
        yield _shown(name), value


def _setting(name: str, value: bytes | None) -> Any:
    if name == "when_full":
        return _shown(value)
    number = integer_of(value)
    return number / 1000 if name in TIMES else bool(number) if name == "paused" else number


def _parts(strings: Sequence[bytes | None], length: int) -> Iterator[Sequence[bytes | None]]:
    """Yield the strings of each message."""
    for begin in range(0, len(strings) - length + 1, length):
        yield strings[begin : begin + length]
