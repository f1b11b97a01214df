"""The expectations of one client: the model of its keys, and the bytes of both protocols.

A command is a tuple of an operation's name and its arguments, the same for all protocols: `("set", key, value)`. A
`Conversation` is the state of one connection and the keys that belong to its client alone. `Conversation.expect`
applies a command and returns the exact bytes of its reply, or `Expected` parts where the reply depends on other clients
or on time.

Invariants: the module does no I/O; it shares no code with cairnkv.
"""

import functools
import re
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Self

Command = tuple[Any, ...]
"""An operation's name (text) and its arguments (bytes or int)."""

PROTOCOLS: Final = ("resp2", "resp3", "native2", "native4")

_NUMBER: Final = re.compile(rb"-?(?:0|[1-9]\d{0,17})")


class Unsuitable(Exception):
    """A script does what the models cannot follow; it shows nothing."""


class Wrong(Exception):
    """The server did what the models do not allow."""


# -- requests ---------------------------------------------------------------------------------------------------


def resp_request(*words: bytes) -> bytes:
    """A command in the Redis protocol."""
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


def _resp_get(command: Command) -> bytes:
    key = command[1]
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key)


def _resp_set(command: Command) -> bytes:
    _, key, value = command
    return b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(value), value)


def _resp_plain(command: Command) -> bytes:
    name, *arguments = command
    return resp_request(name.upper().encode(), *[b"%d" % one if type(one) is int else one for one in arguments])


_RESP_SPECIAL: Final[dict[str, Callable[[Command], bytes]]] = {
    "get": _resp_get,
    "set": _resp_set,
    "seteq": lambda c: resp_request(b"SET", c[1], c[2], b"IFEQ", c[3]),
    "setat": lambda c: resp_request(b"SET", c[1], c[2], b"PXAT", b"%d" % c[3]),
    "setpx": lambda c: resp_request(b"SET", c[1], c[2], b"PX", b"%d" % c[3]),
    "getpx": lambda c: _resp_get(c),
    "copy": lambda c: resp_request(b"COPY", c[1], c[2], b"REPLACE"),
    "count": lambda c: resp_request(b"INCR", c[1]),
    "getline": lambda c: b"get %b\r\n" % c[1],
    "bad": lambda c: resp_request(b"NONSENSE", c[1]),
}

_NATIVE_NUMBERS: Final = {
    "get": 0,
    "set": 1,
    "clear": 2,
    "ping": 3,
    "setnx": 16,
    "seteq": 16,
    "setat": 16,
    "setpx": 16,
    "getset": 17,
    "getdel": 18,
    "exists": 20,
    "mget": 21,
    "mset": 22,
    "del": 23,
    "incrby": 24,
    "count": 24,
    "persist": 27,
    "pexpireat": 33,
    "pexpiretime": 34,
    "append": 35,
    "setrange": 36,
    "rename": 39,
    "copy": 40,
    "getpx": 0,
}

_NATIVE_ARGUMENTS: Final[dict[str, Callable[[Command], tuple[Any, ...]]]] = {
    "setnx": lambda c: (c[1], c[2], b"IFABSENT"),
    "seteq": lambda c: (c[1], c[2], b"IFEQUALS", c[3]),
    "setat": lambda c: (c[1], c[2], b"AT", c[3]),
    "setpx": lambda c: (c[1], c[2], b"TTL", c[3]),
    "getdel": lambda c: (c[1], b"CLEAR"),
    "mset": lambda c: (b"0", *c[1:]),
    "count": lambda c: (c[1], b"1"),
    "pexpireat": lambda c: (c[1], c[2], b"AT"),
    "copy": lambda c: (c[1], c[2], b"REPLACE"),
}

_LENGTH: Final = struct.Struct(">I")


