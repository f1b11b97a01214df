"""What a supervisor has to tell people, kept until nobody holds the lock: whoever is told may ask it something.

What always holds: notes are told in order, and old ones are forgotten before there are too many. That nobody listens
any more is no trouble of the cluster.

Not for logs of processes, which are files (`child`).
"""

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Final

NOTES_MAX: Final = 1_000
"""Lines that have not been told yet; older ones are forgotten."""


class Notes:
    """Lines to tell. Added from any thread, under the lock or not."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """tell: told each line."""
        self._tell = tell
        self._lines: deque[str] = deque(maxlen=NOTES_MAX)

    def add(self, text: str) -> None:
        """Have it told soon."""
        self._lines.append(text)

    def tell(self) -> None:
        """Tell them. Not under the lock."""
        while self._lines:
            text = self._lines.popleft()
            with contextlib.suppress(OSError):  # who was told may have gone, such as a terminal; the cluster goes on
                self._tell(text)
