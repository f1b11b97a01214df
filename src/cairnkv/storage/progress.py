"""How far a server is before it takes commands: reading its store, or joining its cluster.

Not for how that looks on a terminal (`cli.progress`).
"""

import logging
import time
from collections.abc import Callable
from typing import Final, TypeAlias

logger: Final = logging.getLogger("cairnkv.server")

PROGRESS_SECONDS: Final = 1.0
"""How often the log says how far loading is."""

Progress: TypeAlias = Callable[[str, int, int, str], None]
"""Told what goes on before commands are taken, how much of it is done, of how much, near enough, and in which unit. It
is called in any thread, from one at a time."""


class Logged:
    """Progress as lines of the log."""

    def __init__(self) -> None:
        self._due = time.monotonic() + PROGRESS_SECONDS

    def __call__(self, what: str, done: int, total: int, unit: str) -> None:
        """Say so, if it is time."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + PROGRESS_SECONDS
            logger.info("%s: %s of about %s %s", what, f"{done:,}", f"{max(done, total):,}", unit)
