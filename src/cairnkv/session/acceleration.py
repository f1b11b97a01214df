"""The accelerators of a store, where there are some: one for each wire and keyspace.

Not for what they do (`accelerator.pyx`) and when they may (`Conversation.acceleration`).
"""

from typing import TYPE_CHECKING

from cairnkv.installation import compiled
from cairnkv.store import Store
from cairnkv.store.replicated import ReplicatedStore
from cairnkv.store.runs import log_time

if TYPE_CHECKING:
    from cairnkv.session.accelerator import Accelerator
    from cairnkv.wire.article import Prefix


def article_accelerator(store: Store) -> "Accelerator | None":
    """A new one for the article's wire, which is off while the store needs a look at each command; None where nothing
    is compiled."""
    if not compiled():
        return None
    from cairnkv.session.article_frames import ArticleAccelerator

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
    from cairnkv.session.redis_frames import RedisAccelerator

    if isinstance(store, ReplicatedStore):
        return _proposing(store, RedisAccelerator(store.keyspaces[space], log_time, store.staging(space)))

    accelerator = RedisAccelerator(store.keyspaces[space], store.log_clock, store.staging(space))
    store.count_also(accelerator)
    return accelerator


def _proposing(store: ReplicatedStore, executor: "Prefix | None") -> "Accelerator":
    """One that brings commands to the log, for an executor to carry out in their turn."""
    from cairnkv.session.proposing import ProposingAccelerator

    accelerator = ProposingAccelerator(store, executor)
    store.count_also(accelerator)
    return accelerator
