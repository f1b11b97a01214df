"""The accelerators of a store, where there are some: one for each wire and keyspace.

Not for what they do (`executor_native.pyx`) and when they may (`Conversation.native_path_settings`).
"""

from typing import TYPE_CHECKING

from cairnkv.installation import native_path_in_use
from cairnkv.replication.batches import log_time
from cairnkv.replication.store import ReplicatedStore
from cairnkv.store import Store

if TYPE_CHECKING:
    from cairnkv.protocol.native import Prefix
    from cairnkv.session.executor_native import FrameExecutor


def native_frame_executor(store: Store) -> "FrameExecutor | None":
    """A new one for the article's wire, which is off while the store needs a look at each command; None where nothing
    is compiled."""
    if not native_path_in_use():
        return None
    from cairnkv.session.native.frames_native import NativeFrameExecutor

    if isinstance(store, ReplicatedStore):
        store.execute_batches_by(lambda db: NativeFrameExecutor(store.databases[db], log_time, store.staging(db)))
        return _proposing(store, store.executor(0))
    frame_executor = NativeFrameExecutor(store.database, store.log_clock, store.staging(0))
    store.count_also(frame_executor)
    return frame_executor


def resp_frame_executor(store: Store, db: int) -> "FrameExecutor | None":
    """Likewise for Redis' wire and a keyspace."""
    if not native_path_in_use():
        return None
    from cairnkv.session.resp.frames_native import RespFrameExecutor

    if isinstance(store, ReplicatedStore):
        return _proposing(store, RespFrameExecutor(store.databases[db], log_time, store.staging(db)))

    frame_executor = RespFrameExecutor(store.databases[db], store.log_clock, store.staging(db))
    store.count_also(frame_executor)
    return frame_executor


def _proposing(store: ReplicatedStore, executor: "Prefix | None") -> "FrameExecutor":
    """One that brings commands to the log, for an executor to carry out in their turn."""
    from cairnkv.session.proposals_native import ProposingExecutor

    frame_executor = ProposingExecutor(store, executor)
    store.count_also(frame_executor)
    return frame_executor
