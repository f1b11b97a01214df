# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The native path of a node of a cluster: it proposes commands, and executes them when their entry comes back.

    bytes of some clients → ProposingExecutor: scans the frames → one ProposedBatch → the log
    its entry comes back → ProposedBatch: the executor of the clients' protocol → the replies of each client
    bytes that begin with local reads → the executor of the clients' protocol → their replies, at once

Invariants: an entry has the writes among the frames in their order, each as its client has sent it. When the entry
comes back, the batch executes all its frames in that order; the pure path executes a frame that the executor leaves, at
the place of that frame. A frame that the native path does not know, or must check, is left to the pure path, which
proposes it after this batch.

A local read executes at once, on the node's table as it is; INFO reports how old that may be (`Node.behind_ms`). While
writes of its client wait for their entry, the read is proposed after them, so that the client sees its own writes.
While only reads wait, the read is left to the pure path: it executes at once, and its reply waits for theirs.

Out of scope: frames (`frames_native`), and how proposals enter the log (`cairnkv.replication.proposer`).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t
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
    BATCH_BYTES_MAX = 262144  # maximum bytes of the frames of a batch: its execution takes some milliseconds
    COMMANDS_PER_COST = 8  # commands as work of one command of the pure path
    GIVEN_BACK_MAX = 100  # TAKE commands of a disconnected client whose leases it gives back: some milliseconds

cdef object COMMANDS = ItemKind.COMMANDS


cdef struct Part:
    # The frames of one client in a batch.
    const unsigned char *data  # where they were read, until the batch has its own bytes
    Py_ssize_t at  # in the bytes of the batch
    Py_ssize_t length
    Py_ssize_t commands  # its work, in commands of one key
    Py_ssize_t expected  # bytes of the replies, as far as they are known
    bint writes
    bint takes  # whether there are TAKE commands
    bint given_up  # whether its client got a failure
    Conversation conversation


