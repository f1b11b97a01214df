# cython: language_level=3
"""Replies to one client that the compiled hot path has made, held until they may leave: a `PendingReply` of several.

What always holds: all leave together, when the newest commit is safe that any of them waits for. When it fails, each
reply that waits for what has failed is a failure, and the others are what they were.

In a cluster the commands have yet to be carried out: then they wait for their turn in the log, and the replies are
added when it has come.

Not for replies of the readable way (`cairnkv.store.pending`).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from cairnkv.commands import OK


cdef PendingBatch pending_batch(const char *output, int64_t start, int64_t waiting, int64_t end, const Mark *marks, int count):
    """The replies that stand in an output from `start` to `end`, of which those from `waiting` on have marks."""
    cdef PendingBatch run = PendingBatch.__new__(PendingBatch)
    run._replies = PyBytes_FromStringAndSize(output + start, end - start)
    run._marks = PyBytes_FromStringAndSize(<const char *>marks, count * <Py_ssize_t>sizeof(Mark))
    run._start = start
    run._waiting = waiting
    run._charged = end - start
    return run


cdef PendingBatch awaited_batch(Py_ssize_t charged, bint writes):
    """Replies to commands whose turn will come.

    charged: bytes that they count as until then. writes: whether some of the commands do.
    """
    cdef PendingBatch run = PendingBatch.__new__(PendingBatch)
    run._replies = run._marks = b""
    run._charged = charged
    run._in_turn = True
    run.writes = writes
    return run


cdef class PendingBatch:
    """What `PendingReply` has, and `parts`.

    reply: None until they may leave; then OK, or why some of them did not come true. on_ready: called once, then; None:
    nobody waits. writes: whether commands that have yet to be carried out may change something.
    """

    @property
    def size(self):
        """Bytes that the replies have, or count as before they are known."""
        return self._charged

    @property
    def executed(self):
        """Whether the commands were carried out, or never will be."""
        return not self._in_turn or self.reply is not None

    @property
    def parts(self):
        """What is to be said, once it may be: bytes, or a failure in the place of a reply, or what is due for a
        command."""
        return [self._replies] if self._parts is None else self._parts

    def refuse(self, int64_t sequence, refusal):
        """What waits for this sequence, the newest, has been refused; the newest sequence that others wait for, or
        0."""
        cdef const Mark *marks = <const Mark *>PyBytes_AS_STRING(self._marks)
        cdef int64_t newest = 0
        cdef Py_ssize_t at
        self._refused_from = sequence
        self._refusal = refusal
        for at in range(PyBytes_GET_SIZE(self._marks) // <Py_ssize_t>sizeof(Mark)):
            if newest < marks[at].wait < sequence:
                newest = marks[at].wait
        return newest

    cdef int add(self, replies, Py_ssize_t size) except -1:
        """Some of the commands had their turn: these are the replies, as bytes, or what is due for one of them."""
        self.kept += size
        if self._parts is not None:
            self._parts.append(replies)
        elif PyBytes_GET_SIZE(self._replies) or type(replies) is not bytes:
            self._parts = [self._replies, replies]
        else:
            self._replies = replies
        return 0

    def fail(self, list failures, failure):
        """The commands will have no turn, or nobody knows. failures: of each, in order; failure: one of them."""
        self._parts = failures
        self.reply = failure

    def release(self):
        """The commits are safe."""
        if self._refusal is not None:
            self._parts = self._split(self._refused_from, None, None)
        self.reply = OK

    def fail_above(self, int64_t committed, write_failure, read_failure):
        """The commits behind a sequence have failed."""
        self._parts = self._split(committed, write_failure, read_failure)
        self.reply = read_failure

    cdef list _split(self, int64_t committed, write_failure, read_failure):
        """The replies, with failures in the place of those that wait for more than what is committed, or was
        refused."""
        cdef const Mark *marks = <const Mark *>PyBytes_AS_STRING(self._marks)
        cdef int64_t begin = self._waiting
        cdef Py_ssize_t at
        cdef list parts = [self._replies[: begin - self._start]]
        for at in range(PyBytes_GET_SIZE(self._marks) // <Py_ssize_t>sizeof(Mark)):
            if self._refusal is not None and marks[at].wait >= self._refused_from:
                parts.append(self._refusal)
            elif marks[at].wait > committed:
                parts.append(write_failure if marks[at].wrote else read_failure)
            else:
                parts.append(self._replies[begin - self._start : marks[at].end - self._start])
            begin = marks[at].end
        return parts
