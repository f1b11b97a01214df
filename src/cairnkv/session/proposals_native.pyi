from cairnkv.session.executor_native import FrameExecutor
from cairnkv.store import Store

class ProposingExecutor(FrameExecutor):
    def __init__(self, store: Store, executor: FrameExecutor) -> None: ...
