"""How the stream is declared, and what one that is there must be like to be a log.

What always holds: nothing that was acknowledged disappears but by our own truncation, so the stream has no limits that
drop anything, refuses what does not fit, and is on the disks of as many servers as it should.

Not for how it is asked (`stream`). Here is no I/O.
"""

from datetime import UTC, datetime
from typing import Any, Final

from cairnkv.records import record
from cairnkv.replication.nats.connection import Answer
from cairnkv.replication.nats.options import ClusterOptions

_NANOSECONDS: Final = 1_000_000_000


@record
class Identity:
    """Which stream it is: one with the same name that was made later is another.

    created: when, in nanoseconds since 1970.
    """

    stream: str
    created: int


@record
class StreamState:
    """What JetStream says of the stream; `first` > `last` where it is empty. bytes: of what it keeps.

    peers: the names of the servers that keep it; cluster: NATS' name of the cluster they belong to. led_alone: whether
    its leader is out of touch with a majority of them.
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
    """Of the cluster's log."""
    return f"CAIRN_{cluster}"


def log_subject(cluster: str) -> str:
    """That entries are published to."""
    return f"cairn.{cluster}.log"


def channels_subject(cluster: str) -> str:
    """That messages on channels travel by, which are not kept."""
    return f"cairn.{cluster}.channels"


def declared(options: ClusterOptions, replicas: int) -> dict[str, Any]:
    """What JetStream is asked for."""
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
"""What a stream may have that a log must not."""


def problems(config: dict[str, Any], options: ClusterOptions, replicas: int) -> list[str]:
    """What is not as it should be with a stream, and what would be right."""
    wanted = declared(options, replicas)
    found = [
        f"{field} is {_shown(config.get(field))}, and should be {_shown(wanted[field])}"
        for field in ("subjects", "retention", "storage", "num_replicas", "discard")
        if config.get(field) != wanted[field]
    ]
    for field, unlimited in (("max_msgs", -1), ("max_msgs_per_subject", -1), ("max_age", 0)):
        if config.get(field, unlimited) > 0:
            found.append(f"{field} is {config[field]}, and should be {unlimited}: nothing may be dropped")
    if (limit := config.get("max_bytes", -1)) < options.limit:
        found.append(
            f"max_bytes is {limit}, and should be {options.limit} or more: have it so, or lower --log-limit"
            if limit > 0
            else f"max_bytes is not set, and should be {options.limit}: JetStream does not survive a full disk"
        )
    found += [f"{field} is {_shown(config[field])}, and should not be set" for field in _FEATURES if config.get(field)]
    if config.get("persist_mode", "default") not in ("", "default"):
        found.append(f"persist_mode is {config['persist_mode']}, and should be default")
    return found


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def nanoseconds(time: str) -> int:
    """A time as NATS writes it, in nanoseconds since 1970.

    >>> nanoseconds("1970-01-01T00:00:01.5Z"), nanoseconds("1970-01-01T00:00:02Z")
    (1500000000, 2000000000)
    """
    seconds, _, fraction = time.removesuffix("Z").partition(".")
    whole = int(datetime.fromisoformat(seconds).replace(tzinfo=UTC).timestamp())
    return whole * _NANOSECONDS + int(fraction.ljust(9, "0") or "0")
