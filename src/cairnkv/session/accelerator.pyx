# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled hot path: the common commands, straight from the bytes that were read to the bytes to send.

It handles a *prefix*: frames from the first on, until one that it does not know, that is not whole, or that asks
for something out of the ordinary; and says how many bytes that was. Whatever comes then goes the readable way,
`CommandDecoder` to `Store.execute` to `reply_parts`, which knows everything. So nothing is decided here: for any
bytes, however cut, replies and keyspace are those of the readable way, and tests hold the two equal.

What always holds: a frame is either done whole or not touched. No Python object is made per frame beyond the key
and the value, no exception, no call of Python code. The store commits at once, has no memory limit and keeps no
journal; a store for which that is not so has no accelerator.

Not for sockets (`cairnkv.server.poller`), and not for anything that is rare.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_DelItem, PyDict_GetItemWithError, PyDict_SetItem, PyDict_Size
from cpython.list cimport PyList_GET_ITEM
from cpython.long cimport PyLong_AsLongLong
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from cairnkv.keyspace.table import BUCKET_KEYS as _BUCKET_KEYS
from cairnkv.keyspace.table import ENTRY_BYTES as _ENTRY_BYTES
from cairnkv.limits import ARGUMENTS_MAX as _ARGUMENTS_MAX
from cairnkv.limits import KEY_MAX as _KEY_MAX
from cairnkv.limits import UNSENT_PAUSE as _UNSENT_PAUSE
from cairnkv.store import wall_clock

cdef extern from "crc32.h":
    void cairn_crc32_prepare() nogil
    uint32_t cairn_crc32(const unsigned char *data, size_t length) nogil

cdef extern from "ahead.h":
    void cairn_ahead_index(PyObject *dictionary, Py_hash_t hash) nogil
    void cairn_ahead_alone(PyObject *dictionary, Py_hash_t hash) nogil
    void cairn_ahead_entry(PyObject *dictionary, Py_hash_t hash) nogil
    void cairn_ahead_objects(PyObject *dictionary, Py_hash_t hash) nogil

cairn_crc32_prepare()

cdef Py_ssize_t BUCKET_KEYS = _BUCKET_KEYS
cdef Py_ssize_t ENTRY_BYTES = _ENTRY_BYTES
cdef Py_ssize_t ARGUMENTS_MAX = _ARGUMENTS_MAX
cdef Py_ssize_t KEY_MAX = _KEY_MAX
# Replies of one run. At this size a session would pause anyway; a longer reply goes the readable way.
cdef Py_ssize_t OUTPUT_MAX = _UNSENT_PAUSE
# Decimal digits of the numbers that INCR adds here: the sum of two of them always fits 64 signed bits.
cdef int DIGITS_MAX = 18

# The numbers of the vocabulary that are served here. A test holds them to `cairnkv.commands`.
cdef enum:
    GET = 0
    SET = 1
    CLEAR = 2
    PING = 3
    COUNTED_FROM = 16
    EXISTS = 20
    GET_MANY = 21
    SET_MANY = 22
    CLEAR_MANY = 23
    INCR = 24

SERVED = {
    "GET": GET, "SET": SET, "CLEAR": CLEAR, "PING": PING, "EXISTS": EXISTS,
    "GET_MANY": GET_MANY, "SET_MANY": SET_MANY, "CLEAR_MANY": CLEAR_MANY, "INCR": INCR,
}


cdef inline uint32_t be32(const unsigned char *at) noexcept nogil:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef inline void put_be32(char *at, Py_ssize_t number) noexcept nogil:
    at[0] = <char>(number >> 24)
    at[1] = <char>(number >> 16)
    at[2] = <char>(number >> 8)
    at[3] = <char>number


cdef int64_t wall_milliseconds() noexcept nogil:
    """What `cairnkv.store.wall_clock` says, without asking Python."""
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    return <int64_t>now.tv_sec * 1000 + now.tv_nsec // 1000000


