# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The native path of the native protocol: parses frames, executes them, and encodes replies.

`TABLE` lists the commands that this path serves. A command that is not in it, or a frame that a function below leaves
by returning 0, takes the pure path: `CommandDecoder`, `Store.execute` and `reply_parts`.

Invariants: those of `executor_native`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcmp, memcpy

from cairnkv.engine.table_native cimport (
    Place,
    Terms,
    are_met,
    can_delete,
    can_put,
    can_put_too,
    delete_key,
    look_up,
    place_of,
    put,
    put_for,
    read,
    visible,
)
from cairnkv.engine.queue_native cimport Taken
from cairnkv.session.access.rights_native cimport NO_KEYS, Needs, Rules, may_access, set_needs
from cairnkv.session.executor_native cimport FrameExecutor, Scanned, length_of, read_decimal, write_decimal
from cairnkv.session.queue_frames_native cimport (
    MESSAGES_MAX,
    STRINGS_MAX,
    Strings,
    ack_messages,
    put_message,
    put_messages,
    scan_ack,
    scan_put,
    scan_put_many,
    scan_take,
    take_messages,
)
from cairnkv.protocol.big_endian cimport be32, put_be32

from cairnkv.commands import (
    COUNTED_FROM,
    Ack,
    Clear,
    ClearMany,
    Exists,
    Get,
    GetMany,
    Incr,
    Ping,
    Put,
    PutMany,
    Scope,
    Set,
    SetMany,
    SetWith,
    Take,
)
from cairnkv.limits import ARGUMENTS_MAX as _ARGUMENTS_MAX
from cairnkv.limits import KEY_MAX as _KEY_MAX
from cairnkv.limits import TTL_MAX as _TTL_MAX
from cairnkv.commands.grammar import KeyKind, Place as FieldPlace
from cairnkv.commands.queue_vocabulary import QUEUE
from cairnkv.session.access.rights_native import rights_for
from cairnkv.session.logged import execute_native_frame
from cairnkv.protocol.native import CommandFlag

cdef Py_ssize_t ARGUMENTS_MAX = _ARGUMENTS_MAX
cdef Py_ssize_t KEY_MAX = _KEY_MAX
cdef int64_t TTL_MAX = _TTL_MAX
cdef int LOCAL_READ = CommandFlag.LOCAL_READ

ctypedef Py_ssize_t (*Execute)(FrameExecutor self, const unsigned char *frame, Py_ssize_t length) except -1
ctypedef Py_ssize_t (*Scan)(FrameExecutor self, const unsigned char *frame, Py_ssize_t length, Scanned *found) except -1

cdef enum:
    NUMBERS_MAX = 96  # command numbers that `TABLE` has room for

cdef struct Served:
    Execute execute  # NULL: the native path does not serve the command
    Scan scan  # NULL: the command never waits for the log
    bint writes
    int strings  # strings of a frame that does not count them and begins with a key, else 0
    bint counted  # whether the frame counts its strings
    Needs needs

cdef Served[NUMBERS_MAX] TABLE

SERVED = {}
"""The numbers of the commands in `TABLE`, by their names."""

NEEDED = []
"""The commands of Redis whose rights each command in `TABLE` needs."""


