"""What is in a store's directory or a backup, and what of it can still be read.

What always holds: nothing that is looked at is written to. RocksDB is given a directory of its own, with copies of the
logs and symbolic links to the tables, and opens that for reading only. Memory holds nothing of the values.

Not for what a running store does with damage (`rocksdb`, `load`): it refuses to open.
"""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from cairnkv.errors import OptionError
from cairnkv.paths import in_words as in_system_words
from cairnkv.storage import lock, wal
from cairnkv.storage.base import nobody
from cairnkv.storage.checkpoint import CONFIG, CURRENT
from cairnkv.storage.files import Progress
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
from cairnkv.storage.rocksdb import mend_logs, open_to_read

if TYPE_CHECKING:
    from rocksdict import Rdict, RdictIter

REPORTED_RECORDS: Final = 10_000
"""Records between two words of progress."""

VIEW: Final = "cairnkv-view-"
"""What the names of those directories begin with."""

PROBLEMS_MAX: Final = 100
"""Problems that are named; more are counted."""

STEPS_BEHIND: Final = 8
"""Bytes by which a key is made longer where the next one that can be read is looked for."""

PROBED_KEY_MAX: Final = 256
"""Bytes of a key that are looked at for that: a damaged block between longer keys may take more with it."""


class Gap(NamedTuple):
    """Records that cannot be read: those between two that can be, or one and the beginning or the end.

    why: in RocksDB's words.
    """

    after: bytes
    before: bytes
    why: str

    def __str__(self) -> str:
        after = shown(self.after) if self.after else "the beginning"
        return f"records between {after} and {shown(self.before) if self.before else 'the end'}: {self.why}"


