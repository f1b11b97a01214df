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


def article_accelerator(store: Store) -> "Accelerator | None":
    """A new one for the article's wire, which is off while the store needs a look at each command; None where nothing
    is compiled."""
    if not compiled():
        return None
    from cairnkv.session.article_frames import ArticleAccelerator

    if isinstance(store, ReplicatedStore):
        from cairnkv.session.proposing import ProposingAccelerator

        store.execute_runs_by(lambda space: ArticleAccelerator(store.keyspaces[space], log_time, store.staging(space)))
        proposing = ProposingAccelerator(store, store.executor(0))
        store.count_also(proposing)
        return proposing
    accelerator = ArticleAccelerator(store.keyspace, store.clock, store.staging(0))
    store.count_also(accelerator)
    return accelerator


def redis_accelerator(store: Store, space: int) -> "Accelerator | None":
    """Likewise for Redis' wire and a keyspace."""
    if not compiled():
        return None
    if isinstance(store, ReplicatedStore):
        return None
    from cairnkv.session.redis_frames import RedisAccelerator

    accelerator = RedisAccelerator(store.keyspaces[space], store.clock, store.staging(space))
    store.count_also(accelerator)
    return accelerator
