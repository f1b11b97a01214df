"""RocksDB: its options, its opening, and the interface that storage uses.

Invariants: there is one column family. RocksDB verifies checksums on every read and in every compaction. After a crash,
the write-ahead log may end in a torn record; any other damage is reported. rocksdict raises plain `Exception`, so this
module tells errors apart by their text.

Out of scope: the meaning of records (`record_format`), and the order of writes (`writer`).
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
from cairnkv.paths import os_error_text
from cairnkv.storage import lock, wal
from cairnkv.storage.base import STORAGE_PART
from cairnkv.storage.files import sync
from cairnkv.storage.record_format import END_KEY, FIRST_FORMAT, FORMAT, FORMAT_KEY, FORMATS, SYNCED, SYNCED_KEY
from cairnkv.storage.space import total_room

if TYPE_CHECKING:
    from rocksdict import Options, Rdict

logger: Final = logging.getLogger("cairnkv.disk")

CACHE_BYTES: Final = 8 * 1024 * 1024
"""RocksDB's block cache. It is small, since the store caches values itself."""

FILTER_BITS: Final = 10
"""Bits per key of bloom filters: 1 % false positives."""

CACHE_BYTES_LEAST: Final = 512 * 1024
CACHE_PART: Final = 32
"""The cache may use this part of a memory limit, if that is more than the minimum."""

MEMTABLE_BYTES: Final = 32 * 1024 * 1024
"""Bytes of writes after which they are flushed to a table and a new write-ahead log begins."""

MEMTABLE_PART: Final = 64
"""The maximum part of a memory limit for a memtable."""

MEMTABLES_COUNTED: Final = 4
"""Memtables that count towards a memory limit: the active one and one being flushed, each doubled for its index."""

UNCOUNTED_BYTES: Final = 16 * 1024 * 1024
"""Memory limit up to which RocksDB's memory does not count. Only tests have such small limits."""

MEMTABLE_FACTOR: Final = 4
"""RocksDB's own limit for a memtable, in multiples of `MEMTABLE_BYTES`. It is never reached."""

PLENTY: Final = 2**62
"""Bytes of disk space, if their number is unknown."""

TABLE_BYTES: Final = 64 * 1024 * 1024
"""Bytes of a table after a compaction; RocksDB's default."""

MEMTABLE_BYTES_LEAST: Final = 256 * 1024
"""The minimum of `MEMTABLE_BYTES`, used if there is little disk space or memory."""

MANIFEST_STEP_BYTES: Final = 64 * 1024
"""Bytes by which the MANIFEST file grows. RocksDB's default is 4 MiB."""

WAL_BYTES_MAX: Final = 256 * 1024 * 1024
"""Maximum bytes of the write-ahead log, which is read at a start after a crash."""

MESSAGE_FILE_BYTES: Final = 1024 * 1024
"""Maximum bytes of each of two files for RocksDB's messages."""

HARMLESS: Final = ("LOG", "LOCK", "IDENTITY", "MANIFEST", "OPTIONS", "rocksdict-config.json")
"""Prefixes of the names of files that RocksDB creates in a directory before the first write."""

BEHIND_MEMTABLES: Final = 3
"""RocksDB is behind if this many memtables wait for a flush. Nothing is written until there are fewer."""

BEHIND_FILES: Final = 40
"""RocksDB is behind if this many tables wait for a compaction."""

MEMTABLES_MAX: Final = 2 * BEHIND_MEMTABLES
"""Memtables at which RocksDB itself would block writes, and with them this process (see the class `RocksDB`)."""

BEHIND_SECONDS_MAX: Final = 60.0
"""Maximum time for which RocksDB may be behind; after that, a write fails."""

BEHIND_PAUSE_SECONDS: Final = 0.01
"""Interval of checks whether RocksDB is still behind."""

FLUSH_SECONDS_MAX: Final = 120.0
"""Maximum time for a flush."""

FLUSH_PAUSE_SECONDS: Final = 0.01
"""Interval of checks whether the flush has ended."""

COMPACTION_BEGINS_SECONDS: Final = 0.05
"""Time in which RocksDB checks the memtables at the beginning of a compaction."""

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
"""RocksDB's error for a flush after its background work was cancelled."""


