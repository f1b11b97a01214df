# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The functions of `table_native.pyx`, which stand here so that a C compiler can put them where they are called.

Each says what it does of what the keyspace does, by the same rules; whatever is rare it leaves undone and says so,
and then the caller leaves it to the readable way.
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
    AHEAD_MAX = 32  # keys that are met before the first of them is looked up
    VERSION_SLOTS = 65536  # `cairnkv.engine.versions.VERSION_SLOTS`, which `NativeTable` holds it to

cdef struct Place:
    # Where a key is, or would be: its bytes, and the dict that they are looked up in.
    const unsigned char *key
    Py_ssize_t size
    uint32_t crc
    Py_hash_t hash
    PyObject **entry  # of the directory
    PyObject *bucket  # this and what follows: borrowed
    PyObject *values
    PyObject *value  # once it was looked up; NULL: there is none
    PyObject *stored  # the key object that the dict has for it; NULL: not known

cdef struct Terms:
    # On which a value is stored.
    int64_t ttl  # in milliseconds; 0: it does not expire
    bint if_absent
    bint if_present

cdef class NativeTable:
    cdef object _database
    cdef object _shared  # that of all keyspaces
    cdef int64_t _advanced  # what the keyspace was told last
    cdef int64_t *_versions  # those of all keyspaces
    cdef object _versions_array
    cdef uint32_t _number  # of the keyspace
    # How Python's objects are laid out:
    cdef Py_ssize_t _values_at, _expiries_at, _order_at
    # From `begin` to `end`:
    cdef object _table
    cdef list _directory
    cdef PyObject **_entries  # of the directory
    cdef int _shift
    cdef int64_t now, lead  # log time, and its lead over the clock
    cdef int64_t _keys, _used  # by how much they have changed
    cdef Place _ahead[AHEAD_MAX]
    cdef int _ahead_count, _ahead_next
    cdef object _index  # of deadlines
    cdef dict _ticks  # of the index
    cdef Py_ssize_t _bucket_keys, _entry_bytes, _expiry_bytes, _tick_bits
    # Where changes have a log to wait for:
    cdef object _staging  # None: they have not
    cdef dict _pending  # keys that were changed and are not committed, with the sequences that will be
    cdef object _db
    cdef bint staged  # whether this run's changes are gathered: as what they come to, and as what undoes them
    cdef bint _undoes  # whether anything may have to be undone; if not, nothing has to be waited for either
    cdef list _effects, _undos
    cdef Py_ssize_t _effect_bytes
    cdef Py_ssize_t _said_from  # where the effects of the command at hand begin
    cdef list _groups  # of the commands that have several effects: where they begin and end
    cdef object _its_sequence
    cdef int64_t sequence  # that the entry of this run will have, if there is one
    cdef list waiting  # behind `end`: where the replies go that wait for that entry; None: the staging knows
    cdef int64_t _floor  # that whatever shows a key has to wait for
    # Of the command at hand, set to 0 by whoever begins with one:
    cdef int64_t wait  # the sequence that its reply has to wait for; 0: none
    cdef bint wrote
    # Where values may be cold:
    cdef bint _only_reads  # nothing is changed here
    cdef bint found_cold  # since it was set to False: what was shown was wrong, and must not be said

    cdef bint begin(self, int64_t now) except -1
    cdef int take(self) except -1
    cdef int end(self, bint executed) except -1
    cdef void fetch(self) noexcept


# -- where a key is -------------------------------------------------------------------------------------------


cdef inline void _locate(NativeTable self, Place *place, const unsigned char *key, Py_ssize_t size) noexcept:
    place.crc = cairn_crc32(key, size)
    place.key = key
    place.size = size
    place.hash = cairn_hash(key, size)
    place.entry = self._entries + (<uint64_t>place.crc >> self._shift)


cdef inline void place_of(NativeTable self, Place *place, const unsigned char *key, Py_ssize_t size) noexcept:
    """Where the key is that stands here: as it was met, or anew. Nothing is looked up yet."""
    if self._ahead_next < self._ahead_count and self._ahead[self._ahead_next].key == key:
        place[0] = self._ahead[self._ahead_next]
        self._ahead_next += 1
    else:
        _locate(self, place, key, size)
    place.bucket = place.entry[0]
    place.values = cairn_slot(place.bucket, self._values_at)
    place.value = place.stored = NULL


