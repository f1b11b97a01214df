"""Counts and rates of the work of a server, for INFO: lookups of keys, bytes of clients, commands, and peak memory.

Invariants: a sample costs some microseconds. A rate covers the last samples, so it is 0 soon after the work ends.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from cairnkv.store import Store

if TYPE_CHECKING:
    from cairnkv.server.poller_native import Poller

SAMPLE_SECONDS: Final = 0.1
"""Minimum time between two samples."""

SAMPLES: Final = 17
"""Samples that are kept. As in Redis, rates are averages over 16 periods."""


class Activity:
    """The counts of one server."""

    def __init__(self, store: Store, commands: Callable[[], int]) -> None:
        """commands: returns the number of executed commands."""
        self.poller: Poller | None = None
        """Counts the bytes of the native path."""
        self.received = self.sent = 0
        """Bytes that other transports received and sent, without encryption."""
        self._store = store
        self._commands = commands
        self._samples: deque[tuple[float, int, int, int]] = deque(maxlen=SAMPLES)
        self._peak = 0

    def sample(self) -> None:
        """Take a sample, unless the newest one is recent. Call this at intervals."""
        now = time.monotonic()
        if not self._samples or now - self._samples[-1][0] >= SAMPLE_SECONDS:
            self._samples.append((now, self._commands(), *self._bytes()))
            self._note_peak()

    def _bytes(self) -> tuple[int, int]:
        if self.poller is None:
            return self.received, self.sent
        return self.received + self.poller.received_bytes, self.sent + self.poller.sent_bytes

    def _note_peak(self) -> None:
        memory = self._store.memory
        self._peak = max(self._peak, memory.used_bytes + memory.garbage_bytes)

    def info(self) -> Iterable[tuple[str, int]]:
        """Return the names and values of INFO."""
        self.sample()
        self._note_peak()
        hits, misses = self._store.reports.lookups
        received, sent = self._bytes()
        rates = [0, 0, 0]
        if (seconds := self._samples[-1][0] - self._samples[0][0]) > 0:
            pairs = zip(self._samples[0][1:], self._samples[-1][1:], strict=True)
            rates = [round((after - before) / seconds) for before, after in pairs]
        names = ("commands_per_second", "received_bytes_per_second", "sent_bytes_per_second")
        return (
            ("used_bytes_peak", self._peak),
            ("keyspace_hits", hits),
            ("keyspace_misses", misses),
            ("received_bytes", received),
            ("sent_bytes", sent),
            *zip(names, rates, strict=True),
        )
