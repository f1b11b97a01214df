# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled hot path of Redis' wire: the common commands, straight from the bytes that were read to those to send.

What holds of `executor_native` holds here; only the frames are others. A command that is not written as clients write
it (an array of bulk strings, numbers in their shortest form), or not one of those served here, is left to the readable
way: `RequestDecoder` to the words of `session.resp` to `Store.execute`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from cairnkv.session.executor_native cimport FrameExecutor, Scanned, read_decimal, write_decimal
from cairnkv.engine.table_native cimport (
    Place,
    Terms,
    are_met,
    can_drop,
    can_put,
    can_put_too,
    drop,
    look_up,
    place_of,
    put,
    put_for,
    visible,
)
from cairnkv.protocol.big_endian cimport put_be32

from cairnkv.limits import KEY_MAX as _KEY_MAX
from cairnkv.limits import TTL_MAX as _TTL_MAX
from cairnkv.session.resp.logged import said_in_turn

cdef Py_ssize_t KEY_MAX = _KEY_MAX
cdef int64_t TTL_MAX = _TTL_MAX
cdef int64_t MILLISECONDS = 1000

cdef enum:
    WORDS_MAX = 128  # of a command; one with more is left to the readable way
    HEAD_DIGITS_MAX = 9  # of a count or a length

# The numbers of the vocabulary that these have in the log. A test holds them to `cairnkv.commands`.
cdef enum:
    LOGGED_SET = 1
    LOGGED_SET_WITH = 16
    LOGGED_SET_MANY = 22
    LOGGED_CLEAR_MANY = 23
    LOGGED_INCR = 24

LOGGED = {
    "SET": LOGGED_SET, "SET_WITH": LOGGED_SET_WITH, "SET_MANY": LOGGED_SET_MANY, "CLEAR_MANY": LOGGED_CLEAR_MANY,
    "INCR": LOGGED_INCR,
}

SERVED = ("GET", "SET", "DEL", "EXISTS", "MGET", "MSET", "INCR", "PING")
"""The words that are served here. A test holds them to what is."""


cdef struct Words:
    # A command that is there whole, the name first.
    int count
    Py_ssize_t length  # of all its bytes
    const unsigned char *at[WORDS_MAX]
    Py_ssize_t size[WORDS_MAX]


cdef inline Py_ssize_t _head(const unsigned char *at, const unsigned char *end, char mark, Py_ssize_t *number) noexcept:
    """Read a mark, a number and a line's end; how many bytes that is, 0 if it is not there, or written otherwise."""
    cdef const unsigned char *start = at
    cdef Py_ssize_t total = 0
    if end - at < 4 or at[0] != mark:
        return 0
    at += 1
    if at[0] == c"0" and at[1] != c"\r":
        return 0
    while at < end and c"0" <= at[0] <= c"9":
        if at - start > HEAD_DIGITS_MAX:
            return 0
        total = total * 10 + (at[0] - c"0")
        at += 1
    if end - at < 2 or at == start + 1 or at[0] != c"\r" or at[1] != c"\n":
        return 0
    number[0] = total
    return at + 2 - start


cdef inline bint _words(RespFrameExecutor self, const unsigned char *frame, Py_ssize_t length, Words *words) noexcept:
    """Find the words of a command; whether it is there whole, and within the limits."""
    cdef const unsigned char *at = frame
    cdef const unsigned char *end = frame + length
    cdef Py_ssize_t count, size, used
    cdef int item
    used = _head(at, end, c"*", &count)
    if used == 0 or not 1 <= count <= WORDS_MAX:
        return False
    at += used
    words.count = <int>count
    for item in range(words.count):
        used = _head(at, end, c"$", &size)
        if used == 0 or size > self._conversation.string_max or end - at - used < size + 2:
            return False
        at += used
        words.at[item] = at
        words.size[item] = size
        at += size
        if at[0] != c"\r" or at[1] != c"\n":
            return False
        at += 2
    words.length = at - frame
    return words.length <= self._conversation.frame_max


cdef inline bint _is(const unsigned char *word, Py_ssize_t size, const char *name, Py_ssize_t length) noexcept nogil:
    """Whether a word is this one, whose letters are small, in any case."""
    cdef Py_ssize_t at
    if size != length:
        return False
    for at in range(length):
        if (word[at] | 0x20) != <unsigned char>name[at]:
            return False
    return True


