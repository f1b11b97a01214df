"""The threads that stores on disk have of their own, told from all others.

What always holds: the garbage collector may run a program's finalizers in any thread, also in one of these. A call of a
store does not wait there, since the thread that it would wait for may be this one.
"""

import os
import threading
from collections.abc import Callable
from typing import Final

_IDENTS: Final[set[int]] = set()


def is_own() -> bool:
    """Return whether the current thread is a store's own."""
    return threading.get_ident() in _IDENTS


class OwnThread(threading.Thread):
    """A daemon thread of a store."""

    def __init__(self, target: Callable[[], object], name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)

    def run(self) -> None:
        """Run the target."""
        ident = threading.get_ident()
        _IDENTS.add(ident)
        try:
            super().run()
        finally:
            _IDENTS.discard(ident)


os.register_at_fork(after_in_child=_IDENTS.clear)
