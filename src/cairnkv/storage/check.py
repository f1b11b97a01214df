"""Check the records of a store's directory or of a backup, and read the undamaged ones.

Invariants: the directory is never written to. RocksDB opens, read-only, another directory with copies of the logs and
symbolic links to the tables. No value is kept in memory.

Out of scope: opening a damaged store, which is refused (`rocksdb`, `load`).
"""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from cairnkv.errors import OptionError
from cairnkv.limits import QUEUE_DB
from cairnkv.paths import os_error_text
from cairnkv.storage import lock, wal
from cairnkv.storage.base import no_progress
from cairnkv.storage.checkpoint import CONFIG, CURRENT
from cairnkv.storage.files import Progress
from cairnkv.storage.queue_check import QueueRecords
from cairnkv.storage.record_format import (
    END_KEY,
    ENTRY,
    FIRST_FORMAT,
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
)
from cairnkv.storage.rocksdb import open_to_read, repair_wals

if TYPE_CHECKING:
    from rocksdict import Rdict, RdictIter

REPORTED_RECORDS: Final = 10_000
"""Progress callback interval, in records."""

VIEW: Final = "cairnkv-view-"
"""The prefix of the names of those directories."""

PROBLEMS_MAX: Final = 100
"""Maximum number of problems to list; others are only counted."""

EXTRA_BYTES: Final = 8
"""Bytes appended to a key for the search of the next readable key."""

PROBED_KEY_MAX: Final = 256
"""Bytes of a key that this search compares: between longer keys, the gap at a damaged block may be larger."""


class Gap(NamedTuple):
    """A range of unreadable records. after, before: the keys of the readable neighbours, or empty. why: RocksDB's
    error."""

    after: bytes
    before: bytes
    why: str

    def __str__(self) -> str:
        after = shown(self.after) if self.after else "the beginning"
        return f"records between {after} and {shown(self.before) if self.before else 'the end'}: {self.why}"