cdef class NativeFrameExecutor(FrameExecutor):
    """Executes frames of the native protocol in one database."""

    def native_rights(self, rights):
        """Return the rights of a client for this executor."""
        return rights_for(rights, NEEDED)

    cdef Py_ssize_t frame(self, const unsigned char *data, Py_ssize_t length) except -1:
        """Execute the first frame. Return its length, or 0 if the pure path must execute it."""
        return _frame(self, data, 1 + self._conversation.width, length)

    cdef Py_ssize_t local_read(self, const unsigned char *data, Py_ssize_t length) except -1:
        """Execute the first frame if it is a read whose header allows a local read. Return its length, or 0."""
        cdef Py_ssize_t head = 1 + self._conversation.width
        cdef const Served *command = _served(data, head, length)
        if command is NULL or data[0] != LOCAL_READ or command.scan is NULL or command.writes:
            return 0
        return _frame(self, data, head, length)

    cdef Py_ssize_t scan(self, const unsigned char *data, Py_ssize_t length, Scanned *found) except -1:
        """Describe the first frame if `frame` would try to execute it. Return its length, or 0."""
        cdef Py_ssize_t whole, head = 1 + self._conversation.width
        cdef const Served *command = _served(data, head, length)
        if command is NULL or command.scan is NULL or not _allowed(self, command, data + head, length - head):
            return 0
        found.reply = 16  # of a short reply
        found.commands = 1
        found.writes = command.writes
        found.takes = False
        found.local = data[0] == LOCAL_READ and not found.writes
        whole = command.scan(self, data + head, length - head, found)
        return head + whole if whole else 0

    cdef Py_ssize_t write_logged(self, char *into, const unsigned char *data, Py_ssize_t length) noexcept:
        """Write a scanned frame as a log entry contains it: with a number of two bytes, and no flags."""
        cdef int left_out = self._conversation.width - 2
        into[0] = 0
        memcpy(into + 1, data + 1 + left_out, length - 1 - left_out)
        return length - left_out

    cdef object left(self, object store, object changes, bytes frame, bint abandoned):
        """Execute a scanned frame on the pure path, at its place in the log. Return its `QueuedReply`."""
        statuses = self._conversation.success, self._conversation.failure
        return execute_native_frame(store, changes, frame, self._conversation.width, statuses, self.limits(),
                                    abandoned=abandoned)

    cdef Py_ssize_t key_ahead(self, const unsigned char *data, Py_ssize_t length, int width,
                              const unsigned char **key, Py_ssize_t *size) noexcept:
        """Find the key of the first frame. Return the length of the frame, or 0 if the key is unknown."""
        cdef Py_ssize_t head = 1 + width, whole
        cdef const Served *command = _served(data, head, length)
        if command is NULL or command.strings == 0:
            return 0
        size[0] = _string(data + head, length - head, KEY_MAX)
        if size[0] < 1:
            return 0
        key[0] = data + head + 4
        whole = head + 4 + size[0]
        if command.strings == 2:
            if length < whole + 4 or length < whole + 4 + be32(data + whole):
                return 0
            whole += 4 + be32(data + whole)
        return whole


cdef inline const Served *_served(const unsigned char *frame, Py_ssize_t head, Py_ssize_t length) noexcept nogil:
    """Return the entry of a frame's command, or NULL if its beginning is missing or the pure path serves it."""
    cdef uint32_t number
    if length < head + 4 or frame[0] & ~LOCAL_READ:  # a linearizable read satisfies a client that allows a local one
        return NULL
    number = be32(frame + 1) if head == 5 else <uint32_t>frame[1] << 8 | frame[2]
    return &TABLE[number] if number < NUMBERS_MAX and TABLE[number].execute is not NULL else NULL


cdef Py_ssize_t _frame(FrameExecutor self, const unsigned char *frame, Py_ssize_t head, Py_ssize_t length) except -1:
    cdef const Served *command = _served(frame, head, length)
    cdef Py_ssize_t done
    if command is NULL or not _allowed(self, command, frame + head, length - head):
        return 0
    done = command.execute(self, frame + head, length - head)
    return done + head if done else 0


cdef inline bint _allowed(FrameExecutor self, const Served *command, const unsigned char *frame, Py_ssize_t length) noexcept:
    """Return whether the client has the right to a frame. If not, the pure path refuses it, or waits for its end."""
    cdef const Rules *rules = self._conversation.rules
    cdef Py_ssize_t size
    if rules is NULL:
        return True
    if command.counted or command.needs.first != 0:
        return _is_within(self, &command.needs, command.counted, frame, length)
    size = _string(frame, length, KEY_MAX)  # the only key comes first
    if size < 0 or not rules.commands & command.needs.bit:
        return False
    return may_access(rules, &command.needs, frame + 4, size)


