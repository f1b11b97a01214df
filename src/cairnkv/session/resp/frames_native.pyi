from cairnkv.session.executor_native import FrameExecutor

SERVED: tuple[str, ...]

class RespFrameExecutor(FrameExecutor): ...
