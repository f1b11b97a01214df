# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The native path: executes common commands from the bytes that a client sent to the bytes of their replies.

It executes a *prefix*: frames from the first on, until one that it does not know, that is incomplete, or that needs an
unusual action. It returns the length of the prefix. All other frames take the pure path: the decoder, `Store.execute`
and the encoder. For any bytes, in any pieces, both paths give equal replies and equal databases; tests compare them.

Invariants: a frame is executed completely or not at all. A frame makes no Python object but the stored value, raises no
exception and calls no Python code. If changes have commits to wait for, those of one call are one entry
(`cairnkv.store.batch_undo`), and the pending replies to each client are one object. With a memory limit, the path only
reads, or executes nothing.

`native.frames_native` and `resp.frames_native` parse the frames of the protocols. `table_native` has the operations on
keys and values, which are the same for both.

Out of scope: sockets (`cairnkv.server.poller_native`), and rare commands.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport int64_t, uint64_t

from cairnkv.engine.queue_native cimport NativeQueues
from cairnkv.engine.table_native cimport NativeTable, Place, announce, end_command, look_up, place_of
from cairnkv.session.access.rights_native cimport NativeRights
from cairnkv.store.clock_native cimport NativeClock
from cairnkv.store.pending_native cimport PendingBatch, Mark, pending_batch

from cairnkv.engine.queue import queues_of
from cairnkv.limits import UNSENT_PAUSE as _UNSENT_PAUSE
from cairnkv.protocol.native import DecoderLimits

# Bytes of replies in one run. At this size a session pauses anyway; the pure path makes longer replies.
cdef Py_ssize_t OUTPUT_MAX = _UNSENT_PAUSE
# More than the bytes of any piece.
cdef Py_ssize_t PLENTY = 1 << 62
# Messages that a client may put, take and ack in one run: about half a millisecond. One command may exceed it.
cdef Py_ssize_t MESSAGES_PER_RUN = 256
# Short commands on keys that take the time of one message.
cdef Py_ssize_t COMMANDS_PER_MESSAGE = 10
# Maximum decimal digits of numbers: the sum of two such numbers fits 64 signed bits.
cdef int DIGITS_MAX = 18


cdef bint read_decimal(const unsigned char *text, Py_ssize_t length, int64_t *number) noexcept nogil:
    """Read a decimal number in its shortest form with at most `DIGITS_MAX` digits. Return False for any other text."""
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
    """Write decimal text of at most 20 characters. Return its length."""
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


