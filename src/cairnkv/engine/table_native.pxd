# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The inline functions of `table_native.pyx`, declared here so that the C compiler can inline them.

Each function names the method of the pure path whose rules it follows. It refuses rare cases without a change; then the
caller uses the pure path.
"""

from cpython.bytes cimport PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_DelItem, PyDict_GetItemWithError, PyDict_SetItem, PyDict_Size
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.long cimport PyLong_AsLongLong
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "crc32.h":
    uint32_t cairn_crc32(const unsigned char *data, size_t length) nogil

cdef extern from "layout.h":
    PyObject *cairn_slot(PyObject *object, Py_ssize_t offset) nogil
    int64_t cairn_int(object number) except? -1
    Py_hash_t cairn_hash(const unsigned char *data, Py_ssize_t size) nogil
    void CAIRN_FETCH(const void *address) nogil
    void cairn_fetch_dict(PyObject *dictionary) nogil
    void cairn_fetch_alone(PyObject *dictionary, Py_hash_t hash) nogil
    void cairn_fetch_head(PyObject *dictionary) nogil
    void cairn_fetch_index(PyObject *dictionary, Py_hash_t hash) nogil
    void cairn_fetch_entry(PyObject *dictionary, Py_hash_t hash) nogil
    void cairn_fetch_objects(PyObject *dictionary, Py_hash_t hash) nogil
    PyObject *cairn_find(PyObject *dictionary, Py_hash_t hash, const unsigned char *data, Py_ssize_t size,
                         PyObject **key) nogil

cdef enum:
    AHEAD_MAX = 32  # keys that are announced before the first of them is looked up
    VERSION_SLOTS = 65536  # as in `database.py`; `NativeTable` checks it

cdef struct Place:
    # A key, and the place where it is or would be.
    const unsigned char *key
    Py_ssize_t size
    uint32_t crc
    Py_hash_t hash
    PyObject **entry  # of the directory
    PyObject *bucket  # this and the following fields: borrowed references
    PyObject *values
    PyObject *value  # after the look-up; NULL: the key is absent
    PyObject *stored  # the key object in the dict; NULL: unknown

cdef struct Terms:
    # Conditions and time to live of a value to store.
    int64_t ttl  # in milliseconds; 0: no expiry
    bint if_absent
    bint if_present

cdef class NativeTable:
    cdef object _database
    cdef object _shared  # state of all databases
    cdef int64_t _advanced  # log time at the last `end`
    cdef int64_t *_versions  # of all databases
    cdef object _versions_array
    cdef uint32_t _number  # of the database
    # Offsets of slots of `Bucket`:
    cdef Py_ssize_t _values_at, _expiries_at, _order_at
    # From `begin` to `end`:
    cdef object _table
    cdef list _directory
    cdef PyObject **_entries  # of the directory
    cdef int _shift
    cdef int64_t now, lead  # log time, and its lead over the clock
    cdef int64_t _keys, _used  # changes of these numbers
    cdef int64_t hits, misses  # keys that commands that only read have found, and not found
    cdef Place _ahead[AHEAD_MAX]
    cdef int _ahead_count, _ahead_next
    cdef object _index  # of expiries
    cdef dict _ticks  # of the index
    cdef Py_ssize_t _bucket_keys, _entry_bytes, _expiry_bytes, _tick_bits
    # If replies wait for commits:
    cdef object _collector  # None: they do not
    cdef dict _pending  # sequence numbers of uncommitted changes, by key
    cdef object _db
    cdef bint collecting  # whether this batch collects its effects and undos
    cdef bint _undoes  # whether changes may be undone; if not, replies wait for nothing
    cdef list _effects, _undos
    cdef list _queue_undos  # as `_undos`, of the database of queues
    cdef dict _queue_effects  # by the key of a queue's record: index of its effect
    cdef dict _queue_pending  # as `_pending`, of the database of queues
    cdef Py_ssize_t _effect_bytes
    cdef Py_ssize_t _effects_from  # index of the first effect of the current command
    cdef list _groups  # begin and end of the effects of each command with several
    cdef object _its_sequence
    cdef int64_t sequence  # of this batch's entry, if it changes anything
    cdef list waiting  # after `end`: add the replies that wait for that entry here; None: give them to the collector
    cdef int64_t _floor  # minimum `wait` of each command that reads a key
    # Of the current command; the caller sets them to 0 before each command:
    cdef int64_t wait  # the sequence number that its reply waits for; 0: none
    cdef bint wrote
    # If values may be cold:
    cdef bint _only_reads  # the native path changes nothing
    cdef bint found_cold  # a cold value was read: the caller must discard the reply

    cdef bint begin(self, int64_t now) except -1
    cdef int take(self) except -1
    cdef int end(self, bint executed) except -1
    cdef void prefetch(self) noexcept

cdef Py_ssize_t slot_offset(object cls, str name) except -1


# -- locating keys --------------------------------------------------------------------------------------------


cdef inline void _locate(NativeTable self, Place *place, const unsigned char *key, Py_ssize_t size) noexcept:
    place.crc = cairn_crc32(key, size)
    place.key = key
    place.size = size
    place.hash = cairn_hash(key, size)
    place.entry = self._entries + (<uint64_t>place.crc >> self._shift)


cdef inline void place_of(NativeTable self, Place *place, const unsigned char *key, Py_ssize_t size) noexcept:
    """Locate a key, announced or not. Looks nothing up."""
    if self._ahead_next < self._ahead_count and self._ahead[self._ahead_next].key == key:
        place[0] = self._ahead[self._ahead_next]
        self._ahead_next += 1
    else:
        _locate(self, place, key, size)
    place.bucket = place.entry[0]
    place.values = cairn_slot(place.bucket, self._values_at)
    place.value = place.stored = NULL


cdef inline bint announce(NativeTable self, const unsigned char *key, Py_ssize_t size) noexcept:
    """Note a key that will be looked up soon. Returns False if `prefetch` must be called first."""
    cdef Place *place = self._ahead + self._ahead_count
    if self._ahead_count == AHEAD_MAX:
        return False
    _locate(self, place, key, size)
    CAIRN_FETCH(place.entry)
    self._ahead_count += 1
    return True


cdef inline bytes _key_of(Place *place):
    """Return the key as an object: the dict's own, if it is known."""
    if place.stored is not NULL:
        return <bytes>place.stored
    return PyBytes_FromStringAndSize(<const char *>place.key, place.size)


