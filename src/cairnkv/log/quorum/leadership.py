"""Whether a server that leads a group of NATS', such as a stream, still has the others, as far as it says itself.

One that was cut off or paused takes itself for the leader for ten to twenty seconds, and takes into its log what never
comes into the others'. Back among them it takes that off again, one entry in up to two seconds, and is behind for so
long (measured with nats-server 2.15.1).

What always holds: a server that was not heard of yet counts as in touch, as it is just behind an election.

Not for who asks it (`stream`, `cairnkv.cluster.nats`). Here is no I/O.
"""

from collections.abc import Mapping
from typing import Any, Final

IN_TOUCH_SECONDS: Final = 3.0
"""A server that its leader has not heard of for so long is not in touch with it. Where all is well it is one second."""


def has_majority(group: Mapping[str, Any]) -> bool:
    """Whether a leader is in touch with a majority, itself included.

    group: what it says of its group, with `replicas`, which are the others.

    >>> has_majority({"leader": "a", "replicas": [{"active": 900_000_000}, {"active": 4_000_000_000}]})
    True
    >>> has_majority({"leader": "a", "replicas": [{"active": 5_000_000_000}, {"active": 4_000_000_000}]})
    False
    """
    others = group.get("replicas") or ()
    lost = len([other for other in others if other.get("active", 0) > IN_TOUCH_SECONDS * 1e9])
    return 2 * lost < len(others) + 1
