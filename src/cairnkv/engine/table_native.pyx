# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled way to a keyspace's table: what the hot path of any wire does with keys and values.

A run takes hold of the table with `begin`, looks keys up and changes entries with the functions of `table_native.pxd`,
and lets go with `end`. Between the two no Python code runs. The keys of commands that were read together can be made
known first (`meet`, `fetch`), so that the processor fetches what the look-ups will read while others are at work.

What always holds: dicts are changed through CPython's interface only. A key and a value are the bytes of a frame,
until one has to be stored; no object is made to look a key up that is there.

Where changes have a log to wait for, a run gathers what they come to and what would undo them, and hands both over at
its end; and for each command it finds out which commits the reply has to wait for. Where the log has come first, as in
a cluster, it gathers only what they come to.

Not for wires (`executor_native.pyx`), and not for what is rare: buckets that a change would split or empty. There the
functions say that they cannot, and nothing was changed. The first deadline of a second, and the last, are brought to
the index in Python.
"""

from cairnkv.engine.expiry import TICK_BITS
from cairnkv.engine.versions import VERSION_SLOTS as _VERSION_SLOTS
from cairnkv.engine.table import BUCKET_KEYS, EXPIRY_BYTES, ENTRY_BYTES, Bucket

cdef extern from "Python.h":
    ctypedef struct PyListObject:
        PyObject **ob_item

cdef extern from "layout.h":
    Py_ssize_t cairn_slot_offset(PyObject *descriptor)


def found_directly(dict dictionary, bytes key):
    """The value that is found without the dict's own look-up, None when it has to be asked; for tests."""
    cdef PyObject *stored = NULL
    cdef const unsigned char *data = key
    cdef PyObject *value = cairn_find(<PyObject *>dictionary, cairn_hash(data, len(key)), data, len(key), &stored)
    return None if value is NULL else <object>value


def crc(bytes key):
    """What `cairnkv.engine.table.crc` says, as it is computed here; for tests."""
    return cairn_crc32(key, len(key))


cdef class NativeTable:
    """The table of one keyspace, for runs. One run at a time.

    now: log time in the run at hand, in milliseconds.
    """

    def __init__(self, database, staging=None):
        """staging: what a `cairnkv.store.batch_undo.BatchUndo` is, where changes have a log to wait for."""
        self._database = database
        self._staging = staging
        self._pending = {} if staging is None else staging.pending
        self._db = database.number
        self._only_reads = staging is not None and staging.only_reads
        self._undoes = staging is None or staging.undoes
        self._values_at = _offset(Bucket, "values")
        self._expiries_at = _offset(Bucket, "expiries")
        self._order_at = _offset(Bucket, "order")
        self._bucket_keys = BUCKET_KEYS
        self._entry_bytes = ENTRY_BYTES
        self._expiry_bytes = EXPIRY_BYTES
        self._tick_bits = TICK_BITS
        self._number = database.number
        self._shared = database.shared
        self._versions_array = database.shared.versions
        if _VERSION_SLOTS != VERSION_SLOTS or len(self._versions_array) != VERSION_SLOTS:
            raise AssertionError("the versions of keys have another number of slots")
        self._versions = <int64_t *><size_t>self._versions_array.buffer_info()[0]  # it never grows

    cdef bint begin(self, int64_t now) except -1:
        """Take hold of the table as it is, at this time or, if that is later, at log time.

        False: the log takes nothing at present, so nothing can be changed here.
        """
        self.staged = False
        if self._staging is not None:
            said = self._staging.begin(now)
            if said is None:
                return False
            self._its_sequence, self._floor = said
            self.sequence = self._its_sequence
            self._effects, self._undos, self._effect_bytes = [], [], 0
            self._groups, self._said_from = [], 0
            self.staged = True
        self.take()
        if now > self.now:
            self.now = now
        return True

    cdef int take(self) except -1:
        """`begin` at log time. Neither here nor in `end` does Python code run."""
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
        """Let go of it; the keyspace is told the time if anything was executed."""
        if executed and self.now != self._advanced:
            self._shared.now = self.now  # it is no earlier; calling `advance` could let other threads in
            self._advanced = self.now
        if self._keys:
            self._table.keys += self._keys
        if self._used:
            self._table.used_bytes += self._used
        if self.staged:
            self.staged = False
            self.waiting = None
            if self._effects:
                undos = self._undos if self._undoes else self._groups
                self.waiting = self._staging.stage(self._effects, undos, self._effect_bytes)
            self._effects = self._undos = self._groups = None
        return 0

    cdef void fetch(self) noexcept:
        """Let the processor fetch what looking up the keys that were met will read, one step for all at a time."""
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
    """The changes that these would undo are committed, or undone: nothing waits for this sequence any more."""
    cdef Py_ssize_t at
    cdef PyObject *found
    for at in range(0, len(undos), 3):
        found = PyDict_GetItemWithError(pending, undos[at])
        if found is not NULL and PyLong_AsLongLong(<object>found) == sequence:
            PyDict_DelItem(pending, undos[at])


cdef Py_ssize_t _offset(object cls, str name) except -1:
    """Where a slot is in the objects of a class. Raises TypeError if it is none."""
    cdef object descriptor = cls.__dict__[name]
    cdef Py_ssize_t offset = cairn_slot_offset(<PyObject *>descriptor)
    if offset < 0:
        raise TypeError(f"{cls.__qualname__}.{name} is no slot")
    return offset


def _try_out():
    """See whether this interpreter's dicts are laid out as layout.h says."""
    cdef dict sample = {b"%d" % n: b"value %d" % n for n in range(BUCKET_KEYS)}
    found = [found_directly(sample, key) for key in sample]
    if any(value is not None and value is not sample[key] for key, value in zip(sample, found)):
        raise ImportError(
            "the dicts of this Python are not laid out as cairnkv's compiled part knows them; "
            "set CAIRNKV__PURE=1 to do without it"
        )


_try_out()