# -- reading and changing --------------------------------------------------------------------------------------


cdef inline int look_up(NativeTable self, Place *place) except -1:
    """Set `place.value` to the value, expired or not."""
    cdef bytes key
    place.value = cairn_find(place.values, place.hash, place.key, place.size, &place.stored)
    if place.value is NULL:
        key = _key_of(place)
        place.value = PyDict_GetItemWithError(<object>place.values, key)
    return 0


cdef inline bint has_expiry(NativeTable self, Place *place, int64_t *expiry) except -1:
    cdef PyObject *expiries = cairn_slot(place.bucket, self._expiries_at)
    cdef PyObject *found
    if <object>expiries is None:
        return False
    found = PyDict_GetItemWithError(<object>expiries, _key_of(place))
    if found is NULL:
        return False
    expiry[0] = PyLong_AsLongLong(<object>found)
    return True


cdef inline int await_commits(NativeTable self, Place *place) except -1:
    """Make the reply wait for uncommitted changes of the key."""
    cdef PyObject *found
    cdef int64_t sequence
    if self.wait < self._floor:
        self.wait = self._floor
    if PyDict_Size(self._pending) == 0:
        return 0
    found = PyDict_GetItemWithError(self._pending, _key_of(place))
    if found is not NULL:
        sequence = PyLong_AsLongLong(<object>found)
        if sequence > self.wait:
            self.wait = sequence
    return 0