cdef class RespFrameExecutor(FrameExecutor):
    """The hot path of one keyspace for conversations on Redis' wire."""

    cdef Py_ssize_t frame(self, const unsigned char *data, Py_ssize_t length) except -1:
        """Execute one command; its bytes, or 0 when it is for the readable way."""
        cdef Words words
        cdef const unsigned char *name
        cdef Py_ssize_t size
        cdef bint done = False
        if not _words(self, data, length, &words):
            return 0
        name, size = words.at[0], words.size[0]
        if size == 3:
            if _is(name, 3, b"get", 3):
                done = _get(self, &words)
            elif _is(name, 3, b"set", 3):
                done = _set(self, &words)
            elif _is(name, 3, b"del", 3):
                done = _count_keys(self, &words, True)
        elif size == 4:
            if _is(name, 4, b"mget", 4):
                done = _mget(self, &words)
            elif _is(name, 4, b"mset", 4):
                done = _mset(self, &words)
            elif _is(name, 4, b"incr", 4):
                done = _incr(self, &words)
            elif _is(name, 4, b"ping", 4):
                done = _ping(self, &words)
        elif _is(name, size, b"exists", 6):
            done = _count_keys(self, &words, False)
        return words.length if done else 0

    cdef Py_ssize_t local_read(self, const unsigned char *data, Py_ssize_t length) except -1:
        """Execute the command that stands here if it is a read, and the client's may show what was true before."""
        cdef Words words
        cdef const unsigned char *name
        cdef Py_ssize_t size
        cdef bint done = False
        if not self._conversation.reads_locally or not _words(self, data, length, &words):
            return 0
        name, size = words.at[0], words.size[0]
        if _is(name, size, b"get", 3):
            done = _get(self, &words)
        elif _is(name, size, b"mget", 4):
            done = _mget(self, &words)
        elif _is(name, size, b"exists", 6):
            done = _count_keys(self, &words, False)
        return words.length if done else 0

    cdef Py_ssize_t scan(self, const unsigned char *data, Py_ssize_t length, Scanned *found) except -1:
        """What command stands here, if `frame` would try to execute it, but for PING; its bytes, or 0."""
        cdef Words words
        cdef Terms terms
        cdef const unsigned char *name
        cdef Py_ssize_t size
        cdef int item
        cdef bint gets, sets, increments, deletes
        if not _words(self, data, length, &words) or words.count < 2:
            return 0
        name, size = words.at[0], words.size[0]
        gets = _is(name, size, b"get", 3)
        sets = _is(name, size, b"set", 3)
        increments = _is(name, size, b"incr", 4)
        deletes = _is(name, size, b"del", 3)
        found.reply = 32
        found.writes = sets or increments or deletes
        found.local = not found.writes and self._conversation.reads_locally
        if gets or sets or increments:
            if not _is_key(&words, 1) or (not _terms_of(&words, &terms) if sets else words.count != 2):
                return 0
            if gets and found.measures:
                found.reply += _length_of(self, &words, 1)
            return words.length
        if _is(name, size, b"mset", 4):
            found.writes = True
            found.local = False
            return words.length if _are_pairs(&words) else 0
        gets = _is(name, size, b"mget", 4)
        if not gets and not deletes and not _is(name, size, b"exists", 6):
            return 0
        for item in range(1, words.count):
            if not _is_key(&words, item):
                return 0
            if gets and found.measures:
                found.reply += 32 + _length_of(self, &words, item)
        return words.length

    cdef Py_ssize_t write_logged(self, char *into, const unsigned char *data, Py_ssize_t length) noexcept:
        """Write a command that was scanned as the log has it: as a frame of the article, which is shorter."""
        cdef Words words
        cdef Terms terms
        cdef char *at = into
        cdef int item
        _words(self, data, length, &words)
        at[0] = at[1] = 0
        if _is(words.at[0], words.size[0], b"set", 3):
            _terms_of(&words, &terms)
            if words.count == 3:
                at[2] = LOGGED_SET
                at += 3
            else:
                at[2] = LOGGED_SET_WITH
                put_be32(at + 3, 2 + (2 if terms.ttl else 0) + (terms.if_absent or terms.if_present))
                at += 7
            at = _string(_string(at, words.at[1], words.size[1]), words.at[2], words.size[2])
            if words.count > 3:
                at = _logged_terms(at, &terms)
            return at - into
        if _is(words.at[0], words.size[0], b"mset", 4):
            at[2] = LOGGED_SET_MANY
            put_be32(at + 3, words.count)
            at = _string(at + 7, <const unsigned char *>b"0", 1)
            for item in range(1, words.count):
                at = _string(at, words.at[item], words.size[item])
            return at - into
        if _is(words.at[0], words.size[0], b"incr", 4):
            at[2] = LOGGED_INCR
            put_be32(at + 3, 2)
            at = _string(_string(at + 7, words.at[1], words.size[1]), <const unsigned char *>b"1", 1)
            return at - into
        at[2] = LOGGED_CLEAR_MANY
        put_be32(at + 3, words.count - 1)
        at += 7
        for item in range(1, words.count):
            at = _string(at, words.at[item], words.size[item])
        return at - into

    cdef object left(self, object store, object changes, bytes frame):
        """Carry out a command that was scanned the readable way, in its turn; what is due for it."""
        return said_in_turn(
            store,
            changes,
            frame,
            db=self._table._number,
            protocol=self._conversation.width,
            string_max=self._conversation.string_max,
            frame_max=self._conversation.frame_max,
        )

    cdef Py_ssize_t key_ahead(self, const unsigned char *data, Py_ssize_t length, int width,
                              const unsigned char **key, Py_ssize_t *size) noexcept:
        """Which key the command that stands here will ask for; its bytes, or 0 when nobody knows."""
        cdef Words words
        if not _words(self, data, length, &words) or not 2 <= words.count <= 5 or not 1 <= words.size[1] <= KEY_MAX:
            return 0
        if not (_is(words.at[0], words.size[0], b"get", 3) or _is(words.at[0], words.size[0], b"set", 3)):
            return 0
        key[0] = words.at[1]
        size[0] = words.size[1]
        return words.length


