"""The node of a server in a cluster, from the server's settings. A module of its own: it needs the extra `cluster`."""

import os
from pathlib import Path

from cairnkv.replication.nats.options import ClusterOptions
from cairnkv.replication.node import Node, new_node
from cairnkv.server.settings import Settings, broken_on_purpose
from cairnkv.storage.base import StartProgress
from cairnkv.store import Clock


def cluster_options(settings: Settings) -> ClusterOptions:
    """Return a node's options for NATS."""
    assert settings.cluster is not None
    return ClusterOptions(
        urls=settings.cluster,
        name=settings.name,
        creds=settings.nats_creds,
        ca=settings.nats_ca,
        cert=settings.nats_cert,
        key=settings.nats_key,
        system=settings.nats_system,
        trust_sync=settings.trust_nats_sync,
        limit=settings.log_limit,
    )


def node_from(settings: Settings, *, clock: Clock, progress: StartProgress) -> Node:
    """Return the node of a server with these settings. progress: see `Node`. Raises `OptionError`."""
    assert settings.data is not None
    return new_node(
        cluster_options(settings),
        Path(settings.data),
        clock=clock,
        progress=progress,
        disk_limit=settings.disk_limit,
        memory_limit=settings.memory_limit,
        value_max=settings.max_value,
        broken=broken_on_purpose(os.environ, allowed=settings.allow_broken),
    )
