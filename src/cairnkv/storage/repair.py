"""What can still be read of a damaged store, as a new store beside it.

What always holds: the damaged store stays as it is, so that it can be tried again, by other means too. The new one has
every record that can be read and is well formed, and no value without all its parts; it has the mark of the end and the
record of the format, so it opens. Nobody can tell what else there was.

Of a node's table it makes a store without a cluster: were entries missing from it, the node would go on as if they had
never been, unlike all others.

RocksDB's own repair leaves out a whole table for one damaged block, so it is only asked where MANIFEST is of no use.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from cairnkv.errors import OptionError
from cairnkv.storage.base import nobody
from cairnkv.storage.check import (
    Findings,
    Gap,
    files_of_rocksdb,
    in_words,
    look_at,
    of_rocksdb,
    opened,
    readable,
    shown,
)
from cairnkv.storage.files import Progress, becoming, copied, linked, refuse_within
from cairnkv.storage.record_format import (
    END_KEY,
    ENTRY,
    FORMAT,
    FORMAT_KEY,
    NODE_DB,
    PART,
    STATE,
    STATE_KEY,
    SYNCED_KEY,
    Parts,
    parsed_part_key,
    parsed_value,
)
from cairnkv.storage.rocksdb import RocksDB, open_rocksdb, rebuild, wait_while_behind

TOGETHER_BYTES: Final = 1024 * 1024
"""Bytes that one write has."""


class Repaired(NamedTuple):
    """What a repair has come to.

    left_out: what is not in the new store, as far as anybody can tell. found: what is in it.
    """

    left_out: list[str]
    found: Findings


def repair(directory: Path, into: Path, progress: Progress = nobody) -> Repaired:
    """Make a new store of what can be read of a damaged one, in a directory that is empty or not there.

    progress: told how many records more were read. Nobody may have the damaged one open (`check.not_open`).
    Raises `OptionError` when nothing can be read, or the new directory is not empty or is in the damaged store.
    """
    refuse_within(into, directory)
    left_out: list[str] = []
    with becoming(into) as part, tempfile.TemporaryDirectory(prefix=f".{into.name}.", dir=into.parent) as name:
        work = Path(name)
        for file in files_of_rocksdb(directory):
            if not (file.suffix == ".sst" and linked(file, work / file.name)):
                copied(file, work / file.name)
        try:
            with opened(work, lenient=True):
                pass
        except Exception as error:
            if not of_rocksdb(error):
                raise
            left_out.append(f"what RocksDB set aside when it was rebuilt, since it cannot open it: {in_words(error)}")
            try:
                rebuild(work)
            except Exception as again:
                raise OptionError(f"nothing of {directory} can be read: {in_words(again)}") from None
        engine = open_rocksdb(part)
        try:
            gaps: list[Gap] = []
            with opened(work, lenient=True) as database:
                _write(engine, readable(database, gaps, progress), left_out)
            engine.flush()
        except Exception as error:
            if not of_rocksdb(error):
                raise
            raise OptionError(f"nothing of {directory} can be read: {in_words(error)}") from None
        finally:
            engine.close()
        left_out += map(str, gaps)
        found = look_at(part)
    return Repaired(left_out, found)


class _Parted:
    """A value whose parts are yet to come."""

    def __init__(self, key: bytes, record: bytes, parts: Parts) -> None:
        self.key = key
        self.record = record
        self.parts = parts
        self.pieces = 0
        self.length = 0


def _write(engine: RocksDB, records: Iterator[tuple[bytes, bytes]], left_out: list[str]) -> None:
    """Write what is well formed."""
    parted: dict[int, _Parted] = {}
    state: bytes | None = None
    node = 0
    batch, size = engine.batch(), 0
    key = b""
    for key, value in records:
        try:
            if key[:1] == bytes((ENTRY,)) and len(key) > 2 and key[1] <= NODE_DB:
                entry, _ = parsed_value(value)
                if key[1] == NODE_DB:
                    node += 1
                    continue
                if isinstance(entry, Parts):  # to be written once its parts are there
                    parted[entry.number] = _Parted(key, value, entry)
                    continue
            elif key[:1] == bytes((PART,)):
                number, index = parsed_part_key(key)
                owner = parted.get(number)
                if owner is None or index != owner.pieces:
                    continue
                owner.pieces += 1
                owner.length += len(value)
            elif key == STATE_KEY and len(value) == STATE.size:
                state = value
            elif key == FORMAT_KEY:
                if value != b"%d" % FORMAT:
                    raise OptionError(f"it has format {value[:20]!r}, and this version of cairnkv knows {FORMAT}")
                continue
            elif key in (SYNCED_KEY, END_KEY):
                continue
            else:
                raise ValueError("a record that this format does not have")
        except OptionError:
            raise
        except ValueError as error:
            left_out.append(f"{shown(key)}: {error}")
            continue
        batch.put(key, value)
        size += len(key) + len(value)
        if size >= TOGETHER_BYTES:
            _put(engine, batch)
            batch, size = engine.batch(), 0
    if node:
        left_out.append(
            f"what a node of a cluster keeps for itself, {node:,} records: the new store is one without a cluster. "
            "The node itself fetches its table from the cluster where its directory is removed"
        )
    if not key:
        raise OptionError("nothing of it can be read: " + "; ".join(left_out))
    for owner in parted.values():
        if owner.length == owner.parts.length:
            batch.put(owner.key, owner.record)
        else:
            batch.delete_range(*owner.parts.range)
            left_out.append(
                f"the value of {shown(owner.key)}, of which {owner.length:,} of {owner.parts.length:,} bytes are there"
            )
    if state is None:
        batch.put(STATE_KEY, STATE.pack(0, time.time_ns() // 1_000_000))
        left_out.append("sequence and log time: log time is that of the repair now, so what had expired stays so")
    _put(engine, batch)


def _put(engine: RocksDB, batch: object) -> None:
    wait_while_behind(engine)
    engine.write(batch)