def _native_requests(width: int) -> dict[str, Callable[[Command], bytes]]:
    """How to write each operation in the native protocol with this width of the command number."""
    prefixes = {name: b"\0" + number.to_bytes(width, "big") for name, number in _NATIVE_NUMBERS.items()}
    pack = _LENGTH.pack
    get_prefix, set_prefix = prefixes["get"], prefixes["set"]

    def get(command: Command) -> bytes:
        key: bytes = command[1]
        return get_prefix + pack(len(key)) + key

    def set_(command: Command) -> bytes:
        _, key, value = command
        return b"%b%b%b%b%b" % (set_prefix, pack(len(key)), key, pack(len(value)), value)

    def any_other(command: Command) -> bytes:
        name = command[0]
        arguments = _NATIVE_ARGUMENTS[name](command) if name in _NATIVE_ARGUMENTS else command[1:]
        strings = [b"%d" % one if type(one) is int else one for one in arguments]
        parts = [prefixes[name]]
        if _NATIVE_NUMBERS[name] >= 16:
            parts.append(pack(len(strings)))
        for string in strings:
            parts += (pack(len(string)), string)
        return b"".join(parts)

    def soft_set(command: Command) -> bytes:
        return b"\x02" + set_(command)[1:]

    return dict.fromkeys(_NATIVE_NUMBERS, any_other) | {"get": get, "set": set_, "softset": soft_set}


class _RespRequests(dict[str, Callable[[Command], bytes]]):
    """How to write each operation in the Redis protocol."""

    def __missing__(self, name: str) -> Callable[[Command], bytes]:
        return _resp_plain


_RESP_REQUESTS: Final = _RespRequests(_RESP_SPECIAL)


# -- replies ----------------------------------------------------------------------------------------------------


def resp_end(data: bytes | bytearray, at: int = 0) -> int:
    """Where the Redis value that begins at `at` ends; -1 when it is not whole."""
    missing = 1
    while missing:
        missing -= 1
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return -1
        kind, text = data[at : at + 1], bytes(data[at + 1 : line_end])
        at = line_end + 2
        if kind in b"$=":
            if text != b"-1":
                at += int(text) + 2
                if at > len(data):
                    return -1
        elif kind in b"*~>":
            missing += max(int(text), 0)
        elif kind == b"%":
            missing += 2 * int(text)
        elif kind not in b"+-:,#(_":
            raise Wrong(f"no Redis value begins with {bytes(kind)!r}: {bytes(data[:100])!r}")
    return at


def native_end(data: bytes | bytearray, at: int = 0) -> int:
    """Where the native response that begins at `at` ends; -1 when it is not whole."""
    if len(data) < at + 6:
        return -1
    end: int = at + 6 + _LENGTH.unpack_from(data, at + 2)[0]
    return end if len(data) >= end else -1


class Protocol:
    """How one protocol writes requests and replies."""

    name: str
    requests: dict[str, Callable[[Command], bytes]]
    end: Callable[[bytes | bytearray, int], int]
    ok: bytes
    missing: bytes
    given_up: bytes = b""

    def number(self, number: int) -> bytes:
        """A number."""
        raise NotImplementedError

    def string(self, value: bytes) -> bytes:
        """A value."""
        raise NotImplementedError

    def values(self, values: list[bytes | None]) -> bytes:
        """Several values."""
        raise NotImplementedError


class Resp(Protocol):
    """RESP2 or RESP3."""

    ok = b"+OK\r\n"

    def __init__(self, version: int) -> None:
        self.name = f"resp{version}"
        self.requests = _RESP_REQUESTS
        self.end = resp_end
        self.missing = b"$-1\r\n" if version == 2 else b"_\r\n"
        self.given_up = b"*-1\r\n" if version == 2 else b"_\r\n"

    def number(self, number: int) -> bytes:
        return b":%d\r\n" % number

    def string(self, value: bytes) -> bytes:
        return b"$%d\r\n%b\r\n" % (len(value), value)

    def values(self, values: list[bytes | None]) -> bytes:
        return b"*%d\r\n" % len(values) + b"".join(
            [self.missing if value is None else b"$%d\r\n%b\r\n" % (len(value), value) for value in values]
        )


