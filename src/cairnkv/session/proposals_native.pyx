# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled hot path of a cluster's node: commands are not executed where they are read, but have their turn in the
log; all but local reads, which may show what was true a moment ago.

    bytes of some clients → ProposingExecutor: which frames are these → one ProposedBatch → the log
    its turn → ProposedBatch: the accelerator of the clients' wire → the replies of each client
    bytes that begin with local reads → the accelerator of the clients' wire → their replies, at once

What always holds: what is brought to the log are the writes among the frames, each as its client has sent it, in their
order; all frames are executed in their turn, in that order, and what the accelerator leaves of them in its place by the
readable way. A frame that is not known, or has anything that is to be asked before, is left to the readable way, which
brings it to the log behind these.

A local read is executed from the node's table as it is, at once, whatever the log is like; INFO says how far behind
that may be (`Node.behind_ms`). While writes of its client wait for their turn it has a turn too, behind them: so
nobody misses what they have written. Where only reads wait it is left to the readable way, by which its reply waits for
theirs, but it does not.

Not for what a frame is (`frames_native`), nor for how proposals come into the log (`cairnkv.replication.proposer`).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.string cimport memcpy, memset

from cairnkv.session.executor_native cimport (
    NOTHING_WAITS,
    SHARED_OUTPUT,
    WRITES_WAIT,
    FrameExecutor,
    Conversation,
    Piece,
    Scanned,
    look_ahead,
)
from cairnkv.store.pending_native cimport PendingBatch, awaited_batch

from cairnkv.commands import OK
from cairnkv.limits import UNSENT_PAUSE as _UNSENT_PAUSE
from cairnkv.replication.entries import Item, ItemKind
from cairnkv.store import size_of

cdef Py_ssize_t UNSENT_PAUSE = _UNSENT_PAUSE

cdef enum:
    RUN_BYTES_MAX = 262144  # of the frames of one run: to execute it takes some milliseconds
    COMMANDS_PER_COST = 8  # that are about as much work as one of the readable way

cdef object RUN = ItemKind.COMMANDS


cdef struct Part:
    # What one client has in a run.
    const unsigned char *data  # where it was read, until the run has bytes of its own
    Py_ssize_t at  # in those
    Py_ssize_t length
    Py_ssize_t commands
    Py_ssize_t expected  # bytes of the replies, as far as is known
    bint writes
    bint given_up  # its client was told that it will not be carried out, or that nobody knows
    Conversation conversation


