"""The threads of durable stores, and a test whether the current thread is one of them.

Invariants: a call of a store does not wait in such a thread. The garbage collector may run a program's finalizers in
any thread, so such a call could wait for its own thread.
"""

import _thread
import os
import threading
from collections.abc import Callable
from typing import Final

_IDENTS: Final[set[int]] = set()


def is_own() -> bool:
    """Return whether the current thread belongs to a store."""
    return threading.get_ident() in _IDENTS


class OwnThread(threading.Thread):
    """A daemon thread that belongs to a store."""

    def __init__(self, target: Callable[[], object], name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self._runs = _thread.allocate_lock()
        self._runs.acquire()

    def run(self) -> None:
        """Run the target."""
        ident = threading.get_ident()
        _IDENTS.add(ident)
        try:
            super().run()
        finally:
            _IDENTS.discard(ident)
            self._runs.release()

    def wait(self) -> None:
        """Wait for the end of the target, also after an interrupted wait. The thread must have been started.

        Before Python 3.13, a `join` that a signal handler's exception interrupts marks the running thread as ended.
        """
        with self._runs:
            pass


os.register_at_fork(after_in_child=_IDENTS.clear)