cdef inline Py_ssize_t _length_of(FrameExecutor self, const Words *words, int item) except -1:
    """Bytes of the value that a key has now; 0: none."""
    cdef Place place
    place_of(self._table, &place, words.at[item], words.size[item])
    look_up(self._table, &place)
    return 0 if place.value is NULL else PyBytes_GET_SIZE(<object>place.value)


cdef inline char *_string(char *into, const unsigned char *string, Py_ssize_t size) noexcept nogil:
    """Write a string as the article has it; where it ends."""
    put_be32(into, size)
    memcpy(into + 4, string, size)
    return into + 4 + size


cdef char *_logged_terms(char *into, const Terms *terms) noexcept nogil:
    """Write the options of SET_WITH; where they end."""
    cdef char text[20]
    if terms.ttl:
        into = _string(into, <const unsigned char *>b"TTL", 3)
        into = _string(into, <const unsigned char *>text, write_decimal(text, terms.ttl))
    if terms.if_absent:
        into = _string(into, <const unsigned char *>b"IFABSENT", 8)
    if terms.if_present:
        into = _string(into, <const unsigned char *>b"IFPRESENT", 9)
    return into

# -- replies --------------------------------------------------------------------------------------------


cdef inline bint _say(FrameExecutor self, const char *text, Py_ssize_t length) noexcept:
    """Say these bytes; False, and nothing said, when there is no room."""
    if length > self._room_end - self._size:
        return False
    memcpy(self._out + self._size, text, length)
    self._size += length
    return True


cdef inline bint _say_number(FrameExecutor self, char mark, int64_t number) noexcept:
    cdef char text[24]
    cdef int length
    text[0] = mark
    length = 1 + write_decimal(text + 1, number)
    text[length] = c"\r"
    text[length + 1] = c"\n"
    return _say(self, text, length + 2)


cdef inline bint _say_null(FrameExecutor self) noexcept:
    return _say(self, b"_\r\n", 3) if self._conversation.width == 3 else _say(self, b"$-1\r\n", 5)


cdef inline bint _say_string(FrameExecutor self, const void *string, Py_ssize_t size) noexcept:
    if size + 32 > self._room_end - self._size:
        return False
    _say_number(self, c"$", size)
    _say(self, <const char *>string, size)
    return _say(self, b"\r\n", 2)


cdef inline bint _say_value(FrameExecutor self, PyObject *value) noexcept:
    if value is NULL:
        return _say_null(self)
    return _say_string(self, PyBytes_AS_STRING(<object>value), PyBytes_GET_SIZE(<object>value))

# -- commands: whether they were done; if not, nothing was said or changed ------------------------------


cdef inline bint _is_key(const Words *words, int item) noexcept:
    return 1 <= words.size[item] <= KEY_MAX


cdef bint _get(RespFrameExecutor self, const Words *words) except -1:
    cdef Place place
    if words.count != 2 or not _is_key(words, 1):
        return False
    place_of(self._table, &place, words.at[1], words.size[1])
    return _say_value(self, visible(self._table, &place))


