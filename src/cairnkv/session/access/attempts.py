"""Failed logins and refused commands: the delays that slow guessing down, the entries of ACL LOG, and counters.

Invariants: everything here is bounded. Failures count for a pair of an address and a user, so that one address does not
delay the logins of another one. An entry of the access log stands for all equal events within a minute.

Out of scope: secrets, and the check of them (`login`).
"""

import dataclasses
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Final

from cairnkv.limits import (
    ACCESS_LOG_MAX,
    LOGIN_DELAY,
    LOGIN_DELAY_MAX,
    LOGIN_FAILURES_FORGOTTEN,
    LOGIN_FAILURES_FREE,
    LOGIN_FAILURES_KEPT,
)

GROUPED: Final = 60_000
"""Milliseconds within which equal events are one entry of the access log, as in Redis."""

OBJECT_MAX: Final = 256
"""Maximum bytes of a key or a name in the access log."""

_DELAYS: Final = 16
"""Failures after which the delay has its maximum."""


class FailedLogins:
    """The failed logins of each address and user."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """clock: returns a time in milliseconds."""
        self._clock = clock
        self._failures: dict[tuple[str, bytes], tuple[int, int]] = {}  # number and last time, the oldest first

    def __len__(self) -> int:
        return len(self._failures)

    def count(self, network: str, user: bytes) -> int:
        """Return the number of failed logins of an address and a user since their last successful one."""
        number, last = self._failures.get((network, user), (0, 0))
        return number if abs(self._clock() - last) < LOGIN_FAILURES_FORGOTTEN else 0

    def delay(self, network: str, user: bytes) -> float:
        """Return the seconds that the next login of an address and a user waits."""
        paid = self.count(network, user) - LOGIN_FAILURES_FREE
        return min(LOGIN_DELAY_MAX, LOGIN_DELAY * 2 ** min(paid, _DELAYS)) if paid >= 0 else 0.0

    def add(self, network: str, user: bytes) -> int:
        """Count a failed login. Returns the new number."""
        number = self.count(network, user) + 1
        self.forget(network, user)
        self._failures[network, user] = number, self._clock()
        if len(self._failures) > LOGIN_FAILURES_KEPT:
            del self._failures[next(iter(self._failures))]
        return number

    def forget(self, network: str, user: bytes) -> None:
        """Remove the failures of an address and a user, after a successful login."""
        self._failures.pop((network, user), None)


@dataclasses.dataclass(slots=True)
class Entry:
    """Equal events in the access log. Times in milliseconds.

    reason: `auth`, or the missing right: `command`, `key` or `channel`.
    context: `toplevel`, or `multi` within a transaction. object: a command, a key, a channel, or AUTH. client: a
    description of the client of the newest event.
    """

    number: int
    reason: str
    context: str
    object: bytes
    user: bytes
    client: str
    created: int
    updated: int
    count: int = 1


class AccessLog:
    """The newest failed logins and refused commands, and their numbers since the start of the server."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """clock: returns the time in milliseconds since 1970."""
        self.clock: Final = clock
        self.counts: Counter[str] = Counter()
        """The number of refusals for each reason."""
        self._entries: deque[Entry] = deque(maxlen=ACCESS_LOG_MAX)  # the newest first
        self._last = -1

    def add(self, reason: str, context: str, object: bytes, user: bytes, client: str) -> bool:
        """Record an event. Returns whether it has a new entry."""
        self.counts[reason] += 1
        now = self.clock()
        object, user = object[:OBJECT_MAX], user[:OBJECT_MAX]
        for entry in self._entries:
            equal = (entry.reason, entry.context, entry.object, entry.user) == (reason, context, object, user)
            if equal and abs(now - entry.created) < GROUPED:
                entry.count += 1
                entry.updated, entry.client = now, client
                return False
        self._last += 1
        self._entries.appendleft(Entry(self._last, reason, context, object, user, client, now, now))
        return True

    def __iter__(self) -> Iterator[Entry]:
        """Return the entries, the newest first."""
        return iter(self._entries)

    def reset(self) -> None:
        """Remove all entries."""
        self._entries.clear()
