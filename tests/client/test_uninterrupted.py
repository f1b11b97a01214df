"""Uninterrupted calls: signal handlers and exceptions of other threads wait for the end of the call."""

import _thread
import ctypes
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from cairnkv.client.uninterrupted import uninterrupted
from tests.support.interrupting import at_each_point


class Interruption(BaseException):
    """The exception of a signal handler or of another thread."""


@pytest.fixture
def order() -> Iterator[list[str]]:
    happened: list[str] = []

    def handle(*_: object) -> None:
        happened.append("handler")
        raise Interruption

    before = signal.signal(signal.SIGUSR1, handle)
    yield happened
    signal.signal(signal.SIGUSR1, before)


def test_signal_handler_runs_after_an_uninterrupted_call(order: list[str]) -> None:
    def function() -> None:
        for _ in range(100):
            os.kill(os.getpid(), signal.SIGUSR1)
        order.append("end of the call")

    with pytest.raises(Interruption):
        uninterrupted(function)
    assert order == ["end of the call", "handler"]
    assert gc.isenabled()


def test_exception_of_another_thread_follows_an_uninterrupted_call() -> None:
    caller, ended = threading.get_ident(), False

    def function() -> None:
        nonlocal ended
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(caller), ctypes.py_object(Interruption))
        ended = True

    with pytest.raises(Interruption):
        uninterrupted(function)
    assert ended


def test_error_of_an_uninterrupted_call_reaches_its_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        uninterrupted(lambda: 1 // 0)
    assert gc.isenabled()


def test_exception_of_a_signal_handler_is_never_lost() -> None:
    """Python ignores exceptions within `__del__`."""
    assert all(at_each_point(lambda: lambda: uninterrupted(gc.isenabled), least=5))


def test_call_runs_in_its_caller_where_no_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    ran_in: list[int] = []
    uninterrupted(lambda: ran_in.append(threading.get_ident()))
    assert ran_in == [threading.get_ident()]
    assert gc.isenabled()


FORK = """
import gc, os
from cairnkv.client.uninterrupted import uninterrupted

def function():
    assert not gc.isenabled()
    child = os.fork()
    if child == 0:
        os._exit(0 if gc.isenabled() else 1)
    statuses.append(os.waitpid(child, 0)[1])

statuses = []
uninterrupted(function)
assert statuses == [0], statuses
"""


def test_fork_during_an_uninterrupted_call_leaves_the_collector_on() -> None:
    """In a process of its own: libraries that other tests import warn of every fork."""
    subprocess.run([sys.executable, "-P", "-c", FORK], timeout=60, check=True)
