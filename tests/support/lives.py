"""Random programs from a seed: commands on few keys, so that many of them interact."""

import random
from typing import Any

from cairnkv.commands import (
    Ack,
    Clear,
    ClearAll,
    ClearMany,
    ClearPrefix,
    Command,
    Count,
    Exists,
    Expire,
    Extend,
    Get,
    GetMany,
    GetWith,
    Incr,
    Nack,
    Persist,
    Ping,
    Put,
    PutMany,
    QueueSet,
    Scan,
    Scope,
    Set,
    SetMany,
    SetWith,
    Take,
)
from cairnkv.engine import QueueDatabase
from cairnkv.limits import WAIT_MAX
from cairnkv.protocol import write_command
from cairnkv.protocol.native import CommandFlag, Width
from cairnkv.session.resp.commands.queues import name_of
from tests.support.resp import request

SOME_KEYS = [b"%d" % n for n in range(300)] + [b"k" * 300]
SOME_VALUES = [b"", b"0", b"5", b"-7", b"-0", b"007", b"x", b"9" * 18, b"9" * 19, b"-9223372036854775808", b"v" * 200]


def lively(chance: random.Random) -> Command:
    """A command of a life in which something happens."""
    key, value = chance.choice(SOME_KEYS), chance.choice(SOME_VALUES)
    several = tuple(chance.choices(SOME_KEYS, k=chance.randrange(1, 6)))
    pairs = tuple((name, value) for name in several)
    choices: list[Any] = [
        *[Get(key), Set(key, value), Clear(key)] * 4,
        Ping(value),
        Exists(several),
        GetMany(several),
        SetMany(chance.choice([0, 0, 1_000]), pairs),
        ClearMany(several),
        *[Incr(key, chance.choice([1, -1, 10**17, -(10**18), 2**63 - 1, -(2**63)]))] * 2,
        *[SetWith(key, value, ttl=chance.randrange(1, 4_000))] * 2,
        SetWith(key, value, ttl=chance.choice([None, 900]), if_absent=True),
        SetWith(key, value, ttl=chance.choice([None, 900]), if_present=True),
        SetWith(key, value, keep_ttl=True, if_equals=chance.choice([None, b"5"])),
        GetWith(key, clear=True),
        Expire(key, chance.randrange(1, 4_000)),
        Persist(key),
        Count(),
        Scan(0, 100, b""),
    ]
    if chance.random() < 0.01:
        choices = [ClearAll(), ClearPrefix(b"1", 0)]
    command: Command = chance.choice(choices)
    return command


def lively_on_queues(chance: random.Random, queues: QueueDatabase, *, waits: bool = True) -> Command:
    """Return a command on queues, mostly about messages that exist or soon will; now and then one on keys.

    waits: whether a TAKE may wait for messages.
    """
    name = chance.choice([b"q", b"q", b"q", b"r", b"s" * 255])
    body = chance.choice([b"", b"body", b"v" * 300])
    leased = [
        (number, message.lease)
        for queue in queues.index.queues.values()
        for number in queue.live
        if (message := queues.message(number)) is not None and message.lease
    ]
    newest = queues.index.counters
    guess = max(1, newest.id - 5 + chance.randrange(10)), max(1, newest.lease - 5 + chance.randrange(10))
    leases = tuple(chance.choices([*leased, guess], k=chance.choice([1, 1, 1, 2, 6])))
    lease = chance.choice([None, None, 500])
    wait = chance.choice([None, None, None, None, None, WAIT_MAX]) if waits else None
    choices: list[Command] = [
        *[Put(name, body)] * 6,
        Put(name, body, delay=chance.choice([0, 300]), priority=chance.choice([None, 0, 7])),
        Put(name, body, group=chance.choice([b"g", b"h"])),
        Put(name, body, unique=b"n", until_taken=chance.random() < 0.5, expires=chance.choice([None, 900])),
        *[PutMany(name, chance.choice([0, 0, 300]), chance.choice([0, 1_000]), (body, b"") * chance.randrange(1, 4))]
        * 2,
        *[Take(name, chance.choice([1, 1, 1, 3]), lease=lease, wait=wait)] * 6,
        *[Ack(leases)] * 6,
        Nack(*leases[0], delay=chance.choice([None, 0, 400]), uncounted=chance.random() < 0.3),
        Extend(700, leases),
        lively(chance),
    ]
    if chance.random() < 0.03:
        limits: dict[str, Any] = chance.choice([{"attempts": 2}, {"per_group": 1}, {"max_messages": 5}, {"paused": 1}])
        return QueueSet(name, **{"paused": 0, "max_messages": 0, "attempts": 20, **limits})
    return chance.choice(choices)


