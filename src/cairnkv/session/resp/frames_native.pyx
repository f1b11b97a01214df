# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The native path of the Redis protocol: parses commands, executes them, and encodes replies.

`TABLE` lists the commands that this path serves. A command that is not in it, that is not an array of bulk strings with
numbers in their shortest form, or that a function below leaves by returning 0 or False, takes the pure path:
`RequestDecoder`, the handlers in `session.resp.commands` and `Store.execute`.

Invariants: those of `executor_native`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from cairnkv.session.access.rights_native cimport NO_KEYS, Needs, may_access, set_needs
from cairnkv.session.executor_native cimport FrameExecutor, Scanned, length_of, read_decimal, write_decimal
from cairnkv.session.queue_frames_native cimport (
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
from cairnkv.engine.queue_native cimport Taken
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
from cairnkv.protocol.big_endian cimport put_be32

from cairnkv.commands import Access, Ack, ClearMany, Incr, Put, PutMany, Set, SetMany, SetWith, Take
from cairnkv.limits import KEY_MAX as _KEY_MAX
from cairnkv.limits import TTL_MAX as _TTL_MAX
from cairnkv.session.access.rights_native import rights_for
from cairnkv.session.resp.command_spec import RESP_COMMANDS, Arguments
from cairnkv.session.logged import execute_resp_request

cdef Py_ssize_t KEY_MAX = _KEY_MAX
cdef int64_t TTL_MAX = _TTL_MAX
cdef int64_t MILLISECONDS = 1000

cdef enum:
    WORDS_MAX = 128  # of a command; the pure path executes longer ones
    HEAD_DIGITS_MAX = 9  # of a count or a length

# A log entry contains commands of the Redis protocol as frames of the native protocol, which are shorter.
cdef unsigned char LOGGED_SET = Set.spec.number
cdef unsigned char LOGGED_SET_WITH = SetWith.spec.number
cdef unsigned char LOGGED_SET_MANY = SetMany.spec.number
cdef unsigned char LOGGED_CLEAR_MANY = ClearMany.spec.number
cdef unsigned char LOGGED_INCR = Incr.spec.number
cdef unsigned char LOGGED_PUT = Put.spec.number
cdef unsigned char LOGGED_PUT_MANY = PutMany.spec.number
cdef unsigned char LOGGED_TAKE = Take.spec.number
cdef unsigned char LOGGED_ACK = Ack.spec.number


cdef struct Request:
    # A complete request. Its first string is the name of the command.
    int count
    Py_ssize_t length  # of all its bytes
    const unsigned char *at[WORDS_MAX]
    Py_ssize_t size[WORDS_MAX]


ctypedef bint (*Execute)(RespFrameExecutor self, const Request *request) except -1
ctypedef bint (*Scan)(RespFrameExecutor self, const Request *request, Scanned *found) except -1
ctypedef char *(*WriteLogged)(char *into, const Request *request) noexcept

cdef enum:
    SLOTS = 64
    NAME_MAX = 8
    PREFIX = 6  # length of QUEUE and the dot

cdef uint64_t QUEUE = 0x7175657565  # the word, as `_folded`
cdef uint64_t ON_QUEUES = <uint64_t>0x80 << 56  # no part of a folded name: its bytes have 0x20

cdef struct Served:
    uint64_t name  # see `_served_name`; 0: the slot is free
    Execute execute
    Scan scan  # NULL: the command never waits for the log
    WriteLogged write_logged  # NULL: the command does not write
    bint writes
    bint ahead  # whether to look up its first argument, a key, ahead
    Needs needs

cdef Served[SLOTS] TABLE  # a hash table with linear probing

SERVED = []
"""The names of the commands in `TABLE`."""


cdef inline Py_ssize_t _head(const unsigned char *at, const unsigned char *end, char mark, Py_ssize_t *number) noexcept:
    """Read a mark, a number and the end of a line. Return their length, or 0 if they are incomplete or irregular."""
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


cdef inline bint _parse(
    RespFrameExecutor self, const unsigned char *frame, Py_ssize_t length, Request *request
) noexcept:
    """Find the strings of a request. Return whether it is complete and within the limits."""
    cdef const unsigned char *at = frame
    cdef const unsigned char *end = frame + length
    cdef Py_ssize_t count, size, used
    cdef int item
    used = _head(at, end, c"*", &count)
    if used == 0 or not 1 <= count <= WORDS_MAX:
        return False
    at += used
    request.count = <int>count
    for item in range(request.count):
        used = _head(at, end, c"$", &size)
        if used == 0 or size > self._conversation.string_max or end - at - used < size + 2:
            return False
        at += used
        request.at[item] = at
        request.size[item] = size
        at += size
        if at[0] != c"\r" or at[1] != c"\n":
            return False
        at += 2
    request.length = at - frame
    return request.length <= self._conversation.frame_max


cdef inline uint64_t _folded(const unsigned char *name, Py_ssize_t size) noexcept nogil:
    """Return the letters of a name of up to `NAME_MAX` letters as a number, without regard to case."""
    cdef uint64_t folded = 0
    cdef Py_ssize_t at
    for at in range(size):
        folded = folded << 8 | (name[at] | 0x20)
    return folded


cdef inline uint64_t _served_name(const unsigned char *name, Py_ssize_t size) noexcept nogil:
    """Return a name as `Served` has it, or 0 if it is none."""
    if size <= NAME_MAX:
        return _folded(name, size)
    if size > PREFIX + NAME_MAX - 1 or name[PREFIX - 1] != c"." or _folded(name, PREFIX - 1) != QUEUE:
        return 0
    return ON_QUEUES | _folded(name + PREFIX, size - PREFIX)


cdef inline unsigned int _slot(uint64_t name) noexcept nogil:
    return name * <uint64_t>0x9E3779B97F4A7C15 >> 58  # the upper 6 bits of Fibonacci hashing


cdef inline const Served *_command(
    RespFrameExecutor self, const unsigned char *frame, Py_ssize_t length, Request *request
) noexcept:
    """Parse a request. Return the entry of its command, or NULL if it is incomplete or the pure path serves it."""
    cdef uint64_t name
    cdef unsigned int slot
    if not _parse(self, frame, length, request):
        return NULL
    name = _served_name(request.at[0], request.size[0])
    if name == 0:
        return NULL
    slot = _slot(name)
    while TABLE[slot].name != name:
        if TABLE[slot].name == 0:
            return NULL
        slot = (slot + 1) % SLOTS
    return &TABLE[slot]


cdef inline const Served *_allowed_command(
    RespFrameExecutor self, const unsigned char *frame, Py_ssize_t length, Request *request
) noexcept:
    """Do the same as `_command`. Return NULL if the client has no right to the command: the pure path refuses it."""
    cdef const Served *command = _command(self, frame, length, request)
    if self._conversation.rules is NULL or command is NULL or _is_within(self, &command.needs, request):
        return command
    return NULL


cdef bint _is_within(RespFrameExecutor self, const Needs *needs, const Request *request) noexcept:
    """Return whether the client has the right to a request."""
    cdef int item = needs.first
    if not self._conversation.rules.commands & needs.bit:
        return False
    if item == NO_KEYS:
        return True
    if item < 0:  # unknown ones
        return may_access(self._conversation.rules, needs, b"", 0)
    while item < request.count:
        if not may_access(self._conversation.rules, needs, request.at[item], request.size[item]):
            return False
        if needs.step == 0:
            return True
        item += needs.step
    return item > needs.first  # at least one key


cdef class RespFrameExecutor(FrameExecutor):
    """Executes commands of the Redis protocol in one database."""

    def native_rights(self, rights):
        """Return the rights of a client for this executor."""
        return rights_for(rights, [(name.lower(),) for name in SERVED])

    cdef Py_ssize_t frame(self, const unsigned char *data, Py_ssize_t length) except -1:
        """Execute the first command. Return its length, or 0 if the pure path must execute it."""
        cdef Request request
        cdef const Served *command = _allowed_command(self, data, length, &request)
        return request.length if command is not NULL and command.execute(self, &request) else 0

    cdef Py_ssize_t local_read(self, const unsigned char *data, Py_ssize_t length) except -1:
        """Execute the first command if it is a read and the client allows local reads. Return its length, or 0."""
        cdef Request request
        cdef const Served *command
        if not self._conversation.reads_locally:
            return 0
        command = _allowed_command(self, data, length, &request)
        if command is NULL or command.scan is NULL or command.writes:
            return 0
        return request.length if command.execute(self, &request) else 0

    cdef Py_ssize_t scan(self, const unsigned char *data, Py_ssize_t length, Scanned *found) except -1:
        """Describe the first command if `frame` would try to execute it. Return its length, or 0."""
        cdef Request request
        cdef const Served *command = _allowed_command(self, data, length, &request)
        if command is NULL or command.scan is NULL:
            return 0
        found.reply = 32
        found.commands = 1
        found.writes = command.writes
        found.takes = False
        found.local = not found.writes and self._conversation.reads_locally
        return request.length if command.scan(self, &request, found) else 0

    cdef Py_ssize_t write_logged(self, char *into, const unsigned char *data, Py_ssize_t length) noexcept:
        """Write a scanned command as a log entry contains it. Return its length there."""
        cdef Request request
        cdef const Served *command = _command(self, data, length, &request)
        into[0] = into[1] = 0
        return command.write_logged(into, &request) - into

    cdef object left(self, object store, object changes, bytes frame, bint abandoned):
        """Execute a scanned command on the pure path, at its place in the log. Return its `QueuedReply`."""
        protocol = self._conversation.width
        return execute_resp_request(store, changes, frame, self._table._number, protocol, self.limits(),
                                    abandoned=abandoned)

    cdef Py_ssize_t key_ahead(self, const unsigned char *data, Py_ssize_t length, int width,
                              const unsigned char **key, Py_ssize_t *size) noexcept:
        """Find the key of the first command. Return the length of the command, or 0 if the key is unknown."""
        cdef Request request
        cdef const Served *command = _command(self, data, length, &request)
        if command is NULL or not command.ahead or not 2 <= request.count <= 5 or not _is_key(&request, 1):
            return 0
        key[0] = request.at[1]
        size[0] = request.size[1]
        return request.length

# -- scans: whether the arguments fit ------------------------------------------------------------------


cdef bint _scan_get(RespFrameExecutor self, const Request *request, Scanned *found) except -1:
    if request.count != 2 or not _is_key(request, 1):
        return False
    if found.measures:
        found.reply += length_of(self, request.at[1], request.size[1])
    return True


cdef bint _scan_set(RespFrameExecutor self, const Request *request, Scanned *found) except -1:
    cdef Terms terms
    return request.count >= 2 and _is_key(request, 1) and _terms_of(request, &terms)


cdef bint _scan_incr(RespFrameExecutor self, const Request *request, Scanned *found) except -1:
    return request.count == 2 and _is_key(request, 1)


cdef bint _scan_keys(RespFrameExecutor self, const Request *request, Scanned *found) except -1:
    cdef int item
    for item in range(1, request.count):
        if not _is_key(request, item):
            return False
    return request.count >= 2


cdef bint _scan_mget(RespFrameExecutor self, const Request *request, Scanned *found) except -1:
    cdef int item
    if not _scan_keys(self, request, found):
        return False
    if found.measures:
        for item in range(1, request.count):
            found.reply += 32 + length_of(self, request.at[item], request.size[item])
    return True


cdef bint _scan_mset(RespFrameExecutor self, const Request *request, Scanned *found) except -1:
    return _are_pairs(request)

# -- log entries: each writes a scanned command behind two bytes of zero, and returns its end ----------


cdef inline char *_string(char *into, const unsigned char *string, Py_ssize_t size) noexcept nogil:
    """Write a string of the native protocol. Return its end."""
    put_be32(into, size)
    memcpy(into + 4, string, size)
    return into + 4 + size


cdef inline char *_strings(char *into, const Request *request) noexcept nogil:
    """Write the arguments of a command. Return their end."""
    cdef int item
    for item in range(1, request.count):
        into = _string(into, request.at[item], request.size[item])
    return into


cdef char *_log_set(char *into, const Request *request) noexcept:
    cdef Terms terms
    cdef char text[20]
    if request.count == 3:
        into[2] = LOGGED_SET
        return _strings(into + 3, request)
    _terms_of(request, &terms)
    into[2] = LOGGED_SET_WITH
    put_be32(into + 3, 2 + (2 if terms.ttl else 0) + (terms.if_absent or terms.if_present))
    into = _string(_string(into + 7, request.at[1], request.size[1]), request.at[2], request.size[2])
    if terms.ttl:
        into = _string(into, <const unsigned char *>b"TTL", 3)
        into = _string(into, <const unsigned char *>text, write_decimal(text, terms.ttl))
    if terms.if_absent:
        into = _string(into, <const unsigned char *>b"IFABSENT", 8)
    if terms.if_present:
        into = _string(into, <const unsigned char *>b"IFPRESENT", 9)
    return into


cdef char *_log_mset(char *into, const Request *request) noexcept:
    into[2] = LOGGED_SET_MANY
    put_be32(into + 3, request.count)
    return _strings(_string(into + 7, <const unsigned char *>b"0", 1), request)


cdef char *_log_incr(char *into, const Request *request) noexcept:
    into[2] = LOGGED_INCR
    put_be32(into + 3, 2)
    return _string(_strings(into + 7, request), <const unsigned char *>b"1", 1)


cdef char *_log_del(char *into, const Request *request) noexcept:
    into[2] = LOGGED_CLEAR_MANY
    put_be32(into + 3, request.count - 1)
    return _strings(into + 7, request)

# -- replies -------------------------------------------------------------------------------------------


cdef inline bint _reply(FrameExecutor self, const char *text, Py_ssize_t length) noexcept:
    """Write a reply. Return False, and write nothing, if there is no room."""
    if length > self._room_end - self._size:
        return False
    memcpy(self._out + self._size, text, length)
    self._size += length
    return True


cdef inline bint _reply_number(FrameExecutor self, char mark, int64_t number) noexcept:
    cdef char text[24]
    cdef int length
    text[0] = mark
    length = 1 + write_decimal(text + 1, number)
    text[length] = c"\r"
    text[length + 1] = c"\n"
    return _reply(self, text, length + 2)


cdef inline bint _reply_null(FrameExecutor self) noexcept:
    return _reply(self, b"_\r\n", 3) if self._conversation.width == 3 else _reply(self, b"$-1\r\n", 5)


cdef inline bint _reply_string(FrameExecutor self, const void *string, Py_ssize_t size) noexcept:
    if size + 32 > self._room_end - self._size:
        return False
    _reply_number(self, c"$", size)
    _reply(self, <const char *>string, size)
    return _reply(self, b"\r\n", 2)


cdef inline bint _reply_value(FrameExecutor self, PyObject *value) noexcept:
    if value is NULL:
        return _reply_null(self)
    return _reply_string(self, PyBytes_AS_STRING(<object>value), PyBytes_GET_SIZE(<object>value))

# -- commands: each returns whether it executed; if not, it has changed nothing ------------------------


cdef inline bint _is_key(const Request *request, int item) noexcept:
    return 1 <= request.size[item] <= KEY_MAX


cdef bint _get(RespFrameExecutor self, const Request *request) except -1:
    cdef Place place
    if request.count != 2 or not _is_key(request, 1):
        return False
    place_of(self._table, &place, request.at[1], request.size[1])
    return _reply_value(self, read(self._table, &place))


cdef bint _terms_of(const Request *request, Terms *terms) noexcept:
    """Read the options of SET. Return False if they do not fit, or if the pure path must execute them."""
    cdef int at = 3
    cdef unsigned char first
    terms.ttl = terms.if_absent = terms.if_present = 0
    while at < request.count:
        if request.size[at] != 2 or (request.at[at][1] | 0x20) != c"x":  # EX, PX, NX, XX
            return False
        first = request.at[at][0] | 0x20
        at += 1
        if first == c"e" or first == c"p":
            if at == request.count or terms.ttl or not read_decimal(request.at[at], request.size[at], &terms.ttl):
                return False
            if not 1 <= terms.ttl <= TTL_MAX // MILLISECONDS:  # the pure path reads longer ones
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
    return request.count >= 3


cdef bint _set(RespFrameExecutor self, const Request *request) except -1:
    cdef Place place
    cdef Terms terms
    cdef bint stored
    if not _terms_of(request, &terms) or not _is_key(request, 1):
        return False
    place_of(self._table, &place, request.at[1], request.size[1])
    if not can_put(self._table, &place):
        return False
    stored = are_met(self._table, &place, &terms)
    if not (_reply(self, b"+OK\r\n", 5) if stored else _reply_null(self)):
        return False
    if stored:
        put_for(self._table, &place, request.at[2], request.size[2], terms.ttl)
    self.writes += 1
    return True


cdef bint _are_pairs(const Request *request) noexcept:
    """Return whether the arguments are pairs of a key and a value."""
    cdef int item
    if request.count < 3 or request.count % 2 == 0:
        return False
    for item in range(1, request.count, 2):
        if not _is_key(request, item):
            return False
    return True


cdef bint _mset(RespFrameExecutor self, const Request *request) except -1:
    cdef Place place
    cdef int item
    cdef Py_ssize_t new = 0
    if not _are_pairs(request) or self._room_end - self._size < 5:
        return False
    for item in range(1, request.count, 2):
        place_of(self._table, &place, request.at[item], request.size[item])
        if not can_put_too(self._table, &place, &new):
            return False
    for item in range(1, request.count, 2):  # check all pairs before storing the first one
        place_of(self._table, &place, request.at[item], request.size[item])
        look_up(self._table, &place)
        put(self._table, &place, request.at[item + 1], request.size[item + 1])
    self.writes += 1
    return _reply(self, b"+OK\r\n", 5)


cdef bint _exists(RespFrameExecutor self, const Request *request) except -1:
    return _count_keys(self, request, False)


cdef bint _del(RespFrameExecutor self, const Request *request) except -1:
    return _count_keys(self, request, True)


cdef inline bint _count_keys(RespFrameExecutor self, const Request *request, bint clear) except -1:
    """Count the keys that exist, and delete them if `clear`."""
    cdef Place place
    cdef int64_t there = 0
    cdef int item
    if request.count < 2 or self._room_end - self._size < 24:
        return False
    for item in range(1, request.count):
        if not _is_key(request, item):
            return False
        place_of(self._table, &place, request.at[item], request.size[item])
        if not clear:
            there += read(self._table, &place) is not NULL
        elif not can_delete(self._table, &place, request.count - 1):
            return False
    for item in range(1, request.count if clear else 1):  # check all keys before deleting the first one
        place_of(self._table, &place, request.at[item], request.size[item])
        there += delete_key(self._table, &place)
    self.writes += clear
    return _reply_number(self, c":", there)


cdef bint _mget(RespFrameExecutor self, const Request *request) except -1:
    cdef Place place
    cdef Py_ssize_t before = self._size
    cdef int item
    if request.count < 2 or not _reply_number(self, c"*", request.count - 1):
        return False
    for item in range(1, request.count):
        if _is_key(request, item):
            place_of(self._table, &place, request.at[item], request.size[item])
            if _reply_value(self, read(self._table, &place)):
                continue
        self._size = before
        return False
    if self._size - before > self._conversation.frame_max:  # the reply is an error
        self._size = before
        return False
    return True


cdef bint _incr(RespFrameExecutor self, const Request *request) except -1:
    cdef Place place
    cdef PyObject *old
    cdef int64_t total = 0
    cdef char text[20]
    if request.count != 2 or not _is_key(request, 1):
        return False
    place_of(self._table, &place, request.at[1], request.size[1])
    old = visible(self._table, &place)
    if old is not NULL and not read_decimal(
        <const unsigned char *>PyBytes_AS_STRING(<object>old), PyBytes_GET_SIZE(<object>old), &total
    ):
        return False
    if not can_put(self._table, &place) or not _reply_number(self, c":", total + 1):
        return False
    put(self._table, &place, <const unsigned char *>text, write_decimal(text, total + 1), old is not NULL)
    self.writes += 1
    return True


cdef bint _ping(RespFrameExecutor self, const Request *request) except -1:
    if request.count == 1:
        return _reply(self, b"+PONG\r\n", 7)
    return request.count == 2 and _reply_string(self, request.at[1], request.size[1])

# -- commands on queues --------------------------------------------------------------------------------


cdef inline Strings _arguments(const Request *request) noexcept:
    cdef Strings strings
    strings.count = request.count - 1
    strings.at = <const unsigned char **>request.at + 1
    strings.size = request.size + 1
    strings.any_case = True
    return strings


cdef bint _scan_queue_put(RespFrameExecutor self, const Request *request, Scanned *found) except -1:
    cdef Strings strings = _arguments(request)
    return scan_put(self, &strings, found)


cdef bint _scan_queue_putmany(RespFrameExecutor self, const Request *request, Scanned *found) except -1:
    cdef Strings strings = _arguments(request)
    return scan_put_many(self, &strings, found)


cdef bint _scan_queue_take(RespFrameExecutor self, const Request *request, Scanned *found) except -1:
    cdef Strings strings = _arguments(request)
    return scan_take(self, &strings, found)


cdef bint _scan_queue_ack(RespFrameExecutor self, const Request *request, Scanned *found) except -1:
    cdef Strings strings = _arguments(request)
    return scan_ack(self, &strings, found)


cdef char *_log_on_queues(char *into, const Request *request, unsigned char number, int options) noexcept:
    """Write a command on queues. options: the place of its first keyword; the log has keywords in capitals."""
    cdef int item
    cdef Py_ssize_t at
    into[2] = number
    put_be32(into + 3, request.count - 1)
    into += 7
    for item in range(1, request.count):
        into = _string(into, request.at[item], request.size[item])
        if item >= options and (item - options) % 2 == 0:
            for at in range(request.size[item]):
                into[-1 - at] &= ~0x20
    return into


cdef char *_log_queue_put(char *into, const Request *request) noexcept:
    return _log_on_queues(into, request, LOGGED_PUT, 3)


cdef char *_log_queue_putmany(char *into, const Request *request) noexcept:
    return _log_on_queues(into, request, LOGGED_PUT_MANY, WORDS_MAX)


cdef char *_log_queue_take(char *into, const Request *request) noexcept:
    return _log_on_queues(into, request, LOGGED_TAKE, 3)


cdef char *_log_queue_ack(char *into, const Request *request) noexcept:
    return _log_on_queues(into, request, LOGGED_ACK, WORDS_MAX)


cdef inline Py_ssize_t _room(RespFrameExecutor self) noexcept:
    """Return the room for a reply."""
    return min(self._room_end - self._size, self._conversation.frame_max)


cdef inline bint _reply_numbers(RespFrameExecutor self, int64_t one, int64_t other) noexcept:
    _reply_number(self, c"*", 2)
    _reply_number(self, c":", one)
    return _reply_number(self, c":", other)


cdef bint _queue_put(RespFrameExecutor self, const Request *request) except -1:
    cdef Strings strings = _arguments(request)
    cdef int64_t number
    if _room(self) < 64:
        return False
    number = put_message(self, &strings)
    return number and _reply_numbers(self, number, 1)


cdef bint _queue_putmany(RespFrameExecutor self, const Request *request) except -1:
    cdef Strings strings = _arguments(request)
    cdef int64_t number
    if _room(self) < 64:
        return False
    number = put_messages(self, &strings)
    return number and _reply_numbers(self, number, strings.count - 3)


cdef bint _queue_take(RespFrameExecutor self, const Request *request) except -1:
    cdef Strings strings = _arguments(request)
    cdef const Taken *taken
    cdef Py_ssize_t item, head = 24
    if _room(self) < head or not take_messages(self, &strings, _room(self) - head):
        return False
    _reply_number(self, c"*", self._queues.taken_count)
    for item in range(self._queues.taken_count):
        taken = self._queues.taken + item
        _reply_number(self, c"*", 7)
        _reply_number(self, c":", taken.id)
        _reply_number(self, c":", taken.lease)
        _reply_number(self, c":", taken.attempts)
        _reply_number(self, c":", taken.milliseconds)
        _reply_number(self, c":", taken.put_at)
        _reply_string(self, taken.group, taken.group_size)
        _reply_string(self, taken.body, taken.body_size)
    return True


cdef bint _queue_ack(RespFrameExecutor self, const Request *request) except -1:
    cdef Strings strings = _arguments(request)
    cdef char replies[WORDS_MAX]
    cdef Py_ssize_t item, count
    if _room(self) < 24 + 4 * strings.count:
        return False
    count = ack_messages(self, &strings, replies)
    if count == 0:
        return False
    _reply_number(self, c"*", count)
    for item in range(count):
        _reply_number(self, c":", replies[item] - c"0")
    return True

# -- the table -----------------------------------------------------------------------------------------


cdef int _serve(str name, Execute execute, Scan scan=NULL, WriteLogged write_logged=NULL, bint ahead=False) except -1:
    """Add a command to `TABLE`. `Served` explains the arguments. The declaration says whether it writes."""
    cdef bytes text = name.encode()
    cdef uint64_t folded = _served_name(text, len(text))
    cdef unsigned int slot = _slot(folded)
    cdef bint writes = "write" in RESP_COMMANDS[text].flags
    if folded == 0 or 2 * len(SERVED) > SLOTS or writes != (write_logged is not NULL):
        raise ValueError(f"{name} does not fit into the table of the native path")
    while TABLE[slot].name:
        slot = (slot + 1) % SLOTS
    TABLE[slot].name = folded
    TABLE[slot].execute = execute
    TABLE[slot].scan = scan
    TABLE[slot].write_logged = write_logged
    TABLE[slot].writes = writes
    TABLE[slot].ahead = ahead
    spec = RESP_COMMANDS[text]
    first, last, step = spec.keys
    access = Access.EXISTENCE
    if spec.on_keys is not None:
        command = spec.on_keys(Arguments(spec.name, [b"1"] * (abs(spec.arity) - 1))).command
        access = command.spec.access
        if not first:
            first, last = (1, 1) if command.accesses() else (-1, -1)  # the name of a queue, or ids of messages
    set_needs(&TABLE[slot].needs, len(SERVED), spec.on_keys is not None, first, 0 if first == last else step, access)
    SERVED.append(name)
    return 0


_serve("GET", _get, _scan_get, NULL, True)
_serve("SET", _set, _scan_set, _log_set, True)
_serve("DEL", _del, _scan_keys, _log_del)
_serve("EXISTS", _exists, _scan_keys)
_serve("MGET", _mget, _scan_mget)
_serve("MSET", _mset, _scan_mset, _log_mset)
_serve("INCR", _incr, _scan_incr, _log_incr)
_serve("PING", _ping)
_serve("QUEUE.PUT", _queue_put, _scan_queue_put, _log_queue_put)
_serve("QUEUE.PUTMANY", _queue_putmany, _scan_queue_putmany, _log_queue_putmany)
_serve("QUEUE.TAKE", _queue_take, _scan_queue_take, _log_queue_take)
_serve("QUEUE.ACK", _queue_ack, _scan_queue_ack, _log_queue_ack)
