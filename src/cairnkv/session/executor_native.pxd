from libc.stdint cimport int64_t

from cairnkv.engine.table_native cimport NativeTable
from cairnkv.store.clock_native cimport NativeClock
from cairnkv.store.pending_native cimport PendingBatch, Mark

cdef enum:
    SHARED_OUTPUT = 65536  # bytes of replies to several clients before they are sent

cdef struct Conversation:
    # What a client's conversation has settled. width: of the article's command numbers; or the version of Redis' wire
    int width
    int success
    int failure
    Py_ssize_t string_max
    Py_ssize_t frame_max
    bint reads_locally  # whether all reads may show what was true a moment ago, where the newest is not at hand

cdef enum Waiting:
    # What of a client's earlier commands has yet to have its turn in a cluster's log
    NOTHING_WAITS
    READS_WAIT
    WRITES_WAIT  # ... maybe among others

cdef struct Piece:
    # What a client has sent, and what came of it.
    const unsigned char *data
    Py_ssize_t length
    Conversation *conversation
    Waiting waits  # before it; of interest only to an accelerator that proposes
    Py_ssize_t done  # bytes that were executed
    Py_ssize_t commands  # that these were
    Py_ssize_t replies_at  # in the accelerator's output
    Py_ssize_t replies_size
    Py_ssize_t ready_size  # bytes of these that may leave at once
    int64_t wait  # the sequence that the rest has to wait for
    int marks_at  # in the accelerator's marks
    int marks_count

cdef struct Scanned:
    # What a frame is that was not executed.
    bint writes
    bint local  # whether it may show what was true a moment ago
    bint measures  # whether `reply` is wanted
    Py_ssize_t reply  # bytes of the reply, as far as is known now

cdef class FrameExecutor:
    cdef NativeTable _table
    cdef NativeClock _clock
    cdef char *_out
    cdef Py_ssize_t _size
    cdef int at_piece  # the one at hand, also when something has failed
    cdef bint busy  # whether a run is in progress
    cdef bint output_in_use  # whether the poller has not taken the replies of its run yet
    cdef readonly int64_t commands
    cdef readonly int64_t writes
    # Of the run at hand:
    cdef Conversation *_conversation
    cdef Py_ssize_t _bytes_max  # of a piece, after which no further frame begins
    cdef Py_ssize_t _room_end  # where the replies to this piece have to end
    cdef public bint off
    cdef readonly bint proposes  # whether commands are only brought to a log here, and have their turn later
    cdef object _collector
    cdef Mark *_marks
    cdef int _marks_count, _marks_room
    cdef Piece _own  # that of `run`
    cdef int _mark(self, Piece *piece) except -1
    cdef PendingBatch hold(self, Piece *piece, bint whole)
    cdef int execute(self, Piece *pieces, int count) except -1
    cdef int refuse_within(self) except -1
    cdef int enter(self) except -1
    cdef int _execute(self, Piece *pieces, int count) except -1
    # What each wire has of its own:
    cdef Py_ssize_t frame(self, const unsigned char *data, Py_ssize_t length) except -1
    cdef Py_ssize_t local_read(self, const unsigned char *data, Py_ssize_t length) except -1
    cdef Py_ssize_t scan(self, const unsigned char *data, Py_ssize_t length, Scanned *found) except -1
    cdef Py_ssize_t write_logged(self, char *into, const unsigned char *data, Py_ssize_t length) noexcept
    cdef object left(self, object store, object changes, bytes frame)
    cdef Py_ssize_t key_ahead(self, const unsigned char *data, Py_ssize_t length, int width,
                              const unsigned char **key, Py_ssize_t *size) noexcept


cdef int look_ahead(FrameExecutor self, const Piece *pieces, int count) except -1
cdef bint read_decimal(const unsigned char *text, Py_ssize_t length, int64_t *number) noexcept nogil
cdef int write_decimal(char *text, int64_t number) noexcept nogil
