"""PUT, TAKE and ACK of queues, for the frame executors of both protocols and for `cairnkv.engine.apply`."""

from libc.stdint cimport int64_t, uint32_t

from cpython.object cimport PyObject

from cairnkv.engine.table_native cimport NativeTable

cdef struct Body:
    # The body of a message to put. whole: the same as an object, borrowed; NULL: there is none.
    const unsigned char *data
    Py_ssize_t size
    PyObject *whole

cdef struct MessageTerms:
    # The properties of messages to put. delay, expires: in milliseconds; 0: none. lease_ms: 0: that of the queue.
    int64_t priority
    int64_t delay
    int64_t expires
    int64_t lease_ms

cdef struct Taken:
    # A message that TAKE has leased. The bytes are those of its records: valid until the next call.
    int64_t id
    int64_t lease
    int64_t attempts
    int64_t milliseconds  # of the lease
    int64_t put_at
    const char *group
    Py_ssize_t group_size
    const char *body
    Py_ssize_t body_size

cdef struct Spot:
    # A record, and the place where it is or would be; borrowed references.
    uint32_t crc
    PyObject *bucket
    PyObject *values
    PyObject *value  # NULL: there is no such record

cdef class NativeQueues:
    cdef Taken *taken  # the messages of the last `take`
    cdef Py_ssize_t taken_count
    cdef object _database, _shared
    cdef Py_ssize_t _index_at, _watched_at  # slots of the database
    cdef bint _has_expiring  # whether `Shared.expiring` is set
    # Of the current command:
    cdef NativeTable _batch  # collects the changes; None: `_journal` does
    cdef list _journal  # None: no change will be undone
    cdef int64_t _now, _lead
    cdef object _index, _table
    cdef list _directory
    cdef int _shift
    cdef int64_t _keys, _used  # changes of the numbers of the table
    cdef object _name, _key  # of the queue, and of its record
    cdef PyObject *_queue  # borrowed
    cdef bytes _record
    cdef object _settings
    cdef bint _within  # whether the command is part of a batch
    cdef list _message_keys  # of the messages to take
    cdef Spot _spot  # of the last message that was examined
    cdef bytes _acked_key
    cdef bint _is_cut  # whether they are as many as one reply may have

    # Each function below executes a whole command, or returns 0 and has changed nothing; then the pure path executes it.
    # table: the batch to which the changes belong; None: the changes go to the journal of the store, at its log time.
    # The caller has checked the limits of all arguments.

    cdef int64_t put(self, NativeTable table, bytes queue, bytes group, const MessageTerms *terms, const Body *bodies,
                     Py_ssize_t count) except -1
    cdef bint take(self, NativeTable table, bytes queue, int64_t count, int64_t lease_ms, Py_ssize_t room) except -1
    cdef bint ack(self, NativeTable table, const int64_t *pairs, Py_ssize_t count, char *replies) except -1

    cdef object _execute_put(self, object command)
    cdef object _execute_put_many(self, object command)
    cdef object _execute_ack(self, tuple leases)
    cdef tuple _strings(self, bytes name)
    cdef bint _enter(self, NativeTable table) except -1
    cdef bint _find_queue(self, bytes name) except -1
    cdef bint _has_waiters(self) except -1
    cdef bint _is_watched(self) except -1
    cdef bint _sweeps(self) except -1
    cdef bint _choose(self, PyObject *line, int64_t count, Py_ssize_t room) except -1
    cdef int _discard_line(self, PyObject *line, bytes group, int64_t priority) except -1
    cdef int _hold_table(self) except -1
    cdef int64_t _newest(self, Py_ssize_t at) except -1
    cdef int64_t _total(self, int field) noexcept
    cdef int64_t _after(self, int64_t milliseconds) noexcept
    cdef int _await(self, bytes key) except -1
    cdef int _leave(self, bint whole) except -1
    cdef int _locate(self, Spot *spot, bytes key) except -1
    cdef int _write(self, Spot *spot, bytes key, bytes value) except -1
    cdef int _delete(self, Spot *spot, bytes key) except -1
    cdef int _note(self, Spot *spot, bytes key, bytes value) except -1
    cdef int _write_queue(self, bint was_empty, int64_t turn, int64_t id, int64_t lease, int total, int64_t more) except -1
    cdef int _put_all(self, PyObject *line, bytes group, const MessageTerms *terms, int64_t id, const Body *bodies,
                      Py_ssize_t count) except -1
    cdef int _take_all(self, PyObject *line, bytes group, int64_t priority, bint alone, int64_t lease_ms,
                       int64_t lease) except -1
    cdef int _ack_all(self, const int64_t *pairs, Py_ssize_t count, char *replies) except -1