class Findings:
    """What was found.

    keys: entries by their keyspace's number. expired: those of them whose time is over. in_parts: values in parts.
    node: records that a node of a cluster keeps for itself.
    loose: parts of values that no entry has, as a crash leaves them; the next start removes them.
    problems: what is wrong, at most `PROBLEMS_MAX` of them; problem_count: how many there are.
    """

    def __init__(self) -> None:
        self.keys: dict[int, int] = {}
        self.node = 0
        self.expired = 0
        self.in_parts = 0
        self.loose = 0
        self.sequence = 0
        self.log_time_ms = 0
        self.problems: list[str] = []
        self.problem_count = 0

    @property
    def entries(self) -> int:
        """Entries of all keyspaces, the expired ones included, but for the node's own."""
        return sum(self.keys.values())

    def wrong(self, problem: str) -> None:
        """Note a problem."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(problem)


# -- opening -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def not_open(directory: Path) -> Iterator[None]:
    """While nobody has the store in this directory open, and nobody can open it. Raises `OptionError` if one has."""
    try:
        names = [entry.name for entry in directory.iterdir()]
    except FileNotFoundError:
        raise OptionError(f"{directory} has no store: there is no such directory") from None
    except OSError as error:
        raise OptionError(f"cannot read a store: {in_system_words(error)}") from None
    if not any(name.endswith((".sst", ".log")) for name in names):
        raise OptionError(f"{directory} has no store: there is neither a table nor a log in it")
    with contextlib.ExitStack() as stack:
        stack.callback(lock.let_go, lock.claim(directory))
        if (directory / "LOCK").exists():  # it is, once RocksDB has opened it
            stack.enter_context(lock.locked(directory))
        yield


def files_of_rocksdb(directory: Path) -> list[Path]:
    """What RocksDB needs to open a store."""
    return [
        file
        for file in directory.iterdir()
        if file.suffix in (".sst", ".log") or file.name.startswith((CURRENT, "MANIFEST", CONFIG))
    ]


@contextlib.contextmanager
def opened(directory: Path, *, lenient: bool = False) -> Iterator["Rdict"]:
    """The store in a directory, for reading only.

    lenient: with what can be read of a damaged write-ahead log.
    Raises `wal.Damaged`, and what RocksDB raises.
    """
    with tempfile.TemporaryDirectory(prefix=VIEW) as name:
        view = Path(name)
        for file in files_of_rocksdb(directory.absolute()):
            if file.suffix == ".sst":
                file.open("rb").close()  # a permission error must not count as damage
                (view / file.name).symlink_to(file)
            else:
                shutil.copyfile(file, view / file.name)
        database = _read_as_a_start_would(view, lenient=lenient)
        try:
            yield database
        finally:
            database.close()


def _read_as_a_start_would(view: Path, *, lenient: bool) -> "Rdict":
    """Open a copy, without what a power failure has left at the end of its logs."""
    try:
        mend_logs(view)
    except wal.Damaged:
        if not lenient:
            raise
    try:
        return open_to_read(view, lenient=lenient)
    except Exception as error:
        if lenient or not of_rocksdb(error) or not mend_logs(view, thorough=True):
            raise
    return open_to_read(view)


# -- reading -----------------------------------------------------------------------------------------------------


def readable(database: "Rdict", gaps: list[Gap], progress: Progress = nobody) -> Iterator[tuple[bytes, bytes]]:
    """All records that can be read, in the order of their keys; what lies between them is added to the gaps."""
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
        why = _failure(place)
        if why is None:
            break
        place = _behind(database, last)
        gaps.append(Gap(last, place.key() if place is not None else b"", why))
    progress(count % REPORTED_RECORDS)


def of_rocksdb(error: Exception) -> bool:
    """Whether rocksdict has raised this: it has no class of its own."""
    return type(error) is Exception


def _failure(place: "RdictIter") -> str | None:
    """Why it is at its end; None: because there are no more records."""
    try:
        place.status()
    except Exception as error:  # that is all that rocksdict says of its class
        return in_words(error)
    return None


def in_words(error: Exception) -> str:
    """What RocksDB says, on one line, with names of files as they are in the directory that is looked at."""
    return re.sub(rf"\S*/{VIEW}\w+/", "", " ".join(str(error).split()))


def _behind(database: "Rdict", key: bytes) -> "RdictIter | None":
    """The first record behind this one that can be read, near enough.

    Keys are taken for numbers. The distance is doubled until a record can be read, then halved: so what is passed over
    is at most as long, in keys, as what is damaged.
    """
    width = min(len(key), PROBED_KEY_MAX) + STEPS_BEHIND
    low = int.from_bytes(key[:width].ljust(width, b"\0"), "big")
    end = int.from_bytes(END_KEY.ljust(width, b"\0"), "big")

    def reads(at: int) -> "RdictIter | None":
        place = database.iter()  # a new one: after a failure it is not always the same where a used one gets to
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


class _Parted:
    """A value whose parts are yet to come."""

    def __init__(self, key: bytes, parts: Parts) -> None:
        self.key = key
        self.parts = parts
        self.pieces = 0
        self.length = 0


def examine(records: Iterator[tuple[bytes, bytes]]) -> Findings:
    """Whether records are what this format has, all of them. Gaps are whoever reads them to report."""
    found = Findings()
    parted: dict[int, _Parted] = {}
    has_format = has_state = has_end = False
    for key, value in records:
        has_end = key == END_KEY
        has_state = has_state or key == STATE_KEY
        try:
            if key[:1] == bytes((ENTRY,)) and len(key) > 2 and key[1] <= NODE_DB:
                entry, expiry = parsed_value(value)
                if key[1] == NODE_DB:
                    found.node += 1
                else:
                    found.keys[key[1]] = found.keys.get(key[1], 0) + 1
                found.expired += expiry is not None and expiry <= found.log_time_ms
                if isinstance(entry, Parts):
                    found.in_parts += 1
                    parted[entry.number] = _Parted(key, entry)
            elif key[:1] == bytes((PART,)):
                number, index = parsed_part_key(key)
                if (owner := parted.get(number)) is None:
                    found.loose += 1
                elif index != owner.pieces:
                    del parted[number]
                    found.wrong(f"the value of {shown(owner.key)} has no part {owner.pieces}")
                else:
                    owner.pieces += 1
                    owner.length += len(value)
            elif key == STATE_KEY and len(value) == STATE.size:
                found.sequence, found.log_time_ms = STATE.unpack(value)
            elif key == FORMAT_KEY:
                has_format = True
                if value != b"%d" % FORMAT:
                    found.wrong(f"its format is {value[:20]!r}, and this version knows {FORMAT}")
            elif key not in (SYNCED_KEY, END_KEY):
                found.wrong(f"a record that this format does not have: {key[:16]!r}")
        except ValueError as error:
            found.wrong(f"{shown(key)}: {error}")
    for owner in parted.values():
        if owner.length != owner.parts.length:
            found.wrong(f"the value of {shown(owner.key)} has {owner.length:,} of {owner.parts.length:,} bytes")
    if not has_format:
        found.wrong("the record of the format is missing")
    if not has_state and (found.entries or found.node):  # the first commit writes it
        found.wrong("the record of sequence and log time is missing")
    if not has_end:
        found.wrong("the mark of the end is missing: nobody can tell how many records are")
    return found


def shown(record_key: bytes) -> str:
    """An entry's key, as people are told it."""
    if record_key[:2] == bytes((ENTRY, NODE_DB)):
        return repr(record_key[2:66])[1:] + " of the node's own"
    if record_key[0] == ENTRY:
        return repr(record_key[2:66])[1:] + (f" of keyspace {record_key[1]}" if record_key[1:2] != b"\0" else "")
    return "a part of a value" if record_key[0] == PART else "a record of the store's own"


def look_at(directory: Path, progress: Progress = nobody) -> Findings:
    """Read all that is in a directory, to the mark of the end.

    Raises `OptionError` where rocksdict is missing; all else that is wrong is a problem of the findings.
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
        problems.append(f"RocksDB cannot open it: {in_words(error)}")
    problems += [f"not to be read: {gap}" for gap in gaps]
    found.problems = [*problems, *found.problems][:PROBLEMS_MAX]
    found.problem_count += len(problems)
    return found
