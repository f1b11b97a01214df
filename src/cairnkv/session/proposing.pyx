# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled hot path of a cluster's node: commands are not executed where they are read, but have their turn in the
log.

    bytes of some clients → ProposingAccelerator: which frames are these → one ProposedRun → the log
    its turn → ProposedRun: the accelerator of the clients' wire → the replies of each client

What always holds: what is brought to the log are the writes among the frames, each as its client has sent it, in their
order; all frames are executed in their turn, in that order, and what the accelerator leaves of them in its place by the
readable way. A frame that is not known, or has anything that is to be asked before, is left to the readable way, which
brings it to the log behind these.

Not for what a frame is (`article_frames`), nor for how proposals come into the log (`cairnkv.log.quorum.proposer`).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.string cimport memcpy, memset

from cairnkv.session.accelerator cimport Accelerator, Conversation, Piece, Scanned
from cairnkv.store.hot_held cimport HeldRun, awaited_run

from cairnkv.commands import OK
from cairnkv.limits import UNSENT_PAUSE as _UNSENT_PAUSE
from cairnkv.log.quorum.entries import Item, ItemKind

cdef Py_ssize_t UNSENT_PAUSE = _UNSENT_PAUSE

cdef enum:
    RUN_BYTES_MAX = 262144  # of the frames of one run: to execute it takes some milliseconds
    COMMANDS_PER_COST = 8  # that are about as much work as one of the readable way

cdef object RUN = ItemKind.RUN


cdef struct Part:
    # What one client has in a run.
    Py_ssize_t at  # in the run's bytes
    Py_ssize_t length
    Py_ssize_t commands
    bint writes
    bint given_up  # its client was told that it will not be carried out, or that nobody knows
    Conversation conversation


cdef class ProposedRun:
    """Commands of some clients that have their turn together.

    What `cairnkv.store.replicated.Turn` has. items: what the log has to have. cost: how many commands of the readable
    way it is as much work as.
    """

    cdef readonly tuple items
    cdef readonly Py_ssize_t weight
    cdef readonly Py_ssize_t cost
    cdef readonly bint given_up
    cdef readonly object reply
    cdef Accelerator _executor
    cdef object _store
    cdef bytes _said
    cdef Part *_parts
    cdef int _count
    cdef list _held  # of each part

    def __cinit__(self):
        self._parts = NULL

    def __dealloc__(self):
        PyMem_Free(self._parts)

    def take_turn(self, changes):
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
            (<HeldRun>self._held[at]).add(PyBytes_FromStringAndSize(self._executor._out + begin, size))
        return 0

    cdef bint _carry_out(self, Piece *piece, int at, changes) except -1:
        """Carry out the frame that the accelerator has left, the readable way; whether there are more behind it."""
        cdef Scanned found
        cdef Py_ssize_t size
        cdef bytes frame, reply
        found.measures = False
        piece.data += piece.done
        piece.length -= piece.done
        piece.done = 0
        self._executor._conversation = piece.conversation
        size = self._executor.scan(piece.data, piece.length, &found)
        if size == 0:
            raise AssertionError("a frame that was scanned is none now")
        frame = PyBytes_FromStringAndSize(<const char *>piece.data, size)
        reply = self._executor.left(self._store, changes, frame)
        if not self._parts[at].given_up:
            (<HeldRun>self._held[at]).add(reply)
        piece.data += size
        piece.length -= size
        return piece.length > 0

    cdef int _settle(self) except -1:
        """Let the replies leave."""
        cdef HeldRun held
        cdef int at
        self.reply = OK
        for at in range(self._count):
            if not self._parts[at].given_up:
                held = self._held[at]
                held.reply = OK
                if held.on_ready is not None:
                    held.on_ready()
        self._held = None
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
        cdef HeldRun held = self._held[at]
        found.measures = False
        self._executor._conversation = &part.conversation
        while done < part.length:
            done += self._executor.scan(data + done, part.length - done, &found)
            failures.append(failure if found.writes else of_reads)
        part.given_up = True
        held.fail(failures, failure)
        if held.on_ready is not None:
            held.on_ready()
        return 0


