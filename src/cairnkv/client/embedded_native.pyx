# cython: language_level=3
"""Direct calls: `get`, `set` and the like on an embedded store, without a command, a lock or a reply.

A direct call has a key that is text or bytes, and no options. All other calls use the pure path: `Embedded`, `Shared`,
`LocalStore`. Tests hold results, errors, counts and databases of both equal.

Invariants: a direct call runs no Python code from its check of `_busy` to its end, so it keeps the interpreter's lock,
no exception of a signal or of another thread ends it, and no other code sees half of it. Direct calls run only while no
thread runs the pure path. That path gets the counts and the log time of direct calls before it runs. On disk only reads
are direct, and only while no commit is pending, so that they show only committed values.

Out of scope: stores with a memory limit, and interpreters without a lock.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Size
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_AsUTF8String, PyUnicode_CheckExact, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t

from cairnkv.engine.table_native cimport (
    NativeTable,
    Place,
    cairn_fetch_alone,
    can_put,
    has_expiry,
    place_of,
    put_object,
    visible,
)

from cairnkv.store.clock_native cimport NativeClock

from functools import partial

from cairnkv.client import process
from cairnkv.client.calls import UNSET as _UNSET
from cairnkv.client.codec import Bytes, Text
from cairnkv.client.embedded import CALLS_PER_SLICE as _CALLS_PER_SLICE
from cairnkv.client.embedded import Embedded
from cairnkv.limits import KEY_MAX as _KEY_MAX
from cairnkv.limits import VALUE_MAX as _VALUE_MAX

cdef object UNSET = _UNSET
cdef object PURE = Embedded
cdef int CALLS_PER_SLICE = _CALLS_PER_SLICE
cdef int64_t UNBOUNDED = 1 << 62
cdef Py_ssize_t KEY_MAX = _KEY_MAX
cdef Py_ssize_t VALUE_MAX = _VALUE_MAX

cdef enum Form:
    # The codec of values: one of two that this module implements, or another one.
    TEXT
    BYTES
    OTHER


cdef bytes _utf8(object text):
    """Return the bytes of a text; None if it has no UTF-8 encoding."""
    try:
        return PyUnicode_AsUTF8String(text)
    except UnicodeEncodeError:
        return None


cdef bytes _name(object key):
    """Return the bytes of a key; None if the pure path must check it."""
    cdef bytes name = None
    if PyUnicode_CheckExact(key):
        name = _utf8(key)
    elif PyBytes_CheckExact(key):
        name = <bytes>key
    return name if name is not None and 1 <= PyBytes_GET_SIZE(name) <= KEY_MAX else None


cdef class Tally:
    """The counts of direct calls (`cairnkv.store.base.DirectExecutor`)."""

    cdef public int64_t commands, writes
    cdef readonly int64_t hits, misses  # not counted: only servers show them
    cdef public bint off


@cython.auto_pickle(False)  # Cython's `__reduce__` would hide that of `KeyValue`
cdef class DirectCalls:
    """The direct calls, and the checks before them. A base of `DirectEmbedded`; `PURE` is its other base."""

    cdef Tally _tally
    cdef NativeTable _table
    cdef NativeClock _clock
    cdef object _codec
    cdef Form _form
    cdef object _engine
    cdef object _threads_share  # the `Shared` of that store
    cdef int _busy  # number of calls on the pure path, or waiting for its lock
    cdef bint _broken  # an interrupted call: the next pure-Python call undoes it
    cdef int _generation  # of the process of these calls
    cdef bint _held  # whether direct calls have the table: from `take` to `end`
    cdef int64_t _visits  # number of calls that used the pure path
    cdef bint _tidy  # whether no housekeeping is left, and direct calls alone make none
    cdef int64_t _granted  # number of direct calls before the next slice of housekeeping, while `_held`
    cdef int64_t _left  # the rest of `_granted`
    cdef dict _uncommitted  # uncommitted keys; None: the store is in memory, and callers execute their calls
    cdef object _gate  # the store's commit gate
    cdef object _time  # has the log time

    def __init__(self, store, keys, values):
        PURE.__init__(self, store, keys, values)
        self._tally = Tally()
        store.add_executor(self._tally)
        self._codec = values
        self._form = TEXT if type(values) is Text else BYTES if type(values) is Bytes else OTHER
        self._threads_share = self._shared
        self._generation = process.generation
        self._uncommitted = None
        self._use(store)
        self._shared.around = self._around
        if not store.allows_direct_calls:
            self._gate = store.gate
            self._uncommitted = self._gate.uncommitted
            self._time = store.database.shared

    cdef int _use(self, store) except -1:
        # Python code runs here, and an exception may end it: the attributes change only after it, together.
        table, clock = NativeTable(store.database), NativeClock(store.log_clock)
        self._table, self._clock, self._engine = table, clock, store
        return 0

    @property
    def direct_calls(self):
        """Number of direct calls; for tests."""
        return self._tally.commands

    # -- direct or pure ---------------------------------------------------------------------------------------

    cdef bint _may(self) except -1:
        """Return whether the call can be direct. If so, the log time has advanced, and direct calls have the table."""
        cdef int64_t now = self._clock.milliseconds()  # first: a clock may be Python code, and other threads may run
        if self._busy != 0 or self._broken or not self._clock.in_step(now):
            return False
        if self._uncommitted is not None and (
            PyDict_Size(self._uncommitted) > 0
            or process.generation != self._threads_share._generation  # constant for a store on disk
            or self._engine.checks_commands
            or (self._time.expiring and now > self._gate.recorded_time)
        ):
            return False
        if not self._held:
            if self._threads_share._closed:
                return False
            self._granted = UNBOUNDED if self._tidy else CALLS_PER_SLICE - 1 - self._threads_share._calls % CALLS_PER_SLICE
            self._left = self._granted
            self._table.take()
            self._held = True
        if self._left == 0:
            return False
        if now > self._table.now:
            self._table.now = now
        return True

    cdef inline void _count(self) noexcept:
        self._left -= 1
        self._tally.commands += 1

    cdef int _leave(self) except -1:
        """Begin a call on the pure path. There are no direct calls until `_busy` is 0 again."""
        cdef int generation = process.generation
        if generation != self._generation:
            # The threads of the parent process that were on the pure path are not in this process.
            self._generation = generation
            self._busy = 0
        self._busy += 1
        self._visits += 1
        self._tidy = False
        if self._held:
            self._held = False
            self._table.end(True)
            self._threads_share._calls += self._granted - self._left
        return 0

    cdef int _come_back(self) except -1:
        """End a call on the pure path. After a slice of housekeeping, check whether more is left."""
        cdef int64_t visits = self._visits
        try:
            if self._threads_share._store is not self._engine:
                self._use(self._threads_share._store)  # the call before was interrupted
            self._broken = self._engine.under_way is not None
            if self._busy == 1 and self._threads_share._calls % CALLS_PER_SLICE == 0:
                tidy = self._engine.needs_no_housekeeping  # Python code: another thread may have run
                self._tidy = tidy and self._visits == visits
        finally:
            self._busy -= 1
        return 0

    def _around(self, function):
        """Call a function that uses the store on the pure path."""
        self._leave()
        try:
            return function()
        finally:
            self._come_back()

    cdef object _pure(self, function, argument):
        """Call a method of `PURE`. For a store on disk, its thread calls `_around`."""
        if self._uncommitted is not None:
            return function(self, argument)
        self._leave()
        try:
            return function(self, argument)
        finally:
            self._come_back()

    def _do(self, call):
        if call.command.waiting_time():
            return PURE._do(self, call)  # it calls `_around` before and behind its wait
        return self._pure(PURE._do, call)

    def _execute_all(self, pending):
        self._pure(PURE._execute_all, pending)

    def close(self):
        return PURE.close(self) if self._uncommitted is not None else self._around(partial(PURE.close, self))

    # -- values -----------------------------------------------------------------------------------------------

    cdef bytes _encoded(self, object value):
        """Return the bytes of a value; None if the codec must encode or refuse it."""
        cdef bytes data = None
        if self._form == TEXT and PyUnicode_CheckExact(value):
            data = _utf8(value)
        elif self._form == BYTES and PyBytes_CheckExact(value):
            data = <bytes>value
        return data if data is not None and PyBytes_GET_SIZE(data) <= VALUE_MAX else None

    cdef object _decoded(self, PyObject *found):
        cdef object data = <object>found  # our own reference: a codec may run other threads
        if self._form == BYTES:
            return data
        if self._form == TEXT:
            try:
                return PyUnicode_DecodeUTF8(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), NULL)
            except UnicodeDecodeError:
                pass  # the codec raises its own error
        return self._codec.decode(data)

    # -- calls ------------------------------------------------------------------------------------------------

    cdef bint _find(self, object key, PyObject **found) except -1:
        """Look a key up if the call can be direct. `found` is borrowed, and NULL if the key is absent."""
        cdef bytes name = _name(key)
        cdef Place place
        if name is None or not self._may():
            return False
        place_of(self._table, &place, <const unsigned char *>name, PyBytes_GET_SIZE(name))
        cairn_fetch_alone(place.values, place.hash)
        found[0] = visible(self._table, &place)
        if found[0] is not NULL and not PyBytes_CheckExact(<object>found[0]):
            return False  # only a wrong codec stores another type
        self._count()
        return True

    cdef bint _store(self, object key, object value) except -1:
        """Store a value under a key if the call can be direct."""
        cdef bytes name = _name(key), data
        cdef Place place
        cdef int64_t expiry
        if name is None or self._uncommitted is not None:
            return False
        data = self._encoded(value)
        if data is None or not self._may():
            return False
        place_of(self._table, &place, <const unsigned char *>name, PyBytes_GET_SIZE(name))
        cairn_fetch_alone(place.values, place.hash)
        if not can_put(self._table, &place):
            return False
        if place.value is not NULL and has_expiry(self._table, &place, &expiry):
            return False  # removing the expiry may be Python code
        if place.value is NULL:
            place.stored = <PyObject *>name  # a new key: the table keeps this object
        put_object(self._table, &place, data)
        self._count()
        self._tally.writes += 1
        return True

    def get(self, key, default=None, *, clear=False, ttl=None, persist=False):
        cdef PyObject *found
        if clear is False and ttl is None and persist is False and self._find(key, &found):
            return default if found is NULL else self._decoded(found)
        return PURE.get(self, key, default, clear=clear, ttl=ttl, persist=persist)

    def set(self, key, value, *, ttl=None, keep_ttl=False, if_absent=False, if_present=False, if_equals=UNSET):
        if (
            ttl is None
            and keep_ttl is False
            and if_absent is False
            and if_present is False
            and if_equals is UNSET
            and self._store(key, value)
        ):
            return True
        return PURE.set(
            self,
            key,
            value,
            ttl=ttl,
            keep_ttl=keep_ttl,
            if_absent=if_absent,
            if_present=if_present,
            if_equals=if_equals,
        )

    def exists(self, key):
        cdef PyObject *found
        if self._find(key, &found):
            return found is not NULL
        return PURE.exists(self, key)

    def _item(self, key):
        cdef PyObject *found
        if not self._find(key, &found):
            return PURE.__getitem__(self, key)
        if found is NULL:
            raise KeyError(key)
        return self._decoded(found)

    def _set_item(self, key, value):
        if not self._store(key, value):
            PURE.__setitem__(self, key, value)

    def _contains(self, key):
        cdef PyObject *found
        if self._find(key, &found):
            return found is not NULL
        return PURE.__contains__(self, key)


class DirectEmbedded(DirectCalls, Embedded):
    """A store in this process whose plain calls are direct."""

    # Defined here, they are slots of a class with two bases; defined above, calls would make a tuple of arguments.
    __getitem__ = DirectCalls._item
    __setitem__ = DirectCalls._set_item
    __contains__ = DirectCalls._contains


def _take_docstrings():
    """Copy the docstrings of the pure Python calls to the direct calls."""
    slots = {"_item": "__getitem__", "_set_item": "__setitem__", "_contains": "__contains__"}
    for name in ("get", "set", "exists", "close", *slots):
        getattr(DirectCalls, name).__doc__ = getattr(Embedded, slots.get(name, name)).__doc__


_take_docstrings()
