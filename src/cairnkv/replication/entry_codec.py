"""Encode commands as items of log entries, and decode them: frames of the native protocol with two-byte command
numbers.

Invariants: decoding an item returns the encoded data, on every node.

Out of scope: the effects of commands.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from cairnkv.commands import Step
from cairnkv.limits import STRING_MAX
from cairnkv.protocol.native import BatchExecutor, CommandDecoder, DecoderLimits, Request, StatusByte, write_command
from cairnkv.replication.entries import Item, ItemKind

_LIMITS: Final = DecoderLimits(value=STRING_MAX, frame=2**32 - 1)
"""The proposer has checked its own limits, so a frame in the log is only checked against the limits of the format."""

_TRANSACTION: Final = struct.Struct(">QI")
_WHOLE: Final = 1 << 63
"""The bit of the first number of a transaction that is whole. Nodes use it only with semantics that include queues."""

_WATCH: Final = struct.Struct(">HQQ")
_STEP: Final = struct.Struct(">BI")
_SLOT: Final = struct.Struct(">H")
_DIGEST: Final = struct.Struct(">QI")
_SEMANTICS: Final = struct.Struct(">H")
_SKIP: Final = struct.Struct(">QQ")


class Watch(NamedTuple):
    """The state that a watched key must still have.

    slot, version: the version of the key's slot. expiry: of the key, in milliseconds; 0: never.
    """

    slot: int
    version: int
    expiry: int


class Transaction(NamedTuple):
    """Commands that are executed as one.

    bytes_max: maximum bytes of the values that they process; 0: no limit. whole: whether a command that fails undoes
    all of them.
    """

    watches: Sequence[Watch]
    steps: Sequence[Step]
    bytes_max: int
    whole: bool = False


def command_item(step: Step) -> Item:
    """Return the item of one command."""
    return Item(ItemKind.COMMANDS, step.db, write_command(step.command))


def steps_of(item: Item, executor: BatchExecutor | None = None) -> Iterator[Step]:
    """Yield the commands of an item. Raises `ValueError`, maybe after some commands.

    executor: executes the commands that it can, in order; only the other ones are yielded.
    """
    decoder = CommandDecoder(width=2, limits=_LIMITS)
    decoder.feed(item.payload)
    while True:
        if executor is not None:
            decoder.execute_batch(executor, 2, StatusByte.ASCII.value)
        if (request := decoder.next()) is None:
            break
        if not isinstance(request, Request):
            raise ValueError(f"an invalid frame in the log: {request.message}")
        yield Step(item.db, request.command)
    if decoder.pending:
        raise ValueError("an item of the log with an incomplete frame")


def transaction_item(transaction: Transaction) -> Item:
    """Return the item of a transaction."""
    parts = [_TRANSACTION.pack(transaction.bytes_max | (_WHOLE if transaction.whole else 0), len(transaction.watches))]
    parts += [_WATCH.pack(*watch) for watch in transaction.watches]
    for step in transaction.steps:
        frame = write_command(step.command)
        parts += (_STEP.pack(step.db, len(frame)), frame)
    return Item(ItemKind.TRANSACTION, 0, b"".join(parts))


def transaction_of(item: Item) -> Transaction:
    """Decode a transaction. Raises `ValueError`."""
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
            steps += steps_of(Item(ItemKind.COMMANDS, db, payload[at : at + length]))
            at += length
    except struct.error as error:
        raise ValueError(f"an invalid transaction in the log: {error}") from None
    return Transaction(watches, steps, bytes_max & ~_WHOLE, bool(bytes_max & _WHOLE))


def track_item(slots: Sequence[int]) -> Item:
    """Return the item of slots to track."""
    return Item(ItemKind.TRACK, 0, b"".join(map(_SLOT.pack, slots)))


def slots_of(item: Item) -> list[int]:
    """Decode slots. Raises `ValueError`."""
    if len(item.payload) % _SLOT.size:
        raise ValueError("invalid slots in the log")
    return [slot for (slot,) in _SLOT.iter_unpack(item.payload)]


def digest_item(position: int, digest: int) -> Item:
    """Return the item of a digest of the state at a log index."""
    return Item(ItemKind.DIGEST, 0, _DIGEST.pack(position, digest))


def digest_of(item: Item) -> tuple[int, int]:
    """Decode a log index and a digest. Raises `ValueError`."""
    if len(item.payload) != _DIGEST.size:
        raise ValueError("an invalid digest in the log")
    position, digest = _DIGEST.unpack(item.payload)
    return position, digest


def skip_item(begin: int, end: int) -> Item:
    """Return the item of a skip of log time."""
    return Item(ItemKind.SKIP, 0, _SKIP.pack(begin, end))


def skip_of(item: Item) -> tuple[int, int]:
    """Decode a skip of log time. Raises `ValueError`."""
    if len(item.payload) != _SKIP.size:
        raise ValueError("an invalid skip in the log")
    begin, end = _SKIP.unpack(item.payload)
    return begin, end


def semantics_item(version: int) -> Item:
    """Return the item of a version of semantics."""
    return Item(ItemKind.SEMANTICS, 0, _SEMANTICS.pack(version))


def semantics_of(item: Item) -> int:
    """Decode a version of semantics. Raises `ValueError`."""
    if len(item.payload) != _SEMANTICS.size:
        raise ValueError("an invalid version of semantics in the log")
    (version,) = _SEMANTICS.unpack(item.payload)
    return int(version)
