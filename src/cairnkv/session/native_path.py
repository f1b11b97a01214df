"""The accelerators of a store, where there are some: one for each wire and keyspace.

Not for what they do (`executor_native.pyx`) and when they may (`Conversation.acceleration`).
"""

from typing import TYPE_CHECKING

from cairnkv.installation import compiled
from cairnkv.replication.batches import log_time
from cairnkv.replication.store import ReplicatedStore
from cairnkv.store import Store

if TYPE_CHECKING:
    from cairnkv.protocol.native import Prefix
    from cairnkv.session.executor_native import Accelerator


def article_accelerator(store: Store) -> "Accelerator | None":
    """A new one for the article's wire, which is off while the store needs a look at each command; None where nothing
    is compiled."""
    if not compiled():
        return None
    from cairnkv.session.native.frames_native import ArticleAccelerator

    if isinstance(store, ReplicatedStore):
        store.execute_runs_by(lambda space: ArticleAccelerator(store.keyspaces[space], log_time, store.staging(space)))
        return _proposing(store, store.executor(0))
    accelerator = ArticleAccelerator(store.keyspace, store.log_clock, store.staging(0))
    store.count_also(accelerator)
    return accelerator


def redis_accelerator(store: Store, space: int) -> "Accelerator | None":
    """Likewise for Redis' wire and a keyspace."""
    if not compiled():
        return None
    from cairnkv.session.resp.frames_native import RedisAccelerator

    if isinstance(store, ReplicatedStore):
        return _proposing(store, RedisAccelerator(store.keyspaces[space], log_time, store.staging(space)))

    accelerator = RedisAccelerator(store.keyspaces[space], store.log_clock, store.staging(space))
    store.count_also(accelerator)
    return accelerator


def _proposing(store: ReplicatedStore, executor: "Prefix | None") -> "Accelerator":
    """One that brings commands to the log, for an executor to carry out in their turn."""
    from cairnkv.session.proposals_native import ProposingAccelerator

    accelerator = ProposingAccelerator(store, executor)
    store.count_also(accelerator)
    return accelerator