cdef bint _is_within(FrameExecutor self, const Needs *needs, bint counted, const unsigned char *frame,
                     Py_ssize_t length) noexcept:
    cdef Py_ssize_t at = 0, count = 1, size, item, key = needs.first
    if not self._conversation.rules.commands & needs.bit:
        return False
    if key == NO_KEYS:
        return True
    if key < 0:  # unknown ones
        return may_access(self._conversation.rules, needs, b"", 0)
    if counted:
        if length < 4:
            return False
        count = be32(frame)
        at = 4
    for item in range(count):
        size = _string(frame + at, length - at, self._conversation.string_max)
        if size < 0:
            return False
        if item == key:
            if not may_access(self._conversation.rules, needs, frame + at + 4, size):
                return False
            if needs.step == 0:
                return True
            key += needs.step
        at += 4 + size
    return key > needs.first  # at least one key

# -- scans: each returns the length of a frame without its head, or 0 ----------------------------------


cdef Py_ssize_t _scan_key(FrameExecutor self, const unsigned char *frame, Py_ssize_t length, Scanned *found) except -1:
    cdef Py_ssize_t size = _string(frame, length, KEY_MAX)
    return 4 + size if size >= 1 else 0


cdef Py_ssize_t _scan_get(FrameExecutor self, const unsigned char *frame, Py_ssize_t length, Scanned *found) except -1:
    cdef Py_ssize_t whole = _scan_key(self, frame, length, found)
    if whole and found.measures:
        found.reply += length_of(self, frame + 4, whole - 4)
    return whole


cdef Py_ssize_t _scan_set(FrameExecutor self, const unsigned char *frame, Py_ssize_t length, Scanned *found) except -1:
    cdef Py_ssize_t size, whole = _scan_key(self, frame, length, found)
    if whole == 0:
        return 0
    size = _string(frame + whole, length - whole, self._conversation.string_max)
    if size < 0 or 5 + whole + 4 + size > self._conversation.frame_max:
        return 0
    return whole + 4 + size


cdef Py_ssize_t _scan_set_with(FrameExecutor self, const unsigned char *frame, Py_ssize_t length,
                               Scanned *found) except -1:
    cdef Py_ssize_t count, whole = _whole(self, frame, length, &count)
    cdef const unsigned char *value
    cdef Terms terms
    return whole if whole and _stored(frame, count, &terms, &value) else 0


cdef Py_ssize_t _scan_incr(FrameExecutor self, const unsigned char *frame, Py_ssize_t length, Scanned *found) except -1:
    cdef Py_ssize_t size, count, whole = _whole(self, frame, length, &count)
    cdef int64_t n
    if whole == 0 or count != 2:
        return 0
    size = be32(frame + 4)
    if not 1 <= size <= KEY_MAX:
        return 0
    return whole if read_decimal(frame + 12 + size, be32(frame + 8 + size), &n) else 0


cdef Py_ssize_t _scan_keys(FrameExecutor self, const unsigned char *frame, Py_ssize_t length, Scanned *found) except -1:
    cdef Py_ssize_t count, whole = _whole(self, frame, length, &count), at = 4, size, item
    if whole == 0 or count == 0:
        return 0
    for item in range(count):
        size = be32(frame + at)
        if not 1 <= size <= KEY_MAX:
            return 0
        at += 4 + size
    return whole


cdef Py_ssize_t _scan_get_many(FrameExecutor self, const unsigned char *frame, Py_ssize_t length,
                               Scanned *found) except -1:
    cdef Py_ssize_t whole = _scan_keys(self, frame, length, found), at = 4, size
    while found.measures and at < whole:
        size = be32(frame + at)
        found.reply += 4 + length_of(self, frame + at + 4, size)
        at += 4 + size
    return whole