class Native(Protocol):
    """The native protocol, with two or four bytes in a command number."""

    ok = b"\x000\0\0\0\x02OK"
    missing = b"\x011\0\0\0\x0dKey not found"

    def __init__(self, width: int) -> None:
        self.name = f"native{width}"
        self.requests = _native_requests(width)
        self.end = native_end

    def number(self, number: int) -> bytes:
        return self.string(b"%d" % number)

    def string(self, value: bytes) -> bytes:
        return b"\x000" + _LENGTH.pack(len(value)) + value

    def values(self, values: list[bytes | None]) -> bytes:
        return self.string(
            b"".join([b"\xff\xff\xff\xff" if value is None else _LENGTH.pack(len(value)) + value for value in values])
        )


@functools.cache
def protocol_named(name: str) -> Resp | Native:
    """The protocol of this name, of `PROTOCOLS`."""
    return Resp(int(name[-1])) if name.startswith("resp") else Native(int(name[-1]))


# -- replies that depend on other clients or on time ------------------------------------------------------------------


class Expected:
    """One reply that is not known beforehand."""

    def check(self, raw: bytes) -> None:
        """Raise `Wrong` if this reply is not possible."""
        raise NotImplementedError

    def unread(self) -> None:
        """Note that the connection ended before this reply came: the command was executed, or not."""


class Counter:
    """A counter that several clients increment: each successful increment by one returns a number of its own."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.given: set[int] = set()
        self.successes = 0
        self.uncertain = 0

    def check_total(self, raw: bytes | None) -> None:
        """Compare the final value with the successful increments."""
        total = int(raw or b"0")
        if not self.successes <= total <= self.successes + self.uncertain:
            raise Wrong(
                f"{self.key!r} is {total} at the end; {self.successes} increments succeeded, "
                f"and the outcome of {self.uncertain} is unknown"
            )


class Counted(Expected):
    """The reply to an increment: a number that no other increment returned, larger than this client's last one."""

    def __init__(self, counter: Counter, conversation: "Conversation") -> None:
        self._counter = counter
        self._conversation = conversation

    def check(self, raw: bytes) -> None:
        protocol = self._conversation.protocol
        match = re.fullmatch(rb":(\d+)\r\n" if isinstance(protocol, Resp) else rb"\x000\0\0\0.(\d+)", raw, re.DOTALL)
        if match is None:
            raise Wrong(f"an increment of {self._counter.key!r} was answered {raw[:100]!r}")
        self._note(int(match[1]))

    def _note(self, number: int) -> None:
        counter, seen = self._counter, self._conversation.seen
        if number in counter.given:
            raise Wrong(f"two increments of {counter.key!r} returned {number}")
        if number <= seen.get(counter.key, 0):
            raise Wrong(f"an increment of {counter.key!r} returned {number} after {seen[counter.key]}")
        counter.given.add(number)
        counter.successes += 1
        seen[counter.key] = number

    def unread(self) -> None:
        self._counter.uncertain += 1


class CountedOrGivenUp(Counted):
    """The reply to EXEC of WATCH, MULTI, INCR: the number, or null because another client changed the counter."""

    def check(self, raw: bytes) -> None:
        protocol = self._conversation.protocol
        if raw == protocol.given_up:
            return
        if not raw.startswith(b"*1\r\n"):
            raise Wrong(f"EXEC of one INCR was answered {raw[:100]!r}")
        super().check(raw[4:])


class Swapped(Expected):
    """The reply to a compare-and-set increment: success or not."""

    def __init__(self, counter: Counter, done: bytes, refused: bytes) -> None:
        self._counter = counter
        self._done = done
        self._refused = refused

    def check(self, raw: bytes) -> None:
        if raw == self._done:
            self._counter.successes += 1
        elif raw != self._refused:
            raise Wrong(f"a compare-and-set of {self._counter.key!r} was answered {raw[:100]!r}")

    def unread(self) -> None:
        self._counter.uncertain += 1


