# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""PUT, TAKE and ACK of queues, compiled: the same changes of the records and of their index as the pure operations make.

The functions here read and change the same records and index as the pure path: those of `QueueDatabase`. So each
command can take either path. A command that needs more than a few records goes to the pure path: limits that are met,
expired or dead messages to remove, unique names, PERGROUP.

Invariants: a command is executed completely or not at all. If a change fails halfway, `QueueDatabase._index` is None, so
that the next use makes a new index. Bodies and names stay bytes of the caller until they are stored.

Out of scope: the other commands (`queue_operations`), and frames (`cairnkv.session`).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_DelItem, PyDict_GetItemWithError, PyDict_SetItem, PyDict_Size
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE, PyList_Insert, PyList_SET_ITEM
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_SET_ITEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from cairnkv.engine.sorted_list_native cimport Pair, SortedNumbers, SortedPairs
from cairnkv.engine.table_native cimport NativeTable, cairn_crc32, cairn_int, cairn_slot, slot_offset

from cairnkv.commands import Ack, Items, Put, PutMany, Take, TakeAny
from cairnkv.engine.database import Before, Database
from cairnkv.engine.queue_index import (
    DEFAULTS,
    TURN_CHUNK,
    Group,
    Line,
    Lists,
    Queue,
    QueueIndex,
    Turn,
    TurnChunk,
    Turns,
)
from cairnkv.engine.queue_records import BODY_INSIDE_MAX as _BODY_INSIDE_MAX
from cairnkv.engine.queue_records import MESSAGE_BYTES as _MESSAGE_BYTES
from cairnkv.engine.queue_records import QUEUE_BYTES as _QUEUE_BYTES
from cairnkv.engine.queue_records import QueueRecord, Settings
from cairnkv.engine.table import BUCKET_KEYS as _BUCKET_KEYS
from cairnkv.engine.table import ENTRY_BYTES as _ENTRY_BYTES
from cairnkv.engine.table import Bucket, Table
from cairnkv.limits import PRIORITY_DEFAULT as _PRIORITY_DEFAULT
from cairnkv.limits import QUEUE_DB as _QUEUE_DB
from cairnkv.limits import TAKE_BYTES as _TAKE_BYTES
from cairnkv.limits import TAKE_MAX as _TAKE_MAX

cdef extern from "Python.h":
    object PyType_GenericAlloc(PyTypeObject *type, Py_ssize_t items)
    int PyList_SetSlice(object items, Py_ssize_t low, Py_ssize_t high, PyObject *new) except -1

cdef extern from "<endian.h>" nogil:
    uint64_t be64toh(uint64_t)
    uint64_t htobe64(uint64_t)
    uint32_t be32toh(uint32_t)
    uint32_t htobe32(uint32_t)

cdef enum:
    REPLY_BYTES = 168  # of the strings of a taken message besides its group and its body, with their lengths, at most

cdef Py_ssize_t BODY_INSIDE_MAX = _BODY_INSIDE_MAX
cdef Py_ssize_t MESSAGE_BYTES = _MESSAGE_BYTES
cdef Py_ssize_t QUEUE_BYTES = _QUEUE_BYTES
cdef Py_ssize_t BUCKET_KEYS = _BUCKET_KEYS
cdef Py_ssize_t ENTRY_BYTES = _ENTRY_BYTES
cdef int64_t PRIORITY_DEFAULT = _PRIORITY_DEFAULT
cdef object DB = _QUEUE_DB
cdef Py_ssize_t TAKE_BYTES = _TAKE_BYTES
cdef Py_ssize_t TAKE_MAX = _TAKE_MAX

# -- the layout of records (`queue_records`) --------------------------------------------------------------------

cdef enum:
    FLAGS_AT = 0
    PRIORITY_AT = 1
    DUE_AT = 5
    LEASE_AT = 13
    ATTEMPTS_AT = 21
    PUT_AT = 25
    EXPIRES_AT = 33
    LEASE_MS_AT = 49
    SIZE_AT = 53
    QUEUE_SIZE_AT = 57
    GROUP_SIZE_AT = 58
    UNIQUE_SIZE_AT = 59
    REASON_SIZE_AT = 60
    STRINGS_AT = 62

    UNTIL_TAKEN = 2
    NEW = 4
    INSIDE = 8

# Fields of the record of a queue, each of 8 bytes:
cdef int QUEUE_NUMBER = QueueRecord._fields.index("number")
cdef int TURN = QueueRecord._fields.index("turn")
cdef int USED_AT = QueueRecord._fields.index("used_at")
cdef int NEWEST_ID = QueueRecord._fields.index("id")
cdef int NEWEST_LEASE = QueueRecord._fields.index("lease")
cdef int TOTAL_PUT = QueueRecord._fields.index("put")
cdef int TOTAL_TAKEN = QueueRecord._fields.index("taken")
cdef int TOTAL_ACKED = QueueRecord._fields.index("acked")

# Settings:
cdef int LEASE_TIME = Settings._fields.index("lease")
cdef int ATTEMPTS = Settings._fields.index("attempts")
cdef int PER_GROUP = Settings._fields.index("per_group")
cdef int MAX_MESSAGES = Settings._fields.index("max_messages")
cdef int MAX_BYTES = Settings._fields.index("max_bytes")
cdef int MAX_AGE = Settings._fields.index("max_age")
cdef int DEAD_MAX = Settings._fields.index("dead_max")
cdef int PAUSED = Settings._fields.index("paused")

if MESSAGE_BYTES != STRINGS_AT or QUEUE_BYTES != 8 * len(QueueRecord._fields):
    raise AssertionError("the layout of records differs between queue_records.py and queue_native.pyx")


cdef inline uint64_t be64(const char *at) noexcept:
    cdef uint64_t number
    memcpy(&number, at, 8)
    return be64toh(number)


cdef inline void put_be64(char *at, uint64_t number) noexcept:
    number = htobe64(number)
    memcpy(at, &number, 8)


cdef inline uint32_t be32(const char *at) noexcept:
    cdef uint32_t number
    memcpy(&number, at, 4)
    return be32toh(number)


cdef inline void put_be32(char *at, uint32_t number) noexcept:
    number = htobe32(number)
    memcpy(at, &number, 4)


cdef inline bytes _numbered(char kind, uint64_t number):
    """Return the key of a record of a message."""
    cdef char key[9]
    key[0] = kind
    put_be64(key + 1, number)
    return PyBytes_FromStringAndSize(key, 9)