cdef class ProposingAccelerator(Accelerator):
    """Brings commands of one wire on one keyspace to the log."""

    cdef Accelerator _executor
    cdef object _store
    cdef ProposedRun _run  # that of the pieces at hand

    def __init__(self, store, Accelerator executor not None):
        """executor: carries out, in their turn, frames of the wire that this is for."""
        self._store = store
        self._executor = executor
        self._table = executor._table
        self.proposes = True

    cdef int execute(self, Piece *pieces, int count) except -1:
        """Propose what some clients have sent; how many of the pieces were looked at.

        That is one at least, and all that there is room for in one run.
        """
        cdef Part *parts
        cdef Piece *piece
        cdef Scanned found
        cdef Py_ssize_t size, total = 0, commands = 0, expected
        cdef bint writes = False, full = False
        cdef int at, looked = 0, used = 0
        self._run = None
        self.at_piece = 0
        for at in range(count):
            piece = pieces + at
            piece.done = piece.commands = piece.replies_at = piece.replies_size = piece.ready_size = piece.wait = 0
            piece.marks_at = piece.marks_count = 0
        if self.off or not self._store.takes_runs:
            self.at_piece = count
            return count
        parts = <Part *>PyMem_Malloc(count * sizeof(Part))
        if parts is NULL:
            raise MemoryError
        try:
            found.measures = True
            self._table.take()
            while looked < count and not full:
                piece = pieces + looked
                self.at_piece = looked
                self._executor._conversation = piece.conversation
                parts[used].writes = False
                expected = 0
                while piece.done < piece.length and expected < UNSENT_PAUSE:
                    size = self._executor.scan(piece.data + piece.done, piece.length - piece.done, &found)
                    if size == 0:
                        break
                    if total + piece.done + size > RUN_BYTES_MAX and (looked or piece.done):
                        full = True
                        break
                    piece.done += size
                    piece.commands += 1
                    expected += found.reply
                    if found.writes:
                        parts[used].writes = True
                if full and looked and piece.done < piece.length:
                    piece.done = piece.commands = 0  # it is the first of the next run
                    break
                if piece.done:
                    parts[used].at = total
                    parts[used].length = piece.done
                    parts[used].commands = piece.commands
                    parts[used].given_up = False
                    parts[used].conversation = piece.conversation[0]
                    writes = writes or parts[used].writes
                    piece.marks_at = used
                    piece.replies_size = piece.done + expected
                    piece.wait = 1
                    used += 1
                    total += piece.done
                    commands += piece.commands
                looked += 1
            self.at_piece = looked
            if used:
                self._run = self._made(pieces, looked, parts, used, total, commands)
                parts = NULL
                self.commands += commands
                self._store.propose_run(self._run)
        finally:
            PyMem_Free(parts)
        return looked

    cdef ProposedRun _made(self, Piece *pieces, int looked, Part *parts, int used, Py_ssize_t total,
                           Py_ssize_t commands):
        """The run of what was looked at. It has the parts from now on."""
        cdef ProposedRun run = ProposedRun.__new__(ProposedRun)
        cdef char *into
        cdef int at
        run._said = PyBytes_FromStringAndSize(NULL, total)
        into = PyBytes_AS_STRING(run._said)
        for at in range(looked):
            memcpy(into, pieces[at].data, pieces[at].done)
            into += pieces[at].done
        run._held = [awaited_run(pieces[at].replies_size) for at in range(looked) if pieces[at].done]
        payload = self._logged(run._said, parts, used)
        run.items = (Item(RUN, self._table._number, payload),) if payload else ()
        run.weight = len(payload)
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

    cdef HeldRun hold(self, Piece *piece, bint whole):
        """The replies to a piece, which wait for their turn."""
        return <HeldRun>self._run._held[piece.marks_at]