class Read(Expected):
    """The value of a shared counter: a number that never goes back for one client."""

    def __init__(self, counter: Counter, conversation: "Conversation") -> None:
        self._counter = counter
        self._conversation = conversation

    def check(self, raw: bytes) -> None:
        key, seen = self._counter.key, self._conversation.seen
        if raw == self._conversation.protocol.missing:
            number = 0
        elif isinstance(self._conversation.protocol, Resp):
            number = int(raw.split(b"\r\n")[1])
        else:
            number = int(raw[6:])
        if number < seen.get(key, 0):
            raise Wrong(f"{key!r} was read as {number} after {seen[key]}")
        seen[key] = number


class Lease:
    """A key with a short TTL: when its SET was sent and answered, in milliseconds."""

    def __init__(self, value: bytes, ttl: int) -> None:
        self.value = value
        self.ttl = ttl
        self.sent = time.time() * 1000
        self.answered = 0.0


class Leased(Expected):
    """The reply to a SET with a short TTL."""

    def __init__(self, lease: Lease, reply: bytes) -> None:
        self._lease = lease
        self._reply = reply

    def check(self, raw: bytes) -> None:
        self._lease.answered = time.time() * 1000
        if raw != self._reply:
            raise Wrong(f"SET with a TTL was answered {raw[:100]!r}")


class LeaseRead(Expected):
    """The reply to a GET of such a key. Where the time does not decide, both replies are right."""

    TOLERANCE: Final = 1_500
    """Milliseconds: the server reads its clock when it wakes up, and after a crash keys may expire a second early."""

    def __init__(self, lease: Lease, protocol: Protocol) -> None:
        self._lease = lease
        self._protocol = protocol
        self._sent = time.time() * 1000

    def check(self, raw: bytes) -> None:
        lease, now = self._lease, time.time() * 1000
        if raw == self._protocol.missing:
            if now < lease.sent + lease.ttl - self.TOLERANCE:
                raise Wrong(f"{lease.value[:40]!r} expired {lease.sent + lease.ttl - now:.0f} ms early")
        elif raw != self._protocol.string(lease.value):
            raise Wrong(f"a key with {lease.value[:40]!r} was read as {raw[:100]!r}")
        elif self._sent > lease.answered + lease.ttl + self.TOLERANCE:
            raise Wrong(f"{lease.value[:40]!r} is there {self._sent - lease.answered - lease.ttl:.0f} ms too long")


