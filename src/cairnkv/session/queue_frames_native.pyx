# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""PUT, PUT_MANY, TAKE and ACK on the native path, for both protocols: from their strings to the engine.

Each function returns 0 if it has changed nothing and the pure path must execute the command: its strings do not fit, it
has an option that is not served here, the engine leaves it, or the client has had its share of this run. A TAKE that
would wait is left, too: only the pure path has waiters. For the same reason, a node of a cluster proposes no command
here about a queue with waiters, and no TAKE of a queue without a message.

Invariants: those of `executor_native`. The caller has checked that the reply has room; for TAKE, the engine checks it.

Out of scope: frames and replies (`frames_native` of each protocol), and messages (`engine.queue_native`).
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t
from libc.string cimport memcmp
from posix.strings cimport strncasecmp

from cairnkv.engine.queue_native cimport Body, MessageTerms
from cairnkv.session.executor_native cimport FrameExecutor, Scanned, read_decimal

from cairnkv.commands.queue_vocabulary import TAKE_STRINGS, queue_key
from cairnkv.engine.queue import queues_of
from cairnkv.limits import DELAY_MAX as _DELAY_MAX
from cairnkv.limits import LEASE_MAX as _LEASE_MAX
from cairnkv.limits import MESSAGE_HEAD_MAX as _MESSAGE_HEAD_MAX
from cairnkv.limits import PRIORITY_DEFAULT as _PRIORITY_DEFAULT
from cairnkv.limits import PRIORITY_MAX as _PRIORITY_MAX
from cairnkv.limits import QUEUE_NAME_MAX as _QUEUE_NAME_MAX
from cairnkv.limits import TAKE_BYTES as _TAKE_BYTES
from cairnkv.limits import TAKE_MAX
from cairnkv.limits import WAIT_MAX as _WAIT_MAX
from cairnkv.store import ITEM_BYTES

cdef int64_t DELAY_MAX = _DELAY_MAX
cdef int64_t LEASE_MAX = _LEASE_MAX
cdef int64_t MESSAGE_HEAD_MAX = _MESSAGE_HEAD_MAX
cdef int64_t PRIORITY_DEFAULT = _PRIORITY_DEFAULT
cdef int64_t PRIORITY_MAX = _PRIORITY_MAX
cdef Py_ssize_t QUEUE_NAME_MAX = _QUEUE_NAME_MAX
cdef Py_ssize_t TAKE_BYTES = _TAKE_BYTES
cdef int64_t WAIT_MAX = _WAIT_MAX

# The pure path estimates the size of a reply with so many more bytes for each message (`store.pending.size_of`).
cdef Py_ssize_t ESTIMATED_BYTES = TAKE_STRINGS * ITEM_BYTES + 5 * 20 - TAKEN_BYTES

if TAKE_MAX != MESSAGES_MAX or TAKE_STRINGS * 24 != TAKEN_BYTES:
    raise AssertionError("the limits of queue_frames_native.pxd differ from those of the commands")


cdef inline bint _begins(FrameExecutor self) except -1:
    """Return whether a command on queues may execute here now."""
    if self._queues is None or self._messages_left <= 0:
        return False
    return not self._is_for_log or self._collector.serves_queues()


cdef inline bint _is_name(const Strings *strings, Py_ssize_t item) noexcept:
    return 1 <= strings.size[item] <= QUEUE_NAME_MAX


cdef inline bytes _bytes(const Strings *strings, Py_ssize_t item):
    return PyBytes_FromStringAndSize(<const char *>strings.at[item], strings.size[item])


cdef inline bint _is_word(const Strings *strings, Py_ssize_t item, const char *word, Py_ssize_t size) noexcept:
    """Return whether a string is this keyword."""
    if strings.size[item] != size:
        return False
    if strings.any_case:
        return strncasecmp(<const char *>strings.at[item], word, size) == 0
    return memcmp(strings.at[item], word, size) == 0


cdef inline bint _number(const Strings *strings, Py_ssize_t item, int64_t least, int64_t most, int64_t *number) noexcept:
    """Read the number in a string. Return False if it is not within these limits."""
    return read_decimal(strings.at[item], strings.size[item], number) and least <= number[0] <= most


