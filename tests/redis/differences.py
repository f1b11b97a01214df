"""When two replies count as equal.

`LOOSELY` is about chance, time and order, and holds between two redis-servers too; all other replies have to be equal
byte for byte. What cairnkv is known to say or do otherwise than Redis stands in `docs/redis_differences.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.support.raw_resp import Value, Words, value_of

SECONDS_APART = 2
"""How much later the same command may reach the second server, in seconds; also what rounding may add."""

MS_APART = 1000 * SECONDS_APART

Same = Callable[[Words, Value, Value], bool]


@dataclass(frozen=True)
class Loosely:
    """Replies to these words are equal when `same` says so. why: what no two servers have in common."""

    words: frozenset[bytes]
    why: str
    same: Same


def _within(apart: int) -> Same:
    """Equal numbers, or two that are not far apart. -1 and -2 mean something, and are near nothing else."""

    def same(_: Words, theirs: Value, ours: Value) -> bool:
        (kind, left), (other, right) = theirs, ours
        numbers = kind == other == b":" and isinstance(left, int) and isinstance(right, int)
        return numbers and left > 0 and right > 0 and abs(left - right) <= apart

    return same


def _any_order(_: Words, theirs: Value, ours: Value) -> bool:
    return theirs[0] == ours[0] and theirs[0] in b"*~" and theirs[1] and ours[1] and _sorted(theirs) == _sorted(ours)


def _sorted(value: Value) -> list[Value]:
    return sorted(value[1], key=repr)


def _same_shape(_: Words, theirs: Value, ours: Value) -> bool:
    return theirs[0] == ours[0] and theirs[0] != b"-" and (theirs[1] is None) == (ours[1] is None)


def _encodings(_: Words, theirs: Value, ours: Value) -> bool:
    """Both are names of encodings; that ours follow from the value is a known difference."""
    return all(kind == b"$" and text in (b"int", b"embstr", b"raw") for kind, text in (theirs, ours))


LOOSELY = (
    Loosely(frozenset({b"TTL", b"EXPIRETIME"}), "seconds go by", _within(SECONDS_APART)),
    Loosely(frozenset({b"PTTL", b"PEXPIRETIME"}), "milliseconds go by", _within(MS_APART)),
    Loosely(frozenset({b"KEYS", b"PUBSUB"}), "a table has an order of its own", _any_order),
    Loosely(
        frozenset({b"RANDOMKEY", b"TIME", b"HELLO"}),
        "chance, the clock, and what a server is called; membership is looked at apart",
        _same_shape,
    ),
    Loosely(
        frozenset({b"SCAN"}),
        "cursors and slices are a server's own; outside a transaction the whole iteration is compared as a set",
        _same_shape,
    ),
    Loosely(frozenset({b"OBJECT"}), "how a value is kept is a server's own", _encodings),
)


def in_some_order(words: Words, replies: Sequence[bytes]) -> list[bytes]:
    """Several replies to one command, those put in order that a server gives in an order of its own.

    A message goes to patterns, and an UNSUBSCRIBE from everything goes over channels, as they lie in a table; the
    counts that the latter tells go down in any case.
    """
    word = words[0].upper()
    if word == b"PUBLISH":
        return sorted(replies)
    if word in (b"UNSUBSCRIBE", b"PUNSUBSCRIBE") and len(words) == 1 and all(reply[:1] in b"*>" for reply in replies):
        ends = [reply.rindex(b":") for reply in replies]
        names = sorted(reply[:end] for reply, end in zip(replies, ends, strict=True))
        counts = [reply[end:] for reply, end in zip(replies, ends, strict=True)]
        return [name + count for name, count in zip(names, counts, strict=True)]
    return list(replies)


def equal(words: Words, theirs: bytes, ours: bytes) -> bool:
    """Whether two raw replies to a command count as equal."""
    return theirs == ours or equal_values(words, value_of(theirs), value_of(ours))


def equal_values(words: Words, theirs: Value, ours: Value) -> bool:
    """The same for what they say, as for a reply within the reply to EXEC."""
    if theirs == ours:
        return True
    word = words[0].upper()
    return any(word in loosely.words and loosely.same(words, theirs, ours) for loosely in LOOSELY)
