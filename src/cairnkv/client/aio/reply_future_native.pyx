# cython: language_level=3
"""The compiled twin of `cairnkv.client.aio.reply_future`: replies that are due, and those who await them woken
together.

asyncio's future asks the loop for a callback of its own for each task that it wakes. Replies come many at once, so
here a single callback wakes all tasks whose replies came in one turn of the loop, in the order of the replies.

What always holds: each is woken in its own context, after whoever settled it has returned, and within the loop's
bounds of fairness: no task runs twice in one such callback. An exception that escapes a task keeps no other asleep.

A `ReplyFuture` is a future as asyncio's tasks see one (`_asyncio_future_blocking`, `add_done_callback`, `cancel`,
`result`, `get_loop`), and no more than that: it is awaited by one task, and is not for `asyncio.gather` and the like.
"""

from asyncio import CancelledError, InvalidStateError


cdef enum State:
    PENDING
    SETTLED
    FAILED
    CANCELLED


cdef class Waking:
    """How those who await replies on a connection are woken: together, in one callback of the loop."""

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
            if at < len(ready):  # a KeyboardInterrupt, say, which ends this callback and not the loop's work
                if not self._ready:
                    self.loop.call_soon(self._run)
                self._ready[:0] = ready[at:]


cdef class ReplyFuture:
    """A reply that is due.

    spec: of the command that it answers. deadline: when it is given up, in the loop's time.
    """

    cdef readonly object spec
    cdef readonly double deadline
    cdef public bint _asyncio_future_blocking  # asyncio's own name: it is being awaited by a task's step
    cdef Waking _waking
    cdef State _state
    cdef object _outcome  # the reply, the error, or what cancelling was explained with
    cdef object _callback, _context

    def __init__(self, spec, double deadline, Waking waking):
        self.spec = spec
        self.deadline = deadline
        self._waking = waking
        self._state = PENDING

    # -- as the readable one ----------------------------------------------------------------------------------------

    def __await__(self):
        return self

    def __next__(self):
        if self._state != PENDING:
            raise StopIteration(self.result())
        if self._callback is not None:
            raise InvalidStateError("a reply is awaited by one task")
        self._asyncio_future_blocking = True
        return self

    def done(self):
        """Whether nobody waits for it any more."""
        return self._state != PENDING

    def settle(self, reply):
        """The reply has come; of no effect when it is done."""
        if self._state == PENDING:
            self._end(SETTLED, reply)

    def fail(self, error):
        """The reply will not come; of no effect when it is done."""
        if self._state == PENDING:
            self._end(FAILED, error)

    cdef int _end(self, State state, outcome) except -1:
        self._state = state
        self._outcome = outcome
        return self._waking._wake(self)

    # -- what asyncio's tasks ask of a future -----------------------------------------------------------------------

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
        raise InvalidStateError("the reply is still due")

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
