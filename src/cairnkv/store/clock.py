"""What time it is, for whoever has to tell the keyspace. The keyspace itself only ever sees an argument."""

import time
from collections.abc import Callable
from typing import TypeAlias

Clock: TypeAlias = Callable[[], int]
"""Gives the time in milliseconds since 1970, UTC. It may go back; log time will not."""


def wall_clock() -> int:
    """The system's clock."""
    return time.time_ns() // 1_000_000
