from cairnkv.session.executor_native import FrameExecutor

SERVED: dict[str, int]
NEEDED: list[tuple[str, ...]]

class NativeFrameExecutor(FrameExecutor): ...
