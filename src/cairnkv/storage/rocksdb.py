"""RocksDB, set up for a log that loses nothing: what the disk log needs of it, and how it is opened.

What always holds: one column family; checksums are verified on every read and in every compaction; after a crash the
write-ahead log may end in a torn record, and any other damage is reported. Whatever RocksDB raises is an `Exception`
without a class of its own, so here its text decides.

Not for what the records mean (`records`), and not for when what is written (`log`).
"""

import contextlib
import ctypes
import errno
import logging
import os
import resource
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from cairnkv.errors import OptionError, missing_package
from cairnkv.paths import in_words
from cairnkv.storage import lock, wal
from cairnkv.storage.record_format import END_KEY, FORMAT, FORMAT_KEY, SYNCED, SYNCED_KEY
from cairnkv.storage.space import total_room

if TYPE_CHECKING:
    from rocksdict import CompactOptions, Options, Rdict

logger: Final = logging.getLogger("cairnkv.disk")

CACHE_BYTES: Final = 8 * 1024 * 1024
"""RocksDB's cache of blocks: small, since memory is the store's, which keeps values and not blocks."""

FILTER_BITS: Final = 10
"""Bits for each key that tell which files certainly do not have it: one in a hundred is searched in vain."""

CACHE_BYTES_LEAST: Final = 512 * 1024
CACHE_PART: Final = 32
"""The cache's part of a memory limit, if that is more than the minimum."""

MEMTABLE_BYTES: Final = 32 * 1024 * 1024
"""Writes that are gathered before they become a file of their own, and a new log begins."""

MEMTABLE_PART: Final = 64
"""The maximum part of a memory limit for a memtable."""

MEMTABLES_COUNTED: Final = 4
"""Memtables that count towards a memory limit: the active one and one that RocksDB flushes, each doubled for its
index."""

UNCOUNTED_BYTES: Final = 16 * 1024 * 1024
"""Memory limit up to which RocksDB's memory does not count. Only tests have such small limits."""

MEMTABLE_FACTOR: Final = 4
"""How many times that RocksDB may take in memory before it makes a file by itself, which it never comes to."""

PLENTY: Final = 2**62
"""Bytes of room, where nobody has looked how many there are."""

TABLE_BYTES: Final = 64 * 1024 * 1024
"""A table, once it was merged with others; RocksDB's own default."""

MEMTABLE_BYTES_LEAST: Final = 256 * 1024
"""The same where there is little room."""

MANIFEST_STEP_BYTES: Final = 64 * 1024
"""By how much the list of RocksDB's files grows at a time; by itself it would take 4 MiB at once."""

LOG_BYTES_MAX: Final = 256 * 1024 * 1024
"""The write-ahead log, which is read again at a start after a crash."""

OWN_LOG_BYTES: Final = 1024 * 1024
"""What RocksDB may say about itself in a file, of which two are kept."""

HARMLESS: Final = ("LOG", "LOCK", "IDENTITY", "MANIFEST", "OPTIONS", "rocksdict-config.json")
"""What RocksDB has made in a directory before anything was written there: names begin with these."""


BEHIND_MEMTABLES: Final = 3
"""Memtables that wait to become files from which on the disk is behind: no more is written until there are fewer."""

BEHIND_FILES: Final = 40
"""Files that wait to be merged from which on it is."""

MEMTABLES_MAX: Final = 2 * BEHIND_MEMTABLES
"""Memtables at which RocksDB itself would stop writes, and with them this whole process (see `RocksEngine`)."""


BEHIND_SECONDS_MAX: Final = 60.0
"""How long it may be behind before that counts as a failed write."""

BEHIND_PAUSE_SECONDS: Final = 0.01
"""How long whoever writes waits before it looks again."""

FLUSH_SECONDS_MAX: Final = 120.0
"""How long RocksDB may take to make tables of what was written."""

FLUSH_PAUSE_SECONDS: Final = 0.01
"""How long is waited between two looks at whether it has."""


COMPACTION_BEGINS_SECONDS: Final = 0.05
"""How long RocksDB may take to look what was written in a range that it is to compact."""


