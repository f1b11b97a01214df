"""Plans: steps that are drawn from a seed, and from nothing else.

An episode is a plan of some rounds: in each round some clients send commands, in whole pipelines or in pieces; some
stop reading; the server may be paused meanwhile, so that their commands arrive together.

Invariants: the plan knows no reply and no model; keys of a client begin with its number, so that clients share only
counters and channels. No two keys of an episode share a version (the server keeps versions by a hash of the key, and
may give up a transaction for another key with the same hash).
"""

import random
import zlib
from collections.abc import Iterator
from typing import Any, Final

from tests.simulation.driver import CAS_KEY, Step
from tests.simulation.model import PROTOCOLS, Command

CLIENTS_MAX: Final = 20
COMMANDS: Final = 20_000
BULK_COMMANDS: Final = 200_000
"""Commands of one episode, about."""

BIG: Final = (270_000, 400_000, 1_100_000)
"""Bytes of big values: more than the server holds for one client while it waits for a commit."""

FAR: Final = 4_000_000_000_000
"""A moment in milliseconds since 1970, long after all tests."""

_VERSIONS: Final = 1 << 16

_COMMON: Final = {
    "get": 30,
    "set": 34,
    "incrby": 8,
    "del": 5,
    "mget": 3,
    "mset": 3,
    "setnx": 2,
    "exists": 2,
    "append": 2,
}
_RARE: Final = {"getset": 2, "getdel": 2, "seteq": 2, "setat": 1, "pexpireat": 1, "persist": 1, "pexpiretime": 1}
_RARER: Final = {"rename": 1, "copy": 1, "setrange": 1, "ping": 1, "count": 3, "setpx": 0.2, "getpx": 0.4}
_RESP_ONLY: Final = {
    "echo": 1,
    "strlen": 1,
    "getrange": 1,
    "transaction": 3,
    "tcount": 1,
    "publish": 1.5,
    "quiet": 1,
    "getline": 0.5,
}
_NATIVE_ONLY: Final = {"clear": 3, "softset": 3}
_BULK: Final = {"get": 44, "set": 44, "incrby": 8, "mget": 0.5, "del": 3}


