"""Executors of the native path: one class for each protocol, chosen by the store for a database.

Out of scope: their work (`executor_native`), and when a conversation may use them
(`Conversation.native_path_settings`).
"""

from typing import TYPE_CHECKING

from cairnkv.engine import Database
from cairnkv.installation import native_path_in_use
from cairnkv.store import Clock, Store

if TYPE_CHECKING:
    from cairnkv.session.executor_native import FrameExecutor


def native_frame_executor(store: Store) -> "FrameExecutor | None":
    """Return a new executor for the native protocol; None if the native path is not in use."""
    if not native_path_in_use():
        return None
    from cairnkv.session.native.frames_native import NativeFrameExecutor

    return store.new_frame_executor(_Factory(NativeFrameExecutor, is_log_format=True), 0)


def resp_frame_executor(store: Store, db: int) -> "FrameExecutor | None":
    """Return a new executor for the Redis protocol and a database; None if the native path is not in use."""
    if not native_path_in_use():
        return None
    from cairnkv.session.resp.frames_native import RespFrameExecutor

    return store.new_frame_executor(_Factory(RespFrameExecutor), db)


class _Factory:
    """The `ExecutorFactory` of one protocol."""

    def __init__(self, executor: "type[FrameExecutor]", *, is_log_format: bool = False) -> None:
        self._executor = executor
        self.is_log_format = is_log_format

    def executing(self, database: Database, clock: Clock, collector: object) -> "FrameExecutor":
        return self._executor(database, clock, collector)

    def proposing(self, store: Store, executor: "FrameExecutor") -> "FrameExecutor":
        from cairnkv.session.proposals_native import ProposingExecutor

        return ProposingExecutor(store, executor)