OPEN_TABLES_MAX: Final = 1_000
"""Maximum number of tables that RocksDB keeps open: 64 GB at their usual size. It reopens others to read them."""

OPEN_TABLES_LEAST: Final = 32
"""The same if the system allows few open files. A compaction reads about this many tables at once."""

OTHER_FILES: Final = 48
"""Other open files: write-ahead logs, the manifest, and further tables of a compaction."""


def open_tables(allowed: int) -> int:
    """Return the number of tables that RocksDB keeps open if the process may have `allowed` open files."""
    return max(OPEN_TABLES_LEAST, min(OPEN_TABLES_MAX, allowed // 4))


STOPPED: Final = "Shutdown in progress"
"""RocksDB's error for a flush after its work in the background was cancelled."""


class Batch(Protocol):
    """What one write does, in order."""

    def put(self, key: bytes, value: bytes) -> None:
        """Have a record there."""

    def delete(self, key: bytes) -> None:
        """Have none there."""

    def delete_range(self, begin: bytes, end: bytes) -> None:
        """Have none there whose key is not below `begin` and below `end`."""


class RocksDB(Protocol):
    """What the log needs of RocksDB; tests put their own in its place."""

    def batch(self) -> Batch:
        """A new batch, to be filled and written once."""

    def write(self, batch: Any) -> None:
        """Write all of a batch of this engine, or nothing. A crash of the system may still take it back."""

    def sync(self) -> None:
        """Return when everything that was written is on the disk."""

    def flush(self) -> None:
        """Return when everything that was written is in tables. Any thread may ask for that."""

    @property
    def behind(self) -> bool:
        """Whether nothing should be written for now: what was is not brought into its order as fast."""

    @property
    def records(self) -> int:
        """How many records there are, by estimate."""

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The records under these keys as they were written last; None: there is none. Any thread may ask."""

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All records in the order of their keys. May end early where something is damaged: look for `END_KEY`."""

    @property
    def table_bytes(self) -> int:
        """How much the tables take on the disk."""

    @property
    def gave_up(self) -> bool:
        """Whether work in the background has failed, and is not tried again before the directory is opened anew."""

    def compact(self, begin: bytes, end: bytes, *, alone: bool) -> None:
        """Give back the room of what was deleted among these keys. Takes as long as it takes, in any thread.

        alone: whether nothing else is to be merged meanwhile.
        """

    def stop_compacting(self) -> None:
        """Have that end soon; the engine is closed next."""

    def close(self) -> None:
        """Let the directory go, also where this raises."""

    def abandon(self) -> None:
        """Never touch it again, not at this process' end either: it was opened by the one that this was forked from."""


def wait_while_behind(engine: RocksDB) -> None:
    """Return when there is something to be written again. Raises `OSError` when that takes too long."""
    end = time.monotonic() + BEHIND_SECONDS_MAX
    while engine.behind:
        if time.monotonic() > end:
            raise OSError(f"RocksDB was behind for {BEHIND_SECONDS_MAX:g} seconds")
        time.sleep(BEHIND_PAUSE_SECONDS)


class RocksEngine:
    """RocksDB in a directory.

    `write` holds the interpreter, `sync` lets it go: so a commit is one of each. It also holds it while RocksDB has
    writes wait, so that must never happen: whoever writes looks at `behind` before.

    RocksDB never begins a new log by itself, but only in `_begin_log`, when all before is on the disk: else a power
    failure could take the end of one log and leave the beginning of the next. And each batch says what was on the disk
    (see `wal`).

    One thread writes; `flush` may be called by another one.
    """

    def __init__(self, database: "Rdict", place: lock.Place, memtable_bytes: int) -> None:
        """place: what was claimed for it. memtable_bytes: written before a new log begins."""
        from rocksdict import WriteBatch

        self._let_go = weakref.finalize(self, lock.let_go, place)
        self._new_batch = WriteBatch
        self._database = database
        self._memtable_bytes = memtable_bytes
        self._logged = 0  # bytes in the newest log
        self._synced = database.latest_sequence_number()  # what was there at the start is in tables
        self._writing = threading.Lock()  # nothing is written while a new log begins
        self._flushing = threading.Lock()  # rocksdict cannot close what another thread is within
        self._stopped = False  # whether everything is in tables, and RocksDB refuses to flush again

    def batch(self) -> Batch:
        """A new batch."""
        return self._new_batch(raw_mode=True)

    def write(self, batch: Any) -> None:
        """Write all of it or nothing."""
        with self._writing:
            if self._logged >= self._memtable_bytes:
                self._begin_log(wait=False)
            batch.put(SYNCED_KEY, SYNCED.pack(self._database.latest_sequence_number(), self._synced))
            self._logged += batch.size_in_bytes()
            self._database.write(batch)

    def _begin_log(self, *, wait: bool) -> None:
        """Have RocksDB make tables of what was written, and begin a new log. wait: until it has."""
        self.sync()
        self._database.flush(wait=wait)
        self._logged = 0

    def sync(self) -> None:
        """Return when everything that was written is on the disk."""
        written = self._database.latest_sequence_number()
        self._database.flush_wal(sync=True)
        self._synced = written

    def flush(self) -> None:
        """Return when everything that was written is in tables, while others go on writing.

        Raises `OSError` when RocksDB cannot, or takes too long.
        """
        with self._flushing:
            with self._writing:
                self._begin_log(wait=False)
            end = time.monotonic() + FLUSH_SECONDS_MAX
            while self._database.property_int_value("rocksdb.num-immutable-mem-table"):
                if self.gave_up:
                    raise OSError("RocksDB could not write its tables")
                if time.monotonic() > end:
                    raise OSError(f"RocksDB has not written its tables in {FLUSH_SECONDS_MAX:g} seconds")
                time.sleep(FLUSH_PAUSE_SECONDS)

    @property
    def behind(self) -> bool:
        """Whether there are too many memtables or files that wait."""
        memtables = self._database.property_int_value("rocksdb.num-immutable-mem-table") or 0
        files = int(self._database.property_value("rocksdb.num-files-at-level0") or 0)
        return memtables >= BEHIND_MEMTABLES or files >= BEHIND_FILES

    @property
    def records(self) -> int:
        """How many records there are, by estimate."""
        return self._database.property_int_value("rocksdb.estimate-num-keys") or 0

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The records under these keys. Lets the interpreter go, as reading a single one would not."""
        return self._database.get(list(keys))  # type: ignore[return-value]  # in raw mode they are bytes

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All records."""
        return iter(self._database.items())  # type: ignore[arg-type]  # in raw mode they are bytes

    @property
    def table_bytes(self) -> int:
        """How much the tables take."""
        return self._database.property_int_value("rocksdb.live-sst-files-size") or 0

    @property
    def gave_up(self) -> bool:
        """Whether work in the background has failed; of a disk that was full RocksDB wants more room than there may be
        before it tries again."""
        return bool(self._database.property_int_value("rocksdb.background-errors"))

    def compact(self, begin: bytes, end: bytes, *, alone: bool) -> None:
        """Give back the room of what was deleted.

        It begins with making a table of what was written there and is not in one, and then a log would begin. So there
        is nothing: it is flushed before, and nothing is written until RocksDB has looked.
        """
        from rocksdict import CompactOptions

        options = CompactOptions()
        options.set_exclusive_manual_compaction(alone)
        with self._unless_stopped():
            self._compact(begin, end, options)

    def _compact(self, begin: bytes, end: bytes, options: "CompactOptions") -> None:
        self.flush()
        begun = threading.Timer(COMPACTION_BEGINS_SECONDS, self._writing.release)
        begun.daemon = True
        self._writing.acquire()
        try:
            self._begin_log(wait=True)
            begun.start()
        except BaseException:
            self._writing.release()
            raise
        self._database.compact_range(begin, end, options)

    def stop_compacting(self) -> None:
        """Have that end soon."""
        with contextlib.suppress(Exception):
            self.flush()  # as `close` does, which cannot any more then
            self._stopped = True
        self._database.cancel_all_background(True)

    @contextlib.contextmanager
    def _unless_stopped(self) -> Iterator[None]:
        """Suppress the error by which RocksDB refuses to flush after `stop_compacting` has flushed everything."""
        try:
            yield
        except Exception as error:
            if not (self._stopped and STOPPED in str(error)):
                raise

    def close(self) -> None:
        """Let the directory go."""
        try:
            with self._flushing, self._unless_stopped():
                self._database.close()
        except Exception as error:  # it flushes: what it could not write is in its log, or was said to have failed
            logger.error("RocksDB did not close in good order: %s", error)
        self._let_go()

    def abandon(self) -> None:
        """Never touch it again: a reference too many keeps its destructor from running."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._database))


def memory_bytes(memory_limit: int) -> int:
    """Return the bytes of a memory limit that count for RocksDB: memtables and the block cache."""
    if memory_limit <= UNCOUNTED_BYTES:
        return 0
    taken = MEMTABLES_COUNTED * _memtable_bytes(PLENTY, memory_limit) + _cache_bytes(memory_limit)
    return min(taken, (memory_limit - UNCOUNTED_BYTES) // 4)


def open_rocksdb(directory: Path, limit: int | None = None, *, memory_limit: int | None = None) -> RocksDB:
    """RocksDB in this directory, which is made if it is not there, for its owner only.

    limit: bytes that it is to have at most; None: as many as its file system.
    memory_limit: maximum bytes of memory of the store; with a limit, the store reads single records later, so memtables
    must be sorted. None: no limit.
    Raises `OptionError` when that cannot be: rocksdict is missing, another process has it, it is damaged, of another
    format, or something else's.
    """
    rocksdict = _rocksdict()
    directory = directory.absolute()  # under which it is told from others, wherever this process goes
    _not_in_a_fork()
    try:
        str(directory).encode()
    except UnicodeEncodeError:
        name = os.fsencode(directory).decode(errors="backslashreplace")
        raise OptionError(
            f"cannot keep a store in {name}: the name is not UTF-8, which rocksdict needs; choose another name"
        ) from None
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = lock.claim(directory)
    except OSError as error:
        raise cannot_keep(directory, error) from None
    try:
        room = total_room(directory, limit)
        database = _opened(directory, lambda: rocksdict.Rdict(str(directory), _options(room, memory_limit)))
        engine = RocksEngine(database, place, _memtable_bytes(room, memory_limit))
    except OSError as error:
        lock.let_go(place)
        raise cannot_keep(directory, error) from None
    except BaseException:
        lock.let_go(place)
        raise
    try:
        _check_format(directory, engine, database)
    except BaseException:
        engine.close()
        raise
    return engine


def _opened(directory: Path, new: Callable[[], "Rdict"]) -> "Rdict":
    """RocksDB, once its logs have been looked at."""
    try:
        with lock.locked(directory):
            _look_at(directory)
            cut = mend_logs(directory)
        try:
            return new()
        except Exception as error:  # that is all that rocksdict says of its class
            if "Corruption" not in str(error):
                raise
            with lock.locked(directory):
                cut = mend_logs(directory, thorough=True)
            if not cut:
                raise
        finally:
            if cut:
                logger.warning("%s: what was left of unfinished writes is cut off, %s bytes", directory, f"{cut:,}")
        return new()
    except OptionError:
        raise
    except wal.Damaged as damage:
        raise OptionError(_damaged(directory, str(damage))) from None
    except OSError as error:
        raise cannot_keep(directory, error) from None
    except Exception as error:
        raise OptionError(_why(directory, str(error))) from None


def open_to_read(directory: Path, *, lenient: bool = False) -> "Rdict":
    """RocksDB in this directory, for reading only. RocksDB itself writes nothing there; rocksdict a file of its own.

    lenient: leave out what is damaged in the write-ahead log. Raises what RocksDB raises.
    """
    rocksdict = _rocksdict()
    _not_in_a_fork()
    options = _options()
    options.create_if_missing(False)
    if lenient:
        options.set_wal_recovery_mode(rocksdict.DBRecoveryMode.skip_any_corrupted_record())
    database: Rdict = rocksdict.Rdict(str(directory), options, access_type=rocksdict.AccessType.read_only(False))
    return database


def rebuild(directory: Path) -> None:
    """Have RocksDB make a new MANIFEST from whatever tables and logs it can read. What it cannot read it sets aside.

    Raises what RocksDB raises.
    """
    _rocksdict().Rdict.repair(str(directory), _options())


def _rocksdict() -> Any:
    try:
        import rocksdict
    except ImportError as error:
        raise missing_package(error, "a store on disk") from None
    return rocksdict


_opened_by: int | None = None
"""The process in which RocksDB was opened first. Its threads are there, and in no process forked from it."""


def _not_in_a_fork() -> None:
    """Refuse to open RocksDB in a child of a process that had it; see that such children end in good order."""
    global _opened_by
    if _opened_by is None:
        _opened_by = os.getpid()
        os.register_at_fork(after_in_child=_end_without_destructors)
    elif _opened_by != os.getpid():
        raise OptionError(
            "a store on disk was open in the process that this one was forked from, and RocksDB's threads did not come "
            "along: open it in a new process instead, as multiprocessing does with the start method spawn"
        )


def _end_without_destructors() -> None:
    """Have this forked process end, once Python is done, without what RocksDB does at a process' end.

    It would wait for threads that are not there, and has been seen to crash. `on_exit` is glibc's; elsewhere such a
    child has to end by `os._exit`, as those of multiprocessing do.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):
        libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)