cdef bint read_decimal(const unsigned char *text, Py_ssize_t length, int64_t *number) noexcept nogil:
    """Read what INCR counts with, if it is decimal text in its one form and short enough; False if it is not."""
    cdef bint negative = length > 1 and text[0] == c"-"
    cdef Py_ssize_t at = 1 if negative else 0
    cdef int64_t total = 0
    if not 1 <= length - at <= DIGITS_MAX or (text[at] == c"0" and length > 1):
        return False
    while at < length:
        if not c"0" <= text[at] <= c"9":
            return False
        total = total * 10 + (text[at] - c"0")
        at += 1
    number[0] = -total if negative else total
    return True


cdef int write_decimal(char *text, int64_t number) noexcept nogil:
    """Write decimal text of at most 20 characters; how many there are."""
    cdef char backwards[20]
    cdef int length = 0, at = 0, digit
    cdef uint64_t rest = <uint64_t>(-number) if number < 0 else <uint64_t>number
    while True:
        backwards[length] = <char>(c"0" + rest % 10)
        length += 1
        rest //= 10
        if rest == 0:
            break
    if number < 0:
        text[0] = c"-"
        at = 1
    for digit in range(length):
        text[at + digit] = backwards[length - 1 - digit]
    return at + length


cdef class Accelerator:
    """The hot path of one store. `run` does what it can of some bytes; `output` gives the replies to that.

    commands, writes: how many were executed here, and how many of them the log would have counted.
    """

    def __cinit__(self):
        self._out = <char *>PyMem_Malloc(OUTPUT_MAX)
        if self._out is NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self._out)

    def __init__(self, keyspace, clock):
        """keyspace: the store's. clock: gives the time in ms, once a run."""
        self._keyspace = keyspace
        self._clock = clock
        self._wall = clock is wall_clock

    def run(self, bytearray buffer, Py_ssize_t start, *, int width, tuple statuses, Py_ssize_t string_max,
            Py_ssize_t frame_max):
        """Execute frames of a buffer from `start` on; how many bytes they had.

        width: of the command numbers, 2 or 4. statuses: of success and failure. string_max, frame_max: bytes
        that a value and a frame may have. The replies stand in `output` until the next run.
        """
        cdef const unsigned char *data = <const unsigned char *>PyByteArray_AS_STRING(buffer) + start
        cdef Conversation conversation
        conversation.width = width
        conversation.success = statuses[0]
        conversation.failure = statuses[1]
        conversation.string_max = string_max
        conversation.frame_max = frame_max
        return self.execute(data, PyByteArray_GET_SIZE(buffer) - start, &conversation)

    def output(self):
        """The replies to the last run."""
        return self._out[: self._size]

    cdef int64_t time(self) except? -1:
        """The clock's time in ms; where that is not the system's, Python code runs."""
        return wall_milliseconds() if self._wall else self._clock()

    cdef int begin(self) except -1:
        """Take hold of the keyspace as it is. Until `end` nobody else may use it; no Python code runs in either."""
        self._table = self._keyspace._table
        self._directory = self._table._directory
        self._shift = self._table._shift
        self._now = self._keyspace.now
        self._keys = self._used = 0
        return 0

    cdef int end(self) except -1:
        """Let go of it: give it the time and the counts of what was done."""
        if self._now != self._keyspace.now:
            self._keyspace.now = self._now
        if self._keys:
            self._table.keys += self._keys
        if self._used:
            self._table.used_bytes += self._used
        return 0

    cdef PyObject *value_of(self, bytes key) except? NULL:
        """What GET finds, borrowed; NULL: nothing. From `begin` to `end`."""
        cdef object bucket = _bucket(self, <const unsigned char *>key, PyBytes_GET_SIZE(key))
        cairn_ahead_alone(<PyObject *>(<object>bucket.values), hash(key))
        return _visible(self, bucket, key)

    cdef bint store(self, bytes key, bytes value) except -1:
        """What SET does; False, and nothing is done, where that is for the readable way. From `begin` to `end`."""
        cdef object bucket = _bucket(self, <const unsigned char *>key, PyBytes_GET_SIZE(key))
        if not _can_put(self, bucket, key):
            return False
        _put(self, bucket, key, value)
        return True

    cdef Py_ssize_t execute(self, const unsigned char *data, Py_ssize_t length, Conversation *conversation) except -1:
        cdef Py_ssize_t at = 0, head = 1 + conversation.width, done
        cdef int64_t before, time = self.time()
        self._conversation = conversation
        self._size = 0
        self._ahead_next = self._ahead_count = 0
        self.begin()
        before = self._now
        if time > before:
            self._now = time
        try:
            while length - at >= head + 4:
                if self._ahead_next == self._ahead_count:
                    _look_ahead(self, data + at, head, length - at)
                done = _frame(self, data + at, head, length - at)
                if done == 0:
                    break
                at += done
                self.commands += 1
        finally:
            if not at:
                self._now = before  # nothing was executed, so no time has passed
            while self._ahead_next < self._ahead_count:
                Py_DECREF(<object>self._ahead[self._ahead_next].key)
                self._ahead_next += 1
            self.end()
        return at


