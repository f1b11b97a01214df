"""The health of a store node, from its INFO, and the advice for the user. NATS servers share the type.

Invariants: a probe takes limited time. A node that takes no part any more, or whose entries are not committed, is never
ready.

Out of scope: the schedule of probes and the notes for the user (`watch`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import cairnkv
from cairnkv.client.address import Address, shown
from cairnkv.client.codec import key_codec, value_codec
from cairnkv.lab.cluster.hosts import State
from cairnkv.records import record, replace
from cairnkv.replication.store import Remedy

PROBE_TIMEOUT: Final = 1.0
"""Seconds that a node may take to reply."""

BEHIND_MS: Final = 3_000
"""Age of local reads above which a node is not ready. A healthy idle node writes an entry every second, so its age is a
little over 1,000."""


@record
class Health:
    """state: READY, or the reason why the node is not ready. why: details, or empty. remedy: for a stopped node.

    users: the digest of the node's users, or empty if it is unknown.
    """

    state: State
    why: str = ""
    remedy: Remedy = Remedy.RESTART
    users: str = ""


READY: Final = Health(State.READY)
RECONNECTING: Final = Health(State.CATCHING_UP, "it was paused or cut off a moment ago")
"""The health between the end of a pause or cut and the next probe."""
UNRESPONSIVE: Final = Health(State.UNRESPONSIVE, f"it does not reply within {PROBE_TIMEOUT:g} s")


def health(info: Mapping[str, Any]) -> Health:
    """Return the health for a node's INFO. A node without a cluster is ready.

    >>> health({"cluster": "shop", "loading": 0, "quorum": 0, "stopped": "", "local_reads_behind_ms": 70_000})
    Health(state=<State.NO_QUORUM: 'no quorum'>, why='', remedy=<Remedy.RESTART: 'restart'>, users='')
    """
    if "cluster" not in info:
        return READY
    if stopped := info.get("stopped"):
        return Health(State.STOPPED, str(stopped), Remedy(info["stopped_remedy"]))
    if info.get("loading") or "quorum" not in info:
        return Health(State.JOINING, _missing(info))
    if not info["quorum"]:
        return Health(State.NO_QUORUM, str(info.get("table_trouble", "")))
    if (behind := info.get("local_reads_behind_ms", 0)) > BEHIND_MS:
        if missing := _missing(info):
            return Health(State.CATCHING_UP, f"{behind:,} ms behind, {missing}")
        return Health(State.NO_QUORUM, f"none of its entries was committed for {behind:,} ms")
    return READY


def _missing(info: Mapping[str, Any]) -> str:
    missing = info.get("stream_last_seen", 0) - info.get("stream_position", 0)
    return f"{missing:,} entries missing" if missing > 0 else ""


def advice(node: str, remedy: Remedy, directory: Path) -> str:
    """Return advice for a node that takes no part any more, or an empty text if its reason contains advice.

    >>> advice("node-2", Remedy.WIPE, Path("shop"))
    '; restart it: `cairn cluster wipe node-2 --dir shop` and `cairn cluster start node-2 --dir shop`'
    """
    if remedy is Remedy.OPERATOR:
        return ""
    verbs = ("wipe", "start") if remedy is Remedy.WIPE else ("start",)
    commands = " and ".join(f"`cairn cluster {verb} {node} --dir {directory}`" for verb in verbs)
    return f"; restart it: {commands}"


def probe(address: str) -> Health:
    """Return the health of the node at an address. A node that refuses INFO counts as ready."""
    try:
        with cairnkv.connect(address, timeout=PROBE_TIMEOUT, connect_timeout=PROBE_TIMEOUT, attempts=1) as node:
            return _health_of(node)
    except (cairnkv.Unavailable, cairnkv.OutcomeUnknown, OSError):
        return UNRESPONSIVE
    except cairnkv.CairnError:
        return READY


def probe_all(address: Address) -> Iterator[tuple[str, Health]]:
    """Yield each endpoint of an address with the health of its node, which logs in as the address does."""
    for endpoint in address.endpoints:
        one = replace(address, endpoints=(endpoint,), attempts=1)
        try:
            with cairnkv.Client(one, key_codec("bytes"), value_codec("bytes")) as node:
                yield shown(endpoint), _health_of(node)
        except (cairnkv.CairnError, OSError) as error:
            yield shown(endpoint), Health(State.UNRESPONSIVE, str(error))


def _health_of(node: "cairnkv.Client[Any, Any]") -> Health:
    info = node.info()
    return replace(health(info), users=str(info.get("users_digest", "")))
