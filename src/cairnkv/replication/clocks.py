"""Detect a wrong clock of this node by the times in the entries of other nodes.

Invariants: only certain errors count, since an entry arrives late but never early.

Out of scope: the reaction to a wrong clock (`node`), and log time (the store).
"""

import collections
from typing import Final, NamedTuple

CLOCK_SECONDS: Final = 10.0
"""Time for which an observation of another node's clock counts."""

CLOCK_OFF_MS: Final = 1_000
"""Maximum difference between a node's clock and the other nodes' clocks."""


class _Observation(NamedTuple):
    """The minimum and maximum lead of another node's clock over this node's monotonic clock, in ms, and its time."""

    when: float
    least: float
    most: float


class Clocks:
    """The clocks of other nodes.

    An entry arrives after it was created. So the other clock now shows at least the time in the entry, and at most that
    time plus the maximum delay of the entry. Of recent entries, the one with the shortest delay tells most. Times are
    relative to the monotonic clock, so that a change of this node's clock is detected at once. A clock is wrong if it
    agrees with no other node's.
    """

    def __init__(self) -> None:
        self._seen: dict[int, collections.deque[_Observation]] = {}  # by node

    def note(self, node: int, clock: int, late: float, monotonic: float) -> None:
        """Add an entry of another node. clock: the time in the entry, in ms.

        late: maximum delay of the entry in ms. monotonic: the monotonic clock, in seconds.
        """
        seen = self._seen.setdefault(node, collections.deque())
        least = clock - monotonic * 1000
        while seen and seen[-1].least <= least:
            seen.pop()
        seen.append(_Observation(monotonic, least, least + late))

    def off(self, clock: int, monotonic: float) -> int:
        """Return the minimum lead in ms of this node's clock over the closest other clock; negative: behind; 0: none.

        Ignores nodes whose entries may have been delayed so long that they agree with any clock.
        """
        for node in list(self._seen):
            seen = self._seen[node]
            while seen and monotonic - seen[0].when > CLOCK_SECONDS:
                seen.popleft()
            if not seen:
                del self._seen[node]
        ours = clock - monotonic * 1000
        observations = [seen[0] for seen in self._seen.values()]
        known = [
            one for one in observations if one.most - one.least < CLOCK_OFF_MS or not one.least <= ours <= one.most
        ]
        return round(min((max(ours - one.most, min(ours - one.least, 0.0)) for one in known), key=abs, default=0))