def _memtable_bytes(room: int, memory_limit: int | None) -> int:
    """Less than usual where there is little room or memory: a log is as long as that, and so is a table."""
    return max(MEMTABLE_BYTES_LEAST, min(MEMTABLE_BYTES, room // 128, (memory_limit or PLENTY) // MEMTABLE_PART))


def _cache_bytes(memory_limit: int | None) -> int:
    return max(CACHE_BYTES_LEAST, min(CACHE_BYTES, (memory_limit or PLENTY) // CACHE_PART))


def _options(room: int = PLENTY, memory_limit: int | None = None) -> "Options":
    """memory_limit: see `open_rocksdb`.

    room: bytes that the store may use. With little room, compactions are smaller: their output has to fit beside their
    input in the room that is left when writes stop.
    """
    from rocksdict import BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, MemtableFactory, Options

    reads = memory_limit is not None
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_paranoid_checks(True)
    tables = BlockBasedOptions()
    tables.set_block_cache(Cache(_cache_bytes(memory_limit)))
    if reads:
        tables.set_bloom_filter(FILTER_BITS, False)
    options.set_block_based_table_factory(tables)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_write_buffer_size(MEMTABLE_FACTOR * _memtable_bytes(room, memory_limit))
    if not reads:
        # Nothing is read before the next start, so writes are only noted, and sorted when they become a file.
        options.set_memtable_factory(MemtableFactory.vector())
        options.set_allow_concurrent_memtable_write(False)
    # Writes never wait within RocksDB: see `RocksEngine`.
    options.set_max_write_buffer_number(MEMTABLES_MAX)
    options.set_level_zero_slowdown_writes_trigger(10 * BEHIND_FILES)
    options.set_level_zero_stop_writes_trigger(10 * BEHIND_FILES)
    options.set_soft_pending_compaction_bytes_limit(0)
    options.set_hard_pending_compaction_bytes_limit(0)
    options.set_max_total_wal_size(max(MEMTABLE_BYTES_LEAST, min(LOG_BYTES_MAX, room // 16)))
    options.set_target_file_size_base(max(MEMTABLE_BYTES_LEAST, min(TABLE_BYTES, room // 256)))
    options.set_max_bytes_for_level_base(max(4 * MEMTABLE_BYTES_LEAST, min(4 * TABLE_BYTES, room // 32)))
    options.set_max_compaction_bytes(max(4 * MEMTABLE_BYTES_LEAST, min(25 * TABLE_BYTES, room // 32)))
    options.set_max_open_files(open_tables(_allowed_files()))
    options.set_manifest_preallocation_size(MANIFEST_STEP_BYTES)
    options.set_max_log_file_size(OWN_LOG_BYTES)
    options.set_keep_log_file_num(2)
    options.set_stats_dump_period_sec(0)
    return options


def _allowed_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4 * OPEN_TABLES_MAX if soft == resource.RLIM_INFINITY else soft


def _look_at(directory: Path) -> None:
    """Refuse a directory that something else lives in, or that has lost what RocksDB begins with."""
    names = sorted(path.name for path in directory.iterdir())
    if "CURRENT" not in names:
        strange = [
            name
            for name in names
            if not name.startswith(HARMLESS)
            and not name.endswith(".dbtmp")
            and not (name.endswith(".log") and not (directory / name).stat().st_size)
        ]
        if strange:
            raise OptionError(
                f"{directory} has files and is no store of cairnkv, or a damaged one: {', '.join(strange[:3])}. "
                "Name a directory that is empty or not there yet"
            )


def mend_logs(directory: Path, *, thorough: bool = False) -> int:
    """Cut off what a power failure has left of writes that were not on the disk yet; how many bytes that was.

    Then have the disk know all that is left, since RocksDB begins another log. Raises `wal.Damaged`.
    """
    cut = 0
    logs = sorted(directory.glob("*.log"), key=lambda path: (len(path.name), path.name))  # by number
    logs = [path for path in logs if path.stat().st_size]
    for log in [*_manifest(directory), *logs]:
        cut += wal.mend(log, newest=log not in logs[:-1], thorough=thorough)
        with log.open("rb") as file:
            os.fsync(file.fileno())
    return cut


def _manifest(directory: Path) -> list[Path]:
    """The list of files that counts, if there is one."""
    try:
        name = (directory / "CURRENT").read_bytes().strip().decode(errors="replace")
    except FileNotFoundError:
        return []
    manifest = directory / name
    return [manifest] if name.startswith(wal.MANIFEST) and manifest.is_file() else []  # if not, RocksDB says so


def _check_format(directory: Path, engine: RocksDB, database: Any) -> None:
    """Refuse a format that this version does not know; write ours where there is nothing yet."""
    try:
        stored = database.get(FORMAT_KEY)
        if stored is None:
            if next(engine.items(), None) is not None:
                raise OptionError(f"{directory} is a RocksDB of something else: it says no format of cairnkv")
            batch = engine.batch()
            batch.put(FORMAT_KEY, b"%d" % FORMAT)
            batch.put(END_KEY, b"")
            engine.write(batch)
            engine.sync()
            _sync_directory(directory.parent)
            return
    except OptionError:
        raise
    except Exception as error:
        raise OptionError(_why(directory, str(error))) from None
    if stored != b"%d" % FORMAT:
        raise OptionError(
            f"{directory} has format {stored.decode(errors='replace')} and this version of cairnkv knows {FORMAT}: "
            "open it with the version that wrote it, or a newer one"
        )


def _sync_directory(directory: Path) -> None:
    """Have the disk know that the new directory is there."""
    with contextlib.suppress(OSError):  # not every file system can
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cannot_keep(directory: Path, error: OSError) -> OptionError:
    """Return the error for a system call that fails."""
    return OptionError(f"cannot keep a store in {directory}: {in_words(error)}")


_OF_THE_SYSTEM: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE)
"""Errors of permissions or of the system, which do not prove damage to the files."""


def _why(directory: Path, text: str) -> str:
    for number in _OF_THE_SYSTEM:
        if text.endswith(os.strerror(number)):  # RocksDB writes FILE: ERROR
            file = text.rpartition(": ")[0].rpartition(": ")[2]
            return str(cannot_keep(directory, OSError(number, os.strerror(number), file)))
    if "LOCK" in text and "lock" in text:
        return str(lock.taken(directory, lock.holder(directory)))
    if "Corruption" in text:
        return _damaged(directory, text)
    if (directory / "CURRENT").exists():
        return (
            f"{directory} cannot be opened, and nothing was changed: {text}. "
            "If files are missing there or were changed, restore a copy from before"
        )
    return f"cannot keep a store in {directory}: {text}"


def _damaged(directory: Path, text: str) -> str:
    return (
        f"{directory} is damaged, and nothing was changed: {text}. "
        f"`cairn check {directory}` says how far it goes; restore a backup into another directory (cairn restore), or "
        f"save what can be read (cairn repair {directory} NEW)"
    )


def damaged(directory: Path, text: str) -> OptionError:
    """What to raise for records that are not as they were written."""
    return OptionError(_damaged(directory, text))
