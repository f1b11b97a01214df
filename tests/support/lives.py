"""Lives of a store, drawn by chance from a seed: what clients say to few keys, so that something happens to them."""

import random
from typing import Any

from cairnkv.commands import (
    Clear,
    ClearAll,
    ClearMany,
    ClearPrefix,
    Command,
    Count,
    Exists,
    Expire,
    Get,
    GetMany,
    GetWith,
    Incr,
    Persist,
    Ping,
    Scan,
    Set,
    SetMany,
    SetWith,
)

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
        SetWith(key, value, ttl=chance.randrange(1, 4_000)),
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


def flipped(said: bytes, chance: random.Random) -> bytes:
    """Bytes with one bit turned over."""
    if not said:
        return said
    at = chance.randrange(len(said))
    return said[:at] + bytes((said[at] ^ 1 << chance.randrange(8),)) + said[at + 1 :]
