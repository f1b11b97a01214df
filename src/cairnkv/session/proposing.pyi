from cairnkv.session.accelerator import Accelerator
from cairnkv.store.replicated import ReplicatedStore
from cairnkv.wire.article import Prefix

class ProposingAccelerator(Accelerator):
    def __init__(self, store: ReplicatedStore, executor: Prefix | None) -> None: ...
