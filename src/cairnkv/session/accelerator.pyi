from cairnkv.keyspace import Keyspace
from cairnkv.store import Clock

SERVED: dict[str, int]

class Accelerator:
    commands: int
    writes: int
    def __init__(self, keyspace: Keyspace, clock: Clock) -> None: ...
    def run(
        self,
        buffer: bytearray,
        start: int,
        *,
        width: int,
        statuses: tuple[int, int],
        string_max: int,
        frame_max: int,
    ) -> int: ...
    def output(self) -> bytes: ...
