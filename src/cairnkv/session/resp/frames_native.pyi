from cairnkv.session.executor_native import Accelerator

SERVED: tuple[str, ...]

class RedisAccelerator(Accelerator): ...