# Each of the following gives how many bytes it has handled, or 0 when the frame is for the readable way.


cdef Py_ssize_t _frame(Accelerator self, const unsigned char *frame, Py_ssize_t head, Py_ssize_t length) except -1:
    cdef uint32_t number
    cdef Py_ssize_t done
    if frame[0]:
        return 0
    number = be32(frame + 1) if head == 5 else <uint32_t>frame[1] << 8 | frame[2]
    frame += head
    length -= head
    if number == GET:
        done = _get(self, frame, length)
    elif number == SET:
        done = _set(self, frame, length)
    elif number == CLEAR:
        done = _clear(self, frame, length)
    elif number == PING:
        done = _ping(self, frame, length)
    elif number == INCR:
        done = _incr(self, frame, length)
    elif number == GET_MANY:
        done = _get_many(self, frame, length)
    elif number == SET_MANY:
        done = _set_many(self, frame, length)
    elif number == CLEAR_MANY or number == EXISTS:
        done = _count_keys(self, frame, length, number == CLEAR_MANY)
    else:
        return 0
    return done + head if done else 0

# -- strings and replies --------------------------------------------------------------------------------


cdef inline Py_ssize_t _string(Accelerator self, const unsigned char *at, Py_ssize_t length, Py_ssize_t longest) noexcept:
    """The length of the string that stands here, or -1 when it is not whole or too long."""
    cdef Py_ssize_t size
    if length < 4:
        return -1
    size = be32(at)
    return size if size <= longest and size <= length - 4 else -1


cdef Py_ssize_t _whole(Accelerator self, const unsigned char *frame, Py_ssize_t length, Py_ssize_t *count) noexcept:
    """The length of a frame of counted strings, its head not included, or 0; and how many strings it has."""
    cdef Py_ssize_t at = 4, size, left
    count[0] = be32(frame)
    if count[0] > ARGUMENTS_MAX:
        return 0
    for left in range(count[0]):
        size = _string(self, frame + at, length - at, self._conversation.string_max)
        if size < 0:
            return 0
        at += 4 + size
    return at if at + 5 <= self._conversation.frame_max else 0


cdef inline char *_reply(Accelerator self, bint success, Py_ssize_t header, Py_ssize_t length) noexcept:
    """Room for a reply's payload behind its head, or NULL when there is none."""
    cdef char *at = self._out + self._size
    if length > OUTPUT_MAX - self._size - 6:
        return NULL
    at[0] = <char>header
    at[1] = <char>(self._conversation.success if success else self._conversation.failure)
    put_be32(at + 2, length)
    self._size += 6 + length
    return at + 6


cdef inline bint _reply_ok(Accelerator self) noexcept:
    cdef char *payload = _reply(self, True, 0, 2)
    if payload is NULL:
        return False
    memcpy(payload, b"OK", 2)
    return True


cdef inline bint _reply_number(Accelerator self, int64_t number) noexcept:
    cdef char text[20]
    cdef int length = write_decimal(text, number)
    cdef char *payload = _reply(self, True, 0, length)
    if payload is NULL:
        return False
    memcpy(payload, text, length)
    return True

# -- the table ------------------------------------------------------------------------------------------


