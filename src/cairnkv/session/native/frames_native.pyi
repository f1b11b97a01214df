from cairnkv.session.executor_native import FrameExecutor

SERVED: dict[str, int]

class NativeFrameExecutor(FrameExecutor): ...
