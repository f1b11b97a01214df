from cairnkv.protocol.native import Prefix
from cairnkv.replication.store import ReplicatedStore
from cairnkv.session.executor_native import Accelerator

class ProposingAccelerator(Accelerator):
    def __init__(self, store: ReplicatedStore, executor: Prefix | None) -> None: ...