class _Client:
    """The plan's state of a client."""

    def __init__(self, number: int, episode: int, dice: random.Random, versions: set[int], kind: str) -> None:
        self.number = number
        self.dice = dice
        self.tag = b"%dc%d." % (episode, number)
        self.protocol = dice.choice(PROTOCOLS)
        self.is_resp = self.protocol.startswith("resp")
        self.database = dice.choice([0, 0, 0, 1, 2]) if self.is_resp else 0
        self.how = dice.choice(["tcp", "tcp", "unix", "pair", "pair"])
        self.written = 0
        self._versions = versions
        self.keys = [self._key(b"k", dice.choice([0, 0, 0, 0, 10, 200])) for _ in range(dice.choice([2, 6, 20]))]
        self.numbers = [self._key(b"n", 0) for _ in range(dice.choice([1, 5]))]
        self.leases = [self._key(b"x", 0) for _ in range(2)]
        self.counters = [b"shared:%d:n%d" % (self.database, number) for number in range(2)]
        sizes = dice.choice([[0, 1, 5, 10, 20, 30], [10, 40, 100], [20, 500, 3_000]])
        self.pads = [b"abcdefghij"[: dice.randrange(10)] * (size // 5) for size in sizes for _ in range(4)]
        weights = _COMMON | (_RARE if dice.random() < 0.7 else {}) | (_RARER if dice.random() < 0.7 else {})
        weights |= _RESP_ONLY if self.is_resp else _NATIVE_ONLY
        if self.database == 0:
            weights |= {"cas": 0.5} | ({"tcas": 0.5} if self.is_resp else {})
        if kind == "bulk" and dice.random() < 0.8:
            weights = _BULK
        self.operations = list(weights)
        self.weights = [sum(list(weights.values())[: at + 1]) for at in range(len(weights))]
        self.listens = False
        self.narrow = 0.1 if kind == "bulk" else 0.5  # how often its buffers are small
        self.hoards = dice.random() < (0.5 if kind == "crowded" else 0.2)
        self.has_unread = False  # whether it has left long replies unread since all clients settled
        if self.hoards:
            self.how, self.narrow = dice.choice(["pair", "pair", "unix"]), 1.0

    def _key(self, kind: bytes, length: int) -> bytes:
        while True:
            key = b"c%d:%b%d" % (self.number, kind, self.dice.randrange(10_000)) + b"-" * length
            version = (zlib.crc32(key) + self.database) % _VERSIONS
            if version not in self._versions:
                self._versions.add(version)
                return key

    def opening(self) -> Step:
        """Connect."""
        what: dict[str, Any] = {"protocol": self.protocol, "database": self.database, "how": self.how}
        if self.dice.random() < self.narrow:
            what |= {"receive": self.dice.choice([2_304, 4_608, 20_000]), "send": self.dice.choice([4_608, 20_000])}
            what |= {
                "peer_receive": self.dice.choice([2_304, 20_000]),
                "peer_send": self.dice.choice([2_304, 4_608, 20_000]),
            }
        return ["open", self.number, what]

    def value(self) -> bytes:
        """Return a new, unique value."""
        self.written += 1
        return b"%b%d.%b" % (self.tag, self.written, self.pads[self.written % len(self.pads)])

    def big_value(self) -> bytes:
        """Likewise a big one, with the owner and the number all over it."""
        self.written += 1
        tag = b"%b%d." % (self.tag, self.written)
        size = self.dice.choice(BIG)
        return (tag * (size // len(tag) + 1))[:size]

    def commands(self, count: int) -> list[Command]:
        """So many commands, about."""
        dice = self.dice
        made: list[Command] = []
        keys = dice.choices(self.keys, k=count)
        value = self.value
        operations = dice.choices(self.operations, cum_weights=self.weights, k=count)
        for operation, key in zip(operations, keys, strict=True):
            if operation == "get":
                made.append(("get", key))
            elif operation == "set":
                made.append(("set", key, value()))
            elif operation == "incrby":
                made.append(("incrby", self.numbers[len(made) % len(self.numbers)], len(made) - 10))
            else:
                made += self._rarer(operation, key)
        return made

    def _rarer(self, operation: str, key: bytes) -> list[Command]:
        dice, value = self.dice, self.value
        match operation:
            case "mget" | "exists":
                return [(operation, *self._several(), key, self.numbers[0])]
            case "del":
                return [(operation, *dict.fromkeys((key, *self._several())))]
            case "mset":
                return [(operation, *[word for one in (key, *self._several()) for word in (one, value())])]
            case "quiet":
                return [(operation, dice.choice([("set", key, value()), ("get", key), ("del", key)]))]
            case "setnx" | "append" | "getset" | "softset":
                return [(operation, key, value())]
            case "seteq":
                equals = value()
                begin: list[Command] = [("set", key, equals)] if dice.random() < 0.5 else []
                return [*begin, ("seteq", key, value(), equals)]
            case "setat":
                return [(operation, key, value(), dice.choice([1, FAR + dice.randrange(1_000)]))]
            case "pexpireat":
                return [(operation, key, dice.choice([1, FAR + dice.randrange(1_000)]))]
            case "rename":
                return [(operation, key, dice.choice(self.keys))]
            case "copy":
                target = dice.choice(self.keys)
                return [] if key == target else [(operation, key, target)]
            case "setrange":
                return [(operation, key, dice.randrange(50), value())]
            case "getrange":
                return [(operation, key, dice.randrange(10), dice.randrange(50))]
            case "ping" | "echo":
                return [(operation, value())]
            case "setpx":
                return [(operation, dice.choice(self.leases), value(), dice.choice([1, 300, 2_000, 100_000]))]
            case "getpx":
                return [(operation, dice.choice(self.leases))]
            case "count" | "tcount":
                return [(operation, dice.choice(self.counters))]
            case "cas" | "tcas":
                return [(operation, CAS_KEY)]
            case "publish":
                return [(operation, b"channel:%d" % dice.randrange(3))]
            case "transaction":
                return self._transaction(key)
        return [(operation, key)]

    def _several(self) -> list[bytes]:
        return self.dice.choices(self.keys, k=int(self.dice.random() * 4))

    def _transaction(self, key: bytes) -> list[Command]:
        """MULTI to EXEC, mostly behind WATCH; a watched key may be changed in between."""
        dice, value = self.dice, self.value
        made: list[Command] = [("set", key, value())] if dice.random() < 0.4 else []
        if dice.random() < 0.6:
            made.append(("watch", key, dice.choice(self.keys)))
            if dice.random() < 0.2:
                made.append(("set", key, value()))
            if dice.random() < 0.1:
                made.append(("unwatch",))
        made.append(("multi",))
        for _ in range(dice.randrange(5)):
            other = dice.choice(self.keys)
            made.append(
                dice.choice(
                    [
                        ("set", other, value()),
                        ("get", other),
                        ("incrby", dice.choice(self.numbers), 1),
                        ("del", other),
                        ("count", self.counters[0]),
                        ("mget", other, key),
                    ]
                )
            )
        if dice.random() < 0.05:
            made.append(("bad", b"argument"))
        made.append(("discard",) if dice.random() < 0.1 else ("exec",))
        return made

    def hoarding(self) -> list[Command]:
        """Few commands with long replies, which fill the buffers of a client that reads nothing."""
        key = self.dice.choice(self.keys)
        self.written += 1
        tag = b"%b%d." % (self.tag, self.written)
        return [("set", key, tag * 4_000), *[("get", key)] * self.dice.randrange(5, 10)]

    def big_commands(self) -> list[Command]:
        """Big values, a few of them, between small commands."""
        key = self.dice.choice(self.keys)
        made: list[Command] = [*self.commands(3), ("set", key, self.big_value())]
        made += [("get", key)] * self.dice.choice([1, 2, 3])
        if self.is_resp and self.dice.random() < 0.3:
            made += [("watch", key), ("multi",), ("get", key), ("set", key, self.value()), ("exec",)]
        made += self.commands(3)
        return made if self.dice.random() < 0.3 else [*made, ("set", key, self.value())]


def plan(seed: str, mode: str, episode: int) -> Iterator[Step]:
    """The steps of one episode.

    Every third one is crowded: clients leave replies unread and send little, and much of it arrives together. Every
    third one is bulk: long pipelines of few kinds of commands.
    """
    dice = random.Random(f"{seed} {mode} {episode}")
    kind = ("crowded", "mixed", "bulk")[episode % 3]
    versions = {(zlib.crc32(CAS_KEY)) % _VERSIONS}
    for database in range(3):
        versions |= {(zlib.crc32(b"shared:%d:n%d" % (database, number)) + database) % _VERSIONS for number in range(2)}
    clients = [_Client(number, episode, dice, versions, kind) for number in range(dice.randrange(2, CLIENTS_MAX + 1))]
    for client in clients:
        yield client.opening()
    listeners = [client for client in clients if client.is_resp and dice.random() < 0.2]
    if listeners:
        yield ["settle"]
        for client in listeners:
            client.listens = True
            yield ["listen", client.number, [b"channel:%d" % number for number in range(dice.randrange(1, 4))]]
        yield ["settle"]
    speakers = [client for client in clients if not (client.listens and client.protocol == "resp2")]
    if not speakers:
        return
    typical = dice.choice({"crowded": [2, 10, 30], "bulk": [500, 2_000]}.get(kind, [1, 5, 20, 100, 400, 1_500]))
    settles = 0.2 if kind == "crowded" else dice.choice([0.1, 0.3, 0.7])
    pauses = 0.8 if kind == "crowded" else 0.3
    left = min(BULK_COMMANDS if kind == "bulk" else COMMANDS, typical * 300)
    while left > 0:
        paused = dice.random() < pauses
        if paused:
            yield ["stop"]
        for client in dice.sample(speakers, dice.randrange(1, len(speakers) + 1)):
            count = min(left, dice.randrange(1, 2 * typical + 1)) if dice.random() < 0.9 else dice.randrange(1, 5)
            left -= count
            yield from _turn_of(client, count, dice)
        yield ["turns", dice.randrange(1, 6)]
        if paused:
            yield ["resume"]
            yield ["turns", dice.randrange(3)]
        if dice.random() < settles:
            yield ["settle"]
            for client in clients:
                client.has_unread = False
        if dice.random() < 0.1:
            yield from _ending(dice.choice(speakers), dice)
    yield ["settle"]
    if mode != "in-memory" and episode % 20 == 7:
        yield ["restart"]


def _turn_of(client: _Client, count: int, dice: random.Random) -> Iterator[Step]:
    if client.hoards:
        commands = client.commands(min(count, 10)) if client.has_unread else client.hoarding()
        client.has_unread = True
        yield ["read", client.number, 0]
        yield ["send", client.number, commands, []]
        return
    chance = dice.random()
    if chance < 0.15:
        yield ["read", client.number, 0]
    elif chance < 0.25:
        yield ["read", client.number, dice.choice([1, 7, 100, 4_000])]
    elif chance < 0.5:
        yield ["read", client.number, 1 << 18]
    commands = client.big_commands() if dice.random() < 0.03 else client.commands(count)
    pieces = (
        [dice.choice([1, 2, 5, 17, 100, 1_000]) for _ in range(dice.randrange(1, 8))] if dice.random() < 0.3 else []
    )
    yield ["send", client.number, commands, pieces]


def _ending(client: _Client, dice: random.Random) -> Iterator[Step]:
    """A client ends its connection in one way or other, and comes back."""
    if client.listens:
        return
    if dice.random() < 0.5:
        yield ["send", client.number, client.commands(dice.choice([1, 10, 200])), []]
        yield ["half-close", client.number]
        yield ["settle", client.number]
    else:
        yield ["settle", client.number]
        if dice.random() < 0.5:
            yield ["read", client.number, 0]
        if dice.random() < 0.3:
            yield ["stop"]
        only_own = [
            one for one in client.commands(dice.choice([1, 10, 200, 1_000])) if one[0] not in ("cas", "tcas", "tcount")
        ]
        pieces = dice.choice([[], [dice.randrange(1, 5_000) for _ in range(dice.randrange(1, 5))]])
        yield ["send", client.number, only_own, pieces]
        yield ["turns", dice.randrange(4)]
        yield ["reset", client.number]
    yield client.opening()
