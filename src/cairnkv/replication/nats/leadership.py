"""Whether a server that leads a group of NATS', such as a stream, does so alone, as far as it says itself.

One that was cut off or paused takes itself for the leader for ten to twenty seconds, and takes into its log what never
comes into the others'. Back among them it takes that off again, one entry in up to two seconds, and is behind for so
long (measured with nats-server 2.15.1).

What always holds: where nobody says who leads, or who was heard of, as just behind an election, nobody leads alone.

Not for who asks it (`stream`, `cairnkv.lab.cluster.nats`). Here is no I/O.
"""

from collections.abc import Mapping
from typing import Any, Final

IN_TOUCH_SECONDS: Final = 3.0
"""A server that its leader has not heard of for so long is not in touch with it. Where all is well it is one second."""


def leads_alone(group: Mapping[str, Any]) -> bool:
    """Whether a group's leader is in touch with fewer than a majority, itself included.

    group: what the leader says of it: `leader`, and `replicas`, which are the others.

    >>> leads_alone({"leader": "a", "replicas": [{"active": 900_000_000}, {"active": 4_000_000_000}]})
    False
    >>> leads_alone({"leader": "a", "replicas": [{"active": 5_000_000_000}, {"active": 4_000_000_000}]})
    True
    """
    others = group.get("replicas") or ()
    lost = len([other for other in others if other.get("active", 0) > IN_TOUCH_SECONDS * 1e9])
    return bool(group.get("leader")) and 2 * lost > len(others)
