"""Digests of the state, which nodes compare.

Invariants: a node stops if its digest differs from the majority's.
"""

import collections
import logging
from typing import Final

logger: Final = logging.getLogger("cairnkv.cluster")

DIGEST_ENTRIES: Final = 1_000
"""Positions between two digests that nodes compare."""

DIGESTS_KEPT: Final = 16
"""Positions whose digests are kept, for nodes that are behind."""


class Digests:
    """The digests of all nodes at some positions."""

    def __init__(self, node: int) -> None:
        """node: the number of this node."""
        self._node = node
        self._by_position: collections.OrderedDict[int, dict[int, int]] = collections.OrderedDict()

    def clear(self) -> None:
        """Forget all digests: the state comes from another table."""
        self._by_position.clear()

    def own(self) -> tuple[int, int] | None:
        """Return the position and the digest that this node has computed last, or None."""
        for position in reversed(self._by_position):
            if self._node in self._by_position[position]:
                return position, self._by_position[position][self._node]
        return None

    def note(self, position: int, node: int, digest: int) -> str | None:
        """Note the digest of a node, and compare. Returns the reason if this node must stop."""
        if position not in self._by_position and len(self._by_position) >= DIGESTS_KEPT:
            oldest = min(self._by_position)
            if position < oldest:
                return None
            del self._by_position[oldest]
        digests = self._by_position.setdefault(position, {})
        digests[node] = digest
        own = digests.get(self._node)
        if own is None or all(other == own for other in digests.values()):
            return None
        others = collections.Counter(other for number, other in digests.items() if number != self._node)
        most, count = others.most_common(1)[0]
        if most != own and count >= 2 and own not in others:
            return f"its state at position {position:,} differs from that of {count} other nodes: wipe its directory"
        logger.error("the nodes' states at position %d differ: %s", position, digests)
        return None
