"""By how much a command could make the entries grow: what the store asks before it lets one near the log.

Not for what happens then (the store).
"""

from cairnkv.commands import (
    Append,
    Command,
    Copy,
    Expire,
    ExpireWith,
    GetWith,
    Incr,
    IncrFloat,
    Rename,
    SetBit,
    SetRange,
    Step,
)
from cairnkv.keyspace import Keyspace
from cairnkv.keyspace.extended import DECIMALS
from cairnkv.keyspace.table import DEADLINE_BYTES, ENTRY_BYTES


def growth(keyspace: Keyspace, command: Command) -> int:
    """By how many bytes a command could make the entries grow, by the table's estimate, at most."""
    if not command.word.grows:
        return 0
    match command:
        case Expire(key) | GetWith(key) | ExpireWith(key):
            entry = keyspace.entry(key)
            gives = not isinstance(command, GetWith) or command.ttl is not None or command.at is not None
            return DEADLINE_BYTES if gives and entry is not None and entry[1] is None else 0
        case Append() | SetRange() | SetBit():
            entry = keyspace.entry(command.key)
            new = 0 if entry is not None else ENTRY_BYTES + len(command.key)
            return new + length_after(keyspace, command) - len(entry[0] if entry else b"")
        case Copy(source, target) | Rename(source, target):
            entry = keyspace.entry(source)
            if entry is None:
                return 0
            more = len(target) - len(source)
            return more if isinstance(command, Rename) else ENTRY_BYTES + DEADLINE_BYTES + len(target) + len(entry[0])
        case Incr(key) | IncrFloat(key):
            entry = keyspace.entry(key)
            given = max(map(len, command.arguments()[1:]))
            # A sum has a digit more than the longer number, at most, and a fraction that may come with it.
            longest = (
                1
                + max(given, len(entry[0]) if entry else 0)
                + (DECIMALS + 1 + _exponent(command.amount) if isinstance(command, IncrFloat) else 0)
            )
            return longest - len(entry[0]) if entry else ENTRY_BYTES + len(key) + longest
    return _growth_of_sets(keyspace, command)


def _exponent(text: bytes) -> int:
    """How many digits a number in decimal text may have more than it shows."""
    digits = text.lower().partition(b"e")[2].lstrip(b"+")
    return int(digits) if digits.isdigit() and len(digits) < 6 else 0


def _growth_of_sets(keyspace: Keyspace, command: Command) -> int:
    keys = set(command.named_keys())
    gives = bool(getattr(command, "ttl", None) or getattr(command, "at", None))
    keeps = bool(getattr(command, "keep_ttl", False))
    more = sum(map(len, command.arguments())) + (ENTRY_BYTES + DEADLINE_BYTES * gives) * len(keys)
    for key in keys:
        entry = keyspace.entry(key)
        if entry is not None:
            more -= ENTRY_BYTES + len(key) + len(entry[0])
            if entry[1] is not None and not keeps:
                more -= DEADLINE_BYTES
    return more


def length_after(keyspace: Keyspace, command: Command) -> int:
    """How long the value will be of a command that changes a part of it; 0 of any other."""
    match command:
        case Append(key, more):
            return len(keyspace.get(key) or b"") + len(more)
        case SetRange(key, offset, over):
            return max(len(keyspace.get(key) or b""), offset + len(over)) if over else 0
        case SetBit(key, offset):
            return max(len(keyspace.get(key) or b""), offset // 8 + 1)
    return 0


def places_of(step: Step) -> tuple[tuple[int, bytes], ...]:
    """The keys that a step names, each with its keyspace."""
    return step.command.places(step.space)