cdef class ProposedBatch:
    """Commands of some clients that execute together: an `ExecutableProposal`.

    items: the writes for the log. cost: its work, in commands of the pure path.
    """

    cdef readonly tuple items
    cdef readonly Py_ssize_t weight
    cdef readonly Py_ssize_t cost
    cdef readonly bint given_up
    cdef readonly object reply
    cdef FrameExecutor _executor
    cdef object _store
    cdef bytes _frames
    cdef Part *_parts
    cdef int _count
    cdef list _pending  # of each part

    def __cinit__(self):
        self._parts = NULL

    def __dealloc__(self):
        PyMem_Free(self._parts)

    def execute_logged(self, changes):
        """Execute the commands: their entry has come back."""
        if self.given_up and not self.items:
            return
        try:
            self._execute(changes)
        except BaseException as error:
            self._store.leave(f"this node could not execute commands that all nodes execute: {error!r}")
            raise
        if not self.given_up:
            self._release()

    cdef int _execute(self, changes) except -1:
        cdef Piece *pieces = <Piece *>PyMem_Malloc(self._count * sizeof(Piece))
        cdef const unsigned char *frames = <const unsigned char *>PyBytes_AS_STRING(self._frames)
        cdef int at, end, begin = 0
        if pieces is NULL:
            raise MemoryError
        try:
            memset(pieces, 0, self._count * sizeof(Piece))
            for at in range(self._count):
                pieces[at].data = frames + self._parts[at].at
                pieces[at].length = self._parts[at].length
                pieces[at].conversation = &self._parts[at].conversation
            while begin < self._count:
                if self._is_void(begin):
                    begin += 1
                    continue
                if self._is_abandoned(begin):
                    self._execute_abandoned(pieces + begin, begin, changes)
                    begin += 1
                    continue
                end = begin + 1
                while end < self._count and not self._is_void(end) and not self._is_abandoned(end):
                    end += 1
                end = begin + self._executor.execute(pieces + begin, end - begin)
                for at in range(begin, end):
                    self._answer(at, pieces[at].replies_at, pieces[at].replies_size)
                begin = end
                if pieces[end - 1].done < pieces[end - 1].length and self._execute_left(pieces + end - 1, end - 1, changes):
                    begin = end - 1
        finally:
            PyMem_Free(pieces)
        return 0

    cdef inline bint _is_void(self, int at) noexcept:
        """Whether a client got a failure and its commands change nothing."""
        return self._parts[at].given_up and not self._parts[at].writes

    cdef inline bint _is_abandoned(self, int at) noexcept:
        """Whether a client with TAKE commands has disconnected."""
        return self._parts[at].takes and (<PendingBatch>self._pending[at]).abandoned

    cdef int _execute_abandoned(self, Piece *piece, int at, changes) except -1:
        """Execute the frames of a client that has disconnected. The pure path executes TAKE, up to a number."""
        cdef Piece run
        cdef Scanned found
        cdef Py_ssize_t end, size
        cdef int given_back = 0
        found.measures = False
        while piece.length:
            self._executor._conversation = piece.conversation
            end = 0
            while end < piece.length:
                size = self._executor.scan(piece.data + end, piece.length - end, &found)
                if size == 0:
                    raise AssertionError("a scanned frame is not complete")
                if found.takes and given_back < GIVEN_BACK_MAX:
                    given_back += 1
                    break
                end += size
            if end:
                run = piece[0]
                run.length = end
                self._executor.execute(&run, 1)
                self._answer(at, run.replies_at, run.replies_size)
                piece.data += run.done
                piece.length -= run.done
            if piece.length:
                self._execute_left(piece, at, changes)
        return 0

    cdef int _answer(self, int at, Py_ssize_t begin, Py_ssize_t size) except -1:
        if size and not self._parts[at].given_up:
            (<PendingBatch>self._pending[at]).add(PyBytes_FromStringAndSize(self._executor._out + begin, size), size)
        return 0

    cdef bint _execute_left(self, Piece *piece, int at, changes) except -1:
        """Execute the frame that the executor has left, on the pure path. Returns whether there are more frames.

        If the replies to the client already have many bytes, execute all its frames: their queued replies refer to the
        values in the table, and no bytes are copied before the client reads them.
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
                raise AssertionError("a scanned frame is not complete")
            queued = self._executor.left(self._store, changes, PyBytes_FromStringAndSize(<const char *>piece.data, size), pending.abandoned)
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

    cdef int _release(self) except -1:
        """Release the replies."""
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
        """The commands will not execute, or their outcome is unknown. of_reads: the failure of reads."""
        cdef int at
        self.given_up = True
        self.reply = failure
        for at in range(self._count):
            if not self._parts[at].given_up:
                self._fail_part(at, failure, failure if of_reads is None else of_reads)

    def fail_reads(self, failure):
        """The clients whose commands only read get a failure."""
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
        cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(self._frames) + part.at
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
    """Proposes commands of one protocol on one database, and executes local reads."""

    cdef FrameExecutor _executor
    cdef object _store
    cdef ProposedBatch _batch  # of the current pieces

    def __init__(self, store, FrameExecutor executor not None):
        """executor: executes frames of this protocol when their entry comes back."""
        self._store = store
        self._executor = executor
        self._table = executor._table
        self._bytes_max = executor._bytes_max
        self.proposes = True

    def native_rights(self, rights):
        """Return the rights of a client for this executor."""
        return self._executor.native_rights(rights)

    cdef int execute(self, Piece *pieces, int count) except -1:
        """Execute the local reads at the begin of some clients' pieces, and propose the rest as one batch.

        Returns the number of pieces that were handled: at least one, and as many as the batch and the output have room
        for.
        """
        cdef Part *parts = NULL
        cdef Part *part
        cdef Piece *piece
        cdef Py_ssize_t total = 0, proposed = 0
        cdef bint takes, full = False
        cdef int at, used = 0
        self.enter()
        self._batch = None
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
                        piece.done = piece.commands = 0  # it is the first of the next batch
                        break
                    if part.length:
                        part.at = total
                        part.given_up = False
                        part.conversation = piece.conversation[0]
                        part.conversation.rules = NULL  # they allow these frames
                        piece.marks_at = used
                        piece.replies_size += part.length + part.expected
                        piece.wait = 1
                        used += 1
                        total += part.length
                        proposed += part.commands
                self.commands += piece.commands
                self.at_piece += 1
            if used:
                self._batch = self._made(parts, used, total, proposed)
                parts = NULL
                self._store.propose_batch(self._batch)
        except BaseException:
            self.at_piece = count  # no piece has replies that wait
            raise
        finally:
            PyMem_Free(parts)
            self.busy = False
        return self.at_piece

    cdef int _read_locally(self, Piece *pieces, int count) except -1:
        """Execute the local reads at the begin of the current piece."""
        cdef Piece *piece = pieces + self.at_piece
        cdef FrameExecutor executor = self._executor
        cdef Py_ssize_t size
        cdef int64_t hits, misses
        piece.replies_at = self._size
        executor._size = 0
        executor._room_end = UNSENT_PAUSE
        while piece.length > piece.done < self._bytes_max:
            if (self._size or piece.done) and self._table._ahead_next == self._table._ahead_count:
                look_ahead(self, pieces, count)  # only after the first read: then it is worth its time
            hits, misses = self._table.hits, self._table.misses
            size = executor.local_read(piece.data + piece.done, piece.length - piece.done)
            if size == 0:
                self._table.hits, self._table.misses = hits, misses  # another path counts this command
                self._table._ahead_next = self._table._ahead_count  # the announced keys are others
                break
            piece.done += size
            piece.commands += 1
        memcpy(self._out + self._size, executor._out, executor._size)
        self._size += executor._size
        piece.ready_size = piece.replies_size = executor._size
        return 0

    cdef bint _gather(self, Piece *piece, Part *part, Py_ssize_t total) except -1:
        """Find the frames of a piece to propose. Returns whether the batch has no room for more.

        total: bytes of the batch without them.
        """
        cdef Scanned found
        cdef Py_ssize_t size
        cdef bint waits = piece.waits == WRITES_WAIT
        found.measures = True
        part.data = piece.data + piece.done
        part.length = part.commands = part.expected = 0
        part.writes = part.takes = False
        while piece.done < piece.length and part.expected < UNSENT_PAUSE:
            size = self._executor.scan(piece.data + piece.done, piece.length - piece.done, &found)
            if size == 0 or (found.local and not waits):
                break
            if total + part.length + size > BATCH_BYTES_MAX and (total or part.length):
                return True
            part.length += size
            part.commands += found.commands
            part.expected += found.reply
            piece.done += size
            piece.commands += 1
            if found.writes:
                part.writes = waits = True
            if found.takes:
                part.takes = True
        return False

    cdef ProposedBatch _made(self, Part *parts, int used, Py_ssize_t total, Py_ssize_t commands):
        """Return the batch of these parts, which owns them from now on."""
        cdef ProposedBatch batch = ProposedBatch.__new__(ProposedBatch)
        cdef char *into
        cdef int at
        batch._frames = PyBytes_FromStringAndSize(NULL, total)
        into = PyBytes_AS_STRING(batch._frames)
        for at in range(used):
            memcpy(into + parts[at].at, parts[at].data, parts[at].length)
        batch._pending = [awaited_batch(parts[at].length + parts[at].expected, parts[at].writes) for at in range(used)]
        payload = self._logged(batch._frames, parts, used)
        batch.items = (Item(COMMANDS, self._table._number, payload),) if payload else ()
        batch.weight = total + len(payload)
        batch.cost = commands // COMMANDS_PER_COST + 1
        batch._executor = self._executor
        batch._store = self._store
        batch._count = used
        batch._parts = parts
        return batch

    cdef bytes _logged(self, bytes frames, Part *parts, int used):
        """Return the writes among the frames, as in the log."""
        cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(frames)
        cdef bytes payload = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(frames))
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
        """Return the pending replies to a piece."""
        return <PendingBatch>self._batch._pending[piece.marks_at]

    cdef Py_ssize_t key_ahead(self, const unsigned char *data, Py_ssize_t length, int width,
                              const unsigned char **key, Py_ssize_t *size) noexcept:
        """Find the key of the next frame. Returns the bytes of the frame; 0: unknown."""
        return self._executor.key_ahead(data, length, width, key, size)
