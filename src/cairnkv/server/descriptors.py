"""File descriptors: how many this process may have.

Not for closing any.
"""

import resource
from typing import Final

SPARE_DESCRIPTORS: Final = 64
"""File descriptors besides those of clients."""


def allow_descriptors(wanted: int) -> int:
    """Let this process have so many, as far as the system does; how many it may have then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed
