"""Facts about this process: its forks, and whether gevent or eventlet has replaced Python's sockets and threads.

Out of scope: the reaction of clients and stores, and green threads without such a replacement.
"""

import os
import sys
import threading
from typing import Final

generation = 0
"""Number of forks between the first process and this one. An object that remembers another number was made in a parent
process. The process ID would tell as much, but costs a system call."""

FORK_LOCK: Final = threading.RLock()
"""A lock that no thread has during a fork, so it is free in the child. Another lock may be held by a thread that the
child does not have."""

_LIBRARIES: Final = (
    ("gevent", "gevent.monkey", "is_module_patched"),
    ("eventlet", "eventlet.patcher", "is_monkey_patched"),
)


def replaced(module: str) -> str | None:
    """Return the name of the library that has replaced a module of Python (by the library's module name), or None."""
    for name, patcher, asked in _LIBRARIES:
        if (loaded := sys.modules.get(patcher)) is not None and getattr(loaded, asked)(module):
            return name
    return None


def _in_child() -> None:
    global generation
    generation += 1
    FORK_LOCK.release()


os.register_at_fork(before=FORK_LOCK.acquire, after_in_parent=FORK_LOCK.release, after_in_child=_in_child)
