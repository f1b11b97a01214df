"""What clients need to know of forks: that one happened, and one lock for what they do about it.

Not for what they do (each client).
"""

import os
import threading
from typing import Final

generation = 0
"""How many forks of Python's lie between the first process and this one. Whoever remembers another number was made in
a parent of this process. Asking the system for the process' number would cost each call a system call."""

FORKING: Final = threading.RLock()
"""Nobody has it while a process is forked, so it is free in the child, whose other locks may be held by threads that
are not there."""


def _in_child() -> None:
    global generation
    generation += 1
    FORKING.release()


os.register_at_fork(before=FORKING.acquire, after_in_parent=FORKING.release, after_in_child=_in_child)
