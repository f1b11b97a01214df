# cython: language_level=3
"""Replies to one client that the compiled hot path has made, held until they may leave: a `Held` of several.

What always holds: all leave together, when the newest commit is safe that any of them waits for. When it fails, each
reply that waits for what has failed is a failure, and the others are what they were.

Not for replies of the readable way (`cairnkv.store.held`).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from cairnkv.commands import OK


cdef HeldRun held_run(const char *output, int64_t start, int64_t waiting, int64_t end, const Mark *marks, int count):
    """The replies that stand in an output from `start` to `end`, of which those from `waiting` on have marks."""
    cdef HeldRun run = HeldRun.__new__(HeldRun)
    run._replies = PyBytes_FromStringAndSize(output + start, end - start)
    run._marks = PyBytes_FromStringAndSize(<const char *>marks, count * <Py_ssize_t>sizeof(Mark))
    run._start = start
    run._waiting = waiting
    return run


cdef class HeldRun:
    """What `Held` has, and `parts`.

    reply: None until they may leave; then OK, or why some of them did not come true. on_ready: called once, then; None:
    nobody waits.
    """

    @property
    def size(self):
        """Bytes that the replies have."""
        return PyBytes_GET_SIZE(self._replies)

    @property
    def parts(self):
        """What is to be said, once it may be: bytes, or a failure in the place of a reply."""
        return [self._replies] if self._parts is None else self._parts

    def release(self):
        """The commits are safe."""
        self.reply = OK

    def fail_above(self, int64_t committed, write_failure, read_failure):
        """The commits behind a position have failed."""
        cdef const Mark *marks = <const Mark *>PyBytes_AS_STRING(self._marks)
        cdef int64_t begin = self._waiting
        cdef Py_ssize_t at
        self._parts = [self._replies[: begin - self._start]]
        for at in range(PyBytes_GET_SIZE(self._marks) // <Py_ssize_t>sizeof(Mark)):
            if marks[at].wait > committed:
                self._parts.append(write_failure if marks[at].wrote else read_failure)
            else:
                self._parts.append(self._replies[begin - self._start : marks[at].end - self._start])
            begin = marks[at].end
        self.reply = read_failure