cdef bint _terms_of(const Words *words, Terms *terms) noexcept:
    """Read the options of SET; False when they do not fit, or say what is for the readable way."""
    cdef int at = 3
    cdef unsigned char first
    terms.ttl = terms.if_absent = terms.if_present = 0
    while at < words.count:
        if words.size[at] != 2 or (words.at[at][1] | 0x20) != c"x":  # EX, PX, NX, XX
            return False
        first = words.at[at][0] | 0x20
        at += 1
        if first == c"e" or first == c"p":
            if at == words.count or terms.ttl or not read_decimal(words.at[at], words.size[at], &terms.ttl):
                return False
            if not 1 <= terms.ttl <= TTL_MAX // MILLISECONDS:  # there are longer ones, for the readable way
                return False
            if first == c"e":
                terms.ttl *= MILLISECONDS
            at += 1
        elif terms.if_absent or terms.if_present:
            return False
        elif first == c"n":
            terms.if_absent = True
        elif first == c"x":
            terms.if_present = True
        else:
            return False
    return words.count >= 3


cdef bint _set(RespFrameExecutor self, const Words *words) except -1:
    cdef Place place
    cdef Terms terms
    cdef bint stored
    if not _terms_of(words, &terms) or not _is_key(words, 1):
        return False
    place_of(self._table, &place, words.at[1], words.size[1])
    if not can_put(self._table, &place):
        return False
    stored = are_met(self._table, &place, &terms)
    if not (_say(self, b"+OK\r\n", 5) if stored else _say_null(self)):
        return False
    if stored:
        put_for(self._table, &place, words.at[2], words.size[2], terms.ttl)
    self.writes += 1
    return True


cdef bint _are_pairs(const Words *words) noexcept:
    """Whether keys and values follow, by turns."""
    cdef int item
    if words.count < 3 or words.count % 2 == 0:
        return False
    for item in range(1, words.count, 2):
        if not _is_key(words, item):
            return False
    return True


cdef bint _mset(RespFrameExecutor self, const Words *words) except -1:
    cdef Place place
    cdef int item
    cdef Py_ssize_t new = 0
    if not _are_pairs(words) or self._room_end - self._size < 5:
        return False
    for item in range(1, words.count, 2):
        place_of(self._table, &place, words.at[item], words.size[item])
        if not can_put_too(self._table, &place, &new):
            return False
    for item in range(1, words.count, 2):  # check all pairs before storing the first one
        place_of(self._table, &place, words.at[item], words.size[item])
        look_up(self._table, &place)
        put(self._table, &place, words.at[item + 1], words.size[item + 1])
    self.writes += 1
    return _say(self, b"+OK\r\n", 5)


cdef bint _count_keys(RespFrameExecutor self, const Words *words, bint clear) except -1:
    """EXISTS and DEL: how many of the keys are there; the latter takes them out."""
    cdef Place place
    cdef int64_t there = 0
    cdef int item
    if words.count < 2 or self._room_end - self._size < 24:
        return False
    for item in range(1, words.count):
        if not _is_key(words, item):
            return False
        place_of(self._table, &place, words.at[item], words.size[item])
        if not clear:
            there += visible(self._table, &place) is not NULL
        elif not can_drop(self._table, &place, words.count - 1):
            return False
    for item in range(1, words.count if clear else 1):  # all of them can be dropped before any is
        place_of(self._table, &place, words.at[item], words.size[item])
        there += drop(self._table, &place)
    self.writes += clear
    return _say_number(self, c":", there)


cdef bint _mget(RespFrameExecutor self, const Words *words) except -1:
    cdef Place place
    cdef Py_ssize_t before = self._size
    cdef int item
    if words.count < 2 or not _say_number(self, c"*", words.count - 1):
        return False
    for item in range(1, words.count):
        if _is_key(words, item):
            place_of(self._table, &place, words.at[item], words.size[item])
            if _say_value(self, visible(self._table, &place)):
                continue
        self._size = before
        return False
    if self._size - before > self._conversation.frame_max:  # an error is to be said instead
        self._size = before
        return False
    return True


cdef bint _incr(RespFrameExecutor self, const Words *words) except -1:
    cdef Place place
    cdef PyObject *old
    cdef int64_t total = 0
    cdef char text[20]
    if words.count != 2 or not _is_key(words, 1):
        return False
    place_of(self._table, &place, words.at[1], words.size[1])
    old = visible(self._table, &place)
    if old is not NULL and not read_decimal(
        <const unsigned char *>PyBytes_AS_STRING(<object>old), PyBytes_GET_SIZE(<object>old), &total
    ):
        return False
    if not can_put(self._table, &place) or not _say_number(self, c":", total + 1):
        return False
    put(self._table, &place, <const unsigned char *>text, write_decimal(text, total + 1), old is not NULL)
    self.writes += 1
    return True


cdef bint _ping(RespFrameExecutor self, const Words *words) except -1:
    if words.count == 1:
        return _say(self, b"+PONG\r\n", 7)
    return words.count == 2 and _say_string(self, words.at[1], words.size[1])