cdef int _look_ahead(Accelerator self, const unsigned char *frame, Py_ssize_t head, Py_ssize_t length) except -1:
    """Meet the keys of the next frames, and let the processor fetch what looking them up will read.

    The frames are only looked at: what is found of no use is dropped, and nothing depends on it.
    """
    cdef int count = 0, item
    cdef uint32_t number
    cdef Py_ssize_t size, whole
    cdef bytes key
    cdef object bucket
    self._ahead_next = self._ahead_count = 0
    while count < AHEAD_MAX and length >= head + 5 and frame[0] == 0:
        number = be32(frame + 1) if head == 5 else <uint32_t>frame[1] << 8 | frame[2]
        if number != GET and number != SET and number != CLEAR:
            break
        size = _string(self, frame + head, length - head, KEY_MAX)
        if size < 1:
            break
        whole = head + 4 + size
        if number == SET:
            if length < whole + 4 or length < whole + 4 + be32(frame + whole):
                break
            whole += 4 + be32(frame + whole)
        if count == 0 and whole == length:
            return 0  # a single frame gains nothing
        key = PyBytes_FromStringAndSize(<const char *>frame + head + 4, size)
        bucket = _bucket(self, frame + head + 4, size)
        self._ahead[count].at = frame + head + 4
        self._ahead[count].bucket = <PyObject *>bucket
        self._ahead[count].values = <PyObject *>(<object>bucket.values)
        Py_INCREF(key)
        self._ahead[count].key = <PyObject *>key
        cairn_ahead_index(self._ahead[count].values, hash(key))
        count += 1
        self._ahead_count = count
        frame += whole
        length -= whole
    for item in range(count):
        cairn_ahead_entry(self._ahead[item].values, hash(<object>self._ahead[item].key))
    for item in range(count):
        cairn_ahead_objects(self._ahead[item].values, hash(<object>self._ahead[item].key))
    return 0


cdef inline bytes _key(Accelerator self, const unsigned char *at, Py_ssize_t size):
    """The key that stands here: the one that was met when looking ahead, or a new one."""
    cdef bytes key
    if self._ahead_next < self._ahead_count and self._ahead[self._ahead_next].at == at:
        key = <bytes>self._ahead[self._ahead_next].key
        Py_DECREF(key)  # it is ours no longer
        self._ahead_next += 1
        return key
    return PyBytes_FromStringAndSize(<const char *>at, size)


cdef inline object _bucket(Accelerator self, const unsigned char *key, Py_ssize_t length):
    cdef uint64_t position = cairn_crc32(key, length)
    return <object>PyList_GET_ITEM(self._directory, <Py_ssize_t>(position >> self._shift))


cdef inline PyObject *_visible(Accelerator self, object bucket, bytes key) except? NULL:
    """The value of a key that has not expired, borrowed; NULL when there is none."""
    cdef PyObject *value = PyDict_GetItemWithError(bucket.values, key)
    cdef object deadlines
    cdef PyObject *deadline
    if value is not NULL:
        deadlines = bucket.deadlines
        if deadlines is not None:
            deadline = PyDict_GetItemWithError(deadlines, key)
            if deadline is not NULL and PyLong_AsLongLong(<object>deadline) <= self._now:
                return NULL
    return value


cdef inline bint _is_plain(Accelerator self, object bucket, bytes key) except -1:
    """Whether a key has no deadline, so that nothing but its value is touched by a change."""
    cdef object deadlines = bucket.deadlines
    return deadlines is None or PyDict_GetItemWithError(deadlines, key) is NULL


cdef bint _can_put(Accelerator self, object bucket, bytes key) except -1:
    """Whether `_put` can be done here: without a deadline to forget, and without a bucket to split."""
    cdef object values = bucket.values
    if not _is_plain(self, bucket, key):
        return False
    return PyDict_Size(values) < BUCKET_KEYS or PyDict_GetItemWithError(values, key) is not NULL


cdef int _put(Accelerator self, object bucket, bytes key, bytes value) except -1:
    cdef object values = bucket.values
    cdef PyObject *old = PyDict_GetItemWithError(values, key)
    if old is NULL:
        self._keys += 1
        self._used += ENTRY_BYTES + PyBytes_GET_SIZE(key) + PyBytes_GET_SIZE(value)
    else:
        self._used += PyBytes_GET_SIZE(value) - PyBytes_GET_SIZE(<object>old)
    return PyDict_SetItem(values, key, value)

