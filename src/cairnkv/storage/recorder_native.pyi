from collections.abc import Callable, Sequence

from cairnkv.storage.base import Effect

def fill(
    put: Callable[[bytes, bytes], None],
    delete: Callable[[bytes], None],
    effects: Sequence[Effect],
    longest: int,
    left: int,
) -> int: ...