cdef class ProposedBatch:
    """Commands of some clients that have their turn together.

    What `cairnkv.replication.proposals.ExecutableProposal` has. items: what the log has to have. cost: how many
    commands of the readable way it is as much work as.
    """

    cdef readonly tuple items
    cdef readonly Py_ssize_t weight
    cdef readonly Py_ssize_t cost
    cdef readonly bint given_up
    cdef readonly object reply
    cdef FrameExecutor _executor
    cdef object _store
    cdef bytes _said
    cdef Part *_parts
    cdef int _count
    cdef list _pending  # of each part

    def __cinit__(self):
        self._parts = NULL

    def __dealloc__(self):
        PyMem_Free(self._parts)

    def execute_logged(self, changes):
        """Carry it out."""
        if self.given_up and not self.items:
            return
        try:
            self._execute(changes)
        except BaseException as error:
            self._store.leave(f"commands could not be carried out that all nodes do: {error!r}")
            raise
        if not self.given_up:
            self._settle()

    cdef int _execute(self, changes) except -1:
        cdef Piece *pieces = <Piece *>PyMem_Malloc(self._count * sizeof(Piece))
        cdef const unsigned char *said = <const unsigned char *>PyBytes_AS_STRING(self._said)
        cdef int at, end, begin = 0
        if pieces is NULL:
            raise MemoryError
        try:
            memset(pieces, 0, self._count * sizeof(Piece))
            for at in range(self._count):
                pieces[at].data = said + self._parts[at].at
                pieces[at].length = self._parts[at].length
                pieces[at].conversation = &self._parts[at].conversation
            while begin < self._count:
                if self._is_void(begin):
                    begin += 1
                    continue
                end = begin + 1
                while end < self._count and not self._is_void(end):
                    end += 1
                end = begin + self._executor.execute(pieces + begin, end - begin)
                for at in range(begin, end):
                    self._answer(at, pieces[at].replies_at, pieces[at].replies_size)
                begin = end
                if pieces[end - 1].done < pieces[end - 1].length and self._carry_out(pieces + end - 1, end - 1, changes):
                    begin = end - 1
        finally:
            PyMem_Free(pieces)
        return 0

    cdef inline bint _is_void(self, int at) noexcept:
        """Whether nothing has to be done for a client any more."""
        return self._parts[at].given_up and not self._parts[at].writes

    cdef int _answer(self, int at, Py_ssize_t begin, Py_ssize_t size) except -1:
        if size and not self._parts[at].given_up:
            (<PendingBatch>self._pending[at]).add(PyBytes_FromStringAndSize(self._executor._out + begin, size), size)
        return 0

    cdef bint _carry_out(self, Piece *piece, int at, changes) except -1:
        """Carry out the frame that the accelerator has left, the readable way; whether there are more behind it.

        Where the replies to a client are many bytes already, which nobody knew when their frames were read, all that
        it has: what is due is kept then as what the table has, and not copied before the client takes it.
        """
        cdef Scanned found
        cdef Py_ssize_t size, length
        cdef PendingBatch pending = self._pending[at]
        found.measures = False
        piece.data += piece.done
        piece.length -= piece.done
        piece.done = 0
        self._executor._conversation = piece.conversation
        while piece.length:
            size = self._executor.scan(piece.data, piece.length, &found)
            if size == 0:
                raise AssertionError("a frame that was scanned is none now")
            queued = self._executor.left(self._store, changes, PyBytes_FromStringAndSize(<const char *>piece.data, size))
            piece.data += size
            piece.length -= size
            if self._parts[at].given_up:
                return piece.length > 0
            length = size_of(queued.outcome)
            if pending.kept + length <= UNSENT_PAUSE:
                pending.add(b"".join(queued.encode(queued.outcome)), length)
                return piece.length > 0
            pending.add(queued, length)
        return False

    cdef int _settle(self) except -1:
        """Let the replies leave."""
        cdef PendingBatch pending
        cdef int at
        self.reply = OK
        for at in range(self._count):
            if not self._parts[at].given_up:
                pending = self._pending[at]
                pending.reply = OK
                if pending.on_ready is not None:
                    pending.on_ready()
        self._pending = None
        return 0

    def fail(self, failure, of_reads=None):
        """It will have no turn, or nobody knows. of_reads: what is said of commands that only read."""
        cdef int at
        self.given_up = True
        self.reply = failure
        for at in range(self._count):
            if not self._parts[at].given_up:
                self._fail_part(at, failure, failure if of_reads is None else of_reads)

    def fail_reads(self, failure):
        """What clients have said that only read will not be carried out."""
        cdef int at
        if not self.items:
            self.fail(failure)
            return
        for at in range(self._count):
            if not self._parts[at].given_up and not self._parts[at].writes:
                self._fail_part(at, failure, failure)

    cdef int _fail_part(self, int at, failure, of_reads) except -1:
        cdef Part *part = self._parts + at
        cdef Scanned found
        cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(self._said) + part.at
        cdef Py_ssize_t done = 0
        cdef list failures = []
        cdef PendingBatch pending = self._pending[at]
        found.measures = False
        self._executor._conversation = &part.conversation
        while done < part.length:
            done += self._executor.scan(data + done, part.length - done, &found)
            failures.append(failure if found.writes else of_reads)
        part.given_up = True
        pending.fail(failures, failure)
        if pending.on_ready is not None:
            pending.on_ready()
        return 0