cdef Py_ssize_t _scan_set_many(FrameExecutor self, const unsigned char *frame, Py_ssize_t length,
                               Scanned *found) except -1:
    cdef Py_ssize_t count, whole = _whole(self, frame, length, &count), at, size
    cdef int64_t ttl
    at = _many_from(frame, count, &ttl) if whole else 0
    if at == 0:
        return 0
    while at < whole:
        size = be32(frame + at)
        if not 1 <= size <= KEY_MAX:
            return 0
        at += 4 + size
        at += 4 + be32(frame + at)
    return whole

# -- strings and replies -------------------------------------------------------------------------------


cdef inline Py_ssize_t _string(const unsigned char *at, Py_ssize_t length, Py_ssize_t longest) noexcept:
    """Return the length of the first string, or -1 if it is incomplete or too long."""
    cdef Py_ssize_t size
    if length < 4:
        return -1
    size = be32(at)
    return size if size <= longest and size <= length - 4 else -1


cdef Py_ssize_t _whole(FrameExecutor self, const unsigned char *frame, Py_ssize_t length, Py_ssize_t *count) noexcept:
    """Return the length of a frame of counted strings without its head, or 0. Set `count` to the number of strings."""
    cdef Py_ssize_t at = 4, size, left
    count[0] = be32(frame)
    if count[0] > ARGUMENTS_MAX:
        return 0
    for left in range(count[0]):
        size = _string(frame + at, length - at, self._conversation.string_max)
        if size < 0:
            return 0
        at += 4 + size
    return at if at + 5 <= self._conversation.frame_max else 0


cdef bint _stored(const unsigned char *frame, Py_ssize_t count, Terms *terms, const unsigned char **value) noexcept:
    """Read the strings of a complete SET_WITH. Return False if they do not fit, or if the pure path must execute it.

    value: set to the position of the value's length.
    """
    cdef Py_ssize_t size, left = count - 2
    cdef const unsigned char *at
    terms.ttl = terms.if_absent = terms.if_present = 0
    if left < 0 or not 1 <= be32(frame + 4) <= KEY_MAX:
        return False
    value[0] = frame + 8 + be32(frame + 4)
    at = value[0] + 4 + be32(value[0])
    while left:
        size = be32(at)
        at += 4
        left -= 1
        if size == 3 and memcmp(at, b"TTL", 3) == 0 and left and terms.ttl == 0:
            left -= 1
            at += size
            size = be32(at)
            at += 4
            if not read_decimal(at, size, &terms.ttl) or not 1 <= terms.ttl <= TTL_MAX:
                return False
        elif terms.if_absent or terms.if_present:
            return False
        elif size == 8 and memcmp(at, b"IFABSENT", 8) == 0:
            terms.if_absent = True
        elif size == 9 and memcmp(at, b"IFPRESENT", 9) == 0:
            terms.if_present = True
        else:
            return False
        at += size
    return True


cdef Py_ssize_t _many_from(const unsigned char *frame, Py_ssize_t count, int64_t *ttl) noexcept:
    """Return the position of the first key of SET_MANY, or 0 if its strings do not fit. Set `ttl`."""
    if count < 3 or count % 2 == 0 or not read_decimal(frame + 8, be32(frame + 4), ttl) or not 0 <= ttl[0] <= TTL_MAX:
        return 0
    return 8 + be32(frame + 4)


cdef inline char *_reply(FrameExecutor self, bint success, Py_ssize_t header, Py_ssize_t length) noexcept:
    """Write the head of a reply. Return the place of its payload, or NULL if there is no room."""
    cdef char *at = self._out + self._size
    if length > self._room_end - self._size - 6:
        return NULL
    at[0] = <char>header
    at[1] = <char>(self._conversation.success if success else self._conversation.failure)
    put_be32(at + 2, length)
    self._size += 6 + length
    return at + 6


