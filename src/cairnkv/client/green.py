"""Green threads: whether gevent or eventlet has replaced Python's sockets and threads in this process.

Out of scope: what clients do then (`sync`, `line`), and green threads that a program starts without such a replacement.
"""

import sys
from typing import Final

_LIBRARIES: Final = (
    ("gevent", "gevent.monkey", "is_module_patched"),
    ("eventlet", "eventlet.patcher", "is_monkey_patched"),
)


def replaced(module: str) -> str | None:
    """Return the name of the library that has replaced a module of Python's, as that library calls it, or None."""
    for name, patcher, asked in _LIBRARIES:
        if (loaded := sys.modules.get(patcher)) is not None and getattr(loaded, asked)(module):
            return name
    return None