cdef class ProposingExecutor(FrameExecutor):
    """Brings commands of one wire on one keyspace to the log, and answers local reads."""

    cdef FrameExecutor _executor
    cdef object _store
    cdef ProposedBatch _run  # that of the pieces at hand

    def __init__(self, store, FrameExecutor executor not None):
        """executor: carries out, in their turn, frames of the wire that this is for."""
        self._store = store
        self._executor = executor
        self._table = executor._table
        self._bytes_max = executor._bytes_max
        self.proposes = True

    cdef int execute(self, Piece *pieces, int count) except -1:
        """Propose what some clients have sent, behind their local reads; how many of the pieces were looked at.

        That is one at least, and all that there is room for in one run, and for the replies to local reads.
        """
        cdef Part *parts = NULL
        cdef Part *part
        cdef Piece *piece
        cdef Py_ssize_t total = 0, proposed = 0
        cdef bint takes, full = False
        cdef int at, used = 0
        self.enter()
        self._run = None
        self._size = 0
        self.at_piece = 0
        for at in range(count):
            piece = pieces + at
            piece.done = piece.commands = piece.replies_at = piece.replies_size = piece.ready_size = piece.wait = 0
            piece.marks_at = piece.marks_count = 0
        try:
            if self.off or self._store.loading:
                self.at_piece = count
                return count
            takes = self._store.takes_batches
            parts = <Part *>PyMem_Malloc(count * sizeof(Part))
            if parts is NULL:
                raise MemoryError
            self._table.take()
            while self.at_piece < count and not full and self._size <= SHARED_OUTPUT:
                piece = pieces + self.at_piece
                part = parts + used
                self._executor._conversation = piece.conversation
                if piece.waits == NOTHING_WAITS:
                    self._read_locally(pieces, count)
                if takes:
                    full = self._gather(piece, part, total)
                    if full and self.at_piece and piece.done == part.length and piece.done < piece.length:
                        piece.done = piece.commands = 0  # it is the first of the next run
                        break
                    if part.length:
                        part.at = total
                        part.given_up = False
                        part.conversation = piece.conversation[0]
                        piece.marks_at = used
                        piece.replies_size += part.length + part.expected
                        piece.wait = 1
                        used += 1
                        total += part.length
                        proposed += part.commands
                self.commands += piece.commands
                self.at_piece += 1
            if used:
                self._run = self._made(parts, used, total, proposed)
                parts = NULL
                self._store.propose_batch(self._run)
        except BaseException:
            self.at_piece = count  # none of them has replies to wait for
            raise
        finally:
            PyMem_Free(parts)
            self.busy = False
        return self.at_piece

    cdef int _read_locally(self, Piece *pieces, int count) except -1:
        """Answer the local reads that the piece at hand begins with."""
        cdef Piece *piece = pieces + self.at_piece
        cdef FrameExecutor executor = self._executor
        cdef Py_ssize_t size
        piece.replies_at = self._size
        executor._size = 0
        executor._room_end = UNSENT_PAUSE
        while piece.length > piece.done < self._bytes_max:
            if (self._size or piece.done) and self._table._ahead_next == self._table._ahead_count:
                look_ahead(self, pieces, count)  # the first one has shown that this is of use
            size = executor.local_read(piece.data + piece.done, piece.length - piece.done)
            if size == 0:
                self._table._ahead_next = self._table._ahead_count  # what was met behind it is out of step
                break
            piece.done += size
            piece.commands += 1
        memcpy(self._out + self._size, executor._out, executor._size)
        self._size += executor._size
        piece.ready_size = piece.replies_size = executor._size
        return 0

    cdef bint _gather(self, Piece *piece, Part *part, Py_ssize_t total) except -1:
        """See which frames of a piece are to be proposed, from where it is done; whether the run has no room for more.

        total: bytes that the run has without them.
        """
        cdef Scanned found
        cdef Py_ssize_t size
        cdef bint waits = piece.waits == WRITES_WAIT
        found.measures = True
        part.data = piece.data + piece.done
        part.length = part.commands = part.expected = 0
        part.writes = False
        while piece.done < piece.length and part.expected < UNSENT_PAUSE:
            size = self._executor.scan(piece.data + piece.done, piece.length - piece.done, &found)
            if size == 0 or (found.local and not waits):
                break
            if total + part.length + size > RUN_BYTES_MAX and (total or part.length):
                return True
            part.length += size
            part.commands += 1
            part.expected += found.reply
            piece.done += size
            piece.commands += 1
            if found.writes:
                part.writes = waits = True
        return False

    cdef ProposedBatch _made(self, Part *parts, int used, Py_ssize_t total, Py_ssize_t commands):
        """The run of these. It has the parts from now on."""
        cdef ProposedBatch run = ProposedBatch.__new__(ProposedBatch)
        cdef char *into
        cdef int at
        run._said = PyBytes_FromStringAndSize(NULL, total)
        into = PyBytes_AS_STRING(run._said)
        for at in range(used):
            memcpy(into + parts[at].at, parts[at].data, parts[at].length)
        run._pending = [awaited_batch(parts[at].length + parts[at].expected, parts[at].writes) for at in range(used)]
        payload = self._logged(run._said, parts, used)
        run.items = (Item(RUN, self._table._number, payload),) if payload else ()
        run.weight = total + len(payload)
        run.cost = commands // COMMANDS_PER_COST + 1
        run._executor = self._executor
        run._store = self._store
        run._count = used
        run._parts = parts
        return run

    cdef bytes _logged(self, bytes said, Part *parts, int used):
        """The writes among the frames, as the log has them."""
        cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(said)
        cdef bytes payload = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(said))
        cdef char *into = PyBytes_AS_STRING(payload)
        cdef Scanned found
        cdef Py_ssize_t done, size, written = 0
        cdef int at
        found.measures = False
        for at in range(used):
            if not parts[at].writes:
                continue
            self._executor._conversation = &parts[at].conversation
            done = 0
            while done < parts[at].length:
                size = self._executor.scan(data + parts[at].at + done, parts[at].length - done, &found)
                if found.writes:
                    written += self._executor.write_logged(into + written, data + parts[at].at + done, size)
                done += size
        return payload[:written]

    cdef PendingBatch hold(self, Piece *piece, bint whole):
        """The replies to a piece that wait for their turn. There are no others where the client waits for some
        already."""
        return <PendingBatch>self._run._pending[piece.marks_at]

    cdef Py_ssize_t key_ahead(self, const unsigned char *data, Py_ssize_t length, int width,
                              const unsigned char **key, Py_ssize_t *size) noexcept:
        """Which key the frame that stands here will ask for; the frame's bytes, or 0 when nobody knows."""
        return self._executor.key_ahead(data, length, width, key, size)