cdef bytes _turn_key(bytes queue, int64_t priority, bytes group):
    """`turn_key` of `queue_records`."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(queue)
    cdef bytes key = PyBytes_FromStringAndSize(NULL, 6 + size + PyBytes_GET_SIZE(group))
    cdef char *at = PyBytes_AS_STRING(key)
    at[0] = c"t"
    at[1] = <char>size
    memcpy(at + 2, PyBytes_AS_STRING(queue), size)
    put_be32(at + 2 + size, priority)
    memcpy(at + 6 + size, PyBytes_AS_STRING(group), PyBytes_GET_SIZE(group))
    return key


cdef inline bytes _named(char kind, bytes name):
    """Return the key of a record of a queue."""
    cdef bytes key = PyBytes_FromStringAndSize(NULL, 1 + PyBytes_GET_SIZE(name))
    cdef char *at = PyBytes_AS_STRING(key)
    at[0] = kind
    memcpy(at + 1, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
    return key


cdef bytes _decimal(int64_t number):
    """Return the decimal text of a number that is not negative."""
    cdef char text[20]
    cdef int at = 20
    while True:
        at -= 1
        text[at] = <char>(c"0" + number % 10)
        number //= 10
        if number == 0:
            return PyBytes_FromStringAndSize(text + at, 20 - at)


# -- objects of the pure path -----------------------------------------------------------------------------------

cdef Py_ssize_t TURN_CHUNKS = slot_offset(Turns, "_chunks")
cdef Py_ssize_t TURNS_LENGTH = slot_offset(Turns, "_length")
cdef Py_ssize_t SOONEST = slot_offset(TurnChunk, "soonest")
cdef Py_ssize_t LINE_MESSAGES = slot_offset(Line, "messages")
cdef Py_ssize_t LINE_TURN = slot_offset(Line, "turn")
cdef Py_ssize_t LINE_RECORDED = slot_offset(Line, "recorded")
cdef Py_ssize_t LINE_PLACE = slot_offset(Line, "place")
cdef Py_ssize_t GROUP_LINES = slot_offset(Group, "lines")
cdef Py_ssize_t GROUP_LEASES = slot_offset(Group, "leases")
cdef Py_ssize_t QUEUE_KEY = slot_offset(Queue, "key")
cdef Py_ssize_t QUEUE_PACKED = slot_offset(Queue, "packed")
cdef Py_ssize_t QUEUE_RECORD = slot_offset(Queue, "_record")
cdef Py_ssize_t QUEUE_SETTINGS = slot_offset(Queue, "settings")
cdef Py_ssize_t QUEUE_LIVE = slot_offset(Queue, "live")
cdef Py_ssize_t QUEUE_DEAD = slot_offset(Queue, "dead")
cdef Py_ssize_t QUEUE_DELAYED = slot_offset(Queue, "delayed")
cdef Py_ssize_t QUEUE_LEASED = slot_offset(Queue, "leased")
cdef Py_ssize_t QUEUE_EXPIRING = slot_offset(Queue, "expiring")
cdef Py_ssize_t QUEUE_DEAD_EXPIRING = slot_offset(Queue, "dead_expiring")
cdef Py_ssize_t QUEUE_GROUPS = slot_offset(Queue, "groups")
cdef Py_ssize_t QUEUE_LINES = slot_offset(Queue, "lines")
cdef Py_ssize_t QUEUE_TURNS = slot_offset(Queue, "turns")
cdef Py_ssize_t QUEUE_SIZE = slot_offset(Queue, "size")
cdef Py_ssize_t INDEX_QUEUES = slot_offset(QueueIndex, "queues")
cdef Py_ssize_t INDEX_IDLE = slot_offset(QueueIndex, "idle")
cdef Py_ssize_t INDEX_MESSAGES = slot_offset(QueueIndex, "messages")
cdef Py_ssize_t INDEX_EXPIRING = slot_offset(QueueIndex, "expiring")
cdef Py_ssize_t INDEX_LINES = slot_offset(QueueIndex, "lines")
cdef Py_ssize_t INDEX_NEWEST_ID = slot_offset(QueueIndex, "_newest_id")
cdef Py_ssize_t INDEX_NEWEST_LEASE = slot_offset(QueueIndex, "_newest_lease")
cdef Py_ssize_t DIRECTORY = slot_offset(Table, "_directory")
cdef Py_ssize_t SHIFT = slot_offset(Table, "_shift")
cdef Py_ssize_t TABLE_KEYS = slot_offset(Table, "keys")
cdef Py_ssize_t TABLE_USED = slot_offset(Table, "used_bytes")
cdef Py_ssize_t VALUES = slot_offset(Bucket, "values")
cdef Py_ssize_t EXPIRIES = slot_offset(Bucket, "expiries")
cdef Py_ssize_t ORDER = slot_offset(Bucket, "order")
cdef Py_ssize_t DATABASE_TABLE = slot_offset(Database, "_table")
cdef Py_ssize_t BEFORE_DATABASE = slot_offset(Before, "database")
cdef Py_ssize_t BEFORE_KEY = slot_offset(Before, "key")
cdef Py_ssize_t BEFORE_ENTRY = slot_offset(Before, "entry")
cdef Py_ssize_t ITEMS_VALUES = slot_offset(Items, "values")


cdef inline void _set_slot(PyObject *of, Py_ssize_t at, object value) noexcept:
    cdef PyObject **place = <PyObject **>(<char *>of + at)
    cdef PyObject *before = place[0]
    Py_INCREF(value)
    place[0] = <PyObject *>value
    Py_XDECREF(before)


cdef inline int64_t _number(PyObject *of, Py_ssize_t at) except? -1:
    return cairn_int(<object>cairn_slot(of, at))


cdef inline int _add_to(PyObject *of, Py_ssize_t at, int64_t more) except -1:
    if more:
        _set_slot(of, at, _number(of, at) + more)
    return 0


cdef inline object _made(object type, Py_ssize_t items=0):
    """Return a new object of a class, with empty slots."""
    return PyType_GenericAlloc(<PyTypeObject *>type, items)


cdef inline int64_t _field(object fields, Py_ssize_t at) except? -1:
    return cairn_int(<object>PyTuple_GET_ITEM(fields, at))


cdef inline void _set_field(object fields, Py_ssize_t at, object value) noexcept:
    """Set a field of a new tuple."""
    cdef PyObject *before = PyTuple_GET_ITEM(fields, at)
    Py_INCREF(value)
    PyTuple_SET_ITEM(fields, at, value)
    Py_XDECREF(before)


cdef object _items(tuple values):
    cdef object items = _made(Items)
    _set_slot(<PyObject *>items, ITEMS_VALUES, values)
    return items

# -- lists ------------------------------------------------------------------------------------------------------

LISTS = Lists(SortedNumbers, SortedPairs)


cdef inline SortedPairs _list(PyObject *of, Py_ssize_t at):
    cdef object found = <object>cairn_slot(of, at)
    return <SortedPairs?>found  # a database of the pure path has other lists


cdef inline bint _is_empty(PyObject *queue) except -1:
    return _list(queue, QUEUE_LIVE).length == 0 and _list(queue, QUEUE_DEAD).length == 0


cdef inline bint _has_before(PyObject *queue, Py_ssize_t times, int64_t after) except -1:
    """Return whether a list has an item with a time that is not later."""
    cdef Pair *first = _list(queue, times).head()
    return first is not NULL and first.first <= after


cdef inline int _replace(object items, Py_ssize_t at, object item) except -1:
    cdef PyObject *before = PyList_GET_ITEM(items, at)
    Py_INCREF(item)
    PyList_SET_ITEM(items, at, item)
    Py_DECREF(<object>before)
    return 0

# -- turns (`queue_index.Turns`) --------------------------------------------------------------------------------------


cdef int _turn_order(PyObject *one, PyObject *other) except -2:
    """Return -1, 0 or 1: whether one turn is less, equal or greater."""
    cdef int field
    cdef int64_t mine, others
    cdef object group, other_group
    for field in range(4):
        if field == 2:
            group, other_group = <object>PyTuple_GET_ITEM(<object>one, 2), <object>PyTuple_GET_ITEM(<object>other, 2)
            if group != other_group:
                return 1 if group > other_group else -1
        else:
            mine, others = _field(<object>one, field), _field(<object>other, field)
            if mine != others:
                return 1 if mine > others else -1
    return 0


cdef Py_ssize_t _chunk_of(list chunks, PyObject *turn) except -1:
    """`Turns._chunk_of`."""
    cdef Py_ssize_t low = 0, high = PyList_GET_SIZE(chunks) - 1, middle
    cdef PyObject *chunk
    while low < high:
        middle = (low + high) // 2
        chunk = PyList_GET_ITEM(chunks, middle)
        if _turn_order(PyList_GET_ITEM(<object>chunk, PyList_GET_SIZE(<object>chunk) - 1), turn) < 0:
            low = middle + 1
        else:
            high = middle
    return low


cdef Py_ssize_t _turn_at(object chunk, PyObject *turn) except -1:
    cdef Py_ssize_t low = 0, high = PyList_GET_SIZE(chunk), middle
    while low < high:
        middle = (low + high) // 2
        if _turn_order(PyList_GET_ITEM(chunk, middle), turn) < 0:
            low = middle + 1
        else:
            high = middle
    return low


cdef int _add_turn(PyObject *turns, object turn) except -1:
    """`Turns.add`."""
    cdef list chunks = <list>cairn_slot(turns, TURN_CHUNKS)
    cdef object chunk
    cdef Py_ssize_t at
    _add_to(turns, TURNS_LENGTH, 1)
    if PyList_GET_SIZE(chunks) == 0:
        chunks.append(TurnChunk((turn,)))
        return 0
    at = _chunk_of(chunks, <PyObject *>turn)
    chunk = <object>PyList_GET_ITEM(chunks, at)
    PyList_Insert(chunk, _turn_at(chunk, <PyObject *>turn), turn)
    _set_slot(<PyObject *>chunk, SOONEST, None)
    if PyList_GET_SIZE(chunk) > TURN_CHUNK:
        (<object>turns)._split(at)
    return 0


cdef int _remove_turn(PyObject *turns, object turn) except -1:
    """`Turns.remove`."""
    cdef list chunks = <list>cairn_slot(turns, TURN_CHUNKS)
    cdef Py_ssize_t place, at = _chunk_of(chunks, <PyObject *>turn)
    cdef object chunk = <object>PyList_GET_ITEM(chunks, at)
    place = _turn_at(chunk, <PyObject *>turn)
    if place == PyList_GET_SIZE(chunk) or _turn_order(PyList_GET_ITEM(chunk, place), <PyObject *>turn):
        raise ValueError(turn)
    PyList_SetSlice(chunk, place, place + 1, NULL)
    _set_slot(<PyObject *>chunk, SOONEST, None)
    if PyList_GET_SIZE(chunk) == 0:
        PyList_SetSlice(chunks, at, at + 1, NULL)
    return _add_to(turns, TURNS_LENGTH, -1)


cdef int _replace_turn(PyObject *turns, object before, object turn) except -1:
    """Remove a turn and add another, which often comes at the same place."""
    cdef list chunks = <list>cairn_slot(turns, TURN_CHUNKS)
    cdef Py_ssize_t place, size, at = _chunk_of(chunks, <PyObject *>before)
    cdef object chunk = <object>PyList_GET_ITEM(chunks, at)
    cdef bint fits
    size = PyList_GET_SIZE(chunk)
    place = _turn_at(chunk, <PyObject *>before)
    fits = place < size
    if fits and place:
        fits = _turn_order(PyList_GET_ITEM(chunk, place - 1), <PyObject *>turn) < 0
    elif fits:
        fits = at == 0
    if fits and place + 1 < size:
        fits = _turn_order(PyList_GET_ITEM(chunk, place + 1), <PyObject *>turn) > 0
    elif fits:
        fits = at + 1 == PyList_GET_SIZE(chunks)
    if not fits:
        _remove_turn(turns, before)
        return _add_turn(turns, turn)
    _set_slot(<PyObject *>chunk, SOONEST, None)
    return _replace(chunk, place, turn)


cdef PyObject *_first_turn(PyObject *turns, int64_t now) except? NULL:
    """`Turns.first`, borrowed; NULL: none."""
    cdef list chunks = <list>cairn_slot(turns, TURN_CHUNKS)
    cdef Py_ssize_t at, place
    cdef int64_t soonest, time
    cdef object chunk
    for at in range(PyList_GET_SIZE(chunks)):
        chunk = <object>PyList_GET_ITEM(chunks, at)
        if <object>cairn_slot(<PyObject *>chunk, SOONEST) is None:
            soonest = _field(<object>PyList_GET_ITEM(chunk, 0), 3)
            for place in range(1, PyList_GET_SIZE(chunk)):
                time = _field(<object>PyList_GET_ITEM(chunk, place), 3)
                if time < soonest:
                    soonest = time
            _set_slot(<PyObject *>chunk, SOONEST, soonest)
        else:
            soonest = _number(<PyObject *>chunk, SOONEST)
        if soonest <= now:
            for place in range(PyList_GET_SIZE(chunk)):
                if _field(<object>PyList_GET_ITEM(chunk, place), 3) <= now:
                    return PyList_GET_ITEM(chunk, place)
    return NULL

# -- lines (`queue_index.Queue`) --------------------------------------------------------------------------------------


cdef PyObject *_line(PyObject *queue, bytes group, int64_t priority) except? NULL:
    """`Queue.line`, borrowed; NULL: none."""
    cdef PyObject *of_group = PyDict_GetItemWithError(<object>cairn_slot(queue, QUEUE_GROUPS), group)
    if of_group is NULL:
        return NULL
    return PyDict_GetItemWithError(<object>cairn_slot(of_group, GROUP_LINES), priority)


cdef PyObject *_made_line(PyObject *queue, bytes group, int64_t priority) except NULL:
    """`Queue._made_line`, borrowed."""
    cdef dict groups = <dict>cairn_slot(queue, QUEUE_GROUPS)
    cdef PyObject *of_group = PyDict_GetItemWithError(groups, group)
    cdef PyObject *found
    cdef object made
    if of_group is NULL:
        made = _made(Group)
        _set_slot(<PyObject *>made, GROUP_LINES, {})
        _set_slot(<PyObject *>made, GROUP_LEASES, SortedPairs())
        PyDict_SetItem(groups, group, made)
        of_group = <PyObject *>made
    found = PyDict_GetItemWithError(<object>cairn_slot(of_group, GROUP_LINES), priority)
    if found is NULL:
        made = _made(Line)
        _set_slot(<PyObject *>made, LINE_MESSAGES, SortedPairs())
        _set_slot(<PyObject *>made, LINE_TURN, 0)
        _set_slot(<PyObject *>made, LINE_RECORDED, False)
        _set_slot(<PyObject *>made, LINE_PLACE, None)
        PyDict_SetItem(<object>cairn_slot(of_group, GROUP_LINES), priority, made)
        found = <PyObject *>made
    return found


cdef int _count_line(PyObject *queue, int64_t priority, int more) except -1:
    """Count a line that has got its first message, or has lost its last."""
    cdef dict lines = <dict>cairn_slot(queue, QUEUE_LINES)
    cdef object key = priority
    cdef PyObject *found = PyDict_GetItemWithError(lines, key)
    cdef int64_t count = more if found is NULL else cairn_int(<object>found) + more
    if count:
        PyDict_SetItem(lines, key, count)
    else:
        PyDict_DelItem(lines, key)
    return 0


cdef int _set_place(PyObject *queue, bytes group, int64_t priority, PyObject *line) except -1:
    """`Queue._set_place`, without a limit of leases."""
    cdef Pair *first = _list(line, LINE_MESSAGES).head()
    cdef PyObject *turns = cairn_slot(queue, QUEUE_TURNS)
    cdef object before = <object>cairn_slot(line, LINE_PLACE), place
    if first is NULL:
        if before is not None:
            _remove_turn(turns, before)
            _set_slot(line, LINE_PLACE, None)
        return 0
    if before is not None and _field(before, 3) == first.first and _field(before, 1) == _number(line, LINE_TURN):
        return 0
    place = _made(Turn, 4)
    _set_field(place, 0, priority)
    _set_field(place, 1, <object>cairn_slot(line, LINE_TURN))
    _set_field(place, 2, group)
    _set_field(place, 3, first.first)
    if before is None:
        _add_turn(turns, place)
    else:
        _replace_turn(turns, before, place)
    _set_slot(line, LINE_PLACE, place)
    return 0


cdef inline int64_t _turns_length(PyObject *queue) except -1:
    return _number(cairn_slot(queue, QUEUE_TURNS), TURNS_LENGTH)


cdef class NativeQueues:
    """The queues of a store, for the commands of the native path."""

    def __cinit__(self):
        self.taken = <Taken *>PyMem_Malloc(TAKE_MAX * sizeof(Taken))
        if self.taken is NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.taken)

    def __init__(self, database):
        """database: the database of queues of a store."""
        self._database = database
        self._shared = database.shared
        self._index_at = slot_offset(type(database), "_index")
        self._watched_at = slot_offset(type(database), "watched")
        self._message_keys = []

    # -- commands of `cairnkv.engine.apply` ---------------------------------------------------------------------

    def execute(self, command):
        """Return the reply to a command, or None if the pure path must execute it."""
        kind = type(command)
        if kind is Put:
            return self._execute_put(command)
        if kind is Take:
            if self.take(None, command.queue, command.count, command.lease or 0, 1 << 62):
                return _items(self._strings(None))
        elif kind is Ack:
            return self._execute_ack(command.leases)
        elif kind is PutMany:
            return self._execute_put_many(command)
        elif kind is TakeAny:
            for name in command.names:
                if not self.take(None, name, command.count, command.lease, 1 << 62):
                    return None
                if self.taken_count:
                    return _items(self._strings(name))
            return _items(())
        return None

    cdef object _execute_put(self, object command):
        cdef MessageTerms terms
        cdef Body body
        cdef bytes whole
        cdef int64_t first
        if command.unique is not None or command.unique_for is not None or command.until_taken or command.at is not None:
            return None
        whole = command.body
        body.data = <const unsigned char *>PyBytes_AS_STRING(whole)
        body.size = PyBytes_GET_SIZE(whole)
        body.whole = <PyObject *>whole
        terms.priority = PRIORITY_DEFAULT if command.priority is None else command.priority
        terms.delay = command.delay or 0
        terms.expires = command.expires or 0
        terms.lease_ms = command.lease or 0
        first = self.put(None, command.queue, command.group or b"", &terms, &body, 1)
        return _items((_decimal(first), b"1")) if first else None

    cdef object _execute_put_many(self, object command):
        cdef tuple wholes = command.bodies
        cdef Py_ssize_t at, count = len(wholes)
        cdef int64_t first
        cdef MessageTerms terms
        cdef Body *bodies = <Body *>PyMem_Malloc((count or 1) * sizeof(Body))
        if bodies is NULL:
            raise MemoryError
        try:
            for at in range(count):
                bodies[at].whole = PyTuple_GET_ITEM(wholes, at)
                bodies[at].data = <const unsigned char *>PyBytes_AS_STRING(<bytes>bodies[at].whole)
                bodies[at].size = PyBytes_GET_SIZE(<bytes>bodies[at].whole)
            terms.priority, terms.delay, terms.expires, terms.lease_ms = command.priority, command.delay, 0, 0
            first = self.put(None, command.queue, b"", &terms, bodies, count)
        finally:
            PyMem_Free(bodies)
        return _items((_decimal(first), _decimal(count))) if first else None

    cdef object _execute_ack(self, tuple leases):
        cdef Py_ssize_t at, count = len(leases)
        cdef int64_t *pairs
        cdef char *replies
        cdef list strings
        if count > TAKE_MAX:
            return None
        pairs = <int64_t *>PyMem_Malloc((count or 1) * 17)
        if pairs is NULL:
            raise MemoryError
        replies = <char *>(pairs + 2 * count)
        try:
            for at, (number, lease) in enumerate(leases):
                if number >> 63 or lease >> 63:
                    return None
                pairs[2 * at], pairs[2 * at + 1] = number, lease
            if not self.ack(None, pairs, count, replies):
                return None
            strings = [b"1" if replies[at] == c"1" else b"0" for at in range(count)]
        finally:
            PyMem_Free(pairs)
        return _items(tuple(strings))

    cdef tuple _strings(self, bytes name):
        """Return the strings of the messages taken last, each after the name of the queue unless that is None."""
        cdef list strings = []
        cdef Py_ssize_t at
        cdef Taken *message
        for at in range(self.taken_count):
            message = self.taken + at
            if name is not None:
                strings.append(name)
            strings.append(_decimal(message.id))
            strings.append(_decimal(message.lease))
            strings.append(_decimal(message.attempts))
            strings.append(_decimal(message.milliseconds))
            strings.append(_decimal(message.put_at))
            strings.append(PyBytes_FromStringAndSize(message.group, message.group_size))
            strings.append(PyBytes_FromStringAndSize(message.body, message.body_size))
        return tuple(strings)

    # -- PUT ----------------------------------------------------------------------------------------------------

    cdef int64_t put(self, NativeTable table, bytes queue, bytes group, const MessageTerms *terms, const Body *bodies,
                     Py_ssize_t count) except -1:
        """Put messages into a queue. Returns the id of the first."""
        cdef PyObject *line
        cdef int64_t size = 0, first
        cdef Py_ssize_t at
        cdef object settings
        if count < 1 or not self._enter(table) or not self._find_queue(queue) or self._has_waiters():
            return 0
        if self._sweeps():
            return 0
        settings = self._settings
        for at in range(count):
            size += bodies[at].size
        if _field(settings, MAX_BYTES) and _number(self._queue, QUEUE_SIZE) + size > _field(settings, MAX_BYTES):
            return 0
        if _field(settings, MAX_MESSAGES) and _list(self._queue, QUEUE_LIVE).length + count > _field(settings, MAX_MESSAGES):
            return 0
        if _field(settings, MAX_AGE) or _field(settings, PER_GROUP):
            return 0
        line = _line(self._queue, group, terms.priority)
        if line is NULL and self._total(TURN) and terms.priority in <dict>cairn_slot(self._queue, QUEUE_LINES):
            return 0  # the group gets a turn behind the others
        first = self._newest(INDEX_NEWEST_ID) + 1
        try:
            self._put_all(line, group, terms, first, bodies, count)
        except BaseException:
            self._leave(False)
            raise
        self._leave(True)
        return first

    cdef int _put_all(self, PyObject *line, bytes group, const MessageTerms *terms, int64_t id, const Body *bodies,
                      Py_ssize_t count) except -1:
        cdef PyObject *queue = self._queue
        cdef bint was_empty = _is_empty(queue)
        cdef int64_t due = self._after(terms.delay) if terms.delay else self._now
        cdef int64_t expires = self._after(terms.expires) if terms.expires else 0
        cdef int64_t lines = _turns_length(queue), size = 0, number = id
        cdef Py_ssize_t at, of_name = PyBytes_GET_SIZE(self._name), of_group = PyBytes_GET_SIZE(group), inside
        cdef SortedPairs messages
        cdef Spot spot
        cdef bytes key, value
        cdef char *record
        if line is NULL:
            line = _made_line(queue, group, terms.priority)
        messages = _list(line, LINE_MESSAGES)
        if messages.length == 0:
            _count_line(queue, terms.priority, 1)
        for at in range(count):
            inside = bodies[at].size if bodies[at].size <= BODY_INSIDE_MAX else 0
            if bodies[at].size > BODY_INSIDE_MAX:
                key = _numbered(c"b", number)
                if bodies[at].whole is not NULL:
                    value = <bytes>bodies[at].whole
                else:
                    value = PyBytes_FromStringAndSize(<const char *>bodies[at].data, bodies[at].size)
                self._locate(&spot, key)
                self._write(&spot, key, value)
            value = PyBytes_FromStringAndSize(NULL, STRINGS_AT + of_name + of_group + inside)
            record = PyBytes_AS_STRING(value)
            record[FLAGS_AT] = NEW + (INSIDE if bodies[at].size <= BODY_INSIDE_MAX else 0)
            put_be32(record + PRIORITY_AT, <uint32_t>terms.priority)
            put_be64(record + DUE_AT, due)
            put_be64(record + LEASE_AT, 0)
            put_be32(record + ATTEMPTS_AT, 0)
            put_be64(record + PUT_AT, self._now)
            put_be64(record + EXPIRES_AT, expires)
            put_be64(record + EXPIRES_AT + 8, 0)  # the time until which a name is taken
            put_be32(record + LEASE_MS_AT, <uint32_t>terms.lease_ms)
            put_be32(record + SIZE_AT, <uint32_t>bodies[at].size)
            record[QUEUE_SIZE_AT] = <char>of_name
            record[GROUP_SIZE_AT] = <char>of_group
            record[UNIQUE_SIZE_AT] = record[REASON_SIZE_AT] = record[REASON_SIZE_AT + 1] = 0
            memcpy(record + STRINGS_AT, PyBytes_AS_STRING(self._name), of_name)
            memcpy(record + STRINGS_AT + of_name, PyBytes_AS_STRING(group), of_group)
            memcpy(record + STRINGS_AT + of_name + of_group, bodies[at].data, inside)
            key = _numbered(c"m", number)
            self._locate(&spot, key)
            self._write(&spot, key, value)
            # the index: `Queue._add`
            size += bodies[at].size
            _list(queue, QUEUE_LIVE).insert(number, 0)
            messages.insert(due, number)
            if due > self._now:
                _list(queue, QUEUE_DELAYED).insert(due, number)
            if expires:
                _list(queue, QUEUE_EXPIRING).insert(max(expires, due), number)
            number += 1
        _add_to(queue, QUEUE_SIZE, size)
        _add_to(<PyObject *>self._index, INDEX_MESSAGES, count)
        if expires:
            _add_to(<PyObject *>self._index, INDEX_EXPIRING, count)
        _set_place(queue, group, terms.priority, line)
        _add_to(<PyObject *>self._index, INDEX_LINES, _turns_length(queue) - lines)
        return self._write_queue(was_empty, -1, number - 1, -1, TOTAL_PUT, count)

    # -- TAKE ---------------------------------------------------------------------------------------------------

    cdef bint take(self, NativeTable table, bytes queue, int64_t count, int64_t lease_ms, Py_ssize_t room) except -1:
        """Lease messages of a queue: `taken` describes them.

        room: bytes that the reply may take, with 24 bytes for each number and each length.
        """
        cdef PyObject *turn
        cdef PyObject *line
        cdef int64_t priority
        cdef bytes group
        cdef bint alone
        self.taken_count = 0
        if not 1 <= count <= TAKE_MAX or not self._enter(table):
            return False
        if not self._find_queue(queue):
            if self._queue is not NULL:
                return False
            self._await(_named(c"q", queue))
            return True  # there is no such queue
        if self._has_waiters():
            return False
        if _field(self._settings, PAUSED):
            self._await(self._key)
            return True
        turn = _first_turn(cairn_slot(self._queue, QUEUE_TURNS), self._now)
        if turn is NULL and not _has_before(self._queue, QUEUE_EXPIRING, self._now) and not _has_before(
            self._queue, QUEUE_DEAD_EXPIRING, self._now
        ):
            self._await(self._key)
            return True
        if self._sweeps() or _field(self._settings, PER_GROUP):
            return False
        priority = _field(<object>turn, 0)
        group = <bytes>PyTuple_GET_ITEM(<object>turn, 2)
        alone = (<dict>cairn_slot(self._queue, QUEUE_LINES))[priority] == 1
        if count > 1 and not alone:
            return False  # groups take turns
        line = _line(self._queue, group, priority)
        if not self._choose(line, count, room):
            return False
        if count > 1 and self.taken_count < count and _turns_length(self._queue) > 1 and not self._is_cut:
            self.taken_count = 0
            return False  # others may follow
        try:
            self._take_all(line, group, priority, alone, lease_ms, self._newest(INDEX_NEWEST_LEASE) + 1)
        except BaseException:
            self._leave(False)
            raise
        self._leave(True)
        return True

    cdef bint _choose(self, PyObject *line, int64_t count, Py_ssize_t room) except -1:
        """Choose the messages to lease, the first of a line. Return False if the pure path must do that."""
        cdef SortedPairs messages = _list(line, LINE_MESSAGES)
        cdef list keys = self._message_keys
        cdef int64_t attempts = _field(self._settings, ATTEMPTS), total = 0, size
        cdef Py_ssize_t chunk = 0, place = 0
        cdef Pair *pair
        cdef const char *record
        cdef Spot spot
        cdef bytes key
        self._is_cut = False
        keys.clear()
        pair = messages.at(&chunk, &place)
        while pair is not NULL and pair.first <= self._now and PyList_GET_SIZE(keys) < count:
            key = _numbered(c"m", pair.second)
            self._locate(&spot, key)
            if spot.value is NULL:
                return False
            record = PyBytes_AS_STRING(<bytes>spot.value)
            size = be32(record + SIZE_AT)
            if be32(record + ATTEMPTS_AT) >= attempts or record[FLAGS_AT] & UNTIL_TAKEN:
                return False
            if PyList_GET_SIZE(keys) and total + size > TAKE_BYTES:
                self._is_cut = True
                break
            total += size
            room -= REPLY_BYTES + <unsigned char>record[GROUP_SIZE_AT] + size
            if room < 0:
                return False
            keys.append(key)
            self._spot = spot
            pair = messages.at(&chunk, &place)
        self.taken_count = PyList_GET_SIZE(keys)
        return True

    cdef int _take_all(self, PyObject *line, bytes group, int64_t priority, bint alone, int64_t lease_ms,
                       int64_t lease) except -1:
        cdef PyObject *queue = self._queue
        cdef int64_t number, due, before_due, expires, turn = -1
        cdef Py_ssize_t at, size
        cdef Taken *message
        cdef SortedPairs messages = _list(line, LINE_MESSAGES), leased = _list(queue, QUEUE_LEASED)
        cdef Spot spot
        cdef bytes key, before, value
        cdef const char *old
        cdef char *record
        for at in range(self.taken_count):
            key = <bytes>PyList_GET_ITEM(self._message_keys, at)
            if self.taken_count == 1:
                spot = self._spot
            else:
                self._locate(&spot, key)
            before = <bytes>spot.value
            old = PyBytes_AS_STRING(before)
            value = PyBytes_FromStringAndSize(old, PyBytes_GET_SIZE(before))
            record = PyBytes_AS_STRING(value)
            message = self.taken + at
            message.id = number = be64(PyBytes_AS_STRING(key) + 1)
            message.lease = lease + at
            message.attempts = be32(old + ATTEMPTS_AT) + 1
            message.milliseconds = lease_ms or be32(old + LEASE_MS_AT) or _field(self._settings, LEASE_TIME)
            message.put_at = be64(old + PUT_AT)
            before_due, due = be64(old + DUE_AT), self._after(message.milliseconds)
            expires = be64(old + EXPIRES_AT)
            if message.put_at != self._now:
                record[FLAGS_AT] &= ~NEW
            put_be64(record + DUE_AT, due)
            put_be64(record + LEASE_AT, message.lease)
            put_be32(record + ATTEMPTS_AT, <uint32_t>message.attempts)
            self._write(&spot, key, value)
            message.group = record + STRINGS_AT + <unsigned char>record[QUEUE_SIZE_AT]
            message.group_size = <unsigned char>record[GROUP_SIZE_AT]
            message.body_size = be32(record + SIZE_AT)
            message.body = record + PyBytes_GET_SIZE(value) - message.body_size
            if not record[FLAGS_AT] & INSIDE:
                self._locate(&spot, _numbered(c"b", number))
                message.body = PyBytes_AS_STRING(<bytes>spot.value)
            # the index: `Queue._move`
            if be64(old + LEASE_AT):
                leased.delete(before_due, number)
            elif before_due > message.put_at:
                _list(queue, QUEUE_DELAYED).delete(before_due, number)
            if expires:
                _list(queue, QUEUE_EXPIRING).delete(max(expires, before_due), number)
                _list(queue, QUEUE_EXPIRING).insert(max(expires, due), number)
            leased.insert(due, number)
            messages.delete(before_due, number)
            messages.insert(due, number)
        if not alone:  # `_Changes.advance_turn`
            turn = self._total(TURN) + 1
            key = _turn_key(self._name, priority, group)
            value = PyBytes_FromStringAndSize(NULL, 8)
            put_be64(PyBytes_AS_STRING(value), turn)
            self._locate(&spot, key)
            self._write(&spot, key, value)
            _set_slot(line, LINE_TURN, turn)
            _set_slot(line, LINE_RECORDED, True)
        _set_place(queue, group, priority, line)
        return self._write_queue(False, turn, -1, lease + self.taken_count - 1, TOTAL_TAKEN, self.taken_count)

    # -- ACK ----------------------------------------------------------------------------------------------------

    cdef bint ack(self, NativeTable table, const int64_t *pairs, Py_ssize_t count, char *replies) except -1:
        """Delete messages whose work is done, all of one queue.

        pairs: ids and leases, alternating. replies: one character for each pair, "1" if the message was deleted.
        """
        cdef Py_ssize_t at, size, owned = 0
        cdef const char *record
        cdef int64_t expires
        cdef Spot spot
        cdef bytes key, name
        if not self._enter(table):
            return False
        for at in range(count):
            replies[at] = c"0"
            if pairs[2 * at + 1] == 0:
                return False
            key = _numbered(c"m", pairs[2 * at])
            self._locate(&spot, key)
            if spot.value is NULL:
                self._await(key)
                continue
            record = PyBytes_AS_STRING(<bytes>spot.value)
            expires = be64(record + EXPIRES_AT)
            if <int64_t>be64(record + LEASE_AT) != pairs[2 * at + 1] or (
                expires and max(expires, <int64_t>be64(record + DUE_AT)) <= self._now
            ):
                self._await(key)
                continue
            if record[UNIQUE_SIZE_AT]:
                return False
            size = <unsigned char>record[QUEUE_SIZE_AT]
            name = PyBytes_FromStringAndSize(record + STRINGS_AT, size)
            if owned == 0:
                if not self._find_queue(name) or _field(self._settings, PER_GROUP):
                    return False
            elif name != self._name:
                return False
            replies[at] = c"1"
            owned += 1
            self._spot = spot
            self._acked_key = key
        if owned == 0:
            return True
        try:
            self._ack_all(pairs, count, replies)
        except BaseException:
            self._leave(False)
            raise
        self._leave(True)
        return True

    cdef int _ack_all(self, const int64_t *pairs, Py_ssize_t count, char *replies) except -1:
        cdef PyObject *queue = self._queue
        cdef PyObject *line
        cdef int64_t lines = _turns_length(queue), number, due, expires, priority, acked = 0, expiring = 0, size = 0
        cdef Py_ssize_t at
        cdef const char *record
        cdef SortedPairs live = _list(queue, QUEUE_LIVE), leased = _list(queue, QUEUE_LEASED), messages
        cdef Spot spot
        cdef bytes key, before, group
        for at in range(count):
            if replies[at] != c"1":
                continue
            number = pairs[2 * at]
            if count == 1:
                key, spot = self._acked_key, self._spot
            else:
                key = _numbered(c"m", number)
                self._locate(&spot, key)
            if spot.value is NULL:  # the command names it twice
                replies[at] = c"0"
                continue
            before = <bytes>spot.value
            record = PyBytes_AS_STRING(before)
            due, expires, priority = be64(record + DUE_AT), be64(record + EXPIRES_AT), be32(record + PRIORITY_AT)
            group = PyBytes_FromStringAndSize(
                record + STRINGS_AT + <unsigned char>record[QUEUE_SIZE_AT], <unsigned char>record[GROUP_SIZE_AT]
            )
            self._delete(&spot, key)
            if not record[FLAGS_AT] & INSIDE:
                key = _numbered(c"b", number)
                self._locate(&spot, key)
                self._delete(&spot, key)
            # the index: `Queue._remove`
            acked += 1
            size += be32(record + SIZE_AT)
            live.delete(number, 0)
            leased.delete(due, number)
            if expires:
                expiring += 1
                _list(queue, QUEUE_EXPIRING).delete(max(expires, due), number)
            line = _line(queue, group, priority)
            messages = _list(line, LINE_MESSAGES)
            messages.delete(due, number)
            _set_place(queue, group, priority, line)
            if messages.length == 0:
                _count_line(queue, priority, -1)
                self._discard_line(line, group, priority)
        _add_to(queue, QUEUE_SIZE, -size)
        _add_to(<PyObject *>self._index, INDEX_MESSAGES, -acked)
        _add_to(<PyObject *>self._index, INDEX_EXPIRING, -expiring)
        _add_to(<PyObject *>self._index, INDEX_LINES, _turns_length(queue) - lines)
        return self._write_queue(False, -1, -1, -1, TOTAL_ACKED, acked)

    cdef int _discard_line(self, PyObject *line, bytes group, int64_t priority) except -1:
        """Remove a line without messages, and the record of its turn."""
        cdef dict groups = <dict>cairn_slot(self._queue, QUEUE_GROUPS)
        cdef PyObject *of_group = PyDict_GetItemWithError(groups, group)
        cdef Spot spot
        cdef bytes key
        if <object>cairn_slot(line, LINE_RECORDED):
            key = _turn_key(self._name, priority, group)
            self._locate(&spot, key)
            self._delete(&spot, key)
        PyDict_DelItem(<object>cairn_slot(of_group, GROUP_LINES), priority)
        if PyDict_Size(<object>cairn_slot(of_group, GROUP_LINES)) == 0:
            PyDict_DelItem(groups, group)
        return 0

    # -- the state of a command ---------------------------------------------------------------------------------

    cdef bint _enter(self, NativeTable table) except -1:
        """Begin a command. Return False if the pure path must execute it."""
        cdef object database = self._database
        if table is None:
            self._batch = None
            self._journal = self._shared.journal
            self._now, self._lead = self._shared.now, self._shared.lead
        else:
            if table._only_reads:
                return False
            self._batch = table if table.collecting else None
            self._journal = None
            self._now, self._lead = table.now, table.lead
        self._within = table is not None
        self._index = <object>cairn_slot(<PyObject *>database, self._index_at)
        self._keys = self._used = 0
        self._hold_table()
        return self._index is not None

    cdef int _hold_table(self) except -1:
        self._table = <object>cairn_slot(<PyObject *>self._database, DATABASE_TABLE)
        self._directory = <list>cairn_slot(<PyObject *>self._table, DIRECTORY)
        self._shift = <int>_number(<PyObject *>self._table, SHIFT)
        return 0

    cdef int _leave(self, bint whole) except -1:
        """End a command that has changed records. whole: whether it has changed all of them, and the index."""
        if not whole:
            self._database._index = None
        _add_to(<PyObject *>self._table, TABLE_KEYS, self._keys)
        _add_to(<PyObject *>self._table, TABLE_USED, self._used)
        self._batch = self._journal = None
        return 0

    cdef bint _find_queue(self, bytes name) except -1:
        """Find a queue. Return False if there is none."""
        self._name = name
        self._queue = PyDict_GetItemWithError(<object>cairn_slot(<PyObject *>self._index, INDEX_QUEUES), name)
        if self._queue is NULL:
            return False
        self._key = <object>cairn_slot(self._queue, QUEUE_KEY)
        self._record = <object>cairn_slot(self._queue, QUEUE_PACKED)
        self._settings = <object>cairn_slot(self._queue, QUEUE_SETTINGS)
        if self._settings is None:
            self._settings = DEFAULTS
        return self._record is not None

    cdef bint _has_waiters(self) except -1:
        """Return whether the pure path must serve waiters of the queue after a message becomes ready."""
        return self._within and self._is_watched()

    cdef bint _is_watched(self) except -1:
        cdef object watched = <object>cairn_slot(<PyObject *>self._database, self._watched_at)
        return watched and self._key in watched

    cdef bint _sweeps(self) except -1:
        """Return whether `_Changes.sweep` deletes messages of the queue."""
        cdef PyObject *queue = self._queue
        cdef int64_t dead_max = _field(self._settings, DEAD_MAX)
        if dead_max and _list(queue, QUEUE_DEAD).length > dead_max:
            return True
        return _has_before(queue, QUEUE_EXPIRING, self._now) or _has_before(queue, QUEUE_DEAD_EXPIRING, self._now)

    cdef int64_t _newest(self, Py_ssize_t at) except -1:
        """Return the newest id or lease of the store, by its slot in the index."""
        if _number(<PyObject *>self._index, INDEX_NEWEST_ID) < 0:
            self._index.counters
        return _number(<PyObject *>self._index, at)

    cdef inline int64_t _total(self, int field) noexcept:
        """Return a field of the record of the queue."""
        return be64(PyBytes_AS_STRING(self._record) + 8 * field)

    cdef inline int64_t _after(self, int64_t milliseconds) noexcept:
        """`LogTime.after`."""
        if self._lead == 0:
            return self._now + milliseconds
        return max(self._now + (milliseconds + 1) // 2, self._now - self._lead + milliseconds)

    cdef int _await(self, bytes key) except -1:
        """Make the reply wait for an uncommitted change of a record."""
        cdef NativeTable table = self._batch
        cdef PyObject *found
        cdef int64_t sequence
        if table is None:
            return 0
        if table._undoes and table._collector is not None:
            table.wait = max(table.wait, <int64_t>table._collector.floor_of_queues())
        found = PyDict_GetItemWithError(table._queue_pending, key)
        if found is not NULL:
            sequence = cairn_int(<object>found)
            if sequence > table.wait:
                table.wait = sequence
        return 0

    # -- records ------------------------------------------------------------------------------------------------

    cdef int _locate(self, Spot *spot, bytes key) except -1:
        spot.crc = cairn_crc32(<const unsigned char *>PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        spot.bucket = PyList_GET_ITEM(self._directory, <uint64_t>spot.crc >> self._shift)
        spot.values = cairn_slot(spot.bucket, VALUES)
        spot.value = PyDict_GetItemWithError(<object>spot.values, key)
        return 0

    cdef int _write(self, Spot *spot, bytes key, bytes value) except -1:
        """`Database.put`, without an expiry and without the index."""
        self._note(spot, key, value)
        if spot.value is not NULL:
            self._used += PyBytes_GET_SIZE(value) - PyBytes_GET_SIZE(<bytes>spot.value)
            PyDict_SetItem(<object>spot.values, key, value)
        elif PyDict_Size(<object>spot.values) < BUCKET_KEYS:
            PyDict_SetItem(<object>spot.values, key, value)
            self._keys += 1
            self._used += ENTRY_BYTES + PyBytes_GET_SIZE(key) + PyBytes_GET_SIZE(value)
        else:  # the bucket splits
            self._table.put(key, value, None)
            self._hold_table()
        return 0

    cdef int _delete(self, Spot *spot, bytes key) except -1:
        """`Database.delete` of an existing record, without the index."""
        self._note(spot, key, None)
        if <object>cairn_slot(spot.bucket, ORDER) is not None:
            self._table.delete(key)
            return 0
        self._keys -= 1
        self._used -= ENTRY_BYTES + PyBytes_GET_SIZE(key) + PyBytes_GET_SIZE(<bytes>spot.value)
        PyDict_DelItem(<object>spot.values, key)
        if PyDict_Size(<object>spot.values) == 0:
            _set_slot(spot.bucket, VALUES, {})
            _set_slot(spot.bucket, EXPIRIES, None)
        return 0

    cdef int _note(self, Spot *spot, bytes key, bytes value) except -1:
        """Record a change that follows, with the value before it. value: None: the record is deleted.

        Of the changes of a queue's record in one entry, which are as many as commands, storage gets only the last.
        """
        cdef NativeTable table = self._batch
        cdef object before = None if spot.value is NULL else <object>spot.value, change
        cdef PyObject *noted
        if table is not None and table._undoes and key is self._key:
            noted = PyDict_GetItemWithError(table._queue_effects, key)
            if noted is NULL:
                PyDict_SetItem(table._queue_effects, key, PyList_GET_SIZE(table._effects))
            else:
                _replace(table._effects, cairn_int(<object>noted), (DB, key, value, None))
                table.wait = table.sequence
                table.wrote = True
                table = None
        if table is not None:
            table._effects.append((DB, key, value, None))
            table._effect_bytes += PyBytes_GET_SIZE(key) + (0 if value is None else PyBytes_GET_SIZE(value))
            if table._undoes:
                table._queue_undos.append(key)
                table._queue_undos.append(before)
                table._queue_undos.append(None)
                PyDict_SetItem(table._queue_pending, key, table._its_sequence)
                table.wait = table.sequence
                table.wrote = True
        if self._journal is not None:
            change = _made(Before)
            _set_slot(<PyObject *>change, BEFORE_DATABASE, self._database)
            _set_slot(<PyObject *>change, BEFORE_KEY, key)
            _set_slot(<PyObject *>change, BEFORE_ENTRY, None if before is None else (before, None))
            self._journal.append(change)
        if not self._has_expiring:
            self._shared.expiring = True  # replies depend on log time
            self._has_expiring = True
        return 0

    cdef int _write_queue(self, bint was_empty, int64_t turn, int64_t id, int64_t lease, int total,
                          int64_t more) except -1:
        """`_Changes.write`: write the record of the queue, and note the newest id and lease.

        turn, id, lease: the new ones; -1: no new one. total: the field to which `more` is added.
        """
        cdef PyObject *queue = self._queue
        cdef bint may_be_idle = <object>cairn_slot(queue, QUEUE_SETTINGS) is None
        cdef bytes value
        cdef char *at
        cdef Spot spot
        if was_empty and may_be_idle:
            _list(<PyObject *>self._index, INDEX_IDLE).delete(self._total(USED_AT), self._total(QUEUE_NUMBER))
        self._locate(&spot, self._key)
        value = PyBytes_FromStringAndSize(PyBytes_AS_STRING(self._record), QUEUE_BYTES)
        at = PyBytes_AS_STRING(value)
        put_be64(at + 8 * USED_AT, self._now)
        put_be64(at + 8 * total, self._total(total) + more)
        if turn >= 0:
            put_be64(at + 8 * TURN, turn)
        if id >= 0:
            put_be64(at + 8 * NEWEST_ID, id)
            _set_slot(<PyObject *>self._index, INDEX_NEWEST_ID, id)
        if lease >= 0:
            put_be64(at + 8 * NEWEST_LEASE, lease)
            _set_slot(<PyObject *>self._index, INDEX_NEWEST_LEASE, lease)
        self._write(&spot, self._key, value)
        _set_slot(queue, QUEUE_PACKED, value)
        _set_slot(queue, QUEUE_RECORD, None)
        if may_be_idle and _is_empty(queue):
            _list(<PyObject *>self._index, INDEX_IDLE).insert(self._now, self._total(QUEUE_NUMBER))
        if not self._within and self._is_watched():
            self._database.changed[self._key] = None
        return 0

