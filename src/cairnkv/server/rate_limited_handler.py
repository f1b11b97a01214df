"""A logging handler that limits the rate of repeated warnings, and of lines that clients cause.

Invariants: the first such line of a kind is written at once, and so is any other record. Of the lines that follow
within `EVERY`, the newest is written at its end, with their number. Two lines are of a kind if their loggers, levels
and format strings are equal.
"""

import copy
import logging
import threading
from typing import IO, Final, TypeAlias

from cairnkv.session import CLIENT_LOGGER

EVERY: Final = 5.0
"""Seconds within which a kind of warning is written once."""

KINDS_MAX: Final = 256
"""Maximum number of kinds at once; warnings of further kinds are all written. The source has fewer."""


_Kind: TypeAlias = tuple[str, int, str]
"""The logger, the level and the format string of a record."""


class RateLimitedHandler(logging.StreamHandler[IO[str]]):
    """Writes records to a stream."""

    def __init__(self, stream: IO[str], *, every: float = EVERY) -> None:
        super().__init__(stream)
        self._every = every
        # By kind: the newest record that was not written, and their number. Under the handler's lock.
        self._held: dict[_Kind, tuple[logging.LogRecord | None, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it."""
        limited = record.levelno == logging.WARNING or record.name == CLIENT_LOGGER
        if not limited or record.exc_info:
            super().emit(record)
            return
        kind = record.name, record.levelno, str(record.msg)
        if kind in self._held:
            self._held[kind] = record, self._held[kind][1] + 1
            return
        super().emit(record)
        if len(self._held) < KINDS_MAX:
            self._held[kind] = None, 0
            self._begin(kind)

    def _begin(self, kind: _Kind) -> None:
        timer = threading.Timer(self._every, self._end, (kind,))
        timer.daemon = True
        timer.start()

    def _end(self, kind: _Kind) -> None:
        """Write the newest warning of a kind with their number, and wait again if there was one."""
        with self.lock or threading.RLock():
            record, count = self._held.pop(kind, (None, 0))
            if record is not None:
                self._write(record, count)
                self._held[kind] = None, 0
                self._begin(kind)

    def _write(self, record: logging.LogRecord, count: int) -> None:
        shown = copy.copy(record)
        if count > 1:
            shown.msg = f"{record.getMessage()} ({count:,} like this within {self._every:g} s)"
            shown.args = None
        super().emit(shown)

    def close(self) -> None:
        """Write the newest warning of each kind."""
        with self.lock or threading.RLock():
            held, self._held = self._held, {}
            for record, count in held.values():
                if record is not None:
                    self._write(record, count)
        super().close()