cdef inline bint meet(NativeTable self, const unsigned char *key, Py_ssize_t size) noexcept:
    """Take note of a key that will be asked for soon; False when there is no room for more before `fetch`."""
    cdef Place *place = self._ahead + self._ahead_count
    if self._ahead_count == AHEAD_MAX:
        return False
    _locate(self, place, key, size)
    CAIRN_FETCH(place.entry)
    self._ahead_count += 1
    return True


cdef inline bytes _key_of(Place *place):
    """The key as an object: the one that the dict has, if it is known."""
    if place.stored is not NULL:
        return <bytes>place.stored
    return PyBytes_FromStringAndSize(<const char *>place.key, place.size)


# -- what is done there ---------------------------------------------------------------------------------------


cdef inline int look_up(NativeTable self, Place *place) except -1:
    """Find the entry, expired or not: `place.value`."""
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
    """Have the reply wait for the commits of whatever a key shows."""
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


cdef inline int stage(NativeTable self, bytes key, bytes value, object expiry, bytes old, object old_expiry) except -1:
    """Note that a key has this value and deadline instead of those; None: it is not there."""
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
    """A command was carried out that is not to be undone: what it comes to is one effect for each key, its last."""
    cdef Py_ssize_t end = PyList_GET_SIZE(self._effects)
    cdef list its
    cdef dict by_key
    if end > self._said_from + 1:
        its = self._effects[self._said_from :]
        by_key = {effect[1]: effect for effect in its}
        if len(by_key) < len(its):
            self._effects[self._said_from :] = list(by_key.values())
            end = PyList_GET_SIZE(self._effects)
        self._groups.append(self._said_from)
        self._groups.append(end)
    self._said_from = end
    return 0


cdef inline PyObject *visible(NativeTable self, Place *place) except? NULL:
    """`Database.get`: the value of a key that has not expired, borrowed; NULL when there is none."""
    cdef int64_t expiry
    look_up(self, place)
    if self.staged:
        await_commits(self, place)
    if place.value is not NULL and has_expiry(self, place, &expiry) and expiry <= self.now:
        return NULL
    if self._only_reads and place.value is not NULL and not PyBytes_CheckExact(<object>place.value):
        self.found_cold = True
        return NULL
    return place.value


cdef inline void changed(NativeTable self, Place *place) noexcept:
    """`Shared.changed`: the key has another version from now on."""
    self._versions[(place.crc + self._number) % VERSION_SLOTS] += 1


cdef inline int forget_expiry(NativeTable self, Place *place) except -1:
    """Let an entry that is there have no deadline, if it has one."""
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
        self._index.remove(key, expiry)  # the last one of its tick
    PyDict_DelItem(<object>cairn_slot(place.bucket, self._expiries_at), key)
    self._used -= self._expiry_bytes
    return 0


cdef inline int give_expiry(NativeTable self, Place *place, int64_t expiry) except -1:
    """Let an entry that was just put, and has none, have a deadline."""
    cdef PyObject *expiries = cairn_slot(place.bucket, self._expiries_at)
    cdef PyObject *keys = PyDict_GetItemWithError(self._ticks, expiry >> self._tick_bits)
    cdef object time = expiry
    cdef bytes key = _key_of(place)
    if keys is not NULL:
        PyDict_SetItem(<object>keys, key, time)
    else:
        self._index.add(key, time)  # the first one of its tick
    if <object>expiries is None:
        (<object>place.bucket).expiries = {key: time}
    else:
        PyDict_SetItem(<object>expiries, key, time)
    self._used += self._expiry_bytes
    if self.staged:
        self._effects[len(self._effects) - 1] = (self._db, key, <bytes>place.value, time)
    return 0


