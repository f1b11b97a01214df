# cython: language_level=3
"""Pending replies of the native path: all replies of one client in a batch.

Invariants: all replies of a batch leave together, when the newest commit that one of them waits for has succeeded. If a
commit fails, the replies that wait for it become failures, and the others stay.

In replicated mode the commands of a batch are not executed yet: their replies are added when the entry comes back.

Out of scope: replies of the pure path (`cairnkv.store.pending`).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from cairnkv.commands import OK


cdef PendingBatch pending_batch(const char *output, int64_t start, int64_t waiting, int64_t end, const Mark *marks, int count):
    """Return a batch of the replies in an output from `start` to `end`. Those from `waiting` on have marks."""
    cdef PendingBatch batch = PendingBatch.__new__(PendingBatch)
    batch._replies = PyBytes_FromStringAndSize(output + start, end - start)
    batch._marks = PyBytes_FromStringAndSize(<const char *>marks, count * <Py_ssize_t>sizeof(Mark))
    batch._start = start
    batch._waiting = waiting
    batch._charged = end - start
    return batch


cdef PendingBatch awaited_batch(Py_ssize_t charged, bint writes):
    """Return a batch of commands that are not executed yet.

    charged: bytes that the replies count as until then. writes: whether it has writes.
    """
    cdef PendingBatch batch = PendingBatch.__new__(PendingBatch)
    batch._replies = batch._marks = b""
    batch._charged = charged
    batch._awaits_execution = True
    batch.writes = writes
    return batch


cdef class PendingBatch:
    """The interface of `PendingReply`, and `parts`.

    reply: None until the replies may leave; then OK, or the failure of some of them. on_ready: called once, then; None:
    no receiver. writes: whether commands that are not executed yet include writes. abandoned: whether the client has
    left before their execution, so that TAKE commands among them get no messages.
    """

    @property
    def size(self):
        """The bytes of the replies, or their estimate before the execution."""
        return self._charged

    @property
    def executed(self):
        """Whether the commands are executed, or never will be."""
        return not self._awaits_execution or self.reply is not None

    @property
    def parts(self):
        """The replies when they may leave: bytes, failures and queued replies."""
        return [self._replies] if self._parts is None else self._parts

    def refuse(self, int64_t sequence, refusal):
        """Note the refusal of the newest entry. Returns the newest entry that other replies wait for, or 0."""
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
        """Add replies of executed commands: bytes, or one queued reply."""
        self.kept += size
        if self._parts is not None:
            self._parts.append(replies)
        elif PyBytes_GET_SIZE(self._replies) or type(replies) is not bytes:
            self._parts = [self._replies, replies]
        else:
            self._replies = replies
        return 0

    def fail(self, list failures, failure):
        """Fail the batch: it will not execute, or its outcome is unknown. failures: of each command; failure: one."""
        self._parts = failures
        self.reply = failure

    def release(self):
        """The commits have succeeded."""
        if self._refusal is not None:
            self._parts = self._split(self._refused_from, None, None)
        self.reply = OK

    def fail_above(self, int64_t committed, write_failure, read_failure):
        """The commits of the entries after this one have failed."""
        self._parts = self._split(committed, write_failure, read_failure)
        self.reply = read_failure

    cdef list _split(self, int64_t committed, write_failure, read_failure):
        """Return the replies, with failures for those that wait for an entry that is refused or not committed."""
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