def has_name(command: Command) -> bool:
    """Return whether `on_redis` knows a command."""
    return command.spec.scope is Scope.QUEUES or isinstance(command, Get | Set | Ping)


def on_redis(command: Command) -> bytes:
    """Return a command on queues, or GET, SET or PING, in the Redis protocol."""
    name = name_of(command.spec) if command.spec.scope is Scope.QUEUES else command.spec.name
    return request(name.encode(), *command.arguments())


def lively_queue_frame(
    chance: random.Random,
    queues: QueueDatabase,
    width: Width = 2,
    *,
    redis: bool = False,
    waits: bool = True,
) -> bytes:
    """Return the frame of a command of `lively_on_queues`, or its request in the Redis protocol, sometimes in another
    case."""
    command = lively_on_queues(chance, queues, waits=waits)
    if not redis:
        return write_command(command, width=width)
    said = on_redis(command if has_name(command) else Set(b"k", b"v"))
    return said.swapcase() if chance.random() < 0.1 else said


def lively_frame(chance: random.Random, width: Width, *, local: bool = True) -> bytes:
    """Its frame; now and then memory is safe enough, and where it may be `local` what a read was like a moment ago."""
    flags = CommandFlag.MEMORY_IS_ENOUGH if chance.random() < 0.05 else 0
    if local and chance.random() < 0.3:
        flags |= CommandFlag.LOCAL_READ
    return write_command(lively(chance), width=width, flags=flags)


def lively_redis(chance: random.Random) -> bytes:
    """Return the bytes of a Redis command, sometimes of a few that belong together."""
    key, value = chance.choice(SOME_KEYS), chance.choice(SOME_VALUES)
    several = chance.choices(SOME_KEYS, k=chance.randrange(1, 6))
    pairs = [part for name in several for part in (name, value)]
    ttl = b"%d" % chance.choice([1, 2, 3, 900, 0, -1, 10**12, 2**53 - 1, 2**53, 10**17, 2**62])
    choices: list[list[bytes]] = [
        *[[b"GET", key], [b"SET", key, value], [b"DEL", *several]] * 4,
        *[[b"SET", key, value, chance.choice([b"EX", b"PX", b"ex", b"Px", b"EY", b"AX"]), ttl]] * 4,
        *[
            [b"SET", key, value, *chance.choices([b"NX", b"xx", b"EX", b"px", b"900", b"3", b"KEEPTTL", b"GET"], k=n)]
            for n in (1, 1, 3, 3, 4)
        ],
        [b"SET", key, value, chance.choice([b"NX", b"Xx"]), b"PX", b"900"],
        [b"SET", key, value, b"EX", b"2", chance.choice([b"nX", b"XX"])],
        *[[b"set", key, value], [b"Get", key], [b"INCR", key], [b"iNCr", key], [b"PING"], [b"ping", value]],
        *[[b"MGET", *several], [b"EXISTS", *several], *[[b"MSET", *pairs]] * 2, [b"INCRBY", key, b"7"]],
        [b"MSET", *pairs, chance.choice(SOME_KEYS)],
        *[[b"READONLY"]] * 2,
        [b"READWRITE"],
        *[
            [b"GET"],
            [b"GET", key, key],
            [b"DEL"],
            [b"SET", key],
            [b"GET", b""],
            [b"DEL", key, b""],
            [b"PING", key, key],
        ],
        *[[b"GETDEL", key], [b"PEXPIRE", key, b"700"], [b"PERSIST", key], [b"PTTL", key], [b"DBSIZE"]],
        [b"SET", key, value, b"KEEPTTL"],
        [b"SELECT", b"%d" % chance.choice([0, 0, 1])],
        [b"SCAN", b"0", b"COUNT", b"100"],
    ]
    rare: list[list[bytes]] = [
        [b"FLUSHDB"],
        [b"HELLO", b"3"],
        [b"HELLO", b"2"],
        [b"MULTI"],
        *[[b"EXEC"]] * 6,
        [b"WATCH", key],
        [b"CLIENT", b"REPLY", b"SKIP"],
        [b"SUBSCRIBE", key],
        *[[b"UNSUBSCRIBE"]] * 6,
        [b"PUBLISH", key, value],
        [b"RESET"],
    ]
    words = chance.choice(rare if chance.random() < 0.04 else choices)
    if chance.random() < 0.03:
        return b" ".join(word or b"''" for word in words) + b"\r\n"
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def flipped(said: bytes, chance: random.Random) -> bytes:
    """Bytes with one bit turned over."""
    if not said:
        return said
    at = chance.randrange(len(said))
    return said[:at] + bytes((said[at] ^ 1 << chance.randrange(8),)) + said[at + 1 :]
