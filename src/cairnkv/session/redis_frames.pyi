from cairnkv.session.accelerator import Accelerator

SERVED: tuple[str, ...]

class RedisAccelerator(Accelerator): ...