class Batch(Protocol):
    """The operations of one write, in order."""

    def put(self, key: bytes, value: bytes) -> None:
        """Put a record."""

    def delete(self, key: bytes) -> None:
        """Delete a record."""

    def delete_range(self, begin: bytes, end: bytes) -> None:
        """Delete the records with begin <= key < end."""


class RocksDB:
    """RocksDB in a directory.

    `write` holds the GIL, `sync` releases it; so a commit is one of each. `write` would also hold the GIL while RocksDB
    blocks writes, which must never happen: check `behind` before.

    RocksDB never begins a new write-ahead log (WAL) by itself. `_begin_wal` does, after all earlier data was fsynced;
    else a power failure could lose the end of one WAL and keep the beginning of the next. Each batch records the data
    that was fsynced (see `wal`).

    One thread writes; another one may call `flush`.
    """

    def __init__(self, database: "Rdict", place: lock.Place, memtable_bytes: int) -> None:
        """place: the claimed directory. memtable_bytes: bytes of a WAL."""
        from rocksdict import WriteBatch

        self._release = weakref.finalize(self, lock.release, place)
        self._new_batch = WriteBatch
        self._database = database
        self._memtable_bytes = memtable_bytes
        self._wal_bytes = 0  # bytes of the newest WAL
        self._synced = database.latest_sequence_number()  # at the start, all data is in tables
        self._writing = threading.Lock()  # no writes while a new WAL begins
        self._flushing = threading.Lock()  # rocksdict cannot close during a call of another thread
        self._stopped = False  # whether all data is in tables, and RocksDB refuses to flush

    def batch(self) -> Batch:
        """Return a new batch, to be written once."""
        return self._new_batch(raw_mode=True)

    def write(self, batch: Any) -> None:
        """Write a batch atomically. A crash of the system may lose it before `sync`."""
        with self._writing:
            if self._wal_bytes >= self._memtable_bytes:
                self._begin_wal(wait=False)
            batch.put(SYNCED_KEY, SYNCED.pack(self._database.latest_sequence_number(), self._synced))
            self._wal_bytes += batch.size_in_bytes()
            self._database.write(batch)

    def _begin_wal(self, *, wait: bool) -> None:
        """Flush, and begin a new WAL. wait: whether to wait for the flush."""
        self.sync()
        self._database.flush(wait=wait)
        self._wal_bytes = 0

    def sync(self) -> None:
        """Fsync all written data."""
        written = self._database.latest_sequence_number()
        self._database.flush_wal(sync=True)
        self._synced = written

    def flush(self) -> None:
        """Write all data to tables. Any thread may call this. Writes may continue meanwhile.

        Raises `OSError` if RocksDB fails or takes too long.
        """
        with self._flushing:
            with self._writing:
                self._begin_wal(wait=False)
            end = time.monotonic() + FLUSH_SECONDS_MAX
            while self._database.property_int_value("rocksdb.num-immutable-mem-table"):
                if self.gave_up:
                    raise OSError("RocksDB cannot write its tables")
                if time.monotonic() > end:
                    raise OSError(f"RocksDB did not write its tables in {FLUSH_SECONDS_MAX:g} seconds")
                time.sleep(FLUSH_PAUSE_SECONDS)

    @property
    def behind(self) -> bool:
        """Whether too many memtables or tables wait, so that nothing should be written now."""
        memtables = self._database.property_int_value("rocksdb.num-immutable-mem-table") or 0
        files = int(self._database.property_value("rocksdb.num-files-at-level0") or 0)
        return memtables >= BEHIND_MEMTABLES or files >= BEHIND_FILES

    @property
    def records(self) -> int:
        """The estimated number of records."""
        return self._database.property_int_value("rocksdb.estimate-num-keys") or 0

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the newest records of these keys; None: absent. Any thread may call this.

        Releases the GIL; a read of a single key would not.
        """
        return self._database.get(list(keys))  # type: ignore[return-value]  # in raw mode they are bytes

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all records in key order. May end early at damage: check for `END_KEY`."""
        return iter(self._database.items())  # type: ignore[arg-type]  # in raw mode they are bytes

    @property
    def table_bytes(self) -> int:
        """Bytes of all tables on disk."""
        return self._database.property_int_value("rocksdb.live-sst-files-size") or 0

    @property
    def gave_up(self) -> bool:
        """Whether background work has failed, and is not retried before the directory is reopened.

        After a full disk, RocksDB retries only with more free space than there may be.
        """
        return bool(self._database.property_int_value("rocksdb.background-errors"))

    def compact(self, begin: bytes, end: bytes, *, alone: bool) -> None:
        """Free the disk space of deleted records in a range. May take long; any thread may call this.

        alone: whether other compactions wait.
        A compaction flushes memtables with keys of the range, and would then begin a new WAL. So all memtables are
        flushed before, and nothing is written until RocksDB has checked them.
        """
        from rocksdict import CompactOptions

        options = CompactOptions()
        options.set_exclusive_manual_compaction(alone)
        with self._unless_stopped():
            self.flush()
            begun = threading.Timer(COMPACTION_BEGINS_SECONDS, self._writing.release)
            begun.daemon = True
            self._writing.acquire()
            try:
                self._begin_wal(wait=True)
                begun.start()
            except BaseException:
                self._writing.release()
                raise
            self._database.compact_range(begin, end, options)

    def stop_compacting(self) -> None:
        """Stop compactions soon, since RocksDB is closed next."""
        with contextlib.suppress(Exception):
            self.flush()  # `close` cannot flush after this
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
        """Release the directory, even if this raises."""
        try:
            with self._flushing, self._unless_stopped():
                self._database.close()
        except Exception as error:  # failed flush: the data is in the WAL, or was reported as failed
            logger.error("RocksDB did not close cleanly: %s", error)
        self._release()

    def abandon(self) -> None:
        """Never touch the directory again, also at exit: the parent of this forked process has opened it.

        An extra reference prevents the destructor.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._database))


def wait_while_behind(rocksdb: RocksDB) -> None:
    """Wait until RocksDB is no longer behind. Raises `OSError` after too long a time."""
    end = time.monotonic() + BEHIND_SECONDS_MAX
    while rocksdb.behind:
        if time.monotonic() > end:
            raise OSError(f"RocksDB was behind for {BEHIND_SECONDS_MAX:g} seconds")
        time.sleep(BEHIND_PAUSE_SECONDS)


def memory_bytes(memory_limit: int) -> int:
    """Return the bytes of a memory limit that count for RocksDB: memtables and the block cache."""
    if memory_limit <= UNCOUNTED_BYTES:
        return 0
    taken = MEMTABLES_COUNTED * _memtable_bytes(PLENTY, memory_limit) + _cache_bytes(memory_limit)
    return min(taken, (memory_limit - UNCOUNTED_BYTES) // STORAGE_PART)


def open_rocksdb(directory: Path, limit: int | None = None, *, memory_limit: int | None = None) -> RocksDB:
    """Open RocksDB in a directory. A missing directory is created, with access for its owner only.

    limit: maximum bytes of the directory; None: the size of its file system. memory_limit: maximum bytes of memory of
    the store; with a limit, the store reads single records, so memtables must be sorted. None: no limit. Raises
    `OptionError` if rocksdict is missing, if another process has the directory open, or if the directory is damaged,
    has another format or belongs to another program.
    """
    rocksdict = _rocksdict()
    directory = directory.absolute()  # so that a change of the working directory does not matter
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
        rocksdb = RocksDB(database, place, _memtable_bytes(room, memory_limit))
    except OSError as error:
        lock.release(place)
        raise cannot_keep(directory, error) from None
    except BaseException:
        lock.release(place)
        raise
    try:
        _check_format(directory, rocksdb, database)
    except BaseException:
        rocksdb.close()
        raise
    return rocksdb


def _opened(directory: Path, new: Callable[[], "Rdict"]) -> "Rdict":
    """Open RocksDB, after its WALs were repaired."""
    try:
        with lock.locked(directory):
            _check_files(directory)
            cut = repair_wals(directory)
        try:
            return new()
        except Exception as error:  # rocksdict raises plain `Exception`
            if "Corruption" not in str(error):
                raise
            with lock.locked(directory):
                cut = repair_wals(directory, thorough=True)
            if not cut:
                raise
        finally:
            if cut:
                logger.warning("%s: %s bytes of unfinished writes were cut off", directory, f"{cut:,}")
        return new()
    except OptionError:
        raise
    except wal.Damaged as damage:
        raise damaged(directory, str(damage)) from None
    except OSError as error:
        raise cannot_keep(directory, error) from None
    except Exception as error:
        raise _cannot_open(directory, str(error)) from None


def open_to_read(directory: Path, *, lenient: bool = False) -> "Rdict":
    """Open RocksDB read-only. RocksDB writes nothing to the directory; rocksdict writes one file.

    lenient: skip damaged records of the write-ahead log. Raises exceptions of RocksDB.
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
    """Create a new MANIFEST from all tables and WALs that RocksDB can read. It moves unreadable files away.

    Raises exceptions of RocksDB.
    """
    _rocksdict().Rdict.repair(str(directory), _options())


