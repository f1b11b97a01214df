"""Check whether NATS fsyncs every write before it acknowledges it. Only its system account can see that.

By default, NATS fsyncs every two minutes, and loses acknowledged writes if hosts lose power before that (as Jepsen
found with NATS 2.12.1). A server that is down is checked when it is back.
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

LOOK_TIMEOUT: Final = 2.0
"""Seconds for the replies of all servers. They take milliseconds."""

_EVERY_SERVER: Final = "$SYS.REQ.SERVER.PING.VARZ"

UNKNOWN: Final = (
    "cannot check whether NATS fsyncs every write before it acknowledges it; by default it does not, and loses "
    "acknowledged writes. Give a user of its system account (--nats-system USER:PASSWORD or a file of credentials), or "
    "set sync_interval: always in the jetstream block of each server and use --trust-nats-sync"
)


@record
class Findings:
    """The state of the servers that may store the stream.

    unsynced: servers that do not fsync every write. unseen: servers that did not answer.
    payload: the smallest max_payload. fill: the largest used part of a server's storage limit.
    """

    unsynced: tuple[str, ...]
    unseen: tuple[str, ...]
    payload: int
    fill: float

    @property
    def unsynced_text(self) -> str:
        """The error for servers that do not fsync every write."""
        return (
            f"NATS server {', '.join(self.unsynced)} does not fsync every write before it acknowledges it, and would "
            "lose acknowledged writes: set sync_interval: always in its jetstream block, and restart it"
        )


async def check(options: ClusterOptions, cluster: str, peers: frozenset[str]) -> Findings:
    """Ask all servers.

    cluster: the name of the NATS cluster that stores the stream; peers: the names of the stream's servers.
    Raises `OptionError` for credentials without access, `Unavailable`.
    """
    client = await connect(options, f"cairnkv {options.name} system", system=True)
    servers: dict[str, dict[str, Any]] = {}
    expected = set(peers)
    done = asyncio.Event()
    no_access = False

    async def answered(message: Msg) -> None:
        nonlocal no_access
        if not message.data:  # the status for no responders
            no_access = True
            done.set()
            return
        answer = json.loads(message.data)
        server = answer.get("server", {})
        if server.get("cluster") != cluster:
            return
        about = servers[server["name"]] = answer.get("data", {})
        meta = about.get("jetstream", {}).get("meta", {})
        expected.update(peer["name"] for peer in meta.get("replicas", ()) if not peer.get("offline"))
        if expected <= servers.keys():
            done.set()

    try:
        inbox = client.new_inbox()
        await client.subscribe(inbox, cb=answered)
        await client.publish(_EVERY_SERVER, b"", reply=inbox)
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                await done.wait()
        except TimeoutError:
            pass
    except errors.Error as error:
        raise OptionError(f"cannot query NATS with --nats-system: {text_of(error)}") from error
    finally:
        await close(client)
    if no_access or not servers:
        raise OptionError("--nats-system is not a user of NATS' system account: no server answers its queries")
    return _findings(servers, peers)


def _findings(servers: dict[str, dict[str, Any]], peers: frozenset[str]) -> Findings:
    stores = {name: about["jetstream"] for name, about in servers.items() if about.get("jetstream", {}).get("config")}
    return Findings(
        unsynced=tuple(sorted(name for name, one in stores.items() if not one["config"].get("sync_always"))),
        unseen=tuple(sorted(peers - servers.keys())),
        payload=min(about["max_payload"] for about in servers.values()),
        fill=max((_fill(one) for one in stores.values()), default=0.0),
    )


def _fill(jetstream: dict[str, Any]) -> float:
    limit = jetstream["config"].get("max_storage", 0)
    return float(jetstream.get("stats", {}).get("storage", 0) / limit) if limit > 0 else 0.0