cdef inline int collect(NativeTable self, bytes key, bytes value, object expiry, bytes old, object old_expiry) except -1:
    """Record a change of a key's value and expiry. value, old: None if the key is absent."""
    self._effects.append((self._db, key, value, expiry))
    if not self._undoes:
        self._effect_bytes += PyBytes_GET_SIZE(key) + (0 if value is None else PyBytes_GET_SIZE(value))
        return 0
    self._undos.append(key)
    self._undos.append(old)
    self._undos.append(old_expiry)
    self._effect_bytes += PyBytes_GET_SIZE(key) + (0 if value is None else PyBytes_GET_SIZE(value))
    PyDict_SetItem(self._pending, key, self._its_sequence)
    self.wait = self.sequence
    self.wrote = True
    return 0


cdef inline int end_command(NativeTable self) except -1:
    """End a command that cannot be undone: keep only its last effect on each key."""
    cdef Py_ssize_t end = PyList_GET_SIZE(self._effects)
    cdef list effects
    cdef dict by_key
    if end > self._effects_from + 1:
        effects = self._effects[self._effects_from :]
        by_key = {effect[1]: effect for effect in effects}
        if len(by_key) < len(effects):
            self._effects[self._effects_from :] = list(by_key.values())
            end = PyList_GET_SIZE(self._effects)
        self._groups.append(self._effects_from)
        self._groups.append(end)
    self._effects_from = end
    return 0


cdef inline PyObject *visible(NativeTable self, Place *place) except? NULL:
    """`Database.get`: return the value, borrowed; NULL if the key is absent or expired."""
    cdef int64_t expiry
    look_up(self, place)
    if self.collecting:
        await_commits(self, place)
    if place.value is not NULL and has_expiry(self, place, &expiry) and expiry <= self.now:
        return NULL
    if self._only_reads and place.value is not NULL and not PyBytes_CheckExact(<object>place.value):
        self.found_cold = True
        return NULL
    return place.value


cdef inline PyObject *read(NativeTable self, Place *place) except? NULL:
    """`visible` for a command that only reads: count a hit or a miss."""
    cdef PyObject *value = visible(self, place)
    if value is NULL:
        self.misses += 1
    else:
        self.hits += 1
    return value


cdef inline void changed(NativeTable self, Place *place) noexcept:
    """`Shared.changed`: give the key a new version."""
    self._versions[(place.crc + self._number) % VERSION_SLOTS] += 1


cdef inline int remove_expiry(NativeTable self, Place *place) except -1:
    """Remove the expiry of an existing key, if any."""
    cdef int64_t expiry
    cdef PyObject *keys
    cdef bytes key
    if not has_expiry(self, place, &expiry):
        return 0
    key = _key_of(place)
    keys = PyDict_GetItemWithError(self._ticks, expiry >> self._tick_bits)
    if keys is not NULL and PyDict_Size(<object>keys) > 1:
        PyDict_DelItem(<object>keys, key)
    else:
        self._index.remove(key, expiry)  # the last key of its tick
    PyDict_DelItem(<object>cairn_slot(place.bucket, self._expiries_at), key)
    self._used -= self._expiry_bytes
    return 0


cdef inline int add_expiry(NativeTable self, Place *place, int64_t expiry) except -1:
    """Set the expiry of a key that was just stored without one."""
    cdef PyObject *expiries = cairn_slot(place.bucket, self._expiries_at)
    cdef PyObject *keys = PyDict_GetItemWithError(self._ticks, expiry >> self._tick_bits)
    cdef object time = expiry
    cdef bytes key = _key_of(place)
    if keys is not NULL:
        PyDict_SetItem(<object>keys, key, time)
    else:
        self._index.add(key, time)  # the first key of its tick
    if <object>expiries is None:
        (<object>place.bucket).expiries = {key: time}
    else:
        PyDict_SetItem(<object>expiries, key, time)
    self._used += self._expiry_bytes
    if self.collecting:
        self._effects[len(self._effects) - 1] = (self._db, key, <bytes>place.value, time)
    return 0


