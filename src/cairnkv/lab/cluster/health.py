"""What a store node says of itself, the state that comes of it, since one that runs need not take part, and the remedy;
and the states that NATS servers have in common with it.

What always holds: a node is asked for a bounded time, and what it says decides: a node that has stopped, or whose
entries do not come back, is never called ready.

Not for who asks, or tells people (`probes`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import cairnkv
from cairnkv.lab.cluster.machines import State
from cairnkv.records import record

ANSWER_SECONDS: Final = 1.0
"""How long a node may take to answer."""

BEHIND_MS: Final = 3_000
"""Local reads that may be further behind than this: the node is catching up, or its entries do not come back. Where all
is well it is a little over 1,000, since a node that has nothing to say says so every second."""


@record
class Health:
    """state: READY, or what keeps a node from being so. why: in words; empty: the state says it all."""

    state: State
    why: str = ""


READY: Final = Health(State.READY)
BACK: Final = Health(State.CATCHING_UP, "it was away a moment ago")
"""Of one that was paused or cut off, until it is asked."""
SILENT: Final = Health(State.SILENT, f"it does not answer within {ANSWER_SECONDS:g} s")


def health(info: Mapping[str, Any]) -> Health:
    """What a node's INFO comes to. One without a cluster is ready.

    >>> health({"cluster": "shop", "loading": 0, "quorum": 0, "stopped": "", "local_reads_behind_ms": 70_000})
    Health(state=<State.NO_QUORUM: 'no quorum'>, why='')
    """
    if "cluster" not in info:
        return READY
    if stopped := info.get("stopped"):
        return Health(State.STOPPED, str(stopped))
    if info.get("loading") or "quorum" not in info:
        return Health(State.JOINING, _missing(info))
    if not info["quorum"]:
        return Health(State.NO_QUORUM, str(info.get("table_trouble", "")))
    if (behind := info.get("local_reads_behind_ms", 0)) > BEHIND_MS:
        if missing := _missing(info):
            return Health(State.CATCHING_UP, f"{behind:,} ms behind, {missing}")
        return Health(State.NO_QUORUM, f"its entries have not come back for {behind:,} ms")
    return READY


def _missing(info: Mapping[str, Any]) -> str:
    missing = info.get("stream_last_seen", 0) - info.get("stream_position", 0)
    return f"{missing:,} entries to go" if missing > 0 else ""


def remedy(node: str, why: str, directory: Path) -> str:
    """What to do about a node that has stopped by itself, as the end of a sentence; empty where its reason says it.

    >>> remedy("node-2", "its disk lied; wipe it", Path("shop"))
    '; `cairn cluster wipe node-2 --dir shop` and `cairn cluster start node-2 --dir shop` has it begin again'
    """
    if "repair" in why or "release" in why:
        return ""
    verbs = ("wipe", "start") if "wipe" in why else ("start",)
    commands = " and ".join(f"`cairn cluster {verb} {node} --dir {directory}`" for verb in verbs)
    return f"; {commands} has it begin again"


def ask(address: str) -> Health:
    """What the node there says. One that refuses to tell is ready, as far as anybody knows."""
    try:
        with cairnkv.connect(address, timeout=ANSWER_SECONDS, connect_timeout=ANSWER_SECONDS, attempts=1) as node:
            return health(node.info())
    except (cairnkv.Unavailable, cairnkv.OutcomeUnknown, OSError):
        return SILENT
    except cairnkv.CairnError:
        return READY