class Soft(Expected):
    """The reply to a write for which memory is enough: it may say that the write is in memory only."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply

    def check(self, raw: bytes) -> None:
        if raw[1:] != self._reply[1:] or raw[0] not in (0, 8):
            raise Wrong(f"a write for which memory is enough was answered {raw[:100]!r}")


class Received(Expected):
    """The reply to PUBLISH: how many clients received the message."""

    def __init__(self, channel: bytes, shared: "Shared") -> None:
        self._channel = channel
        self._shared = shared
        self._least = len(shared.sure_listeners.get(channel, ()))

    def check(self, raw: bytes) -> None:
        least = 0 if self._shared.listener_left else self._least
        most = len(self._shared.listeners.get(self._channel, ()))
        match = re.fullmatch(rb":(\d+)\r\n", raw)
        if match is None or not least <= int(match[1]) <= most:
            raise Wrong(f"PUBLISH to {self._channel!r} was answered {raw[:100]!r}, not {least} to {most}")


class Anything(Expected):
    """A reply whose content is not compared, such as that of HELLO."""

    def check(self, raw: bytes) -> None:
        if raw.startswith(b"-"):
            raise Wrong(f"the server answered {raw[:100]!r}")


Parts = bytes | tuple[bytes | Expected, ...]
"""A reply: its exact bytes, or parts of which some are not known."""


# -- the conversation -------------------------------------------------------------------------------------------------


class Shared:
    """The shared state of the clients of one episode: counters, and the messages of the channels."""

    def __init__(self) -> None:
        self.counters: dict[bytes, Counter] = {}
        self.published: dict[tuple[bytes, int], list[int]] = {}
        """By channel and publisher: the numbers of its messages, in order."""
        self.listeners: dict[bytes, set[int]] = {}
        """By channel: clients that may listen."""
        self.sure_listeners: dict[bytes, set[int]] = {}
        """By channel: clients whose subscription is confirmed and not ended."""

        self.unsure_publishers: set[int] = set()
        """Clients that were reset, and may have published less than they sent."""
        self.listener_left = False
        """Whether a client that listened has gone, perhaps before a message reached it."""

    def counter(self, key: bytes) -> Counter:
        """The counter of this key."""
        return self.counters.setdefault(key, Counter(key))


class Conversation:
    """One connection's state and its client's own keys.

    owner: the client's number. data: value by key. expires: far expiry by key, in milliseconds since 1970.
    """

    def __init__(self, owner: int, protocol: Protocol, shared: Shared) -> None:
        self.owner = owner
        self.shared = shared
        self.data: dict[bytes, bytes] = {}
        self.expires: dict[bytes, int] = {}
        self.leases: dict[bytes, Lease] = {}
        self.seen: dict[bytes, int] = {}
        self.messages = 0
        self.connect(protocol)

    def connect(self, protocol: Protocol) -> None:
        """Begin a connection with an empty state."""
        self.protocol = protocol
        self.queue: list[Command] | None = None
        self.spoilt = False
        self.watched: set[bytes] = set()
        self.touched = False

    def copy(self) -> Self:
        """Another conversation with the same state, to find out what an interrupted one may have come to."""
        other = type(self)(self.owner, self.protocol, Shared())
        other.data, other.expires, other.leases = dict(self.data), dict(self.expires), dict(self.leases)
        other.queue = None if self.queue is None else list(self.queue)
        other.spoilt, other.watched, other.touched = self.spoilt, set(self.watched), self.touched
        other.seen, other.messages = dict(self.seen), self.messages
        return other

    def several(self, command: Command) -> Iterator[tuple[bytes, Parts]]:
        """The requests that a command of `SEVERAL` consists of, each with its reply.

        An empty request says that the caller has to await all replies before it goes on.
        """
        name = command[0]
        if self.queue is not None:
            raise Unsuitable(f"{name} inside MULTI")
        return _COMPOSITE[name](self, command)

    def expect(self, command: Command) -> Parts:
        """Apply a command: its reply."""
        if self.queue is None:
            return OPERATIONS[command[0]](self, command)
        name = command[0]
        if name == "exec":
            return self._do_exec(command)
        if name == "discard":
            return self._do_discard(command)
        if name in ("multi", "watch", "unwatch", "setpx", "getpx"):
            raise Unsuitable(f"{name} inside MULTI")
        if name == "bad":
            self.spoilt = True
            return self._do_bad(command)
        self.queue.append(command)
        return b"+QUEUED\r\n"

    def _touch(self, key: bytes) -> None:
        if key in self.watched:
            self.touched = True

    # -- one key ------------------------------------------------------------------------------------------------

    def _do_get(self, command: Command) -> Parts:
        value = self.data.get(command[1])
        return self.protocol.missing if value is None else self.protocol.string(value)

    def _do_set(self, command: Command) -> bytes:
        key = command[1]
        self.data[key] = command[2]
        if self.expires:
            self.expires.pop(key, None)
        if self.watched:
            self._touch(key)
        return self.protocol.ok

    def _do_softset(self, command: Command) -> Parts:
        return (Soft(self._do_set(command)),)

    def _do_getline(self, command: Command) -> Parts:
        """GET as a line of text."""
        self._only_resp()
        return self._do_get(command)

    def _do_clear(self, command: Command) -> Parts:
        self._delete(command[1])
        return self.protocol.ok

    def _delete(self, key: bytes) -> bool:
        if self.data.pop(key, None) is None:
            return False
        self.expires.pop(key, None)
        self._touch(key)
        return True

    def _only_resp(self) -> None:
        if not isinstance(self.protocol, Resp):
            raise Unsuitable("a command that the native protocol does not have")

    def _do_ping(self, command: Command) -> Parts:
        return self.protocol.string(command[1])

    def _do_echo(self, command: Command) -> Parts:
        self._only_resp()
        return self.protocol.string(command[1])

    def _do_incrby(self, command: Command) -> Parts:
        _, key, amount = command
        before = self.data.get(key, b"0")
        if not _NUMBER.fullmatch(before):
            if not isinstance(self.protocol, Resp):
                raise Unsuitable("INCR of text")
            return b"-ERR value is not an integer or out of range\r\n"
        after = int(before) + amount
        self.data[key] = b"%d" % after
        if self.watched:
            self._touch(key)
        return self.protocol.number(after)

    def _do_append(self, command: Command) -> Parts:
        _, key, value = command
        whole = self.data[key] = self.data.get(key, b"") + value
        self._touch(key)
        return self.protocol.number(len(whole))

    def _do_setrange(self, command: Command) -> Parts:
        _, key, offset, value = command
        before = self.data.get(key, b"").ljust(offset, b"\0")
        whole = self.data[key] = before[:offset] + value + before[offset + len(value) :]
        self._touch(key)
        return self.protocol.number(len(whole))

    def _do_strlen(self, command: Command) -> Parts:
        self._only_resp()
        return self.protocol.number(len(self.data.get(command[1], b"")))

    def _do_getrange(self, command: Command) -> Parts:
        """Both places count from the beginning."""
        self._only_resp()
        _, key, first, last = command
        return self.protocol.string(self.data.get(key, b"")[first : last + 1])

    def _do_getset(self, command: Command) -> Parts:
        reply = self._do_get(command)
        self._do_set(command)
        return reply

    def _do_getdel(self, command: Command) -> Parts:
        reply = self._do_get(command)
        self._delete(command[1])
        return reply

    def _do_setnx(self, command: Command) -> Parts:
        if command[1] in self.data:
            return self.protocol.number(0)
        self._do_set(command)
        return self.protocol.number(1)

    def _do_seteq(self, command: Command) -> Parts:
        holds = self.data.get(command[1]) == command[3]
        if holds:
            self._do_set(command[:3])
        if isinstance(self.protocol, Resp):
            return self.protocol.ok if holds else self.protocol.missing
        return self.protocol.number(int(holds))

    # -- expiry, long ago or in centuries ---------------------------------------------------------------------------

    def _stored(self) -> Parts:
        return self.protocol.ok if isinstance(self.protocol, Resp) else self.protocol.number(1)

    def _do_setat(self, command: Command) -> Parts:
        _, key, value, at = command
        self._do_set((None, key, value))
        if at < 10**12:
            self._delete(key)
        else:
            self.expires[key] = at
        return self._stored()

    def _do_pexpireat(self, command: Command) -> Parts:
        _, key, at = command
        if key not in self.data:
            return self.protocol.number(0)
        if at < 10**12:
            self._delete(key)
        else:
            self.expires[key] = at
            self._touch(key)
        return self.protocol.number(1)

    def _do_persist(self, command: Command) -> Parts:
        if self.expires.pop(command[1], None) is None:
            return self.protocol.number(0)
        self._touch(command[1])
        return self.protocol.number(1)

    def _do_pexpiretime(self, command: Command) -> Parts:
        key = command[1]
        if key not in self.data:
            return self.protocol.number(-2) if isinstance(self.protocol, Resp) else self.protocol.missing
        return self.protocol.number(self.expires.get(key, -1))

    # -- short TTLs: keys that no other operation uses ----------------------------------------------------------------

    def _do_setpx(self, command: Command) -> Parts:
        _, key, value, ttl = command
        lease = self.leases[key] = Lease(value, ttl)
        stored = self._stored()
        assert isinstance(stored, bytes)
        return (Leased(lease, stored),)

    def _do_getpx(self, command: Command) -> Parts:
        lease = self.leases.get(command[1])
        return self.protocol.missing if lease is None else (LeaseRead(lease, self.protocol),)

    # -- several keys -------------------------------------------------------------------------------------------------

    def _do_mget(self, command: Command) -> Parts:
        return self.protocol.values([self.data.get(key) for key in command[1:]])

    def _do_mset(self, command: Command) -> Parts:
        for at in range(1, len(command), 2):
            self._do_set((None, command[at], command[at + 1]))
        return self.protocol.ok

    def _do_del(self, command: Command) -> Parts:
        return self.protocol.number(sum([self._delete(key) for key in command[1:]]))

    def _do_exists(self, command: Command) -> Parts:
        return self.protocol.number(sum([key in self.data for key in command[1:]]))

    def _do_rename(self, command: Command) -> Parts:
        _, source, target = command
        if source not in self.data:
            return b"-ERR no such key\r\n" if isinstance(self.protocol, Resp) else self.protocol.missing
        if source != target:
            self._move(source, target)
            self.data.pop(source)
            self.expires.pop(source, None)
            self._touch(source)
        return self.protocol.ok if isinstance(self.protocol, Resp) else self.protocol.number(1)

    def _do_copy(self, command: Command) -> Parts:
        _, source, target = command
        if source == target:
            raise Unsuitable("COPY to itself")
        if source not in self.data:
            return self.protocol.number(0)
        self._move(source, target)
        return self.protocol.number(1)

    def _move(self, source: bytes, target: bytes) -> None:
        self.data[target] = self.data[source]
        self.expires.pop(target, None)
        if source in self.expires:
            self.expires[target] = self.expires[source]
        self._touch(target)

    # -- transactions -------------------------------------------------------------------------------------------------

    def _do_bad(self, command: Command) -> Parts:
        self._only_resp()
        return b"-ERR unknown command 'NONSENSE', with args beginning with: '%b' \r\n" % command[1]

    def _do_watch(self, command: Command) -> Parts:
        self._only_resp()
        self.watched.update(command[1:])
        return self.protocol.ok

    def _do_unwatch(self, command: Command) -> Parts:
        self._only_resp()
        self._end_transaction()
        return self.protocol.ok

    def _do_multi(self, command: Command) -> Parts:
        self._only_resp()
        self.queue = []
        self.spoilt = False
        return self.protocol.ok

    def _do_discard(self, command: Command) -> Parts:
        if self.queue is None:
            return b"-ERR DISCARD without MULTI\r\n"
        self._end_transaction()
        return self.protocol.ok

    def _end_transaction(self) -> None:
        self.queue = None
        self.watched = set()
        self.touched = False

    def _do_exec(self, command: Command) -> Parts:
        if self.queue is None:
            return b"-ERR EXEC without MULTI\r\n"
        queue, touched, spoilt = self.queue, self.touched, self.spoilt
        self._end_transaction()
        if spoilt:
            return b"-EXECABORT Transaction discarded because of previous errors.\r\n"
        if touched:
            assert isinstance(self.protocol, Resp)
            return self.protocol.given_up
        parts: list[bytes | Expected] = [b"*%d\r\n" % len(queue)]
        for one in queue:
            reply = self.expect(one)
            parts += [reply] if isinstance(reply, bytes) else reply
        if all(isinstance(part, bytes) for part in parts):
            return b"".join(parts)  # type: ignore[arg-type]
        return tuple(parts)

    def _say_quiet(self, command: Command) -> Iterator[tuple[bytes, Parts]]:
        """A command to which the client wants no reply, and one whose reply shows that it was executed."""
        self._only_resp()
        inner = tuple(command[1])
        self.expect(inner)
        yield resp_request(b"CLIENT", b"REPLY", b"SKIP"), b""
        yield self.protocol.requests[inner[0]](inner), b""
        yield resp_request(b"PING", inner[1]), self.protocol.string(inner[1])

    # -- what clients share -------------------------------------------------------------------------------------------

    def _do_count(self, command: Command) -> Parts:
        return (Counted(self.shared.counter(command[1]), self),)

    def _say_tcount(self, command: Command) -> Iterator[tuple[bytes, Parts]]:
        """WATCH, MULTI, INCR, EXEC of a shared counter, in one pipeline."""
        self._only_resp()
        self._end_transaction()
        key = command[1]
        yield resp_request(b"UNWATCH"), self.protocol.ok
        yield resp_request(b"WATCH", key), self.protocol.ok
        yield resp_request(b"MULTI"), self.protocol.ok
        yield resp_request(b"INCR", key), b"+QUEUED\r\n"
        yield resp_request(b"EXEC"), (CountedOrGivenUp(self.shared.counter(key), self),)

    def _say_cas(self, command: Command) -> Iterator[tuple[bytes, Parts]]:
        """Set a shared counter to one more than this client saw last, if it still has that value; then read it."""
        key = command[1]
        counter = self.shared.counter(key)
        seen = self.seen.get(key, 0)
        request = self.protocol.requests["seteq"](("seteq", key, b"%d" % (seen + 1), b"%d" % seen))
        if isinstance(self.protocol, Resp):
            swapped = Swapped(counter, self.protocol.ok, self.protocol.missing)
        else:
            swapped = Swapped(counter, self.protocol.number(1), self.protocol.number(0))
        yield request, (swapped,)
        yield self.protocol.requests["get"](("get", key)), (Read(counter, self),)

    def _say_tcas(self, command: Command) -> Iterator[tuple[bytes, Parts]]:
        """WATCH and GET a shared counter, await the value, then MULTI, SET to one more, EXEC."""
        self._only_resp()
        self._end_transaction()
        key = command[1]
        counter = self.shared.counter(key)
        yield resp_request(b"UNWATCH"), self.protocol.ok
        yield resp_request(b"WATCH", key), self.protocol.ok
        yield resp_request(b"GET", key), (Read(counter, self),)
        yield b"", ()  # the caller goes on once the reply is there
        yield resp_request(b"MULTI"), self.protocol.ok
        yield resp_request(b"SET", key, b"%d" % (self.seen.get(key, 0) + 1)), b"+QUEUED\r\n"
        assert isinstance(self.protocol, Resp)
        yield resp_request(b"EXEC"), (Swapped(counter, b"*1\r\n+OK\r\n", self.protocol.given_up),)

    def _say_publish(self, command: Command) -> Iterator[tuple[bytes, Parts]]:
        """Publish a message that has the publisher and a number in it."""
        self._only_resp()
        channel = command[1]
        self.messages += 1
        self.shared.published.setdefault((channel, self.owner), []).append(self.messages)
        message = b"c%d.%d." % (self.owner, self.messages)
        yield resp_request(b"PUBLISH", channel, message), (Received(channel, self.shared),)


OPERATIONS: Final[dict[str, Callable[[Conversation, Command], Parts]]] = {
    name.removeprefix("_do_"): method for name, method in vars(Conversation).items() if name.startswith("_do_")
}
_COMPOSITE: Final[dict[str, Callable[[Conversation, Command], Iterator[tuple[bytes, Parts]]]]] = {
    name.removeprefix("_say_"): method for name, method in vars(Conversation).items() if name.startswith("_say_")
}
SEVERAL: Final = frozenset(_COMPOSITE)
"""Operations that consist of several requests."""