cdef inline int64_t after(NativeTable self, int64_t ttl) noexcept:
    """`LogTime.after`: return the log time after `ttl` milliseconds of elapsed time."""
    if self.lead == 0:
        return self.now + ttl
    return max(self.now + (ttl + 1) // 2, self.now - self.lead + ttl)


cdef inline bint can_put(NativeTable self, Place *place) except -1:
    """Return whether `put` can be called: no bucket splits."""
    if self._only_reads:
        return False
    if place.value is NULL:
        look_up(self, place)
    return place.value is not NULL or PyDict_Size(<object>place.values) < self._bucket_keys


cdef inline bint can_put_too(NativeTable self, Place *place, Py_ssize_t *new) except -1:
    """Return whether `put` can be called for this key too, before it is called for other keys of the command.

    new: number of those keys that may be new and in one bucket; this call counts its key.
    """
    if self._only_reads:
        return False
    new[0] += 1
    if PyDict_Size(<object>place.values) + new[0] <= self._bucket_keys:
        return True  # the bucket has room
    look_up(self, place)
    new[0] -= place.value is not NULL
    return place.value is not NULL


cdef inline int put(NativeTable self, Place *place, const unsigned char *data, Py_ssize_t size, bint keeps=False) except -1:
    """`Database.put`, after `can_put`. keeps: whether the key keeps its expiry."""
    return put_object(self, place, PyBytes_FromStringAndSize(<const char *>data, size), keeps)


cdef inline int put_object(NativeTable self, Place *place, bytes value, bint keeps=False) except -1:
    """`put`, with a value that is an object."""
    cdef bytes key = _key_of(place), old = None
    cdef object old_expiry = None
    cdef int64_t expiry
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value), before
    if self.collecting and place.value is not NULL:
        old = <bytes>place.value
        if has_expiry(self, place, &expiry):
            old_expiry = expiry
    if place.value is NULL:
        PyDict_SetItem(<object>place.values, key, value)
        self._keys += 1
        self._used += self._entry_bytes + place.size + size
    else:
        before = PyBytes_GET_SIZE(<object>place.value)
        if not keeps:
            remove_expiry(self, place)
        PyDict_SetItem(<object>place.values, key, value)
        self._used += size - before
    if self.collecting:
        collect(self, key, value, old_expiry if keeps else None, old, old_expiry)
    changed(self, place)
    place.value = place.stored = NULL  # the next access looks it up again
    return 0


cdef inline int put_for(NativeTable self, Place *place, const unsigned char *data, Py_ssize_t size, int64_t ttl) except -1:
    """`put`, with a time to live in milliseconds; 0: no expiry."""
    put(self, place, data, size)
    if ttl:
        look_up(self, place)
        add_expiry(self, place, after(self, ttl))
    return 0


cdef inline bint are_met(NativeTable self, Place *place, const Terms *terms) except -1:
    """Return whether the key meets the conditions."""
    if not terms.if_absent and not terms.if_present:
        return True
    return (visible(self, place) is NULL) == terms.if_absent


cdef inline bint can_delete(NativeTable self, Place *place, Py_ssize_t count) except -1:
    """Return whether `delete_key` can be called `count` times: no bucket gets empty, and none is crowded.

    In the replicated mode an expired key cannot be deleted here, since other nodes may have removed it already.
    """
    cdef int64_t due
    if PyDict_Size(<object>place.values) <= count or self._only_reads:
        return False
    if <object>cairn_slot(place.bucket, self._order_at) is not None:
        return False
    if not self.collecting or self._undoes:
        return True
    look_up(self, place)
    return place.value is NULL or not has_expiry(self, place, &due) or due > self.now


cdef inline bint delete_key(NativeTable self, Place *place) except -1:
    """`Database.delete`, after `can_delete`. Returns whether the key existed."""
    cdef bytes key
    cdef object expiry = None
    cdef int64_t due
    cdef bint existed = True
    look_up(self, place)
    if place.value is NULL:
        if self.collecting:
            await_commits(self, place)
        return False
    key = _key_of(place)
    if has_expiry(self, place, &due):
        existed = due > self.now
        expiry = due
    if self.collecting:
        collect(self, key, None, None, <bytes>place.value, expiry)
    remove_expiry(self, place)
    self._keys -= 1
    self._used -= self._entry_bytes + place.size + PyBytes_GET_SIZE(<object>place.value)
    PyDict_DelItem(<object>place.values, key)
    place.value = place.stored = NULL
    if existed:
        changed(self, place)
    return existed
