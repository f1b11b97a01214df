from cairnkv.session.executor_native import Accelerator

SERVED: dict[str, int]

class ArticleAccelerator(Accelerator): ...
