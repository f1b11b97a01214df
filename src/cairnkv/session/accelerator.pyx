# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled hot path: common commands, straight from the bytes that were read to the bytes to send.

It handles a *prefix*: frames from the first on, until one that it does not know, that is not whole, or that asks
for something out of the ordinary; and says how many bytes that was. Whatever comes then goes the readable way, decoder
to `Store.execute` to the bytes of a reply, which knows everything. So nothing is decided here: for any bytes, however
cut, replies and keyspace are those of the readable way, and tests hold the two equal.

What always holds: a frame is either done whole or not touched. No Python object is made per frame beyond what is
stored, no exception, no call of Python code. Where changes have a log to wait for, those of a run are one entry of it
(`cairnkv.store.staging`), and the replies that wait are handed over as one object for each client. The store has no
memory limit; one that has needs a look at each command, and gives this no turn.

Here is what all wires have in common. The frames of each are in `article_frames` and `redis_frames`; what is done with
keys and values is the same for any wire, and stands in `hot_table`. Not for sockets (`cairnkv.server.poller`), and not
for anything that is rare.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport int64_t, uint64_t

from cairnkv.keyspace.hot_table cimport HotTable, end_command, meet
from cairnkv.store.hot_clock cimport HotClock
from cairnkv.store.hot_held cimport HeldRun, Mark, held_run

from cairnkv.limits import UNSENT_PAUSE as _UNSENT_PAUSE

