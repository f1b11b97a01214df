"""Whether NATS syncs every write before it acknowledges it, which only its system account can see.

NATS' default is to sync every two minutes, and acknowledged writes are lost when machines lose power before that (as
Jepsen found with NATS 2.12.1). A server that is down now is looked at when it is back.
"""

import asyncio
import json
from typing import Any, Final

from nats import errors
from nats.aio.msg import Msg

from cairnkv.errors import OptionError
from cairnkv.records import record
from cairnkv.replication.nats.connection import close, connect, text_of
from cairnkv.replication.nats.options import ClusterOptions

LOOK_PATIENCE: Final = 2.0
"""Seconds for all servers to answer; they take milliseconds."""

_EVERY_SERVER: Final = "$SYS.REQ.SERVER.PING.VARZ"

NOBODY_CAN_SEE: Final = (
    "nobody can see whether this NATS syncs every write before it acknowledges it, and by default it does not, and "
    "loses acknowledged writes: name a user of its system account (--nats-system USER:PASSWORD, or a file of "
    "credentials), or have sync_interval: always in each server's jetstream block and say --trust-nats-sync"
)


@record
class Sight:
    """What the system account sees of the servers that may keep the stream.

    unsynced: servers that do not sync every write. unseen: servers that should be there and did not answer.
    payload: the smallest max_payload. fill: the greatest part of a server's storage limit that is used.
    """

    unsynced: tuple[str, ...]
    unseen: tuple[str, ...]
    payload: int
    fill: float

    @property
    def unsynced_text(self) -> str:
        """What is wrong, and what would be right."""
        return (
            f"NATS server {', '.join(self.unsynced)} does not sync every write before it acknowledges it, and would "
            "lose acknowledged writes: put sync_interval: always in its jetstream block, and start it again"
        )


async def look(options: ClusterOptions, cluster: str, peers: frozenset[str]) -> Sight:
    """Ask all servers.

    cluster: NATS' own name for those that may keep the stream; peers: the names of those that do.
    Raises `OptionError` where the credentials show nothing, `Unavailable`.
    """
    client = await connect(options, f"cairnkv {options.name} system", system=True)
    told: dict[str, dict[str, Any]] = {}
    expected = set(peers)
    done = asyncio.Event()
    blind = False

    async def answered(message: Msg) -> None:
        nonlocal blind
        if not message.data:  # the status that nobody answers such requests
            blind = True
            done.set()
            return
        answer = json.loads(message.data)
        server = answer.get("server", {})
        if server.get("cluster") != cluster:
            return
        about = told[server["name"]] = answer.get("data", {})
        meta = about.get("jetstream", {}).get("meta", {})
        expected.update(peer["name"] for peer in meta.get("replicas", ()) if not peer.get("offline"))
        if expected <= told.keys():
            done.set()

    try:
        inbox = client.new_inbox()
        await client.subscribe(inbox, cb=answered)
        await client.publish(_EVERY_SERVER, b"", reply=inbox)
        try:
            async with asyncio.timeout(LOOK_PATIENCE):
                await done.wait()
        except TimeoutError:
            pass
    except errors.Error as error:
        raise OptionError(f"--nats-system cannot ask NATS: {text_of(error)}") from error
    finally:
        await close(client)
    if blind or not told:
        raise OptionError("--nats-system is not a user of NATS' system account: it sees no server")
    return _seen(told, peers)


def _seen(told: dict[str, dict[str, Any]], peers: frozenset[str]) -> Sight:
    keepers = {name: about["jetstream"] for name, about in told.items() if about.get("jetstream", {}).get("config")}
    return Sight(
        unsynced=tuple(sorted(name for name, one in keepers.items() if not one["config"].get("sync_always"))),
        unseen=tuple(sorted(peers - told.keys())),
        payload=min(about["max_payload"] for about in told.values()),
        fill=max((_fill(one) for one in keepers.values()), default=0.0),
    )


def _fill(jetstream: dict[str, Any]) -> float:
    limit = jetstream["config"].get("max_storage", 0)
    return float(jetstream.get("stats", {}).get("storage", 0) / limit) if limit > 0 else 0.0
