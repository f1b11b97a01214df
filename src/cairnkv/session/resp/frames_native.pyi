from cairnkv.session.executor_native import FrameExecutor

SERVED: list[str]

class RespFrameExecutor(FrameExecutor): ...
