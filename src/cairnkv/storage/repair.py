"""Repair: copy the readable data of a damaged store to a new store.

Invariants: the damaged store does not change, so other attempts remain possible. The new store has every readable,
valid record, and no value with missing parts. It has the records of the format and of the end, so it can be opened.
Lost keys that no readable record mentions cannot be listed.

The repaired store of a cluster node is a store without a cluster. If the node used it and entries were missing, its
state would differ from the other nodes'.

RocksDB's own repair drops a whole table for one damaged block, so it is used only if MANIFEST cannot be used.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from cairnkv.engine.queue_records import BODIES, body_key, message_key
from cairnkv.errors import OptionError
from cairnkv.limits import QUEUE_DB
from cairnkv.storage.base import no_progress
from cairnkv.storage.check import (
    Findings,
    Gap,
    check_directory,
    error_text,
    files_of_rocksdb,
    of_rocksdb,
    opened,
    readable,
    shown,
)
from cairnkv.storage.files import Progress, becoming, copied, linked, refuse_within
from cairnkv.storage.queue_check import QueueRecords
from cairnkv.storage.record_format import (
    END_KEY,
    ENTRY,
    FORMAT,
    FORMAT_KEY,
    FORMATS,
    NODE_DB,
    PART,
    STATE,
    STATE_KEY,
    SYNCED_KEY,
    PartedValue,
    Parts,
    parsed_part_key,
    parsed_value,
    record_key,
    record_value,
)
from cairnkv.storage.rocksdb import RocksDB, open_rocksdb, rebuild, wait_while_behind

BATCH_BYTES: Final = 1024 * 1024
"""Bytes of one write."""


class Repaired(NamedTuple):
    """The result of a repair.

    left_out: data that is known to be missing in the new store. found: the contents of the new store.
    """

    left_out: list[str]
    found: Findings


def repair(directory: Path, into: Path, progress: Progress = no_progress) -> Repaired:
    """Copy the readable data of a damaged store to a new store in an empty or new directory.

    progress: called with the number of records read since the last call. The damaged store must be closed
    (`check.not_open`).
    Raises `OptionError` if nothing can be read, or if the new directory is not empty or is in the damaged store.
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
            left_out.append(
                f"data that RocksDB dropped in its own repair, since it cannot open the store: {error_text(error)}"
            )
            try:
                rebuild(work)
            except Exception as again:
                raise OptionError(f"cannot read anything of {directory}: {error_text(again)}") from None
        rocksdb = open_rocksdb(part)
        try:
            gaps: list[Gap] = []
            with opened(work, lenient=True) as database:
                _write(rocksdb, readable(database, gaps, progress), left_out)
            rocksdb.flush()
        except Exception as error:
            if not of_rocksdb(error):
                raise
            raise OptionError(f"cannot read anything of {directory}: {error_text(error)}") from None
        finally:
            rocksdb.close()
        left_out += map(str, gaps)
        found = check_directory(part)
    return Repaired(left_out, found)


def _write(rocksdb: RocksDB, records: Iterator[tuple[bytes, bytes]], left_out: list[str]) -> None:
    """Write the valid records. left_out: receives descriptions of the others."""
    parted: dict[int, tuple[PartedValue, bytes]] = {}  # with the entry's record
    queues = QueueRecords()
    state: bytes | None = None
    node = 0
    batch, size = rocksdb.batch(), 0
    key = b""
    for key, value in records:
        try:
            if key[:1] == bytes((ENTRY,)) and len(key) > 2 and key[1] <= QUEUE_DB:
                entry, _ = parsed_value(value)
                if key[1] == NODE_DB:
                    node += 1
                    continue
                if key[1] == QUEUE_DB:
                    queues.add(key[2:], entry)
                    batch.put(FORMAT_KEY, b"%d" % FORMAT)
                if isinstance(entry, Parts):  # written after its parts
                    parted[entry.number] = PartedValue(key, entry), value
                    continue
            elif key[:1] == bytes((PART,)):
                number, index = parsed_part_key(key)
                if number not in parted or not parted[number][0].add(index, value):
                    continue
            elif key == STATE_KEY and len(value) == STATE.size:
                state = value
            elif key == FORMAT_KEY:
                if value not in FORMATS:
                    raise OptionError(
                        f"it has format {value[:20]!r}, and this version of cairnkv supports up to {FORMAT}"
                    )
            elif key in (SYNCED_KEY, END_KEY):
                continue
            else:
                raise ValueError("a record with an unknown key")
        except OptionError:
            raise
        except ValueError as error:
            left_out.append(f"{shown(key)}: {error}")
            continue
        batch.put(key, value)
        size += len(key) + len(value)
        if size >= BATCH_BYTES:
            _put(rocksdb, batch)
            batch, size = rocksdb.batch(), 0
    if node:
        left_out.append(
            f"{node:,} records of a cluster node: the new store is one without a cluster. "
            "To repair the node, delete its directory; then it fetches its data from the cluster"
        )
    if not key:
        raise OptionError("cannot read anything of it: " + "; ".join(left_out))
    loose = {record_key(QUEUE_DB, body_key(number)) for number in queues.loose}
    for body in sorted(loose):
        batch.delete(body)
        left_out.append(f"{shown(body)}: a body without a message")
    for queue_record, value in queues.missing:
        batch.put(record_key(QUEUE_DB, queue_record), record_value(value, None))
        left_out.append(f"{queue_record!r} of the queues: it is replaced by a new record")
    for owner, record in parted.values():
        if owner.is_whole and owner.key not in loose:
            batch.put(owner.key, record)
        else:
            if owner.key[:3] == record_key(QUEUE_DB, BODIES):
                batch.delete(record_key(QUEUE_DB, message_key(int.from_bytes(owner.key[3:]))))
            batch.delete_range(*owner.parts.range)
            left_out.append(
                f"the value of {shown(owner.key)}: {owner.length:,} of {owner.parts.length:,} bytes are readable"
            )
    if state is None:
        batch.put(STATE_KEY, STATE.pack(0, time.time_ns() // 1_000_000))
        left_out.append(
            "sequence number and log time: log time is now the time of the repair, so expired keys stay expired"
        )
    _put(rocksdb, batch)


def _put(rocksdb: RocksDB, batch: object) -> None:
    wait_while_behind(rocksdb)
    rocksdb.write(batch)
