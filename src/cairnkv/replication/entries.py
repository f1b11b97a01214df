"""The format of a log entry: its proposer, and a batch of items. Sans-IO.

    "CK" 2 | format 1 | kind 1 | partition 2 | semantics 2 | node 8 | epoch 8 | number 8 | time 8 | CRC-32 4 | body
    format 2, if log time is ahead of the proposer's clock: lead 8 before the CRC-32
    body of a batch: items, each  kind 1 | database 1 | length 4 | payload

Integers are unsigned and big-endian. The CRC-32 covers all other bytes, so messages of other programs differ from
entries of a newer release. A batch that is too large for one entry is split into parts. These are entries of their own,
without effect before the last one.

Invariants: for any bytes, `parsed` and `items` return an entry and items or raise `ValueError`, equally on all nodes.
Nodes ignore a message that is not an entry. A node stops at an entry of a newer release (`Newer`).

Out of scope: the entries that count (`epochs`), and commands, whose frames are bytes here.
"""

import enum
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

FORMAT: Final = 1
"""The version of the format. A node stops at an entry of an unknown version."""

FORMAT_AHEAD: Final = 2
"""The version with the lead of log time over the proposer's clock. Nodes use it only if there is a lead."""

PARTITION: Final = 0
"""The number of the only log. Later versions may partition the keys among several logs."""

SEMANTICS: Final = 2
"""The newest version of the effects of commands that this release supports. An entry has the version in force at its
proposer; a node that does not support that version stops, since its state would differ from the other nodes'."""

QUEUE_SEMANTICS: Final = 2
"""The version from which on nodes execute commands on queues."""

TIME_MAX: Final = 2**53
"""The maximum time of an entry in milliseconds, so that every expiry fits its record."""

_MAGIC: Final = b"CK"
_HEADER: Final = struct.Struct(">2sBBHHQQQQ")
_CHECKSUM: Final = struct.Struct(">I")
_LEAD: Final = struct.Struct(">Q")
HEADER_BYTES: Final = _HEADER.size + _CHECKSUM.size
HEADER_BYTES_MAX: Final = HEADER_BYTES + _LEAD.size
"""Maximum bytes of an entry without its body."""
_ITEM: Final = struct.Struct(">BBI")
ITEM_BYTES: Final = _ITEM.size


class Kind(enum.IntEnum):
    """The kinds of entries."""

    EPOCH = 1
    """The beginning of an epoch: earlier entries of the proposer that are not in the log yet will never count."""
    BATCH = 2
    """Items. An empty batch is a barrier."""
    PART = 3
    """A part of a batch, except the last."""
    LAST_PART = 4
    """The last part of a batch."""


class ItemKind(enum.IntEnum):
    """The kinds of items."""

    COMMANDS = 1
    """Commands on one database, each executed by itself, as frames of the native protocol with two-byte numbers."""
    TRANSACTION = 2
    """Commands that are executed as one, if the watched keys have not changed."""
    TRACK = 3
    """Slots whose versions are tracked from now on."""
    DIGEST = 4
    """The digest of the proposer's state at a log index."""
    SEMANTICS = 5
    """A version of semantics that is in force from now on."""
    SKIP = 6
    """A skip: two log times. From the first to the second, log time goes forward without elapsed time."""


class Newer(ValueError):
    """Only a newer release can read the entry."""


class Entry(NamedTuple):
    """A log entry.

    node: the proposer. epoch, number: identify the entry among the proposer's; see `epochs`. time: the proposed log
    time in milliseconds since 1970: the proposer's clock plus `lead`.
    """

    kind: Kind
    node: int
    epoch: int
    number: int
    time: int
    body: bytes = b""
    semantics: int = SEMANTICS
    partition: int = PARTITION
    lead: int = 0

    @property
    def clock(self) -> int:
        """The proposer's clock, in milliseconds since 1970; 0: unknown."""
        return self.time - self.lead

    def packed(self) -> bytes:
        """Return the bytes of the entry."""
        header = _HEADER.pack(
            _MAGIC,
            FORMAT_AHEAD if self.lead else FORMAT,
            self.kind,
            self.partition,
            self.semantics,
            self.node,
            self.epoch,
            self.number,
            self.time,
        )
        if self.lead:
            header += _LEAD.pack(self.lead)
        return b"".join((header, _CHECKSUM.pack(zlib.crc32(self.body, zlib.crc32(header))), self.body))


class Item(NamedTuple):
    """An item of a batch."""

    kind: ItemKind
    db: int
    payload: bytes


def parsed(data: bytes) -> Entry:
    """Parse an entry. Raises `ValueError`, and `Newer` for an entry that other nodes may be able to read.

    >>> entry = Entry(Kind.BATCH, node=7, epoch=1, number=2, time=1_000, body=b"...")
    >>> parsed(entry.packed()) == entry
    True
    """
    if len(data) < HEADER_BYTES:
        raise ValueError(f"an entry of {len(data)} bytes, less than its header")
    magic, form, kind, partition, semantics, node, epoch, number, time = _HEADER.unpack_from(data)
    ahead = form == FORMAT_AHEAD and len(data) >= HEADER_BYTES_MAX
    size = _HEADER.size + (_LEAD.size if ahead else 0)  # before the checksum
    (checksum,) = _CHECKSUM.unpack_from(data, size)
    body = data[size + _CHECKSUM.size :]
    if magic != _MAGIC or checksum != zlib.crc32(body, zlib.crc32(data[:size])):
        raise ValueError("a message that no node has published, or a damaged entry")
    if form > FORMAT_AHEAD:
        raise Newer(f"an entry of format {form}; this release supports formats up to {FORMAT_AHEAD}")
    (lead,) = _LEAD.unpack_from(data, _HEADER.size) if ahead else (0,)
    if form < FORMAT or partition != PARTITION or time > TIME_MAX or lead > time:
        raise ValueError(f"an invalid entry, of format {form}, partition {partition} and time {time}")
    return Entry(Kind(kind), node, epoch, number, time, body, semantics, partition, lead)


def packed_items(items: Iterable[Item]) -> bytes:
    """Return the body of a batch. Adjacent items of commands on one database are merged."""
    packed: list[bytes] = []
    commands: list[bytes] = []
    db = -1

    def pack_commands() -> None:
        if commands:
            payload = b"".join(commands)
            packed.append(_ITEM.pack(ItemKind.COMMANDS, db, len(payload)) + payload)
            commands.clear()

    for item in items:
        if item.kind is not ItemKind.COMMANDS or item.db != db:
            pack_commands()
        if item.kind is ItemKind.COMMANDS:
            db = item.db
            commands.append(item.payload)
        else:
            packed.append(_ITEM.pack(item.kind, item.db, len(item.payload)) + item.payload)
    pack_commands()
    return b"".join(packed)


def items(body: bytes) -> Iterator[Item]:
    """Yield the items of a batch. Raises `ValueError`, maybe after some items.

    >>> item = Item(ItemKind.COMMANDS, 0, b"one")
    >>> list(items(packed_items([item, item])))
    [Item(kind=<ItemKind.COMMANDS: 1>, db=0, payload=b'oneone')]
    """
    at = 0
    while at < len(body):
        if len(body) - at < ITEM_BYTES:
            raise ValueError("a batch with an incomplete item")
        kind, db, length = _ITEM.unpack_from(body, at)
        at += ITEM_BYTES
        if len(body) - at < length:
            raise ValueError("a batch with an incomplete item")
        yield Item(ItemKind(kind), db, body[at : at + length])
        at += length
