# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The native path to the hash table of a database, for the native paths of both protocols.

A batch takes hold of the table with `begin`, reads and changes entries with the functions of `table_native.pxd`, and
releases it with `end`. No Python code runs in between. The keys of commands that were read together can be announced
first (`announce`, `prefetch`), so that the processor prefetches memory for several look-ups at once.

Invariants: dicts are changed only through CPython's API. Keys and values stay bytes of a frame until one must be
stored; the look-up of an existing key creates no object.

If replies wait for commits, a batch collects the effects and undos of its changes, and passes both on at its end. For
each command it determines the commit that the reply waits for. In the replicated mode the log comes first, so a batch
collects only effects.

Out of scope: protocols (`executor_native.pyx`), and rare cases: buckets that a change would split or empty. There the
functions refuse, without a change. The first and the last expiry of a tick are added and removed in Python.
"""

from cairnkv.engine.expiry import TICK_BITS
from cairnkv.engine.table import BUCKET_KEYS, EXPIRY_BYTES, ENTRY_BYTES, Bucket

cdef extern from "Python.h":
    ctypedef struct PyListObject:
        PyObject **ob_item

cdef extern from "layout.h":
    Py_ssize_t cairn_slot_offset(PyObject *descriptor)


def found_directly(dict dictionary, bytes key):
    """Return the value found without the dict's own look-up, or None if that is needed. For tests."""
    cdef PyObject *stored = NULL
    cdef const unsigned char *data = key
    cdef PyObject *value = cairn_find(<PyObject *>dictionary, cairn_hash(data, len(key)), data, len(key), &stored)
    return None if value is NULL else <object>value


def crc(bytes key):
    """Return the CRC-32 of a key, as `cairnkv.engine.table.crc`. For tests."""
    return cairn_crc32(key, len(key))


cdef class NativeTable:
    """The table of one database, for batches. One batch at a time.

    now: log time of the current batch, in milliseconds.
    """

    def __init__(self, database, collector=None):
        """collector: receives effects, as `cairnkv.store.batch_undo.BatchUndo`; None: no reply waits for a commit."""
        self._database = database
        self._collector = collector
        self._pending = {} if collector is None else collector.pending
        self._queue_pending = {} if collector is None else collector.pending_of_queues
        self._db = database.number
        self._only_reads = collector is not None and collector.only_reads
        self._undoes = collector is None or collector.undoes
        self._values_at = slot_offset(Bucket, "values")
        self._expiries_at = slot_offset(Bucket, "expiries")
        self._order_at = slot_offset(Bucket, "order")
        self._bucket_keys = BUCKET_KEYS
        self._entry_bytes = ENTRY_BYTES
        self._expiry_bytes = EXPIRY_BYTES
        self._tick_bits = TICK_BITS
        self._number = database.number
        self._shared = database.shared
        self._versions_array = database.shared.versions
        if len(self._versions_array) != VERSION_SLOTS:
            raise AssertionError("VERSION_SLOTS of database.py and of table_native.pxd differ")
        self._versions = <int64_t *><size_t>self._versions_array.buffer_info()[0]  # the array never grows

    cdef bint begin(self, int64_t now) except -1:
        """Begin a batch at this time or at log time, whichever is later.

        Returns False if storage accepts no writes at present.
        """
        self.collecting = False
        if self._collector is not None:
            begun = self._collector.begin(now)
            if begun is None:
                return False
            self._its_sequence, self._floor = begun
            self.sequence = self._its_sequence
            self._effects, self._undos, self._queue_undos, self._effect_bytes = [], [], [], 0
            self._queue_effects = {}
            self._groups, self._effects_from = [], 0
            self.collecting = True
        self.take()
        if now > self.now:
            self.now = now
        return True

    cdef int take(self) except -1:
        """Begin a batch at log time, without a collector. No Python code runs here and in `end`."""
        self._table = self._database._table
        self._directory = self._table._directory
        self._index = self._database._expiries
        self._ticks = self._index._ticks
        self._entries = (<PyListObject *>self._directory).ob_item
        self._shift = self._table._shift
        self._keys = self._used = 0
        self._ahead_next = self._ahead_count = 0
        self.now = self._shared.now
        self.lead = self._shared.lead
        return 0

    cdef int end(self, bint executed) except -1:
        """End a batch. executed: whether a command was executed; then log time advances."""
        if executed and self.now != self._advanced:
            self._shared.now = self.now  # never earlier; a call of `advance` could release the GIL
            self._advanced = self.now
        if self._keys:
            self._table.keys += self._keys
        if self._used:
            self._table.used_bytes += self._used
        if self.collecting:
            self.collecting = False
            self.waiting = None
            if self._effects:
                if self._queue_undos:
                    self._collector.undo_queues(self._queue_undos)
                undos = self._undos if self._undoes else self._groups
                self.waiting = self._collector.end(self._effects, undos, self._effect_bytes)
            self._effects = self._undos = self._queue_undos = self._groups = None
        return 0

    cdef void prefetch(self) noexcept:
        """Make the processor prefetch memory for the look-ups of all announced keys, one step for all keys at a
        time."""
        cdef int item
        cdef Place *ahead = self._ahead
        for item in range(self._ahead_count):
            ahead[item].bucket = ahead[item].entry[0]
            CAIRN_FETCH(<char *>ahead[item].bucket + self._values_at)
        for item in range(self._ahead_count):
            ahead[item].values = cairn_slot(ahead[item].bucket, self._values_at)
            cairn_fetch_dict(ahead[item].values)
        for item in range(self._ahead_count):
            cairn_fetch_head(ahead[item].values)
        for item in range(self._ahead_count):
            cairn_fetch_index(ahead[item].values, ahead[item].hash)
        for item in range(self._ahead_count):
            cairn_fetch_entry(ahead[item].values, ahead[item].hash)
        for item in range(self._ahead_count):
            cairn_fetch_objects(ahead[item].values, ahead[item].hash)


def remove_pending(dict pending, list undos, int64_t sequence):
    """Remove the keys of committed or undone changes whose newest change has this sequence number."""
    cdef Py_ssize_t at
    cdef PyObject *found
    for at in range(0, len(undos), 3):
        found = PyDict_GetItemWithError(pending, undos[at])
        if found is not NULL and PyLong_AsLongLong(<object>found) == sequence:
            PyDict_DelItem(pending, undos[at])


cdef Py_ssize_t slot_offset(object cls, str name) except -1:
    """Return the offset of a slot in the objects of a class. Raises TypeError for another attribute."""
    cdef object descriptor = getattr(cls, name)
    cdef Py_ssize_t offset = cairn_slot_offset(<PyObject *>descriptor)
    if offset < 0:
        raise TypeError(f"{cls.__qualname__}.{name} is no slot")
    return offset


def _check_layout():
    """Raise ImportError unless this interpreter's dicts have the layout of layout.h."""
    cdef dict sample = {b"%d" % n: b"value %d" % n for n in range(BUCKET_KEYS)}
    found = [found_directly(sample, key) for key in sample]
    if any(value is not None and value is not sample[key] for key, value in zip(sample, found)):
        raise ImportError(
            "the native modules of cairnkv do not support the layout of dicts in this Python; "
            "set CAIRNKV__PURE=1 to use pure Python"
        )


_check_layout()
