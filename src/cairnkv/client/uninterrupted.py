"""Uninterrupted calls: signal handlers and exceptions of other threads wait until the call has ended.

A helper thread executes the function: Python runs signal handlers only in the main thread. The calling thread waits
in a C function that does not look for signals. `list(map(...))` starts the thread and waits in one interpreter step.

Invariants: the function has ended when `uninterrupted` returns or raises. It must not acquire a lock that the calling
thread may hold. Finalizers could, so the garbage collector is off meanwhile.

Out of scope: interpreters without `ctypes` or at their exit, and processes whose threads gevent or eventlet replaced.
There, the calling thread executes the function, and signal handlers may run within.
"""

import _thread
import gc
import os
import sys
from collections.abc import Callable
from functools import partial
from operator import call
from typing import Any, Final, TypeVar

from cairnkv.client.process import replaced

T = TypeVar("T")


def _interpreter() -> Any:
    """Return the functions of Python's C interface, called without the interpreter's lock, or None."""
    try:
        import ctypes

        python = ctypes.CDLL("python", handle=ctypes.pythonapi._handle)
        python.PyThread_allocate_lock.restype = ctypes.c_void_p
        python.PyThread_acquire_lock.argtypes = [ctypes.c_void_p, ctypes.c_int]
        python.PyThread_release_lock.argtypes = [ctypes.c_void_p]
    except (ImportError, AttributeError):
        return None
    return python


_PYTHON: Final = _interpreter()


class _Lock:
    """A taken lock whose `acquire` does not look for signals.

    It is never freed but used again: `__del__` would swallow the exception of a signal handler that runs within.
    """

    def __init__(self) -> None:
        lock = _PYTHON.PyThread_allocate_lock()
        if not lock:
            raise MemoryError("the system has no memory for a lock")
        self.acquire: Final = partial(_PYTHON.PyThread_acquire_lock, lock, 1)
        self.release: Final = partial(_PYTHON.PyThread_release_lock, lock)
        self.acquire()


def uninterrupted(function: Callable[[], T]) -> T:
    """Call a function in a helper thread, and wait for its end. Return its result, or raise its exception."""
    if _PYTHON is None or sys.is_finalizing() or replaced("thread"):
        return function()
    results: list[T] = []
    errors: list[BaseException] = []
    try:
        ended = _IDLE.pop()
    except IndexError:
        ended = _Lock()

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:  # for the calling thread
            errors.append(error)
        ended.release()

    steps: tuple[Callable[[], object], ...] = (partial(_thread.start_new_thread, work, ()), ended.acquire)
    pauses = gc.isenabled()
    if pauses:
        steps = (partial(_PAUSES.append, ended), gc.disable, *steps, gc.enable, _PAUSES.pop)
    steps = (*steps, partial(_IDLE.append, ended))
    try:
        list(map(call, steps))
    except RuntimeError:
        if results or errors:  # it is the exception of a signal handler that has run since
            raise
        if pauses:
            _collect_again()
        return function()  # the process has its maximum number of threads
    if errors:
        raise errors[0]
    return results[0]


_IDLE: Final[list[_Lock]] = []
"""Locks that no call uses."""

_PAUSES: Final[list[_Lock]] = []
"""A lock for each call that has turned the garbage collector off."""


def _collect_again() -> None:
    if _PAUSES:
        _PAUSES.clear()
        gc.enable()


os.register_at_fork(after_in_child=_collect_again)
