# cython: language_level=3
"""The native twin of `cairnkv.client.aio.reply_future`: futures of replies, whose tasks wake together.

asyncio's future schedules a callback of the loop for each task that it wakes. Many replies arrive at once, so here one
callback wakes all tasks whose replies arrived in one step of the loop, in the order of the replies.

Invariants: each task wakes in its own context, after the code that settled its future has returned. No task runs twice
in one such callback. An exception in one task does not keep the others asleep.

Out of scope: more of asyncio's interface than a task uses (`_asyncio_future_blocking`, `add_done_callback`, `cancel`,
`result`, `get_loop`). One task awaits a `ReplyFuture`; `asyncio.gather` and the like cannot.
"""

from asyncio import CancelledError, InvalidStateError


cdef enum State:
    PENDING
    SETTLED
    FAILED
    CANCELLED


cdef class Waking:
    """Wakes the tasks that await replies on a connection: together, in one callback of the loop."""

    cdef readonly object loop
    cdef list _ready

    def __init__(self, loop):
        self.loop = loop
        self._ready = []

    cdef int _wake(self, ReplyFuture future) except -1:
        if future._callback is not None:
            if not self._ready:
                self.loop.call_soon(self._run)
            self._ready.append(future)
        return 0

    def _run(self):
        cdef list ready = self._ready
        cdef Py_ssize_t at = 0
        cdef ReplyFuture future
        self._ready = []
        try:
            while at < len(ready):
                future = ready[at]
                at += 1
                callback, context = future._callback, future._context
                future._callback = future._context = None
                if callback is not None:
                    context.run(callback, future)
        finally:
            if at < len(ready):  # an exception such as KeyboardInterrupt ends this callback, but not the loop
                if not self._ready:
                    self.loop.call_soon(self._run)
                self._ready[:0] = ready[at:]


cdef class ReplyFuture:
    """The future of a reply.

    spec: the spec of its command. deadline: the time of its timeout, in the loop's time.
    """

    cdef readonly object spec
    cdef readonly double deadline
    cdef public bint _asyncio_future_blocking  # asyncio's name: a task's step awaits it
    cdef Waking _waking
    cdef State _state
    cdef object _outcome  # the reply, the error, or the message of the cancellation
    cdef object _callback, _context

    def __init__(self, spec, double deadline, Waking waking):
        self.spec = spec
        self.deadline = deadline
        self._waking = waking
        self._state = PENDING

    # -- as the pure class ------------------------------------------------------------------------------------------

    def __await__(self):
        return self

    def __next__(self):
        if self._state != PENDING:
            raise StopIteration(self.result())
        if self._callback is not None:
            raise InvalidStateError("only one task can await a reply")
        self._asyncio_future_blocking = True
        return self

    def done(self):
        """Return whether it has an outcome."""
        return self._state != PENDING

    def settle(self, reply):
        """Set the reply. No effect if there is an outcome."""
        if self._state == PENDING:
            self._end(SETTLED, reply)

    def fail(self, error):
        """Set the error. No effect if there is an outcome."""
        if self._state == PENDING:
            self._end(FAILED, error)

    cdef int _end(self, State state, outcome) except -1:
        self._state = state
        self._outcome = outcome
        return self._waking._wake(self)

    # -- the interface of a future for asyncio's tasks ---------------------------------------------------------------

    def get_loop(self):
        return self._waking.loop

    def cancel(self, msg=None):
        if self._state != PENDING:
            return False
        self._end(CANCELLED, msg)
        return True

    def cancelled(self):
        return self._state == CANCELLED

    def result(self):
        if self._state == SETTLED:
            return self._outcome
        if self._state == FAILED:
            raise self._outcome
        if self._state == CANCELLED:
            raise CancelledError() if self._outcome is None else CancelledError(self._outcome)
        raise InvalidStateError("the reply has not arrived")

    def add_done_callback(self, callback, *, context):
        self._callback = callback
        self._context = context
        if self._state != PENDING:
            self._waking._wake(self)

    def remove_done_callback(self, callback):
        if self._callback != callback:
            return 0
        self._callback = self._context = None
        return 1
