from libc.stdint cimport int64_t

from cairnkv.engine.queue_native cimport NativeQueues
from cairnkv.engine.table_native cimport NativeTable
from cairnkv.session.access.rights_native cimport Rules
from cairnkv.store.clock_native cimport NativeClock
from cairnkv.store.pending_native cimport PendingBatch, Mark

cdef enum:
    SHARED_OUTPUT = 65536  # bytes of replies to several clients before they are sent

cdef struct Conversation:
    # The settings of a client. width: bytes of command numbers, or the version of the Redis protocol
    int width
    int success
    int failure
    Py_ssize_t string_max
    Py_ssize_t frame_max
    bint reads_locally  # whether the client allows local reads
    const Rules *rules  # NULL: the client has all rights

cdef enum Waiting:
    # The earlier commands of a client that wait for the log of a cluster
    NOTHING_WAITS
    READS_WAIT
    WRITES_WAIT  # and maybe reads

cdef struct Piece:
    # The bytes that a client has sent, and the result.
    const unsigned char *data
    Py_ssize_t length
    Conversation *conversation
    Waiting waits  # of earlier commands; only for an executor that proposes
    Py_ssize_t done  # bytes that were executed
    Py_ssize_t commands  # executed
    Py_ssize_t replies_at  # in the executor's output
    Py_ssize_t replies_size
    Py_ssize_t ready_size  # bytes of them that may leave at once
    int64_t wait  # the sequence number whose commit the rest waits for
    int marks_at  # in the executor's marks
    int marks_count

cdef struct Scanned:
    # The description of a frame that was not executed.
    bint writes
    bint takes  # whether it is a TAKE
    bint local  # whether a local read may answer it
    bint measures  # whether to compute `reply`
    Py_ssize_t reply  # estimated bytes of the reply
    Py_ssize_t commands  # its work, in commands of one key

cdef class FrameExecutor:
    cdef NativeTable _table
    cdef NativeClock _clock
    cdef char *_out
    cdef Py_ssize_t _size
    cdef int at_piece  # the current piece, also after an error
    cdef bint busy  # whether a run is in progress
    cdef bint output_in_use  # whether the poller has not taken the replies of its run yet
    cdef readonly int64_t commands
    cdef readonly int64_t writes
    # Of the current run:
    cdef Conversation *_conversation
    cdef Py_ssize_t _bytes_max  # of a piece; no frame begins after them
    cdef Py_ssize_t _room_end  # the end of the room for replies to this piece
    cdef public bint off
    cdef readonly bint proposes  # whether commands are only proposed to the log here, and executed later
    cdef object _collector
    cdef Mark *_marks
    cdef int _marks_count, _marks_room
    cdef Piece _own  # that of `run`
    cdef NativeQueues _queues  # None: the pure path executes the commands on queues
    cdef bint _is_for_log  # whether it executes entries of the log of a cluster
    cdef Py_ssize_t _messages_left  # that commands may still put, take and ack in the current piece
    cdef int _mark(self, Piece *piece) except -1
    cdef PendingBatch hold(self, Piece *piece, bint whole)
    cdef int execute(self, Piece *pieces, int count) except -1
    cdef int refuse_within(self) except -1
    cdef int enter(self) except -1
    cdef int _execute(self, Piece *pieces, int count) except -1
    # Of each protocol:
    cdef Py_ssize_t frame(self, const unsigned char *data, Py_ssize_t length) except -1
    cdef Py_ssize_t local_read(self, const unsigned char *data, Py_ssize_t length) except -1
    cdef Py_ssize_t scan(self, const unsigned char *data, Py_ssize_t length, Scanned *found) except -1
    cdef Py_ssize_t write_logged(self, char *into, const unsigned char *data, Py_ssize_t length) noexcept
    cdef object limits(self)
    cdef object left(self, object store, object changes, bytes frame, bint abandoned)
    cdef Py_ssize_t key_ahead(self, const unsigned char *data, Py_ssize_t length, int width,
                              const unsigned char **key, Py_ssize_t *size) noexcept


cdef Py_ssize_t length_of(FrameExecutor self, const unsigned char *key, Py_ssize_t size) except -1
cdef int look_ahead(FrameExecutor self, const Piece *pieces, int count) except -1
cdef bint read_decimal(const unsigned char *text, Py_ssize_t length, int64_t *number) noexcept nogil
cdef int write_decimal(char *text, int64_t number) noexcept nogil