# -- commands -------------------------------------------------------------------------------------------


cdef Py_ssize_t _get(Accelerator self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef Py_ssize_t size = _string(self, frame, length, KEY_MAX)
    cdef bytes key
    cdef object bucket
    cdef PyObject *value
    cdef char *payload
    if size < 1:
        return 0
    bucket = _bucket(self, frame + 4, size)
    key = _key(self, frame + 4, size)
    value = _visible(self, bucket, key)
    if value is NULL:
        payload = _reply(self, False, 1, 13)
        if payload is NULL:
            return 0
        memcpy(payload, b"Key not found", 13)
    else:
        payload = _reply(self, True, 0, PyBytes_GET_SIZE(<object>value))
        if payload is NULL:
            return 0
        memcpy(payload, PyBytes_AS_STRING(<object>value), PyBytes_GET_SIZE(<object>value))
    return 4 + size


cdef Py_ssize_t _set(Accelerator self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef Py_ssize_t size = _string(self, frame, length, KEY_MAX), value_size
    cdef bytes key, value
    cdef object bucket
    if size < 1:
        return 0
    value_size = _string(self, frame + 4 + size, length - 4 - size, self._conversation.string_max)
    if value_size < 0 or 8 + 5 + size + value_size > self._conversation.frame_max:
        return 0
    bucket = _bucket(self, frame + 4, size)
    key = _key(self, frame + 4, size)
    if not _can_put(self, bucket, key) or not _reply_ok(self):
        return 0
    value = PyBytes_FromStringAndSize(<const char *>frame + 8 + size, value_size)
    _put(self, bucket, key, value)
    self.writes += 1
    return 8 + size + value_size


cdef Py_ssize_t _clear(Accelerator self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef Py_ssize_t size = _string(self, frame, length, KEY_MAX)
    cdef bytes key
    cdef object bucket
    if size < 1:
        return 0
    bucket = _bucket(self, frame + 4, size)
    key = _key(self, frame + 4, size)
    if not _can_drop(self, bucket, key, 1) or not _reply_ok(self):
        return 0
    _drop(self, bucket, key)
    self.writes += 1
    return 4 + size


cdef bint _can_drop(Accelerator self, object bucket, bytes key, Py_ssize_t count) except -1:
    """Whether `_drop` can be done here, `count` times: without a deadline to forget or a bucket to empty."""
    return PyDict_Size(bucket.values) > count and _is_plain(self, bucket, key)


cdef bint _drop(Accelerator self, object bucket, bytes key) except -1:
    cdef object values = bucket.values
    cdef PyObject *old = PyDict_GetItemWithError(values, key)
    if old is NULL:
        return False
    self._keys -= 1
    self._used -= ENTRY_BYTES + PyBytes_GET_SIZE(key) + PyBytes_GET_SIZE(<object>old)
    PyDict_DelItem(values, key)
    return True


cdef Py_ssize_t _ping(Accelerator self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef Py_ssize_t size = _string(self, frame, length, self._conversation.string_max)
    cdef char *payload
    if size < 0:
        return 0
    payload = _reply(self, True, 0, size if size else 4)
    if payload is NULL:
        return 0
    if size:
        memcpy(payload, frame + 4, size)
    else:
        memcpy(payload, b"PONG", 4)
    return 4 + size


cdef Py_ssize_t _incr(Accelerator self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef Py_ssize_t count, whole = _whole(self, frame, length, &count), size
    cdef const unsigned char *amount
    cdef int64_t n, total = 0
    cdef bytes key
    cdef object bucket
    cdef PyObject *old
    cdef char text[20]
    if whole == 0 or count != 2:
        return 0
    size = be32(frame + 4)
    amount = frame + 8 + size
    if not 1 <= size <= KEY_MAX or not read_decimal(amount + 4, be32(amount), &n):
        return 0
    bucket = _bucket(self, frame + 8, size)
    key = PyBytes_FromStringAndSize(<const char *>frame + 8, size)
    old = _visible(self, bucket, key)
    if old is not NULL and not read_decimal(
        <const unsigned char *>PyBytes_AS_STRING(<object>old), PyBytes_GET_SIZE(<object>old), &total
    ):
        return 0
    if not _can_put(self, bucket, key) or not _reply_number(self, total + n):
        return 0
    _put(self, bucket, key, PyBytes_FromStringAndSize(text, write_decimal(text, total + n)))
    self.writes += 1
    return whole


cdef Py_ssize_t _get_many(Accelerator self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef Py_ssize_t count, whole = _whole(self, frame, length, &count), before = self._size, at = 4, size, item
    cdef char *payload
    cdef bytes key
    cdef PyObject *value
    if whole == 0 or count == 0:
        return 0
    if _reply(self, True, 0, 0) is NULL:
        return 0
    for item in range(count):
        size = be32(frame + at)
        if not 1 <= size <= KEY_MAX:
            self._size = before
            return 0
        key = PyBytes_FromStringAndSize(<const char *>frame + at + 4, size)
        value = _visible(self, _bucket(self, frame + at + 4, size), key)
        at += 4 + size
        size = 0 if value is NULL else PyBytes_GET_SIZE(<object>value)
        if size + 4 > OUTPUT_MAX - self._size:
            self._size = before
            return 0
        payload = self._out + self._size
        if value is NULL:
            put_be32(payload, 0xFFFFFFFF)
        else:
            put_be32(payload, size)
            memcpy(payload + 4, PyBytes_AS_STRING(<object>value), size)
        self._size += 4 + size
    if self._size - before > self._conversation.frame_max:
        self._size = before
        return 0
    put_be32(self._out + before + 2, self._size - before - 6)
    return whole


cdef Py_ssize_t _set_many(Accelerator self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef Py_ssize_t count, whole = _whole(self, frame, length, &count), at, size, value_size, pair
    cdef bytes key
    if whole == 0 or count < 3 or count % 2 == 0:
        return 0
    if be32(frame + 4) != 1 or frame[8] != c"0":  # a time to live is for the readable way
        return 0
    at = 9
    for pair in range(count // 2):  # all keys are well before any is stored
        size = be32(frame + at)
        if not 1 <= size <= KEY_MAX:
            return 0
        at += 4 + size
        at += 4 + be32(frame + at)
    at = 9
    for pair in range(count // 2):
        # When one of them is for the readable way, all are: storing the first ones again changes nothing.
        size = be32(frame + at)
        key = PyBytes_FromStringAndSize(<const char *>frame + at + 4, size)
        bucket = _bucket(self, frame + at + 4, size)
        if not _can_put(self, bucket, key):
            return 0
        at += 4 + size
        value_size = be32(frame + at)
        _put(self, bucket, key, PyBytes_FromStringAndSize(<const char *>frame + at + 4, value_size))
        at += 4 + value_size
    if not _reply_ok(self):
        return 0
    self.writes += 1
    return whole


cdef Py_ssize_t _count_keys(Accelerator self, const unsigned char *frame, Py_ssize_t length, bint clear) except -1:
    """EXISTS and CLEAR_MANY: how many of the keys are there; the latter takes them out."""
    cdef Py_ssize_t count, whole = _whole(self, frame, length, &count), at = 4, size, item
    cdef int64_t there = 0
    cdef bytes key
    cdef object bucket
    if whole == 0 or count == 0 or OUTPUT_MAX - self._size < 26:
        return 0
    for item in range(count):
        size = be32(frame + at)
        if not 1 <= size <= KEY_MAX:
            return 0
        bucket = _bucket(self, frame + at + 4, size)
        key = PyBytes_FromStringAndSize(<const char *>frame + at + 4, size)
        if not clear:
            there += _visible(self, bucket, key) is not NULL
        elif not _can_drop(self, bucket, key, count):
            return 0
        at += 4 + size
    at = 4
    for item in range(count if clear else 0):  # all of them can be dropped before any is
        size = be32(frame + at)
        key = PyBytes_FromStringAndSize(<const char *>frame + at + 4, size)
        there += _drop(self, _bucket(self, frame + at + 4, size), key)
        at += 4 + size
    _reply_number(self, there)
    self.writes += clear
    return whole