cdef inline bint _reply_bytes(FrameExecutor self, const void *payload, Py_ssize_t size) noexcept:
    """Write a successful reply. Return False if there is no room."""
    cdef char *at = _reply(self, True, 0, size)
    if at is NULL:
        return False
    memcpy(at, payload, size)
    return True


cdef inline bint _reply_ok(FrameExecutor self) noexcept:
    return _reply_bytes(self, b"OK", 2)


cdef inline bint _reply_number(FrameExecutor self, int64_t number) noexcept:
    cdef char text[20]
    return _reply_bytes(self, text, write_decimal(text, number))


cdef inline bint _reply_value(FrameExecutor self, PyObject *value) noexcept:
    """Write a value, or the reply about a missing key if it is NULL. Return False if there is no room."""
    cdef Py_ssize_t size = 13 if value is NULL else PyBytes_GET_SIZE(<object>value)
    cdef char *payload = _reply(self, value is not NULL, value is NULL, size)
    if payload is NULL:
        return False
    memcpy(payload, <const char *>b"Key not found" if value is NULL else PyBytes_AS_STRING(<object>value), size)
    return True

# -- commands: each returns the length of a frame without its head, or 0 if it has done nothing --------


cdef Py_ssize_t _get(FrameExecutor self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef Py_ssize_t size = _string(frame, length, KEY_MAX)
    cdef Place place
    if size < 1:
        return 0
    place_of(self._table, &place, frame + 4, size)
    return 4 + size if _reply_value(self, read(self._table, &place)) else 0


cdef Py_ssize_t _set(FrameExecutor self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef Py_ssize_t size = _string(frame, length, KEY_MAX), value_size
    cdef Place place
    if size < 1:
        return 0
    value_size = _string(frame + 4 + size, length - 4 - size, self._conversation.string_max)
    if value_size < 0 or 8 + 5 + size + value_size > self._conversation.frame_max:
        return 0
    place_of(self._table, &place, frame + 4, size)
    if not can_put(self._table, &place) or not _reply_ok(self):
        return 0
    put(self._table, &place, frame + 8 + size, value_size)
    self.writes += 1
    return 8 + size + value_size


cdef Py_ssize_t _set_with(FrameExecutor self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef Py_ssize_t count, whole = _whole(self, frame, length, &count)
    cdef const unsigned char *value
    cdef Terms terms
    cdef Place place
    cdef bint stored
    if whole == 0 or not _stored(frame, count, &terms, &value):
        return 0
    place_of(self._table, &place, frame + 8, be32(frame + 4))
    if not can_put(self._table, &place):
        return 0
    stored = are_met(self._table, &place, &terms)
    if not _reply_number(self, stored):
        return 0
    if stored:
        put_for(self._table, &place, value + 4, be32(value), terms.ttl)
    self.writes += 1
    return whole


cdef Py_ssize_t _clear(FrameExecutor self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef Py_ssize_t size = _string(frame, length, KEY_MAX)
    cdef Place place
    if size < 1:
        return 0
    place_of(self._table, &place, frame + 4, size)
    if not can_delete(self._table, &place, 1) or not _reply_ok(self):
        return 0
    delete_key(self._table, &place)
    self.writes += 1
    return 4 + size


cdef Py_ssize_t _ping(FrameExecutor self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef Py_ssize_t size = _string(frame, length, self._conversation.string_max)
    if size < 0:
        return 0
    if not (_reply_bytes(self, frame + 4, size) if size else _reply_bytes(self, b"PONG", 4)):
        return 0
    return 4 + size


cdef Py_ssize_t _incr(FrameExecutor self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef Py_ssize_t count, whole = _whole(self, frame, length, &count), size
    cdef const unsigned char *amount
    cdef int64_t n, total = 0
    cdef Place place
    cdef PyObject *old
    cdef char text[20]
    if whole == 0 or count != 2:
        return 0
    size = be32(frame + 4)
    amount = frame + 8 + size
    if not 1 <= size <= KEY_MAX or not read_decimal(amount + 4, be32(amount), &n):
        return 0
    place_of(self._table, &place, frame + 8, size)
    old = visible(self._table, &place)
    if old is not NULL and not read_decimal(
        <const unsigned char *>PyBytes_AS_STRING(<object>old), PyBytes_GET_SIZE(<object>old), &total
    ):
        return 0
    if not can_put(self._table, &place) or not _reply_number(self, total + n):
        return 0
    put(self._table, &place, <const unsigned char *>text, write_decimal(text, total + n), old is not NULL)
    self.writes += 1
    return whole


cdef Py_ssize_t _get_many(FrameExecutor self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef Py_ssize_t count, whole = _whole(self, frame, length, &count), before = self._size, at = 4, size, item
    cdef char *payload
    cdef Place place
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
        place_of(self._table, &place, frame + at + 4, size)
        value = read(self._table, &place)
        at += 4 + size
        size = 0 if value is NULL else PyBytes_GET_SIZE(<object>value)
        if size + 4 > self._room_end - self._size:
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


cdef Py_ssize_t _set_many(FrameExecutor self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef Py_ssize_t count, whole = _whole(self, frame, length, &count), first, at, size, value_size, pair, new = 0
    cdef int64_t ttl
    cdef Place place
    if whole == 0:
        return 0
    first = _many_from(frame, count, &ttl)
    if first == 0 or self._room_end - self._size < 8:
        return 0
    at = first
    for pair in range(count // 2):  # check all pairs before storing the first one
        size = be32(frame + at)
        if not 1 <= size <= KEY_MAX:
            return 0
        place_of(self._table, &place, frame + at + 4, size)
        if not can_put_too(self._table, &place, &new):
            return 0
        at += 4 + size
        at += 4 + be32(frame + at)
    at = first
    for pair in range(count // 2):
        size = be32(frame + at)
        place_of(self._table, &place, frame + at + 4, size)
        look_up(self._table, &place)
        at += 4 + size
        value_size = be32(frame + at)
        put_for(self._table, &place, frame + at + 4, value_size, ttl)
        at += 4 + value_size
    _reply_ok(self)
    self.writes += 1
    return whole


cdef Py_ssize_t _exists(FrameExecutor self, const unsigned char *frame, Py_ssize_t length) except -1:
    return _count_keys(self, frame, length, False)


cdef Py_ssize_t _clear_many(FrameExecutor self, const unsigned char *frame, Py_ssize_t length) except -1:
    return _count_keys(self, frame, length, True)


cdef inline Py_ssize_t _count_keys(FrameExecutor self, const unsigned char *frame, Py_ssize_t length, bint clear) except -1:
    """Count the keys that exist, and delete them if `clear`."""
    cdef Py_ssize_t count, whole = _whole(self, frame, length, &count), at = 4, size, item
    cdef int64_t there = 0
    cdef Place place
    if whole == 0 or count == 0 or self._room_end - self._size < 26:
        return 0
    for item in range(count):
        size = be32(frame + at)
        if not 1 <= size <= KEY_MAX:
            return 0
        place_of(self._table, &place, frame + at + 4, size)
        if not clear:
            there += read(self._table, &place) is not NULL
        elif not can_delete(self._table, &place, count):
            return 0
        at += 4 + size
    at = 4
    for item in range(count if clear else 0):  # check all keys before deleting the first one
        size = be32(frame + at)
        place_of(self._table, &place, frame + at + 4, size)
        there += delete_key(self._table, &place)
        at += 4 + size
    _reply_number(self, there)
    self.writes += clear
    return whole

# -- commands on queues --------------------------------------------------------------------------------


cdef Py_ssize_t _queue_strings(FrameExecutor self, const unsigned char *frame, Py_ssize_t length,
                               const unsigned char **at, Py_ssize_t *size, Strings *strings) noexcept:
    """Find the strings of a command on queues. Return the length of its frame without its head, or 0."""
    cdef Py_ssize_t end = 4, item, count = be32(frame)
    if count > STRINGS_MAX:
        return 0
    for item in range(count):
        size[item] = _string(frame + end, length - end, self._conversation.string_max)
        if size[item] < 0:
            return 0
        at[item] = frame + end + 4
        end += 4 + size[item]
    if end + 5 > self._conversation.frame_max:
        return 0
    strings.count = count
    strings.at = at
    strings.size = size
    strings.any_case = False
    return end


ctypedef bint (*ScanQueue)(FrameExecutor self, const Strings *strings, Scanned *found) except -1


cdef Py_ssize_t _scan_on_queues(FrameExecutor self, const unsigned char *frame, Py_ssize_t length, Scanned *found,
                                ScanQueue scan) except -1:
    cdef const unsigned char *at[STRINGS_MAX]
    cdef Py_ssize_t size[STRINGS_MAX]
    cdef Strings strings
    cdef Py_ssize_t whole = _queue_strings(self, frame, length, at, size, &strings)
    return whole if whole and scan(self, &strings, found) else 0


cdef Py_ssize_t _scan_put(FrameExecutor self, const unsigned char *frame, Py_ssize_t length, Scanned *found) except -1:
    return _scan_on_queues(self, frame, length, found, scan_put)


cdef Py_ssize_t _scan_put_many(FrameExecutor self, const unsigned char *frame, Py_ssize_t length,
                               Scanned *found) except -1:
    return _scan_on_queues(self, frame, length, found, scan_put_many)


cdef Py_ssize_t _scan_take(FrameExecutor self, const unsigned char *frame, Py_ssize_t length, Scanned *found) except -1:
    return _scan_on_queues(self, frame, length, found, scan_take)


cdef Py_ssize_t _scan_ack(FrameExecutor self, const unsigned char *frame, Py_ssize_t length, Scanned *found) except -1:
    return _scan_on_queues(self, frame, length, found, scan_ack)


cdef inline Py_ssize_t _room(FrameExecutor self) noexcept:
    """Return the room for the payload of a reply."""
    return min(self._room_end - self._size, self._conversation.frame_max) - 6


cdef inline char *_string_to(char *into, const void *data, Py_ssize_t size) noexcept:
    """Write a string of a reply. Return its end."""
    put_be32(into, size)
    memcpy(into + 4, data, size)
    return into + 4 + size


cdef inline char *_number_to(char *into, int64_t number) noexcept:
    cdef int digits = write_decimal(into + 4, number)
    put_be32(into, digits)
    return into + 4 + digits


cdef inline void _reply_up_to(FrameExecutor self, const char *end) noexcept:
    """Finish a reply whose payload is written up to its end."""
    cdef Py_ssize_t size = end - (self._out + self._size) - 6
    _reply(self, True, 0, size)


cdef inline char *_payload(FrameExecutor self) noexcept:
    """Return the place of the payload of the next reply."""
    return self._out + self._size + 6


cdef Py_ssize_t _put(FrameExecutor self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef const unsigned char *at[STRINGS_MAX]
    cdef Py_ssize_t size[STRINGS_MAX]
    cdef Strings strings
    cdef Py_ssize_t whole = _queue_strings(self, frame, length, at, size, &strings)
    cdef int64_t number
    if whole == 0 or _room(self) < 48:
        return 0
    number = put_message(self, &strings)
    if number == 0:
        return 0
    _reply_up_to(self, _number_to(_number_to(_payload(self), number), 1))
    return whole


cdef Py_ssize_t _put_many(FrameExecutor self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef const unsigned char *at[STRINGS_MAX]
    cdef Py_ssize_t size[STRINGS_MAX]
    cdef Strings strings
    cdef Py_ssize_t whole = _queue_strings(self, frame, length, at, size, &strings)
    cdef int64_t number
    if whole == 0 or _room(self) < 48:
        return 0
    number = put_messages(self, &strings)
    if number == 0:
        return 0
    _reply_up_to(self, _number_to(_number_to(_payload(self), number), strings.count - 3))
    return whole


cdef Py_ssize_t _take(FrameExecutor self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef const unsigned char *at[STRINGS_MAX]
    cdef Py_ssize_t size[STRINGS_MAX]
    cdef Strings strings
    cdef Py_ssize_t item, whole = _queue_strings(self, frame, length, at, size, &strings)
    cdef const Taken *taken
    cdef char *into = _payload(self)
    if whole == 0 or _room(self) < 0 or not take_messages(self, &strings, _room(self)):
        return 0
    for item in range(self._queues.taken_count):
        taken = self._queues.taken + item
        into = _number_to(into, taken.id)
        into = _number_to(into, taken.lease)
        into = _number_to(into, taken.attempts)
        into = _number_to(into, taken.milliseconds)
        into = _number_to(into, taken.put_at)
        into = _string_to(into, taken.group, taken.group_size)
        into = _string_to(into, taken.body, taken.body_size)
    _reply_up_to(self, into)
    return whole


cdef Py_ssize_t _ack(FrameExecutor self, const unsigned char *frame, Py_ssize_t length) except -1:
    cdef const unsigned char *at[STRINGS_MAX]
    cdef Py_ssize_t size[STRINGS_MAX]
    cdef char replies[MESSAGES_MAX]
    cdef Strings strings
    cdef Py_ssize_t item, count, whole = _queue_strings(self, frame, length, at, size, &strings)
    cdef char *into = _payload(self)
    if whole == 0 or _room(self) < 5 * (strings.count // 2):
        return 0
    count = ack_messages(self, &strings, replies)
    if count == 0:
        return 0
    for item in range(count):
        into = _string_to(into, replies + item, 1)
    _reply_up_to(self, into)
    return whole

# -- the table -----------------------------------------------------------------------------------------


cdef int _serve(object command, Execute execute, Scan scan=NULL) except -1:
    """Add a command to `TABLE`. scan: NULL for a command that never waits for the log."""
    spec = command.spec
    cdef Served *served = &TABLE[<int>spec.number]
    if spec.number >= NUMBERS_MAX:
        raise ValueError(f"{spec.name} has number {spec.number}; NUMBERS_MAX is {NUMBERS_MAX}")
    served.execute = execute
    served.scan = scan
    served.writes = spec.writes
    served.strings = len(spec.fields) if spec.number < COUNTED_FROM and spec.key_fields else 0
    served.counted = spec.number >= COUNTED_FROM
    of_keys = [
        (place, slot)
        for place, (_, slot) in enumerate(spec.fields)
        if slot.kinds and (isinstance(slot.kinds[0], KeyKind) or slot.kinds[0] is QUEUE)
    ]
    if len(of_keys) > 1:
        raise ValueError(f"{spec.name} has several fields of keys")
    first, step = -1, 0
    if of_keys:
        first, slot = of_keys[0]
        step = len(slot.kinds) if slot.place is FieldPlace.REST else 0
    set_needs(&served.needs, len(NEEDED), spec.scope is not Scope.NOTHING, first, step, spec.access)
    NEEDED.append(spec.redis)
    SERVED[spec.name] = spec.number
    return 0


_serve(Get, _get, _scan_get)
_serve(Set, _set, _scan_set)
_serve(Clear, _clear, _scan_key)
_serve(Ping, _ping)
_serve(SetWith, _set_with, _scan_set_with)
_serve(Exists, _exists, _scan_keys)
_serve(GetMany, _get_many, _scan_get_many)
_serve(SetMany, _set_many, _scan_set_many)
_serve(ClearMany, _clear_many, _scan_keys)
_serve(Incr, _incr, _scan_incr)
_serve(Put, _put, _scan_put)
_serve(PutMany, _put_many, _scan_put_many)
_serve(Take, _take, _scan_take)
_serve(Ack, _ack, _scan_ack)