cdef class FrameExecutor:
    """Executes frames of one protocol in one database. `run` executes a prefix of some bytes; `output` has the replies.

    commands, writes: the number of executed commands, and of those that storage counts as entries.
    hits, misses: keys that commands that only read have found, and not found.
    off: whether the path must not execute anything any more, because the store must see each command.
    """

    def __cinit__(self):
        self._out = <char *>PyMem_Malloc(SHARED_OUTPUT + OUTPUT_MAX)
        self._messages_left = MESSAGES_PER_RUN
        self._marks_room = 256
        self._marks = <Mark *>PyMem_Malloc(self._marks_room * sizeof(Mark))
        if self._out is NULL or self._marks is NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self._out)
        PyMem_Free(self._marks)

    def __init__(self, database, clock, collector=None):
        """database: of the store. clock: returns the time in ms, once a run. collector: see `ExecutorFactory.executing`."""
        self._table = NativeTable(database, collector)
        self._collector = collector
        self._clock = NativeClock(clock)
        self._bytes_max = PLENTY
        self._queues = queues_of(database.shared).native
        self._is_for_log = collector is not None and not collector.undoes

    def run(self, buffer, Py_ssize_t start, *, int width, tuple statuses, Py_ssize_t string_max,
            Py_ssize_t frame_max, bint reads_locally=False, bint own_writes_there=True,
            Py_ssize_t bytes_max=PLENTY, NativeRights rights=None):
        """Execute a prefix of the frames in a buffer, from `start` on. Return its length.

        buffer: bytes or a bytearray. width: bytes of command numbers, 2 or 4; of the Redis protocol, its version.
        statuses: status bytes of success and failure. string_max, frame_max: maximum bytes of a value and of a frame.
        reads_locally, own_writes_there, bytes_max, rights: see `BatchExecutor`. `output` has the replies until the next
        run.
        """
        cdef Conversation conversation
        cdef Piece *piece = &self._own
        cdef Py_buffer view
        self.refuse_within()
        if self.output_in_use:
            return 0  # called by Python code before the poller has taken all replies: use the pure path
        conversation.width = width
        conversation.success = statuses[0]
        conversation.failure = statuses[1]
        conversation.string_max = string_max
        conversation.frame_max = frame_max
        conversation.reads_locally = reads_locally
        conversation.rules = NULL if rights is None else &rights.rules
        piece.waits = NOTHING_WAITS if own_writes_there else WRITES_WAIT
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)  # while held, no code can move the bytes
        self._bytes_max = bytes_max
        try:
            piece.data = <const unsigned char *>view.buf + start
            piece.length = view.len - start
            piece.conversation = &conversation
            self.execute(piece, 1)
        finally:
            self._bytes_max = PLENTY
            piece.conversation = NULL
            PyBuffer_Release(&view)
        return piece.done

    @property
    def hits(self):
        return self._table.hits

    @property
    def misses(self):
        return self._table.misses

    @property
    def work(self):
        """The work of the last call of `run`, in short commands on keys."""
        return self._own.commands + COMMANDS_PER_MESSAGE * (MESSAGES_PER_RUN - self._messages_left)

    def output(self):
        """Return the replies of the last run that may leave at once."""
        return self._out[: self._own.ready_size if self._own.wait else self._size]

    def pending(self):
        """Return the pending replies behind them, or None. Call it once."""
        return self.hold(&self._own, False) if self._own.wait else None

    cdef PendingBatch hold(self, Piece *piece, bint whole):
        """Return the pending replies to a piece: all if `whole`, else those that may not leave at once."""
        cdef Py_ssize_t waiting = piece.replies_at + piece.ready_size
        cdef NativeTable table = self._table
        cdef PendingBatch run = pending_batch(
            self._out,
            piece.replies_at if whole else waiting,
            waiting,
            piece.replies_at + piece.replies_size,
            self._marks + piece.marks_at,
            piece.marks_count,
        )
        if piece.wait == table.sequence and table.waiting is not None:
            table.waiting.append(run)
        else:
            self._collector.hold(piece.wait, run)
        return run

    cdef int _mark(self, Piece *piece) except -1:
        """Note the commit for which the last reply waits."""
        cdef Mark *mark
        cdef NativeTable table = self._table
        if table.wait == 0 and piece.wait == 0:  # it may leave, because all replies before it may
            piece.ready_size = self._size - piece.replies_at
            return 0
        if self._marks_count == self._marks_room:
            mark = <Mark *>PyMem_Realloc(self._marks, 2 * self._marks_room * sizeof(Mark))
            if mark is NULL:
                raise MemoryError
            self._marks = mark
            self._marks_room *= 2
        mark = self._marks + self._marks_count
        self._marks_count += 1
        piece.marks_count += 1
        mark.end = self._size
        mark.wait = table.wait
        mark.wrote = table.wrote
        if table.wait > piece.wait:
            piece.wait = table.wait
        return 0

    cdef int execute(self, Piece *pieces, int count) except -1:
        """Execute the frames of some clients, one client after the other. Return the number of pieces examined.

        At least one piece is examined. The others wait if the output has no room until the replies are sent.
        """
        self.enter()
        try:
            return self._execute(pieces, count)
        finally:
            self.busy = False

    cdef int refuse_within(self) except -1:
        """Raise `RuntimeError` within a run: a callback must not begin another run on the same output and table."""
        if self.busy:
            raise RuntimeError("a run of this executor is in progress: its callbacks cannot begin another")
        return 0

    cdef int enter(self) except -1:
        """Begin a run."""
        self.refuse_within()
        self.busy = True
        return 0

    cdef int _execute(self, Piece *pieces, int count) except -1:
        cdef Piece *piece
        cdef Py_ssize_t done, before
        cdef int64_t hits, misses
        cdef bint executed = False
        cdef NativeTable table = self._table
        self._size = self._marks_count = 0
        self.at_piece = 0
        if not table.begin(self._clock.log_time()):
            for self.at_piece in range(count):
                piece = pieces + self.at_piece
                piece.done = piece.commands = piece.replies_at = piece.replies_size = piece.wait = 0
            return count
        try:
            while self.at_piece < count and self._size <= SHARED_OUTPUT:
                piece = pieces + self.at_piece
                piece.done = piece.commands = 0
                piece.replies_at = self._size
                piece.ready_size = piece.wait = 0
                piece.marks_at = self._marks_count
                piece.marks_count = 0
                self._conversation = piece.conversation
                self._room_end = self._size + OUTPUT_MAX
                self._messages_left = PLENTY if self._is_for_log else MESSAGES_PER_RUN
                while piece.length > piece.done < self._bytes_max and not self.off:
                    if table._ahead_next == table._ahead_count:
                        look_ahead(self, pieces, count)
                    table.wait = 0
                    table.wrote = False
                    before = self._size
                    hits, misses = table.hits, table.misses
                    done = self.frame(piece.data + piece.done, piece.length - piece.done)
                    if table.found_cold:
                        table.found_cold = False
                        self._size = before
                        done = 0
                    if done == 0:
                        table.hits, table.misses = hits, misses  # the pure path counts this command
                        table._ahead_next = table._ahead_count  # forget the keys that were looked up ahead
                        break
                    piece.done += done
                    piece.commands += 1
                    executed = True
                    if table.collecting:
                        if table._undoes:
                            self._mark(piece)
                        else:
                            end_command(table)
                self.commands += piece.commands
                piece.replies_size = self._size - piece.replies_at
                self.at_piece += 1
                if table.collecting and not table._undoes and piece.done < piece.length:
                    break  # the rest of this piece comes before the next one in the log
        finally:
            if table.collecting:
                self.writes = 0  # storage counts them
            try:
                table.end(executed)
            except BaseException:
                self.at_piece = count  # the run is undone
                raise
        return self.at_piece

    def native_rights(self, rights):
        """Return the rights of a client for this executor, which it needs unless it has all rights."""
        raise NotImplementedError

    cdef Py_ssize_t frame(self, const unsigned char *data, Py_ssize_t length) except -1:
        """Execute the first frame. Return its length, or 0 if the pure path must execute it."""
        return 0

    # In a cluster (`proposals_native`). `_conversation` is that of the client. Its rights are checked before its
    # frames are proposed, and not when they execute.

    cdef Py_ssize_t local_read(self, const unsigned char *data, Py_ssize_t length) except -1:
        """Execute the first frame if it is a read and the client allows a local read. Return its length, or 0."""
        return 0

    cdef Py_ssize_t scan(self, const unsigned char *data, Py_ssize_t length, Scanned *found) except -1:
        """Describe the first frame if `frame` would try to execute it. Return its length, or 0."""
        return 0

    cdef Py_ssize_t write_logged(self, char *into, const unsigned char *data, Py_ssize_t length) noexcept:
        """Write a scanned frame as a log entry contains it, which is not longer. Return its length there."""
        return 0

    cdef object limits(self):
        """Return the limits of the client's decoder."""
        return DecoderLimits(self._conversation.string_max, self._conversation.frame_max)

    cdef object left(self, object store, object changes, bytes frame, bint abandoned):
        """Execute a scanned frame on the pure path, at its place in the log. Return its `QueuedReply`.

        abandoned: whether its client has disconnected: a TAKE gives its leases back.
        """
        raise NotImplementedError

    cdef Py_ssize_t key_ahead(self, const unsigned char *data, Py_ssize_t length, int width,
                              const unsigned char **key, Py_ssize_t *size) noexcept:
        """Find the key of the first frame. Return the length of the frame, or 0 if the key is unknown."""
        return 0


