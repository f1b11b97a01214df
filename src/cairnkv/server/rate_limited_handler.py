"""What is logged on standard error, where the same trouble again and again is one line, and a count every some seconds.

What always holds: the first of a kind is written at once, as is everything but warnings; of those that follow within
`EVERY` the newest is written at its end, with how many there were. Two are of a kind if they differ in what was filled
in only.

Not for who logs: they say each trouble as if it were the only one.
"""

import copy
import logging
import threading
from typing import IO, Final

EVERY: Final = 5.0
"""Seconds for which a kind of warning is written once."""

KINDS_MAX: Final = 256
"""Kinds that are watched at once; further ones are written. The source has fewer."""


class RateLimitedHandler(logging.StreamHandler[IO[str]]):
    """Writes records to a stream."""

    def __init__(self, stream: IO[str], *, every: float = EVERY) -> None:
        super().__init__(stream)
        self._every = every
        # By kind: the newest record that was not written, and how many were not. Under the handler's lock.
        self._held: dict[tuple[str, str], tuple[logging.LogRecord | None, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, or count it."""
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
        """The time is over: say what there was. If there was something, the next time begins."""
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
        """Write what was counted."""
        with self.lock or threading.RLock():
            held, self._held = self._held, {}
            for record, _ in held.values():
                if record is not None:
                    super().emit(record)
        super().close()