# Replies of one run. At this size a session would pause anyway; a longer reply goes the readable way.
cdef Py_ssize_t OUTPUT_MAX = _UNSENT_PAUSE
# More bytes than any piece has.
cdef Py_ssize_t PLENTY = 1 << 62
# Decimal digits of the numbers that INCR adds here: the sum of two of them always fits 64 signed bits.
cdef int DIGITS_MAX = 18


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
    """The hot path of one keyspace on one wire. `run` does what it can of some bytes; `output` gives the replies.

    commands, writes: how many were executed here, and how many of them the log would have counted.
    off: whether nothing is to be done here any more, since the store has come to need a look at each command.
    """

    def __cinit__(self):
        self._out = <char *>PyMem_Malloc(SHARED_OUTPUT + OUTPUT_MAX)
        self._marks_room = 256
        self._marks = <Mark *>PyMem_Malloc(self._marks_room * sizeof(Mark))
        if self._out is NULL or self._marks is NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self._out)
        PyMem_Free(self._marks)

    def __init__(self, keyspace, clock, staging=None):
        """keyspace: the store's. clock: gives the time in ms, once a run. staging: of a store with a log to wait for."""
        self._table = HotTable(keyspace, staging)
        self._staging = staging
        self._clock = HotClock(clock)
        self._bytes_max = PLENTY

    def run(self, buffer, Py_ssize_t start, *, int width, tuple statuses, Py_ssize_t string_max,
            Py_ssize_t frame_max, bint reads_locally=False, bint own_writes_there=True,
            Py_ssize_t bytes_max=PLENTY):
        """Execute frames of a buffer from `start` on; how many bytes they had.

        buffer: bytes or a bytearray. width: of the command numbers, 2 or 4; of Redis' wire, its version. statuses: of
        success and failure. string_max, frame_max: bytes that a value and a frame may have. reads_locally,
        own_writes_there, bytes_max: see `Prefix`. The replies stand in `output` until the next run.
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
    def executed(self):
        """How many commands the last call of `run` executed."""
        return self._own.commands

    def output(self):
        """The replies to the last run that may leave at once."""
        return self._out[: self._own.ready_size if self._own.wait else self._size]

    def held(self):
        """The others, behind them, as the store holds them; None: there are none. To be asked once."""
        return self.hold(&self._own, False) if self._own.wait else None

    cdef HeldRun hold(self, Piece *piece, bint whole):
        """Hold the replies to a piece, or if not `whole` those that may not leave at once."""
        cdef Py_ssize_t waiting = piece.replies_at + piece.ready_size
        cdef HotTable table = self._table
        cdef HeldRun run = held_run(
            self._out,
            piece.replies_at if whole else waiting,
            waiting,
            piece.replies_at + piece.replies_size,
            self._marks + piece.marks_at,
            piece.marks_count,
        )
        if piece.wait == table.position and table.waiting is not None:
            table.waiting.append(run)
        else:
            self._staging.hold(piece.wait, run)
        return run

    cdef int _mark(self, Piece *piece) except -1:
        """Note what the reply that was just made has to wait for."""
        cdef Mark *mark
        cdef HotTable table = self._table
        if table.wait == 0 and piece.wait == 0:  # it may leave, since all before it may
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
        """Execute what some clients have sent, one after the other; how many of the pieces were looked at.

        That is one at least, and all but those for which there is no room for replies until these were sent.
        """
        self.enter()
        try:
            return self._execute(pieces, count)
        finally:
            self.busy = False

    cdef int refuse_within(self) except -1:
        """Python code that a run calls must not begin another, which would use its pieces, output and table."""
        if self.busy:
            raise RuntimeError("a run of this accelerator is under way: its callbacks cannot begin another")
        return 0

    cdef int enter(self) except -1:
        """Begin a run."""
        self.refuse_within()
        self.busy = True
        return 0

    cdef int _execute(self, Piece *pieces, int count) except -1:
        cdef Piece *piece
        cdef Py_ssize_t done, before
        cdef bint executed = False
        cdef HotTable table = self._table
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
                while piece.length > piece.done < self._bytes_max and not self.off:
                    if table._ahead_next == table._ahead_count:
                        look_ahead(self, pieces, count)
                    table.wait = 0
                    table.wrote = False
                    before = self._size
                    done = self.frame(piece.data + piece.done, piece.length - piece.done)
                    if table.found_cold:
                        table.found_cold = False
                        self._size = before
                        done = 0
                    if done == 0:
                        table._ahead_next = table._ahead_count  # what was met behind it is out of step
                        break
                    piece.done += done
                    piece.commands += 1
                    executed = True
                    if table.staged:
                        if table._undoes:
                            self._mark(piece)
                        else:
                            end_command(table)
                self.commands += piece.commands
                piece.replies_size = self._size - piece.replies_at
                self.at_piece += 1
                if table.staged and not table._undoes and piece.done < piece.length:
                    break  # what is left of it stands before the next one in the log
        finally:
            if table.staged:
                self.writes = 0  # which the log counts itself
            try:
                table.end(executed)
            except BaseException:
                self.at_piece = count  # nothing of the run is true
                raise
        return self.at_piece

    cdef Py_ssize_t frame(self, const unsigned char *data, Py_ssize_t length) except -1:
        """Execute the frame that stands here; its bytes, or 0 when it is for the readable way."""
        return 0

    # In a cluster (`proposing`); `_conversation` is the client's.

    cdef Py_ssize_t local_read(self, const unsigned char *data, Py_ssize_t length) except -1:
        """Execute the frame that stands here if it is a read that may show what was true a moment ago; its bytes, or 0."""
        return 0

    cdef Py_ssize_t scan(self, const unsigned char *data, Py_ssize_t length, Scanned *found) except -1:
        """What frame stands here, if `frame` would try to execute it; its bytes, or 0."""
        return 0

    cdef Py_ssize_t write_logged(self, char *into, const unsigned char *data, Py_ssize_t length) noexcept:
        """Write a frame that was scanned as the log has it, which is no longer; how many bytes that is."""
        return 0

    cdef object left(self, object store, object changes, bytes frame):
        """Carry out a frame that was scanned the readable way, in its turn; what is due for it."""
        raise NotImplementedError

    cdef Py_ssize_t key_ahead(self, const unsigned char *data, Py_ssize_t length, int width,
                              const unsigned char **key, Py_ssize_t *size) noexcept:
        """Which key the frame that stands here will ask for; the frame's bytes, or 0 when nobody knows."""
        return 0


cdef int look_ahead(Accelerator self, const Piece *pieces, int count) except -1:
    """Meet the keys of the frames that come next, of this client and of those behind it.

    The frames are only looked at: what is found of no use is dropped, and nothing depends on it.
    """
    cdef HotTable table = self._table
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
                break
            if not meet(table, key, size):
                table.fetch()
                return 0
            at += whole
    if table._ahead_count > 1:  # a single one gains nothing
        table.fetch()
    return 0
