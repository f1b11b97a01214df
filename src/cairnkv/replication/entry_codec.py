"""Commands as items of the replicated log, and back: frames of the article with two-byte command numbers.

What always holds: what is read back of an item is what was put in, on every node. Not for what commands do.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from cairnkv.commands import Step
from cairnkv.limits import STRING_MAX
from cairnkv.protocol.native import BatchExecutor, CommandDecoder, Limits, Request, StatusByte, write_command
from cairnkv.replication.entries import Item, ItemKind

_LIMITS: Final = Limits(value=STRING_MAX, frame=2**32 - 1)
"""A frame in the log was let in by whoever proposed it: here it is only held against what frames can have at all."""

_TRANSACTION: Final = struct.Struct(">QI")
_WATCH: Final = struct.Struct(">HQQ")
_STEP: Final = struct.Struct(">BI")
_SLOT: Final = struct.Struct(">H")
_DIGEST: Final = struct.Struct(">QI")
_SEMANTICS: Final = struct.Struct(">H")


class Watch(NamedTuple):
    """What a watched key has to be like still.

    slot, version: which version its slot has. deadline: when it was to expire, in milliseconds; 0: never.
    """

    slot: int
    version: int
    expiry: int


class Transaction(NamedTuple):
    """Commands that are carried out as one. bytes_max: of values that they may work on; 0: any number."""

    watches: Sequence[Watch]
    steps: Sequence[Step]
    bytes_max: int


def batch_item(step: Step) -> Item:
    """One command, to be carried out by itself."""
    return Item(ItemKind.COMMANDS, step.db, write_command(step.command))


def batch_of(item: Item, executor: BatchExecutor | None = None) -> Iterator[Step]:
    """The commands of a run. Raises `ValueError`, maybe behind some of them.

    executor: carries out what it can of them; only what it leaves is given, each command in its turn.
    """
    decoder = CommandDecoder(width=2, limits=_LIMITS)
    decoder.feed(item.payload)
    while True:
        if executor is not None:
            decoder.execute_batch(executor, StatusByte.ASCII)
        if (request := decoder.next()) is None:
            break
        if not isinstance(request, Request):
            raise ValueError(f"a frame in the log that is none: {request.message}")
        yield Step(item.db, request.command)
    if decoder.pending:
        raise ValueError("a run in the log that ends within a frame")


def transaction_item(transaction: Transaction) -> Item:
    """Commands that are carried out as one."""
    pieces = [_TRANSACTION.pack(transaction.bytes_max, len(transaction.watches))]
    pieces += [_WATCH.pack(*watch) for watch in transaction.watches]
    for step in transaction.steps:
        frame = write_command(step.command)
        pieces += (_STEP.pack(step.db, len(frame)), frame)
    return Item(ItemKind.TRANSACTION, 0, b"".join(pieces))


def transaction_of(item: Item) -> Transaction:
    """What a transaction has. Raises `ValueError`."""
    payload = item.payload
    try:
        bytes_max, count = _TRANSACTION.unpack_from(payload)
        at = _TRANSACTION.size
        watches = [Watch(*_WATCH.unpack_from(payload, at + index * _WATCH.size)) for index in range(count)]
        at += count * _WATCH.size
        steps: list[Step] = []
        while at < len(payload):
            db, length = _STEP.unpack_from(payload, at)
            at += _STEP.size
            steps += batch_of(Item(ItemKind.COMMANDS, db, payload[at : at + length]))
            at += length
    except struct.error as error:
        raise ValueError(f"a transaction in the log that is none: {error}") from None
    return Transaction(watches, steps, bytes_max)


def track_item(slots: Sequence[int]) -> Item:
    """Slots whose changes are to be counted."""
    return Item(ItemKind.TRACK, 0, b"".join(map(_SLOT.pack, slots)))


def slots_of(item: Item) -> list[int]:
    """These. Raises `ValueError`."""
    if len(item.payload) % _SLOT.size:
        raise ValueError("slots in the log that are none")
    return [slot for (slot,) in _SLOT.iter_unpack(item.payload)]


def digest_item(position: int, digest: int) -> Item:
    """What the state came to at a position."""
    return Item(ItemKind.DIGEST, 0, _DIGEST.pack(position, digest))


def digest_of(item: Item) -> tuple[int, int]:
    """Position and digest. Raises `ValueError`."""
    if len(item.payload) != _DIGEST.size:
        raise ValueError("a digest in the log that is none")
    position, digest = _DIGEST.unpack(item.payload)
    return position, digest


def semantics_item(version: int) -> Item:
    """Another version of what commands do."""
    return Item(ItemKind.SEMANTICS, 0, _SEMANTICS.pack(version))


def semantics_of(item: Item) -> int:
    """The version. Raises `ValueError`."""
    if len(item.payload) != _SEMANTICS.size:
        raise ValueError("a version of semantics in the log that is none")
    (version,) = _SEMANTICS.unpack(item.payload)
    return int(version)