# -- arguments: each returns whether they fit, and may be served here ----------------------------------------------


cdef bint _read_put(const Strings *strings, MessageTerms *terms, Py_ssize_t *group) noexcept:
    """Read PUT. group: set to the place of its group; 0: it has none."""
    cdef Py_ssize_t item
    cdef bint delay = False, priority = False
    terms.delay = terms.expires = terms.lease_ms = group[0] = 0
    terms.priority = PRIORITY_DEFAULT
    if strings.count < 2 or strings.count % 2 or not _is_name(strings, 0):
        return False
    for item in range(2, strings.count, 2):
        if not delay and _is_word(strings, item, b"DELAY", 5):
            delay = True
            if not _number(strings, item + 1, 0, DELAY_MAX, &terms.delay):
                return False
        elif not priority and _is_word(strings, item, b"PRIORITY", 8):
            priority = True
            if not _number(strings, item + 1, 0, PRIORITY_MAX, &terms.priority):
                return False
        elif group[0] == 0 and _is_word(strings, item, b"GROUP", 5):
            group[0] = item + 1
            if not _is_name(strings, item + 1):
                return False
        elif terms.expires == 0 and _is_word(strings, item, b"EXPIRES", 7):
            if not _number(strings, item + 1, 1, DELAY_MAX, &terms.expires):
                return False
        elif terms.lease_ms or not _is_word(strings, item, b"LEASE", 5):
            return False
        elif not _number(strings, item + 1, 1, LEASE_MAX, &terms.lease_ms):
            return False
    return True


cdef bint _read_put_many(const Strings *strings, MessageTerms *terms) noexcept:
    terms.expires = terms.lease_ms = 0
    return (
        4 <= strings.count <= 3 + MESSAGES_MAX
        and _is_name(strings, 0)
        and _number(strings, 1, 0, DELAY_MAX, &terms.delay)
        and _number(strings, 2, 0, PRIORITY_MAX, &terms.priority)
    )


cdef bint _read_take(const Strings *strings, int64_t *count, int64_t *lease, int64_t *wait) noexcept:
    """Read TAKE. lease, wait: set to 0 if it has none."""
    cdef Py_ssize_t item
    lease[0] = wait[0] = 0
    if strings.count < 2 or strings.count % 2 or not _is_name(strings, 0):
        return False
    if not _number(strings, 1, 1, MESSAGES_MAX, count):
        return False
    for item in range(2, strings.count, 2):
        if lease[0] == 0 and _is_word(strings, item, b"LEASE", 5):
            if not _number(strings, item + 1, 1, LEASE_MAX, lease):
                return False
        elif wait[0] or not _is_word(strings, item, b"WAIT", 4) or not _number(strings, item + 1, 1, WAIT_MAX, wait):
            return False
    return True


cdef inline bint _fits(FrameExecutor self, int64_t count) noexcept:
    """Return whether a frame has room for so many messages. If not, `fitting` of the pure path lowers the number."""
    return count == 1 or count * MESSAGE_HEAD_MAX <= self._conversation.frame_max - TAKE_BYTES


cdef bint _read_ack(const Strings *strings, int64_t *pairs) noexcept:
    """Read ACK. pairs: room for an id and a lease of each message."""
    cdef Py_ssize_t item
    if not 2 <= strings.count <= 2 * MESSAGES_MAX or strings.count % 2:
        return False
    for item in range(strings.count):
        if not read_decimal(strings.at[item], strings.size[item], pairs + item) or pairs[item] < 1:
            return False
    return True


# -- execution -----------------------------------------------------------------------------------------------------


cdef int64_t put_message(FrameExecutor self, const Strings *strings) except -1:
    """Execute PUT. Return the id of the message, or 0."""
    cdef MessageTerms terms
    cdef Py_ssize_t group
    if not _begins(self) or not _read_put(strings, &terms, &group):
        return 0
    return _put(self, strings, &terms, group, 1, 1)


cdef int64_t put_messages(FrameExecutor self, const Strings *strings) except -1:
    """Execute PUT_MANY. Return the id of the first of `strings.count - 3` messages, or 0."""
    cdef MessageTerms terms
    if not _begins(self) or not _read_put_many(strings, &terms):
        return 0
    return _put(self, strings, &terms, 0, 3, strings.count - 3)


