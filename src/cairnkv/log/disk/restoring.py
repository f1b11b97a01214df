"""What a store's directory held when it was closed or crashed, back in the keyspaces.

What always holds: all records are read, to the mark of the end, or it fails. What was over in log time is not
brought back, and its record is dropped, as are parts of values that no entry has any more.

Not for what the records look like (`records`).
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from cairnkv.keyspace import Keyspace
from cairnkv.log.disk.engine import Engine
from cairnkv.log.disk.records import (
    END_KEY,
    ENTRY,
    FORMAT_KEY,
    PART,
    STATE,
    STATE_KEY,
    Parts,
    parsed_part_key,
    parsed_value,
)

PROGRESS_RECORDS: Final = 50_000
"""Records between two words of progress."""

DROPPED_TOGETHER: Final = 10_000
"""Records that one write drops."""


class Restored(NamedTuple):
    """What the log has to know besides.

    position, time: of the newest entry. parted: the values that stand in parts. number: the first that no parts have.
    """

    position: int
    time: int
    parted: dict[tuple[int, bytes], Parts]
    number: int


class _Parted:
    """A value whose parts are yet to come."""

    def __init__(self, space: int, key: bytes, deadline: int | None, parts: Parts) -> None:
        self.space = space
        self.key = key
        self.deadline = deadline
        self.parts = parts
        self.come: list[bytes] = []


def restore(engine: Engine, keyspaces: Sequence[Keyspace], progress: Callable[[int], None]) -> Restored:
    """Put every entry into its keyspace, and log time.

    progress: told how many records were read, every now and then.
    Raises `ValueError` for records that are not as this format has them, and what the engine raises.
    """
    records = position = time = 0
    parted: dict[int, _Parted] = {}
    numbers: set[int] = set()
    dropped: list[bytes] = []
    key = b""
    for key, value in engine.items():
        kind = key[0] if key else None
        if kind == ENTRY and len(key) > 2 and key[1] < len(keyspaces):  # the state comes before these
            entry, deadline = parsed_value(value)
            if deadline is not None and deadline <= time:
                dropped.append(key)
            elif isinstance(entry, Parts):
                parted[entry.number] = _Parted(key[1], key[2:], deadline, entry)
            else:
                keyspaces[key[1]].load(key[2:], entry, deadline)
        elif kind == PART:  # all entries come before these
            number, index = parsed_part_key(key)
            numbers.add(number)
            if (owner := parted.get(number)) is None:
                dropped.append(key)
            elif index != len(owner.come):
                raise ValueError(f"part {len(owner.come)} of the value of {owner.key[:64]!r} is missing")
            else:
                owner.come.append(value)
        elif key == STATE_KEY and len(value) == STATE.size:
            position, time = STATE.unpack(value)
            keyspaces[0].advance(time)
        elif key not in (FORMAT_KEY, END_KEY):
            raise ValueError(f"a record that this format does not have: {key[:16]!r}")
        records += 1
        if records % PROGRESS_RECORDS == 0:
            progress(records)
    if key != END_KEY:
        raise ValueError(f"it cannot be read to its end, only to record {records:,}")
    for owner in parted.values():
        value = b"".join(owner.come)
        if len(value) != owner.parts.length:
            raise ValueError(f"the value of {owner.key[:64]!r} has {len(value):,} of {owner.parts.length:,} bytes")
        keyspaces[owner.space].load(owner.key, value, owner.deadline)
    _drop(engine, dropped)
    left = {(owner.space, owner.key): owner.parts for owner in parted.values()}
    return Restored(position, time, left, max(numbers, default=0) + 1)


def newest(engine: Engine) -> tuple[int, int]:
    """Position and log time of the newest entry; zeros before the first."""
    for key, value in engine.items():
        if key == STATE_KEY and len(value) == STATE.size:
            position, time = STATE.unpack(value)
            return position, time
        if key > STATE_KEY:
            break
    return 0, 0


def _drop(engine: Engine, keys: Sequence[bytes]) -> None:
    for first in range(0, len(keys), DROPPED_TOGETHER):
        batch = engine.batch()
        for key in keys[first : first + DROPPED_TOGETHER]:
            batch.delete(key)
        engine.write(batch)