def _rocksdict() -> Any:
    try:
        import rocksdict
    except ImportError as error:
        raise missing_package(error, "a store on disk") from None
    return rocksdict


_opened_by: int | None = None
"""The process that first opened RocksDB. Processes forked from it do not have RocksDB's threads."""


def _not_in_a_fork() -> None:
    """Refuse to open RocksDB in a forked process whose parent has opened it. Make such processes exit cleanly."""
    global _opened_by
    if _opened_by is None:
        _opened_by = os.getpid()
        os.register_at_fork(after_in_child=_exit_without_destructors)
    elif _opened_by != os.getpid():
        raise OptionError(
            "cannot open a store on disk: the parent of this forked process has had one open, and a fork does not copy "
            "RocksDB's threads. Use a new process, as multiprocessing does with the start method spawn"
        )


def _exit_without_destructors() -> None:
    """Make this forked process exit without RocksDB's destructors.

    They would wait for missing threads, or crash. `on_exit` is a function of glibc; elsewhere such a process must exit
    by `os._exit`, as children of multiprocessing do.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):
        libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)


def _memtable_bytes(room: int, memory_limit: int | None) -> int:
    """Return the bytes of a memtable, a WAL and a new table. Fewer if there is little disk space or memory."""
    return max(MEMTABLE_BYTES_LEAST, min(MEMTABLE_BYTES, room // 128, (memory_limit or PLENTY) // MEMTABLE_PART))


def _cache_bytes(memory_limit: int | None) -> int:
    return max(CACHE_BYTES_LEAST, min(CACHE_BYTES, (memory_limit or PLENTY) // CACHE_PART))


def _options(room: int = PLENTY, memory_limit: int | None = None) -> "Options":
    """Return the options of RocksDB. memory_limit: see `open_rocksdb`.

    room: bytes of disk space for the store. With little space, compactions are smaller: when writes stop, their output
    must fit beside their input.
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
        # Nothing is read before the next start, so memtables are sorted only by a flush.
        options.set_memtable_factory(MemtableFactory.vector())
        options.set_allow_concurrent_memtable_write(False)
    # RocksDB never blocks writes: see the class `RocksDB`.
    options.set_max_write_buffer_number(MEMTABLES_MAX)
    options.set_level_zero_slowdown_writes_trigger(10 * BEHIND_FILES)
    options.set_level_zero_stop_writes_trigger(10 * BEHIND_FILES)
    options.set_soft_pending_compaction_bytes_limit(0)
    options.set_hard_pending_compaction_bytes_limit(0)
    options.set_max_total_wal_size(max(MEMTABLE_BYTES_LEAST, min(WAL_BYTES_MAX, room // 16)))
    options.set_target_file_size_base(max(MEMTABLE_BYTES_LEAST, min(TABLE_BYTES, room // 256)))
    options.set_max_bytes_for_level_base(max(4 * MEMTABLE_BYTES_LEAST, min(4 * TABLE_BYTES, room // 32)))
    options.set_max_compaction_bytes(max(4 * MEMTABLE_BYTES_LEAST, min(25 * TABLE_BYTES, room // 32)))
    options.set_max_open_files(open_tables(_allowed_files()))
    options.set_manifest_preallocation_size(MANIFEST_STEP_BYTES)
    options.set_max_log_file_size(MESSAGE_FILE_BYTES)
    options.set_keep_log_file_num(2)
    options.set_stats_dump_period_sec(0)
    return options


def _allowed_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4 * OPEN_TABLES_MAX if soft == resource.RLIM_INFINITY else soft


def _check_files(directory: Path) -> None:
    """Refuse a directory that has other files, or has lost the file with which RocksDB begins."""
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
                f"{directory} is not a store of cairnkv, or a damaged one: it has other files "
                f"({', '.join(strange[:3])}). Use an empty or a new directory"
            )


def repair_wals(directory: Path, *, thorough: bool = False) -> int:
    """Cut off the remains of writes that were not fsynced before a power failure. Returns the number of bytes.

    Fsyncs the WALs afterwards, since RocksDB begins another one. Raises `wal.Damaged`.
    """
    cut = 0
    wals = sorted(directory.glob("*.log"), key=lambda path: (len(path.name), path.name))  # by number
    wals = [path for path in wals if path.stat().st_size]
    for path in [*_manifest(directory), *wals]:
        cut += wal.repair(path, newest=path not in wals[:-1], thorough=thorough)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return cut


def _manifest(directory: Path) -> list[Path]:
    """Return the current MANIFEST, if there is one."""
    try:
        name = (directory / "CURRENT").read_bytes().strip().decode(errors="replace")
    except FileNotFoundError:
        return []
    manifest = directory / name
    return [manifest] if name.startswith(wal.MANIFEST) and manifest.is_file() else []  # if not, RocksDB reports it


def _check_format(directory: Path, rocksdb: RocksDB, database: Any) -> None:
    """Refuse unknown formats. Write the format to an empty store."""
    try:
        stored = database.get(FORMAT_KEY)
        if stored is None:
            if next(rocksdb.items(), None) is not None:
                raise OptionError(f"{directory} is a RocksDB of another program: it has no format record of cairnkv")
            batch = rocksdb.batch()
            batch.put(FORMAT_KEY, b"%d" % FIRST_FORMAT)
            batch.put(END_KEY, b"")
            rocksdb.write(batch)
            rocksdb.sync()
            sync(directory.parent)
            return
    except OptionError:
        raise
    except Exception as error:
        raise _cannot_open(directory, str(error)) from None
    if stored not in FORMATS:
        raise OptionError(
            f"{directory} has format {stored.decode(errors='replace')}, and this version of cairnkv supports up to "
            f"{FORMAT}: open it with the version that wrote it, or a newer one"
        )


def cannot_keep(directory: Path, error: OSError) -> OptionError:
    """Return the error for a system call that fails."""
    return OptionError(f"cannot keep a store in {directory}: {os_error_text(error)}")


_OF_THE_SYSTEM: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE)
"""Error codes that do not prove damage to the files."""


def _cannot_open(directory: Path, text: str) -> OptionError:
    """Return the error for an error of RocksDB."""
    for number in _OF_THE_SYSTEM:
        if text.endswith(os.strerror(number)):  # RocksDB writes FILE: ERROR
            file = text.rpartition(": ")[0].rpartition(": ")[2]
            return cannot_keep(directory, OSError(number, os.strerror(number), file))
    if "LOCK" in text and "lock" in text:
        return lock.taken(directory, lock.holder(directory))
    if "Corruption" in text:
        return damaged(directory, text)
    if (directory / "CURRENT").exists():
        return OptionError(
            f"cannot open {directory}; nothing was changed: {text}. "
            "If files are missing or were changed, restore a backup"
        )
    return OptionError(f"cannot keep a store in {directory}: {text}")


def damaged(directory: Path, text: str) -> OptionError:
    """Return the error for damaged records."""
    return OptionError(
        f"{directory} is damaged; nothing was changed: {text}. "
        f"Find the damage with `cairn check {directory}`; restore a backup into another directory (cairn restore), or "
        f"copy all readable data to a new store (cairn repair {directory} NEW)"
    )
