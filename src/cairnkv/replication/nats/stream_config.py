"""The configuration and the state of the stream. Sans-IO.

Invariants: acknowledged messages disappear only by our own truncation. So the stream has no limit that drops messages,
refuses messages when it is full, and is on the disks of the configured number of servers. If it is unknown which server
leads, or when it was last in touch with the others, as just after an election, no server leads alone.

Out of scope: requests (`stream`).
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from cairnkv.records import record
from cairnkv.replication.nats.connection import Answer
from cairnkv.replication.nats.options import ClusterOptions

_NANOSECONDS: Final = 1_000_000_000

IN_TOUCH_SECONDS: Final = 3.0
"""Silence after which a server is out of touch with its leader. Normally it is at most one second."""


@record
class Identity:
    """Identifies a stream, also among streams of the same name.

    created: creation time, in nanoseconds since 1970.
    """

    stream: str
    created: int


@record
class StreamState:
    """The state of the stream. `first` > `last` if it is empty. bytes: its size.

    peers: the names of its servers. cluster: the name of their NATS cluster. led_alone: whether its leader is out of
    touch with a majority of them.
    """

    identity: Identity
    config: Answer
    first: int
    last: int
    bytes: int
    cluster: str
    peers: frozenset[str]
    led_alone: bool


def stream_name(cluster: str) -> str:
    """Return the name of the cluster's stream."""
    return f"CAIRN_{cluster}"


def log_subject(cluster: str) -> str:
    """Return the subject of log entries."""
    return f"cairn.{cluster}.log"


def channels_subject(cluster: str) -> str:
    """Return the subject of messages on channels, which are not stored."""
    return f"cairn.{cluster}.channels"


def declared(options: ClusterOptions, replicas: int) -> dict[str, Any]:
    """Return the configuration of a new stream."""
    return {
        "name": stream_name(options.name),
        "subjects": [log_subject(options.name)],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "discard": "new",
        "max_bytes": options.limit,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "max_age": 0,
        "deny_delete": True,
        "description": "the log of a cairnkv cluster",
    }


_FEATURES: Final = ("mirror", "sources", "republish", "subject_transform", "sealed", "no_ack", "deny_purge")
"""Features that a log must not have."""


def problems(config: dict[str, Any], options: ClusterOptions, replicas: int) -> list[str]:
    """Return the faults of a stream's configuration, with the right values."""
    wanted = declared(options, replicas)
    found = [
        f"{field} is {_shown(config.get(field))}, but must be {_shown(wanted[field])}"
        for field in ("subjects", "retention", "storage", "num_replicas", "discard")
        if config.get(field) != wanted[field]
    ]
    for field, unlimited in (("max_msgs", -1), ("max_msgs_per_subject", -1), ("max_age", 0)):
        if config.get(field, unlimited) > 0:
            found.append(f"{field} is {config[field]}, but must be {unlimited}: no message may be dropped")
    if (limit := config.get("max_bytes", -1)) < options.limit:
        found.append(
            f"max_bytes is {limit}, but must be {options.limit} or more: increase it, or lower --log-limit"
            if limit > 0
            else f"max_bytes is not set, but must be {options.limit}: JetStream does not survive a full disk"
        )
    found += [f"{field} is {_shown(config[field])}, but must not be set" for field in _FEATURES if config.get(field)]
    if config.get("persist_mode", "default") not in ("", "default"):
        found.append(f"persist_mode is {config['persist_mode']}, but must be default")
    return found


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def nanoseconds(time: str) -> int:
    """Parse a time of NATS, to nanoseconds since 1970.

    >>> nanoseconds("1970-01-01T00:00:01.5Z"), nanoseconds("1970-01-01T00:00:02Z")
    (1500000000, 2000000000)
    """
    seconds, _, fraction = time.removesuffix("Z").partition(".")
    whole = int(datetime.fromisoformat(seconds).replace(tzinfo=UTC).timestamp())
    return whole * _NANOSECONDS + int(fraction.ljust(9, "0") or "0")


def leads_alone(group: Mapping[str, Any]) -> bool:
    """Return whether the leader of a group is in touch with fewer than a majority, itself included.

    A leader that was cut off or paused considers itself the leader for ten to twenty seconds, and appends entries that
    the other servers never get. Back among them, it removes these entries, one in up to two seconds, and is behind
    meanwhile (measured with nats-server 2.15.1). group: the leader's report: `leader`, and `replicas`, the other
    servers.

    >>> leads_alone({"leader": "a", "replicas": [{"active": 900_000_000}, {"active": 4_000_000_000}]})
    False
    >>> leads_alone({"leader": "a", "replicas": [{"active": 5_000_000_000}, {"active": 4_000_000_000}]})
    True
    """
    others = group.get("replicas") or ()
    lost = len([other for other in others if other.get("active", 0) > IN_TOUCH_SECONDS * _NANOSECONDS])
    return bool(group.get("leader")) and 2 * lost > len(others)