cdef Py_ssize_t length_of(FrameExecutor self, const unsigned char *key, Py_ssize_t size) except -1:
    """Return the length of the current value of a key, or 0 if it is missing."""
    cdef Place place
    place_of(self._table, &place, key, size)
    look_up(self._table, &place)
    return 0 if place.value is NULL else PyBytes_GET_SIZE(<object>place.value)


cdef int look_ahead(FrameExecutor self, const Piece *pieces, int count) except -1:
    """Look up the keys of the next frames, of this client and of the next ones, so that the CPU loads their memory.

    Nothing depends on the result.
    """
    cdef NativeTable table = self._table
    cdef const Piece *piece
    cdef const unsigned char *key
    cdef Py_ssize_t at, size, whole
    cdef int item
    table._ahead_next = table._ahead_count = 0
    for item in range(self.at_piece, count):
        piece = pieces + item
        at = piece.done if item == self.at_piece else 0
        while at < piece.length:
            whole = self.key_ahead(piece.data + at, piece.length - at, piece.conversation.width, &key, &size)
            if whole == 0:
                if at == piece.done and item == self.at_piece:
                    return 0  # the next command looks ahead
                break
            if not announce(table, key, size):
                table.prefetch()
                return 0
            at += whole
    if table._ahead_count > 1:  # a single key gains nothing
        table.prefetch()
    return 0
