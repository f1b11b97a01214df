"""Detects whether gevent or eventlet has replaced Python's sockets and threads in this process.

Out of scope: the clients' reaction (`sync`, `line`), and green threads without such a replacement.
"""

import sys
from typing import Final

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
