"""What the entries of other nodes say of their clocks, and so of this node's.

What always holds: only what is certain is held against a clock: an entry comes late, never early.

Not for what follows from a clock that is off (`node`), nor for log time (the store).
"""

import collections
from typing import Final, NamedTuple

CLOCK_SECONDS: Final = 10.0
"""How long others' clocks are remembered."""

CLOCK_OFF_MS: Final = 1_000
"""By how much a node's clock may be off from the other nodes' clocks."""


class _Sight(NamedTuple):
    """What an entry says of its node's clock: by how many ms it is ahead of ours that nobody sets, from least to most,
    as seen when."""

    when: float
    least: float
    most: float


class Clocks:
    """Whether this node's clock agrees with those of the others, by what their entries say.

    An entry comes some time after it was made, never before. So a clock is as late as its entry says or later, by as
    much as the entry may have been held up: that we are behind it is certain, that we are ahead only beyond that. Of
    those that came lately, the one that was held up least says most. It is kept against a clock that nobody sets, so
    that it shows at once when ours was. A node is off if it agrees with nobody.
    """

    def __init__(self) -> None:
        self._seen: dict[int, collections.deque[_Sight]] = {}  # by node

    def note(self, node: int, clock: int, late: float, now: float) -> None:
        """An entry of another node has come, which says that its clock is at so many ms.

        late: by how many ms it may have come late, at most. now: in seconds, never set.
        """
        seen = self._seen.setdefault(node, collections.deque())
        least = clock - now * 1000
        while seen and seen[-1].least <= least:
            seen.pop()
        seen.append(_Sight(now, least, least + late))

    def off(self, clock: int, now: float) -> int:
        """By how many ms our clock is certainly ahead of the one that is nearest to it; 0: maybe by nothing.

        Of a node whose entries may have been held up so long that they agree with any clock, nothing is known.
        """
        for node in list(self._seen):
            seen = self._seen[node]
            while seen and now - seen[0].when > CLOCK_SECONDS:
                seen.popleft()
            if not seen:
                del self._seen[node]
        ours = clock - now * 1000
        sights = [seen[0] for seen in self._seen.values()]
        known = [one for one in sights if one.most - one.least < CLOCK_OFF_MS or not one.least <= ours <= one.most]
        return round(min((max(ours - one.most, min(ours - one.least, 0.0)) for one in known), key=abs, default=0))
