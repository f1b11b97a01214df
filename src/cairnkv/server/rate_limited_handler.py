"""A logging handler that limits the rate of repeated warnings.

Invariants: the first warning of a kind is written at once, and so is any other record. Of the warnings that follow
within `EVERY`, the newest is written at its end, with their number. Two warnings are of a kind if their loggers and
format strings are equal.
"""

import copy
import logging
import threading
from typing import IO, Final

EVERY: Final = 5.0
"""Seconds within which a kind of warning is written once."""

KINDS_MAX: Final = 256
"""Maximum number of kinds at once; warnings of further kinds are all written. The source has fewer."""


class RateLimitedHandler(logging.StreamHandler[IO[str]]):
    """Writes records to a stream."""

    def __init__(self, stream: IO[str], *, every: float = EVERY) -> None:
        super().__init__(stream)
        self._every = every
        # By kind: the newest record that was not written, and their number. Under the handler's lock.
        self._held: dict[tuple[str, str], tuple[logging.LogRecord | None, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it."""
        if record.levelno != logging.WARNING or record.exc_info:
            super().emit(record)
            return
        kind = record.name, str(record.msg)
        if kind in self._held:
            self._held[kind] = record, self._held[kind][1] + 1
            return
        super().emit(record)
        if len(self._held) < KINDS_MAX:
            self._held[kind] = None, 0
            self._begin(kind)

    def _begin(self, kind: tuple[str, str]) -> None:
        timer = threading.Timer(self._every, self._end, (kind,))
        timer.daemon = True
        timer.start()

    def _end(self, kind: tuple[str, str]) -> None:
        """Write the newest warning of a kind with their number, and wait again if there was one."""
        with self.lock or threading.RLock():
            record, count = self._held.pop(kind, (None, 0))
            if record is None:
                return
            shown = copy.copy(record)
            if count > 1:
                shown.msg = f"{record.getMessage()} ({count:,} like this within {self._every:g} s)"
                shown.args = None
            super().emit(shown)
            self._held[kind] = None, 0
            self._begin(kind)

    def close(self) -> None:
        """Write the newest warning of each kind."""
        with self.lock or threading.RLock():
            held, self._held = self._held, {}
            for record, _ in held.values():
                if record is not None:
                    super().emit(record)
        super().close()