class Findings:
    """The result of a check.

    keys: number of entries by database. expired: number of expired entries. in_parts: number of values in parts.
    node: number of records of a cluster node. queues: number of records of queues.
    loose: number of parts without an entry, as a crash leaves them; the next start deletes them.
    problems: descriptions, at most `PROBLEMS_MAX`. problem_count: number of problems.
    """

    def __init__(self) -> None:
        self.keys: dict[int, int] = {}
        self.node = 0
        self.queues = 0
        self.expired = 0
        self.in_parts = 0
        self.loose = 0
        self.sequence = 0
        self.log_time_ms = 0
        self.problems: list[str] = []
        self.problem_count = 0

    @property
    def entries(self) -> int:
        """The number of entries of all databases, expired ones included, without the records of a node and of
        queues."""
        return sum(self.keys.values())

    def wrong(self, problem: str) -> None:
        """Add a problem."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(problem)


# -- opening -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def not_open(directory: Path) -> Iterator[None]:
    """Lock a closed store, so that no process can open it. Raises `OptionError` if it is open."""
    try:
        names = [entry.name for entry in directory.iterdir()]
    except FileNotFoundError:
        raise OptionError(f"{directory} has no store: the directory does not exist") from None
    except OSError as error:
        raise OptionError(f"cannot read a store: {os_error_text(error)}") from None
    if not any(name.endswith((".sst", ".log")) for name in names):
        raise OptionError(f"{directory} has no store: it contains neither a table nor a log")
    with contextlib.ExitStack() as stack:
        stack.callback(lock.release, lock.claim(directory))
        if (directory / "LOCK").exists():  # RocksDB creates it
            stack.enter_context(lock.locked(directory))
        yield


def files_of_rocksdb(directory: Path) -> list[Path]:
    """Return the files that RocksDB needs to open a store."""
    return [
        file
        for file in directory.iterdir()
        if file.suffix in (".sst", ".log") or file.name.startswith((CURRENT, "MANIFEST", CONFIG))
    ]


@contextlib.contextmanager
def opened(directory: Path, *, lenient: bool = False) -> Iterator["Rdict"]:
    """Open the store in a directory read-only.

    lenient: skip damaged records of the write-ahead log.
    Raises `wal.Damaged`, and exceptions of RocksDB.
    """
    with tempfile.TemporaryDirectory(prefix=VIEW) as name:
        view = Path(name)
        for file in files_of_rocksdb(directory.absolute()):
            if file.suffix == ".sst":
                file.open("rb").close()  # a permission error must not count as damage
                (view / file.name).symlink_to(file)
            else:
                shutil.copyfile(file, view / file.name)
        database = _open_repaired(view, lenient=lenient)
        try:
            yield database
        finally:
            database.close()


def _open_repaired(view: Path, *, lenient: bool) -> "Rdict":
    """Open a copy, after its WALs were repaired as at a start."""
    try:
        repair_wals(view)
    except wal.Damaged:
        if not lenient:
            raise
    try:
        return open_to_read(view, lenient=lenient)
    except Exception as error:
        if lenient or not of_rocksdb(error) or not repair_wals(view, thorough=True):
            raise
    return open_to_read(view)


# -- reading -----------------------------------------------------------------------------------------------------


def readable(database: "Rdict", gaps: list[Gap], progress: Progress = no_progress) -> Iterator[tuple[bytes, bytes]]:
    """Yield all readable records in key order. gaps: receives the ranges of unreadable records."""
    place: RdictIter | None = database.iter()
    assert place is not None
    place.seek_to_first()
    last = b""
    count = 0
    while place is not None:
        while place.valid():
            last = place.key()
            yield last, place.value()
            count += 1
            if count % REPORTED_RECORDS == 0:
                progress(REPORTED_RECORDS)
            place.next()
        try:
            place.status()
            break  # there are no more records
        except Exception as error:  # rocksdict raises plain `Exception`
            why = error_text(error)
        place = _next_readable(database, last)
        gaps.append(Gap(last, place.key() if place is not None else b"", why))
    progress(count % REPORTED_RECORDS)


def of_rocksdb(error: Exception) -> bool:
    """Return whether an error is from rocksdict, which raises plain `Exception`."""
    return type(error) is Exception


def error_text(error: Exception) -> str:
    """Return an error of RocksDB on one line, with file names relative to the checked directory."""
    return re.sub(rf"\S*/{VIEW}\w+/", "", " ".join(str(error).split()))


def _next_readable(database: "Rdict", key: bytes) -> "RdictIter | None":
    """Return an iterator at a readable record after this key: close to the first one.

    Keys are treated as numbers. The distance doubles until a record can be read, then a binary search follows. So at
    most as many keys are skipped as are damaged.
    """
    width = min(len(key), PROBED_KEY_MAX) + EXTRA_BYTES
    low = int.from_bytes(key[:width].ljust(width, b"\0"), "big")
    end = int.from_bytes(END_KEY.ljust(width, b"\0"), "big")

    def reads(at: int) -> "RdictIter | None":
        place = database.iter()  # a new one, since an iterator is unreliable after an error
        place.seek(END_KEY if at >= end else at.to_bytes(width, "big"))
        return place if place.valid() and place.key() > key else None

    bad, distance = low, 1
    while (found := reads(low + distance)) is None:
        if low + distance >= end:
            return None
        bad, distance = low + distance, distance * 2
    good = min(low + distance, end)
    while good - bad > 1:
        middle = (good + bad) // 2
        if (nearer := reads(middle)) is None:
            bad = middle
        else:
            good, found = middle, nearer
    return found


def examine(records: Iterator[tuple[bytes, bytes]]) -> Findings:
    """Check records in key order. The caller reports gaps."""
    found = Findings()
    parted: dict[int, PartedValue] = {}
    queues = QueueRecords()
    has_format = has_state = has_end = False
    store_format = b""
    for key, value in records:
        has_end = key == END_KEY
        has_state = has_state or key == STATE_KEY
        try:
            if key[:1] == bytes((ENTRY,)) and len(key) > 2 and key[1] <= QUEUE_DB:
                entry, expiry = parsed_value(value)
                if key[1] == NODE_DB:
                    found.node += 1
                elif key[1] == QUEUE_DB:
                    found.queues += 1
                    queues.add(key[2:], entry)
                else:
                    found.keys[key[1]] = found.keys.get(key[1], 0) + 1
                found.expired += expiry is not None and expiry <= found.log_time_ms
                if isinstance(entry, Parts):
                    found.in_parts += 1
                    parted[entry.number] = PartedValue(key, entry)
            elif key[:1] == bytes((PART,)):
                number, index = parsed_part_key(key)
                if (owner := parted.get(number)) is None:
                    found.loose += 1
                elif not owner.add(index, value):
                    del parted[number]
                    found.wrong(f"the value of {shown(owner.key)} has no part {owner.parts_read}")
            elif key == STATE_KEY and len(value) == STATE.size:
                found.sequence, found.log_time_ms = STATE.unpack(value)
            elif key == FORMAT_KEY:
                has_format = True
                store_format = value
                if value not in FORMATS:
                    found.wrong(f"its format is {value[:20]!r}, and this version supports up to {FORMAT}")
            elif key not in (SYNCED_KEY, END_KEY):
                found.wrong(f"a record with an unknown key: {key[:16]!r}")
        except ValueError as error:
            found.wrong(f"{shown(key)}: {error}")
    for owner in parted.values():
        if not owner.is_whole:
            found.wrong(f"the value of {shown(owner.key)} has {owner.length:,} of {owner.parts.length:,} bytes")
    if not has_format:
        found.wrong("the record of the format is missing")
    if not has_state and (found.entries or found.node or found.queues):  # the first commit writes it
        found.wrong("the record of the sequence number and log time is missing")
    for problem in queues.problems():
        found.wrong(problem)
    if found.queues and store_format == b"%d" % FIRST_FORMAT:
        found.wrong(f"it has records of queues, and its format is {FIRST_FORMAT}")
    if not has_end:
        found.wrong("the record of the end is missing: an unknown number of records is missing")
    return found


def shown(record_key: bytes) -> str:
    """Return a description of a record key."""
    if record_key[:2] == bytes((ENTRY, NODE_DB)):
        return repr(record_key[2:66])[1:] + " of the cluster node"
    if record_key[:2] == bytes((ENTRY, QUEUE_DB)):
        return repr(record_key[2:66])[1:] + " of the queues"
    if record_key[0] == ENTRY:
        return repr(record_key[2:66])[1:] + (f" of database {record_key[1]}" if record_key[1:2] != b"\0" else "")
    return "a part of a value" if record_key[0] == PART else "an internal record"


def check_directory(directory: Path, progress: Progress = no_progress) -> Findings:
    """Check all records in a directory.

    Raises `OptionError` if rocksdict is missing; all other errors are problems in the result.
    """
    problems: list[str] = []
    gaps: list[Gap] = []
    try:
        try:
            with opened(directory) as database:
                found = examine(readable(database, gaps, progress))
        except wal.Damaged as damage:
            problems.append(str(damage))
            with opened(directory, lenient=True) as database:
                found = examine(readable(database, gaps, progress))
    except Exception as error:
        if not of_rocksdb(error):
            raise
        found = Findings()
        problems.append(f"RocksDB cannot open the store: {error_text(error)}")
    problems += [f"unreadable: {gap}" for gap in gaps]
    found.problems = [*problems, *found.problems][:PROBLEMS_MAX]
    found.problem_count += len(problems)
    return found
