"""The format of an entry of the log: who proposes it, and a batch of items. Sans-IO.

    "CK" 2 | format 1 | kind 1 | partition 2 | semantics 2 | node 8 | epoch 8 | number 8 | time 8 | CRC-32 4 | body
    format 2, where log time is ahead of the proposer's clock: lead 8 in front of the CRC-32
    body of a batch: items, each  kind 1 | keyspace 1 | length 4 | payload

Integers are unsigned and big-endian. The CRC-32 is that of everything else: what a stray hand has published is told
from what a newer release has. A batch that is too large for one entry is cut into parts, which are entries of
their own and mean nothing before the last one is there.

What always holds: whatever bytes come, `parsed` and `items` give an entry and items or raise `ValueError`, on all nodes
alike, since nobody can ask whoever wrote them. What is none is as if it were not there; what this release is too old
to read, `Newer`, is not.

Not for which entries count (`epochs`), and not for what commands are: their frames are bytes here.
"""

import enum
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

FORMAT: Final = 1
"""The version of this format. An entry of another one stops a node that does not know it."""

FORMAT_AHEAD: Final = 2
"""The version with the lead of log time over the proposer's clock. Nodes use it only if there is a lead."""

PARTITION: Final = 0
"""The only log there is so far. With more of them, each will be a partition of the keys."""

SEMANTICS: Final = 1
"""The newest version of what commands do that this release knows. An entry says the one that is in force where it was
proposed; a node that does not know that version stops rather than apply it otherwise than others do."""

TIME_MAX: Final = 2**53
"""The latest that an entry may say it is, in milliseconds: far from where a deadline would not fit its record."""

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
    """What an entry is."""

    EPOCH = 1
    """Its proposer begins an epoch: what it proposed before and nobody has seen yet will never count."""
    BATCH = 2
    """Items. Without any it is a barrier: it only says that it was its turn."""
    PART = 3
    """A part of a batch, of which more follow."""
    LAST_PART = 4
    """The last part of a batch."""


class ItemKind(enum.IntEnum):
    """What an item of a batch is."""

    COMMANDS = 1
    """Commands of one keyspace, as frames of the article with two-byte numbers, each carried out by itself."""
    TRANSACTION = 2
    """Commands that are carried out as one, if keys that were watched have not changed."""
    TRACK = 3
    """Slots of keys whose changes are to be counted from now on."""
    DIGEST = 4
    """What the proposer's state came to at a position."""
    SEMANTICS = 5
    """Another version of what commands do is in force from now on."""


class Newer(ValueError):
    """A newer release is needed to read it."""


class Entry(NamedTuple):
    """An entry, as it stands in the log.

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
        """The bytes of the entry."""
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
    """One item of a batch."""

    kind: ItemKind
    db: int
    payload: bytes


def parsed(data: bytes) -> Entry:
    """The entry that these bytes are. Raises `ValueError`, and `Newer` of an entry that others may understand.

    >>> entry = Entry(Kind.BATCH, node=7, epoch=1, number=2, time=1_000, body=b"...")
    >>> parsed(entry.packed()) == entry
    True
    """
    if len(data) < HEADER_BYTES:
        raise ValueError(f"an entry of {len(data)} bytes, which is less than its header has")
    magic, form, kind, partition, semantics, node, epoch, number, time = _HEADER.unpack_from(data)
    ahead = form == FORMAT_AHEAD and len(data) >= HEADER_BYTES_MAX
    size = _HEADER.size + (_LEAD.size if ahead else 0)  # in front of the checksum
    (checksum,) = _CHECKSUM.unpack_from(data, size)
    body = data[size + _CHECKSUM.size :]
    if magic != _MAGIC or checksum != zlib.crc32(body, zlib.crc32(data[:size])):
        raise ValueError("a message that no node has published, or that is damaged")
    if form > FORMAT_AHEAD:
        raise Newer(f"an entry of format {form}; this release knows format {FORMAT_AHEAD}")
    (lead,) = _LEAD.unpack_from(data, _HEADER.size) if ahead else (0,)
    if form < FORMAT or partition != PARTITION or time > TIME_MAX or lead > time:
        raise ValueError(f"an entry of format {form}, partition {partition} and time {time}, which nobody proposes")
    return Entry(Kind(kind), node, epoch, number, time, body, semantics, partition, lead)


def packed_items(items: Iterable[Item]) -> bytes:
    """The body of a batch. Runs of one keyspace that follow each other become one."""
    pieces: list[bytes] = []
    run: list[bytes] = []
    db = -1

    def end_batch() -> None:
        if run:
            payload = b"".join(run)
            pieces.append(_ITEM.pack(ItemKind.COMMANDS, db, len(payload)) + payload)
            run.clear()

    for item in items:
        if item.kind is not ItemKind.COMMANDS or item.db != db:
            end_batch()
        if item.kind is ItemKind.COMMANDS:
            db = item.db
            run.append(item.payload)
        else:
            pieces.append(_ITEM.pack(item.kind, item.db, len(item.payload)) + item.payload)
    end_batch()
    return b"".join(pieces)


def items(body: bytes) -> Iterator[Item]:
    """The items of a batch. Raises `ValueError`, maybe behind some of them.

    >>> run = Item(ItemKind.COMMANDS, 0, b"one")
    >>> list(items(packed_items([run, run])))
    [Item(kind=<ItemKind.COMMANDS: 1>, db=0, payload=b'oneone')]
    """
    at = 0
    while at < len(body):
        if len(body) - at < ITEM_BYTES:
            raise ValueError("a batch that ends within an item")
        kind, db, length = _ITEM.unpack_from(body, at)
        at += ITEM_BYTES
        if len(body) - at < length:
            raise ValueError("a batch that ends within an item")
        yield Item(ItemKind(kind), db, body[at : at + length])
        at += length