cdef inline int64_t after(NativeTable self, int64_t ttl) noexcept:
    """As `Shared.after`: return the log time after `ttl` milliseconds of elapsed time."""
    if self.lead == 0:
        return self.now + ttl
    return max(self.now + (ttl + 1) // 2, self.now - self.lead + ttl)


cdef inline bint can_put(NativeTable self, Place *place) except -1:
    """Return whether the native path can do `put`: no bucket splits."""
    if self._only_reads:
        return False
    if place.value is NULL:
        look_up(self, place)
    return place.value is not NULL or PyDict_Size(<object>place.values) < self._bucket_keys


cdef inline bint can_put_too(NativeTable self, Place *place, Py_ssize_t *new) except -1:
    """Whether `put` can be done here as well, behind others of the same command, before any of them is done.

    new: how many of those may be new keys, this one included from then on; all of them may be in one bucket.
    """
    if self._only_reads:
        return False
    new[0] += 1
    if PyDict_Size(<object>place.values) + new[0] <= self._bucket_keys:
        return True  # the bucket gets no new key
    look_up(self, place)
    new[0] -= place.value is not NULL
    return place.value is not NULL


cdef inline int put(NativeTable self, Place *place, const unsigned char *data, Py_ssize_t size, bint keeps=False) except -1:
    """`Database.put`, where `can_put` has said that it can be done; keeps: the deadline that there is."""
    return put_object(self, place, PyBytes_FromStringAndSize(<const char *>data, size), keeps)


cdef inline int put_object(NativeTable self, Place *place, bytes value, bint keeps=False) except -1:
    """`put`, of a value that is an object already."""
    cdef bytes key = _key_of(place), old = None
    cdef object old_expiry = None
    cdef int64_t expiry
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value), before
    if self.staged and place.value is not NULL:
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
            forget_expiry(self, place)
        PyDict_SetItem(<object>place.values, key, value)
        self._used += size - before
    if self.staged:
        stage(self, key, value, old_expiry if keeps else None, old, old_expiry)
    changed(self, place)
    place.value = place.stored = NULL  # whoever asks again looks it up again
    return 0


cdef inline int put_for(NativeTable self, Place *place, const unsigned char *data, Py_ssize_t size, int64_t ttl) except -1:
    """`put`, for so many milliseconds; 0: for good."""
    put(self, place, data, size)
    if ttl:
        look_up(self, place)
        give_expiry(self, place, after(self, ttl))
    return 0


cdef inline bint are_met(NativeTable self, Place *place, const Terms *terms) except -1:
    """Whether a value is to be stored under a key, on these terms."""
    if not terms.if_absent and not terms.if_present:
        return True
    return (visible(self, place) is NULL) == terms.if_absent


cdef inline bint can_drop(NativeTable self, Place *place, Py_ssize_t count) except -1:
    """Whether `drop` can be done here, `count` times: without a bucket to empty, or one that keeps an order.

    Nor may what is over be dropped where changes are gathered for good: nobody else may have it any more.
    """
    cdef int64_t due
    if PyDict_Size(<object>place.values) <= count or self._only_reads:
        return False
    if <object>cairn_slot(place.bucket, self._order_at) is not None:
        return False
    if not self.staged or self._undoes:
        return True
    look_up(self, place)
    return place.value is NULL or not has_expiry(self, place, &due) or due > self.now


cdef inline bint drop(NativeTable self, Place *place) except -1:
    """`Database.drop`, where `can_drop` has said that it can be done: whether the key was visible."""
    cdef bytes key
    cdef object expiry = None
    cdef int64_t due
    cdef bint seen = True
    look_up(self, place)
    if place.value is NULL:
        if self.staged:
            await_commits(self, place)
        return False
    key = _key_of(place)
    if has_expiry(self, place, &due):
        seen = due > self.now
        expiry = due
    if self.staged:
        stage(self, key, None, None, <bytes>place.value, expiry)
    forget_expiry(self, place)
    self._keys -= 1
    self._used -= self._entry_bytes + place.size + PyBytes_GET_SIZE(<object>place.value)
    PyDict_DelItem(<object>place.values, key)
    place.value = place.stored = NULL
    if seen:
        changed(self, place)
    return seen
