from cairnkv.session.accelerator import Accelerator

SERVED: dict[str, int]

class ArticleAccelerator(Accelerator): ...
