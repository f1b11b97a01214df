"""One lock for what clients do when they find themselves in a forked process.

Nobody has it while a process is forked, so it is free in the child, whose other locks may be held by threads that
are not there.
"""

import os
import threading
from typing import Final

FORKING: Final = threading.Lock()
os.register_at_fork(before=FORKING.acquire, after_in_parent=FORKING.release, after_in_child=FORKING.release)
