from cairnkv.protocol.native import Prefix
from cairnkv.replication.store import ReplicatedStore
from cairnkv.session.executor_native import FrameExecutor

class ProposingExecutor(FrameExecutor):
    def __init__(self, store: ReplicatedStore, executor: Prefix | None) -> None: ...