cdef int64_t _put(FrameExecutor self, const Strings *strings, const MessageTerms *terms, Py_ssize_t group,
                  Py_ssize_t first, Py_ssize_t count) except -1:
    cdef Body bodies[MESSAGES_MAX]
    cdef Py_ssize_t item
    cdef int64_t number
    for item in range(count):
        bodies[item].data = strings.at[first + item]
        bodies[item].size = strings.size[first + item]
        bodies[item].whole = NULL
    number = self._queues.put(
        self._table, _bytes(strings, 0), _bytes(strings, group) if group else b"", terms, bodies, count
    )
    if number:
        self._messages_left -= count
        self.writes += 1
    return number


cdef bint take_messages(FrameExecutor self, const Strings *strings, Py_ssize_t room) except -1:
    """Execute TAKE, unless it would wait. Return whether it is executed: `_queues.taken` has the messages.

    room: bytes for the reply, with `TAKEN_BYTES` for each message besides its group and its body.
    """
    cdef int64_t count, lease, wait
    if not _begins(self) or not _read_take(strings, &count, &lease, &wait):
        return False
    if not self._is_for_log and not _fits(self, count):
        return False
    room = min(room, self._conversation.frame_max - count * ESTIMATED_BYTES)
    if not self._queues.take(self._table, _bytes(strings, 0), count, lease, room):
        return False
    if self._queues.taken_count == 0:
        self._messages_left -= 1
        return wait == 0
    self._messages_left -= self._queues.taken_count
    self.writes += 1
    return True


cdef Py_ssize_t ack_messages(FrameExecutor self, const Strings *strings, char *replies) except -1:
    """Execute ACK. Return the number of messages, or 0. replies: room for a digit of each."""
    cdef int64_t pairs[2 * MESSAGES_MAX]
    cdef Py_ssize_t item, count = strings.count // 2
    cdef bint acked = False
    if not _begins(self) or not _read_ack(strings, pairs) or not self._queues.ack(self._table, pairs, count, replies):
        return 0
    for item in range(count):
        acked |= replies[item] == c"1"
    self._messages_left -= count
    self.writes += acked
    return count


# -- scans: each returns whether a command may be proposed, and always so for one that was ----------------------------


cdef object _scanned_queue(FrameExecutor self, const Strings *strings):
    """Return the database of queues, or None if a command that names this queue must not be proposed here."""
    queues = queues_of(self._table._shared)
    return queues if self._collector.serves_queues() and queue_key(_bytes(strings, 0)) not in queues.watched else None


cdef bint scan_put(FrameExecutor self, const Strings *strings, Scanned *found) except -1:
    cdef MessageTerms terms
    cdef Py_ssize_t group
    if not _read_put(strings, &terms, &group):
        return False
    return not found.measures or _scanned_queue(self, strings) is not None


cdef bint scan_put_many(FrameExecutor self, const Strings *strings, Scanned *found) except -1:
    cdef MessageTerms terms
    if not _read_put_many(strings, &terms):
        return False
    found.commands = strings.count - 3
    return not found.measures or _scanned_queue(self, strings) is not None


cdef bint scan_take(FrameExecutor self, const Strings *strings, Scanned *found) except -1:
    cdef int64_t count, lease, wait
    if not _read_take(strings, &count, &lease, &wait) or wait:
        return False
    found.takes = True
    if not found.measures:
        return True
    if not _fits(self, count):
        return False
    queues = _scanned_queue(self, strings)
    if queues is None:
        return False
    name = _bytes(strings, 0)
    at = queues.ready_at(queue_key(name))
    if at is None or at > queues.now:
        return False
    queue = queues.index.queues[name]
    found.commands = min(count, len(queue.live))
    found.reply += min(queue.size, TAKE_BYTES, count * (TAKEN_BYTES + 2 * queue.size // len(queue.live)))
    return True


cdef bint scan_ack(FrameExecutor self, const Strings *strings, Scanned *found) except -1:
    cdef int64_t pairs[2 * MESSAGES_MAX]
    if not _read_ack(strings, pairs):
        return False
    found.commands = strings.count // 2
    return not found.measures or self._collector.serves_queues()
