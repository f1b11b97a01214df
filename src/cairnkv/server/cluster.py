"""The node of a server in a cluster, from the server's settings. A module of its own: it needs the extra `cluster`."""

import os
import secrets
from pathlib import Path

from cairnkv.replication import node
from cairnkv.replication.nats.options import ClusterOptions
from cairnkv.replication.node import Node
from cairnkv.replication.node_directory import NodeDirectory
from cairnkv.replication.store import ReplicatedStore
from cairnkv.server.settings import Settings, broken_on_purpose
from cairnkv.storage.base import StartProgress
from cairnkv.storage.disk import DiskStorage
from cairnkv.storage.writer import Sync
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
    directory = NodeDirectory(Path(settings.data))
    number = directory.node()
    directory.refuse_other(settings.name)

    def new_table() -> DiskStorage:
        return DiskStorage(
            directory.table,
            sync=Sync(None),
            apart=True,
            progress=lambda read, records: progress(f"reading {directory.table}", read, records, "records"),
            memory_limit=settings.memory_limit,
            limit=settings.disk_limit,
            gather=node.TABLE_GATHER,
        )

    store = ReplicatedStore(
        node=number,
        nonce=secrets.token_bytes(8),
        storage=new_table(),
        clock=clock,
        memory_limit=settings.memory_limit,
        value_max=settings.max_value,
        supports=node.SUPPORTS,
        broken=broken_on_purpose(os.environ, allowed=settings.allow_broken),
    )
    return Node(cluster_options(settings), directory, store=store, new_table=new_table, progress=progress)
